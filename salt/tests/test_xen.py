"""Domains of a plain Xen host, and what dom0 gives up for them: xen_domains.py, xen_host.py, our states."""

import os
import unittest.mock

from fake import SALT
from fake_xen import AUDIO, AUDIO_ID, CARD, CARD_ID, FUNCTIONS, XenCase

import domains
import journal
import keys
import xen_domains as admin
import xen_host

SOUND, NETWORK = "0000_00_07.0", "0000_00_09.0"
NET_ID = "0x8086:0x100e::p020000"
RESET = """\
libxl: error: libxl_pci.c:1576:libxl__device_pci_reset: The kernel doesn't support reset from sysfs for PCI device 0000:00:07.0
libxl: error: libxl_pci.c:900:x: Domain 3:reset returned -1: Inappropriate ioctl for device
"""


class Domains(XenCase):
    def refused(self, function, *args):
        with self.assertRaises(admin.AdminError) as caught:
            function(*args)
        return caught.exception

    def test_which_there_are(self):
        self.put("/etc/xen/other.cfg", 'memory = 1\n')  # no name: of something else
        self.put("/etc/xen/file.cfg", 'name = "named"\n')
        self.put("/etc/xen/broken.cfg", 'name = "x\n')
        self.state(domains={"named": {"id": 3, "state": "-b----", "pci": []}, "bare": {"id": 4, "state": "--p---", "pci": []}})
        self.assertEqual(
            admin.qubes(),
            {
                "bare": {"class": "Domain", "state": "Paused"},
                "broken": {"class": "Domain", "state": "Halted"},
                "named": {"class": "Domain", "state": "Running"},
                "work": {"class": "Domain", "state": "Halted"},
            },
        )
        self.assertEqual(admin.properties("bare"), {})
        self.assertEqual(admin.properties("broken"), {})
        self.assertIn("/etc/xen/broken.cfg line 1:", str(self.refused(admin.get_property, "broken", "a")))
        self.assertIn("broken.cfg line 1", self.refused(admin.set_property, "broken", "a", "1").message)
        self.assertIn("no configuration", self.refused(admin.set_property, "bare", "a", "1").message)
        self.assertIn("already exists", self.refused(admin.create, "broken").message)
        self.assertEqual(self.text("/etc/xen/broken.cfg"), 'name = "x\n')
        self.assertEqual(self.refused(admin.pci_assigned, "none").type, "QubesVMNotFoundError")
        self.assertEqual((admin.get_qube("none"), admin.power_state("none")), (None, None))
        admin.set_property("named", "memory", "7")
        self.assertIn("memory = 7", self.text("/etc/xen/file.cfg"))

    def test_a_list_that_is_none(self):
        """What xl prints without dom0 in it, whatever its exit status, is no answer."""
        self.state(broken=True)
        self.assertIn("Is xenstore daemon running?", self.refused(admin.qubes).message)
        for text in ("", "Name ID\n"):
            self.put("/bin/xl", "#!/bin/sh\nprintf '%s'\n" % text, 0o755)
            self.assertIn("does not list dom0", self.refused(admin.qubes).message)
        os.unlink(self.root + "/sys/hypervisor/type")  # a boot without Xen: nothing runs
        self.assertEqual(admin.qubes(), {"work": {"class": "Domain", "state": "Halted"}})

    def test_properties(self):
        before = self.dump()
        self.assertEqual(
            admin.properties("work"),
            {
                "memory": {"default": False, "value": "512"},
                "disk": {"default": False, "value": '["phy:/dev/x,xvda,w"]'},
                "autostart": {"default": True, "value": "False"},
            },
        )
        vfb = '["type=vnc,vnclisten=127.0.0.1"]'
        for name, value in (("vfb", vfb), ("memory", "192"), ("disk", "[]"), ("extra", 'a="b" c')):
            first = admin.get_property("work", name)
            admin.set_property("work", name, value)
            self.assertEqual(admin.get_property("work", name), {"default": False, "value": value})
            if first["default"]:
                admin.reset_property("work", name)
            else:
                admin.set_property("work", name, first["value"])
        self.assertEqual(self.dump(), before)
        admin.reset_property("work", "disk")
        self.assertEqual(admin.get_property("work", "disk"), {"default": True, "value": ""})
        admin.set_property("work", "disk", '["phy:/dev/x,xvda,w"]')
        self.assertEqual(self.dump(), before)
        for name in ("name", "pci"):
            self.assertIsNone(admin.get_property("work", name))
            self.refused(admin.set_property, "work", name, "x")
        self.refused(admin.set_property, None, "default_guivm", "x")
        self.assertIsNone(admin.get_property(None, "default_guivm"))

    def test_a_write_that_fails_leaves_the_file(self):
        before = self.dump()
        with unittest.mock.patch.object(os, "rename", side_effect=OSError(28, "No space left on device")):
            self.assertRaises(OSError, admin.set_property, "work", "memory", "1")
        self.assertEqual(self.dump(), before)
        self.put("/etc/xen/work.cfg.guidomain-new", "half")
        self.assertEqual(list(admin.qubes()), ["work"])
        admin.tidy()
        self.assertEqual(self.dump(), before)

    def test_owner_and_mode_stay(self):
        self.put("/etc/xen/work.cfg", self.text("/etc/xen/work.cfg"), 0o600)
        admin.set_property("work", "memory", "1")
        self.assertEqual(os.stat(self.root + "/etc/xen/work.cfg").st_mode & 0o777, 0o600)

    def test_autostart(self):
        before = self.dump()
        admin.set_property("work", "autostart", "True")
        self.assertEqual(os.readlink(self.root + "/etc/xen/auto/work.cfg"), "../work.cfg")
        self.assertEqual(admin.get_property("work", "autostart"), {"default": False, "value": "True"})
        admin.set_property("work", "autostart", "False")
        self.assertEqual(self.dump(), before)
        os.mkdir(self.root + "/etc/xen/auto")
        os.symlink(self.root + "/etc/xen/work.cfg", self.root + "/etc/xen/auto/10-first")  # a person's
        self.assertEqual(admin.get_property("work", "autostart")["value"], "True")
        admin.reset_property("work", "autostart")
        self.assertEqual(self.dump(), before)

    def test_made_and_gone(self):
        before = self.dump()
        admin.create("gui")
        self.assertEqual(self.text("/etc/xen/gui.cfg"), 'name = "gui"\n')
        self.assertEqual(admin.get_qube("gui"), {"class": "Domain", "template": "", "label": ""})
        self.refused(admin.create, "gui")
        admin.set_property("gui", "autostart", "True")
        admin.start("gui")
        self.assertEqual(self.refused(admin.remove, "gui").type, "QubesVMNotHaltedError")
        admin.kill("gui")
        admin.kill("gui")
        admin.shutdown("gui")
        admin.remove("gui")
        self.assertEqual(self.dump(), before)

    def test_what_the_last_shutdown_saved_of_one_with_a_device_of_ours_is_thrown_away(self):
        os.makedirs(self.root + "/var/lib/xen/save")
        saved = ["/var/lib/xen/save/" + name for name in ("work", "other")]
        for name in saved:
            self.put(name, "saved")
        domains.forget_saved([])
        self.assertEqual([os.path.exists(self.root + name) for name in saved], [True, True])
        admin.assign_pci("work", SOUND, AUDIO_ID, {"seize": "True"})
        domains.forget_saved([])
        self.assertEqual([os.path.exists(self.root + name) for name in saved], [False, True])

    def test_one_whose_kernel_does_not_take_the_word_is_asked_again_and_killed_where_that_is_allowed(self):
        admin.start("work")
        self.state(deaf={"work": 2})
        self.assertIs(admin.shutdown("work"), False)
        journal.stop_qube("work", 5)
        self.assertEqual(admin.power_state("work"), "Halted")
        admin.start("work")
        self.state(deaf={"work": 1000})
        with self.assertRaises(domains.common.Failure) as caught:
            journal.stop_qube("work", 0.2)
        self.assertEqual(caught.exception.code, "shutdown-refused")
        self.assertEqual(admin.power_state("work"), "Running")
        journal.stop_qube("work", 0.2, kill=True)
        self.assertEqual(admin.power_state("work"), "Halted")

    # -- devices

    def test_devices(self):
        before = self.dump()
        admin.assign_pci("work", SOUND, AUDIO_ID, {"seize": "True"})
        admin.assign_pci("work", NETWORK, NET_ID, {"permissive": "True", "seize": "True"})
        self.assertEqual(
            admin.pci_assigned("work"),
            [
                {"port": SOUND, "device": AUDIO_ID, "mode": "required", "options": {"seize": "True"}},
                {
                    "port": NETWORK,
                    "device": NET_ID,
                    "mode": "required",
                    "options": {"permissive": "True", "seize": "True"},
                },
            ],
        )
        self.assertIn("0000:00:09.0,permissive=1,seize=1", self.text("/etc/xen/work.cfg"))
        self.assertNotIn("pci", admin.properties("work"))
        admin.unassign_pci("work", SOUND, AUDIO_ID)
        admin.unassign_pci("work", NETWORK, NET_ID)
        self.assertEqual(self.dump(), before)

    def test_others_entries_stay_as_they_are_written(self):
        text = "name='own'\npci = ['07:00.0@5,msitranslate=0', \"00:09.0, seize=1\"]\n"
        self.put("/etc/xen/own.cfg", text)
        self.assertEqual(
            [(one["port"], one["device"], one["options"]) for one in admin.pci_assigned("own")],
            [("0000_07_00.0", "*", {}), (NETWORK, NET_ID, {"seize": "True"})],
        )
        admin.assign_pci("own", SOUND, AUDIO_ID, {})
        admin.unassign_pci("own", NETWORK, NET_ID)
        self.assertIn('pci = ["07:00.0@5,msitranslate=0", "0000:00:07.0"]', self.text("/etc/xen/own.cfg"))
        admin.unassign_pci("own", SOUND, AUDIO_ID)
        admin.assign_pci("own", NETWORK, NET_ID, {"seize": "True"})
        admin.unassign_pci("own", "0000_07_00.0", "*")
        self.assertEqual([one["port"] for one in admin.pci_assigned("own")], [NETWORK])

    def test_what_sits_there_now(self):
        admin.assign_pci("work", SOUND, AUDIO_ID, {})
        key = "device:work:%s:%s" % (SOUND, AUDIO_ID)
        self.assertEqual(keys.read(key), {"mode": "required", "options": {}})
        place = self.root + "/sys/bus/pci/devices/" + AUDIO
        os.rename(place, place + ".gone")
        # Of an empty place we know what we had assigned: it is found, and can be taken away.
        self.assertEqual(keys.read(key), {"mode": "required", "options": {}})
        os.rename(place + ".gone", place)
        self.put("/sys/bus/pci/devices/%s/device" % AUDIO, "0x9999\n")
        self.assertIsNone(keys.read(key))
        self.assertEqual(admin.pci_assigned("work")[0]["device"], "0x8086:0x9999::p040300")
        self.assertIn("there is now 0x8086:0x9999", self.refused(admin.start, "work").message)
        self.assertNotIn("create", " ".join(self.log()))
        self.assertIn("not " + AUDIO_ID, self.refused(admin.assign_pci, "work", SOUND, AUDIO_ID, {}).message)

    # -- starts

    def seen(self):
        return {sbdf: xen_host.driver(sbdf) for sbdf in FUNCTIONS}, self.state()["domains"]

    def test_start_with_a_device(self):
        admin.assign_pci("work", SOUND, AUDIO_ID, {"seize": "True"})
        admin.start("work")  # xl says an error and exits with 0: it is none
        self.assertEqual(admin.power_state("work"), "Running")
        self.assertEqual(admin.users(), {AUDIO: "work"})
        admin.start("work")
        self.assertEqual(sum(line.startswith("create") for line in self.log()), 1)

    def test_failed_starts_leave_nothing(self):
        admin.assign_pci("work", SOUND, AUDIO_ID, {"seize": "True"})
        before = self.seen()
        for state, text in (
            ({"iommu": False}, "passthrough not supported on this platform"),
            ({"refuse": "xc_assign_device failed"}, "unable to add device; xc_assign_device failed"),
            ({"lost": [AUDIO]}, "it runs without 0000:00:07.0"),
            ({"ends": ["work"]}, "it ended as soon as it had started"),
        ):
            self.state(**state)
            self.assertIn(text, self.refused(admin.start, "work").message)
            self.assertEqual(self.seen(), before, state)
            self.state(iommu=True, refuse=None, lost=[], ends=[])
        admin.assign_pci("work", SOUND, AUDIO_ID, {})
        self.state(half=True)
        self.assertEqual(
            self.refused(admin.start, "work").message, "PCI device 0:0:7.0 is not assignable"
        )
        self.assertEqual(self.seen(), before)

    def test_without_what_cleans_up(self):
        """Negative control: the host is otherwise after a failed start."""
        admin.assign_pci("work", SOUND, AUDIO_ID, {"seize": "True"})
        before = self.seen()
        self.state(refuse="no")
        with unittest.mock.patch.object(xen_host, "give_back"), unittest.mock.patch.object(admin, "kill"):
            self.refused(admin.start, "work")
        drivers, running = self.seen()
        self.assertEqual((drivers[AUDIO], list(running)), ("pciback", ["work"]))
        self.assertNotEqual((drivers, running), before)

    def test_a_display_is_not_taken_from_dom0(self):
        admin.assign_pci("work", xen_host.port(CARD), CARD_ID, {"seize": "True"})
        before = self.seen()
        text = "0000:02:00.0 is a display that is dom0's in this boot (driver bochs-drm)"
        self.assertIn(text, self.refused(admin.start, "work").message)
        self.assertEqual(self.seen(), before)
        # Without "seize" it is xl that refuses, in its own words.
        admin.assign_pci("work", xen_host.port(CARD), CARD_ID, {})
        text = "PCI device 0:2:0.0 is not assignable"
        self.assertEqual(self.refused(admin.start, "work").message, text)
        self.assertEqual(self.seen(), before)
        # Negative control: told to seize it, xl would.
        admin.assign_pci("work", xen_host.port(CARD), CARD_ID, {"seize": "True"})
        with unittest.mock.patch.object(xen_host, "is_display", lambda _: False):
            admin.start("work")
        self.assertEqual(xen_host.driver(CARD), "pciback")

    def test_a_domain_that_is_there_and_does_not_run(self):
        self.state(domains={"work": {"id": 3, "state": "---s--", "pci": []}})
        self.assertEqual(admin.power_state("work"), "Halting")
        self.assertIn("work is there already: halting", self.refused(admin.start, "work").message)

    def test_no_end(self):
        self.put("/bin/xl", "#!/bin/sh\nexec sleep 9\n", 0o755)
        with unittest.mock.patch.object(xen_host, "SHORT", 0.1):
            self.assertIn("did not end within", self.refused(xen_host.run, ("xl", "list"), 0.1).message)

    def test_what_xl_leaves_behind_does_not_hold_us(self):
        """Its monitor of a domain goes on with the same output; so do device models."""
        self.put("/bin/xl", "#!/bin/sh\nsleep 20 &\necho said\n", 0o755)
        with unittest.mock.patch("time.sleep"):
            self.assertEqual(xen_host.xl("create", timeout=5)[:2], (0, "said\n"))

    def test_xls_own_words(self):
        self.assertEqual(xen_host.words(RESET), "")
        self.assertEqual(
            xen_host.words(
                "Parsing config from /etc/xen/x.cfg\n" + RESET
                + "libxl: error: libxl_pci.c:1677:libxl__device_pci_add: Domain 3:PCI device 0:4:2.0 is not assignable\n"
                "libxl: error: libxl_device.c:1109:device_addrm_aocomplete: unable to add device\n"
                "libxl: warning: libxl.c:1:x: never mind\n\x1b[0m"
            ),
            "PCI device 0:4:2.0 is not assignable; unable to add device",
        )
        self.assertEqual(
            xen_host.words("work is an invalid domain identifier (rc=-6)\n"),
            "work is an invalid domain identifier (rc=-6)",
        )

    # -- pciback

    def test_assignable(self):
        before = self.seen()
        key = "assignable:" + SOUND
        self.assertIsNone(keys.read(key))
        keys.restore(key, True, None, None)
        self.assertEqual((keys.read(key), xen_host.driver(AUDIO)), (True, "pciback"))
        keys.restore(key, True, None, None)  # once more is no error
        keys.restore(key, None, None, None)
        self.assertEqual(self.seen(), before)
        keys.restore(key, None, None, None)
        self.assertEqual(sum("assignable-remove" in line for line in self.log()), 1)

    def test_without_an_iommu_it_is_given_back(self):
        """xl fails, and leaves it bound and listed; nor does it take it back."""
        self.state(iommu=False)
        before = self.seen()
        self.assertEqual(
            self.refused(admin.add_assignable, SOUND).message,
            "0000:00:07.0: failed to quarantine 0000:00:07.0",
        )
        self.assertEqual(self.seen(), before)
        with unittest.mock.patch.object(xen_host, "give_back"):  # negative control
            self.assertIn("still on pciback", self.refused(admin.add_assignable, SOUND).message)
        self.assertEqual(xen_host.driver(AUDIO), "pciback")
        admin.remove_assignable(SOUND)
        self.assertEqual(self.seen(), before)

    def test_what_a_domain_has_stays(self):
        admin.assign_pci("work", SOUND, AUDIO_ID, {"seize": "True"})
        admin.add_assignable(SOUND)
        admin.start("work")
        text = "0000:00:07.0 is in use by the running domain work"
        self.assertEqual(self.refused(admin.remove_assignable, SOUND).message, text)
        self.assertEqual(xen_host.driver(AUDIO), "pciback")
        with unittest.mock.patch.object(admin, "users", dict):  # negative control
            admin.remove_assignable(SOUND)
        self.assertEqual(xen_host.driver(AUDIO), "snd_hda_intel")

    def test_refusals(self):
        before = self.seen()
        card = xen_host.port(CARD)
        self.assertIn("never taken from a dom0", self.refused(admin.add_assignable, card).message)
        self.assertIn("no such PCI device", self.refused(admin.add_assignable, "0000_7f_00.0").message)
        self.assertEqual((self.seen(), self.log()), (before, []))

    def test_what_the_kernel_line_hides_stays(self):
        self.put("/proc/cmdline", "placeholder xen_pciback.hide=(00:07.0)(0000:02:00.0) quiet\n")
        self.assertEqual(xen_host.hidden(), {AUDIO, CARD})
        self.bind(AUDIO, "pciback")
        admin.remove_assignable(SOUND)
        self.assertEqual(xen_host.driver(AUDIO), "pciback")
        self.put("/proc/cmdline", "xen-pciback.hide=(00:07.0) xen-pciback.hide=(02:00.0)\n")
        self.assertEqual(xen_host.hidden(), {CARD}, "the last one wins")

    def test_it_is_nothing_of_qubes(self):
        self.put("/etc/qubes-release", "Qubes release 4.3.0 (R4.3)\n")
        with self.assertRaises(domains.common.Failure) as caught:
            keys.read("assignable:" + SOUND)
        self.assertEqual(caught.exception.code, "bad-request")

    def test_a_qubes_host_without_its_release_file_is_not_taken_for_plain_xen(self):
        self.assertEqual(domains.platform(), "xen")
        os.makedirs(self.root + "/var/lib/qubes")
        self.assertEqual((domains.platform(), domains.release()), ("qubes", None))


class Salt(XenCase):
    def test_the_modules_find_each_other_the_way_salt_loads_them(self):
        """Each by its file alone."""
        import subprocess
        import sys

        program = (
            "import importlib.util, sys\n"
            "spec = importlib.util.spec_from_file_location('salt.loaded.x', sys.argv[1])\n"
            "module = importlib.util.module_from_spec(spec)\n"
            "spec.loader.exec_module(module)\n"
            "print(module.xl_config.values('a=1\\n'))\n"
        )
        file = os.path.join(SALT, "_utils", "xen_domains.py")
        said = subprocess.check_output([sys.executable, "-IB", "-c", program, file], text=True)
        self.assertEqual(said, "{'a': '1'}\n")
