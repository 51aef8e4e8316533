// A device given for good, on real parts: engine, plugin, OpenSSH, agent, Salt, a twin that boots. Issue 4, "What must exist" 2.
// What counts is which device a qube has, not how its assignment spells that.

import { PciAttachment, type PciAttachmentArgs } from "guidomain";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { startTwin } from "../lab/twin/twin.ts";
import { fixture, type Machine, type MachineFunction } from "../lab/twin/world.ts";
import { hostOf, type Outcome, scratch, testStack } from "./harness.ts";

const laptop = fixture<Machine>("machines", "laptop");
/** The laptop with a dock behind a root port of its own, in slot `slot` of the root bus; null: without it. */
function docked(slot: string | null): Machine {
  const port: MachineFunction = {
    sbdf: `0000:00:${slot}`,
    class: "0604",
    vendor: "8086",
    device: "02b0",
    driver: "pcieport",
    bridge: { secondary: "02", subordinate: "02" },
  };
  const usb: MachineFunction = {
    sbdf: "0000:02:00.0",
    class: "0c0330",
    vendor: "8086",
    device: "15ec",
    name: "Intel JHL7540 Thunderbolt 3 USB Controller",
    driver: "xhci_hcd",
    reset: ["flr"],
  };
  const disk: MachineFunction = {
    sbdf: "0000:00:17.0",
    class: "010601",
    vendor: "8086",
    device: "02d3",
    driver: "ahci",
    reset: [],
  };
  return { ...laptop, devices: [...laptop.devices, disk, ...(slot ? [port, usb] : [])] };
}
const DOCK = { vendor: "8086", device: "15ec" };
const DOCK_ID = "0x8086:0x15ec::p0c0330";
const SOUND_ID = "0x8086:0x02c8::p040300";
const WAS = "00_1d.0-00_00.0";
const IS = "00_1c.0-00_00.0";

const folder = scratch("attachment");
const twin = await startTwin({ dir: `${folder}/twin`, machine: docked("1d.0") });
const pristine = await twin.dump();
/** The ledger's times, and the digest of the last formula, move with each apply. */
const OURS = { ignore: ["files./var/lib/guidomain", "files./srv/user_salt/guidomain"] };
const BOOTS = { ignore: ["files./boot/grub2/grubenv"] };

let attachments: Record<string, Omit<PciAttachmentArgs, "host">> = {};
const stack = await testStack("attachment", folder, { lab: hostOf(twin) }, async () => {
  for (const [name, args] of Object.entries(attachments)) new PciAttachment(name, { host: "lab", ...args });
  return {};
});

interface Assignment {
  port: string;
  device: string;
  mode: string;
  options: Record<string, string>;
}
type Qubes = { qubes: Record<string, { pci: Assignment[]; attached: string[] }> };

/** What the host says: "which device, how, with which options", for each assignment of a qube. */
async function assigned(qube = "personal"): Promise<string[]> {
  const { qubes } = (await twin.dump()).qubes as Qubes;
  return (qubes[qube]?.pci ?? []).map(({ device, mode, options }) =>
    [device, mode, ...Object.keys(options)].join(" "),
  );
}

/** The functions that a qube really has once it runs; it is shut down again. */
async function gets(qube = "personal"): Promise<string[]> {
  await must(`qvm-start ${qube}`);
  const { attached } = ((await twin.dump()).qubes as Qubes).qubes[qube] ?? { attached: [] };
  await twin.exec(`qvm-shutdown --wait ${qube}`);
  return attached;
}

async function good(run: () => Promise<Outcome>): Promise<Outcome> {
  const outcome = await run();
  assert.ok(outcome.ok, outcome.output);
  return outcome;
}
/** In the preview, and in a run that somebody starts without one; the host stays as it was. */
async function refused(message: RegExp, runs = [stack.preview, stack.up]): Promise<void> {
  const before = await twin.dump();
  for (const run of runs) {
    const { ok, errors } = await run();
    assert.not(ok);
    assert.match(errors.join("\n"), message);
    assert.match(errors.join("\n"), /PCI attachment .* on host lab: .*Nothing was changed on the host\./);
  }
  assert.equal(twin.compare(before, await twin.dump()), []);
}

async function must(command: string): Promise<void> {
  const { code, stderr } = await twin.exec(command);
  assert.is(code, 0, stderr);
}
const up = () => good(stack.up);
async function noChange(): Promise<void> {
  const { changes, diffs, output } = await good(stack.preview);
  assert.equal(Object.keys(changes), ["same"], `${JSON.stringify(diffs)}\n${output}`);
}
const state = async (name = "dock") => (await stack.resource(name)).outputs["state"];

async function boots(machine: Machine): Promise<void> {
  await twin.world({ nextMachine: machine });
  const { state: is, why } = await twin.reboot();
  assert.is(is, "running", why);
}

test("given: a preview writes nothing, up assigns it for good by what it is, and a preview then shows no changes", async () => {
  attachments = { dock: { qube: "personal", device: DOCK } };
  const preview = await good(stack.preview);
  assert.is(preview.changes["create"], 2);
  assert.equal(twin.compare(pristine, await twin.dump()), []);
  await up();
  assert.equal(await assigned(), [`${DOCK_ID} required`]);
  assert.is(await state(), "ready");
  const [attached] = (await stack.resource("dock")).outputs["attached"] as { sbdf: string; port: string }[];
  assert.equal([attached?.sbdf, attached?.port], ["0000:02:00.0", WAS]);
  const before = await twin.dump();
  await noChange();
  assert.equal(twin.compare(before, await twin.dump()), []);
  assert.equal(await gets(), ["0000:02:00.0"]);
});

test("options go on and off, and leave nothing behind", async () => {
  const plain = await twin.dump();
  attachments = {
    dock: { qube: "personal", device: DOCK, options: { noStrictReset: true, permissive: true } },
  };
  const preview = await good(stack.preview);
  assert.match(preview.diffs["dock"]?.join(" ") ?? "", /no-strict-reset.* .*permissive/);
  await up();
  assert.equal(await assigned(), [`${DOCK_ID} required no-strict-reset permissive`]);
  await noChange();
  attachments = { dock: { qube: "personal", device: DOCK, options: { noStrictReset: false } } };
  await up();
  assert.equal(await assigned(), [`${DOCK_ID} required`]);
  attachments = { dock: { qube: "personal", device: DOCK } };
  await up();
  assert.equal(twin.compare(plain, await twin.dump(), OURS), []);
});

test("taken away or changed by hand: shown as that, and repaired", async () => {
  const before = await twin.dump();
  for (const byHand of [
    "qvm-pci unassign personal",
    `qvm-pci unassign personal && qvm-pci assign -r -o permissive=True personal dom0:${WAS}`,
    // As older tools and the installer's formula leave it: whatever sits there.
    `qvm-pci unassign personal && qvm-pci assign -r --port personal dom0:${WAS}`,
  ]) {
    await must(byHand);
    const preview = await good(stack.preview);
    assert.match(preview.diffs["dock"]?.join(" ") ?? "", /^settings\.devices/, byHand);
    await up();
    assert.equal(twin.compare(before, await twin.dump(), OURS), [], byHand);
    await noChange();
  }
});

test("moved to another place between two runs: its old and its new place are shown, and it is followed", async () => {
  await boots(docked("1c.0"));
  const { output } = await good(stack.preview);
  assert.match(output, new RegExp(`the device moved: .*${WAS}.* → .*${IS}`));
  await up();
  assert.equal(await assigned(), [`${DOCK_ID} required`]);
  assert.equal(await gets(), ["0000:02:00.0"]);
  const [attached] = (await stack.resource("dock")).outputs["attached"] as { port: string }[];
  assert.is(attached?.port, IS);
  await noChange();
});

test("gone: told, and refused until it is back or another device is named, with which its qube starts", async () => {
  await boots(docked(null));
  await good(stack.refresh);
  assert.is(await state(), "missing");
  await refused(/no device of this machine is \{ device: "15ec", vendor: "8086" \}.*Select one of these: /);
  attachments = { dock: { qube: "personal", device: { class: "audio", vendor: "8086" } } };
  await up();
  assert.equal(await gets(), ["0000:00:1f.3"]);
  await noChange();
  attachments = { dock: { qube: "personal", device: DOCK } };
  await refused(/no device of this machine is/);
  await boots(docked("1d.0"));
  await up();
  assert.equal(await gets(), ["0000:02:00.0"]);
  assert.equal(await assigned(), [`${DOCK_ID} required`]);
});

test("destroy puts back what was there before, also where the device is gone", async () => {
  await boots(docked(null));
  await good(stack.destroy);
  assert.equal(await assigned(), []);
  await boots(docked("1d.0"));
  assert.equal(twin.compare(pristine, await twin.dump(), BOOTS), []);
});

test("an entry of others for whatever sits in that place gives way to the device, and comes back", async () => {
  await must(`qvm-pci assign -r --port personal dom0:${WAS}`);
  const before = await twin.dump();
  attachments = { dock: { qube: "personal", device: DOCK } };
  const preview = await good(stack.preview);
  assert.is(preview.changes["create"], 2);
  await up();
  assert.equal(await assigned(), [`${DOCK_ID} required`]);
  await noChange();
  await good(stack.destroy);
  assert.equal(twin.compare(before, await twin.dump()), []);
  await must("qvm-pci unassign personal");
});

test("an assignment that reaches nothing any more, with which the qube does not start, goes", async () => {
  await must(`qvm-pci assign -r personal dom0:${WAS}`);
  await boots(docked("1c.0"));
  assert.match((await twin.exec("qvm-start personal")).stderr, /Error: /);
  attachments = { sound: { qube: "personal", device: { class: "audio", vendor: "8086" } } };
  const preview = await good(stack.preview);
  assert.match(preview.output, /an assignment to personal that reaches nothing any more is taken away: /);
  await up();
  assert.equal(await assigned(), [`${SOUND_ID} required no-strict-reset`]);
  assert.equal(await gets(), ["0000:00:1f.3"]);
  await noChange();
  await good(stack.destroy);
  assert.equal(await assigned(), []);
  await boots(docked("1d.0"));
});

test("imported: no changes, and what was there before stays with a destroy", async () => {
  await must(`qvm-pci assign -r -o no-strict-reset=True personal dom0:${WAS}`);
  const before = await twin.dump();
  await stack.stack.import({
    resources: [
      { type: "guidomain:index:PciAttachment", name: "dock", id: `lab/personal/${WAS}:8086:15ec:0c0330` },
    ],
    protect: false,
    generateCode: false,
  });
  const { inputs, outputs } = await stack.resource("dock");
  assert.is(outputs["state"], "unverified");
  const { device, options } = inputs as Pick<PciAttachmentArgs, "device" | "options">;
  attachments = { dock: { qube: "personal", ...(device && { device }), ...(options && { options }) } };
  await noChange();
  const { changes } = await up();
  assert.equal(Object.keys(changes), ["same"]);
  assert.equal(twin.compare(before, await twin.dump()), []);
  await good(stack.destroy);
  assert.equal(twin.compare(before, await twin.dump()), []);
  await must("qvm-pci unassign personal");
});

const REFUSED: [string, Record<string, Omit<PciAttachmentArgs, "host">>, RegExp, string?, string?][] = [
  [
    "unknown device",
    { a: { qube: "personal", device: { vendor: "1234" } } },
    /no device of this machine is \{ vendor: "1234" \}/,
  ],
  [
    "two matches",
    { a: { qube: "personal", device: { vendor: "8086" } } },
    /names \d+ devices where one is meant/,
  ],
  [
    "a bridge",
    { a: { qube: "personal", device: { address: "00_1d.0" } } },
    /is part of the machine itself \(a bridge\)/,
  ],
  [
    "the disk controller",
    { a: { qube: "personal", device: { address: "00_17.0" } } },
    /dom0's disks hang on .*: sda/,
  ],
  [
    "the network card of the way in",
    { a: { qube: "personal", device: { address: "00_1f.6" } } },
    /belongs to qube "sys-net", which is running and gives other qubes their network, perhaps the way to this host/,
    "qvm-start sys-net",
  ],
  [
    "a device used by a running qube",
    { a: { qube: "personal", device: DOCK } },
    /belongs to qube "vault", which is running\. .*Unassign it from "vault" first/,
    `qvm-pci assign -r vault dom0:${WAS} && qvm-start vault`,
    "qvm-shutdown --wait vault && qvm-pci unassign vault",
  ],
  [
    "a display that dom0 drives",
    { a: { qube: "personal", device: { position: "boot display" } } },
    /is driven by dom0 \(i915\), .*Give it to a GuiDomain with display "gpu"/,
  ],
  [
    "pvh with PCI",
    { a: { qube: "personal", device: DOCK } },
    /qube "personal" is set to virt_mode pvh, with which it does not start.*qvm-prefs personal virt_mode hvm/,
    "qvm-prefs personal virt_mode pvh",
    "qvm-prefs --default personal virt_mode",
  ],
];
for (const [name, args, message, byHand = "true", undo = "true"] of REFUSED)
  test(`refused in the preview already, nothing touched: ${name}`, async () => {
    await must(byHand);
    attachments = args;
    await refused(message);
    await must(undo);
  });

test("refused in the preview already: one device in two attachments", async () => {
  attachments = {
    a: { qube: "personal", device: DOCK },
    b: { qube: "vault", device: { address: WAS } },
  };
  const message = /the PCI device at 00_1d\.0-00_00\.0 is claimed by .*Give it to one qube only/;
  await refused(message, [stack.preview]);
});

test.run();
