// A machine with two screens, on real parts: both are lit in the GUI domain that drives them, and lie as the program says; in the other modes they stay dom0's.

import { GuiDomain, type GuiDomainArgs, Host } from "guidomain";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { startTwin } from "../lab/twin/twin.ts";
import { fixture, type Machine } from "../lab/twin/world.ts";
import { hostOf, scratch, testStack } from "./harness.ts";

const folder = scratch("outputs");
const machine: Machine = {
  ...fixture<Machine>("machines", "laptop"),
  outputs: {
    "0000:00:02.0": [
      { name: "eDP-1", connected: true },
      { name: "HDMI-A-1", connected: true },
      { name: "DP-1", connected: false },
    ],
  },
};
const twin = await startTwin({ dir: `${folder}/twin`, machine });
let args: Omit<GuiDomainArgs, "host"> = { clients: ["personal"] };
const stack = await testStack("outputs", folder, { lab: hostOf(twin) }, async () => {
  const gui = new GuiDomain("sys-gui", { ...args, host: new Host("lab") });
  return { state: gui.state, evidence: gui.evidence, screens: gui.screens };
});
async function up(
  more: typeof args,
): Promise<{ screens: unknown; passed: string[]; said: Record<string, string> }> {
  args = { ...args, ...more };
  const { ok, output, outputs } = await stack.up();
  assert.ok(ok, output);
  assert.is(outputs["state"], "ready", output);
  const evidence = outputs["evidence"] as { id: string; ok: boolean; output: string }[];
  return {
    screens: outputs["screens"],
    passed: evidence.flatMap(({ id, ok }) => (ok ? [id] : [])),
    said: Object.fromEntries(evidence.map(({ id, output }) => [id, output])),
  };
}
const X = "XAUTHORITY=/var/run/lightdm/root/:0 DISPLAY=:0 xrandr --query";
/** What X says of the screens that are connected. */
const lie = async () =>
  (await twin.exec(`qvm-run -p --no-gui -u root sys-gui '${X}'`)).stdout
    .split("\n")
    .flatMap((line) => /^(\S+ connected .*?) ?\(/.exec(line)?.[1] ?? []);

test("mode xephyr: each screen of dom0 that was lit is so after", async () => {
  const { passed } = await up({});
  for (const name of ["eDP-1", "HDMI-A-1"])
    assert.ok(passed.includes(`dom0's screen ${name} is lit as before`), passed.join("\n"));
  assert.not.ok(passed.some((id) => id.includes("DP-1 is") && !id.includes("eDP-1")));
});

test("mode gpu: both are lit in the qube, and lie as asked", async () => {
  const { screens, passed, said } = await up({
    display: ["gpu", "xephyr"],
    reboot: "allowed",
    layout: [
      { output: "HDMI-A-1", mode: "1280x720", position: "0x0", primary: true },
      { output: "eDP-1", mode: "1920x1080", position: "1280x0" },
      { output: "DP-1", mode: "1920x1080", position: "3200x0" },
    ],
  });
  assert.equal(screens, ["HDMI-A-1", "eDP-1"]);
  for (const name of ["eDP-1", "HDMI-A-1"])
    assert.ok(passed.includes(`screen ${name} is lit as before`), passed.join("\n"));
  assert.match(said["screen HDMI-A-1 lies so"] ?? "", /^HDMI-A-1 connected primary 1280x720\+0\+0 /);
  assert.match(said["screen DP-1 lies so"] ?? "", /^DP-1 disconnected/);
  assert.equal(await lie(), ["eDP-1 connected 1920x1080+1280+0", "HDMI-A-1 connected primary 1280x720+0+0"]);
});

test("another layout, without a boot", async () => {
  const { number } = twin.machine();
  await up({
    layout: [{ output: "eDP-1", mode: "1920x1080", position: "0x0", rotate: "left", primary: true }],
  });
  assert.is(twin.machine().number, number);
  assert.match((await lie())[0] ?? "", /^eDP-1 connected primary 1080x1920\+0\+0 left/);
});

test("a mode that the screen does not have: told by the evidence, and the display stays", async () => {
  const { said } = await up({ layout: [{ output: "eDP-1", mode: "9999x999", position: "0x0" }] });
  assert.match(said["screen eDP-1 lies so"] ?? "", /^eDP-1 connected primary 1080x1920/, "as it was");
  assert.is((await twin.screen()).usable, true);
});

test.after(() => twin.remove());
test.run();
