// A GUI domain that drives the screen, on real parts: engine, plugin, OpenSSH, agent and guard, Salt, a twin that boots. Issue 4 "Must show".

import { GuiDomain, type GuiDomainArgs, Host } from "guidomain";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { startTwin } from "../lab/twin/twin.ts";
import { hostOf, scratch, testStack } from "./harness.ts";

const folder = scratch("gpu");
const twin = await startTwin({ dir: `${folder}/twin`, machine: "laptop" });
const pristine = await twin.dump();
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
const bootId = async () => (await twin.machine()).bootId;

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
  const { drivenBy, usable, why } = await twin.screen();
  assert.equal([drivenBy, usable], ["sys-gui", true], why);
  const preview = await stack.preview();
  assert.equal(preview.changes, { same: 3 }, preview.output);
});

test("to xephyr and all the way back", async () => {
  const { outputs } = await up({ reboot: "allowed", display: ["xephyr"] });
  assert.equal([outputs["mode"], outputs["state"]], ["xephyr", "ready"]);
  const { drivenBy, usable, why } = await twin.screen();
  assert.equal([drivenBy, usable], ["dom0 (lightdm)", true], why);
  const destroy = await stack.destroy();
  assert.ok(destroy.ok, destroy.output);
  assert.equal(twin.compare(pristine, await twin.dump()), []);
});

test("it fails only when tried: put back, then xephyr, with what was seen", async () => {
  await twin.fault("guest-no-drm");
  const { outputs } = await up({ reboot: "allowed" });
  assert.equal([outputs["mode"], outputs["state"]], ["xephyr", "ready"]);
  assert.equal(attempts(outputs), ["gpu failed", "xephyr ok"]);
  assert.match(JSON.stringify(outputs["attempts"]), /display has a driver in the qube/);
  const { drivenBy, usable, why } = await twin.screen();
  assert.equal([drivenBy, usable], ["dom0 (lightdm)", true], why);
  const destroy = await stack.destroy();
  assert.ok(destroy.ok, destroy.output);
  assert.equal(twin.compare(pristine, await twin.dump()), []);
});

test.run();
