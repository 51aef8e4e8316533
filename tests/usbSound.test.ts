// A headset that is plugged into a USB qube, given to the audio domain alone: real engine, OpenSSH, Salt, twin.

import { AudioDomain, type AudioDomainArgs, Host } from "guidomain";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { startTwin } from "../lab/twin/twin.ts";
import { DEFAULT_TEMPLATE } from "../src/model/guiDomain.ts";
import { hostOf, mustIn, scratch, testStack } from "./harness.ts";

const at = "0000:00:14.0";
const HEADSET = {
  at,
  port: "1-2",
  vendor: "0d8c",
  product: "0014",
  interfaces: ["010100", "010200", "030000"],
};
const KEYBOARD = { at, port: "1-3", vendor: "046d", product: "c31c", interfaces: ["030101", "030000"] };
const ID = "0d8c:0014::u010100u010200u030000";
const NAME = `sys-usb:*:${ID}`;
const folder = scratch("usb-sound");
const twin = await startTwin({
  dir: `${folder}/twin`,
  machine: "laptop",
  world: { dom0Session: true, usb: [HEADSET, KEYBOARD] },
});
const must = mustIn(twin);
await must(
  "qvm-create --label red sys-usb",
  "qvm-prefs sys-usb virt_mode hvm",
  "qvm-pci assign --required --option no-strict-reset=True sys-usb dom0:00_14.0",
  "qvm-start sys-firewall",
  "qvm-start sys-usb",
);
const pristine = await twin.dump();
/** The USB qube starts anew meanwhile. */
const ANEW = {
  ignore: ["files./run/qubes", ...["xid", "stubdom_xid"].map((x) => `qubes.qubes.sys-usb.properties.${x}`)],
};
/** Its times move with each apply. */
const LEDGER = { ignore: ["files./var/lib/guidomain/ledger.json"] };
let args: Partial<AudioDomainArgs> = {};
const stack = await testStack("usb-sound", folder, { lab: hostOf(twin) }, async () => {
  const audio = new AudioDomain("sys-audio", {
    host: new Host("lab"),
    devices: [],
    usb: { vendor: "0d8c", device: "0014" },
    clients: ["personal"],
    ...args,
  });
  const { sound, state, attempts, pending, evidence } = audio;
  return { sound, state, attempts, pending, evidence };
});
const stdout = async (command: string) => (await twin.exec(command)).stdout.trim();
const inside = (command: string) => stdout(`qvm-run -p --no-gui -u root sys-audio '${command}'`);
const card = () => inside("cat /proc/asound/card*/usbid");
/** One raw call of the Admin API, that changes what nobody's program has changed. */
const ask = (method: string, arg: string, dest: string, payload = "") =>
  must(
    `printf '%s\\0%s' '${method}+${arg} dom0 name ${dest}' "${payload}" | python3 -c 'import socket, sys
s = socket.socket(socket.AF_UNIX); s.connect("/run/qubesd.sock"); s.sendall(sys.stdin.buffer.read()); s.shutdown(1)
sys.exit(not s.recv(9).startswith(b"0"))'`,
  );

const REFUSED: [string, Partial<AudioDomainArgs>, RegExp][] = [
  [
    "a keyboard",
    { usb: { vendor: "046D", device: "c31c" } },
    /USB device 046d:c31c of "sys-usb" is a keyboard: whoever has it reads what is typed/,
  ],
  [
    "a qube that is not there",
    { usb: { qube: "sys-nowhere", vendor: "0d8c", device: "0014" } },
    /of "sys-nowhere": that qube does not exist there/,
  ],
];
for (const [what, given, message] of REFUSED)
  test(`refused in the preview, before anything is touched: ${what}`, async () => {
    args = given;
    const preview = await stack.preview();
    assert.not(preview.ok, preview.output);
    assert.match(preview.errors.join("\n"), message);
    assert.equal(twin.compare(pristine, await twin.dump()), []);
  });

test("what the USB qube does not show cannot be given: the sound stays where it was, and why is said", async () => {
  args = {};
  await twin.world({ templates: { [DEFAULT_TEMPLATE]: { packages: { "qubes-usb-proxy": undefined } } } });
  const up = await stack.up();
  // The USB qube has the same template, and shows nothing without Qubes' proxy.
  assert.is(up.outputs["state"], "fallback", up.output);
  assert.match(JSON.stringify(up.outputs["attempts"]), /is not plugged in there/);
  await twin.world({ templates: { [DEFAULT_TEMPLATE]: { packages: { "qubes-usb-proxy": "4.3.6" } } } });
  assert.is((await twin.exec("qvm-check -q sys-audio")).code, 1);
});

test("up: the headset and nothing else is in the audio domain, and a check has seen its card", async () => {
  const up = await stack.up();
  assert.ok(up.ok, up.output);
  assert.equal([up.outputs["sound"], up.outputs["state"]], ["sys-audio", "ready"], up.output);
  assert.is(await stdout("qvm-prefs sys-audio virt_mode"), "pvh");
  assert.is(await card(), "0d8c:0014");
  const seen = up.outputs["evidence"] as { id: string; ok: boolean }[];
  assert.ok(seen.some(({ id, ok }) => ok && id === "sound card 0d8c:0014 is in the qube"));
});

test("no change, and nothing written; what is plugged in comes with the one look that every run takes", async () => {
  const before = await twin.dump();
  const counters = twin.counters();
  const preview = await stack.preview();
  assert.equal(twin.since(counters), { connections: 1, authentications: 1, execs: 1, snapshots: 1 });
  assert.equal(preview.changes, { same: 3 }, preview.output);
  assert.equal(twin.compare(before, await twin.dump()), []);
});

test("unplugged, or its USB qube off: no difference; and it comes back by itself", async () => {
  await twin.world({ usb: [KEYBOARD] });
  const preview = await stack.preview();
  assert.equal(preview.changes, { same: 3 }, preview.output);
  await twin.world({ usb: [{ ...HEADSET, port: "1-7" }, KEYBOARD] });
  await must("qvm-shutdown --wait sys-usb");
  const off = await stack.preview();
  assert.equal(off.changes, { same: 3 }, off.output);
  await must("qvm-start sys-usb");
  assert.is(await card(), "0d8c:0014");
});

test("drift: an assignment that somebody took away shows as exactly that, and the running qube has it again", async () => {
  const good = await twin.dump();
  await ask("admin.vm.device.usb.Unassign", NAME.replace(":", "+"), "sys-audio");
  await ask("admin.vm.device.usb.Detach", `sys-usb+1-7:${ID}`, "sys-audio");
  assert.is(await card(), "");
  const preview = await stack.preview();
  assert.equal(preview.diffs["sys-audio"], [`settings.usb["${NAME}"]`], preview.output);
  const up = await stack.up();
  assert.ok(up.ok, up.output);
  assert.is(await card(), "0d8c:0014");
  assert.equal(twin.compare(good, await twin.dump(), LEDGER), []);
});

test("destroy: back to the start", async () => {
  const destroy = await stack.destroy();
  assert.ok(destroy.ok, destroy.output);
  assert.equal(twin.compare(pristine, await twin.dump(), ANEW), []);
});

test("its kernel makes no card of it: put back, the sound stays where it was", async () => {
  await twin.fault("guest-no-sound");
  args = { limits: { checks: 10 } };
  const up = await stack.up();
  assert.ok(up.ok, up.output);
  assert.equal([up.outputs["sound"], up.outputs["state"]], ["dom0", "fallback"]);
  assert.match(JSON.stringify(up.outputs["attempts"]), /sound card 0d8c:0014 is in the qube/);
  const destroy = await stack.destroy();
  assert.ok(destroy.ok, destroy.output);
  assert.equal(twin.compare(pristine, await twin.dump(), ANEW), []);
});

test.run();
