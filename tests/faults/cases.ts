/** The cases: every fault at every step and message of every transition, as a run without a fault has passed them. */
import type { Fault, Passed, World } from "../../lab/light/host.ts";
import type { Properties } from "../../src/provider/handler.ts";
import type { Resource } from "./deployment.ts";

export type Operation = "up" | "destroy" | "reboot";

/** A golden state is made from another one by a run without a fault. */
export interface Making {
  name: string;
  /** null: a fresh installation. */
  from: string | null;
  args: Properties | null;
  world?: World;
  /** What happens to it before. */
  happens?: string[];
  resource?: Resource;
}

export interface Transition {
  id: string;
  from: string;
  operation: Operation;
  resource?: Resource;
  /** What the program says; for "reboot", what the next `up` says. */
  args: Properties;
  /** What is wrong with the machine all along. */
  world?: World;
  /** What happens to it before, while nobody looks. */
  happens?: string[];
  /** What somebody does before the next `up`, so that it can end well. */
  mended?: string[];
  /** Golden states that the host may end in. */
  ends: string[];
  /** Only these steps get faults: the rest is another transition's. */
  only?: RegExp;
}

export interface Case {
  id: string;
  transition: Transition;
  fault: Fault | null;
  /** How it is counted in the summary. */
  kind: string;
}

const CLIENTS = { clients: ["personal"], reboot: "allowed" };
export const GPU: Properties = { display: ["gpu", "xephyr"], ...CLIENTS };
export const XEPHYR: Properties = { display: ["xephyr"], ...CLIENTS };
const OPERATOR: Properties = { ...XEPHYR, level: "operator" };
const ADMIN: Properties = { ...XEPHYR, level: "admin" };
const DOCK: Properties = { qube: "sys-net", device: { class: "audio", vendor: "8086" } };
const SOUND: Properties = { clients: ["personal"], limits: { checks: 2 } };
const INSIDE: Properties = { modes: ["vnc"] };
const MORE_INSIDE: Properties = { modes: ["xephyr"], packages: ["tool"] };
const LOGIN: Properties = { ...XEPHYR, login: { password: "one" } };
const OTHER_LOGIN: Properties = { ...XEPHYR, login: { password: "another" } };
const MORE: Properties = { ...GPU, clients: ["personal", "vault"] };
const MORE_XEPHYR: Properties = { ...XEPHYR, clients: ["personal", "vault"] };
/** What it may ask itself is what a level takes away, so nothing of this looks like somebody else's loss. */
export const LEVEL: Properties = { ...XEPHYR, level: "user" };

const fails = (faults: World): World => ({ faults });
const NO_DRM = fails({ guestNoDrm: true });
/** Texts that a start with devices ends in: qubes-cli-formats.md §5, as lab/twin/dom0/machine/faults.py has them. */
export const BROKEN = [
  "no-iommu",
  "no-reset",
  "stubdom-timeout",
  "guest-no-drm",
  "no-watchdog",
  "start-in-use",
  "start-not-assignable",
  "start-no-reset",
  "start-reset-failed",
  "start-libxl",
  "start-node-device",
  "start-no-iommu",
  "start-not-available",
  "start-memory",
  "start-agent",
  "start-prohibited",
];

/** What an audio domain can meet: it has nothing to do with displays and boots. */
const SOUNDLESS = [
  "no-iommu",
  "guest-no-sound",
  ...BROKEN.filter((name) => name === "stubdom-timeout" || name.startsWith("start-")),
];

export const MAKINGS: Making[] = [
  { name: "fresh", from: null, args: null },
  { name: "xephyr", from: "fresh", args: XEPHYR },
  { name: "gpu", from: "fresh", args: GPU },
  // What the ladder falls back to, from each start.
  { name: "fallback", from: "fresh", args: GPU, world: { iommu: false } },
  { name: "gpu-from-xephyr", from: "xephyr", args: GPU },
  { name: "xephyr-from-gpu", from: "gpu", args: XEPHYR },
  { name: "gpu-more", from: "gpu", args: MORE },
  { name: "xephyr-more", from: "xephyr", args: MORE_XEPHYR },
  { name: "xephyr-more-from-gpu", from: "gpu", args: MORE_XEPHYR },
  { name: "operator", from: "xephyr", args: OPERATOR },
  { name: "admin", from: "operator", args: ADMIN },
  { name: "operator-from-admin", from: "admin", args: OPERATOR },
  { name: "attached", from: "fresh", args: DOCK, resource: "PciAttachment" },
  { name: "sound", from: "fresh", args: SOUND, resource: "AudioDomain" },
  { name: "inside", from: "fresh", args: INSIDE, resource: "Template" },
  { name: "inside-more", from: "inside", args: MORE_INSIDE, resource: "Template" },
  { name: "login", from: "xephyr", args: LOGIN },
  { name: "login-other", from: "login", args: OTHER_LOGIN },
  // Somebody reaches dom0 through the GUI domain's qube; a level takes that away, unless a rule comes before it.
  { name: "reached", from: "xephyr", args: null, happens: ["reached-through-sys-gui"] },
  { name: "reached-user", from: "reached", args: LEVEL, happens: ["way-in-comes-first"] },
  // A disk that asks for its passphrase at each boot.
  { name: "luks", from: null, args: null, world: { passphrase: true } },
  { name: "luks-gpu", from: "luks", args: GPU },
  { name: "luks-fallback", from: "luks", args: GPU, world: { iommu: false } },
];

/** What is new of these: the rest of an apply is struck in others. */
const WITHIN = /^(inside|targets|apply\.(salt|read-back|verified)|confirm\.(ledger|settled))/;

export const TRANSITIONS: Transition[] = [
  { id: "first", from: "fresh", operation: "up", args: GPU, ends: ["fresh", "gpu", "fallback"] },
  { id: "first-xephyr", from: "fresh", operation: "up", args: XEPHYR, ends: ["fresh", "xephyr"] },
  {
    id: "xephyr-gpu",
    from: "xephyr",
    operation: "up",
    args: GPU,
    ends: ["xephyr", "gpu-from-xephyr", "fallback"],
  },
  { id: "gpu-xephyr", from: "gpu", operation: "up", args: XEPHYR, ends: ["gpu", "xephyr-from-gpu"] },
  {
    id: "update",
    from: "gpu",
    operation: "up",
    args: MORE,
    ends: ["gpu", "gpu-more", "xephyr-more-from-gpu"],
  },
  {
    id: "update-xephyr",
    from: "xephyr",
    operation: "up",
    args: MORE_XEPHYR,
    ends: ["xephyr", "xephyr-more"],
  },
  { id: "destroy", from: "gpu", operation: "destroy", args: GPU, ends: ["gpu", "fresh"] },
  { id: "destroy-xephyr", from: "xephyr", operation: "destroy", args: XEPHYR, ends: ["xephyr", "fresh"] },
  // Lines of files that others write to as well.
  {
    id: "raise",
    from: "operator",
    operation: "up",
    args: ADMIN,
    ends: ["operator", "admin"],
    only: /^(apply|salt|undo|confirm)\./,
  },
  {
    id: "lower",
    from: "admin",
    operation: "up",
    args: OPERATOR,
    ends: ["admin", "operator-from-admin"],
    only: /^(apply|salt|undo|confirm)\./,
  },
  // Long after: nobody is at it, and the machine boots.
  { id: "later", from: "gpu", operation: "reboot", args: GPU, ends: ["gpu", "rescued"] },
  {
    id: "attach",
    from: "fresh",
    operation: "up",
    resource: "PciAttachment",
    args: DOCK,
    ends: ["fresh", "attached"],
  },
  {
    id: "detach",
    from: "attached",
    operation: "destroy",
    resource: "PciAttachment",
    args: DOCK,
    ends: ["attached", "fresh"],
  },
  {
    id: "sound",
    from: "fresh",
    operation: "up",
    resource: "AudioDomain",
    args: SOUND,
    ends: ["fresh", "sound"],
  },
  {
    id: "silence",
    from: "sound",
    operation: "destroy",
    resource: "AudioDomain",
    args: SOUND,
    ends: ["sound", "fresh"],
  },
  // What is written inside a template, and inside a GUI domain; and a package that cannot be had.
  {
    id: "inside",
    from: "fresh",
    operation: "up",
    resource: "Template",
    args: INSIDE,
    ends: ["fresh", "inside"],
    only: WITHIN,
  },
  {
    id: "inside-more",
    from: "inside",
    operation: "up",
    resource: "Template",
    args: MORE_INSIDE,
    ends: ["inside", "inside-more"],
    only: WITHIN,
  },
  {
    id: "inside-gone",
    from: "inside",
    operation: "destroy",
    resource: "Template",
    args: INSIDE,
    ends: ["inside", "fresh"],
    only: WITHIN,
  },
  {
    id: "inside-fails",
    from: "fresh",
    operation: "up",
    resource: "Template",
    args: INSIDE,
    world: fails({ noPackages: ["x11vnc"] }),
    ends: ["fresh"],
    only: /^(inside|targets|undo)\./,
  },
  { id: "login", from: "xephyr", operation: "up", args: LOGIN, ends: ["xephyr", "login"], only: WITHIN },
  {
    id: "password",
    from: "login",
    operation: "up",
    args: OTHER_LOGIN,
    ends: ["login", "login-other"],
    only: WITHIN,
  },
  // A policy that closes the way in: nobody can confirm it.
  {
    id: "cut-off",
    from: "reached",
    operation: "up",
    args: LEVEL,
    mended: ["way-in-comes-first"],
    ends: ["reached"],
  },
  {
    id: "luks",
    from: "luks",
    operation: "up",
    args: GPU,
    ends: ["luks", "luks-gpu", "luks-fallback"],
    only: /^(boot|resume|confirm|settle|guard)\./,
  },
  // Nobody is there to type it until all is over.
  {
    id: "luks-alone",
    from: "luks",
    operation: "up",
    args: GPU,
    world: { person: false },
    ends: ["luks"],
    only: /^(boot|reboot|undo|guard)\./,
  },
  // A second thing goes wrong while the first is put back.
  {
    id: "first-fails",
    from: "fresh",
    operation: "up",
    args: GPU,
    world: NO_DRM,
    ends: ["fresh", "fallback"],
    only: /^undo\.|^boot\./,
  },
  {
    id: "xephyr-gpu-fails",
    from: "xephyr",
    operation: "up",
    args: GPU,
    world: NO_DRM,
    ends: ["xephyr", "fallback"],
    only: /^undo\.|^boot\./,
  },
  {
    id: "later-fails",
    from: "gpu",
    operation: "reboot",
    args: GPU,
    world: NO_DRM,
    ends: ["rescued"],
  },
];

/** What a process, a line, a machine may meet. */
const OF_MACHINE = ["hang", "reset", "power"];
const OF_CLOCK = ["clock-on", "clock-back"];
/** Somebody at the GUI domain clicks: dom0's service guidomain.Power is asked. */
const OF_PERSON = ["ask-reboot", "ask-shutdown"];
const OF_AGENT = ["kill", "cut-line", "kill-controller", "kill-guard", "disk-full", "second", ...OF_PERSON];
const OF_GUARD = ["kill", "disk-full", ...OF_PERSON];

function faultsAt([kind, name, , process]: Passed): string[] {
  if (kind === "message") return ["cut-line", "kill-controller"];
  if (process === null) return OF_MACHINE;
  const salt = /^(salt|targets)\./.test(name) ? ["kill-salt"] : [];
  return [...(process === "agent" ? OF_AGENT : OF_GUARD), ...salt, ...OF_MACHINE, ...OF_CLOCK];
}

/** Every fault at everything that a run has passed. */
export function casesOf(transition: Transition, passed: Passed[]): Case[] {
  return passed
    .filter(([kind, name]) => !transition.only || (kind === "step" && transition.only.test(name)))
    .flatMap((point) =>
      faultsAt(point).map((what) => ({
        id: `${transition.id}/${point[1]}#${point[2]}/${what}`,
        transition,
        fault: { at: [point[1], point[2]] as [string, number], do: what },
        kind: what,
      })),
    );
}

/** What is wrong all along, and what happens to the machine after confirmation. */
export function standingCases(named: Record<string, World>): Case[] {
  const from = (id: string) => TRANSITIONS.find((t) => t.id === id) as Transition;
  const made = (base: Transition, id: string, kind: string, more: Partial<Transition>): Case => ({
    id,
    transition: { ...base, ...more, id },
    fault: null,
    kind,
  });
  const broken = BROKEN.flatMap((name) =>
    ["first", "xephyr-gpu", "update", "later"].map((base) =>
      made(from(base), `${base}/${name}`, name, {
        world: named[name] as World,
        ...(base === "update" && { ends: ["gpu", "gpu-more", "xephyr-more-from-gpu"] }),
      }),
    ),
  );
  // It stands still in every boot that keeps the display from dom0, before any guard.
  const hangs = ["first", "xephyr-gpu", "later"].map((base) =>
    made(from(base), `${base}/boot-hangs`, "boot-hangs", {
      world: fails({ bootHangs: true }),
      ...(base === "later" && { ends: ["rescued"] }),
    }),
  );
  const events = ["kernel-update", "firmware-renumber", "firmware-move", "template-update"];
  const later = events.flatMap((event) => [
    made(from("later"), `later/${event}`, event, { happens: [event] }),
    made(from("later"), `later/${event}/guest-no-drm`, event, {
      happens: [event],
      world: named["guest-no-drm"] as World,
      ends: ["rescued"],
    }),
    made(from("first"), `first/${event}`, event, { happens: [event] }),
  ]);
  // The sound stays where it was.
  const soundless = SOUNDLESS.map((name) =>
    made(from("sound"), `sound/${name}`, name, { world: named[name] as World, ends: ["fresh"] }),
  );
  return [...broken, ...hangs, ...later, ...soundless];
}

/** A sample: first one case of each fault in each transition and one of each step, then any, the same for the same seed. */
export function sampleOf(cases: Case[], count: number, seed: number): Case[] {
  const shuffled = shuffle(cases, seed);
  if (count >= cases.length) return cases;
  const seen = new Set<string>();
  const first: Case[] = [];
  const rest: Case[] = [];
  for (const one of shuffled) {
    const keys = [
      `${one.transition.id}/${one.kind}`,
      ...(one.fault ? [`${one.transition.id}@${one.fault.at[0]}`] : [one.id]),
    ];
    (keys.every((key) => seen.has(key)) ? rest : first).push(one);
    for (const key of keys) seen.add(key);
  }
  return [...first, ...rest].slice(0, count);
}

/** mulberry32, so that a sample can be named by its seed. */
function shuffle<T>(items: readonly T[], seed: number): T[] {
  let state = seed >>> 0;
  const random = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  const shuffled = [...items];
  for (let i = shuffled.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [shuffled[i], shuffled[j]] = [shuffled[j] as T, shuffled[i] as T];
  }
  return shuffled;
}

/** What must go wrong where a part is missing, or the cases above prove nothing. */
export interface Control {
  name: string;
  /** Of lab/light/controls.py. */
  parts: string[];
  world?: World;
  cases: (one: Case) => boolean;
  /**
   * What counts: there is no usable screen after one power cycle either; or there is none without a hand, where with that part no
   * hand is needed: locked out until somebody stands before the machine. Or what it was about is left half done.
   */
  counts: "locked out" | "needs a hand" | "half done";
}

const isAt = (transitions: RegExp, step: RegExp, faults: string[]) => (one: Case) =>
  transitions.test(one.transition.id) &&
  one.fault !== null &&
  step.test(one.fault.at[0]) &&
  faults.includes(one.kind);
/** A confirmed mode that does not come up any more. */
const isBrokenLater = ({ id }: Case) => /^later\/(guest-no-drm|no-reset|stubdom-timeout|start-)/.test(id);
const isLeftInTrialBoot = isAt(/^(first|xephyr-gpu)$/, /^(after reply reboot|before request resume)$/, [
  "kill-controller",
]);

export const CONTROLS: Control[] = [
  {
    // One-shot entry and boot count of GRUB still lead back, at the price of a hand; and nothing is put back.
    name: "guard off",
    parts: ["guard_off"],
    cases: (one) => isBrokenLater(one) || isLeftInTrialBoot(one),
    counts: "needs a hand",
  },
  {
    name: "guard off, the way in closed",
    parts: ["guard_off"],
    cases: isAt(/^cut-off$/, /^apply\.verified$/, ["kill"]),
    counts: "locked out",
  },
  {
    // What a person clicks meanwhile would switch the machine off.
    name: "power service without its refusal",
    parts: ["power_unguarded"],
    cases: isAt(/^(first|xephyr-gpu|update-xephyr)$/, /^(apply|salt)\./, ["ask-shutdown"]),
    counts: "needs a hand",
  },
  { name: "journal off", parts: ["journal_off"], cases: isBrokenLater, counts: "locked out" },
  {
    name: "watchdog off",
    parts: [],
    world: { watchdog: false },
    cases: isAt(/^(first|xephyr-gpu)$/, /^(guard\.prohibit|resume\.)/, ["hang"]),
    counts: "needs a hand",
  },
  {
    name: "volumes off",
    parts: ["volumes_off"],
    cases: isAt(/^inside(-fails)?$/, /^(inside\.(salt|off|done)|targets\.)/, ["kill", "reset"]),
    counts: "half done",
  },
  {
    name: "guard off, inside a template",
    parts: ["guard_off"],
    cases: isAt(/^inside$/, /^(inside\.(started|salt)|targets\.)/, ["reset"]),
    counts: "half done",
  },
  {
    name: "permanent instead of one-shot arguments",
    parts: ["permanent"],
    cases: (one) => one.kind === "boot-hangs" && one.transition.operation === "up",
    counts: "locked out",
  },
];
