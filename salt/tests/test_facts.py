"""Facts of a machine: PCI functions and what hangs on them, boot, firmware. Unknown is None."""

import os

from fake import HostCase

import boot
import facts
import grub
import pci

KEYBOARD = "402000000 3803078f800d001 feffffdfffefffff fffffffffffffffe"  # AT Translated Set 2
POWER_BUTTON = "10000000000000 0"
MOUSE = "70000 0 0 0 0"


class Machine(HostCase):
    def setUp(self):
        super().setUp()
        self.link("/sys/bus/pci/devices/0000:00:02.0", None)

    def link(self, name, target):
        """A link (None: none any more) at `name`, as sysfs is full of."""
        path = self.root + name
        if os.path.isdir(path) and not os.path.islink(path):
            for file in os.listdir(path):
                os.unlink(path + "/" + file)
            os.rmdir(path)
        if target:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.symlink(self.root + target, path)

    def function(self, path, class_, **files):
        """One at /sys/devices/PATH; its files as sysfs has them."""
        folder = "/sys/devices/" + path
        address = path.rpartition("/")[2]
        files = dict({"vendor": "0x8086", "device": "0x1234", "class": "0x" + class_}, **files)
        for name, text in files.items():
            self.file(folder + "/" + name.replace("__", "/"), text + "\n")
        self.link("/sys/bus/pci/devices/" + address, folder)
        return folder

    def file(self, name, text=""):
        os.makedirs(os.path.dirname(self.root + name), exist_ok=True)
        self.put(name, text)

    def functions(self):
        return {fn["sbdf"]: fn for fn in pci.functions([], pci.read_inputs())}

    def test_bridges_and_parents(self):
        buses = {"secondary_bus_number": "16", "subordinate_bus_number": "17"}
        self.function("pci0000:00/0000:00:01.0", "060400", **buses)
        self.function("pci0000:00/0000:00:01.0/0000:10:00.0", "030000", boot_vga="1", rom="")
        self.function(
            "pci10000:e0/10000:e0:01.0", "060400", **dict(buses, secondary_bus_number="225")
        )
        self.function("pci10000:e0/10000:e0:01.0/10000:e1:00.0", "010802")
        found = self.functions()
        self.assertEqual(found["0000:00:01.0"]["bridge"], {"secondary": "10", "subordinate": "11"})
        self.assertEqual(
            {address: fn["parent"] for address, fn in found.items()},
            {
                "0000:00:01.0": None,
                "0000:10:00.0": "0000:00:01.0",
                "10000:e0:01.0": None,
                "10000:e1:00.0": "10000:e0:01.0",
            },
        )
        display = found["0000:10:00.0"]
        self.assertEqual(
            (display["bootVga"], display["rom"], display["bridge"]), (True, True, None)
        )
        self.assertEqual(
            (found["0000:00:01.0"]["bootVga"], found["0000:00:01.0"]["rom"]), (None, False)
        )

    def test_outputs(self):
        files = {"drm__card0__card0-eDP-1__status": "connected"}
        files["drm__card0__card0-eDP-1__enabled"] = "enabled"
        files["drm__card0__card0-HDMI-A-1__status"] = "disconnected"
        files["drm__renderD128__dev"] = "226:128"
        self.function("pci0000:00/0000:00:02.0", "030000", **files)
        self.assertEqual(
            self.functions()["0000:00:02.0"]["outputs"],
            [
                {"name": "card0-HDMI-A-1", "connected": False, "enabled": False},
                {"name": "card0-eDP-1", "connected": True, "enabled": True},
            ],
        )

    def test_inputs_disks_and_nets(self):
        self.function("pci0000:00/0000:00:14.0", "0c0330")
        nvme = self.function("pci0000:00/0000:00:1d.0", "010802")
        spare = self.function("pci0000:00/0000:00:1e.0", "010802")
        net = self.function("pci0000:00/0000:00:1f.6", "020000")
        blocks = [
            ("S: Sysfs=/devices/platform/i8042/serio0/input/input3", KEYBOARD, "120013", "0", "0"),
            ("S: Sysfs=/devices/LNXSYSTM:00/LNXPWRBN:00/input/input0", POWER_BUTTON, "3", "0", "0"),
            (
                "S: Sysfs=/devices/pci0000:00/0000:00:14.0/usb1/1-1/input/input9",
                KEYBOARD,
                "120013",
                "0",
                "0",
            ),
            (
                "S: Sysfs=/devices/pci0000:00/0000:00:14.0/usb1/1-2/input/input10",
                MOUSE,
                "17",
                "103",
                "0",
            ),
            (
                "S: Sysfs=/devices/pci0000:00/0000:00:14.0/usb1/1-3/input/input11",
                "400 0 0 0 0 0",
                "b",
                "0",
                "3",
            ),
        ]
        self.file(
            "/proc/bus/input/devices",
            "".join(
                'I: Bus=0011 Vendor=0001\nN: Name="x"\n%s\nB: PROP=0\nB: EV=%s\nB: KEY=%s\nB: REL=%s\n'
                "B: ABS=%s\n\n" % (path, ev, key, rel, abs_)
                for path, key, ev, rel, abs_ in blocks
            ),
        )
        for disk, number, folder in (("nvme0n1", "259:0", nvme), ("nvme1n1", "259:4", spare)):
            place = folder + "/nvme/nvme0/" + disk
            self.file(place + "/dev", number)
            self.file(place + "/" + disk + "p1/dev", number.replace(":", ":1"))
            self.file(place + "/" + disk + "p1/partition", "1")
            self.link("/sys/class/block/" + disk, place)
            self.link("/sys/class/block/" + disk + "p1", place + "/" + disk + "p1")
        self.file("/proc/self/mountinfo", "22 1 259:10 / /boot rw - ext4 /dev/nvme0n1p1 rw\n")
        self.file("/sys/class/net/lo/mtu")
        self.file(net + "/net/eth0/mtu")
        self.link("/sys/class/net/eth0", net + "/net/eth0")
        self.link(net + "/net/eth0/device", net)
        found = self.functions()
        self.assertEqual(sorted(found["0000:00:14.0"]["inputs"]), ["keyboard", "mouse", "tablet"])
        self.assertEqual(found["0000:00:1d.0"]["disks"], ["nvme0n1"])
        self.assertEqual(found["0000:00:1e.0"]["disks"], [])  # nobody in dom0 uses it
        self.assertEqual(found["0000:00:1f.6"]["nets"], ["eth0"])
        self.assertEqual(pci.keyboards(pci.read_inputs()), ["ps2", "usb:0000:00:14.0"])
        holder = self.root + spare + "/nvme/nvme0/nvme1n1/nvme1n1p1/holders/dm-0"
        os.makedirs(holder)
        self.assertEqual(self.functions()["0000:00:1e.0"]["disks"], ["nvme1n1"])
        os.unlink(self.root + "/proc/bus/input/devices")
        self.assertIsNone(pci.keyboards(pci.read_inputs()))

    def test_the_module_of_a_hidden_device(self):
        alias = "pci:v00008086d00009A49sv000017AAsd00005082bc03sc00i00"
        self.function("pci0000:00/0000:00:02.0", "030000", device="0x9a49", modalias=alias)
        usb = "pci:v00008086d0000A0EDsv000017AAsd00005082bc0Csc03i30"
        self.function("pci0000:00/0000:00:14.0", "0c0330", device="0xa0ed", modalias=usb)
        self.function("pci0000:00/0000:00:1f.0", "060100", modalias="pci:v00008086d00001234bc06")
        self.assertIsNone(self.functions()["0000:00:02.0"]["module"])
        self.file(
            "/lib/modules/%s/modules.alias" % os.uname().release,
            "# Aliases\nalias pci:v*d*sv*sd*bc0Csc03i30* xhci_pci\nalias pci:v*d*sv*sd*bc03sc*i* anyfb\n"
            "alias pci:v00008086d00009A49sv*sd*bc*sc*i* oldfb\n"
            "alias pci:v00008086d00009A49sv*sd*bc03sc*i* i915\n",
        )
        self.file("/etc/modprobe.d/x.conf", "# no\nblacklist oldfb\n")
        found = {address: fn["module"] for address, fn in self.functions().items()}
        self.assertEqual(
            found, {"0000:00:02.0": "i915", "0000:00:14.0": "xhci_pci", "0000:00:1f.0": None}
        )

    def one_shot(self, findmnt="ext4 /dev/sda2"):
        found = boot.collect(findmnt, [])
        return found["oneShot"], found["oneShotWhy"]

    def disk(self, name, *parts):
        self.file("/sys/devices/x/block/%s/size" % name)
        self.link("/sys/class/block/" + name, "/sys/devices/x/block/" + name)
        for part in parts:
            self.file("/sys/devices/x/block/%s/%s/partition" % (name, part))
            self.link("/sys/class/block/" + part, "/sys/devices/x/block/%s/%s" % (name, part))

    def mapped(self, name, uuid, *slaves):
        self.file("/sys/devices/virtual/block/%s/dm/uuid" % name, uuid)
        self.file("/sys/devices/virtual/block/%s/dm/name" % name, "name-of-%s\n" % name)
        for slave in slaves:
            self.file("/sys/devices/virtual/block/%s/slaves/%s" % (name, slave))
        self.link("/sys/class/block/" + name, "/sys/devices/virtual/block/" + name)

    def test_one_shot(self):
        self.disk("sda", "sda2", "sda3")
        self.assertEqual(self.one_shot(), (True, "/boot/grub2 is ext4 on a plain partition"))
        self.assertIs(self.one_shot("vfat /dev/sda2")[0], True)
        for findmnt, why in (
            ("btrfs /dev/sda2[/root]", "is on btrfs"),
            ("zfs pool/boot", "is on zfs"),
            ("ext4 /dev/dm-0", "made by lvm"),
            ("ext4 /dev/dm-1", "made by lvm"),
            ("ext4 /dev/mapper/name-of-dm-0", "made by lvm"),
            ("ext4 /dev/md0", "made by raid"),
        ):
            self.mapped("dm-0", "LVM-abc", "sda3")
            self.mapped("dm-2", "CRYPT-LUKS2-x", "sda3") if "dm-1" in findmnt else None
            if "dm-1" in findmnt:
                self.mapped("dm-1", "LVM-abc", "dm-2")
            if "md0" in findmnt:
                self.mapped("md0", "", "sda3")
            found = self.one_shot(findmnt)
            self.assertIs(found[0], False, found)
            self.assertIn(why, found[1])
            for name in ("dm-0", "dm-1", "dm-2", "md0"):
                if os.path.islink(self.root + "/sys/class/block/" + name):
                    os.unlink(self.root + "/sys/class/block/" + name)
        self.assertIsNone(self.one_shot("")[0])
        self.assertIsNone(self.one_shot("ext4 /dev/sdz1")[0])
        env = self.root + "/boot/grub2/grubenv"
        with open(env, "wb") as file:
            file.write(b"x" * 100)
        self.assertIn("not an environment block", self.one_shot()[1])
        os.unlink(env)
        self.assertEqual(self.one_shot(), (False, "there is no /boot/grub2/grubenv"))
        os.symlink("/boot/efi/grubenv", env)
        self.assertIs(self.one_shot()[0], False)
        config = self.text("/boot/grub2/grub.cfg")
        self.put("/boot/grub2/grub.cfg", config.replace("custom.cfg", "x.cfg"))
        self.assertIn("does not source custom.cfg", self.one_shot()[1])
        self.put("/boot/grub2/grub.cfg", config.replace("next_entry", "x"))
        self.assertIn("next_entry", self.one_shot()[1])
        os.unlink(self.root + "/boot/grub2/grub.cfg")
        self.assertIsNone(self.one_shot()[0])

    def test_unattended(self):
        def unattended(cmdline, crypttab):
            self.put("/proc/cmdline", cmdline)
            self.put("/etc/crypttab", crypttab)
            return boot.collect("", [])["unattended"]

        plain = "root=/dev/dm-0 ro rd.lvm.lv=qubes_dom0/root"
        self.assertTrue(unattended(plain, "# none\n"))
        self.assertTrue(unattended(plain, "swap /dev/sda3 /dev/urandom swap\n"))
        self.assertTrue(unattended(plain, "root UUID=1 none tpm2-device=auto\n"))
        self.assertFalse(unattended(plain, "luks-1 UUID=1 none discard\n"))
        self.assertFalse(unattended(plain, "luks-1 UUID=1\n"))
        self.assertFalse(unattended(plain + " rd.luks.uuid=luks-1", ""))
        os.unlink(self.root + "/proc/cmdline")
        self.assertIsNone(boot.collect("", [])["unattended"])

    def test_the_rest_of_boot(self):
        found = boot.collect("", [])
        self.assertEqual(
            (found["hidePaths"], found["watchdog"], found["rescue"]), (None, False, False)
        )
        self.assertEqual(
            found["args"], ["rd.lvm.lv=qubes_dom0/root", "quiet", "usbcore.authorized_default=0"]
        )
        self.file(boot.HIDES, "resolve_dev() { cat secondary_bus_number; }\n")
        self.file("/usr/lib/systemd/system/xenwatchdogd.service")
        self.put(
            "/boot/grub2/custom.cfg", grub.with_block("", "menuentry --id guidomain-rescue {\n}\n")
        )
        self.put("/etc/default/grub", 'GRUB_CMDLINE_LINUX="a rd.qubes.hide_pci=1,2"\n')
        found = boot.collect("", [])
        self.assertEqual(
            (found["hidePaths"], found["watchdog"], found["rescue"]), (True, True, True)
        )
        self.assertEqual(found["args"], ["a", "rd.qubes.hide_pci=1", "rd.qubes.hide_pci=2"])
        self.file(boot.HIDES, "old\n")
        self.assertIs(boot.collect("", [])["hidePaths"], False)

    def test_firmware_cpu_and_display_manager(self):
        def found():
            return facts.collect(facts.Commands(), [])

        one = found()
        self.assertEqual(one["firmware"], {"vendor": None, "product": None, "bios": None})
        self.assertEqual((one["cpu"], one["keyboards"]), (None, None))
        for name, text in (
            ("sys_vendor", "LENOVO"),
            ("product_name", "20N2"),
            ("bios_version", "N2IET"),
        ):
            self.file("/sys/class/dmi/id/" + name, text + " \n")
        self.file("/proc/cpuinfo", "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 23\n")
        os.makedirs(self.root + facts.GROUPS)
        one = found()
        self.assertEqual(one["firmware"], {"vendor": "LENOVO", "product": "20N2", "bios": "N2IET"})
        self.assertEqual((one["cpu"], one["lightdm"]), ("AuthenticAMD", False))
        os.makedirs(self.root + facts.GROUPS + "/lightdm.service")
        self.assertIs(found()["lightdm"], True)
