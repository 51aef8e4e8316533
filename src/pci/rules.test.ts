/** Plans that would cost the screen, the keyboard, the disks or the way in. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { Facts, PciFunction, QubeSnapshot } from "../host/protocol.ts";
import { type Grant, hostRules } from "./rules.ts";
import { profileFacts, snapshotWith } from "./testing/profile.ts";

const base = profileFacts("system76-oryx-pro-rtx2060");
const DISK = "0000:06:00.0";
const NIC = "0000:08:00.0";
const USB = "0000:00:14.0";
const IGPU = "0000:00:02.0";
const DGPU = "0000:01:00.0";

const patched = (facts: Facts, sbdf: string, patch: Partial<PciFunction>): Facts => ({
  ...facts,
  pci: facts.pci.map((fn) => (fn.sbdf === sbdf ? { ...fn, ...patch } : fn)),
});
const booted = (facts: Facts, boot: Partial<Facts["boot"]>): Facts => ({
  ...facts,
  boot: { ...facts.boot, ...boot },
});

function qube(
  patch: Partial<QubeSnapshot> & { true?: string[]; devices?: [string, string][] },
): QubeSnapshot {
  const { true: on = [], devices = [], ...rest } = patch;
  return {
    class: "AppVM",
    state: "Halted",
    properties: Object.fromEntries(on.map((name) => [name, { default: false, value: "True" }])),
    features: {},
    tags: [],
    pci: devices.map(([port, device]) => ({ port, device, mode: "required", options: {} })),
    guidRunning: false,
    session: false,
    ...rest,
  };
}

type Want = [sbdf: string, qube?: string, options?: Partial<Grant>];
function broken(facts: Facts, wants: Want[], qubes: Record<string, QubeSnapshot> = {}) {
  const grants = wants.map(([sbdf, to = "work", options = {}]) => {
    const device = facts.pci.find((fn) => fn.sbdf === sbdf);
    if (!device) throw new Error(sbdf);
    return { device, qube: to, hide: false, ...options };
  });
  const refused = hostRules(grants, snapshotWith(facts, qubes));
  for (const { what, next } of refused) {
    assert.ok(what.length > 20 && !what.endsWith("."), what);
    assert.ok(next.length > 10 && !next.endsWith("."), next);
  }
  return refused;
}
const rules = (...args: Parameters<typeof broken>) => broken(...args).map(({ rule }) => rule);

test("devices that nothing hangs on break no rule", () => {
  assert.equal(rules(base, [[USB], [NIC, "net"], ["0000:09:00.0"]]), []);
  assert.equal(rules(base, []), []);
});

test("one device for two qubes", () => {
  const [refused] = broken(base, [
    [NIC, "net"],
    [NIC, "work"],
  ]);
  assert.is(refused?.rule, "twice");
  assert.match(refused?.what ?? "", '"net" and "work"');
});

test("a bridge, and other parts of the machine", () => {
  for (const sbdf of ["0000:00:1b.0", "0000:00:1f.0", "0000:00:1f.4", "0000:00:1f.5", "0000:00:14.2"])
    assert.equal(rules(base, [[sbdf]]), ["system-device"], sbdf);
});

test("the disk controller that dom0 uses; another one may go", () => {
  const used = patched(base, DISK, { disks: ["nvme0n1"] });
  assert.equal(rules(used, [[DISK]]), ["storage"]);
  assert.match(broken(used, [[DISK]])[0]?.what ?? "", "nvme0n1");
  assert.equal(rules(base, [[DISK]]), []);
  // dom0 may run from a stick: then its USB controller is storage.
  assert.equal(rules(patched(base, USB, { disks: ["sda"] }), [[USB]]), ["storage"]);
});

test("the network card of the way in: dom0's own, or of a qube that gives network", () => {
  assert.equal(rules(patched(base, NIC, { nets: ["enp8s0"] }), [[NIC]]), ["way-in"]);
  const port = "00_1d.6-00_00.0";
  const id = "0x10ec:0x8168::p020000";
  for (const [sysNet, expected] of [
    [qube({ state: "Running", true: ["provides_network"], devices: [[port, id]] }), ["way-in"]],
    [qube({ true: ["provides_network", "autostart"], devices: [[port, "*"]] }), ["way-in"]],
    [qube({ state: "Running", devices: [[port, id]] }), ["in-use"]],
    [qube({ true: ["autostart"], devices: [[port, id]] }), ["in-use"]],
    // Halted and started by hand: the second start would fail, nothing is lost.
    [qube({ true: ["provides_network"], devices: [[port, id]] }), []],
    // Its assignment is of a device that is not there any more.
    [qube({ state: "Running", devices: [[port, "0x8086:0x1502::p020000"]] }), []],
  ] as const)
    assert.equal(rules(base, [[NIC, "work"]], { "sys-net": sysNet }), expected);
  const running = qube({ state: "Running", devices: [[port, id]] });
  assert.equal(rules(base, [[NIC, "sys-net"]], { "sys-net": running }), []);
  assert.match(
    broken(base, [[NIC]], { "sys-net": running })[0]?.what ?? "",
    'qube "sys-net", which is running',
  );
});

test("a display that dom0 drives is never pulled; hidden at boot it may go", () => {
  assert.equal(rules(base, [[DGPU]]), ["live-display"]);
  assert.equal(rules(base, [[DGPU, "gui", { hide: true }]]), []);
  assert.equal(rules(patched(base, DGPU, { driver: "pciback" }), [[DGPU]]), []);
});

test("the last screen only with a way back", () => {
  const without = booted(base, { oneShot: false, oneShotWhy: "/boot lies on LVM" });
  const unknown = booted(base, { oneShot: null, oneShotWhy: "grub.cfg could not be read" });
  const both: Want[] = [
    [IGPU, "gui", { hide: true }],
    [DGPU, "gui", { hide: true }],
  ];
  assert.equal(rules(base, both), []);
  for (const facts of [without, unknown]) assert.equal(rules(facts, both), ["last-screen"]);
  assert.match(broken(without, both)[0]?.what ?? "", "/boot lies on LVM");
  // One of two, and it is not known which the firmware lights: dom0 keeps one.
  assert.equal(rules(without, both.slice(0, 1)), []);
  assert.equal(rules(patched(without, IGPU, { bootVga: true }), both.slice(0, 1)), ["last-screen"]);
  const single = profileFacts("lenovo-thinkpad-x230");
  assert.equal(rules(booted(single, { oneShot: false }), [[IGPU, "gui", { hide: true }]]), ["last-screen"]);
});

test("the only keyboard on a controller that is given away", () => {
  const usb = { ...patched(base, USB, { inputs: ["keyboard", "mouse"] }), keyboards: [`usb:${USB}`] };
  assert.equal(rules(usb, [[USB, "sys-usb"]]), ["only-keyboard"]);
  assert.equal(rules({ ...usb, keyboards: ["ps2", `usb:${USB}`] }, [[USB, "sys-usb"]]), []);
  // Only one of the two sources says it.
  assert.equal(rules({ ...base, keyboards: [`usb:${USB}`] }, [[USB]]), ["only-keyboard"]);
  assert.equal(rules({ ...usb, keyboards: null }, [[USB]]), ["only-keyboard"]);
  // Not known, and nothing says that one hangs there.
  assert.equal(rules({ ...base, keyboards: null }, [[USB]]), []);
  const second = "0000:01:00.2";
  const two = {
    ...patched(usb, second, { inputs: ["keyboard"] }),
    keyboards: [`usb:${USB}`, `usb:${second}`],
  };
  assert.equal(rules(two, [[USB]]), []);
  assert.equal(rules(two, [[USB], [second]]), ["only-keyboard"]);
});

test("a keyboard that its qube hands back, and the passphrase at boot", () => {
  const usb = { ...patched(base, USB, { inputs: ["keyboard"] }), keyboards: [`usb:${USB}`] };
  const locked = booted(usb, { unattended: false, unattendedWhy: "a passphrase is asked for" });
  const back = { inputBack: true };
  assert.equal(rules(usb, [[USB, "sys-usb", back]]), []);
  assert.equal(rules(usb, [[USB, "sys-usb", { ...back, hide: true }]]), []);
  assert.equal(rules(locked, [[USB, "sys-usb", back]]), []);
  assert.equal(rules(locked, [[USB, "sys-usb", { ...back, hide: true }]]), ["passphrase-keyboard"]);
  assert.equal(rules(booted(usb, { unattended: null }), [[USB, "sys-usb", { ...back, hide: true }]]), [
    "passphrase-keyboard",
  ]);
  assert.equal(
    rules({ ...locked, keyboards: ["ps2", `usb:${USB}`] }, [[USB, "sys-usb", { ...back, hide: true }]]),
    [],
  );
  assert.equal(rules(locked, [[USB, "sys-usb", { hide: true }]]), ["only-keyboard"]);
  // Of two that go, one comes back.
  const second = "0000:01:00.2";
  const two = {
    ...patched(usb, second, { inputs: ["keyboard"] }),
    keyboards: [`usb:${USB}`, `usb:${second}`],
  };
  assert.equal(
    rules(two, [
      [USB, "sys-usb", back],
      [second, "gui"],
    ]),
    [],
  );
});

test("every rule that is broken is said, not the first alone", () => {
  const facts = {
    ...patched(base, USB, { inputs: ["keyboard"], disks: ["sda"] }),
    keyboards: [`usb:${USB}`],
  };
  assert.equal(rules(facts, [[USB], ["0000:00:1b.0"]]).sort(), ["only-keyboard", "storage", "system-device"]);
});

test("a plan's function from an earlier look is judged by this one", () => {
  const used = patched(base, DISK, { disks: ["nvme0n1"] });
  const old = base.pci.find(({ sbdf }) => sbdf === DISK);
  if (!old) throw new Error(DISK);
  assert.equal(
    hostRules([{ device: old, qube: "work", hide: false }], snapshotWith(used)).map(({ rule }) => rule),
    ["storage"],
  );
});

test.run();
