/** Questions in words: what is answered, and with which exit status. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import { type Asking, explainReply, mayReply } from "./command.ts";
import { LEVELS, type Level } from "./principal.ts";
import { ASKS, SAMPLE, sampleRules } from "./sample.ts";

const at = (level: Level): Asking => ({ source: ASKS, rules: sampleRules(level), facts: SAMPLE });

/** Without the number of the line that decided. */
const may = (level: Level, question: string, target: string) => {
  const { status, text } = mayReply(at(level), question, target);
  return [status, text.replace(/:\d+:/, ":N:")];
};

test("may: allowed, asked first, denied", () => {
  const file = "  /etc/qubes/policy.d/46-level-sys-gui.policy:N:";
  assert.equal(may("user", "qubes.StartApp+firefox", "work"), [
    0,
    `allowed: sys-gui → work: qubes.StartApp+firefox\n${file} qubes.StartApp * sys-gui @tag:guivm-sys-gui allow\n`,
  ]);
  assert.equal(may("guest", "qubes.StartApp+xterm", "@dispvm"), [
    0,
    `allowed: sys-gui → @dispvm: qubes.StartApp+xterm, answered by @dispvm:web-dvm\n${file} qubes.StartApp * sys-gui @dispvm:@tag:guivm-sys-gui allow\n`,
  ]);
  assert.equal(may("user", "qubes.Filecopy", "work"), [
    0,
    `a person is asked first: sys-gui → work: qubes.Filecopy; offered: mail, web-dvm, work\n${file} qubes.Filecopy * sys-gui @tag:guivm-sys-gui ask\n`,
  ]);
  assert.equal(may("kiosk", "qubes.StartApp+xterm", "work"), [
    1,
    `denied: sys-gui → work: qubes.StartApp+xterm\n${file} * * sys-gui * deny notify=no\n`,
  ]);
  assert.equal(may("admin", "policy.Replace+30-user", "dom0"), [
    1,
    "denied: sys-gui → dom0: policy.Replace+30-user: no rule fits\n",
  ]);
});

const NO_QUESTION: [string, string, string][] = [
  [
    "qubes.StartApp",
    "nobody",
    `not a question: target: "nobody" is not on this host; there are dom0, sys-net, `,
  ],
  [
    "qubes.StartApp",
    "@anyvm",
    `not a question: target: "@anyvm" is not allowed there; allowed are a qube's name, @adminvm, @default, @dispvm, @dispvm:NAME`,
  ],
  ["qubes.StartApp", "@dispvm:work", `not a question: target: "@dispvm:work" is not on this host`],
  ["qubes/StartApp", "work", `not a question: service: "qubes/StartApp" is not a service`],
  ["*", "work", "not a question: service:"],
  ["", "work", "not a question: service:"],
  ["qubes.StartApp+fire fox", "work", `not a question: argument: "+fire fox" is not an argument`],
];
for (const [question, target, words] of NO_QUESTION)
  test(`may ${question} ${target}: not a question`, () => {
    const { status, text } = mayReply(at("user"), question, target);
    assert.is(status, 2);
    assert.ok(text.startsWith(words), text);
  });

test("explain: a kiosk, as a person reads it", () => {
  assert.is(
    explainReply(at("kiosk")).text,
    `sys-gui may:
  start applications
    qubes.StartApp (firefox): new disposables of its qubes, a new disposable
    qubes.StartApp (thunderbird): mail
  settings of qubes
    admin.vm.feature.Set (keyboard-layout): itself
  see qubes and the system
    admin.Events, admin.vm.List: its qubes, dom0
    admin.label.{Get, Index}, admin.vm.device.mic.Available, admin.vm.device.pci.Available, admin.vm.volume.List: dom0
    admin.vm.CurrentState, admin.vm.property.Get: its qubes, dom0, itself
    admin.vm.feature.{CheckWithTemplate, List}, admin.vm.property.{GetAll, List}, admin.vm.tag.{Get, List}: its qubes, itself
    admin.vm.feature.Get (no argument, any other): its qubes, itself
    admin.vm.feature.Get (internal, servicevm): its qubes, dom0, itself
  show windows and menus
    qubes.{GetImageRGBA, SetMonitorLayout, WaitForSession}: its qubes
  keyboard, mouse, battery, brightness
    qubes.PowerSupply: nobody by name
  other services
    qubes.GetDate: nobody by name
sys-gui may not, whoever is asked:
  run any command
  the rules themselves
  PCI devices
  other devices
  shut the machine down, restart it, let it sleep
  start and stop qubes
  make and remove qubes
  the whole system
  carry text and files between qubes
(asked of a host as Qubes installs it; its qubes: work, mail, web-dvm; not its own: dom0, sys-net, sys-usb, fedora-43-xfce, bob-work, bob-dvm, sys-gui-bob)
`,
  );
});

test("explain: below admin no command, no rights, no PCI device, and nothing of somebody else", () => {
  for (const level of LEVELS) {
    const { status, text } = explainReply(at(level));
    assert.is(status, 0);
    const [, denied = ""] = text.split("may not, whoever is asked:\n");
    assert.is(
      denied.startsWith("  run any command\n  the rules themselves\n  PCI devices\n"),
      level !== "admin",
      level,
    );
    assert.not.match(text.replace(/\(asked of.*/, ""), /bob/);
  }
});

test.run();
