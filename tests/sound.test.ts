// Sound in a qube that has another purpose, and an HVM without an agent as its client; real engine, OpenSSH, Salt, twin.

import { AudioDomain, type AudioDomainArgs, Host } from "guidomain";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { startTwin } from "../lab/twin/twin.ts";
import { hostOf, mustIn, scratch, testStack } from "./harness.ts";

const folder = scratch("sound");
const twin = await startTwin({ dir: `${folder}/twin`, machine: "laptop", world: { dom0Session: true } });
const must = mustIn(twin);
// As Qubes' own sys-usb is made; and an HVM that somebody has installed something else in.
await must(
  "qvm-start sys-firewall",
  "qvm-create --label red sys-usb",
  "qvm-prefs sys-usb netvm ''",
  "qvm-prefs sys-usb virt_mode hvm",
  "qvm-prefs sys-usb maxmem 0",
  "qvm-features sys-usb servicevm 1",
  "qvm-pci assign --required -o no-strict-reset=true sys-usb dom0:00_14.0",
  "qvm-create --class StandaloneVM --label gray --property virt_mode=hvm win",
);
const pristine = await twin.dump();
await must("qvm-start sys-usb personal win");
let args: Partial<AudioDomainArgs> = {};
const stack = await testStack("sound", folder, { lab: hostOf(twin) }, async () => {
  const host = new Host("lab");
  const audio = new AudioDomain("usb-sound", {
    host,
    qube: "sys-usb",
    shared: true,
    clients: ["personal", "win"],
    emulated: ["win"],
    ...args,
  });
  const { sound, state, pending, streams } = audio;
  return { sound, state, pending, streams };
});
const stdout = async (command: string) => (await twin.exec(command)).stdout.trim();
const restart = (name: string) => must(`qvm-shutdown --wait ${name}`, `qvm-start ${name}`);

test("it runs: all but its clients is put there, and that it has to start anew is said", async () => {
  const up = await stack.up();
  assert.ok(up.ok, up.output);
  assert.equal([up.outputs["state"], up.outputs["sound"]], ["staged", "dom0"], up.output);
  assert.match(JSON.stringify(up.outputs["pending"]), /"restart","qubes":\["sys-usb"\]/);
  assert.is(await stdout("qvm-prefs personal audiovm"), "dom0");
  const preview = await stack.preview();
  assert.equal(preview.changes, { same: 3 }, preview.output);
});

test("after its start: its clients; nothing else of it has changed", async () => {
  await restart("sys-usb");
  const preview = await stack.preview();
  assert.equal(
    preview.diffs["usb-sound"],
    ["settings.audioClients.personal", "settings.audioClients.win"],
    preview.output,
  );
  const up = await stack.up();
  assert.ok(up.ok, up.output);
  assert.equal([up.outputs["state"], up.outputs["sound"]], ["inUse", "sys-usb"], JSON.stringify(up.outputs));
  // PipeWire in the one has followed; the other's card comes with its start.
  assert.equal(
    (up.outputs["streams"] as { client: string }[]).map((s) => s.client),
    ["personal"],
  );
  assert.match(JSON.stringify(up.outputs["pending"]), /"restart","qubes":\["win"\]/);
  assert.is(await stdout("qvm-features win audio-model"), "ich6");
  assert.is(await stdout("qvm-prefs win audiovm"), "sys-usb");
  assert.equal(
    [await stdout("qvm-prefs sys-usb label"), await stdout("qvm-prefs sys-usb maxmem")],
    ["red", "0"],
  );
  const again = await stack.preview();
  assert.equal(again.changes, { same: 3 }, again.output);
});

test("who cannot be told live is restarted where that is allowed, and is heard then", async () => {
  args = { restartClients: "allowed" };
  const up = await stack.up();
  assert.ok(up.ok, up.output);
  assert.equal(up.outputs["pending"], []);
});

test("one that somebody gave back to dom0 meanwhile, and that started so, is not heard until it starts again", async () => {
  args = {};
  await must("qvm-prefs win audiovm dom0");
  await restart("win");
  const up = await stack.up();
  assert.ok(up.ok, up.output);
  assert.match(JSON.stringify(up.outputs["pending"]), /"restart","qubes":\["win"\]/);
});

test("a policy that does not let it see its clients is put right, and then they are heard", async () => {
  await must("rm /etc/qubes/policy.d/40-audio-sys-usb.policy");
  const sounds = "qvm-run -p --no-gui -u root sys-usb 'ls /run/qubes'";
  assert.not.match(await stdout(sounds), /pacat/);
  const up = await stack.up();
  assert.ok(up.ok, up.output);
  assert.is(up.outputs["state"], "inUse");
  assert.match(await stdout(sounds), /pacat\.\d+/);
});

test("destroy: back to the start, live", async () => {
  const destroy = await stack.destroy();
  assert.ok(destroy.ok, destroy.output);
  await must("qvm-shutdown --wait personal win sys-usb");
  assert.equal(twin.compare(pristine, await twin.dump()), []);
});

test.run();
