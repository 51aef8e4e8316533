/**
 * `npm run picture`, looked at in headless Chromium: no text outgrows its box, each arrow begins and ends at one, nothing lies outside. And
 * on what a run on the twin leaves: real engine, plugin, OpenSSH, agent, Salt. Issue 6 item 5.
 */
import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { AudioDomain, GuiDomain, Host, PciAttachment } from "guidomain";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { startTwin } from "../lab/twin/twin.ts";
import { parseAudioDomain } from "../src/model/audioDomain.ts";
import { parsePciAttachment } from "../src/model/pciAttachment.ts";
import type { Described } from "../src/report/described.ts";
import { pictureOf } from "../src/report/picture.ts";
import { type StateResource, sceneOf } from "../src/report/scene.ts";
import { guiDomain, OFFICE, OFFICE_STATE } from "../src/report/testing.ts";
import { hostOf, ROOT, scratch, testStack } from "./harness.ts";

const folder = scratch("picture");
const BROWSER = "chromium";
const hasBrowser = spawnSync(BROWSER, ["--version"]).status === 0;
if (!hasBrowser) console.log("skipped: Chromium is not on this machine, so nobody looks at the pictures");
const looked = hasBrowser ? test : test.skip;

interface Seen {
  boxes: { id: string; text: string; colour: string }[];
  arrows: number;
  faults: string[];
}

/** Runs in the browser: what is drawn, and what is wrong with the drawing. A quarter of a pixel is rounding. */
const LOOK = `
const svg = document.querySelector("svg"), faults = [], near = (a, b) => Math.abs(a - b) < 0.25;
const all = (what, from = svg) => [...from.querySelectorAll(what)];
const boxes = all("g.box"), frame = (box) => box.querySelector("rect").getBBox();
for (const box of boxes) {
  const { x, y, width, height } = frame(box);
  for (const text of all("text", box)) {
    const t = text.getBBox();
    if (t.x < x || t.x + t.width > x + width || t.y < y - 0.25 || t.y + t.height > y + height + 0.25)
      faults.push("outside its box: " + text.textContent);
  }
  const host = box.closest("g.host").querySelector("rect").getBBox();
  if (x < host.x || x + width > host.x + host.width || y + height > host.y + host.height) faults.push("outside its host: " + box.dataset.id);
}
const { width, height } = svg.viewBox.baseVal;
for (const text of all("text")) {
  const t = text.getBBox();
  if (t.x + t.width > width || t.y + t.height > height) faults.push("outside the picture: " + text.textContent);
}
const arrows = all("g.host path.arrow");
for (const arrow of arrows) {
  const length = arrow.getTotalLength();
  for (const at of [0, length]) {
    const p = arrow.getPointAtLength(at);
    const touches = boxes.some((box) => {
      const f = frame(box);
      return p.y >= f.y && p.y <= f.y + f.height && (near(p.x, f.x) || near(p.x, f.x + f.width));
    });
    if (!touches) faults.push("at no box: " + arrow.textContent);
  }
  if (getComputedStyle(arrow).stroke === "none") faults.push("not to be seen: " + arrow.textContent);
}
const seen = boxes.map((box) => ({
  id: box.dataset.id,
  text: all("text", box).map((t) => t.firstChild.data).join(" "),
  colour: getComputedStyle(box.querySelector("circle")).fill,
}));
document.documentElement.textContent = JSON.stringify({ boxes: seen, arrows: arrows.length, faults });`;

function look(svg: string): Seen {
  const page = `${folder}/page.html`;
  writeFileSync(
    page,
    `<!doctype html><meta charset="utf-8"><body>${svg.replace(/^<\?xml.*\n/, "")}<script>${LOOK}</script>`,
  );
  const { status, stdout, stderr } = spawnSync(
    BROWSER,
    [
      "--headless",
      "--no-sandbox",
      "--disable-gpu",
      `--user-data-dir=${folder}/browser`,
      "--dump-dom",
      `file://${page}`,
    ],
    { encoding: "utf8", timeout: 120_000 },
  );
  assert.is(status, 0, stderr);
  const text = stdout
    .replace(/^<!DOCTYPE html>/i, "")
    .trim()
    .replace(/^<html[^>]*>/, "")
    .replace(/<\/html>\s*$/, "");
  const plain = text.replace(
    /&(amp|lt|gt);/g,
    (_, name: string) => ({ amp: "&", lt: "<", gt: ">" })[name] ?? "",
  );
  return JSON.parse(plain) as Seen;
}

looked("four people at one machine: all is where it belongs", () => {
  const { boxes, arrows, faults } = look(pictureOf(sceneOf("office", OFFICE, OFFICE_STATE)));
  assert.equal(faults, []);
  assert.ok(arrows > 25);
  const of = (id: string) => boxes.find((box) => box.id === id);
  assert.match(of("domain sys-gui")?.text ?? "", /now: mode xephyr, ready/);
  assert.match(of("domain gui-bob")?.text ?? "", /vault: qubes\.Backup/);
  assert.is(of("domain sys-gui")?.colour, "rgb(26, 127, 55)");
  assert.is(of("domain sys-audio")?.colour, "rgb(207, 34, 46)");
});

looked("the widest letters and the longest names stay in their boxes", () => {
  const wide = "W".repeat(31);
  const described: Described = {
    ...OFFICE,
    domains: [guiDomain(wide, { clients: [`${"M".repeat(30)}1`, "work"], viewers: [], level: "user" })],
    accesses: [],
  };
  const odd = [
    {
      type: "guidomain:index:GuiDomain",
      outputs: {
        host: "t14",
        qube: wide,
        mode: "xephyr",
        state: "failed",
        attempts: [
          { mode: "gpu", verdict: "failed", reason: `<script>alert(1)</script> & ${"W".repeat(200)}` },
        ],
      },
    },
  ];
  const { boxes, faults } = look(pictureOf(sceneOf("<b>", described, odd)));
  assert.equal(faults, []);
  assert.match(boxes.find(({ id }) => id === `domain ${wide}`)?.text ?? "", /<script>alert/);
});

looked("the look sees a text that is too wide, and an arrow that leads nowhere", () => {
  const svg = pictureOf(sceneOf("office", OFFICE, OFFICE_STATE));
  const { faults } = look(
    svg.replace(/level operator/, "level operator ".repeat(9)).replace(/(class="arrow [^>]* d="M)\d+/, "$13"),
  );
  assert.ok(faults.some((fault) => fault.startsWith("outside its box: level operator")));
  assert.ok(faults.some((fault) => fault.startsWith("at no box:")));
});

test("of the stack lab, by the command that a person types", () => {
  const out = `${folder}/lab.svg`;
  const { status, stderr } = spawnSync(process.execPath, ["scripts/picture.ts", "lab", "--out", out], {
    cwd: ROOT,
    encoding: "utf8",
  });
  assert.is(status, 0, stderr);
  assert.match(readFileSync(out, "utf8"), /data-id="domain sys-gui"/);
  const wrong = spawnSync(process.execPath, ["scripts/picture.ts", "lab", "--colour"], {
    cwd: ROOT,
    encoding: "utf8",
  });
  assert.is(wrong.status, 2);
  assert.match(wrong.stderr, /^Usage/);
});

test("what a run leaves is what the picture says", async () => {
  const twin = await startTwin({ dir: `${folder}/twin` });
  const usb = { class: "usb" };
  const stack = await testStack("picture", folder, { lab: hostOf(twin) }, async () => {
    const host = new Host("lab");
    new GuiDomain("sys-gui", {
      host,
      display: ["gpu", "xephyr"],
      clients: ["personal"],
      gpu: { vendor: "ffff" },
      onFallback: "accept",
    });
    new AudioDomain("sys-audio", { host, clients: ["personal"] });
    new PciAttachment("usb", { host, qube: "vault", device: usb });
    return {};
  });
  const up = await stack.up();
  assert.ok(up.ok, up.output);
  const { resources } = (await stack.stack.exportStack()).deployment as { resources: StateResource[] };
  const on = { host: "lab" };
  const audio = parseAudioDomain("sys-audio", { ...on, clients: ["personal"] });
  const attachment = parsePciAttachment({ ...on, qube: "vault", device: usb });
  assert.ok("audio" in audio && "attachment" in attachment);
  const described: Described = {
    hosts: ["lab"],
    domains: [
      guiDomain("sys-gui", {
        ...on,
        display: ["gpu", "xephyr"],
        clients: ["personal"],
        gpu: { vendor: "ffff" },
      }),
    ],
    audios: [audio.audio],
    attachments: [attachment.attachment],
    accesses: [],
  };
  const [scene] = sceneOf("picture", described, resources).hosts;
  assert.is(scene?.facts, "Qubes R4.3, Xen 4.19.4");
  const box = (id: string) => scene?.boxes.find((each) => each.id === id);
  assert.match(box("domain sys-gui")?.lines.join() ?? "", /now: mode xephyr, ready,gpu refused: /);
  assert.is(box("domain sys-audio")?.mood, "good");
  const given = scene?.links.filter(({ kind, loose }) => kind === "given" && !loose) ?? [];
  for (const qube of ["sys-audio", "vault"]) {
    const ports = given.flatMap(({ from, to }) =>
      to === `domain ${qube}` ? [from.replace("device ", "")] : [],
    );
    const said = await Promise.all(ports.map((port) => twin.exec(`qvm-pci info dom0:${port}`)));
    const ids = said.map(({ stdout }) => /device ID: *(\S+)/.exec(stdout)?.[1]);
    const { qubes } = (await twin.dump()).qubes as { qubes: Record<string, { pci: unknown }> };
    const pci = JSON.stringify(qubes[qube]?.pci);
    assert.ok(ids.length > 0, qube);
    for (const id of ids) assert.match(pci, `${id}`);
    assert.is(new Set(pci.match(/0x\w+:0x\w+::p/g)).size, ids.length, pci);
  }
});

test.run();
