// runner: xen
/**
 * The ladder on real Xen, through the real engine, over real SSH, with real Salt: a card given to a PV guest in a boot of its own, whose
 * kernel sees it; sound to an audio domain; nothing to do; drift; all the way back; then the same with an HVM. Issue 7 "Must show" (a), (e), (f), (g).
 */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { KERNEL, seenFunctions } from "../lab/xen/guest.ts";
import { driverOf, on, say } from "../lab/xen/testing.ts";
import { DEVICES } from "../lab/xen/xenHost.ts";
import { attemptsOf, differences, GUEST, rungs, XenLab } from "./xenLab.ts";

const GPU = { display: ["gpu", "xephyr"] as ("gpu" | "xephyr")[], gpu: { address: DEVICES.secondCard } };
let lab: XenLab;
let before: Record<string, string>;

on("the facts of the host, and nothing written by a preview", async () => {
  lab = await XenLab.start("ladder", {}, say);
  // The image's grub.cfg was made where there was no disk yet; this one is as any later one.
  await lab.host.must("update-grub", { timeout: 300_000 });
  before = await lab.dump();
  lab.program = { gui: { ...GPU, reboot: "allowed" } };
  const preview = await lab.stack.preview();
  assert.ok(preview.ok, preview.output);
  assert.match(preview.output, /the machine restarts once/);
  assert.equal(differences(before, await lab.dump()), []);
});

on(
  "gpu: the machine restarts inside `up`, the guest's kernel sees the card, verified and confirmed",
  async () => {
    const boot = await lab.host.bootId();
    const { outputs } = await lab.up({ gui: { ...GPU, reboot: "allowed" } });
    assert.is.not(await lab.host.bootId(), boot);
    assert.equal([outputs["mode"], outputs["state"]], ["gpu", "ready"], JSON.stringify(attemptsOf(outputs)));
    assert.equal(rungs(outputs), ["gpu ok", "xephyr skipped"]);
    const seen = seenFunctions(await lab.consoleOf("sys-gui"));
    assert.ok(
      seen.some(({ id }) => id === "1234:1111"),
      JSON.stringify(seen),
    );
    assert.is(await driverOf(lab.host, DEVICES.secondCard), "pciback");
    assert.match(await lab.host.must("cat /etc/default/grub"), /xen-pciback\.hide=\(0000:02:00\.0\)/);
    await lab.isSettled();
  },
);

on("sound goes to an audio domain, whose kernel sees it", async () => {
  const { outputs } = await lab.up({
    gui: { ...GPU, reboot: "allowed" },
    audio: { devices: { address: DEVICES.audio } },
  });
  assert.equal([outputs["sound"], outputs["soundState"]], ["sys-audio", "ready"]);
  assert.is(await driverOf(lab.host, DEVICES.audio), "pciback");
  const seen = seenFunctions(await lab.consoleOf("sys-audio"));
  assert.equal(
    seen.map(({ class: type, id }) => [type, id]),
    [["0x040300", "8086:293e"]],
  );
  await lab.isSettled();
});

on("what somebody changed by hand is seen, and put right", async () => {
  await lab.host.must(
    "sed -i 's/^memory = .*/memory = 256/' /etc/xen/sys-gui.cfg && rm /etc/xen/auto/sys-audio.cfg",
  );
  const drift = await lab.stack.preview();
  assert.equal(
    [drift.diffs["sys-gui"], drift.diffs["sys-audio"]],
    [["settings.properties.memory"], ["settings.properties.autostart"]],
    drift.output,
  );
  await lab.up(lab.program);
  assert.match(await lab.host.must("cat /etc/xen/sys-gui.cfg"), /^memory = "?192"?$/m);
  await lab.isSettled();
});

on("destroy: the screen goes back to dom0 in a boot of its own, and nothing of ours is left", async () => {
  const gone = await lab.stack.destroy();
  assert.ok(gone.ok, gone.output);
  assert.equal(differences(before, await lab.dump()), []);
});

on("an HVM guest is given the card too", async () => {
  const domain = { ...GUEST, type: "hvm" as const, kernel: KERNEL };
  const { outputs } = await lab.up({ gui: { ...GPU, reboot: "allowed", domain } });
  assert.equal([outputs["mode"], outputs["state"]], ["gpu", "ready"], JSON.stringify(attemptsOf(outputs)));
  const said = await lab.consoleOf("sys-gui");
  assert.match(said, / as HVM$/m);
  assert.ok(
    seenFunctions(said).some(({ id }) => id === "1234:1111"),
    said,
  );
  await lab.host.stop();
});

test.run();
