/**
 * The PCI tree of a machine, from the facts. Pure. Sources: design §6; qubes-cli-formats.md §6 (port names).
 * A bus has a bridge above it or is a root bus: 00, but also ff on some Intel machines, and e0 of a VMD domain (10000:).
 */
import type { PciFunction } from "./facts.ts";

export interface PciTree {
  readonly functions: readonly PciFunction[];
  readonly bySbdf: ReadonlyMap<string, PciFunction>;
  readonly byPort: ReadonlyMap<string, PciFunction>;
  /** "0000:01" → the functions on that bus. */
  readonly byBus: ReadonlyMap<string, readonly PciFunction[]>;
  /** sbdf → bridge path. */
  readonly paths: ReadonlyMap<string, string>;
}

/** "0000:01" of "0000:01:00.1". */
const busOf = (fn: PciFunction) => fn.sbdf.slice(0, fn.sbdf.lastIndexOf(":"));
/** "0000:01:00" of "0000:01:00.1". */
const slotOf = (fn: PciFunction) => fn.sbdf.slice(0, fn.sbdf.lastIndexOf("."));

export function pciTree(functions: readonly PciFunction[]): PciTree {
  const bySbdf = new Map(functions.map((fn) => [fn.sbdf, fn]));
  const byPort = new Map(functions.flatMap((fn) => (fn.port === null ? [] : [[fn.port, fn] as const])));
  const byBus = Map.groupBy(functions, busOf);
  const paths = new Map<string, string>();
  for (const fn of functions) paths.set(fn.sbdf, pathBelow(fn, bySbdf, new Set()));
  return { functions, bySbdf, byPort, byBus, paths };
}

/**
 * The rule of qubes-cli-formats.md §6: the chain of bridges and then the function, each bus relative to the secondary
 * bus of the bridge above it, a segment other than 0000 before it. `seen` ends a chain that a broken host lets run in a circle.
 */
function pathBelow(fn: PciFunction, bySbdf: ReadonlyMap<string, PciFunction>, seen: Set<string>): string {
  const [segment = "", bus = "", slot = ""] = fn.sbdf.split(":");
  const parent = fn.parent === null ? undefined : bySbdf.get(fn.parent);
  if (!parent?.bridge || seen.has(parent.sbdf))
    return `${segment === "0000" ? "" : `${segment}_`}${bus}_${slot}`;
  const offset = Number.parseInt(bus, 16) - Number.parseInt(parent.bridge.secondary, 16);
  const above = pathBelow(parent, bySbdf, seen.add(fn.sbdf));
  return `${above}-${offset.toString(16).padStart(2, "0")}_${slot}`;
}

/** Where a function sits, without absolute bus numbers below the root bus: it survives renumbering. */
export const bridgePath = (tree: PciTree, fn: PciFunction) => tree.paths.get(fn.sbdf) ?? fn.sbdf;

/**
 * The name that R4.3 should give the function, to check the host's own list by. Null where Qubes has none: it knows
 * segments of four digits only, and a VMD domain has five.
 */
export function pathAddress(tree: PciTree, fn: PciFunction): string | null {
  return fn.sbdf.indexOf(":") === 4 ? bridgePath(tree, fn) : null;
}

/** By sbdf (segment 0000 may be left out), or by the port as the host's own list names it; never by rewriting one into the other. */
export function functionAt(tree: PciTree, address: string): PciFunction | undefined {
  return tree.byPort.get(address) ?? tree.bySbdf.get(address) ?? tree.bySbdf.get(`0000:${address}`);
}

export function parentOf(tree: PciTree, fn: PciFunction): PciFunction | undefined {
  return fn.parent === null ? undefined : tree.bySbdf.get(fn.parent);
}

/** The bridges above it, nearest first. */
export function ancestors(tree: PciTree, fn: PciFunction): PciFunction[] {
  const above: PciFunction[] = [];
  for (let next = parentOf(tree, fn); next && !above.includes(next); next = parentOf(tree, next))
    above.push(next);
  return above;
}

export function descendants(tree: PciTree, bridge: PciFunction): PciFunction[] {
  return tree.functions.filter((fn) => ancestors(tree, fn).includes(bridge));
}

/** The other functions of its slot. */
export function slotMates(tree: PciTree, fn: PciFunction): PciFunction[] {
  return busMates(tree, fn).filter((other) => slotOf(other) === slotOf(fn));
}

/** The other functions of its bus. */
export function busMates(tree: PciTree, fn: PciFunction): PciFunction[] {
  return (tree.byBus.get(busOf(fn)) ?? []).filter((other) => other !== fn);
}

const KINDS: readonly [string, RegExp][] = [
  ["display", /^03/],
  ["sound", /^040[13]/],
  // Programming interface 40 is the host interface of USB4, which carries no USB device itself.
  ["USB controller", /^0c03(?!40)/],
  ["network card", /^02/],
  ["disk controller", /^01/],
  ["bridge", /^06/],
  ["memory", /^05/],
  ["IOMMU", /^0806/],
  ["system bus", /^0c(05|80)/],
  ["security processor", /^1080/],
];

/** What kind of thing it is, in a person's words. */
export const kindOf = (fn: PciFunction) => KINDS.find(([, form]) => form.test(fn.class))?.[0] ?? "device";

export const isDisplay = (fn: PciFunction) => kindOf(fn) === "display";
/** 0401 too: Intel's DSP shows there (qubes-host.md (a)). */
export const isAudio = (fn: PciFunction) => kindOf(fn) === "sound";
export const isUsb = (fn: PciFunction) => kindOf(fn) === "USB controller";
export const isNetwork = (fn: PciFunction) => kindOf(fn) === "network card";
export const isDisk = (fn: PciFunction) => kindOf(fn) === "disk controller";
export const isBridge = (fn: PciFunction) => kindOf(fn) === "bridge";

/** Parts of the machine itself, which no qube is ever given. */
export const isSystem = (fn: PciFunction) =>
  ["bridge", "memory", "IOMMU", "system bus", "security processor"].includes(kindOf(fn));

/**
 * A display as a person counts them. Further display functions of its slot are placeholders for second heads, which the
 * driver does not bind (i915_pci.c, i915_pci_probe: only function 0).
 */
export function isMainDisplay(tree: PciTree, fn: PciFunction): boolean {
  const lower = (other: PciFunction) =>
    isDisplay(other) && other.vendor === fn.vendor && other.sbdf < fn.sbdf;
  return isDisplay(fn) && !slotMates(tree, fn).some(lower);
}

export const mainDisplays = (tree: PciTree) => tree.functions.filter((fn) => isMainDisplay(tree, fn));

/** The display that the firmware lit; undefined where nobody says, and there is more than one. */
export function bootDisplay(tree: PciTree): PciFunction | undefined {
  const displays = mainDisplays(tree);
  const lit = displays.find((fn) => fn.bootVga === true);
  return lit ?? (displays.length === 1 ? displays[0] : undefined);
}

export const placeOf = (fn: PciFunction) => fn.port ?? fn.sbdf;

/** `Intel HD Graphics (display 8086:0166 at 00_02.0)`. */
export function describe(fn: PciFunction): string {
  const what = `${kindOf(fn)} ${fn.vendor}:${fn.device} at ${placeOf(fn)}`;
  return fn.name ? `${fn.name} (${what})` : what;
}

/** A list for a sentence, cut where it would be a page. */
export function listed(functions: readonly PciFunction[], most = 8): string {
  const shown = functions.slice(0, most).map(describe).join("; ");
  return functions.length > most ? `${shown}; and ${functions.length - most} more` : shown || "none";
}
