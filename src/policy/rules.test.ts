/** The policy of a GUI domain: its form, and that it holds the rules of qubes-host.md (f) and no others. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import { settingsOf } from "../formula/settings.ts";
import { guiOf } from "../plan/testing/cases.ts";
import { rulesOf } from "./rules.ts";

/** V is the GUI domain, T the tag of its clients. */
const EXPECTED = [
  "policy.EvalGUI +qubes.ClipboardPaste V dom0 allow",
  "qubes.GetImageRGBA * V T allow",
  "qubes.GetAppmenus * V T allow",
  "qubes.GetAppmenus * V @type:TemplateVM allow",
  "qubes.SetMonitorLayout * V T allow",
  "qubes.StartApp * V T allow",
  "qubes.StartApp * V @dispvm:T allow",
  "qubes.WaitForSession * V T allow",
  "qubes.ClipboardCopy + V T allow",
  "qubes.ClipboardPaste + V T allow",
  "qubes.SyncAppMenus * T dom0 allow target=V",
  "qubes.WindowIconUpdater * T dom0 allow target=V",
  "qubes.Notifications * T @default allow target=V autostart=no",
  "admin.vm.List * V dom0 allow",
  "admin.vm.List * V T allow target=dom0",
  "admin.Events * V dom0 allow",
  "admin.Events * V T allow target=dom0",
  "admin.label.Get * V dom0 allow",
  "admin.label.Index * V dom0 allow",
  "admin.vm.property.Get * V dom0 allow",
  "admin.vm.volume.List * V dom0 allow",
  "admin.vm.CurrentState * V dom0 allow",
  "admin.vm.device.pci.Available * V dom0 allow",
  "admin.vm.device.mic.Available * V dom0 allow",
  "admin.vm.feature.Get +internal V dom0 allow",
  "admin.vm.feature.Get +servicevm V dom0 allow",
  "admin.vm.feature.Set +keyboard-layout V V allow target=dom0",
];
const POWER = "qubes.PowerSupply * V @default allow target=dom0";
const BRIGHTNESS = "qubes.SetBrightness * V @default allow target=dom0";

const policyOf = (qube: string, args: object) => {
  const gui = guiOf(qube, { host: "lab", ...args });
  return (
    settingsOf(gui, gui.display[0] ?? "xephyr").files[
      `/etc/qubes/policy.d/50-gui-${qube.toLowerCase()}.policy`
    ] ?? ""
  );
};

const CASES: [string, object, string[]][] = [
  ["sys-gui", {}, [POWER, BRIGHTNESS]],
  ["My_gui-1", { hostPackages: [] }, []],
  [
    "sys-gui-vnc",
    { display: ["vnc"], viewers: ["work", "vault"] },
    [
      POWER,
      "qubes.ConnectTCP +5900 work @default allow target=V",
      "qubes.ConnectTCP +5900 vault @default allow target=V",
    ],
  ],
];

for (const [qube, args, more] of CASES)
  test(`the rules of ${qube} ${JSON.stringify(args)}`, () => {
    const rules = rulesOf(policyOf(qube, args));
    const meant = [...EXPECTED, ...more].map((rule) =>
      rule.replace(/\bT\b/g, `@tag:guivm-${qube}`).replace(/\bV\b/g, qube),
    );
    assert.equal([...rules].sort(), [...meant].sort());
    for (const rule of rules) {
      // service argument source destination action options: qubes-host.md (f)
      assert.match(rule, /^[A-Za-z.]+ (\*|\+\S*) \S+ \S+ allow( (target=[A-Za-z0-9_.-]+|autostart=no))*$/);
      assert.ok(!rule.includes(","));
    }
  });

test("comments, blanks and empty lines say nothing; order does", () => {
  const text = "# x\n\n  a.B \t *  one\ttwo   allow\n#y\nc.D + one two deny\r\n";
  assert.equal(rulesOf(text), ["a.B * one two allow", "c.D + one two deny"]);
});

test.run();
