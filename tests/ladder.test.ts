// Ladders whose best rung this machine, or its template, cannot have: on the real engine, OpenSSH, agent, Salt and a twin without an
// IOMMU. Issue 4 "Must show"; the ladder alone is tested in src/plan/ladder.test.ts.

import { GuiDomain, type GuiDomainArgs, Host } from "guidomain";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { startTwin } from "../lab/twin/twin.ts";
import { hostOf, scratch, testStack } from "./harness.ts";

const folder = scratch("ladder");
const twin = await startTwin({ dir: `${folder}/twin`, machine: "thinkpad-t400s" });
// As on any host, the network runs; a download by qubes-dom0-update would start it otherwise.
await twin.exec("qvm-start sys-firewall");
const pristine = await twin.dump();
/** What each qube that is created and started has of its own. */
const ANOTHER_RUN = ["uuid", "properties.uuid", "properties.xid"].map(
  (name) => `qubes.qubes.sys-gui.${name}`,
);
let args: Partial<GuiDomainArgs> = {};
const stack = await testStack("ladder", folder, { lab: hostOf(twin) }, async () => {
  const host = new Host("lab");
  const gui = new GuiDomain("sys-gui", { host, clients: ["vault"], reboot: "allowed", ...args });
  return { mode: gui.mode, state: gui.state, attempts: gui.attempts };
});

const bootId = () => twin.machine().boot?.id;
const firstBoot = bootId();

interface Attempt {
  mode: string;
  verdict: string;
  reason: string;
}
async function up(): Promise<{ mode: unknown; attempts: string[]; reasons: string; output: string }> {
  const { ok, output, outputs } = await stack.up();
  assert.ok(ok, output);
  const attempts = outputs["attempts"] as Attempt[];
  return {
    mode: outputs["mode"],
    attempts: attempts.map(({ mode, verdict }) => `${mode} ${verdict}`),
    reasons: attempts.map(({ reason }) => reason).join("\n"),
    output,
  };
}
async function noChange(): Promise<void> {
  const { ok, changes, diffs, output } = await stack.preview();
  assert.ok(ok, output);
  assert.equal(changes, { same: 3 }, JSON.stringify(diffs));
}
async function destroyed(): Promise<void> {
  const { ok, output } = await stack.destroy();
  assert.ok(ok, output);
  assert.equal(twin.compare(pristine, await twin.dump()), []);
}

test("a machine that cannot, and no other mode: refused in the preview and in the run, nothing is touched", async () => {
  args = { display: ["gpu"] };
  for (const run of [stack.preview, stack.up]) {
    const { ok, errors } = await run();
    assert.not(ok);
    const message = errors.join("\n");
    assert.match(message, /GUI domain sys-gui on host lab: mode "gpu": .*no IOMMU in use \(VT-d or AMD-Vi\)/);
    assert.match(message, /Nothing was changed on the host\. .*Add a mode that this host can bring up/);
  }
  assert.equal(twin.compare(pristine, await twin.dump()), []);
});

test("a machine that cannot: refused before anything is touched, xephyr, and the reason is said", async () => {
  args = { display: ["xephyr"] };
  assert.is((await up()).mode, "xephyr");
  const xephyr = await twin.dump();
  await destroyed();

  args = { display: ["gpu", "xephyr"] };
  const { mode, attempts, reasons, output } = await up();
  assert.equal([mode, attempts], ["xephyr", ["gpu refused", "xephyr ok"]]);
  assert.match(reasons, /no IOMMU in use \(VT-d or AMD-Vi\)/);
  assert.match(output, /warning: .*in mode "xephyr", not "gpu": mode "gpu" was refused: .*no IOMMU/);
  const ignore = ["files./var/lib/guidomain/ledger.json", ...ANOTHER_RUN];
  assert.equal(twin.compare(xephyr, await twin.dump(), { ignore }), [], "as if it had never been asked for");
  assert.is(bootId(), firstBoot);
  const { drivenBy, usable } = await twin.screen();
  assert.equal([drivenBy, usable], ["dom0 (lightdm)", true]);
  await noChange();
  await destroyed();
});

test("what a mode of dom0's lacks in this template is not tried again in each run, until retry says so", async () => {
  const lightdm = (version: string | undefined) =>
    twin.world({ templates: { "fedora-43-xfce": { packages: { lightdm: version } } } });
  await lightdm(undefined);
  args = { display: ["vnc", "xephyr"] };
  const first = await up();
  assert.equal([first.mode, first.attempts], ["xephyr", ["vnc failed", "xephyr ok"]]);
  assert.match(first.reasons, /packages of template fedora-43-xfce: .*lightdm/);
  assert.match(first.output, /in mode "xephyr", not "vnc": mode "vnc" was tried and failed/);
  const before = await twin.dump();
  await noChange();
  const again = await up();
  assert.equal(again.attempts, first.attempts);
  assert.equal(twin.compare(before, await twin.dump()), [], "nothing is tried");

  await lightdm("1.32.0");
  args = { display: ["vnc", "xephyr"], retry: "lightdm is installed" };
  const preview = await stack.preview();
  assert.match(preview.diffs["sys-gui"]?.join(" ") ?? "", /settings\.services.*guivm-vnc/);
  const retried = await up();
  assert.equal([retried.mode, retried.attempts], ["vnc", ["vnc ok", "xephyr skipped"]]);
  await noChange();
  await destroyed();
});

test.run();
