/** What a picture shows: a stack's hosts with their domains, devices, and who may ask whom. Pure. Issue 6 item 5. */
import * as v from "valibot";
import type { AudioDomain } from "../model/audioDomain.ts";
import type { GuiDomain } from "../model/guiDomain.ts";
import type { Rung } from "../model/modes.ts";
import type { PciAttachment } from "../model/pciAttachment.ts";
import type { Selector } from "../pci/selector.ts";
import { asksOf } from "./calls.ts";
import { type Described, followers, ofHost, worldOf } from "./described.ts";

export type Column = "devices" | "host" | "domains" | "clients";
export type Mood = "plain" | "good" | "waits" | "bad";

/** A line of a box, from which an arrow may go. */
export interface Row {
  text: string;
  to?: string;
}
export interface Box {
  id: string;
  kind: "device" | "dom0" | "gui" | "audio" | "qube" | "clients";
  column: Column;
  title: string;
  mood: Mood;
  lines: string[];
  /** What may be asked of others. */
  calls: Row[];
}
export interface Link {
  from: string;
  to: string;
  kind: "given" | "shows" | "plays" | "input";
  /** Only described so far, or not in force. */
  loose: boolean;
}
export interface HostScene {
  name: string;
  /** "Qubes R4.3, Xen 4.19.4"; nothing where no run has looked at it. */
  facts: string;
  boxes: Box[];
  links: Link[];
}
export interface Scene {
  stack: string;
  hosts: HostScene[];
}

const Attached = v.object({ port: v.string(), name: v.optional(v.nullable(v.string())) });
/** What a run has found, of an exported state's outputs; what is missing or of another form is not known. */
const Outputs = v.object({
  host: v.optional(v.string()),
  name: v.optional(v.string()),
  qube: v.optional(v.string()),
  mode: v.fallback(v.optional(v.string()), undefined),
  state: v.fallback(v.optional(v.string()), undefined),
  sound: v.fallback(v.optional(v.string()), undefined),
  attempts: v.fallback(v.array(v.object({ mode: v.string(), verdict: v.string(), reason: v.string() })), []),
  pending: v.fallback(v.array(v.object({ kind: v.string() })), []),
  attached: v.fallback(v.array(Attached), []),
  settings: v.fallback(
    v.object({ devices: v.optional(v.record(v.string(), v.object({ port: v.string() }))) }),
    {},
  ),
  release: v.fallback(v.optional(v.string()), undefined),
  xen: v.fallback(v.optional(v.string()), undefined),
});
type Outputs = v.InferOutput<typeof Outputs>;

/** A resource of an exported state; only what is read here. */
export interface StateResource {
  type?: unknown;
  outputs?: unknown;
}

/** What the last run left of one resource; null: none has made it. */
type Found = (type: string, host: string, qube: string) => Outputs | null;

function finder(state: readonly StateResource[]): Found {
  const all = state.flatMap(({ type, outputs }) => {
    const parsed = v.safeParse(Outputs, outputs);
    return typeof type === "string" && parsed.success ? [{ type, outputs: parsed.output }] : [];
  });
  return (type, host, qube) =>
    all.find(
      ({ type: is, outputs }) =>
        is === `guidomain:index:${type}` &&
        (type === "Host" ? outputs.name === host : outputs.host === host && outputs.qube === qube),
    )?.outputs ?? null;
}

/** `state`: the resources of the stack as it was exported; empty where nothing has been brought up yet. */
export function sceneOf(stack: string, described: Described, state: readonly StateResource[]): Scene {
  const found = finder(state);
  return { stack, hosts: described.hosts.map((host) => hostScene(host, ofHost(described, host), found)) };
}

const MOODS: Record<string, Mood> = {
  ready: "good",
  inUse: "good",
  staged: "waits",
  unverified: "waits",
  fallback: "waits",
  rescued: "waits",
  drifted: "bad",
  missing: "bad",
  failed: "bad",
};
const moodOf = (outputs: Outputs | null): Mood => MOODS[outputs?.state ?? ""] ?? "plain";

const domain = (qube: string) => `domain ${qube}`;
const DOM0 = domain("dom0");
const SCREEN = "device screen";
const clientsId = (gui: string) => `clients ${gui}`;

function hostScene(name: string, described: Described, found: Found): HostScene {
  const { domains, audios, attachments } = described;
  const world = worldOf(described, (gui) => rungIn(gui, found("GuiDomain", name, gui.qube)));
  const scene = new Builder();
  scene.box({ id: DOM0, kind: "dom0", column: "host", title: "dom0" });
  for (const gui of domains) addGuiDomain(scene, gui, found("GuiDomain", name, gui.qube), domains.length);
  for (const audio of audios) addAudioDomain(scene, audio, found("AudioDomain", name, audio.qube));
  for (const one of attachments) addAttachment(scene, one, found("PciAttachment", name, one.qube));
  const shownBy = new Map(
    domains.flatMap(({ qube, clients }) =>
      (clients === "default" ? [followers(qube), `dvm-of-${qube}`] : clients).map((client) => [client, qube]),
    ),
  );
  // Whom rules of one's own name.
  for (const qube of Object.keys(world.facts))
    if (!ALWAYS.has(qube) && !shownBy.has(qube)) scene.qube(qube, "");
  const placeOf = (qube: string) => {
    if (scene.has(domain(qube))) return domain(qube);
    const gui = shownBy.get(qube);
    return gui === undefined ? null : clientsId(gui);
  };
  for (const { from, to, allowed, asked } of asksOf(world, placeOf)) {
    const words = [...allowed, ...asked.map((group) => `${group} (a person is asked)`)];
    scene.call(from, to, words);
  }
  const host = found("Host", name, name);
  return {
    name,
    facts: [host?.release && `Qubes ${host.release}`, host?.xen && `Xen ${host.xen}`]
      .filter(Boolean)
      .join(", "),
    ...scene.done(),
  };
}

/** Of every host, and in the picture only where something is said of them. */
const ALWAYS = new Set(["dom0", "sys-net", "sys-usb", "fedora-43-xfce"]);

/** The mode that is in force, else the best. */
function rungIn({ display }: GuiDomain, outputs: Outputs | null): Rung {
  const [first = "xephyr"] = display;
  return display.find((rung) => rung === outputs?.mode) ?? first;
}

function addGuiDomain(scene: Builder, gui: GuiDomain, outputs: Outputs | null, ofHowMany: number): void {
  const { qube, display, level, clients, viewers, input } = gui;
  const id = domain(qube);
  const [first = "xephyr"] = display;
  const mode = outputs?.mode;
  const isUp = mode !== undefined && mode !== "none" && mode !== "dom0";
  scene.box({
    id,
    kind: "gui",
    column: "domains",
    title: qube,
    mood: moodOf(outputs),
    lines: [
      `GUI domain, display: ${display.join(", else ")}`,
      ...(outputs ? [`now: mode ${mode ?? "none"}, ${outputs.state ?? "unknown"}`] : ["not brought up yet"]),
      ...(level ? [`level ${level}`] : []),
      ...attemptsOf(outputs),
    ],
  });
  scene.box({
    id: clientsId(qube),
    kind: "clients",
    column: "clients",
    title: `qubes of ${qube}`,
    lines:
      clients === "default"
        ? ["every qube without a GUI domain of its own"]
        : clients.length
          ? clients
          : ["none"],
  });
  scene.link({ from: id, to: clientsId(qube), kind: "shows", loose: !isUp });
  const isHosts = mode === "xephyr" || mode === "dom0" || mode === "none";
  if (display.some((rung) => rung === "gpu" || rung === "xephyr")) {
    scene.box({
      id: SCREEN,
      kind: "device",
      column: "devices",
      title: "screen",
      lines: ofHowMany > 1 ? ["the machine's own; one at a time"] : ["the machine's own"],
    });
    if (mode === "gpu" || (mode === undefined && first === "gpu"))
      scene.link({ from: SCREEN, to: id, kind: "given", loose: mode !== "gpu" });
    else scene.link({ from: SCREEN, to: DOM0, kind: "given", loose: !isHosts });
    if (mode === "xephyr" || (mode === undefined && first === "xephyr"))
      scene.link({ from: DOM0, to: id, kind: "shows", loose: mode === undefined });
  }
  const devices = Object.entries(outputs?.settings.devices ?? {});
  for (const [identity, { port }] of devices) scene.given(`${port}`, [identity], id, mode !== "gpu");
  if (devices.length === 0 && display.includes("gpu"))
    scene.given(
      `display of ${qube}`,
      [gui.gpu ? selectorWords(gui.gpu) : "the display that the firmware lit"],
      id,
      true,
    );
  for (const viewer of viewers) scene.qube(viewer, "reaches the remote display");
  for (const usb of input?.usb ?? []) {
    scene.qube(usb.qube, "has keyboards and mice behind it");
    scene.link({ from: domain(usb.qube), to: mode === "gpu" ? id : DOM0, kind: "input", loose: !isUp });
  }
}

function attemptsOf(outputs: Outputs | null): string[] {
  return (outputs?.attempts ?? [])
    .filter(({ verdict }) => verdict !== "ok" && verdict !== "skipped")
    .map(({ mode, verdict, reason }) => `${mode} ${verdict}: ${reason}`);
}

function addAudioDomain(scene: Builder, audio: AudioDomain, outputs: Outputs | null): void {
  const { qube, clients, devices, usb } = audio;
  const id = domain(qube);
  const plays = outputs?.sound === qube;
  const lines = [
    "audio domain",
    ...(outputs
      ? [`now: sound in ${outputs.sound || "no qube"}, ${outputs.state ?? "unknown"}`]
      : ["not brought up yet"]),
    clients === "default"
      ? "plays every qube without one of its own"
      : `plays ${clients.join(", ") || "nobody"}`,
    ...attemptsOf(outputs),
  ];
  if (scene.has(id)) scene.add(id, lines);
  else scene.box({ id, kind: "audio", column: "domains", title: qube, mood: moodOf(outputs), lines });
  const attached = outputs?.attached ?? [];
  for (const { port, name } of attached) scene.given(port, [name ?? "sound device"], id, !plays);
  if (attached.length === 0)
    for (const device of devices) scene.given(`sound of ${qube}`, [selectorWords(device)], id, true);
  for (const one of usb) {
    scene.qube(one.qube, `lends USB ${one.vendor}:${one.device}`);
    scene.link({ from: domain(one.qube), to: id, kind: "given", loose: !plays });
  }
  scene.plays(qube, clients, !plays);
}

function addAttachment(scene: Builder, { qube, devices }: PciAttachment, outputs: Outputs | null): void {
  scene.qube(qube, "has devices of its own");
  const attached = outputs?.attached ?? [];
  for (const { port, name } of attached)
    scene.given(port, [name ?? "PCI device"], domain(qube), outputs?.state !== "ready");
  if (attached.length === 0)
    for (const device of devices)
      scene.given(`device of ${qube}`, [selectorWords(device)], domain(qube), true);
}

/** "class display, vendor 8086" */
const selectorWords = (selector: Selector): string =>
  Object.entries(selector)
    .map(([part, value]) => `${part} ${value}`)
    .join(", ");

class Builder {
  readonly #boxes = new Map<string, Box>();
  readonly #links: Link[] = [];
  readonly #played: { qube: string; clients: "default" | string[]; loose: boolean }[] = [];

  has = (id: string) => this.#boxes.has(id);

  box(box: Pick<Box, "id" | "kind" | "column" | "title"> & Partial<Box>): void {
    if (!this.has(box.id)) this.#boxes.set(box.id, { mood: "plain", lines: [], calls: [], ...box });
  }

  add(id: string, lines: string[]): void {
    const box = this.#boxes.get(id);
    if (box) box.lines = [...new Set([...box.lines, ...lines])];
  }

  /** Another qube of the host, and why it is in the picture. */
  qube(name: string, why: string): void {
    this.box({ id: domain(name), kind: "qube", column: "host", title: name });
    if (why) this.add(domain(name), [why]);
  }

  given(title: string, lines: string[], to: string, loose: boolean): void {
    const id = `device ${title}${loose ? ` ${lines.join()}` : ""}`;
    this.box({ id, kind: "device", column: "devices", title, lines });
    this.link({ from: id, to, kind: "given", loose });
  }

  plays(qube: string, clients: "default" | string[], loose: boolean): void {
    this.#played.push({ qube, clients, loose });
  }

  link(link: Link): void {
    const same = this.#links.find(
      ({ from, to, kind }) => from === link.from && to === link.to && kind === link.kind,
    );
    if (same) same.loose &&= link.loose;
    else this.#links.push(link);
  }

  call(from: string, to: string, words: string[]): void {
    const target = this.#boxes.get(to);
    if (words.length && target)
      this.#boxes.get(from)?.calls.push({ text: `${target.title}: ${words.join("; ")}`, to });
  }

  done(): Pick<HostScene, "boxes" | "links"> {
    for (const { qube, clients, loose } of this.#played)
      for (const box of this.#boxes.values())
        if (
          box.kind === "clients" &&
          (clients === "default" || box.lines.some((line) => clients.includes(line)))
        )
          this.link({ from: domain(qube), to: box.id, kind: "plays", loose });
    return { boxes: [...this.#boxes.values()], links: this.#links };
  }
}
