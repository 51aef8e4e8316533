// A GUI domain that drives the screen, on real parts: engine, plugin, OpenSSH, agent and guard, Salt, a twin that boots. Issue 4 "Must show".

import { setTimeout } from "node:timers/promises";
import { GuiDomain, type GuiDomainArgs, Host } from "guidomain";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { startTwin } from "../lab/twin/twin.ts";
import { hostOf, scratch, testStack } from "./harness.ts";

const folder = scratch("gpu");
const twin = await startTwin({ dir: `${folder}/twin`, machine: "laptop" });
const pristine = await twin.dump();
/** GRUB itself leaves the empty word of an entry that it has booted once; what runs is the boot's doing. */
const BOOTED = { ignore: ["files./boot/grub2/grubenv", "qubes.qubes.sys-net", "qubes.qubes.sys-firewall"] };
let args: Partial<GuiDomainArgs> = {};
const stack = await testStack("gpu", folder, { lab: hostOf(twin) }, async () => {
  const host = new Host("lab");
  const gui = new GuiDomain("sys-gui", { host, display: ["gpu", "xephyr"], clients: "default", ...args });
  return { mode: gui.mode, state: gui.state, attempts: gui.attempts, pending: gui.pending };
});

interface Attempt {
  mode: string;
  verdict: string;
  reason: string;
}
const attempts = (outputs: Record<string, unknown>) =>
  (outputs["attempts"] as Attempt[]).map(({ mode, verdict }) => `${mode} ${verdict}`);

async function up(more: Partial<GuiDomainArgs>) {
  args = more;
  const done = await stack.up();
  assert.ok(done.ok, done.output);
  return done;
}
const bootId = async () => (await twin.machine()).boot?.id;

test('reboot "never": nothing changes for the person at the screen; what waits is said', async () => {
  const before = await bootId();
  const { outputs, output } = await up({});
  assert.equal([outputs["mode"], outputs["state"]], ["dom0", "staged"]);
  assert.equal(attempts(outputs), ["gpu staged", "xephyr skipped"]);
  assert.match(JSON.stringify(outputs["pending"]), /"kind":"reboot"/);
  assert.match(output, /mode "gpu" waits: .*set reboot to "allowed"/);
  assert.is(await bootId(), before);
  const { drivenBy, usable } = await twin.screen();
  assert.equal([drivenBy, usable], ["dom0 (lightdm)", true]);
  const preview = await stack.preview();
  assert.equal(preview.changes, { same: 3 }, preview.output);
});

test("with a reboot allowed: mode gpu, verified and confirmed", async () => {
  const { outputs } = await up({ reboot: "allowed" });
  assert.equal([outputs["mode"], outputs["state"]], ["gpu", "ready"], JSON.stringify(outputs));
  const { drivenBy, usable, why } = await twin.screen();
  assert.equal([drivenBy, usable], ["sys-gui", true], why);
  const preview = await stack.preview();
  assert.equal(preview.changes, { same: 3 }, preview.output);
});

test("each boot brings it up again", async () => {
  await twin.reboot();
  // The GUI domain takes its time.
  for (let i = 0; i < 60 && !(await twin.screen()).usable; i++) await setTimeout(1000);
  const { drivenBy, usable, why } = await twin.screen();
  assert.equal([drivenBy, usable], ["sys-gui", true], why);
  const preview = await stack.preview();
  assert.equal(preview.changes, { same: 3 }, preview.output);
  assert.equal(await twin.exec("cat /var/lib/guidomain/outcome.json").then((r) => r.stdout), "");
});

test("to xephyr and all the way back", async () => {
  const { outputs } = await up({ reboot: "allowed", display: ["xephyr"] });
  assert.equal([outputs["mode"], outputs["state"]], ["xephyr", "ready"]);
  const { drivenBy, usable, why } = await twin.screen();
  assert.equal([drivenBy, usable], ["dom0 (lightdm)", true], why);
  const destroy = await stack.destroy();
  assert.ok(destroy.ok, destroy.output);
  assert.equal(twin.compare(pristine, await twin.dump(), BOOTED), []);
});

test("it fails only when tried: put back as it was before, then xephyr, with what was seen", async () => {
  await up({ display: ["xephyr"] });
  const xephyr = await twin.dump();
  await stack.destroy();
  await twin.fault("guest-no-drm");
  const { outputs } = await up({ reboot: "allowed" });
  const again = ["uuid", "properties.uuid", "properties.xid"].map((name) => `qubes.qubes.sys-gui.${name}`);
  const ignore = [...BOOTED.ignore, ...again, "files./var/lib/guidomain/ledger.json"];
  assert.equal(twin.compare(xephyr, await twin.dump(), { ignore }), [], "as if it had never been tried");
  assert.equal([outputs["mode"], outputs["state"]], ["xephyr", "ready"]);
  assert.equal(attempts(outputs), ["gpu failed", "xephyr ok"]);
  assert.match(JSON.stringify(outputs["attempts"]), /display has a driver in the qube/);
  const [failed] = outputs["attempts"] as { evidence: { id: string; ok: boolean }[] }[];
  assert.ok(failed?.evidence.some(({ id, ok }) => id === "display has a driver in the qube" && !ok));
  const { drivenBy, usable, why } = await twin.screen();
  assert.equal([drivenBy, usable], ["dom0 (lightdm)", true], why);
  const preview = await stack.preview();
  assert.equal(preview.changes, { same: 3 }, preview.output);
  const destroy = await stack.destroy();
  assert.ok(destroy.ok, destroy.output);
  assert.equal(twin.compare(pristine, await twin.dump(), BOOTED), []);
});

test("the card is gone: the host goes back by itself, and xephyr comes up in that qube", async () => {
  await twin.clearFaults();
  const gpu = { class: "display", vendor: "8086" } as const;
  await up({ reboot: "allowed", gpu });
  assert.equal((await twin.screen()).drivenBy, "sys-gui");
  const assigned = async () =>
    (await twin.exec("qvm-pci list -s | grep sys-gui | cut -d ' ' -f 1 | sort -u")).stdout;
  assert.match(await assigned(), /^dom0:\*$/m);
  const { machine } = twin.surroundings();
  const devices = machine.devices.filter(({ sbdf }) => sbdf !== "0000:00:02.0");
  await twin.world({ nextMachine: { ...machine, devices } });
  await twin.reboot(); // stops in the initramfs, which is to hide it
  await twin.powerCycle();
  const { outputs } = await up({ reboot: "allowed", gpu });
  assert.equal([outputs["mode"], outputs["state"]], ["xephyr", "ready"], JSON.stringify(outputs));
  assert.equal(attempts(outputs), ["gpu failed", "xephyr ok"]);
  assert.equal(await assigned(), "");
  const destroy = await stack.destroy();
  assert.ok(destroy.ok, destroy.output);
});

test.run();
