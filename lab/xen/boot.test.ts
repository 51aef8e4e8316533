// runner: xenlab
/**
 * Boots of the Xen lab: entries that GRUB takes once, cards on pciback from the start and in a guest, a boot that fails, the power gone.
 */
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { clearFaults, setFault } from "./faults.ts";
import { seenFunctions } from "./guest.ts";
import { driverOf, folder, on, passed, say, startGuest } from "./testing.ts";
import { DEVICES, startXenHost, type XenHost } from "./xenHost.ts";

let host: XenHost;

/** An entry for GRUB's custom.cfg: that of Xen with another id, and the kernel's line changed. */
const entry = (id: string, sed: string) =>
  `sed -n "/^menuentry .*xen-gnulinux-simple/,/^}/p" /boot/grub/grub.cfg | sed -e "1s/.*/menuentry ${id} --id ${id} {/" -e '${sed}' >> /boot/grub/custom.cfg`;

test("every function that can be passed on has an address of its own", () => {
  assert.is(new Set(Object.values(DEVICES)).size, Object.values(DEVICES).length);
});

on("a one-shot entry hides a card at boot, and a guest's kernel sees it", async () => {
  host = await startXenHost({ dir: join(folder, "boots"), say });
  const before = await host.bootId();
  await host.must(entry("lab-trial", "/vmlinuz/s/$/ xen-pciback.hide=(0000:00:06.0)(0000:01:00.0)/"));
  await host.must("grub-script-check /boot/grub/custom.cfg && grub-reboot lab-trial && sync");
  const start = performance.now();
  await host.exec("systemctl reboot").catch(() => {});
  await host.until("up", { after: before ?? "", timeout: 1_200_000 });
  say(`reboot through GRUB: ${passed(start)}`);
  assert.match(await host.must("cat /proc/cmdline"), /xen-pciback\.hide=/);
  assert.not.match(await host.must("grub-editenv list"), /next_entry=./);
  for (const card of [DEVICES.card, DEVICES.virtioCard]) assert.is(await driverOf(host, card), "pciback");
  const said = await startGuest({ name: "gpu", type: "pv", pci: [DEVICES.card] }, host);
  assert.equal(
    seenFunctions(said).map(({ class: type, id }) => [type, id]),
    [["0x038000", "1234:1111"]],
  );
});

on("an HVM guest's kernel sees a card too", async () => {
  const said = await startGuest({ name: "hvm", type: "hvm", pci: [DEVICES.virtioCard] }, host);
  assert.match(said, / as HVM$/m);
  assert.ok(
    seenFunctions(said).some(({ id }) => id === "1af4:1050"),
    said,
  );
  await host.must("xl destroy hvm; xl destroy gpu");
});

on("a one-shot entry that does not boot is gone after a power cycle", async () => {
  const before = await host.bootId();
  await host.must(entry("lab-broken", "/vmlinuz/s#root=[^ ]*#root=/dev/nowhere rootdelay=2#"));
  await host.must("grub-script-check /boot/grub/custom.cfg && grub-reboot lab-broken && sync");
  const from = host.console().length;
  await host.exec("systemctl reboot").catch(() => {});
  await host.untilConsole(/Booting `lab-broken'/, { from, timeout: 1_200_000 });
  say(`the console: ${await host.untilConsole(/.*\/dev\/nowhere.*/, { from, timeout: 1_200_000 })}`);
  assert.is(await host.bootId(10_000), null);
  const start = performance.now();
  await host.powerCycle();
  const after = await host.until("up", { timeout: 1_200_000 });
  say(`power cycle through GRUB: ${passed(start)}`);
  assert.is.not(after, before);
  const line = await host.must("cat /proc/cmdline");
  assert.not.match(line, /nowhere|pciback/);
  assert.match(await host.must("xl info"), /^virt_caps/m);
  assert.is(await driverOf(host, DEVICES.card), "bochs-drm");
  await host.untilDesktop();
  say(`its own session on the screen: ${passed(start)}`);
});

on("faults: a cut line, processors that stand still, the power gone", async () => {
  const before = await host.bootId();
  await setFault(host, "cut-line");
  assert.is(await host.bootId(5_000), null);
  await clearFaults(host);
  assert.is(await host.until("up"), before);
  await setFault(host, "hang");
  assert.is(await host.power(), "paused");
  assert.is(await host.bootId(5_000), null);
  await host.command("cont");
  assert.is(await host.until("up"), before);
  await host.must("echo written > /root/synced && sync");
  await setFault(host, "power-cut");
  assert.is(await host.power(), "off");
  await host.powerCycle();
  assert.is.not(await host.until("up", { timeout: 1_200_000 }), before);
  assert.is((await host.must("cat /root/synced")).trim(), "written");
  await host.stop();
});

test.run();
