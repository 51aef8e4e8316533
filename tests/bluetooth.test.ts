// A headset that is paired with the audio domain: the controller with the radio, BlueZ, and pairings that stay; real engine, OpenSSH, Salt, twin.

import { AudioDomain, type AudioDomainArgs, Host } from "guidomain";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { startTwin } from "../lab/twin/twin.ts";
import { DEFAULT_TEMPLATE } from "../src/model/guiDomain.ts";
import { hostOf, mustIn, scratch, testStack } from "./harness.ts";

const RADIO = "0000:00:14.0";
const folder = scratch("bluetooth");
const twin = await startTwin({ dir: `${folder}/twin`, machine: "laptop", world: { dom0Session: true } });
const must = mustIn(twin);
await must("qvm-start sys-firewall");
const pristine = await twin.dump();
let args: Partial<AudioDomainArgs> = {};
const stack = await testStack("bluetooth", folder, { lab: hostOf(twin) }, async () => {
  const audio = new AudioDomain("sys-audio", {
    host: new Host("lab"),
    devices: [{ class: "audio" }, { class: "usb" }],
    clients: "default",
    bluetooth: true,
    ...args,
  });
  const { sound, state, attempts, pending, attached } = audio;
  return { sound, state, attempts, pending, attached };
});
const stdout = async (command: string) => (await twin.exec(command)).stdout.trim();
const pending = (outputs: Record<string, unknown>) => JSON.stringify(outputs["pending"]);

test("its template lacks BlueZ: put back, and what is missing is said", async () => {
  const up = await stack.up();
  assert.not(up.ok);
  assert.match(up.errors.join("\n"), /package bluez is not installed.*packages belong in the template/s);
  assert.is(await stdout("qubes-prefs default_audiovm"), "dom0");
  assert.is((await twin.exec("qvm-check -q sys-audio")).code, 1);
});

test("no radio yet: it plays all the same, and that is said", async () => {
  await twin.world({
    templates: { [DEFAULT_TEMPLATE]: { packages: { bluez: "5.83", blueman: "2.4.6" } } },
  });
  args = { retry: 1 };
  const up = await stack.up();
  assert.ok(up.ok, up.output);
  assert.is(up.outputs["sound"], "sys-audio", up.output);
  assert.match(pending(up.outputs), /"bluetooth".*no Bluetooth radio is in it/);
  const preview = await stack.preview();
  assert.equal(preview.changes, { same: 3 }, preview.output);
});

test("the controller with the radio: BlueZ runs, the applet starts, pairings stay", async () => {
  await twin.world({ radios: [RADIO] });
  await must(
    "qvm-shutdown --wait --force sys-audio",
    "qvm-start sys-audio",
    "qvm-features sys-audio servicevm 0",
  );
  const up = await stack.up(); // drift, so that it is checked anew
  assert.ok(up.ok, up.output);
  assert.not.match(pending(up.outputs), /bluetooth/);
  const inside = (command: string) => stdout(`qvm-run -p --no-gui -u root sys-audio '${command}'`);
  assert.is(await inside("systemctl is-active bluetooth"), "active");
  assert.equal((await inside("ls /run/qubes-service")).split("\n"), ["audiovm", "blueman", "custom-persist"]);
  assert.is(await inside("mountpoint -q /var/lib/bluetooth && mountpoint -q /home && echo stay"), "stay");
  assert.match(JSON.stringify(up.outputs["attached"]), /00_14\.0/);
});

test("what would make it forget is drift: repaired, and in force from its next start", async () => {
  await must("qvm-features --unset sys-audio custom-persist.bluetooth");
  const preview = await stack.preview();
  assert.equal(preview.diffs["sys-audio"], ['settings.features["custom-persist.bluetooth"]'], preview.output);
  const up = await stack.up();
  assert.ok(up.ok, up.output);
  assert.is(
    await stdout("qvm-features sys-audio custom-persist.bluetooth"),
    "dir:root:root:0700:/var/lib/bluetooth",
  );
});

test("destroy: back to the start", async () => {
  const destroy = await stack.destroy();
  assert.ok(destroy.ok, destroy.output);
  assert.equal(twin.compare(pristine, await twin.dump()), []);
});

const BAD: [string, string[], RegExp][] = [
  [
    "a disposable",
    ["qvm-create --class DispVM --template default-dvm --label red sys-usb"],
    /bluetooth: "sys-usb" is a disposable, which forgets its pairings/,
  ],
  [
    "a minimal USB qube",
    ["qvm-create --label red sys-usb", "qvm-service sys-usb minimal-usbvm on"],
    /bluetooth: "sys-usb" has the service minimal-usbvm/,
  ],
];
for (const [what, commands, message] of BAD)
  test(`refused before anything is touched: ${what}`, async () => {
    await must(...commands);
    const before = await twin.dump();
    args = { qube: "sys-usb", shared: true, devices: [] };
    const up = await stack.up();
    assert.not(up.ok);
    assert.match(up.errors.join("\n"), message);
    assert.equal(twin.compare(before, await twin.dump()), []);
    await must("qvm-remove -f sys-usb");
  });

test("in a shared qube: whether its pairings stay is its owner's, and said", async () => {
  await must("qvm-create --label red sys-usb", "qvm-start sys-usb");
  args = { qube: "sys-usb", shared: true, devices: [] };
  const preview = await stack.preview();
  assert.match(preview.output, /stay only if \/var\/lib\/bluetooth is in its bind-dirs/);
  const first = await stack.up();
  assert.ok(first.ok, first.output);
  await must("qvm-shutdown --wait sys-usb", "qvm-start sys-usb");
  const up = await stack.up();
  assert.ok(up.ok, up.output);
  assert.is(up.outputs["sound"], "sys-usb");
  assert.match(pending(up.outputs), /its pairings go with its next shutdown/);
  assert.is(await stdout("qvm-features sys-usb | grep -c custom-persist"), "0");
});

test.run();
