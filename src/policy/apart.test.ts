/** When a level's file need not say that two GUI domains are apart, because it is so all the same. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import { sameLevel } from "./apart.ts";
import { grantOf, levelFile } from "./levels.ts";
import { parsePrincipal } from "./principal.ts";

const QUBES = {
  dom0: { class: "AdminVM", tags: [] },
  alice: { class: "AppVM", tags: [] },
  bob: { class: "AppVM", tags: [] },
  work: { class: "AppVM", tags: ["guivm-alice"] },
  "bob-work": { class: "AppVM", tags: ["guivm-bob"] },
  fedora: { class: "TemplateVM", tags: ["guivm-dom0"] },
};
const [ALICE, BOB] = [levelFile("alice"), levelFile("bob")];

function textOf(qube: string, apart: string[], rules: string[] = []): string {
  const parsed = parsePrincipal({ qube, level: "user", apart, rules });
  if ("faults" in parsed) throw new Error(JSON.stringify(parsed.faults));
  return grantOf(parsed.principal).files[levelFile(qube)] ?? "";
}
const alice = (apart: string[], rules?: string[]) => textOf("alice", apart, rules);
const withBob = { [BOB]: textOf("bob", ["alice"]) };

test("the other's file says it: one of the two is enough, whichever comes first", () => {
  assert.is(sameLevel(ALICE, alice(["bob"]), alice([]), withBob, QUBES), true);
  const withAlice = { [ALICE]: alice(["bob"]) };
  assert.is(sameLevel(BOB, textOf("bob", ["alice"]), textOf("bob", []), withAlice, QUBES), true);
});

test("nobody says it", () => {
  assert.is(sameLevel(ALICE, alice(["bob"]), alice([]), {}, QUBES), false);
  assert.is(sameLevel(ALICE, alice(["bob"]), alice([]), { [BOB]: textOf("bob", []) }, QUBES), false);
});

test("a later file is too late where this one answers first", () => {
  const named = ["qubes.Filecopy * alice bob-work allow"];
  assert.is(sameLevel(ALICE, alice(["bob"], named), alice([], named), withBob, QUBES), false);
  // menus of templates are everybody's
  const template = { ...QUBES, fedora: { class: "TemplateVM", tags: ["guivm-bob"] } };
  assert.is(sameLevel(ALICE, alice(["bob"]), alice([]), withBob, template), true);
  // an earlier one is not
  const carols = ["qubes.Filecopy * carol bob-work allow"];
  const carol = (apart: string[]) => textOf("carol", apart, carols);
  const qubes = { ...QUBES, carol: { class: "AppVM", tags: [] } };
  const before = { [BOB]: textOf("bob", ["carol"]) };
  assert.is(sameLevel(levelFile("carol"), carol(["bob"]), carol([]), before, qubes), true);
});

test("no default disposable: so where the other's file says it, not where this one opens it first", () => {
  const of = (qube: string, barred: string[], rules: string[] = []) => {
    const other = qube === "alice" ? "bob" : "alice";
    const parsed = parsePrincipal({ qube, level: "user", apart: [other], barred, rules });
    if ("faults" in parsed) throw new Error(JSON.stringify(parsed.faults));
    return grantOf(parsed.principal).files[levelFile(qube)] ?? "";
  };
  const same = (barred: string[], found: string[], bobs: string[], rules?: string[]) =>
    sameLevel(
      ALICE,
      of("alice", barred, rules),
      of("alice", found, rules),
      { [BOB]: of("bob", bobs) },
      QUBES,
    );
  assert.equal([same(["alice"], [], ["alice"]), same(["alice"], [], [])], [true, false]);
  assert.is(same(["alice"], [], ["alice"], ["qubes.OpenURL * @tag:guivm-alice @dispvm ask"]), false);
  assert.is(same([], ["alice"], ["alice"]), false, "its qubes have their own default again");
});

test("who has gone, or has not come, needs no denial", () => {
  const { bob: _, "bob-work": __, ...gone } = QUBES;
  assert.is(sameLevel(ALICE, alice([]), alice(["bob"]), {}, gone), true);
  assert.is(sameLevel(ALICE, alice(["bob"]), alice([]), {}, gone), true);
  const { bob: ___, ...tagged } = QUBES;
  assert.is(sameLevel(ALICE, alice(["bob"]), alice([]), {}, tagged), false, "his qubes are still there");
});

test("anything else is a difference: a rule that is missing, one too many, one before the denials", () => {
  const wanted = alice(["bob"]);
  const lines = wanted.split("\n");
  const allow = "qubes.Filecopy * alice bob-work allow";
  assert.is(sameLevel(ALICE, wanted, lines.slice(0, -2).join("\n"), withBob, QUBES), false);
  assert.is(sameLevel(ALICE, wanted, [...lines, allow, ""].join("\n"), withBob, QUBES), false);
  assert.is(sameLevel(ALICE, wanted, [allow, ...lines].join("\n"), withBob, QUBES), false);
  assert.is(
    sameLevel(ALICE, alice([]), alice(["bob"]), withBob, QUBES),
    false,
    "a denial that nobody asks for",
  );
  assert.is(
    sameLevel(ALICE, wanted, wanted.replace(/^#.*\n/gm, ""), {}, QUBES),
    true,
    "comments say nothing",
  );
});

test.run();
