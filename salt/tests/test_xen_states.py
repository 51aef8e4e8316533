"""Our Salt states for plain Xen: convergent, dry under test=True, read back, and they say what xl said."""

import importlib.util
import os

from fake import SALT
from fake_xen import XenCase

import xen_domains
import xen_host

CARD, SOUND = "0000:02:00.0", "0000:00:07.0"


def port(sbdf):
    return sbdf.replace(":", "_")


class XenStates(XenCase):
    def setUp(self):
        super().setUp()
        self.modules = {name: self.load(name) for name in ("domain", "pciback")}

    def load(self, name):
        spec = importlib.util.spec_from_file_location(
            name + "_states", os.path.join(SALT, "_states", name + ".py")
        )
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.__utils__ = {
            "xen_domains." + n: f for n, f in vars(xen_domains).items() if callable(f)
        }
        return module

    def run_state(self, function, name, test=False, **kwargs):
        module, _, verb = function.partition(".")
        self.modules[module].__opts__ = {"test": test}
        return getattr(self.modules[module], verb)(name, **kwargs)

    def files(self):
        found = {}
        for folder, _, names in os.walk(self.root + "/etc/xen"):
            for name in names:
                path = os.path.join(folder, name)
                found[path] = os.readlink(path) if os.path.islink(path) else self.content(path)
        drivers = {sbdf: xen_host.driver(sbdf) for sbdf in (CARD, SOUND)}
        return found, drivers, self.state()

    @staticmethod
    def content(path):
        with open(path) as file:
            return file.read()

    def converges(self, function, name, **kwargs):
        """Dry run, real run, second run; the changes announced are the changes made. Returns them."""
        before = self.files()
        announced = self.run_state(function, name, test=True, **kwargs)
        self.assertEqual(self.files(), before, "test=True wrote")
        made = self.run_state(function, name, **kwargs)
        self.assertTrue(made["result"], made["comment"])
        self.assertEqual(announced["changes"], made["changes"])
        self.assertEqual(announced["result"], None if made["changes"] else True)
        after = self.files()
        again = self.run_state(function, name, **kwargs)
        self.assertEqual((again["result"], again["changes"]), (True, {}))
        self.assertEqual(self.files(), after)
        return made["changes"]

    def test_a_domain_comes_and_goes(self):
        value = {"class": "Domain", "template": "", "label": ""}
        made = self.converges("domain.present", "sys-gui")
        self.assertEqual(made, {"qube:sys-gui": {"old": None, "new": value}})
        self.assertEqual(self.converges("domain.present", "work"), {})
        gone = self.converges("domain.absent", "sys-gui")
        self.assertEqual(gone, {"qube:sys-gui": {"old": value, "new": None}})

    def test_one_that_runs_is_asked_to_shut_down_and_never_killed(self):
        self.run_state("domain.present", "sys-gui")
        xen_domains.start("sys-gui")
        self.state(stubborn=["sys-gui"])
        self.modules["domain"].SHUTDOWN = 0
        kept = self.run_state("domain.absent", "sys-gui")
        self.assertFalse(kept["result"])
        self.assertIn("nothing was killed", kept["comment"])
        self.assertIn("sys-gui", self.state()["domains"])
        self.state(stubborn=[])
        self.modules["domain"].SHUTDOWN = 5
        self.assertTrue(self.run_state("domain.absent", "sys-gui")["result"])
        self.assertNotIn("sys-gui", self.state()["domains"])

    def test_one_that_still_boots_is_asked_again(self):
        self.run_state("domain.present", "sys-gui")
        xen_domains.start("sys-gui")
        self.state(deaf={"sys-gui": 2})
        self.modules["domain"].SHUTDOWN = 5
        self.assertTrue(self.run_state("domain.absent", "sys-gui")["result"])
        self.assertNotIn("sys-gui", self.state()["domains"])

    def test_properties_of_a_file_that_is_somebodys(self):
        before = self.files()[0]
        changes = self.converges(
            "domain.properties", "work", set={"memory": 256, "vfb": '["vnc=1"]', "autostart": True}
        )
        self.assertEqual(
            changes["property:work:memory"],
            {"old": {"default": False, "value": "512"}, "new": {"default": False, "value": "256"}},
        )
        self.assertEqual(sorted(changes), ["property:work:%s" % n for n in ("autostart", "memory", "vfb")])
        self.converges("domain.properties", "work", set={"memory": "512"}, reset=["vfb", "autostart"])
        self.assertEqual(self.files()[0], before, "byte by byte as it was")

    def test_a_domain_that_is_not_there(self):
        made = self.run_state("domain.properties", "nosuch", set={"memory": "1"})
        self.assertEqual((made["result"], made["changes"]), (False, {}))
        self.assertIn("no such domain: nosuch", made["comment"])
        dry = self.run_state("domain.properties", "nosuch", test=True, set={"memory": "1"})
        self.assertEqual((dry["result"], list(dry["changes"])), (None, ["property:nosuch:memory"]))

    def test_devices(self):
        place = "%s:%s" % (port(CARD), xen_host.identity(CARD))
        key = "device:work:" + place
        changes = self.converges(
            "domain.devices", "work", assign={place: {"permissive": True, "seize": "no"}}
        )
        new = {"mode": "required", "options": {"permissive": "True"}}
        self.assertEqual(changes, {key: {"old": None, "new": new}})
        self.assertEqual(
            self.converges("domain.devices", "work", unassign=[place]),
            {key: {"old": new, "new": None}},
        )

    def test_another_device_in_that_place_is_refused(self):
        before = self.files()
        made = self.run_state("domain.devices", "work", assign={port(CARD) + ":0xffff:0xffff::p030000": {}})
        self.assertEqual((made["result"], made["changes"]), (False, {}))
        self.assertIn("dom0 has", made["comment"])
        self.assertEqual(self.files(), before)

    def test_assignable(self):
        changes = self.converges("pciback.assignable", "x", add=[port(SOUND)])
        self.assertEqual(changes, {"assignable:" + port(SOUND): {"old": None, "new": True}})
        self.assertEqual(xen_host.driver(SOUND), "pciback")
        self.converges("pciback.assignable", "x", remove=[port(SOUND)])
        self.assertNotEqual(xen_host.driver(SOUND), "pciback")

    def test_what_xl_could_not_make_assignable_is_back_with_its_driver_whatever_xl_lists(self):
        before = xen_host.driver(SOUND)
        self.state(iommu=False)
        made = self.run_state("pciback.assignable", "x", add=[port(SOUND)])
        self.assertEqual((made["result"], made["changes"]), (False, {}))
        self.assertIn("failed to quarantine", made["comment"])
        self.assertEqual(xen_host.driver(SOUND), before)

    def test_negative_control_xl_alone_leaves_it_bound(self):
        self.state(iommu=False)
        status, _, _ = xen_host.xl("pci-assignable-add", SOUND)
        self.assertEqual((status, xen_host.driver(SOUND)), (1, "pciback"))

    def test_a_display_is_never_taken_from_a_dom0_that_runs(self):
        before = self.files()
        made = self.run_state("pciback.assignable", "x", add=[port(CARD)])
        self.assertFalse(made["result"])
        self.assertIn("is a display", made["comment"])
        self.assertEqual(self.files(), before)

    def test_what_the_kernel_line_hides_stays(self):
        self.put("/proc/cmdline", "xen-pciback.hide=(%s)\n" % SOUND)
        self.bind(SOUND, "pciback")
        self.assertEqual(self.converges("pciback.assignable", "x", remove=[port(SOUND)]), {})
        self.assertEqual(xen_host.driver(SOUND), "pciback")
