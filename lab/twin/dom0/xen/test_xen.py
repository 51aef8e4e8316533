"""The machine below a plain Xen host, without a sandbox: GRUB's configuration against a real host's, boots, who gets a function; xl's configuration
files; what libxl refuses, in its order. Run by lab/twin/machine.test.ts.
"""
import os
import random
import shutil
import sys
import tempfile
import unittest
from unittest import mock

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from machine import disk, grub as menu, hardware  # noqa: E402
from machine.core import Clock, Machine  # noqa: E402

from xen import config, disk as debian, grub, initramfs, sysfs, xl  # noqa: E402
from xen.model import IO, Hypervisor  # noqa: E402
from xen.store import Store  # noqa: E402

SIMPLE = "xen-gnulinux-simple-" + hardware.ROOT_UUID
CARD, VIRTIO, SOUND, NETWORK = "0000:00:06.0", "0000:01:00.0", "0000:00:07.0", "0000:00:09.0"
GUEST = 'name = "%s"\ntype = "%s"\nmemory = 192\nkernel = "/opt/lab/guest.kernel"\nramdisk = "/opt/lab/guest.initrd"\n'


class Case(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
        self.addCleanup(shutil.rmtree, self.folder)
        self.root = self.folder + "/root"

    def machine(self, profile="xen-lab", patch=None):
        world = disk.world(profile, patch, "debian-12")
        disk.install(self.root, world, "debian-12")
        return Machine(self.root, world, Clock())

    def write(self, path, text):
        hardware.write(self.root + path, text)

    def read(self, path):
        with open(self.root + path) as file:
            return file.read()

    def once(self, ident, change=lambda line: line):
        """A copy of the normal entry under another id, in custom.cfg, for the next boot."""
        text = self.read("/boot/grub/grub.cfg")
        entry = text[text.index("menuentry 'Debian GNU/Linux, with Xen hypervisor'") :]
        lines = entry[: entry.index("\n}") + 3].split("\n")
        lines[0] = "menuentry '%s' --id %s {" % (ident, ident)
        self.write("/boot/grub/custom.cfg", "\n".join(change(line) if "vmlinuz" in line else line for line in lines))
        self.next(ident)

    def next(self, ident):
        menu.Env(self.root + "/boot/grub/grubenv").set({"next_entry": ident})


class Grub(Case):
    def test_what_debian_writes_byte_for_byte(self):
        """Of an image of lab/xen: its /etc/default/grub, its files in /boot, what its update-grub made of them."""
        here = os.path.dirname(os.path.abspath(__file__))
        for name in ("vmlinuz-6.1.0-57-amd64", "initrd.img-6.1.0-57-amd64", "xen-4.17-amd64.gz", "xen-4.17-amd64.efi", "xen-4.17-amd64.config"):
            self.write("/boot/" + name, "")
        os.makedirs(self.root + "/boot/grub")
        with open(os.path.join(here, "fixtures/default-grub")) as file:
            # Where update-grub ran there was no /dev/disk/by-uuid.
            self.write("/etc/default/grub", file.read() + "GRUB_DISABLE_LINUX_UUID=true\n")
        world = disk.world("xen-lab", None, "debian-12")
        with mock.patch.object(grub, "ROOT_UUID", "6c616278-656e-4d0f-8000-000000000001"):
            written = grub.mkconfig(self.root, world)
        with open(os.path.join(here, "fixtures/grub-debian-12.cfg")) as file:
            self.assertEqual(written, file.read())

    def test_the_shipped_default_is_xen_by_id_and_entry_0_is_plain_linux(self):
        machine = self.machine()
        boot = machine.power_on()
        self.assertEqual((boot.status, boot.entry), ("running", SIMPLE))
        self.assertTrue(boot.cmdline.startswith("placeholder root=UUID="))
        self.assertEqual(menu.entries(self.root)[0].id, "gnulinux-simple-" + hardware.ROOT_UUID)

    def test_an_id_that_names_no_entry_boots_plain_linux_once(self):
        machine = self.machine()
        self.next("no-such-entry")
        boot = machine.power_on()
        self.assertEqual((boot.entry, boot.xen, boot.oneShot), ("gnulinux-simple-" + hardware.ROOT_UUID, None, False))
        self.assertFalse(os.path.exists(machine.sys + "/hypervisor/type"))
        self.assertEqual(machine.power_cycle().entry, SIMPLE)
        self.assertTrue(os.path.exists(machine.sys + "/hypervisor/type"))

    def test_a_broken_one_shot_entry_stops_and_the_power_cycle_after_it_is_normal(self):
        machine = self.machine()
        self.once("broken", lambda line: line.replace("root=UUID=" + hardware.ROOT_UUID, "root=/dev/nowhere"))
        boot = machine.power_on()
        self.assertEqual((boot.status, boot.stage, boot.oneShot), ("stopped", "initramfs", True))
        self.assertIn("ALERT!  /dev/nowhere does not exist.", boot.why)
        self.assertEqual(machine.power_cycle().entry, SIMPLE)

    def test_where_grub_cannot_write_the_entry_stays(self):
        machine = self.machine(patch={"bootDisk": {"fs": "ext4", "on": "lvm"}})
        self.assertIn("root=/dev/mapper/vg-root", machine.power_on().cmdline)
        self.once("again")
        self.assertEqual([machine.power_cycle().entry for _ in range(2)], ["again", "again"])

    def test_defaults_of_grub_d_and_of_a_command_count(self):
        self.machine()
        self.write("/etc/default/grub", 'GRUB_DISTRIBUTOR=`lsb_release -i -s 2> /dev/null || echo Debian`\nGRUB_CMDLINE_LINUX="a"\n')
        self.write("/etc/default/grub.d/x.cfg", 'GRUB_CMDLINE_LINUX_XEN_REPLACE="b"\nGRUB_DEFAULT="Debian GNU/Linux, with Xen hypervisor"\n')
        text = grub.mkconfig(self.root, disk.world("xen-lab", None, "debian-12"))
        self.assertIn("menuentry 'Debian GNU/Linux' ", text)
        self.assertIn("ro a ", text)
        self.assertIn("placeholder root=UUID=%s ro b " % hardware.ROOT_UUID, text)
        self.assertIn('set default="Debian GNU/Linux, with Xen hypervisor"', text)


HIDE = " xen-pciback.hide=(%s)(%s)" % (CARD, VIRTIO)


class Hidden(Case):
    def boot(self, words=HIDE, softdep=True, rebuilt=True, **patch):
        machine = self.machine(patch=patch)
        if not softdep:
            os.unlink(self.root + "/etc/modprobe.d/lab.conf")
            if rebuilt:
                initramfs.make(self.root, machine.world["kernel"], hardware.Hardware(machine.world))
        self.once("trial", lambda line: line + words)
        return machine.power_on()

    def test_with_the_softdep_both_are_taken(self):
        boot = self.boot()
        self.assertEqual([boot.drivers[each] for each in (CARD, VIRTIO)], ["pciback", "pciback"])

    def test_a_driver_of_the_initramfs_keeps_its_function_without_it(self):
        """xen-lab.md "GRUB", TRAP: xen-pciback.hide did not take a virtio-gpu; one that no driver of the initramfs claims, it did."""
        boot = self.boot(softdep=False)
        self.assertEqual([boot.drivers[each] for each in (CARD, VIRTIO)], ["pciback", "virtio-pci"])

    def test_what_counts_is_in_the_initramfs_not_in_etc(self):
        boot = self.boot(softdep=False, rebuilt=False)
        self.assertEqual(boot.drivers[VIRTIO], "pciback")

    def test_without_pciback_in_the_initramfs_nothing_is_taken_by_it(self):
        machine = self.machine()
        self.write("/etc/initramfs-tools/modules", "virtio_pci\nvirtio_blk\n")
        os.unlink(self.root + "/etc/modprobe.d/lab.conf")
        initramfs.make(self.root, machine.world["kernel"], hardware.Hardware(machine.world))
        self.once("trial", lambda line: line + HIDE)
        boot = machine.power_on()
        self.assertNotIn("pciback", boot.drivers.values())
        self.assertFalse(os.path.exists(machine.sys + "/bus/pci/drivers/pciback"))

    def test_of_two_arguments_the_last_counts(self):
        boot = self.boot(" xen-pciback.hide=(%s) xen-pciback.hide=(%s)" % (CARD, SOUND))
        self.assertEqual([boot.drivers[each] for each in (CARD, SOUND)], ["bochs-drm", "pciback"])

    def test_plain_linux_has_no_pciback(self):
        machine = self.machine()
        self.write("/etc/default/grub", self.read("/etc/default/grub").replace(SIMPLE, "0").replace('GRUB_CMDLINE_LINUX=""', 'GRUB_CMDLINE_LINUX="%s"' % HIDE))
        debian.regenerate(self.root, machine.world)
        boot = machine.power_on()
        self.assertIsNone(boot.xen)
        self.assertEqual(boot.drivers[CARD], "bochs-drm")

    def test_the_controller_of_its_disk_leaves_it_without_a_root(self):
        boot = self.boot(" xen-pciback.hide=(0000:00:02.0)")
        self.assertEqual((boot.status, boot.stage), ("stopped", "initramfs"))

    def test_every_profile_boots(self):
        folders = (os.path.join(disk.TWIN, "machines"), os.path.join(disk.TWIN, "../../tests/fixtures/hardware"))
        profiles = [os.path.join(folder, name) for folder in folders for name in sorted(os.listdir(folder)) if name.endswith(".json")]
        self.assertGreater(len(profiles), 18)
        for path in profiles:
            with self.subTest(path):
                shutil.rmtree(self.root, ignore_errors=True)
                boot = self.machine(path).power_on()
                self.assertEqual((boot.status, boot.entry, boot.why), ("running", SIMPLE, ""))


class Config(unittest.TestCase):
    def test_values(self):
        text = "# c\nname='a\\'b' ; memory = 0x10\npci = [ \"00:06.0\" , # one\n'00:07.0,seize=1',\n]\npci += ['x']\nn += \"y\"\ne=[]"
        expected = {"name": "a'b", "memory": "0x10", "pci": ["00:06.0", "00:07.0,seize=1", "x"], "n": "y", "e": []}
        self.assertEqual(config.parse(text, "f"), expected)

    def test_what_it_cannot_read(self):
        for text, where in (("a = b", "f:1"), ("\nname = ", "f:2"), ("Name = 1", "f:1"), ("x = -1", "f:1"), ("a = [1", "f:"), ("a = 1 2", "f:1"), ("a = 'x", "f:1")):
            with self.subTest(text):
                with self.assertRaises(config.Unreadable) as raised:
                    config.parse(text, "f")
                self.assertTrue(str(raised.exception).startswith(where), str(raised.exception))

    def test_specs(self):
        self.assertEqual(config.parse_spec("6:0.0,seize=1,permissive=0")["sbdf"], "0000:06:00.0")
        self.assertEqual(config.parse_spec("0000:00:1f.3@5")["vslot"], 5)
        self.assertEqual(config.parse_spec("name=card")["name"], "card")
        for text in ("", "zz:07.0", "00:20.0", "00:06.8", "00:06.0,frob=1", "00:06.0,seize", "1:2:3:4.0"):
            with self.subTest(text):
                self.assertRaises(config.Malformed, config.parse_spec, text)

    def test_as_the_products_own_reader(self):
        """Two readers by two people: the same values or both refuse, over files made of the grammar's pieces."""
        sys.path.insert(0, os.path.join(os.path.dirname(disk.TWIN), "../salt/_utils"))
        try:
            import xl_config
        finally:
            sys.path.pop(0)
        pieces = ["name", "a_1", "=", "+=", "[", "]", ",", ";", "\n", " ", "12", "0x1f", "'s'", '"t\\"u"', "# c\n", "'", "-", "pci", " = ", "['x']"]
        pieces += ["name = 12\n", "pci = ['x',]\n", "pci += [ 'y' ,\n'z']\n", "b='q' ;", "b += \"r\"\n", "l = [['a'], 'b']\n", "x=[ # c\n]\n"] * 3
        chosen = random.Random(7)
        agreed = 0
        for _ in range(4000):
            text = "".join(chosen.choice(pieces) for _ in range(chosen.randint(1, 9)))
            try:
                mine = config.parse(text, "f")
            except config.Unreadable:
                mine = None
            try:
                theirs = xl_config.values(text)
            except ValueError:
                theirs = None
            self.assertEqual(mine, theirs, repr(text))
            agreed += mine is not None and bool(mine)
        self.assertGreater(agreed, 100)


class Xen(Case):
    """xl on a hypervisor in this process; time goes by where somebody waits."""

    def setUp(self):
        super().setUp()
        self.start()

    def start(self, patch=None, profile="xen-lab"):
        shutil.rmtree(self.root, ignore_errors=True)
        self.host = self.machine(profile, patch)
        self.host.power_on()
        self.store, self.hung = Store(), []
        machine = lambda: hardware.Hardware(self.host.world)  # noqa: E731
        self.xen = Hypervisor(lambda: self.host.world, machine, self.store, self.host.clock.boottime, self.root)
        self.files = sysfs.Sysfs(self.host.sys, machine, self.host.bind, self.hung.append)
        self.xen.restart = xl.restart(self.xen, self.files)

        def wait(holds, seconds):
            for _ in range(int(seconds * 10)):
                self.xen.settle()
                if holds():
                    return True
                self.host.clock.advance(0.1)
            return False

        self.xen.wait = wait

    def xl(self, line):
        return xl.Xl(self.xen, self.files, "/etc/xen").run(line.split())

    def guest(self, name, kind="pv", more=""):
        self.write("/etc/xen/%s.cfg" % name, GUEST % (name, kind) + more)
        code, _, err = self.xl("create /etc/xen/%s.cfg" % name)
        self.host.clock.advance(1)
        self.xen.settle()
        return code, err

    def console(self, name):
        return self.read("/var/log/xen/console/guest-%s.log" % name)

    def driver(self, sbdf):
        return self.files.driver(sbdf)

    def test_assignable_add_list_remove(self):
        self.assertEqual(self.xl("pci-assignable-add 00:07.0"), (0, "", ""))
        self.assertEqual(self.driver(SOUND), "pciback")
        self.assertEqual(self.xl("pci-assignable-list")[1], SOUND + " \n")
        code, _, err = self.xl("pci-assignable-add 00:07.0")
        self.assertEqual(code, 0)
        self.assertIn("0000:00:07.0 already assigned to pciback", err)
        code, _, err = self.xl("pci-assignable-remove -r 00:07.0")
        self.assertEqual((code, self.driver(SOUND)), (0, "snd_hda_intel"))
        self.assertIn("Rebinding to driver at /sys/bus/pci/drivers/snd_hda_intel", err)

    def test_without_r_it_is_left_without_a_driver_and_remembered(self):
        self.xl("pci-assignable-add 00:07.0")
        self.assertEqual(self.xl("pci-assignable-remove 00:07.0")[0], 0)
        self.assertIsNone(self.driver(SOUND))
        code, _, err = self.xl("pci-assignable-add 00:07.0")
        self.assertIn("not bound to a driver, will be rebound to /sys/bus/pci/drivers/snd_hda_intel", err)

    def test_what_is_not_there_or_malformed(self):
        code, _, err = self.xl("pci-assignable-add 7f:00.0")
        self.assertEqual(code, 1)
        self.assertIn("Couldn't lstat /sys/bus/pci/devices/0000:7f:00.0: No such file or directory", err)
        self.assertEqual(self.xl("pci-assignable-add zz:07.0"), (2, "", 'pci-assignable-add: malformed BDF "zz:07.0"\n'))

    def test_a_function_hidden_since_the_boot_is_not_quarantined(self):
        self.once("trial", lambda line: line + HIDE)
        self.host.power_cycle()
        code, _, err = self.xl("pci-assignable-remove -r 00:06.0")
        self.assertEqual((code, self.driver(CARD)), (1, "pciback"))
        self.assertIn("failed to de-quarantine 0000:00:06.0", err)

    def test_without_iommu_the_failed_add_leaves_it_bound_and_listed(self):
        self.start({"iommu": False})
        code, _, err = self.xl("pci-assignable-add 00:07.0")
        self.assertEqual((code, self.driver(SOUND)), (1, "pciback"))
        self.assertIn("failed to quarantine 0000:00:07.0", err)
        self.assertEqual(self.xl("pci-assignable-list")[1], SOUND + " \n")
        code, _, err = self.xl("pci-assignable-remove -r 00:07.0")
        self.assertEqual(code, 1)
        self.assertIn("failed to de-quarantine", err)
        code, err = self.guest("g", "pv", "pci=['00:07.0']\n")
        self.assertEqual((code, self.xen.domains), (6, {}))
        self.assertIn("passthrough not supported on this platform", err)
        self.assertEqual(self.guest("h")[0], 0)

    def test_pv_and_hvm_see_what_they_were_given(self):
        self.assertEqual(self.guest("p", "pv", "pci=['00:07.0,seize=1']\n")[0], 0)
        self.assertIn("guest sees 0000:00:00.0 0x040300 0x8086:0x293e", self.console("p"))
        self.assertEqual(self.store.read("/local/domain/1/data/guidomain/pci"), "8086:293e")
        self.assertEqual(self.store.read("/local/domain/0/backend/pci/1/0/state"), "4")
        self.assertEqual(self.guest("h", "hvm", "pci=['01:00.0,seize=1']\n")[0], 0)
        self.assertIn("1af4:1050", self.store.read("/local/domain/2/data/guidomain/pci").split())
        self.assertIn(" as HVM\n", self.console("h"))
        self.assertEqual(self.xl("pci-list h")[1].split("\n")[1], "04.0 " + VIRTIO)
        self.xl("destroy p")
        self.assertEqual((self.driver(SOUND), self.xen.owner[SOUND]), ("pciback", IO))
        self.assertIsNone(self.store.read("/local/domain/1/name"))

    def test_pvh_is_refused_only_with_functions(self):
        self.xl("pci-assignable-add 00:07.0")
        code, err = self.guest("g", "pvh", "pci=['00:07.0']\n")
        self.assertEqual(code, 6)
        self.assertIn("passthrough not yet supported for x86 PVH guests", err)
        self.assertEqual(self.guest("h", "pvh")[0], 0)
        self.assertIn(" as PVH\n", self.console("h"))

    def test_not_assignable_ends_with_3_and_no_domain(self):
        code, err = self.guest("g", "pv", "pci=['04:02.0']\n")
        self.assertEqual((code, self.xen.domains), (3, {}))
        self.assertIn("libxl__device_pci_add: Domain 1:PCI device 0:4:2.0 is not assignable", err)
        self.assertIn("Destruction of domain failed", err.strip().split("\n")[-1])
        self.assertEqual(self.guest("h")[0], 0)
        self.assertEqual(self.xl("domid h")[1], "2\n")

    def test_in_use(self):
        self.guest("a", "pv", "pci=['00:07.0,seize=1']\n")
        self.assertEqual(self.xl("pci-assignable-list")[1], "")
        code, err = self.guest("b", "pv", "pci=['00:07.0']\n")
        self.assertEqual(code, 3)
        self.assertIn("is not assignable", err)
        code, err = self.guest("c", "hvm", "pci=['00:07.0']\n")
        self.assertIn("PCI device 0000:00:07.0 already assigned to a different guest?", err)
        self.assertEqual(self.xl("pci-assignable-remove -r 00:07.0")[0], 1)

    def test_a_seized_function_stays_on_pciback_when_the_start_fails(self):
        self.host.world["faults"]["refuseAssign"] = [SOUND]
        code, err = self.guest("g", "pv", "pci=['00:07.0,seize=1']\n")
        self.assertEqual((code, self.driver(SOUND), self.xen.domains), (3, "pciback", {}))
        self.assertIn("xc_assign_device failed", err)

    def test_errors_that_end_nothing(self):
        code, err = self.guest("g", "pv", "pci=['00:07.0,seize=1','04:01.0,seize=1']\n")
        self.assertEqual(code, 0)
        self.assertIn("libxl: error: libxl_pci.c:1573:libxl__device_pci_reset: The kernel doesn't support reset from sysfs for PCI device 0000:00:07.0", err)
        self.assertIn("returned -1: Inappropriate ioctl for device", err)

    def test_a_display_pulled_from_its_driver_hangs_a_real_machine_not_an_emulated_one(self):
        self.xl("pci-assignable-add 00:06.0")
        self.assertEqual(self.hung, [])
        self.start(profile="thinkpad-x230")
        self.xl("pci-assignable-add 00:02.0")
        self.assertEqual(self.hung, ["the display 0000:00:02.0 was pulled from i915, which drove it"])

    def test_names_kernels_memory_and_words(self):
        self.guest("g")
        code, err = self.guest("g")
        self.assertNotEqual(code, 0)
        self.assertIn('Domain with name "g" already exists.', err)
        self.write("/etc/xen/k.cfg", 'name="k"\nkernel="/no/kernel"\n')
        code, _, err = self.xl("create k.cfg")
        self.assertEqual(code, 3)
        self.assertIn("xc_dom_kernel_file failed: No such file or directory", err)
        self.write("/etc/xen/m.cfg", GUEST % ("m", "pv") + "memory = 99999\n")
        self.assertEqual(self.xl("create m.cfg")[0], 3)
        self.write("/etc/xen/n.cfg", "memory = 1\n")
        self.assertEqual(self.xl("create -q n.cfg"), (1, "", "Domain name must be specified.\n"))
        self.write("/etc/xen/b.cfg", "name = g-\n")
        self.assertEqual(self.xl("create -q b.cfg")[0], 1)
        self.assertEqual(self.xl("create -q none.cfg"), (3, "", "Failed to read config file: none.cfg: No such file or directory\n"))
        self.assertEqual(self.xl("destroy x"), (1, "", "x is an invalid domain identifier (rc=-6)\n"))
        self.assertEqual(self.xl("domid x")[2], "Can't get domid of domain name 'x', maybe this domain does not exist.\n")

    def test_shutdown_obeyed_hung_and_hvm_before_it_is_up(self):
        self.guest("g")
        self.assertEqual(self.xl("shutdown -w g")[0], 0)
        self.assertEqual(self.xen.domains, {})
        self.host.world["faults"]["guestHangs"] = True
        self.guest("g")
        self.assertEqual(self.xl("shutdown g")[0], 0)
        self.host.clock.advance(5)
        self.assertIn("g ", self.xl("list")[1])
        self.xl("destroy g")
        self.host.world["faults"]["guestDead"] = ["g"]
        self.guest("g")
        code, _, err = self.xl("shutdown g")
        self.assertEqual(code, 1)
        self.assertIn("guest didn't acknowledge control request: -9", err)
        self.assertIn("g ", self.xl("list")[1])
        self.write("/etc/xen/h.cfg", GUEST % ("h", "hvm"))
        self.xl("create h.cfg")
        code, _, err = self.xl("shutdown h")
        self.assertEqual(code, 1)
        self.assertIn("PV control interface not available: external graceful shutdown not possible.", err)

    def test_reboot_is_a_new_domain_with_the_same_functions(self):
        self.guest("g", "pv", "pci=['00:07.0,seize=1']\n")
        self.xl("reboot g")
        self.host.clock.advance(2)
        self.xen.settle()
        self.host.clock.advance(2)
        self.xen.settle()
        self.assertEqual(self.xl("domid g")[1], "2\n")
        self.assertEqual(self.console("g").count("guest ready"), 2)

    def test_save_and_restore(self):
        self.guest("g")
        self.assertEqual(self.xl("save g /var/lib/xen/save/g")[0], 0)
        self.assertEqual(self.xen.domains, {})
        self.assertEqual(self.xl("restore /var/lib/xen/save/g")[0], 0)
        self.assertEqual(self.xl("domid g")[1], "2\n")

    def test_framebuffers(self):
        fb = 'vfb=["type=vnc,vncdisplay=5,vncunused=0"]\n'
        self.guest("a", "pv", fb)
        self.assertEqual(self.xen.domains[1].vnc, ("127.0.0.1", 5905))
        self.assertEqual(self.store.read("/local/domain/1/data/guidomain/screen"), "on")
        self.assertEqual(self.guest("b", "pv", fb)[0], 3)
        self.guest("c", "pv", 'vfb=["type=vnc"]\n')
        self.assertEqual(self.xen.find("c").vnc[1], 5900)
        self.guest("d")
        self.assertIsNone(self.store.read("/local/domain/%d/data/guidomain/screen" % self.xen.find("d").id))


if __name__ == "__main__":
    unittest.main()
