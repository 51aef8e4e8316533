/** Who may do what, as a program says it: what is taken, and what is refused under which name. */
import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { qubeNameFault } from "../model/names.ts";
import { grantOf } from "./levels.ts";
import { lintOwn } from "./lint.ts";
import { parseFile } from "./parse.ts";
import { parsePrincipal } from "./principal.ts";

const faults = (value: unknown): [string, string][] => {
  const parsed = parsePrincipal(value);
  return "faults" in parsed ? parsed.faults.map(({ property, reason }) => [property, reason]) : [];
};
const said = (value: unknown) => faults(value).map(([property, reason]) => `${property}: ${reason}`);

const HOSTILE: [string, string][] = [
  ["a blank", "sys gui"],
  ["a quote", `sys"gui`],
  ["a newline", "sys-gui\n* * @anyvm @anyvm allow"],
  ["an at", "@anyvm"],
  ["a path", "../../etc/shadow"],
  ["other letters", "sys-güi"],
  ["10 kB", "x".repeat(10_240)],
  ["nothing", ""],
  ["an option", "-x"],
  ["a comment", "#x"],
];
const KIOSK = { qube: "sys-gui", level: "kiosk" };
const PLACES: [string, (bad: string) => object][] = [
  ["qube", (bad) => ({ qube: bad, level: "user" })],
  ["tag", (bad) => ({ qube: "sys-gui", level: "user", tag: bad })],
  ["apart[1]", (bad) => ({ qube: "sys-gui", level: "user", apart: ["other", bad] })],
  ["apps[0].app", (bad) => ({ ...KIOSK, apps: [{ app: bad, qube: "work" }] })],
  ["apps[0].qube", (bad) => ({ ...KIOSK, apps: [{ app: "firefox", qube: bad }] })],
  ["apps[0].disposable", (bad) => ({ ...KIOSK, apps: [{ app: "firefox", disposable: bad }] })],
  ["rules[0]", (bad) => ({ qube: "sys-gui", level: "user", rules: [`qubes.Filecopy * ${bad} work ask`] })],
];
for (const [field, give] of PLACES)
  for (const [what, bad] of HOSTILE)
    test(`${field} with ${what} is refused by its name`, () => {
      // A tag may begin with "-", a rule without a source is one with a word too few.
      if (field === "tag" && what === "an option") return assert.equal(faults(give(bad)), []);
      const [fault, ...more] = faults(give(bad));
      assert.equal(more, []);
      assert.is(fault?.[0], field);
      assert.ok(fault && fault[1].length < 400 && !/[\n\ufffd-\uffff]/.test(fault[1]), fault?.[1]);
    });

test("a control character, a carriage return or a second line cannot hide in a rule", () => {
  for (const bad of ["\r", "\u0085", "\u2028", "\0", "\n", "\x1c"])
    assert.equal(
      faults({
        qube: "sys-gui",
        level: "user",
        rules: [`qubes.Filecopy * sys-gui work ask${bad}* * * * allow`],
      })[0]?.[0],
      "rules[0]",
    );
});

test("a GUI domain's name must be one that its tag can carry", () => {
  assert.equal(said({ qube: "sys.gui", level: "user" }), [
    `qube: "sys.gui" cannot be a GUI domain: Qubes marks the qubes that it shows with the tag "guivm-sys.gui", and a tag takes no "."; choose a name without one`,
  ]);
});

const REFUSED: [string, object, string][] = [
  [
    "an admin right on a guest level",
    { level: "guest", rules: ["admin.vm.Create.AppVM * sys-gui dom0 allow"] },
    "rules[0]: admin.vm.Create.AppVM is an admin right, and sys-gui is at level guest, which changes nothing on the host; take the rule out",
  ],
  [
    "a command line below admin",
    { level: "operator", rules: ["qubes.VMShell * sys-gui work ask"] },
    "rules[0]: qubes.VMShell is for admins (any command in another qube), and sys-gui is at level operator; take the rule out",
  ],
  [
    "a PCI device below admin",
    { level: "user", rules: ["admin.vm.device.pci.Assign * sys-gui work allow target=dom0"] },
    "rules[0]: admin.vm.device.pci.Assign is for admins (PCI devices), and sys-gui is at level user; take the rule out",
  ],
  [
    "the kernel, by name and within all properties",
    {
      level: "operator",
      rules: [
        "admin.vm.property.Set +kernel sys-gui work allow target=dom0",
        "admin.vm.property.Set * sys-gui work allow target=dom0",
      ],
    },
    "rules[0]: admin.vm.property.Set+kernel is for admins (kernel, a property that carries rights), and sys-gui is at level operator; take the rule out",
  ],
  [
    "a feature that may carry rights",
    { level: "operator", rules: ["admin.vm.feature.Set +service.guivm sys-gui work allow target=dom0"] },
    "rules[0]: admin.vm.feature.Set+service.guivm is for admins (feature service.guivm, which may carry rights), and sys-gui is at level operator; take the rule out",
  ],
  [
    "dom0's policy",
    { level: "user", rules: ["policy.Replace * sys-gui dom0 allow"] },
    "rules[0]: policy.Replace is for admins (dom0's policy), and sys-gui is at level user; take the rule out",
  ],
  [
    "somebody else's rights",
    { level: "user", rules: ["qubes.Filecopy * sys-gui-bob work ask"] },
    `rules[0]: its source is "sys-gui-bob"; rules of one's own are about what sys-gui and its qubes may ask: allowed are sys-gui, @tag:guivm-sys-gui`,
  ],
  [
    "every qube of the host",
    { level: "user", rules: ["qubes.Filecopy * sys-gui @anyvm ask"] },
    "rules[0]: its target is @anyvm, which means every qube of the host; name a qube, @tag:guivm-sys-gui, @dispvm:@tag:guivm-sys-gui, @default or dom0",
  ],
  [
    "an application beside a kiosk's list",
    {
      level: "kiosk",
      apps: [{ app: "firefox", qube: "work" }],
      rules: ["qubes.StartApp +xterm sys-gui work allow"],
    },
    "rules[0]: what a kiosk starts stands in apps; list the application there",
  ],
  [
    "a rule that is none",
    { level: "user", rules: ["!include x"] },
    `rules[0]: "!include x" is no rule; give SERVICE ARGUMENT SOURCE TARGET ACTION [OPTION=VALUE …]`,
  ],
  [
    "a kiosk without a list",
    { level: "kiosk" },
    "apps: level kiosk starts only what is listed; name at least one application",
  ],
  [
    "a list without a kiosk",
    { level: "user", apps: [{ app: "firefox", qube: "work" }] },
    "apps: only level kiosk has a list of applications, not level user; leave it out",
  ],
  [
    "an application in no place",
    { level: "kiosk", apps: [{ app: "firefox" }] },
    "apps[0]: firefox is started in a qube or in a disposable; give exactly one of qube, disposable",
  ],
  [
    "a level",
    { level: "root" },
    `level: "root" is not allowed; allowed are "admin", "operator", "user", "guest", "kiosk"`,
  ],
  [
    "a tag of Qubes' own",
    { level: "user", tag: "guivm-sys-gui-bob" },
    `tag: "guivm-sys-gui-bob" is a tag that Qubes sets by itself; choose another, such as "owner-alice"`,
  ],
  [
    "an unknown field",
    { level: "user", user: "alice" },
    "user: not a property of an access; allowed are qube, level, tag, apps, rules, apart, barred, power",
  ],
];
for (const [what, args, words] of REFUSED)
  test(`refused: ${what}`, () => assert.is(said({ qube: "sys-gui", ...args })[0], words));

test("what is refused below admin an admin may have, and a denial everybody", () => {
  for (const [, args] of REFUSED.slice(0, 6)) {
    const { rules } = args as { rules: string[] };
    assert.equal(said({ qube: "sys-gui", level: "admin", rules }), []);
    const denials = rules.map((each) => each.replace(/ (allow|ask)( target=dom0)?$/, " deny"));
    assert.equal(said({ qube: "sys-gui", level: "guest", rules: denials }), []);
  }
});

const anyText = fc.oneof(
  { weight: 5, arbitrary: fc.stringMatching(/^[a-zA-Z][a-zA-Z0-9_-]{0,10}$/) },
  fc.stringMatching(/^[a-z@.\n "'#+-]{1,8}$/),
  fc.string({ unit: "binary", maxLength: 12 }),
);
test("whatever is taken stands in the policy as it was given, and nothing besides", () => {
  let taken = 0;
  fc.assert(
    fc.property(anyText, anyText, anyText, anyText, (qube, other, app, at) => {
      const parsed = parsePrincipal({ qube, level: "kiosk", apps: [{ app, qube: at }], apart: [other] });
      if ("faults" in parsed) return;
      taken++;
      assert.is(qubeNameFault(qube) ?? qubeNameFault(at), null);
      const { files } = grantOf(parsed.principal);
      const [[file = "", text = ""] = []] = Object.entries(files);
      assert.equal(lintOwn(file, files), []);
      const { lines } = parseFile(file, text);
      const apps = lines.flatMap((line) =>
        line.kind === "rule" && line.rule.service === "qubes.StartApp" && line.rule.action === "allow"
          ? [line.rule]
          : [],
      );
      assert.equal(apps, [
        {
          service: "qubes.StartApp",
          argument: `+${app}`,
          source: qube,
          target: at,
          action: "allow",
          options: {},
        },
      ]);
      const words = lines.flatMap((line) =>
        line.kind === "rule" ? [line.rule.source, line.rule.target] : [],
      );
      const known = [qube, other, at].flatMap((name) => [
        name,
        `@tag:guivm-${name}`,
        `@dispvm:@tag:guivm-${name}`,
      ]);
      assert.equal(
        [...new Set(words)].filter((word) => ![...known, "dom0", "@default", "@anyvm", "*"].includes(word)),
        [],
      );
    }),
    { numRuns: 3000 },
  );
  assert.ok(taken > 100, `${taken} taken`);
});

test.run();
