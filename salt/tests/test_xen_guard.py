"""
Changes of a plain Xen host, tried, undone and taken away: the same agent and guard, in virtual time,
with Debian's GRUB and xendomains. Each claim of safety has its negative control.
"""

import importlib.util
import json
import os
import re
import unittest.mock

from fake import SALT, Rebooted
from fake_xen import AUDIO, AUDIO_ID, CARD, CARD_ID, XenCase

import apply as apply_module
import boot
import common
import domains
import grub
import guard
import journal
import ledger
import machine
import menu
import steps
import trial as trials
import units
import xen_domains
import xen_host

TOKENS = ["xen-pciback.hide=(0000:02:00.0)", "guidomain.gpu=gui"]
PLACE, SOUND = "0000_02_00.0", "0000_00_07.0"
DEVICE = "device:gui:%s:%s" % (PLACE, CARD_ID)
GREETER = "/etc/systemd/system/lightdm.service.d/50-guidomain-gui.conf"
STAGED = ["qube:gui", "property:gui:memory", DEVICE, "file:" + GREETER]
KEPT = ["bootarg:" + token for token in TOKENS] + ["property:gui:autostart"]
MADE = [
    ["create", "gui"],
    ["set_property", "gui", "memory", "192"],
    ["assign_pci", "gui", PLACE, CARD_ID, {"permissive": "True"}],
    ["file", GREETER, "[Unit]\nConditionKernelCommandLine=|!guidomain.gpu=gui\n"],
]
LASTS = [["tokens", TOKENS, []], ["set_property", "gui", "autostart", "True"]]
WATCH = {
    "qube": "gui",
    "ports": [PLACE],
    "ids": [CARD_ID],
    "seconds": 120,
    "checks": [{"kind": "start", "id": "up", "qube": "gui", "timeout": 60}],
}


class XenTrials(XenCase):
    def setUp(self):
        super().setUp()
        patches = [
            unittest.mock.patch.object(guard, "say", lambda *_: None),
            unittest.mock.patch.object(apply_module, "_salt", self.salt),
        ]
        for patch in patches:
            patch.start()
            self.addCleanup(patch.stop)
        self.put("/bin/salt-call", "#!/bin/sh\nexit 1\n", 0o755)
        self.machine.watchdog = lambda: None

    def salt(self, sls, _wait, emit, *_):
        text = self.text("/srv/user_salt/" + sls.replace(".", "/") + ".sls")
        for kind, *rest in json.loads(text):
            if kind == "file":
                os.makedirs(os.path.dirname(self.root + rest[0]), exist_ok=True)
                self.put(*rest)
            elif kind == "tokens":
                for token in rest[0] + rest[1]:
                    menu.write_token(token, token in rest[0])
            elif kind == "gone":
                common.remove_file(rest[0])
            elif kind == "fail":
                raise common.Failure("salt-failed", "Salt failed: " + rest[0])
            else:
                getattr(xen_domains, kind)(*rest)
        return []

    def gpu(self, **more):
        keep = {"guidomain/keep.sls": json.dumps(LASTS)}
        return self.args(
            MADE,
            STAGED,
            trial={"seconds": 300, "boot": {"add": TOKENS, "remove": []}, "watch": WATCH},
            keep={"formula": keep, "sls": "guidomain.keep", "touch": KEPT},
            **more
        )

    def begin_boot(self, args):
        trial_id = self.begin(args)["id"]
        apply_module.reboot({"id": trial_id, "holder": "alice"}, self.emit, self.stop())
        return trial_id

    def look(self):
        """The guard's first look of a boot, and only then xendomains."""
        if self.machine.guards:
            guard.Guard().boot()
            if self.machine.running is None and os.path.isdir(self.root + common.GUARD):
                self.machine.running = units.live()
        self.xendomains()

    def whole(self, args):
        trial_id = self.begin_boot(args)
        self.assertEqual(self.power_cycle(), "guidomain-trial")
        self.look()
        more = {"id": trial_id, "holder": "alice", "start": "gui", "verify": []}
        apply_module.resume(more, self.emit, self.stop())
        return self.confirm(trial_id)

    def seen(self):
        """The host but for what any boot changes."""
        passing = ("/proc", "/run", "/sys", "/var/lib/xen")
        files = {n: v for n, v in self.dump().items() if not n.startswith(passing)}
        files.pop(common.OUTCOME, None)
        files.pop(common.STATE, None)
        files["grubenv"] = {k: v for k, v in menu.environment().items() if k != "guidomain_try"}
        files.pop("/boot/grub/grubenv")
        return files

    def same(self, before):
        after = self.seen()
        names = {n for n in set(before) | set(after) if before.get(n) != after.get(n)}
        self.assertEqual(names, set(), {n: (before.get(n), after.get(n)) for n in sorted(names)[:3]})


class Live(XenTrials):
    def live(self, *more, **given):
        actions = [
            ["set_property", "work", "memory", "600"],
            ["assign_pci", "work", SOUND, AUDIO_ID, {"seize": "True"}],
            ["add_assignable", SOUND],
        ] + list(more)
        keys = [
            "property:work:memory",
            "device:work:%s:%s" % (SOUND, AUDIO_ID),
            "assignable:" + SOUND,
        ]
        return self.args(actions, keys, **given)

    def test_it_counts_and_is_taken_back_to_the_last_byte(self):
        before = self.dump()
        self.apply(self.live())
        self.assertEqual(xen_host.driver(AUDIO), "pciback")
        self.assertEqual(len(ledger.load()["entries"]), 3)
        # No file of the host's own Salt is touched; ours says all that Salt needs.
        self.assertFalse(os.path.exists(self.root + "/etc/salt"))
        self.assertIn("file_roots:\n  user: [/srv/user_salt]", self.text(common.MINION))
        back = [
            ["remove_assignable", SOUND],
            ["unassign_pci", "work", SOUND, AUDIO_ID],
            ["set_property", "work", "memory", "512"],
        ]
        keys = self.live()["touch"]
        self.apply(self.args(back, keys, release=keys))
        self.assertEqual(self.dump(), before)

    def test_failures_put_everything_back(self):
        before = self.dump()
        failure = self.fails("salt-failed", self.live(["fail", "no"]))
        self.assertEqual(sorted(failure.more["undone"]), sorted(self.live()["touch"]))
        self.assertEqual(self.dump(), before)
        check = {"kind": "start", "id": "up", "qube": "work", "timeout": 60}
        self.state(refuse="xc_assign_device failed")
        failure = self.fails("verify-failed", self.live(verify=[check]))
        self.assertIn("xc_assign_device failed", failure.message)
        self.assertEqual((self.dump(), self.state()["domains"]), (before, {}))
        with unittest.mock.patch.object(journal, "put_back") as put_back:  # negative control
            put_back.return_value = {"changed": [], "undone": [], "left": {}}
            self.fails("verify-failed", self.live(verify=[check]))
        self.assertNotEqual(self.dump(), before)

    def test_what_salt_is_called_with(self):
        self.assertEqual(
            domains.salt_call("guidomain.x")[:4],
            ["salt-call", "--local", "-c", self.root + "/var/lib/guidomain/salt/etc"],
        )
        os.unlink(self.root + "/bin/salt-call")
        before = self.dump()
        with unittest.mock.patch("shutil.which", lambda name: None):
            self.assertIn("salt-call is not in dom0", self.fails("salt-missing", self.live()).message)
        self.assertEqual(self.dump(), before)

    def test_a_started_domain_is_stopped_before_its_device_goes_back(self):
        check = {"kind": "start", "id": "up", "qube": "work", "timeout": 60}
        bad = {"kind": "host", "id": "bad", "argv": ["false"], "timeout": 5}
        before = self.dump()
        failure = self.fails("verify-failed", self.live(verify=[check, bad]))
        self.assertEqual((failure.more["left"], self.dump()), ({}, before))
        self.assertEqual((self.state()["domains"], xen_host.driver(AUDIO)), ({}, "snd_hda_intel"))

    def test_neither_qubes_nor_xen(self):
        os.unlink(self.root + "/proc/xen/capabilities")
        os.unlink(self.root + "/sys/hypervisor/type")
        self.assertIn("neither of Qubes", self.fails("not-qubes", self.live()).message)
        self.put("/proc/xen/capabilities", "")  # a domain of somebody else's
        self.put("/sys/hypervisor/type", "xen\n")
        self.assertEqual(domains.platform(), "none")
        self.put("/proc/xen/capabilities", "control_d\n")
        self.assertEqual(domains.platform(), "xen")
        os.unlink(self.root + "/proc/xen/capabilities")
        self.assertEqual(domains.platform(), "xen")

    def test_killed_at_each_step(self):
        """The next one puts all of it back."""
        before = self.seen()
        for step in ("apply.journal", "apply.staged", "apply.salt", "apply.checked", "apply.verified"):
            pid = os.fork()
            if pid == 0:
                steps.hook = lambda name, step=step: name == step and os._exit(9)
                try:
                    self.begin(self.live())
                finally:
                    os._exit(1)
            self.assertEqual(os.WEXITSTATUS(os.waitpid(pid, 0)[1]), 9)
            self.put("/etc/xen/work.cfg.guidomain-new", "half")
            self.machine.sleep(1000)
            self.alone()
            self.same(before)
            self.assertEqual(xen_host.driver(AUDIO), "snd_hda_intel")


class Gpu(XenTrials):
    def test_tried_confirmed_there_in_each_boot_and_gone_again(self):
        before = self.seen()
        result = self.whole(self.gpu())
        self.assertEqual(self.screen(), "gui")
        self.assertEqual(result["snapshot"]["watch"]["tokens"], sorted(TOKENS))
        for _ in range(2):
            self.assertEqual(self.power_cycle(), "xen-gnulinux-simple-1111-2222")
            self.alone()
            self.assertEqual(self.screen(), "gui")
            self.assertNotIn("guidomain_try", menu.environment())
        self.assertIn("guidomain-rescue", self.text("/boot/grub/custom.cfg"))
        path = self.text(units.FOLDER + units.PATH)
        self.assertIn("PathChanged=/boot/grub/grub.cfg\nUnit=guidomain-guard.service", path)
        # Out of it, with all that was made.
        back = [
            ["unassign_pci", "gui", PLACE, CARD_ID],
            ["reset_property", "gui", "memory"],
            ["gone", GREETER],
        ]
        keep = [["tokens", [], TOKENS], ["reset_property", "gui", "autostart"]]
        after = [["remove", "gui"]]
        args = self.args(
            back,
            STAGED[1:],
            release=STAGED[1:] + KEPT,
            shutdown=["gui"],
            trial={"seconds": 300, "boot": {"add": [], "remove": TOKENS}, "watch": None},
            keep={"formula": {"guidomain/keep.sls": json.dumps(keep)}, "sls": "guidomain.keep", "touch": KEPT},
            after={"formula": {"guidomain/after.sls": json.dumps(after)}, "sls": "guidomain.after", "keys": ["qube:gui"]},
        )
        trial_id = self.begin_boot(args)
        self.power_cycle()
        self.look()
        apply_module.resume({"id": trial_id, "holder": "a", "start": None, "verify": []}, self.emit, self.stop())
        self.confirm(trial_id)
        self.power_cycle()
        self.alone()
        self.assertEqual(self.screen(), "dom0")
        self.same(before)

    def test_what_does_not_boot_or_is_not_confirmed_is_undone(self):
        before = self.seen()
        self.begin_boot(self.gpu())
        menu.unchoose()  # GRUB went to the normal entry
        self.power_cycle()
        self.alone()
        self.same(before)
        self.assertEqual(self.screen(), "dom0")
        self.begin_boot(self.gpu())
        self.power_cycle()
        self.look()
        self.machine.sleep(1000)
        self.alone()
        self.same(before)
        self.assertEqual(self.screen(), "dom0")

    def test_without_the_guard_the_trial_stays(self):
        """Negative control."""
        before = self.seen()
        self.begin_boot(self.gpu())
        self.machine.guards = False
        self.power_cycle()
        self.alone()
        self.assertNotEqual(self.seen(), before)

    def test_a_mode_that_does_not_come_up_is_put_back(self):
        self.whole(self.gpu())
        self.state(refuse="it has a bad day")
        self.power_cycle()
        self.alone()
        self.assertEqual(self.screen(), "dom0")
        outcome = common.read_json(common.OUTCOME)
        self.assertEqual(outcome["what"], "rescued")
        self.assertNotIn("guidomain", self.text("/boot/grub/grub.cfg"))
        # Made for the mode, it stays, without the card and without its link.
        self.assertEqual(xen_domains.pci_assigned("gui"), [])
        self.assertEqual(xen_domains.get_property("gui", "autostart")["value"], "False")

    def test_a_boot_of_plain_linux_has_dom0s_screen_and_is_not_left(self):
        """Its kernel line has our words too, as Debian's Linux alone is made from the same ones."""
        self.whole(self.gpu())
        self.power_cycle(xen=False)
        self.assertIn("guidomain.gpu=gui", self.text("/proc/cmdline"))
        with unittest.mock.patch.object(self.machine, "reboot", side_effect=Rebooted) as reboot:
            self.alone()
            self.assertFalse(reboot.called)
        self.assertEqual(self.screen(), "dom0")
        self.assertEqual(common.read_json(common.OUTCOME)["what"], "rescued")
        self.power_cycle()
        self.alone()
        self.assertEqual(self.screen(), "dom0")

    def test_what_xendomains_saved_is_not_what_a_changed_domain_goes_on_from(self):
        """A clean reboot of Debian saves domains, and the next boot restores them as they were."""
        for forgets in (False, True):
            self.put("/etc/default/xendomains", 'XENDOMAINS_SAVE=/var/lib/xen/save\n')
            xen_domains.start("work")
            args = self.gpu()
            args["touch"].append("property:work:memory")
            actions = json.loads(args["formula"]["guidomain/sys-gui.sls"])
            actions.append(["set_property", "work", "memory", "600"])
            args["formula"]["guidomain/sys-gui.sls"] = json.dumps(actions)
            self.begin_boot(args)
            self.put("/var/lib/xen-memory", "")
            self.shut_down()
            self.put("/var/lib/xen/save/work", "name = 'work'\nmemory = 512\n")
            self.put("/var/lib/xen/save/other", "name = 'other'\n")
            self.power_cycle()
            with unittest.mock.patch.object(xen_domains, "forget_saved", xen_domains.forget_saved if forgets else lambda _: None):
                self.look()
            running = self.state()["domains"]
            # Negative control: without the guard it goes on with the memory of before.
            self.assertEqual("work" in running, not forgets)
            self.assertIn("other", running)
            self.machine.sleep(1000)
            self.alone()
            os.unlink(self.root + "/var/lib/xen-memory")

    def test_another_device_in_the_same_place_is_not_given(self):
        """After a card was put in, buses have other numbers; xl would seize whatever sits there."""
        for looks in (False, True):
            xen_domains.assign_pci("work", SOUND, AUDIO_ID, {"seize": "True"})
            xen_domains.set_property("work", "autostart", "True")
            for name, text in (("device", "0x9999"), ("class", "0x010802")):
                self.put("/sys/bus/pci/devices/%s/%s" % (AUDIO, name), text + "\n")
            self.power_cycle()
            if looks:
                guard.Guard().boot()
            self.xendomains()
            # Negative control: without the guard it has been taken from dom0.
            self.assertEqual(xen_host.driver(AUDIO) == "pciback", not looks)
            self.assertEqual(bool(xen_domains.pci_assigned("work")), not looks)
            for name, text in (("device", "0x293e"), ("class", "0x040300")):
                self.put("/sys/bus/pci/devices/%s/%s" % (AUDIO, name), text + "\n")

    def test_killed_at_each_step_of_the_way_there(self):
        before = self.seen()
        for step in ("apply.salt", "apply.waits", "reboot.menu", "reboot.chosen"):
            pid = os.fork()
            if pid == 0:
                steps.hook = lambda name, step=step: name == step and os._exit(9)
                try:
                    self.begin_boot(self.gpu())
                finally:
                    os._exit(1)
            self.assertEqual(os.WEXITSTATUS(os.waitpid(pid, 0)[1]), 9, step)
            self.power_cycle()
            self.alone()
            self.same(before)
            self.assertEqual(self.screen(), "dom0")


class Units(XenTrials):
    def test_the_guards_unit(self):
        text = units.text(units.SERVICE)
        self.assertIn("Before=xendomains.service", text)
        self.assertNotIn("qubesd", text)
        # What a domain runs on must not end with the guard that started it.
        self.assertIn("KillMode=process\n", text)
        self.put("/etc/qubes-release", "Qubes release 4.3.0 (R4.3)\n")
        text = units.text(units.SERVICE)
        self.assertIn("After=qubesd.service\nWants=qubesd.service\n", text)
        self.assertNotIn("KillMode", text)

    def test_the_guard_has_all_that_it_imports(self):
        import subprocess
        import sys

        from fake import sources

        folder = self.root + "/guard"
        os.mkdir(folder)
        found = sources(self)
        for name in units.SOURCES:
            with open("%s/%s.py" % (folder, name), "w") as file:
                file.write(found[name])
        program = "import sys; sys.path.insert(0, %r); import guard; import domains; domains.qubes" % folder
        subprocess.check_call([sys.executable, "-IB", "-c", program])
        os.unlink(folder + "/xl_config.py")  # negative control
        done = subprocess.run([sys.executable, "-IB", "-c", program], capture_output=True, check=False)
        self.assertNotEqual(done.returncode, 0)

    def test_the_watchdog_that_debian_has_no_unit_for(self):
        here = machine.Machine()
        calls = []
        with unittest.mock.patch("subprocess.call", lambda argv, **_: calls.append(argv) or int("is-active" in argv)):
            self.assertIsNone(here.watchdog())
            self.put("/usr/sbin/xenwatchdogd", "")
            self.assertTrue(here.watchdog())
            self.assertEqual(calls[-1][0], "systemd-run")
            # By any other signal it leaves the machine to be reset.
            self.assertIn("--property=KillSignal=SIGUSR1", calls[-1])
            self.assertEqual(calls[-1][-3:], ("/usr/sbin/xenwatchdogd", "180", "15"))
            here.unwatch()
            self.assertEqual(calls[-1], ("systemctl", "stop", "guidomain-watchdog.service"))
            self.put("/etc/systemd/system/xenwatchdogd.service", "")
            self.assertTrue(here.watchdog())
            self.assertEqual(calls[-1], ("systemctl", "start", "xenwatchdogd.service"))


class Grub(XenTrials):
    def args_state(self, mkconfig):
        path = os.path.join(SALT, "_states", "boot.py")
        spec = importlib.util.spec_from_file_location("boot_states", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.ROOT, module.__opts__ = self.root, {"test": False}
        module.__utils__ = {"grub." + n: f for n, f in vars(grub).items() if callable(f)}
        module.__salt__ = {"cmd.run_all": mkconfig}
        return module.args

    def mkconfig(self, argv, python_shell):
        """grub-mkconfig of Debian: GRUB_CMDLINE_LINUX on all its kernel lines, with Xen and without."""
        beside = "/boot/grub/grub.cfg.guidomain-new"
        self.assertEqual(argv, ["grub-mkconfig", "-o", self.root + beside])
        words = " ".join(grub.default_words(self.text("/etc/default/grub")))
        lines = [
            re.sub("(root=UUID=1111-2222 ro )(single )?.*?( quiet)?$", r"\1\2%s\3" % words, line)
            for line in self.text("/boot/grub/grub.cfg").split("\n")
        ]
        self.put(beside, "\n".join(lines), 0o600)
        return {"retcode": 0, "stderr": "", "stdout": ""}

    def test_the_state_and_the_guard_write_the_same(self):
        before = self.dump()
        made = self.args_state(self.mkconfig)("x", add=TOKENS)
        self.assertEqual((made["result"], len(made["changes"])), (True, 2), made)
        by_state = grub.entries(self.text("/boot/grub/grub.cfg"))
        text = self.text("/boot/grub/grub.cfg")
        tokens = {e["id"]: grub.entry_tokens(text, e) for e in by_state if e["kernel"] is not None}
        for name, words in tokens.items():
            self.assertEqual(TOKENS[0] in words, name != "osprober-x", name)
        self.assertIn("(0000:02:00.0) guidomain.gpu=gui quiet\n", text)
        for token in TOKENS:
            self.assertIs(menu.read_token(token), True)
            menu.write_token(token, False)
        self.assertEqual(self.dump(), before)
        for token in TOKENS:
            menu.write_token(token, True)
        text = self.text("/boot/grub/grub.cfg")
        for entry in grub.entries(text):
            if entry["kernel"] is not None:
                words = grub.entry_tokens(text, entry)
                self.assertEqual(sorted(words), sorted(tokens[entry["id"]]))
        gone = self.args_state(self.mkconfig)("x", remove=TOKENS)
        self.assertTrue(gone["result"], gone)
        self.assertEqual(self.text("/etc/default/grub"), before["/etc/default/grub"][1].decode())

    def test_words_that_do_not_reach_xen_change_nothing(self):
        """GRUB_CMDLINE_LINUX_XEN_REPLACE, which 20_linux_xen takes instead."""
        before = self.dump()

        def mkconfig(argv, python_shell):
            self.put("/boot/grub/grub.cfg.guidomain-new", self.text("/boot/grub/grub.cfg"))
            return {"retcode": 0, "stderr": "", "stdout": ""}

        made = self.args_state(mkconfig)("x", add=TOKENS)
        self.assertFalse(made["result"])
        self.assertIn("written, but it is only in /etc/default/grub", made["comment"])
        self.assertEqual(self.dump(), before)

    def test_which_entry_boots_by_default(self):
        config = self.text("/boot/grub/grub.cfg")
        title = "Debian GNU/Linux, with Xen hypervisor"
        advanced = "gnulinux-advanced-1111-2222"
        deep = "xen-gnulinux-6.1.0-37-amd64-advanced-1111-2222"
        for default, wanted in (
            (title, "xen-gnulinux-simple-1111-2222"),
            ("xen-gnulinux-simple-1111-2222", "xen-gnulinux-simple-1111-2222"),
            ("0", "gnulinux-simple-1111-2222"),
            ("nosuch", "gnulinux-simple-1111-2222"),
            ("2", "xen-gnulinux-simple-1111-2222"),
            ("3>0>1", "xen-gnulinux-6.1.0-37-amd64-recovery-1111-2222"),
            ("Advanced options for Debian GNU/Linux (with Xen hypervisor)>0>" + deep, deep),
        ):
            for text, env in (
                (config.replace(title + '"\nfi', default + '"\nfi', 1), {}),
                (config.replace(title + '"\nfi', '${saved_entry}"\nfi', 1), {"saved_entry": default}),
            ):
                entry = grub.default_entry(text, env)
                self.assertEqual(entry["id"], wanted, default)
                self.assertEqual(grub.is_xen(text, entry), wanted.startswith("xen"))
        self.assertIn(advanced, [entry["id"] for entry in grub.entries(config)])


class Boot(XenTrials):
    PLAIN = "ext4 /dev/sda1"

    def facts(self, *functions):
        for name in ("sda", "sda/sda1"):
            os.makedirs(self.root + "/sys/devices/x/" + name, exist_ok=True)
        self.put("/sys/devices/x/sda/sda1/partition", "1\n")
        os.makedirs(self.root + "/sys/class/block", exist_ok=True)
        for name in ("sda", "sda/sda1"):
            link = self.root + "/sys/class/block/" + os.path.basename(name)
            if not os.path.islink(link):
                os.symlink(self.root + "/sys/devices/x/" + name, link)
        return boot.collect(self.PLAIN, list(functions))

    def test_debians_default_can_be_tried_once(self):
        found = self.facts()
        self.assertEqual((found["oneShot"], found["args"]), (True, ["console=hvc0"]), found["oneShotWhy"])
        self.assertEqual(found["oneShotWhy"], "/boot/grub is ext4 on a plain partition")

    def test_what_our_words_would_not_reach(self):
        config = self.text("/boot/grub/grub.cfg")
        self.put("/boot/grub/grub.cfg", config.replace('"Debian GNU/Linux, with Xen hypervisor"', '"0"'))
        self.assertIn("one without Xen", self.facts()["oneShotWhy"])
        self.put("/boot/grub/grub.cfg", config)
        os.mkdir(self.root + "/etc/default/grub.d")
        for text, why in (
            ('GRUB_CMDLINE_LINUX_XEN_REPLACE="console=hvc0"\n', "GRUB_CMDLINE_LINUX_XEN_REPLACE"),
            ('GRUB_CMDLINE_LINUX="a"\n', "sets GRUB_CMDLINE_LINUX anew"),
            ('#GRUB_CMDLINE_LINUX_XEN_REPLACE="$GRUB_CMDLINE_LINUX"\n', None),
            ('GRUB_CMDLINE_LINUX_XEN_REPLACE=""\n', None),
            ('GRUB_CMDLINE_LINUX_XEN_REPLACE_DEFAULT="x"\n', None),
            ('GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX a"\n', None),
        ):
            self.put("/etc/default/grub.d/xen.cfg", text)
            found = self.facts()
            self.assertEqual(found["oneShot"], why is None, text)
            self.assertIn(why or "plain partition", found["oneShotWhy"])

    def test_whether_pciback_is_first(self):
        def one(module):
            return {"class": "030000", "module": module, "driver": None}

        def hides(*modules):
            found = self.facts(*map(one, modules))
            return found["hidePaths"], found["hideWhy"]

        self.assertEqual(hides("i915")[0], None)
        self.assertIn("before i915", hides("i915")[1])
        # As the kernel shows them, the last one first.
        self.put("/proc/modules", "i915 1 0 - Live 0\nxen_pciback 1 0 - Live 0\nvirtio_pci 1 0 - Live 0\n")
        self.assertEqual(hides("i915"), (True, "xen-pciback is loaded before i915"))
        self.assertEqual(hides("virtio-pci"), (False, "virtio_pci was loaded before xen-pciback in this boot"))
        self.put("/proc/modules", "")
        os.makedirs(self.root + "/etc/modprobe.d")
        self.put("/etc/modprobe.d/x.conf", "softdep virtio_pci pre: xen-pciback post: i915\n")
        self.assertEqual((hides("virtio_pci")[0], hides("i915")[0]), (True, None))
        os.makedirs(self.root + "/etc/initramfs-tools")
        self.put("/etc/initramfs-tools/modules", "# all\nnouveau\nxen-pciback\n")
        self.assertEqual((hides("i915")[0], hides("nouveau")[0]), (True, None))
        self.assertEqual(hides()[0], True)
