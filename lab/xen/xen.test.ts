// runner: xen
/**
 * The Xen lab itself, on a real Xen in QEMU: what it says of itself, devices, guests, the screen, GRUB, faults. `npm run test:xen`; each
 * test prints how long it took. One host with an IOMMU goes through all of it in order, another one has none.
 */
import { spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { clearFaults, setFault } from "./faults.ts";
import { consoleOf, type GuestOptions, guestConfiguration, seenFunctions } from "./guest.ts";
import { readToken } from "./png.ts";
import { machineArguments } from "./qemu.ts";
import { DEVICES, startXenHost, type XenHost } from "./xenHost.ts";

const folder = mkdtempSync(join(tmpdir(), "guidomain-xen-"));
const say = (line: string) => console.log(`  ${line}`);
const needs = ["qemu-system-x86_64", "qemu-img", "mmdebstrap", "zstd", "cpio", "setpriv"];
const missing = needs.filter((name) => spawnSync(name, ["--version"]).error);
if (missing.length > 0)
  console.log(`skipped: no Xen host here, since the machine has no ${missing.join(", ")}`);

let host: XenHost;
let bare: XenHost;

/** A test that says how long it took, and is skipped where there is no lab. */
function on(title: string, work: () => Promise<void>): void {
  (missing.length > 0 ? test.skip : test)(title, async () => {
    const start = performance.now();
    await work();
    say(`${title}: ${((performance.now() - start) / 1000).toFixed(1)} s`);
  });
}

/** Starts a guest and resolves with what it has said on its console, when it is ready (or has said `word`). */
async function startGuest(options: GuestOptions, on: XenHost, word = "ready"): Promise<string> {
  const { name } = options;
  await on.must(`cat > /etc/xen/${name}.cfg; : > ${consoleOf(name)}`, { input: guestConfiguration(options) });
  await on.must(`xl create /etc/xen/${name}.cfg`, { timeout: 600_000 });
  return untilSaid(on, name, new RegExp(`^guest ${word}`, "m"));
}

async function untilSaid(on: XenHost, name: string, pattern: RegExp): Promise<string> {
  for (const limit = Date.now() + 600_000; ; await sleep(2000)) {
    const said = (await on.must(`cat ${consoleOf(name)}`)).replaceAll("\r", "");
    if (pattern.test(said)) return said;
    if (Date.now() > limit) throw new Error(`${name} did not say ${pattern}, only: ${said.slice(-400)}`);
  }
}

const driverOf = async (on: XenHost, address: string) =>
  (await on.must(`readlink /sys/bus/pci/devices/${address}/driver || echo none`)).trim().split("/").at(-1);

/** An entry for GRUB's custom.cfg: that of Xen with another id, and the kernel's line changed. */
const entry = (id: string, sed: string) =>
  `sed -n "/^menuentry .*xen-gnulinux-simple/,/^}/p" /boot/grub/grub.cfg | sed -e "1s/.*/menuentry ${id} --id ${id} {/" -e '${sed}' >> /boot/grub/custom.cfg`;

test("a machine without IOMMU is the same machine otherwise", () => {
  const [plain, full] = [false, true].map((iommu) => machineArguments({ iommu }, { disk: "d", port: 1 }));
  const more = full?.filter((word) => !plain?.includes(word));
  assert.equal(more, ["intel-iommu,intremap=on,caching-mode=on"]);
});

on("a host goes on from a saved state, with a clock that is right and a name of its own", async () => {
  host = await startXenHost({ dir: join(folder, "host"), say });
  const start = performance.now();
  const again = await startXenHost({ dir: join(folder, "again"), say });
  say(`start from the saved state: ${((performance.now() - start) / 1000).toFixed(1)} s`);
  const [seconds, name] = (await again.must("date +%s; hostname")).split("\n");
  assert.ok(Math.abs(Number(seconds) - Date.now() / 1000) < 30, `dom0's clock says ${seconds}`);
  assert.is(name, "again");
  assert.is((await host.must("hostname")).trim(), "host");
  await again.stop();
  assert.is(await again.power(), "off");
  assert.is(await host.power(), "running");
});

on("facts of a host with an IOMMU", async () => {
  const info = await host.must("xl info");
  assert.match(info, /^xen_version +: 4\.17\./m);
  assert.match(info, /^virt_caps +: .*\bhvm_directio pv_directio\b/m);
  assert.is(await driverOf(host, DEVICES.bootDisplay), "bochs-drm");
  assert.is(await driverOf(host, DEVICES.audio), "snd_hda_intel");
  assert.is((await host.must("xl pci-assignable-list")).trim(), "");
  for (const address of Object.values(DEVICES))
    assert.is((await host.exec(`test -e /sys/bus/pci/devices/${address}`)).code, 0, address);
});

on("Salt applies a state", async () => {
  await host.must("mkdir -p /srv/salt && cat > /srv/salt/lab.sls", {
    input: "/etc/lab-state:\n  file.managed:\n    - contents: applied\n",
  });
  const result = await host.must("salt-call --local --out=json --log-level=error state.apply lab", {
    timeout: 900_000,
  });
  assert.match(result, /"result": true/);
  assert.is((await host.must("cat /etc/lab-state")).trim(), "applied");
});

on("the screen shows dom0's Xephyr with what a guest draws", async () => {
  const said = await startGuest({ name: "gui", type: "pv", display: 5 }, host);
  assert.match(said, /^guest has a screen of 800,600$/m);
  await host.must("systemctl start lightdm", { timeout: 600_000 });
  for (const token of [randomBytes(4).toString("hex"), randomBytes(4).toString("hex")]) {
    await host.must(`xenstore-write /local/domain/$(xl domid gui)/data/lab/draw ${token}`);
    const start = performance.now();
    let shown = readToken(await host.screenshot());
    for (; shown !== token && performance.now() - start < 600_000; await sleep(2000))
      shown = readToken(await host.screenshot());
    assert.is(shown, token);
    say(`token ${token} on the machine's screen after ${((performance.now() - start) / 1000).toFixed(1)} s`);
    assert.match(await host.must(`cat ${consoleOf("gui")}`), new RegExp(`guest drew ${token}`));
  }
  const clients = await host.must("DISPLAY=:1 XAUTHORITY= timeout 60 xwininfo -root -tree");
  say(
    clients
      .split("\n")
      .find((line) => /vnc/i.test(line))
      ?.trim() ?? "no viewer in Xephyr's tree",
  );
  await host.must("systemctl stop lightdm");
  // Negative control: without the session the token is not on the screen, though the guest still shows it.
  await sleep(2000);
  assert.is(readToken(await host.screenshot()), null);
  await host.must("xl destroy gui");
});

on("a sound function that dom0 drives is handed over, and back", async () => {
  await host.must(`xl pci-assignable-add ${DEVICES.audio}`);
  assert.is(await driverOf(host, DEVICES.audio), "pciback");
  assert.match(await host.must("xl pci-assignable-list"), /^0000:00:07\.0/m);
  const said = await startGuest({ name: "sound", type: "pv", pci: [DEVICES.audio] }, host);
  assert.equal(
    seenFunctions(said).map(({ class: type, id }) => [type, id]),
    [["0x040300", "8086:293e"]],
  );
  await host.must("xl destroy sound");
  await host.must(`xl pci-assignable-remove -r ${DEVICES.audio}`);
  assert.is(await driverOf(host, DEVICES.audio), "snd_hda_intel");
});

on("what xl says where it refuses", async () => {
  await host.must("cat > /etc/xen/no.cfg", {
    input: guestConfiguration({ name: "no", type: "pv", pci: [DEVICES.network] }),
  });
  const refused = await host.exec("xl create /etc/xen/no.cfg", { timeout: 600_000 });
  assert.match(refused.stderr, /PCI device 0:0:9\.0 is not assignable/);
  assert.is.not(refused.code, 0);
  const absent = await host.exec("xl pci-assignable-add 0000:7f:00.0");
  assert.match(absent.stderr, /Couldn't lstat|No such file/);
  assert.is.not(absent.code, 0);
  const twice = [
    await host.exec(`xl pci-assignable-add ${DEVICES.usb}`),
    await host.exec(`xl pci-assignable-add ${DEVICES.usb}`),
  ];
  assert.equal(
    twice.map(({ code }) => code),
    [0, 0],
  );
  assert.match(twice[1]?.stderr ?? "", /already assigned to pciback/);
});

on("faults: a full disk, and a guest that hangs", async () => {
  await setFault(host, "disk-full");
  assert.match((await host.exec("echo x > /root/x && sync")).stderr, /No space left on device/);
  await clearFaults(host);
  assert.is((await host.exec("echo x > /root/x && sync")).code, 0);
  await setFault(host, "guest-hangs");
  const said = await startGuest({ name: "stuck", type: "pv" }, host, "hangs");
  assert.not.match(said, /guest ready/);
  await host.must("xl destroy stuck");
  await clearFaults(host);
  assert.match(await startGuest({ name: "free", type: "pv" }, host), /^guest ready/m);
  await host.must("xl destroy free");
});

on("a one-shot entry hides a card at boot, and a guest's kernel sees it", async () => {
  const before = await host.bootId();
  await host.must(entry("lab-trial", "/vmlinuz/s/$/ xen-pciback.hide=(0000:00:06.0)(0000:01:00.0)/"));
  await host.must("grub-script-check /boot/grub/custom.cfg && grub-reboot lab-trial && sync");
  const start = performance.now();
  await host.exec("systemctl reboot").catch(() => {});
  await host.until("up", { after: before ?? "", timeout: 1_200_000 });
  say(`reboot through GRUB: ${((performance.now() - start) / 1000).toFixed(0)} s`);
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
  say(`power cycle through GRUB: ${((performance.now() - start) / 1000).toFixed(0)} s`);
  assert.is.not(after, before);
  const line = await host.must("cat /proc/cmdline");
  assert.not.match(line, /nowhere|pciback/);
  assert.match(await host.must("xl info"), /^virt_caps/m);
  assert.is(await driverOf(host, DEVICES.card), "bochs-drm");
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

on("a host without IOMMU: xl refuses, and still lists what it refused", async () => {
  bare = await startXenHost({ dir: join(folder, "bare"), machine: { iommu: false }, say });
  assert.not.match(await bare.must("xl info"), /directio/);
  const added = await bare.exec(`xl pci-assignable-add ${DEVICES.audio}`);
  say(`xl pci-assignable-add: ${added.code}, ${added.stderr.trim().split("\n").at(-1)}`);
  assert.match(added.stderr, /failed to quarantine 0000:00:07\.0/);
  assert.is.not(added.code, 0);
  assert.match(await bare.must("xl pci-assignable-list"), /^0000:00:07\.0/m);
  await bare.must("cat > /etc/xen/no.cfg", {
    input: guestConfiguration({ name: "no", type: "pv", pci: [DEVICES.audio] }),
  });
  const refused = await bare.exec("xl create /etc/xen/no.cfg", { timeout: 600_000 });
  assert.match(refused.stderr, /passthrough not supported on this platform/);
  assert.is.not(refused.code, 0);
  await bare.stop();
});

test.after(() => rmSync(folder, { recursive: true, force: true }));
test.run();
