"""The machine without a sandbox: run by lab/twin/machine.test.ts, or `python3 -m unittest` in lab/twin/dom0."""
import os
import shutil
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from machine import disk, grub, hardware, units  # noqa: E402
from machine.core import Clock, Down, Machine  # noqa: E402
from qubesd.errors import QubesException, Refused  # noqa: E402

SIMPLE = "xen-gnulinux-simple-" + hardware.ROOT_UUID
CUSTOM = """# guidomain: begin
if [ -z "${boot_once}" ]; then
  if [ "${guidomain_try}" = 1 ]; then
    set default=guidomain-rescue
  else
    set guidomain_try=1
    save_env guidomain_try
  fi
fi
menuentry 'guidomain: trial' --id guidomain-trial {
\tmultiboot2 /xen-4.19.4.gz placeholder
\tmodule2 /vmlinuz-6.12.59-1.qubes.fc41.x86_64 placeholder root=x ro %s guidomain.trial=t1
\tmodule2 --nounzip /initramfs-6.12.59-1.qubes.fc41.x86_64.img
}
menuentry 'guidomain: rescue' --id guidomain-rescue {
\tmultiboot2 /xen-4.19.4.gz placeholder
\tmodule2 /vmlinuz-6.12.59-1.qubes.fc41.x86_64 placeholder root=x ro rescue
\tmodule2 --nounzip /initramfs-6.12.59-1.qubes.fc41.x86_64.img
}
# guidomain: end
"""
TOKENS = "rd.qubes.hide_pci=00_02.0 systemd.mask=lightdm.service guidomain.gpu=gui"


class Recorder(units.Nothing):
    def __init__(self):
        self.ran, self.failing, self.dead = [], set(), set()

    def run(self, unit, argv, timeout):
        self.ran.append((unit.name, " ".join(argv)))
        return 1 if " ".join(argv) in self.failing else 0

    def spawn(self, unit, argv):
        self.ran.append((unit.name, " ".join(argv)))
        return unit.name

    def alive(self, handle):
        return handle not in self.dead


class Case(unittest.TestCase):
    def setUp(self):
        # A boot makes some 200 files: in memory where there is such a folder.
        self.folder = tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
        self.addCleanup(shutil.rmtree, self.folder)
        self.root = self.folder + "/root"

    def machine(self, profile="laptop", patch=None, **more):
        world = disk.world(profile, patch)
        if os.path.exists(self.root):
            shutil.rmtree(self.root)
        disk.install(self.root, world)
        return Machine(self.root, world, Clock(), **more)

    def write(self, path, text):
        hardware.write(self.root + path, text)

    def read(self, path):
        with open(self.root + path) as file:
            return file.read()

    @property
    def env(self):
        return grub.Env(self.root + "/boot/grub2/grubenv")

    def arguments(self, words):
        self.write("/etc/default/grub", self.read("/etc/default/grub").replace('quiet"', 'quiet %s"' % words))

    def permanent(self, machine, words):
        self.arguments(words)
        disk.regenerate(self.root, machine.world)


class Grub(Case):
    def test_the_default_entry_boots_the_newest_kernel(self):
        boot = self.machine().power_on()
        self.assertEqual((boot.status, boot.entry, boot.kernel), ("running", SIMPLE, "6.12.59-1.qubes.fc41.x86_64"))
        self.assertTrue(boot.cmdline.startswith("placeholder root=/dev/mapper/qubes_dom0-root ro rd.lvm.lv="))
        self.assertIn("no-real-mode edd=off", boot.xen)

    def test_a_one_shot_entry_is_taken_once(self):
        machine = self.machine()
        self.write("/boot/grub2/custom.cfg", CUSTOM % "")
        self.env.set({"next_entry": "guidomain-trial"})
        boot = machine.power_on()
        self.assertEqual((boot.entry, boot.oneShot, boot.cleared), ("guidomain-trial", True, True))
        self.assertIn("guidomain.trial=t1", boot.cmdline.split())
        self.assertEqual(self.env.get(), {"next_entry": ""})
        self.assertEqual(machine.power_cycle().entry, SIMPLE)

    def test_where_grub_cannot_write_the_one_shot_entry_comes_again(self):
        for place in ({"fs": "ext4", "on": "lvm"}, {"fs": "ext4", "on": "raid"}, {"fs": "btrfs", "on": "partition"}):
            machine = self.machine(patch={"bootDisk": place})
            self.write("/boot/grub2/custom.cfg", CUSTOM % "")
            self.env.set({"next_entry": "guidomain-trial"})
            self.assertEqual(machine.power_on().cleared, False)
            self.assertEqual(machine.power_cycle().entry, "guidomain-trial", place)

    def test_an_id_that_does_not_exist_boots_entry_0(self):
        machine = self.machine()
        self.env.set({"next_entry": "nosuch", "saved_entry": "gnulinux-advanced-" + hardware.ROOT_UUID})
        boot = machine.power_on()
        self.assertEqual((boot.entry, boot.oneShot), (SIMPLE, False))
        self.assertIn("nosuch", " ".join(boot.warnings))

    def test_a_saved_entry_in_a_submenu(self):
        machine = self.machine()
        older = "xen-gnulinux-6.12.54-1.qubes.fc41.x86_64-advanced-" + hardware.ROOT_UUID
        self.env.set({"saved_entry": "gnulinux-advanced-{0}>xen-hypervisor-4.19.4-{0}>{1}".format(hardware.ROOT_UUID, older)})
        self.assertEqual(machine.power_on().kernel, "6.12.54-1.qubes.fc41.x86_64")
        self.assertIn(older, [each.id for each in grub.entries(self.root)])

    def test_the_boot_count_goes_to_the_rescue_entry_after_one_boot_that_nobody_confirmed(self):
        machine = self.machine()
        self.write("/boot/grub2/custom.cfg", CUSTOM % "")
        self.assertEqual(machine.power_on().entry, SIMPLE)
        self.assertEqual(self.env.get(), {"guidomain_try": "1"})
        self.assertEqual(machine.power_cycle().entry, "guidomain-rescue")
        self.env.set({"guidomain_try": None})
        self.assertEqual(machine.power_cycle().entry, SIMPLE)

    def test_a_kernel_that_is_gone_stops_the_boot(self):
        machine = self.machine()
        os.unlink(self.root + "/boot/vmlinuz-6.12.59-1.qubes.fc41.x86_64")
        boot = machine.power_on()
        self.assertEqual((machine.state, boot.stage), ("stopped", "grub"))
        self.assertIn("file `/vmlinuz-6.12.59-1.qubes.fc41.x86_64' not found", boot.why)

    def test_a_broken_custom_cfg_takes_only_itself_away(self):
        machine = self.machine()
        self.write("/boot/grub2/custom.cfg", "menuentry 'x' --id x {\n linux /x\n")
        self.assertEqual(machine.power_on().entry, SIMPLE)
        self.assertIsNotNone(grub.check(self.read("/boot/grub2/custom.cfg")))
        self.assertIsNone(grub.check(CUSTOM))
        for text in ("if true; then\n", "fi\n", "echo 'a\n", "a && b\n", "}\n", "echo x }\n{\n"):
            self.assertIsNotNone(grub.check(text), text)

    def test_a_damaged_grubenv_is_not_written(self):
        machine = self.machine()
        self.write("/boot/grub2/custom.cfg", CUSTOM % "")
        self.write("/boot/grub2/grubenv", "next_entry=guidomain-trial\n")
        self.assertEqual(machine.power_on().entry, SIMPLE)
        self.assertEqual(self.read("/boot/grub2/grubenv"), "next_entry=guidomain-trial\n")

    def test_mkconfig_reads_the_settings_as_a_shell_does(self):
        machine = self.machine()
        with open(self.root + "/etc/default/grub", "a") as file:
            file.write("GRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX a=b\"' c'\nGRUB_DEFAULT=0 # comment\n")
        disk.regenerate(self.root, machine.world)
        self.assertTrue(machine.power_on().cmdline.endswith("rhgb quiet a=b c"))

    def test_a_kernel_update_changes_the_default_and_keeps_three(self):
        machine = self.machine()
        newest = [disk.update_kernel(self.root, machine.world) for _ in range(2)][-1]
        self.assertEqual(machine.power_on().kernel, newest)
        self.assertEqual(len(grub.versions(self.root, "vmlinuz")), 3)
        self.assertNotIn("6.12.54", self.read("/boot/grub2/grub.cfg"))


class Profiles(Case):
    def test_every_machine_of_the_twin_comes_up_with_a_screen(self):
        folder = os.path.join(disk.TWIN, "machines")
        for name in sorted(os.listdir(folder)):
            machine = self.machine(os.path.join(folder, name))
            machine.power_on()
            machine.units.boot()
            seen = machine.screen()
            self.assertEqual((machine.state, seen["usable"], bool(seen["keyboards"])), ("running", True, True), name)
            network = [each.sbdf for each in machine.system.functions() if each.interface.startswith("p02")]
            if not machine.world["iommu"]:
                machine.call("admin.vm.property.Set", "virt_mode", "sys-net", b"hvm")
                with self.assertRaisesRegex(QubesException, "does not support IOMMU"):
                    machine.call("admin.vm.Start", "", "sys-net")
                machine.call("admin.vm.property.Set", "virt_mode", "sys-net", b"pv")
            machine.call("admin.vm.Start", "", "sys-net")
            if name != "recorded-laptop.json":
                self.assertTrue(all(machine.drivers()[sbdf] == "pciback" for sbdf in network), name)
                self.assertEqual(bool(machine.system.qube("sys-net").run["attached"]), bool(network), name)


class Initramfs(Case):
    def test_networks_are_always_hidden_usb_on_demand(self):
        machine = self.machine()
        drivers = machine.power_on().drivers
        self.assertEqual({s for s, d in drivers.items() if d == "pciback"}, {"0000:00:14.3", "0000:00:1f.6"})
        self.permanent(machine, "rd.qubes.hide_all_usb")
        self.assertEqual(machine.reset("").drivers["0000:00:14.0"], "pciback")

    def test_paths_are_resolved_through_bridges_and_the_last_argument_counts(self):
        machine = self.machine()
        self.permanent(machine, "rd.qubes.hide_pci=00_02.0 rd.qubes.hide_pci=00_01.0-00_00.0,01:00.1")
        drivers = machine.power_on().drivers
        self.assertEqual([drivers["0000:" + s] for s in ("00:02.0", "01:00.0", "01:00.1")], ["i915", "pciback", "pciback"])

    def test_what_leads_nowhere_stops_the_boot(self):
        for word, says in (
            ("00_1f.7", "Cannot unbind PCI devices."),
            ("05:00.0", "Cannot unbind PCI devices."),
            ("00_1c.0-00_00.0", "Cannot find device '00_1c.0-00_00.0' to hide"),
            ("gpu", "Bogus PCI device list"),
        ):
            machine = self.machine()
            self.permanent(machine, "rd.qubes.hide_pci=" + word)
            boot = machine.power_on()
            self.assertEqual((machine.state, boot.stage), ("stopped", "initramfs"), word)
            self.assertIn(says, boot.why)
            self.assertEqual(machine.screen()["wayIn"], False)

    def test_a_renumbering_moves_addresses_and_not_paths(self):
        machine = self.machine()
        self.permanent(machine, "rd.qubes.hide_pci=00_01.0-00_00.0")
        machine.world["nextMachine"] = hardware.renumbered(machine.world["machine"])
        drivers = machine.power_on().drivers
        self.assertEqual((drivers["0000:02:00.0"], drivers["0000:02:00.1"]), ("pciback", "snd_hda_intel"))
        self.assertNotIn("0000:01:00.0", drivers)
        machine.world["nextMachine"] = hardware.moved(machine.world["machine"])
        self.assertEqual(machine.reset("").stage, "initramfs")

    def test_a_passphrase_needs_a_keyboard_and_a_person(self):
        machine = self.machine("thinkpad-x230", {"passphrase": True})
        self.assertIn("rd.luks.uuid=luks-", machine.power_on().cmdline)
        self.assertEqual(machine.state, "running")
        machine.world["person"] = False
        self.assertEqual((machine.reset("").status, machine.state), ("waiting", "stopped"))
        self.assertTrue(machine.type_passphrase())
        machine.world["machine"]["inputs"] = [{"name": "k", "kind": "keyboard", "at": "0000:00:14.0"}]
        machine.world["person"] = True
        self.assertEqual(machine.reset("").status, "running")
        self.permanent(machine, "rd.qubes.hide_all_usb")
        boot = machine.reset("")
        self.assertEqual((boot.status, boot.stage), ("stopped", "prompt"))
        self.assertFalse(machine.type_passphrase())

    def test_dom0s_disk_must_not_be_hidden(self):
        machine = self.machine("thinkpad-x230")
        self.permanent(machine, "rd.qubes.hide_pci=00_1f.2")
        self.assertIn("no root file system", machine.power_on().why)

    def test_what_the_kernel_shows(self):
        machine = self.machine()
        boot = machine.power_on()
        gpu = self.root + "/sys/bus/pci/devices/0000:01:00.0"
        self.assertEqual(os.path.basename(os.path.realpath(gpu + "/driver")), "nouveau")
        self.assertEqual(os.path.basename(os.path.dirname(os.path.realpath(gpu))), "0000:00:01.0")
        self.assertEqual(self.read("/sys/bus/pci/devices/0000:00:02.0/boot_vga"), "1\n")
        self.assertEqual(self.read("/sys/class/drm/card0-eDP-1/status"), "connected\n")
        self.assertEqual(self.read("/proc/cmdline"), boot.cmdline + "\n")
        self.assertIn("sysrq kbd", self.read("/proc/bus/input/devices"))


class Units(Case):
    GUARD = "[Unit]\nAfter=qubesd.service\nConditionKernelCommandLine=!rescue\n[Service]\nExecStartPre=/bin/first %n\nExecStart=/bin/guard watch\n[Install]\nWantedBy=multi-user.target\n"

    def test_what_a_boot_starts_and_in_which_order(self):
        recorder = Recorder()
        machine = self.machine(execute=recorder)
        self.write("/etc/systemd/system/guard.service", self.GUARD)
        machine.power_on()
        machine.call("admin.vm.property.Set", "autostart", "vault", b"True")
        self.write("/etc/systemd/system/qubes-vm@vault.service.d/50.conf", "[Unit]\nAfter=guard.service\n")
        machine.units.enable("guard")
        machine.power_cycle()
        seen = []
        machine.units.boot(lambda: seen.append(machine.active("guard.service")))
        self.assertEqual(seen, [False])
        self.assertEqual(recorder.ran, [("guard.service", "/bin/first guard.service"), ("guard.service", "/bin/guard watch")])
        order = machine.units.wanted()
        self.assertLess(order.index("guard.service"), order.index("qubes-vm@vault.service"))
        self.assertEqual(machine.call("admin.vm.CurrentState", "", "vault").rpartition("=")[2], "Running")
        recorder.dead.add("guard.service")
        self.assertEqual(machine.units.is_active("guard"), "inactive")

    def test_masks_and_conditions_of_the_kernel_line(self):
        machine = self.machine(execute=Recorder())
        self.permanent(machine, "systemd.mask=lightdm.service guidomain.gpu=x rescue")
        self.write("/etc/systemd/system/guard.service", self.GUARD)
        machine.power_on()
        machine.units.enable("guard.service")
        machine.units.boot()
        self.assertEqual(machine.units.is_enabled("lightdm"), "masked-runtime")
        self.assertEqual([machine.active(name) for name in ("lightdm.service", "guard.service", "qubesd.service")], [False, False, True])
        with self.assertRaisesRegex(units.UnitProblem, "masked"):
            machine.units.start("lightdm")
        self.write("/etc/systemd/system/with.service", "[Unit]\nConditionKernelCommandLine=guidomain.gpu\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/x\n")
        machine.units.start("with")
        self.assertTrue(machine.active("with.service"))

    def test_a_command_that_fails_and_one_that_may(self):
        recorder = Recorder()
        machine = self.machine(execute=recorder)
        recorder.failing = {"/bin/bad"}
        machine.power_on()
        self.write("/etc/systemd/system/a.service", "[Service]\nExecStartPre=-/bin/bad\nExecStart=/bin/a\n")
        self.write("/etc/systemd/system/b.service", "[Service]\nExecStartPre=/bin/bad\nExecStart=/bin/b\n")
        machine.units.start("a")
        with self.assertRaisesRegex(units.UnitProblem, "control process exited"):
            machine.units.start("b")
        self.assertEqual([machine.units.is_active(name) for name in "ab"], ["active", "failed"])
        self.assertNotIn(("b.service", "/bin/b"), recorder.ran)

    def test_a_path_unit_starts_its_service_when_the_file_changes(self):
        recorder = Recorder()
        machine = self.machine(execute=recorder)
        machine.power_on()
        self.write("/etc/systemd/system/g.path", "[Path]\nPathChanged=/boot/grub2/grub.cfg\n[Install]\nWantedBy=multi-user.target\n")
        self.write("/etc/systemd/system/g.service", "[Service]\nType=oneshot\nExecStart=/bin/g\n")
        self.assertEqual(machine.units.enable("g.path"), ["Created symlink '/etc/systemd/system/multi-user.target.wants/g.path' → '/etc/systemd/system/g.path'."])
        machine.units.start("g.path")
        self.assertEqual(machine.units.poll(), [])
        disk.update_kernel(self.root, machine.world)
        self.assertEqual(machine.units.poll(), ["g.service"])
        self.assertEqual(recorder.ran, [("g.service", "/bin/g")])

    def test_without_a_watchdog_there_is_no_such_unit(self):
        machine = self.machine(patch={"watchdog": False})
        machine.power_on()
        with self.assertRaises(units.UnitProblem):
            machine.units.start("xenwatchdogd")


class Screen(Case):
    def assign(self, machine, qube, *ports):
        for port in ports:
            device = next(each.device_id for each in machine.system.functions() if each.port == port)
            payload = "device_id='%s' port_id='%s' devclass='pci' backend_domain='dom0' mode='required' frontend_domain='%s'" % (device, port, qube)
            machine.call("admin.vm.device.pci.Assign", "dom0+%s:%s" % (port, device), qube, payload.encode())

    def gpu(self, machine, input_proxy=True):
        """As the GPU column of qubes-host.md (b)."""
        machine.call("admin.vm.Create.AppVM", "fedora-43-xfce", "dom0", b"name=gui label=black")
        for name, value in (("netvm", b""), ("guivm", b""), ("memory", b"2000")):
            machine.call("admin.vm.property.Set", name, "gui", value)
        for feature in ("service.lightdm", "service.guivm"):
            machine.call("admin.vm.feature.Set", feature, "gui", b"1")
        self.assign(machine, "gui", "00_02.0")
        packages = machine.world["templates"]["fedora-43-xfce"]["packages"]
        packages.update({"lightdm": "1", "qubes-vm-guivm": "4.3"})
        if input_proxy:
            machine.call("admin.vm.feature.Set", "input-dom0-proxy", "gui", b"1")
            self.write("/etc/qubes/input-proxy-target", "TARGET_DOMAIN=gui\n")
            self.write("/var/lib/rpm/twin.json", '{"packages": {"qubes-input-proxy-sender": "1"}}')

    def test_dom0_drives_its_screen_with_lightdm(self):
        machine = self.machine()
        machine.power_on()
        machine.units.boot()
        self.assertEqual(
            machine.screen(),
            {"drivenBy": "dom0 (lightdm)", "keyboards": ["ps2"], "usable": True, "why": "dom0's greeter or desktop is on it", "wayIn": True},
        )
        machine.units.stop("lightdm")
        self.assertEqual((machine.screen()["drivenBy"], machine.screen()["usable"]), ("dom0 (console)", False))

    def test_input_that_nothing_passes_on_ends_the_start(self):
        machine = self.machine()
        machine.power_on()
        machine.call("admin.vm.Create.AppVM", "fedora-43-xfce", "dom0", b"name=gui label=black")
        machine.call("admin.vm.feature.Set", "input-dom0-proxy", "gui", b"0")  # any text counts
        with self.assertRaises(Refused):
            machine.call("admin.vm.Start", "", "gui")
        self.assertIn("power_state=Halted", machine.call("admin.vm.CurrentState", "", "gui"))
        self.write("/var/lib/rpm/twin.json", '{"packages": {"qubes-input-proxy-sender": "1"}}')
        machine.call("admin.vm.Start", "", "gui")

    def test_a_display_pulled_from_its_driver_hangs_the_host(self):
        machine = self.machine()
        machine.power_on()
        self.gpu(machine)
        with self.assertRaises(Down) as down:
            machine.call("admin.vm.Start", "", "gui")
        self.assertEqual((down.exception.what, machine.state, machine.due()), ("hang", "hung", None))
        machine.clock.advance(3600)
        self.assertFalse(machine.tick())
        self.assertEqual(machine.screen()["usable"], False)
        self.assertEqual(machine.power_cycle().status, "running")

    def test_the_watchdog_makes_a_reset_of_a_hang(self):
        machine = self.machine()
        before = machine.power_on().id
        machine.units.start("xenwatchdogd")
        machine.hang("for the test")
        machine.clock.advance(29.9)
        self.assertFalse(machine.tick())
        machine.clock.advance(0.2)
        self.assertTrue(machine.tick())
        self.assertNotEqual(machine.boot.id, before)
        self.assertEqual(machine.state, "running")

    def test_gpu_mode(self):
        machine = self.machine()
        machine.power_on()
        self.gpu(machine)
        self.permanent(machine, TOKENS)
        machine.power_cycle()
        machine.units.boot()
        seen = machine.screen()
        self.assertEqual((seen["drivenBy"], seen["usable"]), ("dom0 (console)", False))
        self.assertIn("on pciback", seen["why"])
        machine.call("admin.vm.Start", "", "gui")
        seen = machine.screen()
        self.assertEqual((seen["drivenBy"], seen["keyboards"], seen["usable"]), ("gui", ["ps2"], True))
        machine.world["faults"]["guestNoDrm"] = True
        seen = machine.screen()
        self.assertEqual((seen["drivenBy"], seen["usable"]), (None, False))
        self.assertIn("no driver for it", seen["why"])
        machine.world["faults"] = {}
        machine.call("admin.vm.Kill", "", "gui")
        self.assertIn("on pciback", machine.screen()["why"])

    def test_a_usb_qube_passes_on_what_the_policy_lets_it(self):
        machine = self.machine()
        machine.world["machine"]["inputs"] = [{"name": "k", "kind": "keyboard", "at": "0000:00:14.0"}]
        machine.power_on()
        machine.units.boot()
        machine.call("admin.vm.Create.AppVM", "fedora-43-xfce", "dom0", b"name=usb label=black")
        machine.call("admin.vm.property.Set", "virt_mode", "usb", b"hvm")
        payload = b"device_id='*' port_id='00_14.0' devclass='pci' backend_domain='dom0' mode='required' frontend_domain='usb' _no-strict-reset='True'"
        machine.call("admin.vm.device.pci.Assign", "dom0+00_14.0:*", "usb", payload)
        self.assertEqual(machine.screen()["keyboards"], ["usb:0000:00:14.0"])
        machine.call("admin.vm.Start", "", "usb")
        template = machine.world["templates"]["fedora-43-xfce"]["packages"]
        template["qubes-input-proxy-sender"] = "1"
        self.write("/var/lib/rpm/twin.json", '{"packages": {"qubes-input-proxy": "1"}}')
        rule = "qubes.InputKeyboard %s usb dom0 %s\n"
        pin = "+usb-0000_00_14.0-1+3-1-1-ab41"
        for text, there in (
            ("", False),
            (rule % ("*", "allow"), True),
            (rule % ("*", "ask default_target=dom0"), False),
            (rule % (pin, "allow") + rule % ("*", "deny"), True),
            (rule % (pin, "deny") + rule % ("*", "allow"), False),
            (rule % ("+other", "allow"), False),
            (rule % ("*", "allow") + "nonsense\n", False),
            ((rule % ("*", "allow")).replace("Keyboard", "Mouse"), False),
        ):
            self.write("/etc/qubes/policy.d/50-config-input.policy", text)
            expected = ["usb:0000:00:14.0"] if there else []
            self.assertEqual((machine.screen()["keyboards"], machine.screen()["usable"]), (expected, there), text)
        self.write("/etc/qubes/policy.d/50-config-input.policy", rule % ("*", "allow"))
        self.write("/var/lib/rpm/twin.json", '{"packages": {}}')
        self.assertEqual(machine.screen()["why"], "no keyboard reaches dom0")
        self.write("/var/lib/rpm/twin.json", '{"packages": {"qubes-input-proxy": "1"}}')
        del template["qubes-input-proxy-sender"]
        self.assertEqual(machine.screen()["usable"], False)

    def test_a_screen_without_a_keyboard_is_no_use(self):
        machine = self.machine()
        machine.power_on()
        self.gpu(machine, input_proxy=False)
        self.permanent(machine, TOKENS)
        machine.power_cycle()
        machine.call("admin.vm.Start", "", "gui")
        self.assertEqual(machine.screen()["why"], "no keyboard reaches gui")
        machine.call("admin.vm.Kill", "", "gui")
        machine.world["machine"]["inputs"] = [{"name": "k", "kind": "keyboard", "at": "0000:00:14.0"}]
        machine.call("admin.vm.feature.Set", "x", "gui", b"1")
        payload = b"device_id='*' port_id='00_14.0' devclass='pci' backend_domain='dom0' mode='required' frontend_domain='gui' _no-strict-reset='True'"
        machine.call("admin.vm.device.pci.Assign", "dom0+00_14.0:*", "gui", payload)
        machine.call("admin.vm.Start", "", "gui")
        self.assertEqual((machine.screen()["keyboards"], machine.screen()["usable"]), (["usb:0000:00:14.0"], True))
        self.assertEqual(machine.drivers()["0000:00:14.0"], "pciback")  # dom0 does not get it back
        machine.call("admin.vm.Kill", "", "gui")
        self.assertEqual(machine.drivers()["0000:00:14.0"], "pciback")

    def test_start_refusals(self):
        machine = self.machine()
        self.permanent(machine, TOKENS)
        machine.power_on()
        self.gpu(machine)
        machine.world["faults"]["noReset"] = True
        with self.assertRaisesRegex(QubesException, "no FLR, PM reset or bus reset available"):
            machine.call("admin.vm.Start", "", "gui")
        machine.world["faults"] = {"startPci": {"*": "Start failed: '{qube}' {sbdf}"}}
        with self.assertRaisesRegex(QubesException, "'gui' 0000:00:02.0"):
            machine.call("admin.vm.Start", "", "gui")
        machine.world["faults"] = {}
        machine.call("admin.vm.feature.Set", "prohibit-start", "gui", b"why")
        with self.assertRaisesRegex(QubesException, "Qube start is prohibited. Rationale: why"):
            machine.call("admin.vm.Start", "", "gui")

    def test_triggers_bite_once_before_or_after(self):
        machine = self.machine()
        machine.power_on()
        machine.world["faults"]["triggers"] = [
            {"at": "admin.vm.Start vault", "do": "power"},
            {"at": "admin.vm.property.Set+memory *", "do": "reset", "when": "after", "skip": 1},
        ]
        machine.call("admin.vm.property.Set", "memory", "vault", b"500")
        with self.assertRaises(Down):
            machine.call("admin.vm.property.Set", "memory", "vault", b"600")
        machine.reset("")
        self.assertIn(" 600", machine.call("admin.vm.property.Get", "memory", "vault"))
        with self.assertRaises(Down):
            machine.call("admin.vm.Start", "", "vault")
        self.assertEqual((machine.state, machine.screen()["usable"]), ("off", False))
        machine.power_cycle()
        machine.call("admin.vm.Start", "", "vault")

    def test_a_server_has_its_keyboard_on_usb(self):
        machine = self.machine("server")
        machine.power_on()
        machine.units.boot()
        self.assertEqual(machine.screen()["usable"], True)
        self.assertTrue(machine.screen()["keyboards"][0].startswith("usb:"))
        self.permanent(machine, "rd.qubes.hide_all_usb")
        machine.power_cycle()
        machine.units.boot()
        self.assertEqual(machine.screen()["why"], "no keyboard reaches dom0")


if __name__ == "__main__":
    unittest.main()
