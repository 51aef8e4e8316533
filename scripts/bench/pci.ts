/** Finding a device and judging it in a tree of 200 PCI functions, beside reading the same facts as JSON. Issue 4. */

import * as v from "valibot";
import type { PciFunction } from "../../src/host/protocol.ts";
import { identityOf, find as locate } from "../../src/pci/identity.ts";
import { Selector, select } from "../../src/pci/selector.ts";
import { bare } from "../../src/pci/testing/machines.ts";
import { factsWith } from "../../src/pci/testing/profile.ts";
import { pciTree } from "../../src/pci/tree.ts";
import { verdictGpu } from "../../src/pci/verdict.ts";
import { print, show } from "./figures.ts";

const FUNCTIONS = 200;
const hex = (n: number) => n.toString(16).padStart(2, "0");

const CARD = { vendor: "8086", device: "15f2", class: "020000" };
const BRIDGE = { ...CARD, class: "060400" };
const DISPLAY = { vendor: "10de", device: "1f11", class: "030000" };

/** Bridges on the root bus, each with a bus of functions behind it; the last bus has the display. */
function machine(): PciFunction[] {
  const behind = 8;
  const buses = Math.floor(FUNCTIONS / (behind + 1));
  const functions: PciFunction[] = [];
  for (let bus = 1; bus <= buses; bus++) {
    const root = `${hex(bus)}.0`;
    const bridge = { secondary: hex(bus), subordinate: hex(bus) };
    functions.push({ ...bare(`0000:00:${root}`, BRIDGE, null), port: `00_${root}`, bridge });
    for (let slot = 0; slot < behind; slot++) {
      const isDisplay = bus === buses && slot === 0;
      functions.push({
        ...bare(`0000:${hex(bus)}:${hex(slot)}.0`, isDisplay ? DISPLAY : CARD, `0000:00:${root}`),
        port: `00_${root}-00_${hex(slot)}.0`,
        reset: ["flr"],
        ...(isDisplay && { bootVga: true }),
      });
    }
  }
  while (functions.length < FUNCTIONS)
    functions.push(bare(`0000:ff:${hex(functions.length - 170)}.0`, CARD, null));
  return functions;
}

export function benchPci(): void {
  const pci = machine();
  const text = JSON.stringify(pci);
  const facts = factsWith(pci);
  const selector = v.parse(Selector, { class: "display", vendor: "10de" });
  const times: Record<string, number[]> = { json: [], tree: [], select: [], find: [], verdict: [] };
  const measure = <T>(what: string, work: () => T): T => {
    const begun = performance.now();
    const result = work();
    times[what]?.push(performance.now() - begun);
    return result;
  };
  for (let run = 0; run < 50; run++) {
    measure("json", () => JSON.parse(text));
    const tree = measure("tree", () => pciTree(pci));
    const selection = measure("select", () => select(tree, selector, "display"));
    if ("refused" in selection) throw new Error(selection.refused.what);
    const [display] = selection.functions;
    if (!display) throw new Error("the display is not found");
    const found = measure("find", () => locate(tree, identityOf(tree, display)));
    if (found.kind !== "same") throw new Error(`the display is ${found.kind}`);
    measure("verdict", () => verdictGpu(facts, display));
  }
  print(`A display in a tree of ${pci.length} PCI functions, 50 runs; median (least–most)
  JSON.parse of the same facts   ${show(times.json ?? [], 2, "ms")}
  the tree                       ${show(times.tree ?? [], 2, "ms")}
  the device by a selector       ${show(times.select ?? [], 2, "ms")}
  the device by its identity     ${show(times.find ?? [], 2, "ms")}
  the verdict for mode gpu       ${show(times.verdict ?? [], 2, "ms")}`);
}
