/**
 * What the twin and real Xen have to answer alike, in the order of one host's life. Where they differ, and why, stands in docs/real-xen.md.
 * Sources: xen-lab.md of the reference, tools/libs/light and tools/xl of Xen 4.17, Debian 12's packages.
 */
import * as assert from "uvu/assert";
import { type GuestOptions, guestConfiguration } from "../../lab/xen/guest.ts";
import { DEVICES } from "../../lab/xen/qemu.ts";
import { driver, must, put, refused, type SharedHost, until } from "./host.ts";

export interface Case {
  title: string;
  run(host: SharedHost): Promise<void>;
}

const console_ = (name: string) => `tr -d '\\r' < /var/log/xen/console/guest-${name}.log`;
const cfg = (name: string) => `/etc/xen/${name}.cfg`;

async function configure(host: SharedHost, options: GuestOptions, more = ""): Promise<string> {
  await put(host, cfg(options.name), guestConfiguration(options) + more);
  await must(host, `rm -f /var/log/xen/console/guest-${options.name}.log`);
  return cfg(options.name);
}

/** Starts a guest and resolves with what it has said when it is ready. */
async function start(host: SharedHost, options: GuestOptions): Promise<string> {
  await must(host, `xl create ${await configure(host, options)}`);
  return until(host, console_(options.name), /^guest ready/m);
}

const seen = (said: string) =>
  [...said.matchAll(/^guest sees \S+ (0x[0-9a-f]+) 0x([0-9a-f]+):0x([0-9a-f]+)/gm)].map(
    ([, kind, vendor, device]) => `${kind} ${vendor}:${device}`,
  );

/** A copy of the normal Xen entry with the kernel's line changed, in custom.cfg. */
const entry = (id: string, sed: string) =>
  `sed -n "/^menuentry .*xen-gnulinux-simple/,/^}/p" /boot/grub/grub.cfg | sed -e "1s/.*/menuentry ${id} --id ${id} {/" -e '${sed}' >> /boot/grub/custom.cfg`;

const names = async (host: SharedHost) =>
  (await must(host, "xl list"))
    .trim()
    .split("\n")
    .slice(1)
    .map((line) => line.split(/\s+/)[0]);

const assignable = async (host: SharedHost) =>
  (await must(host, "xl pci-assignable-list"))
    .split("\n")
    .map((line) => line.trim())
    .filter(Boolean)
    .sort(); // xl lists them as readdir gives them

async function unbind(host: SharedHost, address: string): Promise<void> {
  await must(host, `echo ${address} > /sys/bus/pci/drivers/pciback/unbind`);
  await until(host, `readlink /sys/bus/pci/devices/${address}/driver || echo none`, /none/);
}

/** From pciback to the driver that knows it, without xl. What is written takes effect at once on a kernel, a moment later in the twin. */
async function giveBack(host: SharedHost, address: string): Promise<void> {
  await unbind(host, address);
  await must(host, `echo ${address} > /sys/bus/pci/drivers/pciback/remove_slot`);
  await until(
    host,
    "cat /sys/bus/pci/drivers/pciback/slots; echo end",
    new RegExp(`^(?!${address})[\\s\\S]*end`),
  );
  await must(host, `echo ${address} > /sys/bus/pci/drivers_probe`);
  await until(host, `readlink /sys/bus/pci/devices/${address}/driver || echo none`, /drivers\/(?!pciback)/);
}

export const withIommu: Case[] = [
  {
    title: "what the host is",
    async run(host) {
      assert.is((await must(host, "cat /sys/hypervisor/type")).trim(), "xen");
      assert.match(
        await must(host, "cat /etc/os-release"),
        /^PRETTY_NAME="Debian GNU\/Linux 12 \(bookworm\)"$/m,
      );
      const info = await must(host, "xl info");
      assert.match(info, /^xen_version +: 4\.17\./m);
      assert.match(info, /^virt_caps +:.* pv hvm hvm_directio pv_directio/m);
      assert.match(
        info,
        /^xen_commandline +: placeholder dom0_mem=|^xen_commandline +: placeholder console=/m,
      );
      assert.match(await must(host, "cat /proc/cmdline"), /^placeholder root=\S+ ro /);
      assert.equal(await names(host), ["Domain-0"]);
      assert.is((await must(host, "xl dmesg | grep -c 'I/O virtualisation enabled'")).trim(), "1");
      const drivers = {
        [DEVICES.bootDisplay]: "bochs-drm",
        [DEVICES.card]: "bochs-drm",
        [DEVICES.audio]: "snd_hda_intel",
        [DEVICES.usb]: "xhci_hcd",
        [DEVICES.network]: "e1000",
        [DEVICES.virtioCard]: "virtio-pci",
        [DEVICES.secondCard]: "bochs-drm",
        [DEVICES.secondUsb]: "xhci_hcd",
        [DEVICES.bridgedNetwork]: "e1000",
        [DEVICES.bridgedAudio]: "snd_hda_intel",
      };
      const found: Record<string, string> = {};
      for (const address of Object.keys(drivers)) found[address] = await driver(host, address);
      assert.equal(found, drivers);
    },
  },
  {
    title: "what the functions are, and which reset the kernel offers",
    async run(host) {
      const rows = await must(
        host,
        "cd /sys/bus/pci/devices; for f in *; do echo $f $(cat $f/class $f/vendor $f/device) $(cat $f/reset_method 2>/dev/null); done",
      );
      assert.equal(rows.trim().split("\n"), FUNCTIONS);
    },
  },
  {
    title: "GRUB: Linux alone is entry 0, Xen the default by its id, more in submenus",
    async run(host) {
      const menu = await must(host, "grep -oE \"^(menuentry|submenu) '[^']*'\" /boot/grub/grub.cfg");
      assert.equal(menu.trim().split("\n"), [
        "menuentry 'Debian GNU/Linux'",
        "submenu 'Advanced options for Debian GNU/Linux'",
        "menuentry 'Debian GNU/Linux, with Xen hypervisor'",
        "submenu 'Advanced options for Debian GNU/Linux (with Xen hypervisor)'",
      ]);
      assert.match(
        await must(host, "cat /boot/grub/grub.cfg"),
        /^ {3}set default="xen-gnulinux-simple-[0-9a-f-]+"$/m,
      );
      const before = await must(host, "cat /boot/grub/grub.cfg");
      if (host.kind === "twin") {
        await must(host, "update-grub"); // real: its image was made elsewhere, by an update-grub that saw another disk
        assert.is(await must(host, "cat /boot/grub/grub.cfg"), before);
      }
    },
  },
  {
    title: "a function is given up, listed, taken back",
    async run(host) {
      await must(host, `xl pci-assignable-add ${DEVICES.audio}`);
      assert.is(await driver(host, DEVICES.audio), "pciback");
      assert.equal(await assignable(host), [DEVICES.audio]);
      const again = await refused(host, "xl pci-assignable-add 00:07.0", 0);
      assert.match(again, /libxl: warning: .*: 0000:00:07\.0 already assigned to pciback/);
      const back = await refused(host, `xl pci-assignable-remove -r ${DEVICES.audio}`, 0);
      assert.match(back, /libxl: info: .*Rebinding to driver at \/sys\/bus\/pci\/drivers\/snd_hda_intel/);
      assert.is(await driver(host, DEVICES.audio), "snd_hda_intel");
      assert.equal(await assignable(host), []);
    },
  },
  {
    title: "without -r nobody has it, and its driver is remembered",
    async run(host) {
      await must(
        host,
        `xl pci-assignable-add ${DEVICES.network} && xl pci-assignable-remove ${DEVICES.network}`,
      );
      assert.is(await driver(host, DEVICES.network), "none");
      assert.match(
        await refused(host, `xl pci-assignable-add ${DEVICES.network}`, 0),
        /0000:00:09\.0 not bound to a driver, will be rebound to \S*e1000/,
      );
      await must(host, `xl pci-assignable-remove -r ${DEVICES.network}`);
      assert.is(await driver(host, DEVICES.network), "e1000");
    },
  },
  {
    title: "what is not there, and what is no address",
    async run(host) {
      assert.match(
        await refused(host, "xl pci-assignable-add 0000:7f:00.0", 1),
        /Couldn't lstat \/sys\/bus\/pci\/devices\/0000:7f:00\.0: No such file or directory/,
      );
      assert.match(await refused(host, "xl pci-assignable-add zz:07.0", 2), /malformed BDF "zz:07\.0"/);
      assert.match(
        await refused(host, `xl pci-assignable-remove ${DEVICES.audio}`, 1),
        /failed to de-quarantine 0000:00:07\.0/,
      );
    },
  },
  {
    title: "the way back through sysfs: what still has a slot is pciback's again, without it the driver's",
    async run(host) {
      await must(host, `xl pci-assignable-add ${DEVICES.audio}`);
      await unbind(host, DEVICES.audio);
      await must(host, `echo > /sys/bus/pci/devices/${DEVICES.audio}/driver_override`);
      await must(host, `echo ${DEVICES.audio} > /sys/bus/pci/drivers_probe`);
      await until(host, `readlink /sys/bus/pci/devices/${DEVICES.audio}/driver`, /pciback/);
      await giveBack(host, DEVICES.audio);
      assert.is(await driver(host, DEVICES.audio), "snd_hda_intel");
      assert.equal(await assignable(host), []);
    },
  },
  {
    title: "configurations that xl does not take",
    async run(host) {
      const create = async (text: string, code: number) => {
        await put(host, cfg("no"), text);
        return refused(host, `xl create -q ${cfg("no")}`, code);
      };
      assert.match(await create("memory = 64\n", 1), /Domain name must be specified/);
      assert.match(await create('name = "no"\nmemory = x\n', 1), /no\.cfg:2: config parsing error near/);
      assert.match(await create('name = "no"\nMemory = 1\n', 1), /Failed to parse config: Invalid argument/);
      assert.match(await create('name = "no"\ntype = "xyz"\n', 1), /Invalid domain type xyz/);
      assert.match(
        await create('name = "no"\npci = ["zz"]\n', 6),
        /unable to parse PCI_SPEC_STRING `zz' for passthrough/,
      );
      assert.match(await create('name = "no"\nkernel = "/no/kernel"\n', 3), /No such file or directory/);
      assert.match(
        await refused(host, "xl create /etc/xen/none.cfg", 3),
        /Failed to read config file: .*No such file/,
      );
      assert.match(
        await refused(host, "xl destroy none", 1),
        /none is an invalid domain identifier \(rc=-6\)/,
      );
      assert.match(await refused(host, "xl domid none", 1), /Can't get domid of domain name 'none'/);
      assert.match(await refused(host, "xl frobnicate", 1), /^command not implemented/);
      assert.match(await refused(host, "xl pci-list", 2), /'xl pci-list' requires at least 1 argument\./);
      assert.equal(await names(host), ["Domain-0"]);
      await must(host, `rm ${cfg("no")}`);
    },
  },
  {
    title: "functions that xl does not pass: not given up, to PVH; the last words are not the reason",
    async run(host) {
      const file = await configure(host, { name: "no", type: "pv", pci: [DEVICES.bridgedAudio] });
      const not = await refused(host, `xl create ${file}`, 3);
      assert.match(not, /libxl__device_pci_add: Domain \d+:PCI device 0:4:2\.0 is not assignable/);
      assert.match(not, /libxl__device_pci_add failed for PCI device 0:4:2\.0 \(rc -3\)/);
      assert.match(not.trim().split("\n").at(-1) ?? "", /Domain \d+:Destruction of domain failed/);
      const pvh = await configure(host, { name: "no", type: "pvh", pci: [DEVICES.bridgedAudio] });
      assert.match(
        await refused(host, `xl create ${pvh}`, 6),
        /passthrough not yet supported for x86 PVH guests/,
      );
      assert.equal(await names(host), ["Domain-0"]);
      assert.is(await driver(host, DEVICES.bridgedAudio), "snd_hda_intel");
    },
  },
  {
    title: "a PV guest sees what it was given, and its framebuffer is served",
    async run(host) {
      const said = await start(host, {
        name: "gui",
        type: "pv",
        pci: [`${DEVICES.audio},seize=1`],
        display: 5,
      });
      assert.match(said, / as PV$/m);
      assert.equal(seen(said), ["0x040300 8086:293e"]);
      assert.match(said, /^guest has a screen of 800,600$/m);
      assert.is(await driver(host, DEVICES.audio), "pciback");
      const id = (await must(host, "xl domid gui")).trim();
      assert.is((await must(host, `xenstore-read /local/domain/${id}/name`)).trim(), "gui");
      assert.is((await must(host, `xenstore-read backend/pci/${id}/0/state`)).trim(), "4");
      assert.match(await must(host, "xl pci-list gui"), /^Vdev Device\n\d\d\.0 0000:00:07\.0\n$/);
      assert.equal(await assignable(host), []);
      const [listed] = JSON.parse(await must(host, "xl list -l gui"));
      assert.is(listed.domid, Number(id));
      assert.is(listed.config.c_info.name, "gui");
      assert.equal(listed.config.pcidevs[0], { dev: 7, vfunc_mask: 1, seize: true, rdm_policy: "strict" });
      assert.is(
        await must(host, "bash -c 'exec 3<>/dev/tcp/127.0.0.1/5905; head -c 12 <&3'"),
        "RFB 003.008\n",
      );
    },
  },
  {
    title: "a name and a function are given once",
    async run(host) {
      assert.match(
        await refused(host, `xl create ${cfg("gui")}`, 3),
        /Domain with name "gui" already exists/,
      );
      const second = await configure(host, { name: "no", type: "pv", pci: [DEVICES.audio] });
      assert.match(await refused(host, `xl create ${second}`, 3), /PCI device 0:0:7\.0 is not assignable/);
      const hvm = await configure(host, { name: "no", type: "hvm", pci: [DEVICES.audio] });
      assert.match(await refused(host, `xl create ${hvm}`, 3), /already assigned to a different guest\?/);
      assert.match(
        await refused(host, `xl pci-assignable-remove -r ${DEVICES.audio}`, 1),
        /failed to de-quarantine/,
      );
      assert.equal(await names(host), ["Domain-0", "gui"]);
    },
  },
  {
    title: "a domain that is destroyed leaves its function on pciback, and nobody listens",
    async run(host) {
      await must(host, "xl destroy gui");
      assert.equal(await names(host), ["Domain-0"]);
      assert.is((await host.exec("bash -c 'exec 3<>/dev/tcp/127.0.0.1/5905'")).code === 0, false);
      assert.is(await driver(host, DEVICES.audio), "pciback");
      assert.equal(await assignable(host), [DEVICES.audio]);
      await must(host, `xl pci-assignable-remove -r ${DEVICES.audio}`);
      assert.is(await driver(host, DEVICES.audio), "snd_hda_intel");
    },
  },
  {
    title: "a guest that hangs: not ready, its kernel takes a shutdown; gone when destroyed",
    async run(host) {
      await must(host, "ln -sfn guest-hangs.img /opt/lab/guest.initrd");
      await must(host, `xl create ${await configure(host, { name: "stuck", type: "pv" })}`);
      assert.not.match(await until(host, console_("stuck"), /^guest hangs/m), /^guest ready/m);
      await must(host, "xl shutdown stuck"); // whether somebody does what its kernel has taken is the guest's matter
      await must(host, "xl destroy stuck 2>/dev/null; ln -sfn guest.img /opt/lab/guest.initrd");
      assert.equal(await names(host), ["Domain-0"]);
    },
  },
  {
    title: "a one-shot entry hides two cards, boots once; what is linked in /etc/xen/auto is started",
    async run(host) {
      await configure(host, { name: "auto", type: "pv" });
      await must(host, `mkdir -p /etc/xen/auto && ln -sfn ../auto.cfg /etc/xen/auto/auto.cfg`);
      await must(host, "rm -f /boot/grub/custom.cfg");
      await must(
        host,
        entry("trial", `/vmlinuz/s/$/ xen-pciback.hide=(${DEVICES.card})(${DEVICES.virtioCard})/`),
      );
      await must(host, "grub-script-check /boot/grub/custom.cfg && grub-reboot trial && sync");
      assert.match(await must(host, "grub-editenv list"), /^next_entry=trial$/m);
      await host.reboot();
      assert.match(
        await must(host, "cat /proc/cmdline"),
        / xen-pciback\.hide=\(0000:00:06\.0\)\(0000:01:00\.0\)$/m,
      );
      assert.not.match(await must(host, "grub-editenv list"), /next_entry=./);
      for (const card of [DEVICES.card, DEVICES.virtioCard]) assert.is(await driver(host, card), "pciback");
      assert.equal(await assignable(host), [DEVICES.card, DEVICES.virtioCard]);
      await until(host, "xl list", /^auto /m);
      await until(host, console_("auto"), /^guest ready/m);
    },
  },
  {
    title: "a function that is hidden since the boot is not quarantined: xl does not take it back",
    async run(host) {
      assert.match(
        await refused(host, `xl pci-assignable-remove -r ${DEVICES.virtioCard}`, 1),
        /failed to de-quarantine 0000:01:00\.0/,
      );
      assert.is(await driver(host, DEVICES.virtioCard), "pciback");
    },
  },
  {
    title: "PV and HVM guests see the cards that the entry hid",
    async run(host) {
      const pv = await start(host, { name: "gpu", type: "pv", pci: [DEVICES.card] });
      assert.equal(seen(pv), ["0x038000 1234:1111"]);
      const hvm = await start(host, { name: "hvm", type: "hvm", pci: [DEVICES.virtioCard] });
      assert.match(hvm, / as HVM$/m);
      assert.ok(seen(hvm).includes("0x038000 1af4:1050"), hvm);
      await must(host, "xl destroy hvm && xl destroy gpu");
    },
  },
  {
    title: "power cut: the next boot is the normal entry, what was synced is there",
    async run(host) {
      await must(host, "echo written > /root/synced && sync");
      await host.cutPower();
      assert.not.match(await must(host, "cat /proc/cmdline"), /pciback/);
      assert.is((await must(host, "cat /root/synced")).trim(), "written");
      assert.is(await driver(host, DEVICES.card), "bochs-drm");
      assert.is(await driver(host, DEVICES.virtioCard), "virtio-pci");
      await until(host, "xl list", /^auto /m);
      assert.is((await must(host, "ls /var/lib/xen/save 2>/dev/null || true")).trim(), "");
    },
  },
  {
    title: "update-grub writes a word of /etc/default/grub into every entry",
    async run(host) {
      // Linux without Xen finds no timer behind QEMU's IOMMU otherwise, and has no hvc0.
      await must(
        host,
        `sed -i 's/^GRUB_CMDLINE_LINUX="/&intremap=off console=tty0 /' /etc/default/grub && update-grub`,
      );
      const lines = await must(
        host,
        "grep -E '^[[:space:]]*(linux|module2)[[:space:]]+/boot/vmlinuz' /boot/grub/grub.cfg",
      );
      for (const line of lines.trim().split("\n")) assert.match(line, / intremap=off( |$)/);
      assert.match(lines, /^\tlinux\t\/boot\/vmlinuz-\S+ root=UUID=[0-9a-f-]+ ro /m);
      assert.match(lines, /^\tmodule2\t\/boot\/vmlinuz-\S+ placeholder root=UUID=[0-9a-f-]+ ro /m);
    },
  },
  {
    title: "an id that names no entry boots entry 0, Linux without Xen; what ran was saved",
    async run(host) {
      await must(host, "rm -f /etc/xen/auto/auto.cfg"); // it comes again only if it is restored
      await until(host, console_("auto"), /^guest ready[\s\S]*^guest ready/m); // in the boot before, and in this one
      await must(host, `${console_("auto")} | grep -c "^guest up" > /root/begun`);
      await must(host, "grub-reboot no-such-entry && sync");
      await host.reboot();
      assert.is((await host.exec("test -e /sys/hypervisor/type")).code, 1);
      assert.match(await must(host, "cat /proc/cmdline"), /^BOOT_IMAGE=\/boot\/vmlinuz-\S+ root=/);
      assert.is(await refused(host, "xl list", 1), "ERROR:  Can't find hypervisor information in sysfs!\n");
      assert.is((await host.exec("test -e /sys/bus/pci/drivers/pciback")).code, 1);
      assert.is((await must(host, "ls /var/lib/xen/save")).trim(), "auto");
    },
  },
  {
    title: "an entry that does not boot: nobody gets in, and the power cycle after it is normal",
    async run(host) {
      await must(host, "rm -f /boot/grub/custom.cfg");
      await must(host, entry("broken", "/vmlinuz/s#root=[^ ]*#root=/dev/nowhere rootdelay=2#"));
      await must(host, "grub-script-check /boot/grub/custom.cfg && grub-reboot broken && sync");
      assert.match(await host.rebootInVain(), /ALERT! +\/dev\/nowhere does not exist/);
      await host.cutPower();
      assert.is((await must(host, "cat /sys/hypervisor/type")).trim(), "xen");
      assert.not.match(await must(host, "cat /proc/cmdline"), /nowhere/);
      assert.not.match(await must(host, "grub-editenv list"), /next_entry=./);
    },
  },
  {
    title: "what was saved is restored, though nothing starts it, and goes on: it tells nothing anew",
    async run(host) {
      await until(host, "xl list", /^auto /m);
      await until(host, "ls /var/lib/xen/save; echo end", /^end/);
      assert.is(
        await must(host, `${console_("auto")} | grep -c "^guest up"`),
        await must(host, "cat /root/begun"),
      );
      assert.is((await host.exec("xenstore-read /local/domain/$(xl domid auto)/data/guidomain/pci")).code, 1);
      await must(host, "xl destroy auto");
    },
  },
];

export const withoutIommu: Case[] = [
  {
    title: "without IOMMU: a failed add leaves the function bound and listed, and xl cannot take it back",
    async run(host) {
      assert.not.match(await must(host, "xl info"), /directio/);
      assert.match(
        await refused(host, `xl pci-assignable-add ${DEVICES.audio}`, 1),
        /failed to quarantine 0000:00:07\.0/,
      );
      assert.is(await driver(host, DEVICES.audio), "pciback");
      assert.equal(await assignable(host), [DEVICES.audio]);
      assert.match(
        await refused(host, `xl pci-assignable-remove -r ${DEVICES.audio}`, 1),
        /failed to de-quarantine 0000:00:07\.0/,
      );
    },
  },
  {
    title: "without IOMMU: nothing is passed, a guest without functions runs",
    async run(host) {
      const file = await configure(host, { name: "no", type: "pv", pci: [DEVICES.audio] });
      assert.match(await refused(host, `xl create ${file}`, 6), /passthrough not supported on this platform/);
      assert.match(await start(host, { name: "yes", type: "pv" }), / as PV$/m);
      await must(host, "xl destroy yes");
    },
  },
  {
    title: "without IOMMU: sysfs gives it back",
    async run(host) {
      await giveBack(host, DEVICES.audio);
      assert.is(await driver(host, DEVICES.audio), "snd_hda_intel");
    },
  },
];

/** Address, class, vendor, device; then what reset_method says. */
const FUNCTIONS = `
0000:00:00.0 0x060000 0x8086 0x29c0
0000:00:02.0 0x010000 0x1af4 0x1001
0000:00:03.0 0x030000 0x1234 0x1111
0000:00:04.0 0x020000 0x1af4 0x1000
0000:00:06.0 0x038000 0x1234 0x1111
0000:00:07.0 0x040300 0x8086 0x293e
0000:00:08.0 0x0c0330 0x1033 0x0194
0000:00:09.0 0x020000 0x8086 0x100e
0000:00:0a.0 0x060400 0x1b36 0x000c
0000:00:0b.0 0x060400 0x1b36 0x000c
0000:00:0c.0 0x060400 0x1b36 0x000c
0000:00:0d.0 0x060400 0x1b36 0x000e pm
0000:00:1f.0 0x060100 0x8086 0x2918
0000:01:00.0 0x038000 0x1af4 0x1050 flr pm bus
0000:02:00.0 0x038000 0x1234 0x1111 bus
0000:03:00.0 0x0c0330 0x1b36 0x000d bus
0000:04:01.0 0x020000 0x8086 0x100e bus
0000:04:02.0 0x040300 0x8086 0x2668`
  .trim()
  .split("\n");
