/** A device is found again, or nothing is taken: over random machines that are rebuilt; and paths against the model's own. */
import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import {
  find,
  identityOf,
  identityText,
  parseDeviceId,
  parseIdentity,
  qubesDeviceId,
  reached,
} from "./identity.ts";
import {
  bridge,
  changed,
  changes,
  device,
  type Machine,
  machines,
  modelPaths,
  numbered,
} from "./testing/machines.ts";
import { bridgePath, pathAddress, pciTree } from "./tree.ts";

const count = (tally: Map<string, number>, key: string) => tally.set(key, (tally.get(key) ?? 0) + 1);
const printed = (tally: Map<string, number>) =>
  [...tally]
    .sort()
    .map(([key, n]) => `${key} ${n}`)
    .join(", ");

test("a path follows the reference's rule, whatever the buses are numbered", () => {
  const depths = new Map<string, number>();
  fc.assert(
    fc.property(machines, (machine) => {
      const { functions, uids } = numbered(machine);
      const paths = modelPaths(machine);
      const tree = pciTree(functions);
      for (const fn of functions) {
        const path = paths.get(uids.get(fn.sbdf) ?? -1);
        assert.is(bridgePath(tree, fn), path);
        assert.is(pathAddress(tree, fn), fn.sbdf.startsWith("10000:") ? null : path);
        count(depths, `${path?.split("-").length} deep`);
      }
    }),
    { numRuns: 500 },
  );
  console.log(`\npaths: ${printed(depths)}`);
  assert.ok((depths.get("3 deep") ?? 0) > 50);
});

test("the same device is found or the plan is refused; never another one, never another class", () => {
  const outcomes = new Map<string, number>();
  fc.assert(
    fc.property(machines, changes, (before, list) => {
      const old = numbered(before);
      const oldTree = pciTree(old.functions);
      const { machine, done } = changed(before, list);
      const now = numbered(machine);
      const tree = pciTree(now.functions);
      const paths = modelPaths(machine);
      const isReclassed = new Set(
        now.functions.filter((fn) => fn.class === "ff0000").map((fn) => now.uids.get(fn.sbdf)),
      );
      for (const fn of old.functions) {
        const identity = identityOf(oldTree, fn);
        const uid = old.uids.get(fn.sbdf) ?? -1;
        const found = find(tree, identity);
        const isThere = paths.has(uid) && !isReclassed.has(uid);
        const isInPlace = isThere && paths.get(uid) === identity.path;

        if (!("fn" in found)) {
          count(outcomes, `refused: ${found.kind}${isThere ? " (it is there)" : ""}`);
          assert.not.ok(isInPlace, "what did not move is always found");
          // What moved is refused only where another of its kind makes it doubtful, or took its place.
          if (isThere) assert.ok(identity.alike.length > 0 || done.length > 1, found.refused.what);
          continue;
        }
        const { vendor, device: model, class: cls } = found.fn;
        assert.equal([vendor, model, cls], [fn.vendor, fn.device, fn.class]);
        assert.is(found.kind === "moved", bridgePath(tree, found.fn) !== identity.path);
        assert.equal(found.to, { path: bridgePath(tree, found.fn), sbdf: found.fn.sbdf });
        if (found.kind === "moved") {
          // Only where all others of its model stand where they stood, and one more is there, is that one it.
          const likes = tree.functions.filter((each) => qubesDeviceId(each) === qubesDeviceId(fn));
          const places = likes.map((each) => bridgePath(tree, each));
          assert.equal(places.toSorted(), [...identity.alike, found.to.path].toSorted());
        }
        if (found.kind === "renumbered") assert.is.not(found.fn.sbdf, fn.sbdf);
        const other = now.uids.get(found.fn.sbdf);
        if (other === uid) {
          count(outcomes, found.kind);
          continue;
        }
        // No fact tells two of a model apart. One that stands in its very place may be taken for it; elsewhere only one
        // that was not in the machine before, or when a new one took the place of its twin.
        count(outcomes, `its like, ${found.kind}`);
        assert.not.ok(isInPlace);
        const isNew = ![...old.uids.values()].includes(other ?? -1);
        if (found.kind === "moved" && !isNew)
          assert.ok(done.length > 1, "one change cannot make a twin pass for it");
      }
    }),
    { numRuns: 3000 },
  );
  console.log(`\nidentity: ${printed(outcomes)}`);
  for (const kind of ["same", "renumbered", "moved", "refused: none", "refused: several", "refused: changed"])
    assert.ok(
      (outcomes.get(kind) ?? 0) + (outcomes.get(`${kind} (it is there)`) ?? 0) > 20,
      `too few cases of "${kind}"`,
    );
});

const treeOf = (machine: Machine) => pciTree(numbered(machine).functions);
const one = (tree: ReturnType<typeof treeOf>, path: string) => {
  const fn = tree.functions.find((each) => bridgePath(tree, each) === path);
  if (!fn) throw new Error(`nothing at ${path}`);
  return fn;
};

test("a card put in before it renumbers the bus: the same place, shown with both addresses", () => {
  const card = bridge("1c.0", [device("00.0", 1)]);
  const before = treeOf(new Map([["0000:00", [card]]]));
  const after = treeOf(new Map([["0000:00", [bridge("01.0", [device("00.0", 5)]), card]]]));
  const found = find(after, identityOf(before, one(before, "00_1c.0-00_00.0")));
  assert.ok("fn" in found);
  if (!("fn" in found)) return;
  assert.equal([found.kind, found.from.sbdf, found.to.sbdf], ["renumbered", "0000:01:00.0", "0000:02:00.0"]);
});

test("moved to another slot: both places; its twin that was always elsewhere is not taken for it", () => {
  const before = treeOf(new Map([["0000:00", [device("01.0", 3), device("02.0", 3)]]]));
  const identity = identityOf(before, one(before, "00_01.0"));
  assert.equal(identity.alike, ["00_02.0"]);
  const gone = find(treeOf(new Map([["0000:00", [device("02.0", 3)]]])), identity);
  assert.is(gone.kind, "none");
  const moved = find(treeOf(new Map([["0000:00", [device("02.0", 3), device("05.0", 3)]]])), identity);
  assert.is("fn" in moved && moved.to.path, "00_05.0");
  const both = find(treeOf(new Map([["0000:00", [device("05.0", 3), device("06.0", 3)]]])), identity);
  assert.is(both.kind, "several");
  // One of the two is gone and the other moved: which one is left nobody can say.
  const doubtful = find(treeOf(new Map([["0000:00", [device("05.0", 3)]]])), identity);
  assert.is(doubtful.kind, "several");
  const three = new Map([["0000:00", [device("02.0", 3), device("05.0", 3), device("06.0", 3)]]]);
  assert.is(find(treeOf(three), identity).kind, "several");
});

test("the same ids with another class are refused, in words that name both", () => {
  const before = treeOf(new Map([["0000:00", [device("01.0", 0)]]]));
  const fn = one(before, "00_01.0");
  const found = find(pciTree([{ ...fn, class: "038000" }]), identityOf(before, fn));
  assert.ok("refused" in found);
  if (!("refused" in found)) return;
  assert.is(found.refused.rule, "device-changed");
  assert.match(found.refused.what, "class 030000");
  assert.match(found.refused.what, "class 038000");
});

test("an identity as text, and as an assignment in the store has it", () => {
  const tree = treeOf(new Map([["0000:00", [bridge("1c.0", [device("00.0", 1)])]]]));
  const fn = one(tree, "00_1c.0-00_00.0");
  const identity = identityOf(tree, fn);
  assert.is(identityText(identity), "00_1c.0-00_00.0:10de:1f11:030000");
  for (const read of [
    parseIdentity(identityText(identity)),
    parseDeviceId(identity.path, "0x10de:0x1f11::p030000"),
  ]) {
    if (!read) throw new Error("it is one");
    const found = find(tree, read);
    assert.is("fn" in found && found.fn, fn);
    assert.is(found.kind, "same");
  }
  assert.is(qubesDeviceId(fn), "0x10de:0x1f11::p030000");
  for (const none of ["", "x", "00_02.0:8086:9a49", "00_02.0:8086:9a49:03000g"])
    assert.is(parseIdentity(none), null);
  for (const none of ["*", "", "0x8086:0x02c8", "u0000:p030000"])
    assert.is(parseDeviceId("00_02.0", none), null);
});

test("what an assignment reaches: by place, by device wherever it is, by both; never what Qubes has no port for", () => {
  const made = treeOf(new Map([["0000:00", [device("01.0", 3), device("02.0", 3), device("03.0", 1)]]]));
  const tree = pciTree(made.functions.map((fn) => ({ ...fn, port: bridgePath(made, fn) })));
  const [first, second, other] = tree.functions;
  if (!first || !other) throw new Error("three functions");
  const [id, no] = [qubesDeviceId(first), qubesDeviceId(other)];
  assert.equal(reached(tree, { port: "*", device: id }), [first, second]);
  assert.equal(reached(tree, { port: "*", device: id.toUpperCase().replaceAll("X", "x") }), [first, second]);
  assert.equal(reached(tree, { port: "00_01.0", device: id }), [first]);
  assert.equal(reached(tree, { port: "00_01.0", device: "*" }), [first]);
  assert.equal(reached(tree, { port: "00_01.0", device: no }), []);
  assert.equal(reached(tree, { port: "00_09.0", device: "*" }), []);
  const hidden = pciTree([first, { ...first, sbdf: "10000:00:01.0", port: null }]);
  assert.equal(reached(hidden, { port: "*", device: id }), [first]);
});

test("a host whose bridges name each other ends all the same", () => {
  const tree = treeOf(new Map([["0000:00", [bridge("01.0", [bridge("00.0", [device("00.0", 1)])])]]]));
  const [a, b, c] = tree.functions;
  if (!a || !b || !c) throw new Error("three functions");
  const circle = pciTree([{ ...a, parent: b.sbdf }, b, c]);
  assert.is(circle.paths.size, 3);
});

test.run();
