/**
 * A scene as SVG: a panel a host, in it four columns (devices, dom0 and what serves, domains, their qubes) and the arrows between. No text
 * outgrows its box, no box its neighbour; `tests/picture.test.ts` measures that in a browser. Pure.
 */
import type { Box, Column, HostScene, Link, Scene } from "./scene.ts";

/** Pixels. */
const COLUMNS: Record<Column, { x: number; width: number }> = {
  devices: { x: 24, width: 216 },
  host: { x: 340, width: 250 },
  domains: { x: 690, width: 330 },
  clients: { x: 1120, width: 250 },
};
const WIDTH = 1394;
const PAD = 12;
const LINE = 17;
const HEAD = 30;
const GAP = 26;
const EM = 12;
/** Of the widest usual sans serif (DejaVu Sans): at most so many ems. */
const emsOf = (letter: string): number =>
  letter > "~" || "WMm@%".includes(letter) ? 1 : /[A-Zw&]/.test(letter) ? 0.82 : 0.65;
const BOLD = 1.12;

const escape = (text: string) => clean(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
/** What a host prints is data: nothing that XML does not take, no control characters. */
const clean = (text: string) =>
  text
    .replace(/[^\t\n\r\u{20}-\u{D7FF}\u{E000}-\u{FFFD}\u{10000}-\u{10FFFF}]|[\u{7F}-\u{9F}]/gu, "")
    .replace(/\s+/g, " ");

/** Lines of at most so many ems: broken at blanks where there are some; a word that is too long is broken anywhere. */
export function wrap(text: string, ems: number): string[] {
  const lines: string[] = [];
  let line = "";
  let room = ems;
  const put = (letters: readonly string[], size: number) => {
    line += letters.join("");
    room -= size;
  };
  const next = () => {
    if (line) lines.push(line);
    line = "";
    room = ems;
  };
  for (const word of clean(text).trim().split(" ")) {
    const letters = [...word];
    const size = letters.reduce((sum, letter) => sum + emsOf(letter), 0);
    if (line && size + emsOf(" ") > room) next();
    else if (line) put([" "], emsOf(" "));
    if (size <= room) put(letters, size);
    else
      for (const letter of letters) {
        if (emsOf(letter) > room) next();
        put([letter], emsOf(letter));
      }
  }
  next();
  return lines;
}

interface Placed {
  box: Box;
  x: number;
  y: number;
  width: number;
  height: number;
  lines: { text: string; y: number; call: boolean }[];
  /** Where the arrow of each call begins. */
  starts: { to: string; y: number; title: string }[];
}

function place(box: Box, y: number): Placed {
  const { x, width } = COLUMNS[box.column];
  const ems = (width - 2 * PAD) / EM;
  const lines: Placed["lines"] = [];
  const starts: Placed["starts"] = [];
  let at = y + HEAD + LINE;
  const add = (text: string, call: boolean) => {
    for (const line of wrap(text, ems)) {
      lines.push({ text: line, y: at, call });
      at += LINE;
    }
  };
  for (const line of box.lines) add(line, false);
  for (const { text, to } of box.calls) {
    if (to !== undefined) starts.push({ to, y: at - 4, title: `${box.title} may ask ${text}` });
    add(`→ ${text}`, true);
  }
  return { box, x, y, width, height: at - y - LINE + PAD, lines, starts };
}

function placeAll({ boxes }: HostScene, top: number): { placed: Placed[]; bottom: number } {
  const placed: Placed[] = [];
  let bottom = top;
  for (const column of Object.keys(COLUMNS)) {
    let y = top;
    for (const box of boxes.filter((each) => each.column === column)) {
      const one = place(box, y);
      placed.push(one);
      y += one.height + GAP;
    }
    bottom = Math.max(bottom, y - GAP);
  }
  return { placed, bottom };
}

type Kind = Link["kind"] | "call";

/** From a side of one box to a side of another; within a column round its left side. */
function arrow(
  from: Placed,
  to: Placed,
  start: number,
  end: number,
  kind: Kind,
  title: string,
  loose = false,
): string {
  const right = to.x > from.x;
  const same = to.x === from.x;
  const [x1, x2] = right ? [from.x + from.width, to.x] : [from.x, same ? to.x : to.x + to.width];
  const bend = same ? -46 : Math.max(40, Math.abs(x2 - x1) / 2) * (right ? 1 : -1);
  const back = same ? bend : -bend;
  return `<path class="arrow ${kind}${loose ? " loose" : ""}" marker-end="url(#${kind})" d="M${x1} ${start}C${x1 + bend} ${start} ${x2 + back} ${end} ${x2} ${end}"><title>${escape(title)}</title></path>`;
}

const VERBS: Record<Link["kind"], string> = {
  given: "belongs to",
  shows: "shows the windows of",
  plays: "plays the sound of",
  input: "sends keyboards and mice to",
};

function arrows(scene: HostScene, placed: readonly Placed[]): string[] {
  const byId = new Map(placed.map((each) => [each.box.id, each]));
  /** Each arrow that comes in at a side has a place of its own there. */
  const taken = new Map<string, number>();
  const endOf = (from: Placed, to: Placed) => {
    const side = `${to.box.id} ${from.x < to.x}`;
    const number = taken.get(side) ?? 0;
    taken.set(side, number + 1);
    return Math.min(to.y + 12 + number * 9, to.y + to.height - 4);
  };
  const links = scene.links.flatMap(({ from, to, kind, loose }) => {
    const [a, b] = [byId.get(from), byId.get(to)];
    if (!a || !b) return [];
    const title = `${a.box.title} ${VERBS[kind]} ${b.box.title}${loose ? " (described, not in force)" : ""}`;
    return [arrow(a, b, a.y + HEAD / 2, endOf(a, b), kind, title, loose)];
  });
  const calls = placed.flatMap((a) =>
    a.starts.flatMap(({ to, y, title }) => {
      const b = byId.get(to);
      return b ? [arrow(a, b, y, endOf(a, b), "call", title)] : [];
    }),
  );
  return [...links, ...calls];
}

function boxSvg({ box, x, y, width, height, lines }: Placed): string {
  // The dot has the end of this line, and "…" may come.
  const [title = "", ...rest] = wrap(box.title, (width - 2 * PAD - 26) / (EM * BOLD));
  return [
    `<g class="box ${box.kind} ${box.mood}" data-id="${escape(box.id)}">`,
    `<rect x="${x}" y="${y}" width="${width}" height="${height}" rx="7"/>`,
    `<circle cx="${x + width - PAD - 2}" cy="${y + HEAD / 2}" r="5"/>`,
    `<text class="title" x="${x + PAD}" y="${y + 20}">${escape(title)}${rest.length ? "…" : ""}<title>${escape(box.title)}</title></text>`,
    ...lines.map(
      (line) =>
        `<text${line.call ? ' class="call"' : ""} x="${x + PAD}" y="${line.y - 4}">${escape(line.text)}</text>`,
    ),
    "</g>",
  ].join("\n");
}

const COLOURS: Record<Kind, string> = {
  given: "#7a4b00",
  shows: "#1558b0",
  plays: "#7b1fa2",
  input: "#00695c",
  call: "#9aa0a6",
};
const LEGEND: Record<Kind, string> = {
  given: "is given to",
  shows: "shows",
  plays: "plays",
  input: "keyboards and mice",
  call: "may ask (what this stack allows)",
};

const STYLE = `
svg{background:#fff;font:12px "DejaVu Sans",Verdana,sans-serif;fill:#202124}
.host>rect{fill:#f6f8fa;stroke:#d0d7de}
.host>text{font-size:16px;font-weight:bold}
.host>text.facts{font-size:12px;font-weight:normal;fill:#57606a}
.box>rect{fill:#fff;stroke:#57606a}
.box.gui>rect{stroke:#1558b0;stroke-width:2}.box.audio>rect{stroke:#7b1fa2;stroke-width:2}
.box.dom0>rect{fill:#eef1f4;stroke-width:2}.box.device>rect{fill:#fff8ec;stroke:#7a4b00}
.box>circle{fill:none}.good>circle{fill:#1a7f37}.waits>circle{fill:#d4a72c}.bad>circle{fill:#cf222e}
.title{font-weight:bold}.call{fill:#57606a}
.arrow{fill:none;stroke-width:1.6}.loose{stroke-dasharray:5 4}
${Object.entries(COLOURS)
  .map(([kind, colour]) => `.arrow.${kind}{stroke:${colour}}`)
  .join("")}
.arrow.call{stroke-width:1}`;

const markers = Object.entries(COLOURS)
  .map(
    ([kind, colour]) =>
      `<marker id="${kind}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z" fill="${colour}"/></marker>`,
  )
  .join("");

export function pictureOf({ stack, hosts }: Scene): string {
  let y = 60;
  const panels = hosts.map((host) => {
    const top = y + 48;
    const { placed, bottom } = placeAll(host, top);
    const height = bottom - y + 18;
    const panel = [
      `<g class="host" data-host="${escape(host.name)}">`,
      `<rect x="8" y="${y}" width="${WIDTH - 16}" height="${height}" rx="10"/>`,
      `<text x="24" y="${y + 28}">${escape(host.name)}<tspan class="facts" dx="14" font-size="12" font-weight="normal">${escape(host.facts)}</tspan></text>`,
      ...arrows(host, placed),
      ...placed.map(boxSvg),
      "</g>",
    ].join("\n");
    y += height + 24;
    return panel;
  });
  const legend = Object.entries(LEGEND).map(
    ([kind, text], i) =>
      `<path class="arrow ${kind}" marker-end="url(#${kind})" d="M${24 + i * 260} ${y + 10}h36"/><text x="${68 + i * 260}" y="${y + 14}">${text}</text>`,
  );
  const dots = [
    ["good", "ready"],
    ["waits", "waits, or not checked"],
    ["bad", "failed or changed since"],
  ].map(
    ([mood, text], i) =>
      `<g class="${mood}"><circle cx="${32 + i * 260}" cy="${y + 36}" r="5"/></g><text x="${68 + i * 260}" y="${y + 40}">${text}</text>`,
  );
  const loose = `<path class="arrow loose shows" d="M${24 + 3 * 260} ${y + 36}h36"/><text x="${68 + 3 * 260}" y="${y + 40}">described, not in force</text>`;
  const height = y + 60;
  return `<?xml version="1.0" encoding="UTF-8"?>
<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${height}" viewBox="0 0 ${WIDTH} ${height}" role="img" aria-labelledby="name what">
<title id="name">${escape(`Stack ${stack}`)}</title>
<desc id="what">${escape(`Hosts ${hosts.map(({ name }) => name).join(", ") || "none"}, their domains and devices, and what may ask what.`)}</desc>
<style>${STYLE}
.good>circle{fill:#1a7f37}.waits>circle{fill:#d4a72c}.bad>circle{fill:#cf222e}</style>
<defs>${markers}</defs>
<text x="24" y="38" font-size="20" font-weight="bold">${escape(`Stack ${stack}`)}</text>
${panels.join("\n")}
${legend.join("\n")}
${dots.join("\n")}
${loose}
</svg>
`;
}
