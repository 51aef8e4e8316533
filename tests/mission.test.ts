// The whole path on real parts: engine, plugin, OpenSSH, agent, Salt, the twin. Issue 3 "Must show".

import { GuiDomain, Host } from "guidomain";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { startTwin } from "../lab/twin/twin.ts";
import { hostOf, scratch, testStack } from "./harness.ts";

const folder = scratch("mission");
const twin = await startTwin({ dir: `${folder}/twin` });
// As on any host, the network runs; a download by qubes-dom0-update would start it otherwise.
await twin.exec("qvm-start sys-firewall");
const pristine = await twin.dump();
/** Its times move with each apply. */
const LEDGER = { ignore: ["files./var/lib/guidomain/ledger.json"] };
const stack = await testStack("mission", folder, { lab: hostOf(twin) }, async () => {
  const host = new Host("lab");
  const gui = new GuiDomain("sys-gui", { host, clients: "default" });
  return { mode: gui.mode, state: gui.state, pending: gui.pending };
});

test("a preview of the first up writes nothing", async () => {
  const preview = await stack.preview();
  assert.ok(preview.ok, preview.output);
  assert.is(preview.changes["create"], 3); // the stack, the host, the GUI domain
  assert.equal(twin.compare(pristine, await twin.dump()), []);
});

test("up brings the GUI domain to mode xephyr, state ready", async () => {
  const up = await stack.up();
  assert.ok(up.ok, up.output);
  const why = "their windows stay with the former GUI domain until they restart";
  // They ran before: nothing was restarted, so it is said what is still to do.
  assert.equal(up.outputs, {
    mode: "xephyr",
    state: "ready",
    pending: [{ kind: "restart", qubes: ["sys-firewall", "sys-net"], why }],
  });
  assert.is((await twin.exec("qvm-prefs sys-gui maxmem")).stdout, "4000\n");
  assert.is((await twin.exec("qubes-prefs default_guivm")).stdout, "sys-gui\n");
  assert.is((await twin.exec("qvm-check --running sys-gui")).code, 0);
  assert.is((await twin.exec("test -f /usr/share/xsessions/sys-gui.desktop")).code, 0);
});

test("a preview right after shows no changes and leaves the host byte for byte as it was", async () => {
  const before = await twin.dump();
  const counted = twin.counters();
  const preview = await stack.preview();
  assert.ok(preview.ok, preview.output);
  assert.equal(preview.changes, { same: 3 });
  assert.equal(twin.compare(before, await twin.dump()), []);
  const now = twin.counters();
  const used = Object.fromEntries(
    Object.entries(now).map(([k, v]) => [k, v - counted[k as keyof typeof counted]]),
  );
  assert.equal(used, { connections: 1, authentications: 1, execs: 1, snapshots: 1 });
});

test("a change made by hand shows as exactly that property, and up repairs exactly that", async () => {
  const good = await twin.dump();
  await twin.exec("qvm-prefs sys-gui maxmem 1234");
  const preview = await stack.preview();
  assert.ok(preview.ok, preview.output);
  assert.equal(preview.diffs["sys-gui"], ["settings.properties.maxmem"]);
  assert.match(preview.output, /1234.*4000/);
  const up = await stack.up();
  assert.ok(up.ok, up.output);
  assert.equal(twin.compare(good, await twin.dump(), LEDGER), []);
});

test("a deleted policy file shows as exactly that file, and comes back", async () => {
  const good = await twin.dump();
  await twin.exec("rm /etc/qubes/policy.d/50-gui-sys-gui.policy");
  const preview = await stack.preview();
  assert.equal(preview.diffs["sys-gui"], ['settings.files["/etc/qubes/policy.d/50-gui-sys-gui.policy"]']);
  const up = await stack.up();
  assert.ok(up.ok, up.output);
  assert.equal(twin.compare(good, await twin.dump(), LEDGER), []);
});

test("destroy puts back what was there before", async () => {
  const destroy = await stack.destroy();
  assert.ok(destroy.ok, destroy.output);
  assert.equal(twin.compare(pristine, await twin.dump()), []);
});

test.run();
