// What the desktop of a GUI domain sees of its machine, on real parts: its menu, the battery, the backlight. The twin's notebook has one of each.

import { GuiDomain, type GuiDomainArgs, Host } from "guidomain";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { startTwin } from "../lab/twin/twin.ts";
import { hostOf, scratch, testStack } from "./harness.ts";

const folder = scratch("battery");
const twin = await startTwin({ dir: `${folder}/twin` });
let args: Omit<GuiDomainArgs, "host"> = { display: ["xephyr"], clients: ["personal"], power: ["reboot"] };
const stack = await testStack("battery", folder, { lab: hostOf(twin) }, async () => {
  const gui = new GuiDomain("sys-gui", { ...args, host: new Host("lab") });
  return { state: gui.state, evidence: gui.evidence };
});
const inside = async (command: string, user = "root") =>
  (await twin.exec(`qvm-run -p --no-gui -u ${user} sys-gui '${command}'`)).stdout.trim();
const MENU = "ls /usr/share/applications | grep guidomain";
const BATTERY = "cat /sys/class/power_supply/BAT0/capacity";

async function up(more: typeof args): Promise<Record<string, string>> {
  args = { ...args, ...more };
  const { ok, output, outputs } = await stack.up();
  assert.ok(ok, output);
  assert.is(outputs["state"], "ready", output);
  const evidence = outputs["evidence"] as { id: string; output: string }[];
  return Object.fromEntries(evidence.map((one) => [one.id, one.output]));
}
/** Units of the qube are up a moment after its agent. */
async function soon(command: string, wanted: string): Promise<void> {
  for (let i = 0; i < 100 && (await inside(command)) !== wanted; i++)
    await new Promise((done) => setTimeout(done, 100));
  assert.is(await inside(command), wanted);
}

test("xephyr: what it may is in its menu; battery and backlight are those of the host", async () => {
  const evidence = await up({});
  assert.match(evidence["battery in the qube"] ?? "", /^(72)?$/);
  assert.is(evidence["backlight in the qube"], "100");
  await soon(BATTERY, "72");
  assert.is(await inside(MENU), "guidomain-reboot.desktop");
  assert.match(
    await inside("cat /usr/share/applications/guidomain-reboot.desktop"),
    /^Exec=\/usr\/lib\/guidomain\/power reboot$/m,
  );
  // As udev has it done when somebody turns it down.
  await inside("qrexec-client-vm @default qubes.SetBrightness+25 </dev/null");
  assert.is((await twin.exec("cat /sys/class/backlight/intel_backlight/brightness")).stdout, "1000\n");
});

test("the same after each start, where the root file system is new", async () => {
  await twin.exec("qvm-shutdown --force --wait sys-gui && qvm-start sys-gui");
  await soon(BATTERY, "72");
  await soon(MENU, "guidomain-reboot.desktop");
});

test("what a person clicks restarts the machine", async () => {
  const { number } = twin.machine();
  await twin.exec("qvm-run -p --no-gui sys-gui '/usr/lib/guidomain/power reboot </dev/null'");
  for (let i = 0; i < 300 && twin.machine().number === number; i++)
    await new Promise((done) => setTimeout(done, 100));
  assert.is((await twin.waitForBoot()).state, "running");
  assert.is(twin.machine().number, number + 1);
});

test("other rights, another menu; what it does not have is not asked for", async () => {
  await up({ display: ["vnc"], power: ["shutdown", "suspend"] });
  await soon(MENU, "guidomain-shutdown.desktop\nguidomain-suspend.desktop");
  assert.is(await inside("/usr/lib/guidomain/power reboot; echo $?"), "2");
  assert.is(await inside("ls /sys/class/backlight 2>/dev/null"), "", "of use in mode xephyr alone");
});

test("a machine without them: told, and nothing is set up", async () => {
  const { machine } = twin.surroundings();
  await twin.world({ nextMachine: { ...machine, power: { battery: false, backlights: [] } } });
  await twin.reboot();
  args = { ...args, display: ["xephyr"], power: ["reboot"] };
  const preview = await stack.preview();
  assert.match(preview.output, /the machine has no battery, so none is set up to be shown/);
  assert.match(preview.output, /the machine has no backlight, so its brightness is not set up/);
  const evidence = await up({});
  assert.equal(
    Object.keys(evidence).filter((id) => /battery|backlight/.test(id)),
    [],
  );
  assert.is((await twin.exec("rpm -q dummy-psu-sender")).code, 1);
});

test.after(() => twin.remove());
test.run();
