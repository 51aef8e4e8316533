// runner: xenlab
/**
 * The Xen lab itself, on a real Xen in QEMU: what it says of itself, Salt, the screen, devices, what xl refuses, faults. One host with an
 * IOMMU goes through all of it in order, another one has none; both start from a saved state. Each test prints how long it took.
 */
import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { clearFaults, setFault } from "./faults.ts";
import { consoleOf, guestConfiguration, seenFunctions } from "./guest.ts";
import { readToken, showsDesktop } from "./png.ts";
import { driverOf, folder, on, passed, say, startGuest } from "./testing.ts";
import { DEVICES, startXenHost, type XenHost } from "./xenHost.ts";

let host: XenHost;
let bare: XenHost;

test("a guest's configuration says what it has, and its console is read", () => {
  const text = guestConfiguration({ name: "g", type: "pv", pci: [DEVICES.card], display: 5 });
  assert.match(text, /^pci = \["0000:00:06\.0"\]$/m);
  assert.match(text, /^vfb = \["type=vnc,vnclisten=127\.0\.0\.1,vncdisplay=5,vncunused=0"\]$/m);
  assert.not.match(guestConfiguration({ name: "g", type: "hvm" }), /^(pci|vfb)/m);
  assert.equal(seenFunctions("guest up\nguest sees 0000:00:00.0 0x038000 0x1234:0x1111 \nguest ready\n"), [
    { address: "0000:00:00.0", class: "0x038000", id: "1234:1111" },
  ]);
});

on("a host goes on from a saved state, with a clock that is right and a name of its own", async () => {
  host = await startXenHost({ dir: join(folder, "host"), say });
  const start = performance.now();
  const again = await startXenHost({ dir: join(folder, "again"), say });
  say(`start from the saved state: ${passed(start)}`);
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
  assert.ok(showsDesktop(await host.screenshot()), "dom0's own session is there from the start");
  await host.must(
    "printf '[Seat:*]\\nautologin-session=lab-screen\\n' > /etc/lightdm/lightdm.conf.d/20-test.conf && systemctl restart --no-block lightdm",
  );
  for (const token of [randomBytes(4).toString("hex"), randomBytes(4).toString("hex")]) {
    await host.must(`xenstore-write /local/domain/$(xl domid gui)/data/lab/draw ${token}`);
    const start = performance.now();
    assert.is(await host.untilToken(token), token);
    say(`token ${token} on the machine's screen after ${passed(start)}`);
    assert.match(await host.must(`cat ${consoleOf("gui")}`), new RegExp(`guest drew ${token}`));
  }
  // Negative control: without the session the token is not on the screen, though the guest still shows it.
  await host.must("systemctl stop --no-block lightdm");
  const limit = Date.now() + 300_000;
  while (readToken(await host.screenshot()) !== null && Date.now() < limit) await sleep(2000);
  assert.is(readToken(await host.screenshot()), null);
  // And back to dom0's own session.
  await host.must("rm /etc/lightdm/lightdm.conf.d/20-test.conf && systemctl start --no-block lightdm");
  await host.untilDesktop();
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

test.run();
