/** A level on a host: who the others are, what policy will know of the qubes, and that a shorter look sees the same. */
import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { breaches } from "../policy/explain.ts";
import { grantOf, withGrant } from "../policy/levels.ts";
import { type Files, loadPolicy, POLICY } from "../policy/load.ts";
import { parsePrincipal } from "../policy/principal.ts";
import { hostOf } from "../policy/sample.ts";
import { STOCK } from "../policy/services.ts";
import { factsOf, inCompany, levelQuestions, toldApart } from "./access.ts";
import { guiOf, holds } from "./testing/cases.ts";
import { explicit, install, qube } from "./testing/hostModel.ts";

const snapshot = install({
  qubes: {
    "gui-old": qube(),
    old: qube({ tags: ["guivm-gui-old"], properties: { guivm: explicit("gui-old") } }),
    "gui-idle": qube({ features: { "service.guivm": "1" } }),
    orphan: qube({ tags: ["guivm-gone"] }),
    "sys.gui": qube({ features: { "service.guivm": "1" } }),
    dvm: qube({
      properties: { template_for_dispvms: explicit("True"), default_dispvm: explicit("dvm") },
    }),
  },
});
const gui = (name: string, args: object = {}) => guiOf(name, { host: "lab", ...args });
const LEVEL = { level: "user" };

test("the others: those of the program, and those that the host shows, but no name that policy cannot say", () => {
  const company = inCompany(gui("gui-new", LEVEL), snapshot, [gui("gui-bob"), gui("gui-old")]);
  assert.equal(company.apart, ["gui-bob", "gui-idle", "gui-old"]);
  assert.equal(inCompany(gui("gui-old", LEVEL), snapshot, []).apart, ["gui-idle"]);
});

test("a default disposable that is the other's bars who would be offered it, on both sides", () => {
  const own = explicit("dvm");
  const host = install({
    qubes: {
      dvm: qube({ properties: { template_for_dispvms: explicit("True") } }),
      work: qube({ properties: { default_dispvm: own } }),
      vault: qube({ properties: { default_dispvm: own } }),
    },
  });
  const alice = gui("alice", { ...LEVEL, clients: ["work", "dvm"] });
  const bob = gui("bob", { ...LEVEL, clients: ["vault"] });
  assert.equal(inCompany(alice, host, [bob]).barred, ["bob"]);
  assert.equal(inCompany(bob, host, [alice]).barred, ["bob"]);
  assert.equal(inCompany(alice, host, []).barred, [], "dom0's qubes are nobody's");
});

test("what a list names follows no default, in whatever order they are described", () => {
  const both = [gui("alice", { clients: "default" }), gui("bob", { clients: ["work"] })];
  for (const coming of [both, both.toReversed()])
    assert.equal(factsOf(snapshot, coming)["work"]?.tags, ["guivm-bob"]);
});

test("what policy will know: a GUI domain that is not there yet, its clients with its tag and no other", () => {
  const facts = factsOf(snapshot, [gui("gui-new", { clients: ["work", "old"] })]);
  assert.equal(facts["gui-new"]?.tags, ["guivm-dom0"]);
  assert.equal([facts["work"]?.tags, facts["old"]?.tags], [["guivm-gui-new"], ["guivm-gui-new"]]);
  assert.equal(factsOf(snapshot)["old"]?.tags, ["guivm-gui-old"]);
  assert.equal(
    [facts["dvm"]?.template_for_dispvms, facts["dvm"]?.default_dispvm, facts["work"]?.template_for_dispvms],
    [true, "dvm", false],
  );
});

test("questions to the host: none without a level; what somebody's earlier rule opens is expected open", () => {
  assert.equal(levelQuestions(gui("sys-gui", { clients: ["work"] }), snapshot, "work"), []);
  const user = gui("sys-gui", { clients: ["work"], level: "user" });
  const shell = (files: Files) => {
    const all = Object.entries(files).map(([path, content]) => [path, { content, mode: "0644" }]);
    const asked = levelQuestions(user, { ...snapshot, files: Object.fromEntries(all) }, "work");
    return asked.find(({ call }) => call === "qubes.VMShell")?.allowed;
  };
  assert.is(shell(STOCK), false);
  assert.is(shell({ ...STOCK, [`${POLICY}/30-user.policy`]: "qubes.VMShell * sys-gui work allow\n" }), true);
});

test("two qubes of each kind show every rule that breaks a level, as all of them do", () => {
  const facts = hostOf(
    [
      { qube: "sys-gui", clients: ["a", "b", "c", "d"], disposable: "dvm" },
      { qube: "bob", clients: ["e", "f", "g"], disposable: null },
    ],
    ["h", "i", "j"],
  );
  const parsed = parsePrincipal({ qube: "sys-gui", level: "user", apart: ["bob"] });
  assert.ok("principal" in parsed);
  const { principal } = parsed;
  const who = ["sys-gui", "a", "d", "g", "@tag:guivm-sys-gui", "@anyvm", "@type:AppVM"];
  const rule = fc
    .tuple(
      fc.constantFrom("qubes.VMShell", "qubes.Filecopy", "admin.vm.Kill", "admin.vm.tag.Set"),
      fc.constantFrom(...who),
      fc.constantFrom(...who, "@tag:guivm-bob", "@dispvm", "@dispvm:dvm", "@default"),
      fc.constantFrom("allow", "deny", "ask", "allow autostart=no", "ask default_target=f"),
    )
    .map(([service, source, target, action]) => `${service} * ${source} ${target} ${action}`);
  let [some, fewer] = [0, 0];
  holds(
    fc.property(fc.array(rule, { minLength: 1, maxLength: 4 }), (lines) => {
      const file = { [`${POLICY}/30-user.policy`]: `${lines.join("\n")}\n` };
      const { rules, faults } = loadPolicy({ ...withGrant(STOCK, grantOf(principal)), ...file });
      fc.pre(faults.length === 0);
      const places = (of: typeof facts) =>
        [...new Set(breaches(rules, of, [principal]).map((text) => text.replace(/.*, by /, "")))].sort();
      const short = toldApart(facts, rules);
      assert.equal(places(short), places(facts), lines.join("\n"));
      some += Number(places(facts).length > 0);
      fewer += Number(Object.keys(short).length < Object.keys(facts).length);
    }),
    25,
  );
  assert.ok(some > 5 && fewer > 15, `${some} with breaches, ${fewer} with fewer qubes`);
});

test.run();
