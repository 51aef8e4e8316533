/** What each level may and may not, by answers over the whole table of questions, on top of Qubes' own policy. */
import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { type Answer, Evaluator, type Facts } from "./evaluate.ts";
import { breaches, callsOf, difference, differenceText, targetsOf } from "./explain.ts";
import { grantOf, hasLine, levelFile, withGrant, withLines, withoutGrant, withoutLines } from "./levels.ts";
import { lintOwn } from "./lint.ts";
import { type Files, loadPolicy, POLICY } from "./load.ts";
import { LEVELS, type Level, type Principal, parsePrincipal } from "./principal.ts";
import { adminOnly } from "./rights.ts";
import { ASKS, SAMPLE, SOMEBODY_ELSE, sampleFiles, samplePrincipal, sampleRules } from "./sample.ts";
import { COMMANDS, STOCK } from "./services.ts";

const BELOW = LEVELS.filter((level) => level !== "admin");
const MINE = [ASKS, "work", "mail", "web-dvm"];
const FOREIGN = [SOMEBODY_ELSE, "bob-work", "bob-dvm"];
const foreign = (target: string) => FOREIGN.includes(target.replace("@dispvm:", ""));

const evaluators = new Map(LEVELS.map((level) => [level, new Evaluator(sampleRules(level), SAMPLE)]));
const at = (level: Level) => evaluators.get(level) as Evaluator;

/** Every question to one policy, with its answer. */
function* table(evaluator: Evaluator, sources: string[], facts: Facts = SAMPLE) {
  for (const source of sources)
    for (const [service, list] of callsOf(evaluator.rules))
      for (const argument of list)
        for (const target of targetsOf(facts)) {
          const call = { service, argument, source, target };
          yield { call, answer: evaluator.evaluate(call) };
        }
}
const isNo = (answer: Answer) => answer.decision === "deny";
/** A law over a table: the text of a question is made only where it is broken. */
const holds = (fine: boolean, call: object) => fine || assert.unreachable(JSON.stringify(call));

/** "SERVICE[+ARGUMENT] TARGET" of sys-gui: what each level answers, a = allow, q = a person is asked, - = deny; in the order of LEVELS. */
const PAIRS: [string, string][] = [
  // applications
  ["qubes.StartApp+firefox work", "aaa--"],
  ["qubes.StartApp+firefox @dispvm:web-dvm", "aaaaa"],
  ["qubes.StartApp+firefox @dispvm", "aaaaa"],
  ["qubes.StartApp+xterm @dispvm:web-dvm", "aaaa-"],
  ["qubes.StartApp+thunderbird mail", "aaa-a"],
  ["qubes.StartApp+firefox bob-work", "-----"],
  ["qubes.StartApp+firefox @dispvm:bob-dvm", "-----"],
  ["qubes.StartApp+xterm sys-net", "q----"],
  // qubes
  ["admin.vm.Start work", "aaa--"],
  ["admin.vm.Shutdown work", "aaaa-"],
  ["admin.vm.Kill work", "aa---"],
  ["admin.vm.Start bob-work", "-----"],
  ["admin.vm.Start sys-net", "-----"],
  ["admin.vm.Create.AppVM+fedora-43-xfce dom0", "a----"],
  ["admin.vm.CreateDisposable dom0", "a----"],
  ["admin.vm.Remove work", "a----"],
  ["admin.vm.Remove bob-work", "-----"],
  // the machine
  ["guidomain.Power+shutdown dom0", "aa---"],
  ["guidomain.Power+reboot dom0", "aa---"],
  ["guidomain.Power+suspend dom0", "aa---"],
  ["guidomain.Power dom0", "-----"],
  ["guidomain.Power+shutdown+now dom0", "-----"],
  ["guidomain.Power+Shutdown dom0", "-----"],
  ["guidomain.Power+shutdown @default", "-----"],
  ["guidomain.Power+shutdown work", "-----"],
  // settings
  ["admin.vm.property.Set+memory work", "aa---"],
  ["admin.vm.property.Set+memory bob-work", "-----"],
  ["admin.vm.property.Set+netvm work", "a----"],
  ["admin.vm.property.Set+kernel work", "a----"],
  ["admin.vm.property.Set+kernelopts work", "a----"],
  ["admin.vm.property.Set+guivm work", "a----"],
  ["admin.vm.property.Reset+audiovm work", "a----"],
  ["admin.vm.feature.Set+menu-items work", "aa---"],
  ["admin.vm.feature.Set+service.guivm work", "a----"],
  ["admin.vm.feature.Set+keyboard-layout sys-gui", "aaaaa"],
  ["admin.vm.tag.Set+guivm-sys-gui sys-net", "-----"],
  ["admin.vm.tag.Set+x work", "a----"],
  ["admin.vm.device.pci.Assign+dom0+00_14.0 work", "a----"],
  ["admin.vm.device.mic.Attach+dom0+mic work", "aa---"],
  ["admin.vm.device.block.Attach+bob-work+sda work", "a----"],
  ["admin.property.Set+default_guivm dom0", "a----"],
  // reading
  ["admin.vm.List work", "aaaaa"],
  ["admin.vm.List bob-work", "-----"],
  ["admin.Events bob-work", "-----"],
  ["admin.vm.property.Get+netvm bob-work", "-----"],
  ["admin.property.Get+default_netvm dom0", "aa---"],
  ["admin.vm.Stats dom0", "a----"],
  ["admin.pool.volume.List+vm-pool dom0", "a----"],
  // text and files
  ["qubes.ClipboardPaste work", "aaaa-"],
  ["qubes.ClipboardPaste bob-work", "-----"],
  ["qubes.Filecopy work", "qqq--"],
  ["qubes.Filecopy bob-work", "-----"],
  // commands and the rules themselves
  ["qubes.VMShell work", "-----"],
  ["qubes.VMShell @dispvm", "a----"],
  ["qubes.VMRootShell work", "-----"],
  ["qubes.VMExec @dispvm", "a----"],
  ["admin.vm.Console work", "a----"],
  ["policy.Replace+30-user dom0", "-----"],
  // what nobody has heard of
  ["custom.Service work", "-----"],
];
for (const [question, meant] of PAIRS)
  test(`${question}: ${meant}`, () => {
    const [name = "", target = ""] = question.split(" ");
    const [service = "", ...argument] = name.split("+");
    const letters = { allow: "a", ask: "q", deny: "-" };
    const call = { service, argument: `+${argument.join("+")}`, source: ASKS, target };
    assert.is(LEVELS.map((level) => letters[at(level).evaluate(call).decision]).join(""), meant);
  });

for (const level of BELOW)
  test(`${level}: of all questions none reaches what is an admin's`, () => {
    let asked = 0;
    for (const { call, answer } of table(at(level), [ASKS])) {
      if (adminOnly(call.service, call.argument) === null) continue;
      asked++;
      holds(isNo(answer), call);
    }
    assert.ok(asked > 1000);
    for (const { call, answer } of table(at(level), MINE))
      if (COMMANDS.includes(call.service)) holds(isNo(answer), call);
  });

for (const level of LEVELS)
  test(`${level}: of all questions none reaches a qube of somebody else, in either direction, and no prompt offers one`, () => {
    for (const { call, answer } of table(at(level), MINE)) {
      if (foreign(call.target)) holds(isNo(answer), call);
      if (answer.decision === "ask") holds(!answer.targets.some(foreign), call);
      if (answer.decision === "allow") holds(!foreign(answer.target), call);
    }
    for (const { call, answer } of table(at(level), FOREIGN)) {
      const mine = (target: string) => MINE.includes(target.replace("@dispvm:", ""));
      if (mine(call.target)) holds(isNo(answer), call);
      if (answer.decision === "ask") holds(!answer.targets.some(mine), call);
    }
  });

test("a level may what the next lower one may: admin, operator, user, guest; and what a kiosk may a user may", () => {
  const rank = { deny: 0, ask: 1, allow: 2 };
  const below: [Level, Level][] = [
    ["operator", "admin"],
    ["user", "operator"],
    ["guest", "user"],
    ["kiosk", "user"],
  ];
  for (const [lower, higher] of below)
    for (const { call, answer } of table(at(lower), [ASKS]))
      assert.ok(
        rank[at(higher).evaluate(call).decision] >= rank[answer.decision],
        `${higher}: ${JSON.stringify(call)}`,
      );
});

test("a guest makes disposables and nothing else", () => {
  const made = [...table(at("guest"), [ASKS])].filter(
    ({ call, answer }) =>
      !isNo(answer) && (call.target.startsWith("@dispvm") || /Create|Clone|Import|Remove/.test(call.service)),
  );
  assert.equal(new Set(made.map(({ call }) => call.service)), new Set(["qubes.StartApp"]));
  assert.equal(
    new Set(made.map(({ answer }) => answer.decision === "allow" && answer.target)),
    new Set(["@dispvm:web-dvm"]),
  );
});

test("a kiosk starts its list and nothing else, and its qubes start nothing", () => {
  const started = [...table(at("kiosk"), MINE)].filter(
    ({ call, answer }) =>
      !isNo(answer) &&
      /StartApp|OpenInVM|OpenURL|VM(Shell|Exec)|admin\.vm\.(Start|Create)|Filecopy|Clipboard/.test(
        call.service,
      ),
  );
  assert.equal(
    new Set(started.map(({ call }) => `${call.source} ${call.argument} ${call.target}`)),
    new Set(["sys-gui +firefox @dispvm:web-dvm", "sys-gui +firefox @dispvm", "sys-gui +thunderbird mail"]),
  );
});

test("the laws hold over the whole of a host's policy, and a rule that breaks one is named", () => {
  for (const level of LEVELS)
    assert.equal(breaches(sampleRules(level), SAMPLE, [samplePrincipal(level)]), []);
  const with30 = (text: string) =>
    breaches(loadPolicy({ ...sampleFiles("user"), [`${POLICY}/30-user.policy`]: text }).rules, SAMPLE, [
      samplePrincipal("user"),
    ]);
  assert.equal(with30("qubes.VMShell + sys-gui work allow\n"), [
    `sys-gui may ask work for qubes.VMShell+ (any command in another qube), below level admin, by ${POLICY}/30-user.policy:1`,
  ]);
  assert.equal(with30("a.B + work bob-work allow\n"), [
    `work may ask bob-work, which is not its own, for a.B, by ${POLICY}/30-user.policy:1`,
  ]);
  assert.match(
    with30("a.B + work sys-net ask\na.B + work @anyvm allow\n").join("\n"),
    /work may be offered @dispvm:bob-dvm, bob-dvm, bob-work, sys-gui-bob, not its own, for a.B/,
  );
});

test("without being kept apart, a prompt of one offers the other's qubes (so the laws above are the rules' work)", () => {
  const files = withGrant(STOCK, grantOf({ ...samplePrincipal("user"), apart: [] }));
  const answer = new Evaluator(loadPolicy(files).rules, SAMPLE).evaluate({
    service: "qubes.Filecopy",
    argument: "+",
    source: "work",
    target: "",
  });
  assert.ok(answer.decision === "ask" && answer.targets.includes("bob-work"));
  assert.ok(breaches(loadPolicy(files).rules, SAMPLE, [samplePrincipal("user")]).length > 0);
});

test("without a level, Qubes' own formula gives its GUI domain PCI devices and the kernel (what the levels narrow)", () => {
  const files = {
    ...STOCK,
    [`${POLICY}/include/admin-local-rwx`]: "sys-gui @tag:guivm-sys-gui allow target=dom0\n",
  };
  const text = breaches(loadPolicy(files).rules, SAMPLE, [
    { ...samplePrincipal("operator"), apart: [] },
  ]).join("\n");
  assert.match(text, /device\.pci\.Assign/);
  assert.match(text, /property\.Set\+kernelopts/);
  // and with one it does not matter that the lines are still there
  const narrowed = withGrant(files, grantOf(samplePrincipal("operator")));
  assert.equal(breaches(loadPolicy(narrowed).rules, SAMPLE, [samplePrincipal("operator")]), []);
});

// --- rules of one's own

const principal = (args: object): Principal => {
  const parsed = parsePrincipal({ qube: ASKS, level: "user", apart: [SOMEBODY_ELSE], ...args });
  if ("faults" in parsed) throw new Error(JSON.stringify(parsed.faults));
  return parsed.principal;
};
const rulesWith = (args: object) => loadPolicy(withGrant(STOCK, grantOf(principal(args)))).rules;

test("a rule of one's own adds, takes away, and is seen in the difference", () => {
  const before = rulesWith({});
  const after = rulesWith({
    rules: ["qubes.Gpg * sys-gui sys-net ask", "qubes.ClipboardCopy + sys-gui mail deny"],
  });
  assert.is(
    differenceText(difference(before, after, SAMPLE)),
    `sys-gui may from now on:
  other services
    qubes.Gpg: sys-net [deny → ask]
sys-gui may no longer:
  carry text and files between qubes
    qubes.ClipboardCopy (no argument): mail [allow → deny]
`,
  );
});

test("a rule of one's own opens nothing of somebody else", () => {
  const rules = rulesWith({
    rules: ["qubes.Filecopy * @tag:guivm-sys-gui bob-work allow", "qubes.Filecopy * sys-gui bob-work allow"],
  });
  assert.equal(breaches(rules, SAMPLE, [principal({})]), []);
});

// --- files

test("each level's file has no fault, and its features make what it creates its own", () => {
  for (const level of LEVELS) {
    assert.equal(lintOwn(levelFile(ASKS), sampleFiles(level), SAMPLE), []);
    assert.equal(grantOf({ ...samplePrincipal(level), tag: "owner-alice" }).features, {
      "set-created-guivm": ASKS,
      "tag-created-vm-with": "owner-alice",
    });
  }
  assert.is(levelFile("Sys-GUI"), `${POLICY}/46-level-sys-gui.policy`);
});

test("a level put on a host and taken off again leaves the host as it was", () => {
  const shared = "# Entries go below\nother-vm @adminvm allow target=dom0\n";
  const host: Files = {
    ...STOCK,
    [`${POLICY}/include/admin-global-rwx`]: shared,
    [`${POLICY}/30-user.policy`]: "# mine\n",
  };
  for (const level of LEVELS) {
    const grant = grantOf(samplePrincipal(level));
    const on = withGrant(host, grant);
    assert.not.equal(on, host);
    assert.equal(withGrant(on, grant), on);
    assert.equal(withoutGrant(on, grant), host);
  }
});

test("lines are appended once and taken out however they are spelled; the others stay", () => {
  const lines = ["sys-gui @adminvm allow target=dom0", "sys-gui sys-gui allow target=dom0"];
  assert.is(withLines("# x\n", lines), `# x\n${lines.join("\n")}\n`);
  assert.is(
    withLines("sys-gui\t$adminvm  allow,target=dom0\n", lines),
    `sys-gui\t$adminvm  allow,target=dom0\n${lines[1]}\n`,
  );
  assert.is(
    withoutLines(
      "# x\nsys-gui\t$adminvm  allow,target=dom0\n!include include/y\nsys-gui-2 @adminvm allow target=dom0\n",
      lines,
    ),
    "# x\n!include include/y\nsys-gui-2 @adminvm allow target=dom0\n",
  );
  const some = ["# c", `#${lines[0]}`, "", " ", "a b allow", "x @adminvm deny"];
  const text = fc.array(fc.constantFrom(...some, ...lines)).map((list) => list.join("\n"));
  fc.assert(
    fc.property(text, (before) => {
      const on = withLines(before, lines);
      assert.is(withLines(on, lines), on);
      assert.ok(lines.every((line) => hasLine(on, line)));
      assert.is(withoutLines(on, lines), withoutLines(before, lines));
    }),
  );
  const without = fc.array(fc.constantFrom(...some)).map((list) => list.join("\n"));
  fc.assert(
    fc.property(without, (before) => assert.is(withoutLines(withLines(before, lines), lines), before)),
  );
});

test.run();
