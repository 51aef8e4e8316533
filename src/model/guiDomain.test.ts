/** Each rule with a malformed description: the refusal names the property, the value and what is allowed. */
import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { description, qubeName } from "../plan/testing/cases.ts";
import { allPackages, inMode, modesOf, parseGuiDomain, programFaults } from "./guiDomain.ts";

type Args = Record<string, unknown>;

function faultsOf(args: unknown, name = "sys-gui"): string[] {
  const parsed = parseGuiDomain(name, args);
  return "faults" in parsed ? parsed.faults.map((f) => `${f.property}: ${f.reason}`) : [];
}

/** What is wrong, and each text that the refusal must hold. */
const malformed: [Args, ...string[]][] = [
  [{ host: undefined }, "host: missing"],
  [{ host: 7 }, "host: 7 is not allowed", "a name"],
  [{ host: "a/b" }, 'host: "a/b" is not a host\'s name', "letters, digits"],
  [{ qube: "1st" }, 'qube: "1st" is not a qube\'s name', "a letter first"],
  [{ qube: "sys gui" }, 'qube: "sys gui" is not a qube\'s name', "letters, digits"],
  [{ qube: "dom0" }, 'qube: "dom0" is reserved by Qubes', "another name"],
  [{ qube: "x-dm" }, 'qube: "x-dm" ends in "-dm"', "Xen"],
  [{ qube: "x".repeat(32) }, "has 32 characters", "at most 31"],
  [{ qube: 1 }, "qube: 1 is not allowed", "a name"],
  [{ display: "xephyr" }, 'display: "xephyr" is not allowed', "a list"],
  [{ display: [] }, "display: [] is not allowed", '"xephyr", "vnc"'],
  [{ display: ["x11"] }, 'display[0]: "x11" is not a display mode', '"xephyr", "vnc"'],
  [{ display: [3] }, "display[0]: 3 is not allowed", '"xephyr", "vnc"'],
  [{ display: ["xephyr", "vnc", "xephyr"] }, 'display[2]: "xephyr" is there twice', "tried once"],
  [{ display: ["dom0", "xephyr"] }, 'display[0]: "dom0" (the host\'s own screen', "can only be the last"],
  [{ display: ["dom0"] }, 'display: ["dom0"] asks for no GUI domain at all', '"gpu", "xephyr", "vnc"'],
  [{ display: ["gpu"], gpu: "8086" }, 'gpu: "8086" is not allowed', "by what it is"],
  [{ display: ["gpu"], gpu: { vendor: "intel" } }, 'gpu.vendor: "intel" is not allowed', "4 hex digits"],
  [{ gpu: { class: "display" } }, 'gpu: only mode "gpu" gives a display away', 'add "gpu" to display'],
  [{ display: ["gpu"], memory: 1000 }, 'memory: 1000 MiB is below what mode "gpu" needs', "2000 MiB"],
  [
    { display: ["gpu"], maxmem: 4000 },
    "maxmem: 4000 MiB: with PCI devices there is no memory balancing",
    "0",
  ],
  [{ reboot: "ask" }, 'reboot: "ask" is not allowed', '"never", "allowed"'],
  [{ retry: true }, "retry: true is not allowed", "a number or a text"],
  [{ onFallback: "ignore" }, 'onFallback: "ignore" is not allowed', '"warn", "accept", "fail"'],
  [{ limits: 5 }, "limits: 5 is not allowed", "start, checks, boot"],
  [{ limits: { boot: 5 } }, "limits.boot: 5 is not allowed", "from 60 to 7200"],
  [{ clients: "all" }, 'clients: "all" is not allowed', '"default" or a list of qubes'],
  [{ clients: ["good", "b d"] }, 'clients[1]: "b d" is not a qube\'s name', "letters, digits"],
  [{ clients: [1] }, "clients: [1] is not allowed", '"default" or a list of qubes'],
  [{ clients: ["sys-gui"] }, 'clients: "sys-gui" cannot be its own client', "dom0"],
  [{ restartClients: "always" }, 'restartClients: "always" is not allowed', '"never", "allowed"'],
  [{ session: "auto" }, 'session: "auto" is not allowed', '"choose", "preselect", "autologin"'],
  [{ session: "autologin" }, "sessionUser: missing", "dom0"],
  [{ sessionUser: "user" }, 'sessionUser: only session "autologin" takes a user', 'session "choose"'],
  [{ session: "autologin", sessionUser: "Über" }, 'sessionUser: "Über" is not the name of a user', "dom0"],
  [{ session: "preselect", display: ["vnc"] }, 'session: "preselect" is for mode "xephyr"'],
  [{ input: [] }, "input: [] is not allowed", "dom0, usb"],
  [{ input: { ps2: "allow" } }, "input.ps2: not a source of input", "dom0, usb"],
  [
    { display: ["gpu"], input: { dom0: "ask" } },
    'input.dom0: "ask" is not allowed',
    'allowed are "allow", "deny"',
  ],
  [{ input: { dom0: "deny" } }, 'input.dom0: "deny" is for mode "gpu"', "leave it out"],
  [{ input: { usb: {} } }, "input.usb: {} is not allowed", "a list"],
  [{ input: { usb: [{}] } }, 'input.usb[0]: nothing is said of "sys-usb"', "mouse, keyboard, tablet"],
  [
    { input: { usb: [{ keyboard: "yes" }] } },
    'input.usb[0].keyboard: "yes" is not allowed',
    '"allow", "ask", "deny"',
  ],
  [
    { input: { usb: [{ touch: "ask" }] } },
    "input.usb[0].touch: not a part of a USB qube's input",
    "mouse, keyboard, tablet, devices",
  ],
  [
    { input: { usb: [{ qube: "dom0", mouse: "ask" }] } },
    'input.usb[0].qube: "dom0" is no USB qube',
    "input.dom0",
  ],
  [
    { input: { usb: [{ qube: "sys-gui", mouse: "ask" }] } },
    'input.usb[0].qube: "sys-gui" is the GUI domain itself',
  ],
  [
    { input: { usb: [{ mouse: "ask" }, { qube: "sys-usb", keyboard: "ask" }] } },
    'input.usb[1].qube: "sys-usb" is there twice',
  ],
  [
    { input: { usb: [{ devices: [{ device: "a b", mouse: "ask" }] }] } },
    'input.usb[0].devices[0].device: "a b" is not a device',
    "letters, digits",
  ],
  [
    { input: { usb: [{ devices: [{ device: "é\n".repeat(5000), mouse: "ask" }] }] } },
    "input.usb[0].devices[0].device",
    "at most 200",
  ],
  [
    { input: { usb: [{ devices: [{ device: "3-1-2-3" }] }] } },
    'input.usb[0].devices[0]: nothing is said of "3-1-2-3"',
  ],
  [{ onDelete: "drop" }, 'onDelete: "drop" is not allowed', '"restore", "keep"'],
  [{ unreachable: "ignore" }, 'unreachable: "ignore" is not allowed', '"fail", "skip"'],
  [{ template: "sys-gui" }, 'template: "sys-gui" cannot be its own template'],
  [{ template: "a b" }, 'template: "a b" is not a qube\'s name'],
  [{ label: 1 }, "label: 1 is not allowed", "a text"],
  [{ memory: 10 }, "memory: 10 is not allowed", "from 64 to 1048576"],
  [{ memory: 64.5 }, "memory: 64.5 is not allowed", "whole number of MiB"],
  [{ memory: "400" }, 'memory: "400" is not allowed', "whole number of MiB"],
  [{ maxmem: -1 }, "maxmem: -1 is not allowed", "from 0 to"],
  [{ memory: 5000 }, "maxmem: 4000 MiB is below memory (5000 MiB)"],
  [{ vcpus: 0 }, "vcpus: 0 is not allowed", "from 1 to 128"],
  [{ autostart: "yes" }, 'autostart: "yes" is not allowed', "true or false"],
  [{ audiovm: "sys-gui" }, 'audiovm: "sys-gui" as its own audio domain', '"dom0", "" or another qube'],
  [{ audiovm: 1 }, "audiovm: 1 is not allowed", '"dom0", or "" for none'],
  [{ audiovm: "a b" }, 'audiovm: "a b"', "letters, digits"],
  [{ hostPackages: "x" }, 'hostPackages: "x" is not allowed', "a list"],
  [{ hostPackages: ["-x"] }, 'hostPackages[0]: "-x" is not the name of a package'],
  [{ viewers: "work" }, 'viewers: "work" is not allowed', "a list"],
  [{ viewers: ["work"] }, 'viewers: ["work"]', 'only modes "vnc" and "rdp" have viewers'],
  [{ remote: { password: "geheim12" } }, 'remote: only mode "vnc" has a password of its own'],
  [{ display: ["vnc"], remote: { password: "123456789" } }, "remote.password: ", "the value is not shown"],
  [{ display: ["vnc"], remote: { password: "short" } }, "remote.password: ", "6 to 8"],
  [{ display: ["vnc"], remote: { password: "ünicode" } }, "remote.password: ", "the value is not shown"],
  [{ display: ["vnc"], remote: { password: 12345678 } }, "remote.password: ", "the value is not shown"],
  [{ display: ["vnc"], remote: "geheim12" }, "remote: give { password }", "the value is not shown"],
  [{ display: ["vnc"], remote: { password: "geheim12", pin: 1 } }, "remote.pin: there is no such part"],
  [{ display: ["vnc"], viewers: ["sys-gui"] }, 'viewers: "sys-gui" cannot view itself'],
  [{ level: "boss" }, 'level: "boss" is not allowed', '"admin", "operator", "user", "guest", "kiosk"'],
  [{ level: ["user"] }, 'level: ["user"] is not allowed', '"admin", "operator", "user", "guest", "kiosk"'],
  [{ level: "kiosk" }, "apps: level kiosk starts only what is listed", "at least one application"],
  [{ level: "user", apps: [{ app: "x", qube: "work" }] }, "apps: only level kiosk has a list", "level user"],
  [
    { apps: [{ app: "x", qube: "work" }] },
    'apps: only level "kiosk" has a list of applications',
    "leave it out",
  ],
  [{ level: "kiosk", apps: "x" }, 'apps: "x" is not allowed', "a list"],
  [
    { level: "kiosk", apps: [{ app: "x" }] },
    "apps[0]: x is started in a qube or in a disposable",
    "exactly one",
  ],
  [
    { level: "kiosk", apps: [{ app: "a b", qube: "work" }] },
    'apps[0].app: "a b" is not an application',
    "letters",
  ],
  [{ level: "kiosk", apps: [{ app: "../x", qube: "work" }] }, 'apps[0].app: "../x" is not an application'],
  [{ level: "kiosk", apps: [{ app: "x", qube: "@anyvm" }] }, 'apps[0].qube: "@anyvm" is not a qube\'s name'],
  [{ level: "kiosk", apps: [{ app: "x", qube: "sys-gui" }] }, "apps[0]: sys-gui is the GUI domain itself"],
  [
    { rules: ["qubes.Filecopy * sys-gui work allow"] },
    "rules: rules of one's own come on top of a level",
    '"user"',
  ],
  [{ level: "user", rules: ["nonsense"] }, "rules[0]: line: 1 fields are too few"],
  [{ level: "user", rules: ["a.B * sys-gui work allow\n* * * * allow"] }, "rules[0]: ", "a rule is one line"],
  [
    { level: "user", rules: ["qubes.VMShell * sys-gui work allow"] },
    "rules[0]: qubes.VMShell is for admins (any command in another qube), and sys-gui is at level user",
  ],
  [
    { level: "user", rules: ["qubes.Filecopy * bobs work allow"] },
    'rules[0]: its source is "bobs"',
    "allowed are sys-gui, @tag:guivm-sys-gui",
  ],
  [{ colour: "red" }, "colour: not a property of a GUI domain", "allowed are apps, audiovm, autostart"],
];

for (const [args, ...texts] of malformed)
  test(`refused: ${JSON.stringify(args)}`, () => {
    const faults = faultsOf({ host: "lab", ...args });
    assert.is(faults.length, 1, faults.join("\n"));
    for (const text of texts) assert.ok(faults[0]?.includes(text), `${faults[0]} — lacks: ${text}`);
  });

test("a password that is refused is not shown", () => {
  for (const password of ["123456789", "short", "with blank"]) {
    const said = faultsOf({ host: "lab", display: ["vnc"], remote: { password } }).join();
    assert.ok(said && !said.includes(password), said);
  }
});

test("who lets viewers in by VNC asks them for a password; a state of before that may lack it", () => {
  const { remote: _, ...args } = { host: "lab", display: ["vnc"], viewers: ["work"], remote: null };
  const parsed = parseGuiDomain("sys-gui", args);
  assert.ok("gui" in parsed);
  if (!("gui" in parsed)) return;
  assert.match(
    programFaults(parsed.gui)
      .map((f) => `${f.property}: ${f.reason}`)
      .join(),
    /^remote: missing: .*\(work\)/,
  );
  assert.equal(programFaults({ ...parsed.gui, remote: { password: "geheim12" } }), []);
  assert.equal(programFaults({ ...parsed.gui, viewers: [] }), []);
  const rdp = { ...parsed.gui, display: ["rdp" as const] };
  assert.match(
    programFaults(rdp)
      .map((f) => `${f.property}: ${f.reason}`)
      .join(),
    /^login: missing: mode "rdp"/,
  );
  assert.equal(programFaults({ ...rdp, login: { follow: "dom0", user: "user" } }), []);
});

test("no object, and a resource's name that cannot be a qube's", () => {
  assert.match(faultsOf("x").join(), /"x" is not allowed; give the properties of a GUI domain/);
  assert.match(
    faultsOf({ host: "lab" }, "my gui").join(),
    /^qube: "my gui" is not a qube's name.*resource's name unless "qube" says/,
  );
  assert.match(
    faultsOf({ host: "lab" }, "sys.gui").join(),
    /^qube: "sys\.gui" cannot be a GUI domain: .* the tag "guivm-sys\.gui", and a tag takes no "\."/,
  );
  assert.match(faultsOf({ host: "lab", qube: "sys.gui" }).join(), /^qube: "sys\.gui" cannot be a GUI domain/);
  assert.equal(faultsOf({ host: "lab", qube: "sys-gui", clients: ["my.work"] }, "my gui"), []);
});

test("defaults of the modes", () => {
  const gui = (args: Args) => {
    const parsed = parseGuiDomain("sys-gui", { host: "lab", ...args });
    if ("faults" in parsed) throw new Error(JSON.stringify(parsed.faults));
    return parsed.gui;
  };
  const { display, clients, session, reboot, onFallback, retry, limits } = gui({});
  assert.equal([display, clients, session, reboot], [["xephyr"], [], "choose", "never"]);
  assert.equal([onFallback, retry, limits], ["warn", "", { start: 120, checks: 30, boot: 900 }]);
  const ladder = gui({ display: ["gpu", "xephyr", "vnc", "dom0"] });
  assert.equal(inMode(ladder, "gpu"), {
    memory: 2000,
    maxmem: 0,
    audiovm: "",
    hostPackages: ["dummy-psu-sender", "qubes-input-proxy-sender"],
  });
  assert.equal(inMode(ladder, "xephyr"), {
    memory: null,
    maxmem: 4000,
    audiovm: "dom0",
    hostPackages: ["dummy-backlight-dom0", "dummy-psu-sender"],
  });
  assert.equal(inMode(ladder, "vnc"), {
    memory: null,
    maxmem: 4000,
    audiovm: "",
    hostPackages: ["dummy-psu-sender"],
  });
  assert.equal(
    [modesOf(ladder), allPackages(ladder)],
    [
      ["gpu", "xephyr", "vnc"],
      ["dummy-backlight-dom0", "dummy-psu-sender", "qubes-input-proxy-sender"],
    ],
  );
  assert.is(inMode(gui({ display: ["gpu", "xephyr"], maxmem: 8000, memory: 3000 }), "gpu").maxmem, 0);
  assert.is(gui({ retry: 2 }).retry, "2");
});

test("a description that is stored describes the same again", () => {
  fc.assert(
    fc.property(qubeName, description, (name, args) => {
      const once = parseGuiDomain(name, args);
      assert.ok("gui" in once);
      const stored = Object.fromEntries(Object.entries(once.gui).filter(([, value]) => value !== null));
      assert.equal(parseGuiDomain("another name", JSON.parse(JSON.stringify(stored))), once);
    }),
  );
});

test.run();
