/** The twin as a plain Xen host, in its sandbox: what tests/agreement shares with real Xen is not repeated here. */
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { guestConfiguration } from "../xen/guest.ts";
import { DEVICES } from "../xen/qemu.ts";
import { startTwin, type XenScreen } from "./twin.ts";

const dir = mkdtempSync(join(tmpdir(), "twin-xen-"));
const twin = await startTwin({ dir, platform: "xen" });
const said = async (command: string) => {
  const { stdout, stderr } = await twin.exec(command);
  return stdout + stderr;
};
const must = async (command: string) => {
  const { code, stdout, stderr } = await twin.exec(command);
  assert.is(code, 0, `${command}: ${stdout}${stderr}`);
  return stdout.trim();
};
const put = (path: string, text: string) =>
  must(`mkdir -p $(dirname ${path}) && cat > ${path} <<'END-OF-FILE'\n${text}\nEND-OF-FILE`);
const screen = async () => (await twin.screen()) as XenScreen;
const guest = async (name: string, options: { pci?: string[]; display?: number } = {}) => {
  await put(`/etc/xen/${name}.cfg`, guestConfiguration({ name, type: "pv", ...options }));
  return said(`xl create -q /etc/xen/${name}.cfg`);
};
async function until<T>(look: () => Promise<T>, holds: (value: T) => boolean): Promise<T> {
  let value = await look();
  for (let tries = 0; tries < 200 && !holds(value); tries++) {
    await sleep(20);
    value = await look();
  }
  return value;
}
const session = (name: string) =>
  put("/etc/lightdm/lightdm.conf.d/50.conf", `[Seat:*]\nautologin-user=user\nautologin-session=${name}`);
/** The shipped default with words for the kernel's line. */
const kernelLine = (words: string) =>
  must(`sed -i 's/^GRUB_CMDLINE_LINUX=.*/GRUB_CMDLINE_LINUX="${words}"/' /etc/default/grub && update-grub`);

test.before.each(() => twin.reset());
test.after(() => twin.remove());

test("nothing of Qubes is there, everything of Debian", async () => {
  assert.match(await must("cat /etc/os-release"), 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"');
  assert.is(await must("ls -d /etc/qubes* /run/qubes* /var/lib/qubes /boot/grub2 2>/dev/null | wc -l"), "0");
  for (const command of ["qvm-ls", "qubesctl", "qubes-prefs", "rpm -q xen", "grub2-editenv"])
    assert.is((await twin.exec(`PATH=\${PATH%%/usr/local*} ${command}`)).code, 127, command);
  assert.is(await must("systemctl is-enabled xendomains lightdm 2>&1"), "enabled\nenabled");
  assert.match(await said("systemctl status xenwatchdogd"), "could not be found");
  assert.match(await must("lsinitramfs /boot/initrd.img-$(uname -r)"), "xen-pciback.ko");
});

test("the greeter at first; a session shows a domain's framebuffer in a Xephyr for as long as that is there", async () => {
  const first = await until(screen, ({ shows }) => shows !== "text console");
  assert.equal([first.drivenBy, first.shows, first.usable], ["dom0 (lightdm)", "greeter", true]);
  await guest("gui", { display: 5 });
  await session("lab-screen");
  await must("systemctl restart lightdm");
  const shown = await until(screen, ({ domain }) => domain !== null);
  assert.equal([shown.shows, shown.domain, shown.token], ["Xephyr with the framebuffer of gui", "gui", null]);
  await must("xenstore-write /local/domain/$(xl domid gui)/data/lab/draw c0ffee");
  assert.is((await until(screen, ({ token }) => token !== null)).token, "c0ffee");
  assert.match(await must("cat /var/log/xen/console/guest-gui.log"), "guest drew c0ffee");
  await must("xl destroy gui");
  assert.is((await until(screen, ({ shows }) => shows === "greeter")).shows, "greeter");
  assert.match(await must("cat /var/log/lightdm/lightdm.log"), "the greeter is shown");
});

test("a session that is not there, that cannot run, that is for nobody known: the greeter", async () => {
  const restarted = async () => {
    await must("systemctl restart lightdm");
    return (await until(screen, ({ shows }) => shows !== "text console")).shows; // X takes a moment
  };
  await session("none");
  assert.is(await restarted(), "greeter");
  await put("/usr/share/xsessions/bad.desktop", "[Desktop Entry]\nExec=/no/such/program");
  await session("bad");
  assert.is(await restarted(), "greeter");
  await put("/etc/lightdm/lightdm.conf.d/60.conf", "[Seat:*]\nautologin-user=somebody");
  await session("lab-screen");
  assert.is(await restarted(), "greeter");
});

test("a viewer without a framebuffer leaves the Xephyr black, or ends with it", async () => {
  await put("/opt/lab/black", "#!/bin/sh\nXephyr :1 -fullscreen &\nwait");
  await must("chmod 755 /opt/lab/black");
  await put("/usr/share/xsessions/black.desktop", "[Desktop Entry]\nExec=/opt/lab/black");
  await session("black");
  await must("systemctl restart lightdm");
  const shown = await until(screen, ({ shows }) => shows.startsWith("Xephyr"));
  assert.equal([shown.shows, shown.usable], ["Xephyr, black", false]);
});

test("lightdm waits for the entry's word, under Xen only", async () => {
  const dropIn = "/etc/systemd/system/lightdm.service.d/50-guidomain-gui.conf";
  await put(
    dropIn,
    "[Unit]\nConditionKernelCommandLine=|!guidomain.gpu=gui\nConditionPathExists=|!/sys/hypervisor/type",
  );
  await twin.reboot();
  assert.is(await must("systemctl is-active lightdm"), "active");
  await kernelLine("guidomain.gpu=gui");
  await twin.reboot();
  assert.is(await said("systemctl is-active lightdm"), "inactive\n");
  const shown = await screen();
  assert.equal([shown.shows, shown.drivenBy, shown.usable], ["text console", "dom0 (console)", false]);
  await must("grub-reboot 0"); // entry 0 is Linux alone, with the same word
  await twin.reboot();
  assert.is((await twin.exec("test -e /sys/hypervisor/type")).code, 1);
  assert.match(await must("cat /proc/cmdline"), "guidomain.gpu=gui");
  assert.is(await must("systemctl is-active lightdm"), "active");
  assert.is((await until(screen, ({ shows }) => shows !== "text console")).shows, "greeter");
});

test("the screen of a card that was passed shows its guest, if that has a driver and does not hang", async () => {
  await kernelLine(`xen-pciback.hide=(${DEVICES.bootDisplay})(${DEVICES.secondCard})(${DEVICES.usb})`);
  await twin.reboot();
  const dark = (await until(screen, ({ shows }) => shows === "greeter")).displays;
  assert.is(dark[DEVICES.bootDisplay]?.shows, "nothing");
  assert.is(dark[DEVICES.card]?.shows, "greeter");
  await guest("gpu", { pci: [DEVICES.bootDisplay, DEVICES.usb] });
  const shown = await until(screen, ({ drivenBy, usable }) => drivenBy === "gpu" && usable);
  assert.equal([shown.shows, shown.keyboards, shown.usable], ["gpu", [`usb:${DEVICES.usb}`], true]);
  assert.match(await must("xenstore-read /local/domain/1/data/guidomain/pci"), /^1234:1111 1033:0194$/);
  assert.is(await must("xenstore-read /local/domain/1/data/guidomain/screen"), "on");
  await must("xl destroy gpu");
  await twin.world({ faults: { guestNoDrm: true } });
  await guest("gpu", { pci: [DEVICES.bootDisplay, DEVICES.usb] });
  await until(
    () => said("cat /var/log/xen/console/guest-gpu.log"),
    (text) => text.split("guest ready").length > 2,
  );
  assert.is((await screen()).displays[DEVICES.bootDisplay]?.shows, "nothing");
  assert.is((await twin.exec("xenstore-read /local/domain/2/data/guidomain/screen")).code, 1);
});

test("a clean reboot saves what runs and restores it before /etc/xen/auto; a power cut does not", async () => {
  await guest("gui");
  await must("mkdir -p /etc/xen/auto && ln -s ../gui.cfg /etc/xen/auto/gui.cfg");
  await must("sed -i 's/memory = 192/memory = 256/' /etc/xen/gui.cfg");
  const memory = async () => /^gui +\d+ +(\d+)/m.exec(await said("xl list"))?.[1];
  await twin.reboot();
  assert.is(await until(memory, Boolean), "192"); // as it was saved, not as its file says
  assert.match(await must("cat /var/log/twin/xendomains.service.log"), "Restoring Xen domain gui");
  await twin.powerCycle();
  assert.is(await until(memory, Boolean), "256");
  assert.is(await must("ls /var/lib/xen/save"), "");
});

test("units before xendomains run before it", async () => {
  await put(
    "/etc/systemd/system/early.service",
    "[Unit]\nBefore=xendomains.service\n[Service]\nType=oneshot\nExecStart=/bin/sh -c 'xl list > /root/early; ls /var/lib/xen/save >> /root/early'\n[Install]\nWantedBy=multi-user.target",
  );
  await must("systemctl enable early");
  await guest("gui");
  await twin.reboot();
  await until(
    () => said("xl list"),
    (text) => /^gui /m.test(text),
  );
  const early = await must("cat /root/early");
  assert.not.match(early, /^gui +\d/m);
  assert.match(early, /^gui$/m);
});

test("pulling a live display hangs a real machine; Debian has the watchdog's program and no unit for it", async () => {
  await twin.reset({ platform: "xen", machine: "laptop" });
  await twin.world({ watchdogSeconds: 0.5 });
  const add = twin.exec("xl pci-assignable-add 00:02.0");
  assert.match((await twin.until("hung")).why, "0000:00:02.0 was pulled from i915");
  await sleep(300);
  assert.is(twin.machine().state, "hung");
  await sleep(400);
  assert.is((await twin.powerCycle()).state, "running");
  await add;
  assert.is(await must("basename $(readlink /sys/bus/pci/devices/0000:00:02.0/driver)"), "i915");
  const arm =
    "systemd-run -q --unit=dog.service --property=Type=forking --property=KillSignal=SIGUSR1 /usr/sbin/xenwatchdogd 30 15";
  await must(arm);
  assert.is(await must("systemctl is-active dog"), "active");
  const { number } = twin.machine();
  void twin.exec("xl pci-assignable-add 00:02.0");
  assert.is((await twin.waitForBoot({ after: number })).log.at(-2)?.what, "watchdog");
  await must(`${arm}; systemctl stop dog`); // disarmed
  void twin.exec("xl pci-assignable-add 00:02.0");
  await twin.until("hung");
  await sleep(800);
  assert.is(twin.machine().state, "hung");
});

test("functions go back and forth by sysfs, and what the kernel refuses changes nothing", async () => {
  await twin.reset({ platform: "xen", machine: "xen-lab" });
  const drivers = async (address: string) =>
    said(`basename $(readlink /sys/bus/pci/devices/${address}/driver || echo none)`);
  await must(`echo ${DEVICES.usb} > /sys/bus/pci/drivers/xhci_hcd/unbind`);
  assert.is(
    await until(
      () => drivers(DEVICES.usb),
      (name) => name === "none\n",
    ),
    "none\n",
  );
  assert.not.match(await must("cat /proc/bus/input/devices"), "QEMU USB Keyboard");
  await must(`echo pciback > /sys/bus/pci/devices/${DEVICES.usb}/driver_override`);
  await must(`echo ${DEVICES.usb} > /sys/bus/pci/drivers_probe`);
  assert.is(
    await until(
      () => drivers(DEVICES.usb),
      (name) => name !== "none\n",
    ),
    "pciback\n",
  );
  await must(`echo ${DEVICES.usb} > /sys/bus/pci/drivers/e1000/bind`);
  await must(`echo 0000:7f:00.0 > /sys/bus/pci/drivers/pciback/unbind`);
  await sleep(100);
  assert.is(await drivers(DEVICES.usb), "pciback\n");
  assert.match(await must("cat /var/log/xen/twin.log"), "e1000/bind: No such device");
});

test("packages: Salt's pkg on Debian's own database; no way to the mirrors, a package that fails", async () => {
  const salt = (state: string, name: string) =>
    said(`salt-call --local --out=json --log-level=quiet state.single ${state} name=${name} 2>/dev/null`);
  assert.match(await salt("pkg.installed", "openbox"), '"new": "3.6.1-10"');
  assert.is(await must("dpkg-query -W openbox"), "openbox\t3.6.1-10");
  assert.match(await salt("pkg.removed", "openbox"), '"result": true');
  assert.is((await twin.exec("dpkg-query -W openbox")).code, 1);
  await twin.world({ network: false });
  assert.match(await salt("pkg.installed", "openbox"), "Temporary failure resolving");
  await twin.world({ network: true, faults: { packages: { dom0: { fail: { openbox: "no" } } } } });
  assert.match(await salt("pkg.installed", "openbox"), '"result": false');
});

test("faults: Xen refuses a function, guests hang, the disk is full, a kernel comes", async () => {
  await twin.world({ faults: { refuseAssign: [DEVICES.audio], guestHangs: ["stuck"] } });
  assert.match(await guest("no", { pci: [`${DEVICES.audio},seize=1`] }), "xc_assign_device failed");
  await guest("stuck");
  assert.match(
    await until(
      () => said("cat /var/log/xen/console/guest-stuck.log"),
      (text) => text.includes("hangs"),
    ),
    "guest hangs",
  );
  await must("xl shutdown stuck"); // its kernel takes it, and nobody there does it
  await twin.world({ acknowledgeSeconds: 0.2, faults: { guestDead: ["dead"] } });
  await guest("dead");
  assert.match(await said("xl shutdown dead"), "guest didn't acknowledge control request: -9");
  assert.match(await must("xl list"), /^stuck [\s\S]*^dead /m);
  await twin.clearFaults();
  await twin.fault("disk-full");
  assert.match(await said("echo x > /etc/xen/x.cfg"), "No space left on device");
  await twin.clearFaults();
  await twin.fault("kernel-update");
  assert.match((await twin.reboot()).boot?.kernel ?? "", "6.1.0-58-amd64");
});

test("a dump tells files, domains and drivers; an experiment undone leaves no difference", async () => {
  const before = await twin.dump();
  await guest("gui", { pci: [`${DEVICES.audio},seize=1`] });
  await must("ln -s lightdm.service /etc/systemd/system/x.service");
  const lines = twin.compare(before, await twin.dump()).join("\n");
  for (const path of [
    "files./etc/xen/gui.cfg",
    "domains.gui",
    `drivers.${DEVICES.audio}`,
    "files./etc/systemd/system/x.service",
  ])
    assert.match(lines, path);
  await must(
    `xl destroy gui; xl pci-assignable-remove -r ${DEVICES.audio} 2>/dev/null; rm /etc/xen/gui.cfg /etc/systemd/system/x.service`,
  );
  assert.equal(twin.compare(before, await twin.dump()), []);
});

test.run();
