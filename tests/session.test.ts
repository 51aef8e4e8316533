// State inUse: a person is in the Xephyr session. The twin's dom0 gets the process that its greeter would start.
import path from "node:path";
import { GuiDomain, Host } from "guidomain";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { startTwin } from "../lab/twin/twin.ts";
import { hostOf, scratch, testStack } from "./harness.ts";

const folder = scratch("session");
const twin = await startTwin({ dir: path.join(folder, "twin") });
const stack = await testStack("session", folder, { lab: hostOf(twin) }, async () => {
  const gui = new GuiDomain("sys-gui", { host: new Host("lab") });
  return { state: gui.state };
});

test("ready after up; inUse while the session runs; ready again after it; no change at any time", async () => {
  const up = await stack.up();
  assert.ok(up.ok, up.output);
  assert.is(up.outputs["state"], "ready");

  await twin.world({ dom0Session: true });
  // The second command keeps the shell, and so its command line, alive.
  await twin.exec("setsid bash -c 'sleep 300; :' /usr/bin/qubes-guivm-session sys-gui >/dev/null 2>&1 &");
  assert.is((await stack.up()).outputs["state"], "inUse");
  const preview = await stack.preview();
  assert.equal(preview.changes, { same: 3 }, preview.output);

  await twin.exec("pkill -f qubes-guivm-session");
  await twin.world({ dom0Session: false });
  assert.is((await stack.up()).outputs["state"], "ready");
});

test.run();
