// The inside of a template on real parts: engine, plugin, OpenSSH, agent, Salt in dom0 and in the qube, a twin whose templates have volumes.

import { Template, type TemplateArgs } from "guidomain";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { startTwin } from "../lab/twin/twin.ts";
import { hostOf, scratch, testStack } from "./harness.ts";

const NAME = "fedora-43-xfce";
const folder = scratch("template");
// What the distribution has beyond what the template came with; "nosuch" it does not have.
const REPOSITORY = [
  "greybird-xfce4-notifyd-theme",
  "qubes-gui-vnc",
  "xfce4-power-manager",
  "xfce4-screensaver",
  "xfce4-screenshooter-plugin",
  "xfce4-settings",
  "xfce4-terminal",
  "xfconf",
  "xfdesktop",
  "xfwm4",
  "tool",
];
const twin = await startTwin({
  dir: `${folder}/twin`,
  world: { distributions: { fedora: Object.fromEntries(REPOSITORY.map((name) => [name, "1.0"])) } },
});
// As on any host, the network runs: the update proxy would start it otherwise.
await twin.exec("qvm-start sys-firewall");
const pristine = await twin.dump();

let args: Partial<TemplateArgs> = { modes: ["vnc"] };
const stack = await testStack("template", folder, { lab: hostOf(twin) }, async () => {
  const template = new Template(NAME, { host: "lab", ...args });
  return { state: template.state, brought: template.brought };
});

const starts = async () =>
  Number(
    (await twin.exec(`grep -c 'admin.vm.Start.* ${NAME}' /var/log/qubes/qubesd-calls.log || true`)).stdout,
  );
/** In a qube made from it, or the template itself. */
const inside = async (command: string) => {
  const { stdout, stderr, code } = await twin.exec(`qvm-run -p -u root --no-gui ${NAME} '${command}'`);
  await twin.exec(`qvm-shutdown --wait ${NAME}`);
  return { stdout, stderr, code };
};

test("a preview starts nothing and writes nothing", async () => {
  const preview = await stack.preview();
  assert.ok(preview.ok, preview.output);
  assert.match(preview.output, /is started for it and shut down again/);
  assert.equal(twin.compare(pristine, await twin.dump()), []);
});

test("a package that cannot be had is named, and the template is as it was", async () => {
  args = { modes: ["vnc"], packages: ["nosuch"] };
  const up = await stack.up();
  assert.is(up.ok, false);
  assert.match(up.errors.join("\n"), /Template fedora-43-xfce on host lab: .*package nosuch/s);
  assert.match(up.errors.join("\n"), /put back: .*the root volume of "fedora-43-xfce"/);
  assert.equal(twin.compare(pristine, await twin.dump()), []);
  const { code } = await inside("rpm -q xfdesktop");
  assert.is(code, 1);
});

test("applied once: packages, drop-in, unit; off again", async () => {
  args = { modes: ["vnc"] };
  const up = await stack.up();
  assert.ok(up.ok, up.output);
  assert.is(up.outputs["state"], "ready");
  const brought = up.outputs["brought"] as string[];
  assert.ok(brought.includes("xfdesktop") && !brought.includes("qubes-vm-guivm"), brought.join());
  const { stdout } = await twin.exec(`qvm-ls --raw-data --fields state ${NAME}`);
  assert.is(stdout.trim(), "Halted");
  const seen = await inside(
    "rpm -q xfdesktop x11vnc && systemctl is-enabled lightdm && cat /etc/systemd/system/lightdm.service.d/50-guidomain.conf",
  );
  assert.is(seen.code, 0, seen.stdout + seen.stderr);
  assert.match(seen.stdout, /enabled\n.*ConditionPathExists=\/run\/qubes-service\/lightdm/s);
});

test("skipped the second time: nothing is started, no Salt runs", async () => {
  const at = await starts();
  assert.ok(at > 0);
  const before = await twin.dump();
  const up = await stack.up();
  assert.ok(up.ok, up.output);
  assert.equal(up.changes, { same: 2 });
  assert.is(await starts(), at);
  assert.equal(twin.compare(before, await twin.dump()), []);
});

test("a template that was installed anew is done again", async () => {
  await twin.exec(`qvm-features ${NAME} template-installtime '2026-11-30 18:00:00'`);
  const preview = await stack.preview();
  assert.equal(preview.diffs[NAME], ["settings.digest"]);
  const at = await starts();
  const up = await stack.up();
  assert.ok(up.ok, up.output);
  assert.ok((await starts()) > at);
  assert.equal((await stack.preview()).changes, { same: 2 });
});

test("one that runs is refused before anything is touched", async () => {
  args = { modes: ["vnc"], packages: ["tool"] };
  await twin.exec(`qvm-start ${NAME}`);
  const before = await twin.dump();
  const up = await stack.up();
  assert.is(up.ok, false);
  assert.match(up.errors.join("\n"), /is running.*Shut it down \(qvm-shutdown --wait fedora-43-xfce\)/s);
  assert.equal(twin.compare(before, await twin.dump()), []);
  await twin.exec(`qvm-shutdown --wait ${NAME}`);
});

test("destroyed: what was brought is gone, what was there before is there", async () => {
  args = { modes: ["vnc"] };
  const destroy = await stack.destroy();
  assert.ok(destroy.ok, destroy.output);
  const { stdout } = await inside(
    "rpm -q xfdesktop; rpm -q x11vnc; ls /etc/systemd/system/lightdm.service.d; systemctl is-enabled lightdm",
  );
  assert.match(stdout, /package xfdesktop is not installed\nx11vnc-/);
  assert.match(stdout, /^enabled$/m, "the greeter was enabled before");
  assert.not.match(stdout, /50-guidomain/);
  const { qubes } = await twin.dump();
  const features = Object.keys((qubes as Record<string, { features: object }>)[NAME]?.features ?? {});
  assert.equal(
    features.filter((name) => name.startsWith("guidomain")),
    [],
  );
});

test.run();
