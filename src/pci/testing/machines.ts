/**
 * Random PCI machines for property tests: a model of slots and bridges without any bus number, which numbers itself as
 * firmware does. What is expected of a path follows from the model alone.
 */
import fc from "fast-check";
import type { PciFunction } from "../../host/protocol.ts";

export interface Node {
  /** Stays with the thing itself, wherever it moves. */
  readonly uid: number;
  readonly slot: string;
  /** Relative bus: functions such as SR-IOV's lie on the bus after their bridge's secondary one. */
  readonly offset: number;
  readonly model: { readonly vendor: string; readonly device: string; readonly class: string };
  readonly children: Node[] | null;
}

/** Root bus ("0000:00", "0000:ff", "10000:e0") → what is on it. */
export type Machine = Map<string, Node[]>;

const MODELS: Node["model"][] = [
  { vendor: "8086", device: "9a49", class: "030000" },
  { vendor: "10de", device: "1f11", class: "030000" },
  { vendor: "10de", device: "10f9", class: "040300" },
  { vendor: "1022", device: "1639", class: "0c0330" },
  { vendor: "8086", device: "a0c8", class: "040100" },
  { vendor: "1c5c", device: "174a", class: "010802" },
  { vendor: "8086", device: "15f2", class: "020000" },
];
const BRIDGE = { vendor: "8086", device: "a0b3", class: "060400" };

let uids = 0;
export const device = (slot: string, model: number, offset = 0): Node => ({
  uid: uids++,
  slot,
  offset,
  model: MODELS[model % MODELS.length] ?? BRIDGE,
  children: null,
});
export const bridge = (slot: string, children: Node[]): Node => ({
  uid: uids++,
  slot,
  offset: 0,
  model: BRIDGE,
  children,
});

const hex = (n: number) => n.toString(16).padStart(2, "0");
export const slotName = (n: number) => `${hex(n >> 3)}.${n & 7}`;

const slotNumber = fc.nat(255);
const modelNumber = fc.nat(MODELS.length - 1);

interface Seed {
  slot: number;
  model: number;
  offset: number;
  children: Seed[] | null;
}
const seeds = fc.letrec<{ node: Seed; nodes: Seed[] }>((tie) => ({
  node: fc.record({
    slot: slotNumber,
    model: modelNumber,
    offset: fc.nat({ max: 9 }).map((n) => (n === 9 ? 1 : 0)),
    children: fc.oneof({ depthSize: "small", withCrossShrink: true }, fc.constant(null), tie("nodes")),
  }),
  nodes: fc.uniqueArray(tie("node"), { selector: ({ slot }) => slot, minLength: 1, maxLength: 5 }),
}));

const grown = ({ slot, model, offset, children }: Seed, isRoot = false): Node =>
  children
    ? bridge(
        slotName(slot),
        children.map((child) => grown(child)),
      )
    : device(slotName(slot), model, isRoot ? 0 : offset);

export const machines: fc.Arbitrary<Machine> = fc
  .tuple(seeds.nodes, fc.option(seeds.nodes, { freq: 3 }), fc.option(seeds.nodes, { freq: 4 }))
  .map(([main, second, vmd]) => {
    const machine: Machine = new Map([["0000:00", main.map((seed) => grown(seed, true))]]);
    if (second)
      machine.set(
        "0000:f8",
        second.filter((seed) => !seed.children).map((seed) => grown(seed, true)),
      );
    if (vmd)
      machine.set(
        "10000:e0",
        vmd.map((seed) => grown(seed, true)),
      );
    return machine;
  });

/** Numbers the buses depth first, as firmware does, and says of each node where it is. */
export function numbered(machine: Machine): { functions: PciFunction[]; uids: Map<string, number> } {
  const functions: PciFunction[] = [];
  const uidOf = new Map<string, number>();
  for (const [root, nodes] of machine) {
    const [domain = "", first = ""] = root.split(":");
    let last = Number.parseInt(first, 16);
    const visit = (node: Node, bus: number, parent: string | null) => {
      const sbdf = `${domain}:${hex(bus + node.offset)}:${node.slot}`;
      uidOf.set(sbdf, node.uid);
      const at = functions.push(bare(sbdf, node.model, parent)) - 1;
      if (!node.children) return;
      const secondary = last + 1;
      last = secondary + Math.max(0, ...node.children.map(({ offset }) => offset));
      for (const child of node.children) visit(child, secondary, sbdf);
      const here = functions[at];
      if (here) functions[at] = { ...here, bridge: { secondary: hex(secondary), subordinate: hex(last) } };
    };
    for (const node of nodes) visit(node, Number.parseInt(first, 16), null);
  }
  return { functions, uids: uidOf };
}

/** A function of which nothing is known but where and what it is. */
export const bare = (
  sbdf: string,
  model: Pick<PciFunction, "vendor" | "device" | "class">,
  parent: string | null,
): PciFunction => ({
  sbdf,
  port: null,
  ...model,
  subsystem: null,
  driver: null,
  reset: null,
  name: null,
  bridge: null,
  parent,
  bootVga: null,
  rom: null,
  module: null,
  outputs: [],
  inputs: [],
  disks: [],
  nets: [],
});

/** The independent oracle: path by the model, uid → path. Relative buses are the offsets; no number is subtracted from another. */
export function modelPaths(machine: Machine): Map<number, string> {
  const paths = new Map<number, string>();
  for (const [root, nodes] of machine) {
    const [domain = "", bus = ""] = root.split(":");
    const visit = (node: Node, above: string) => {
      const path =
        above === ""
          ? `${domain === "0000" ? "" : `${domain}_`}${bus}_${node.slot}`
          : `${above}-${hex(node.offset)}_${node.slot}`;
      paths.set(node.uid, path);
      for (const child of node.children ?? []) visit(child, path);
    };
    for (const node of nodes) visit(node, "");
  }
  return paths;
}

/** Something done to a machine; the numbers pick what and where. */
export const changes = fc.array(
  fc.record({
    what: fc.constantFrom("insert", "insertCard", "remove", "move", "reclass", "twin" as const),
    pick: fc.nat(),
    place: fc.nat(),
    slot: slotNumber,
    model: modelNumber,
  }),
  { minLength: 0, maxLength: 4 },
);
export type Change = ReturnType<typeof changes.generate>["value"][number];

type Level = { nodes: Node[]; isRoot: boolean };
function levels(machine: Machine): Level[] {
  const found: Level[] = [];
  const visit = (nodes: Node[], isRoot: boolean) => {
    found.push({ nodes, isRoot });
    for (const { children } of nodes) if (children) visit(children, false);
  };
  for (const nodes of machine.values()) visit(nodes, true);
  return found;
}

/** The machine after the changes, each with what it really did; the first machine stays as it was. */
export function changed(machine: Machine, list: readonly Change[]): { machine: Machine; done: string[] } {
  const copy = (node: Node): Node => ({ ...node, children: node.children?.map(copy) ?? null });
  const next: Machine = new Map([...machine].map(([root, nodes]) => [root, nodes.map(copy)]));
  const done: string[] = [];
  for (const { what, pick, place, slot, model } of list) {
    const all = levels(next);
    const target = all[place % all.length];
    const spots = all.flatMap((level) => level.nodes.map((node) => ({ level, node })));
    const spot = spots[pick % Math.max(1, spots.length)];
    const free = [...Array(256).keys()]
      .map((n) => slotName((slot + n) % 256))
      .find((name) => !target?.nodes.some((node) => node.slot === name));
    if (!target || free === undefined) continue;
    const drop = () => spot?.level.nodes.splice(spot.level.nodes.indexOf(spot.node), 1);
    if (what === "insert") target.nodes.push(device(free, model));
    // Before the others: all buses behind it are renumbered.
    else if (what === "insertCard")
      target.nodes.unshift(bridge(free, [device("00.0", model), device("00.1", model + 1)]));
    else if (!spot) continue;
    else if (what === "twin")
      target.nodes.push({ ...device(free, 0), model: spot.node.children ? BRIDGE : spot.node.model });
    else if (what === "remove") drop();
    else if (what === "reclass" && !spot.node.children)
      spot.level.nodes.splice(spot.level.nodes.indexOf(spot.node), 1, {
        ...spot.node,
        model: { ...spot.node.model, class: "ff0000" },
      });
    else if (what === "move") {
      const inside = (node: Node): boolean =>
        node.children === target.nodes || (node.children?.some(inside) ?? false);
      if (inside(spot.node)) continue;
      drop();
      if (target.nodes.some((node) => node.slot === free)) continue;
      target.nodes.push({ ...spot.node, slot: free, offset: 0 });
    }
    done.push(what);
  }
  return { machine: next, done };
}
