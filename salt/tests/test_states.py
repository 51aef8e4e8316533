"""Our Salt states: convergent, dry under test=True, read back, and they name what failed."""

import importlib.util
import os
import random

from fake import DEFAULTS, SALT, HostCase, qube

import qubes_admin as admin


class States(HostCase):
    def setUp(self):
        super().setUp()
        spec = importlib.util.spec_from_file_location(
            "qube_states", os.path.join(SALT, "_states", "qube.py")
        )
        self.state = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.state)
        self.state.__utils__ = {
            **{"qubes_admin." + n: f for n, f in vars(admin).items() if callable(f)},
        }
        self.state.__opts__ = {"test": False}

    def converges(self, function, name, **kwargs):
        """Dry run, real run, second run; the changes announced are the changes made. Returns
        them."""
        before = self.qubes.dump()
        self.state.__opts__["test"] = True
        announced = getattr(self.state, function)(name, **kwargs)
        self.assertEqual(self.qubes.dump(), before, "test=True wrote")
        self.state.__opts__["test"] = False
        made = getattr(self.state, function)(name, **kwargs)
        self.assertEqual(announced["changes"], made["changes"])
        self.assertTrue(made["result"], made["comment"])
        self.assertEqual(announced["result"], None if made["changes"] else True)
        after = self.qubes.dump()
        again = getattr(self.state, function)(name, **kwargs)
        self.assertEqual((again["result"], again["changes"]), (True, {}))
        self.assertEqual(self.qubes.dump(), after)
        return made["changes"]

    def test_present(self):
        args = {"class": "AppVM", "template": "fedora", "label": "black", "__id__": "x"}
        new = {"class": "AppVM", "template": "fedora", "label": "black"}
        self.assertEqual(
            self.converges("present", "sys-gui", **args),
            {"qube:sys-gui": {"old": None, "new": new}},
        )
        args["label"] = "red"
        self.assertEqual(
            self.converges("present", "sys-gui", **args),
            {"qube:sys-gui": {"old": new, "new": dict(new, label="red")}},
        )

    def test_present_with_another_class(self):
        before = self.qubes.dump()
        made = self.state.present(
            "fedora", **{"class": "AppVM", "template": "fedora", "label": "black"}
        )
        self.assertEqual((made["result"], made["changes"]), (False, {}))
        self.assertIn("exists as TemplateVM, AppVM is wanted", made["comment"])
        self.assertEqual(self.qubes.dump(), before)

    def test_present_with_a_missing_template(self):
        made = self.state.present("x", template="nosuch", label="red")
        self.assertEqual((made["result"], made["changes"]), (False, {}))
        self.assertIn("No such domain: 'nosuch'", made["comment"])

    def test_properties(self):
        changes = self.converges(
            "properties",
            "work",
            set={"maxmem": 4000, "autostart": True, "netvm": None},
            reset=["memory", "vcpus"],
        )
        self.assertEqual(
            changes,
            {
                "property:work:maxmem": {
                    "old": {"default": True, "value": "4000"},
                    "new": {"default": False, "value": "4000"},
                },
                "property:work:autostart": {
                    "old": {"default": True, "value": "False"},
                    "new": {"default": False, "value": "True"},
                },
                "property:work:netvm": {
                    "old": {"default": True, "value": ""},
                    "new": {"default": False, "value": ""},
                },
                "property:work:memory": {
                    "old": {"default": False, "value": "500"},
                    "new": {"default": True, "value": "400"},
                },
            },
        )

    def test_every_failing_property_is_named_and_the_rest_is_done(self):
        made = self.state.properties(
            "work", set={"maxmem": "abc", "vcpus": "3", "nosuch": "1", "xid": "7"}
        )
        self.assertFalse(made["result"])
        self.assertIn("maxmem: Failed to parse property value as int", made["comment"])
        self.assertIn("nosuch: no such property", made["comment"])
        self.assertIn("xid: property 'xid' on AppVM instance cannot be set", made["comment"])
        self.assertEqual(list(made["changes"]), ["property:work:vcpus"])

    def test_what_reads_back_otherwise_is_an_error(self):
        self.qubes.checked = lambda name, value: "17"
        made = self.state.properties("work", set={"maxmem": "4000"})
        self.assertFalse(made["result"])
        self.assertIn("maxmem: written, but it reads back as", made["comment"])

    def test_missing_qube(self):
        for function, kwargs in (
            ("properties", {"set": {"maxmem": "1"}, "reset": ["memory"]}),
            ("features", {"set": {"a": "1"}}),
            ("services", {"on": ["a"]}),
            ("tags", {"add": ["a"]}),
            ("devices", {"assign": {"00_02.0:*": {}}}),
        ):
            made = getattr(self.state, function)("nosuch", **kwargs)
            self.assertEqual((made["result"], made["changes"]), (False, {}))
            self.assertEqual(made["comment"], "no such qube: nosuch")

    def test_dry_for_a_qube_to_come(self):
        self.state.__opts__["test"] = True
        made = self.state.properties("nosuch", set={"maxmem": "1"})
        self.assertEqual(
            made["changes"],
            {"property:nosuch:maxmem": {"old": None, "new": {"default": False, "value": "1"}}},
        )
        self.assertIsNone(made["result"])
        self.assertIn("nosuch does not exist yet", made["comment"])
        made = self.state.services("nosuch", on=["guivm"], unset=["x"])
        self.assertEqual(
            made["changes"], {"feature:nosuch:service.guivm": {"old": None, "new": "1"}}
        )
        self.assertIsNone(self.state.devices("nosuch", assign={"00_02.0:*": {}})["result"])

    def test_features_services_tags(self):
        self.qubes.qubes["work"]["features"] = {"x": "", "service.b": "1"}
        self.assertEqual(
            self.converges("features", "work", set={"y": True}, unset=["x", "z"]),
            {
                "feature:work:y": {"old": None, "new": "True"},
                "feature:work:x": {"old": "", "new": None},
            },
        )
        self.assertEqual(
            self.converges("services", "work", on=["a"], off=["b"]),
            {
                "feature:work:service.a": {"old": None, "new": "1"},
                "feature:work:service.b": {"old": "1", "new": ""},
            },
        )
        self.assertEqual(
            self.converges("tags", "work", add=["a"], remove=["created-by-dom0", "none"]),
            {
                "tag:work:a": {"old": None, "new": True},
                "tag:work:created-by-dom0": {"old": True, "new": None},
            },
        )

    def test_devices(self):
        device = "00_02.0:0x8086:0x9b41::p030000"
        options = {"permissive": True, "no-strict-reset": False}
        changes = self.converges("devices", "work", assign={device: options})
        self.assertEqual(
            changes["device:work:" + device]["new"],
            {"mode": "required", "options": {"permissive": "True"}},
        )
        self.converges("devices", "work", assign={device: None})
        self.assertNotIn("_permissive", self.qubes.qubes["work"]["pci"][0][1])
        self.converges("devices", "work", unassign=[device, "00_14.3:*"])
        self.assertEqual(self.qubes.qubes["work"]["pci"], [])

    def test_devices_wherever_they_are(self):
        device = "0x8086:0x9b41::p030000"
        self.state.devices("work", assign={"00_02.0:" + device: {}})
        changes = self.converges(
            "devices", "work", assign={"*:" + device: {}}, unassign=["00_02.0:" + device]
        )
        self.assertEqual(
            sorted(changes), ["device:work:*:" + device, "device:work:00_02.0:" + device]
        )
        port, options = "00_03.0", {"permissive": "True"}
        self.qubes.available += [(port, device, "0000:00:03.0")]
        made = self.state.devices("work", assign={"*:" + device: options, "*:0x1:0x2::p1": {}})
        self.assertEqual((made["result"], made["changes"]), (False, {}))
        self.assertIn(device + ": dom0 has 2 such PCI devices", made["comment"])
        self.assertIn("0x1:0x2::p1: dom0 has 0 such PCI devices", made["comment"])
        self.qubes.available = []
        self.converges("devices", "work", unassign=["*:" + device])
        self.assertEqual(self.qubes.qubes["work"]["pci"], [])

    def test_devices_of_others_are_replaced(self):
        """Salt's own state and people's tools leave entries for any device, other modes, and
        options written "False", which count as on."""
        device = "00_02.0:0x8086:0x9b41::p030000"
        admin.assign_pci("work", "00_02.0", "*", {"permissive": "true"})
        admin.assign_pci("work", *device.split(":", 1), {"no-strict-reset": "False"}, "auto-attach")
        changes = self.converges("devices", "work", assign={device: {}}, unassign=["00_02.0:*"])
        self.assertEqual(
            changes,
            {
                "device:work:00_02.0:*": {
                    "old": {"mode": "required", "options": {"permissive": "True"}},
                    "new": None,
                },
                "device:work:" + device: {
                    "old": {"mode": "auto-attach", "options": {"no-strict-reset": "True"}},
                    "new": {"mode": "required", "options": {}},
                },
            },
        )
        self.assertEqual(len(self.qubes.qubes["work"]["pci"]), 1)

    def test_a_device_that_is_gone_stays_assigned(self):
        device = "00_02.0:0x8086:0x9b41::p030000"
        self.state.devices("work", assign={device: {}})
        self.qubes.available = []
        for test in (True, False):
            self.state.__opts__["test"] = test
            made = self.state.devices("work", unassign=[device])
            self.assertEqual((made["result"], made["changes"]), (True, {}))
            self.assertIn("stays assigned", made["comment"])
        self.assertEqual(len(self.qubes.qubes["work"]["pci"]), 1)

    def test_devices_that_are_not_there(self):
        made = self.state.devices("work", assign={"01_00.0:*": {}, "00_02.0:0x1:0x2::p1": {}})
        self.assertFalse(made["result"])
        self.assertIn("01_00.0: dom0 has no such PCI device", made["comment"])
        self.assertIn("not 0x1:0x2::p1", made["comment"])
        self.assertEqual(self.qubes.qubes["work"]["pci"], [])

    def test_usb(self):
        name = "net:*:0d8c:0014::u010100"
        work = self.qubes.qubes["work"]
        self.qubes.qubes["net"] = dict(qube(), state="Running")
        made = self.converges("usb", "work", assign={name: "auto-attach"})
        new = {"mode": "auto-attach", "options": {}}
        self.assertEqual(made, {"usb:work:" + name: {"old": None, "new": new}})
        self.assertEqual(self.qubes.holders, {})  # it comes when the qube starts
        self.converges("usb", "work", unassign=[name, "net:1-9:0d8c:0014::u010100"])
        work["state"] = "Running"
        self.converges("usb", "work", assign={name: "ask-to-attach"})
        self.assertEqual(self.qubes.holders, {("net", "1-2"): "work"})
        made = self.converges("usb", "work", assign={name: "auto-attach"})
        self.assertEqual(made["usb:work:" + name]["new"], new)
        self.converges("usb", "work", unassign=[name])
        self.assertEqual((work["usb"], self.qubes.holders), ({}, {}))

    def test_absent(self):
        work = self.qubes.qubes["work"]
        work["state"] = "Running"
        work["own"]["shutdown_timeout"] = "0"
        self.qubes.stubborn = {"work"}
        made = self.state.absent("work")
        self.assertEqual((made["result"], made["changes"]), (False, {}))
        self.assertEqual(made["comment"], "work did not shut down within 0 s; nothing was killed")
        self.qubes.stubborn = set()
        self.converges("absent", "work")
        self.assertNotIn("work", self.qubes.qubes)

    def test_global_properties(self):
        changes = self.converges("global_properties", "any id", set={"default_guivm": "work"})
        self.assertEqual(list(changes), ["global:default_guivm"])
        made = self.state.global_properties("x", set={"default_guivm": "nosuch"})
        self.assertIn(
            "default_guivm: Can't set default_guivm to non-existing qube nosuch", made["comment"]
        )

    def test_qubesd_down_is_a_false_state(self):
        admin.SOCKET = self.root + "/nowhere"
        made = self.state.properties("work", set={"maxmem": "1"})
        self.assertFalse(made["result"])
        self.assertIn("qubesd does not answer", made["comment"])

    def test_random_wishes_converge(self):
        dice = random.Random(4)
        names = [n for n in DEFAULTS if n not in ("xid", "netvm", "guivm", "label")]
        changed = 0
        for _ in range(150):
            chosen = dice.sample(names, dice.randint(0, 4))
            wish = {n: str(dice.randint(1, 3)) for n in chosen}
            rest = [n for n in names if n not in wish]
            changed += bool(
                self.converges("properties", "work", set=wish, reset=dice.sample(rest, 2))
            )
        self.assertGreater(changed, 50)
