/** What goes with a display, on cards that the profiles do not have. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { PciFunction } from "../host/protocol.ts";
import { ownerOf, siblings } from "./siblings.ts";
import { profilePci } from "./testing/profile.ts";
import { isMainDisplay, pciTree } from "./tree.ts";

/** `[sbdf, class, vendor, secondary bus]`; everything behind a bridge is found by its bus. */
function tree(...rows: [string, string, string, string?][]) {
  const devices = rows.map(([at, cls, vendor, secondary]) => ({
    sbdf: `0000:${at}`,
    class: cls,
    vendor,
    device: "1234",
    subsystem: null,
    name: "",
    flr: null,
    pmReset: null,
    rom: null,
    driver: null,
    ...(secondary !== undefined && { bridge: { secondary, subordinate: secondary } }),
  }));
  return pciTree(profilePci({ machine: "", capabilities: "full", devices }));
}
const of = (made: ReturnType<typeof tree>, at: string): PciFunction => {
  const fn = made.bySbdf.get(`0000:${at}`);
  if (!fn) throw new Error(at);
  return fn;
};
function sides(made: ReturnType<typeof tree>, at: string) {
  const { takes, stays } = siblings(made, of(made, at));
  const short = (functions: readonly PciFunction[]) => functions.map(({ sbdf }) => sbdf.slice(5)).join(" ");
  return [short(takes), short(stays)];
}

test("a USB controller in the slot of graphics on the root bus is the machine's, also of one vendor", () => {
  const made = tree(["00:02.0", "0300", "8086"], ["00:02.3", "0403", "8086"], ["00:02.4", "0c03", "8086"]);
  assert.equal(sides(made, "00:02.0"), ["00:02.3", "00:02.4"]);
});

test("never a bridge, memory, a system bus, a security processor or storage, on a card either", () => {
  const made = tree(
    ["00:01.0", "0604", "8086", "01"],
    ["01:00.0", "0300", "10de"],
    ["01:00.1", "0500", "10de"],
    ["01:00.2", "0c05", "10de"],
    ["01:00.3", "1080", "10de"],
    ["01:00.4", "0108", "10de"],
    ["01:00.5", "0601", "10de"],
    ["01:00.6", "0c03", "10de"],
    ["01:00.7", "0c80", "10de"],
  );
  assert.equal(sides(made, "01:00.0"), ["01:00.6 01:00.7", "01:00.1 01:00.2 01:00.3 01:00.4 01:00.5"]);
});

/** A card behind a switch: root port 00:01.0, upstream 01:00.0, downstream ports on bus 02. */
const behindSwitch = (...rest: [string, string, string, string?][]) =>
  tree(
    ["00:01.0", "0604", "8086", "01"],
    ["01:00.0", "0604", "8086", "02"],
    ["02:01.0", "0604", "8086", "03"],
    ["02:04.0", "0604", "8086", "04"],
    ["03:00.0", "0300", "8086"],
    ["04:00.0", "0403", "8086"],
    ...rest,
  );

test("sound behind the card's own switch goes along; behind a switch that others share it does not", () => {
  assert.equal(sides(behindSwitch(), "03:00.0"), ["04:00.0", ""]);
  const dock = ["02:05.0", "0604", "8086", "05"] as [string, string, string, string];
  for (const [cls, vendor] of [
    ["0200", "8086"],
    ["0108", "1c5c"],
    ["0c03", "1b21"],
  ] as const)
    assert.equal(sides(behindSwitch(dock, ["05:00.0", cls, vendor]), "03:00.0"), ["", ""], cls);
});

test("of two displays behind one switch neither takes the other's sound", () => {
  const made = behindSwitch(["04:00.1", "0300", "8086"]);
  assert.equal(sides(made, "03:00.0"), ["", ""]);
  assert.equal(sides(made, "04:00.1"), ["04:00.0", ""]);
  assert.is(ownerOf(made, of(made, "04:00.0")), of(made, "04:00.1"));
});

test("a second head in the slot is no display of its own; another vendor's is", () => {
  const made = tree(["00:02.0", "0300", "8086"], ["00:02.1", "0380", "8086"], ["00:03.0", "0300", "1002"]);
  assert.equal(
    made.functions.map((fn) => isMainDisplay(made, fn)),
    [true, false, true],
  );
  assert.equal(sides(made, "00:02.1"), ["", "00:02.0"]);
});

test("what is no display takes nothing along", () => {
  const made = behindSwitch();
  assert.equal(sides(made, "04:00.0"), ["", ""]);
});

test.run();
