// An audio domain on real parts: engine, plugin, OpenSSH, agent and guard, Salt, a twin with sound beside the LPC bridge and behind one.

import { AudioDomain, type AudioDomainArgs, Host } from "guidomain";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { startTwin } from "../lab/twin/twin.ts";
import { hostOf, scratch, testStack } from "./harness.ts";

const folder = scratch("audio");
const twin = await startTwin({ dir: `${folder}/twin`, machine: "laptop", world: { dom0Session: true } });
// As on any host, the network runs.
await twin.exec("qvm-start sys-firewall");
const pristine = await twin.dump();
/** Its times move with each apply. */
const LEDGER = { ignore: ["files./var/lib/guidomain/ledger.json"] };
/** The order in which Qubes lists assignments is that in which they were made. */
const ANY_ORDER = { ignore: [...LEDGER.ignore, "qubes.qubes.sys-audio.pci"] };
/** The sound function shares the slot of the LPC bridge; the other sits behind a bridge, beside a display that stays. */
const DEVICES = [{ class: "audio" }, { address: "00_01.0-00_00.1" }];
let args: Partial<AudioDomainArgs> = {};
const stack = await testStack("audio", folder, { lab: hostOf(twin) }, async () => {
  const host = new Host("lab");
  const audio = new AudioDomain("sys-audio", { host, devices: DEVICES, clients: "default", ...args });
  const { sound, state, attempts, pending, attached, streams } = audio;
  return { sound, state, attempts, pending, attached, streams };
});
const stdout = async (command: string) => (await twin.exec(command)).stdout.trim();

test("a preview of the first up writes nothing", async () => {
  const preview = await stack.preview();
  assert.ok(preview.ok, preview.output);
  assert.equal(twin.compare(pristine, await twin.dump()), []);
});

test("up: the sound functions and nothing else of their slots, and a running client heard at once", async () => {
  await twin.exec("qvm-start personal");
  const up = await stack.up();
  assert.ok(up.ok, up.output);
  const { sound, state, pending, streams } = up.outputs;
  assert.equal([sound, state, pending], ["sys-audio", "inUse", []], JSON.stringify(up.outputs));
  assert.equal(
    (streams as { client: string }[]).map((s) => s.client),
    ["personal"],
  );
  assert.equal(
    (up.outputs["attached"] as { port: string; options: string[] }[]).map((d) => [d.port, d.options]),
    [
      ["00_1f.3", ["no-strict-reset"]],
      ["00_01.0-00_00.1", ["no-strict-reset"]],
    ],
  );
  const given = await stdout("xl pci-list sys-audio");
  assert.match(given, /0000:00:1f\.3/);
  assert.match(given, /0000:01:00\.1/);
  assert.is(given.split("\n").length, 3, given);
  assert.is(await stdout("qubes-prefs default_audiovm"), "sys-audio");
  assert.is(await stdout("qvm-tags personal list | grep audiovm"), "audiovm-sys-audio");
  assert.is((await twin.exec("qubes-policy-lint /etc/qubes/policy.d/*.policy")).code, 0);
});

test("no change, and nothing written", async () => {
  const before = await twin.dump();
  const preview = await stack.preview();
  assert.equal(preview.changes, { same: 3 }, preview.output);
  assert.equal(twin.compare(before, await twin.dump()), []);
});

const DRIFT: [string, string, string][] = [
  // First: one that nobody uses for a moment, and that has changed since its start, starts anew.
  ["the default", "qubes-prefs default_audiovm dom0", "settings.globals.default_audiovm"],
  ["a property", "qvm-prefs sys-audio memory 500", "settings.properties.memory"],
  ["the service", "qvm-service sys-audio audiovm off", "settings.services.audiovm"],
  [
    "the policy",
    "rm /etc/qubes/policy.d/40-audio-sys-audio.policy",
    'settings.files["/etc/qubes/policy.d/40-audio-sys-audio.policy"]',
  ],
];
for (const [what, command, path] of DRIFT)
  test(`drift of ${what} shows as exactly that, and is repaired`, async () => {
    const good = await twin.dump();
    assert.is((await twin.exec(command)).code, 0);
    const preview = await stack.preview();
    assert.equal(preview.diffs["sys-audio"], [path], preview.output);
    const up = await stack.up();
    assert.ok(up.ok, up.output);
    assert.is(up.outputs["sound"], "sys-audio");
    assert.equal(twin.compare(good, await twin.dump(), LEDGER), []);
  });

test("an assignment that somebody took away comes back", async () => {
  const good = await twin.dump();
  const taken = await twin.exec("qvm-pci unassign sys-audio");
  assert.is(taken.code, 0, taken.stderr);
  const preview = await stack.preview();
  assert.ok(
    preview.diffs["sys-audio"]?.every((path) => path.startsWith("settings.devices")),
    preview.output,
  );
  const up = await stack.up();
  assert.ok(up.ok, up.output);
  assert.equal(twin.compare(good, await twin.dump(), ANY_ORDER), []);
  const assigned = await stdout("qvm-pci list -s | grep -c '^.*sys-audio (required: no-strict-reset=True'");
  assert.is(assigned, "2");
});

test("destroy: refused while somebody plays through it, then back to the start", async () => {
  const before = await twin.dump();
  const refused = await stack.destroy();
  assert.not(refused.ok);
  assert.match(
    refused.errors.join("\n"),
    /cannot be removed while it is the audio domain of running qubes: personal\. Nothing was changed/,
  );
  assert.equal(twin.compare(before, await twin.dump(), LEDGER), []);
  await twin.exec("qvm-shutdown --wait personal");
  const destroy = await stack.destroy();
  assert.ok(destroy.ok, destroy.output);
  assert.equal(twin.compare(pristine, await twin.dump()), []);
});

test("its kernel has no driver for the sound: put back, the reason kept, not tried again", async () => {
  await twin.fault("guest-no-sound");
  args = { limits: { checks: 15 } };
  const up = await stack.up();
  assert.ok(up.ok, up.output);
  assert.equal([up.outputs["sound"], up.outputs["state"]], ["dom0", "fallback"]);
  assert.match(JSON.stringify(up.outputs["attempts"]), /a sound card is in the qube/);
  assert.match(up.output, /the sound stays with "dom0"/);
  assert.is(await stdout("qubes-prefs default_audiovm"), "dom0");
  assert.is((await twin.exec("qvm-check -q sys-audio")).code, 1);
  const preview = await stack.preview();
  assert.equal(preview.changes, { same: 3 }, preview.output);
  const destroy = await stack.destroy();
  assert.ok(destroy.ok, destroy.output);
  assert.equal(twin.compare(pristine, await twin.dump()), []);
});

test.run();
