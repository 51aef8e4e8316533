/** Selectors: their form, whom they name, and whom they never do. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import * as v from "valibot";
import type { PciFunction } from "../host/protocol.ts";
import { pathOf } from "../model/fields.ts";
import { type Purpose, Selector, select } from "./selector.ts";
import { profileFacts } from "./testing/profile.ts";
import { type PciTree, pciTree } from "./tree.ts";

const treeOf = (name: string, patch: (fn: PciFunction) => Partial<PciFunction> = () => ({})) =>
  pciTree(profileFacts(name).pci.map((fn) => ({ ...fn, ...patch(fn) })));

const x230 = treeOf("lenovo-thinkpad-x230");
const oryx = treeOf("system76-oryx-pro-rtx2060");
const zephyrus = treeOf("asus-rog-zephyrus-g14-ga401ih");

function names(tree: PciTree, selector: unknown, as: Purpose): string {
  const found = select(tree, v.parse(Selector, selector), as);
  if ("refused" in found) {
    assert.ok(found.refused.what.length > 20 && !found.refused.what.endsWith("."), found.refused.what);
    assert.ok(found.refused.next.length > 20, found.refused.next);
    return found.refused.rule;
  }
  return found.functions.map(({ sbdf }) => sbdf.replace(/^0000:/, "")).join(" ");
}

test("a device by what it is", () => {
  for (const [tree, selector, as, expected] of [
    [x230, { class: "display" }, "display", "00:02.0"],
    [x230, { vendor: "8086" }, "display", "00:02.0"],
    [x230, { driver: "i915" }, "display", "00:02.0"],
    [x230, { position: "boot display" }, "display", "00:02.0"],
    [x230, { address: "00_02.0" }, "display", "00:02.0"],
    [x230, { address: "0000:00:02.0" }, "display", "00:02.0"],
    [x230, { address: "00:02.0" }, "display", "00:02.0"],
    [x230, { class: "audio" }, "audio", "00:1b.0"],
    [x230, { driver: "snd-hda-intel" }, "audio", "00:1b.0"],
    // A USB controller is sound only where it is asked for.
    [x230, { vendor: "8086" }, "audio", "00:1b.0"],
    [x230, { class: "usb" }, "audio", "00:14.0 00:1a.0 00:1d.0"],
    [x230, { address: "00_14.0" }, "audio", "00:14.0"],
    [x230, { class: "usb" }, "device", "00:14.0 00:1a.0 00:1d.0"],
    [x230, { class: "usb", vendor: "8086", device: "1E31" }, "device", "00:14.0"],
    [x230, { vendor: "8086", device: "1e31" }, "device", "00:14.0"],
    [x230, { class: "0880" }, "device", "02:00.0"],
    [oryx, { class: "display", vendor: "10de" }, "display", "01:00.0"],
    [oryx, { class: "audio" }, "audio", "00:1f.3"],
    [oryx, { address: "00_01.0-00_00.1" }, "audio", "01:00.1"],
    // Two controllers of one model are a set by class, and two where one is meant otherwise.
    [zephyrus, { class: "usb" }, "device", "04:00.3 04:00.4"],
    [zephyrus, { vendor: "1022", device: "1639" }, "device", "several"],
    // The host interface of USB4 carries no USB device.
    [treeOf("dell-xps-13-9310"), { class: "usb" }, "device", "00:0d.0 00:14.0"],
  ] as const)
    assert.is(names(tree, selector, as), expected, JSON.stringify(selector));
});

test("the boot display, where firmware says which, and refused where nobody does", () => {
  const lit = treeOf("system76-oryx-pro-rtx2060", (fn) => ({ bootVga: fn.sbdf === "0000:01:00.0" }));
  assert.is(names(lit, { position: "boot display" }, "display"), "01:00.0");
  assert.is(names(oryx, { position: "boot display" }, "display"), "no-match");
});

test("the module counts, not what is bound: a hidden GPU is on pciback", () => {
  const hidden = treeOf("lenovo-thinkpad-x230", (fn) =>
    fn.sbdf === "0000:00:02.0" ? { driver: "pciback" } : {},
  );
  assert.is(names(hidden, { driver: "i915" }, "display"), "00:02.0");
  assert.is(names(hidden, { driver: "pciback" }, "display"), "no-match");
});

test("bad input is refused by the rule it breaks", () => {
  for (const [tree, selector, as, rule] of [
    [x230, { vendor: "10de" }, "display", "no-match"],
    [x230, { address: "00_02.1" }, "device", "no-match"],
    [x230, { class: "audio", vendor: "1002" }, "audio", "no-match"],
    [oryx, { class: "display" }, "display", "several"],
    [x230, { vendor: "8086" }, "device", "several"],
    [x230, { address: "00_1b.0" }, "display", "wrong-class"],
    [x230, { address: "00_02.0" }, "audio", "wrong-class"],
    [x230, { address: "00_1c.0" }, "device", "system-device"], // a bridge
    [x230, { address: "00_1f.0" }, "device", "system-device"], // LPC
    [x230, { address: "00_1f.3" }, "device", "system-device"], // SMBus
    [zephyrus, { address: "00_08.1-00_00.2" }, "device", "system-device"], // security processor
    [zephyrus, { vendor: "1022", device: "1631" }, "device", "system-device"], // the IOMMU itself
    [treeOf("dell-xps-13-9310"), { class: "05" }, "device", "system-device"],
    [oryx, { vendor: "10de", device: "10f9" }, "audio", "display-sound"],
    [oryx, { class: "audio", vendor: "10de" }, "device", "display-sound"],
  ] as const)
    assert.is(names(tree, selector, as), rule, JSON.stringify(selector));
});

test("a refusal lists what may have been meant, in a person's words", () => {
  const several = select(oryx, v.parse(Selector, { class: "display" }), "display");
  if (!("refused" in several)) throw new Error("refused");
  assert.is(
    several.refused.what,
    '{ class: "display" } names 2 devices where one is meant: Intel CoffeeLake-H GT2 [UHD Graphics 630] (display 8086:3e9b at 00_02.0); NVIDIA TU106M [GeForce RTX 2060 Mobile] (display 10de:1f11 at 00_01.0-00_00.0)',
  );
  const none = select(x230, v.parse(Selector, { vendor: "10de" }), "display");
  if (!("refused" in none)) throw new Error("refused");
  assert.match(
    none.refused.next,
    "Intel 3rd Gen Core processor Graphics Controller (display 8086:0166 at 00_02.0)",
  );
});

test("the form: each fault at its path, with the value and what is allowed", () => {
  const args = v.strictObject({ gpu: v.optional(Selector) });
  assert.equal(v.parse(args, {}), {});
  assert.equal(v.parse(args, { gpu: { vendor: "8086", class: undefined } }), { gpu: { vendor: "8086" } });
  const faults = (gpu: unknown) =>
    v.safeParse(args, { gpu }).issues?.map((issue) => `${pathOf(issue)}: ${issue.message}`) ?? [];
  for (const [value, expected] of [
    ["display", /^gpu: "display" is not allowed; give a device by what it is/],
    [[], /^gpu: \[\] is not allowed/],
    [{}, /^gpu: \{\} is not allowed; give at least one of class, vendor/],
    [{ vendor: "intel" }, /^gpu\.vendor: "intel" is not allowed; give 4 hex digits such as "8086"/],
    [{ vendor: 8086 }, /^gpu\.vendor: 8086 is not allowed; give 4 hex digits/],
    [{ class: "gpu" }, /^gpu\.class: "gpu" is not allowed; give "display", "audio"/],
    [{ device: "15ec" }, /^gpu\.device: "15ec" means nothing without a vendor/],
    [{ bus: "00" }, /^gpu\.bus: not a part of a selector; allowed are class, vendor/],
    [{ constructor: "00" }, /^gpu\.constructor: not a part of a selector/],
    [{ position: "first" }, /^gpu\.position: "first" is not allowed; give "boot display"/],
    [{ address: "dom0:00_02.0" }, /^gpu\.address: "dom0:00_02\.0" is not allowed/],
    [{ driver: "i915 nouveau" }, /^gpu\.driver: "i915 nouveau" is not allowed/],
    [{ subsystem: "17aa" }, /^gpu\.subsystem: "17aa" is not allowed/],
  ] as const) {
    const found = faults(value);
    assert.is(found.length, 1, JSON.stringify(value));
    assert.match(found[0] ?? "", expected);
  }
  assert.is(faults({ vendor: "x", device: "y" }).length, 2);
});

test("what is parsed and what is found is frozen", () => {
  const selector = v.parse(Selector, { class: "USB" });
  assert.is(selector.class, "usb");
  assert.ok(Object.isFrozen(selector));
  const found = select(x230, selector, "device");
  assert.ok("functions" in found && Object.isFrozen(found.functions));
});

test("a tree of 200 functions and more is looked through in one call", () => {
  const { pci } = profileFacts("framework-laptop-13-amd");
  const many = [0, 1, 2, 3, 4, 5].flatMap((n) =>
    pci.map((fn) => ({
      ...fn,
      sbdf: fn.sbdf.replace("0000:", `000${n}:`),
      parent: fn.parent?.replace("0000:", `000${n}:`) ?? null,
      port: n === 0 ? fn.port : `000${n}_${fn.port}`,
    })),
  );
  const tree = pciTree(many);
  assert.ok(tree.functions.length >= 200);
  assert.is(names(tree, { address: "0005_00_08.1-00_00.0" }, "display"), "0005:c1:00.0");
  assert.is(names(tree, { class: "audio" }, "audio").split(" ").length, 6);
});

test.run();
