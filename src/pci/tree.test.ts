/** Looking things up in a tree; paths and their rule are in identity.test.ts and profiles.test.ts. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import type * as protocol from "../host/protocol.ts";
import type * as facts from "./facts.ts";
import { profileFacts, snapshotWith } from "./testing/profile.ts";
import {
  ancestors,
  bootDisplay,
  busMates,
  describe,
  functionAt,
  listed,
  parentOf,
  pciTree,
  slotMates,
} from "./tree.ts";

test("what the agent sends is what this folder reads, and back", () => {
  // The compiler is the test: neither line holds when a field of one changes.
  const sent: protocol.Snapshot = snapshotWith(profileFacts("lenovo-thinkpad-x230"));
  const read: facts.Snapshot = sent;
  const back: protocol.PciFunction[] = read.facts.pci;
  assert.is(back, sent.facts.pci);
});

const tree = pciTree(profileFacts("intel-nuc12snki72-arc").pci);
const at = (address: string) => {
  const fn = functionAt(tree, address);
  if (!fn) throw new Error(address);
  return fn;
};
const places = (functions: { sbdf: string }[]) => functions.map(({ sbdf }) => sbdf.slice(5)).join(" ");

test("a function by each form of its address; an unknown one is none", () => {
  for (const address of ["0000:03:00.0", "03:00.0", "00_01.0-00_00.0-00_01.0-00_00.0"])
    assert.is(at(address).device, "5690");
  for (const none of ["03_00.0", "00_99.0", "", "0001:03:00.0"]) assert.is(functionAt(tree, none), undefined);
});

test("what is above, beside and in the slot", () => {
  assert.is(places(ancestors(tree, at("03:00.0"))), "02:01.0 01:00.0 00:01.0");
  assert.is(parentOf(tree, at("00:02.0")), undefined);
  assert.is(places(busMates(tree, at("02:01.0"))), "02:04.0");
  assert.is(places(slotMates(tree, at("02:01.0"))), "");
  assert.is(places(slotMates(tree, at("00:1f.0"))), "00:1f.3 00:1f.4 00:1f.5");
});

test("a second root bus has no bridge above it", () => {
  const uncore = { ...at("00:14.2"), sbdf: "0000:ff:0b.0", port: "ff_0b.0" };
  const more = pciTree([...tree.functions, uncore]);
  assert.is(more.paths.get("0000:ff:0b.0"), "ff_0b.0");
  assert.equal(ancestors(more, uncore), []);
});

test("the boot display: the one that firmware lights, the only one, or nobody knows", () => {
  const lit = (sbdf: string) =>
    bootDisplay(pciTree(tree.functions.map((fn) => ({ ...fn, bootVga: fn.sbdf === sbdf }))));
  assert.is(lit("0000:03:00.0")?.device, "5690");
  assert.is(bootDisplay(tree), undefined);
  assert.is(
    bootDisplay(pciTree(tree.functions.filter(({ sbdf }) => sbdf !== "0000:03:00.0")))?.device,
    "4626",
  );
});

test("a device in a person's words", () => {
  assert.is(describe(at("00:1f.3")), "Intel Device 51c8 (sound 8086:51c8 at 00_1f.3)");
  assert.is(describe({ ...at("00:02.0"), name: null, port: null }), "display 8086:4626 at 0000:00:02.0");
  assert.match(listed(tree.functions, 2), /^[^;]+; [^;]+; and \d+ more$/);
  assert.is(listed([]), "none");
});

test.run();
