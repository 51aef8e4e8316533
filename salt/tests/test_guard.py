"""
The guard, in virtual time: each of its rules, a crash at each step of each way, and what happens
without it (the negative controls: a test that cannot fail is none).
"""

import errno
import json
import os
import shutil

from fake import HostCase, Rebooted

import apply as apply_module
import common
import guard
import ledger
import lock as host_lock
import menu
import policy_lines
import qubes_admin as admin
import steps
import trial as trials
import units

ID = "0x8086:0x9b41::p030000"
DEVICE = "device:sys-gui:*:" + ID
TOKENS = ["rd.qubes.hide_pci=00_02.0", "systemd.mask=lightdm.service", "guidomain.gpu=sys-gui"]
POLICY = "/etc/qubes/policy.d/50-gui.policy"
INCLUDE = "/etc/qubes/policy.d/include/admin-global-rwx"
ADMINS = "sys-gui @adminvm allow target=dom0"
LINE = "line:%s:%s" % (INCLUDE, ADMINS)
OTHERS = "mgmt @adminvm allow target=dom0\n# no end"
STAGED = [
    "qube:sys-gui",
    "feature:sys-gui:prohibit-start",
    DEVICE,
    "global:default_guivm",
    "file:" + POLICY,
    LINE,
]
KEPT = ["bootarg:" + token for token in TOKENS] + ["property:sys-gui:autostart"]
GONE = ["qube:sys-gui", "package:new-package"]
WATCH = {
    "qube": "sys-gui",
    "ports": ["00_02.0"],
    "ids": [ID],
    "seconds": 120,
    "checks": [{"kind": "start", "id": "up", "qube": "sys-gui", "timeout": 60}],
}


def without_guard(seen):
    """What is there for the guard and Salt while anything is owned."""
    ours = ("/etc/systemd/", "/etc/salt/")
    return dict(seen, files={n: v for n, v in seen["files"].items() if not n.startswith(ours)})


def formula(name, actions):
    return {"guidomain/%s.sls" % name: json.dumps(actions)}


class Trials(HostCase):
    """`live`: a change that needs no boot. `gpu`: dom0 → mode gpu. `back`: out of it again."""

    def setUpHost(self):
        self.doCleanups()
        self.setUp()

    def setUp(self):
        super().setUp()
        guard.say = lambda *_: None
        real, apply_module._salt = apply_module._salt, self.salt
        self.addCleanup(setattr, apply_module, "_salt", real)
        self.put(INCLUDE, OTHERS, 0o664)

    def salt(self, sls, _wait, emit, *_):
        """The stand-in Salt without a process of its own, as there are hundreds of runs here."""
        emit("salt", sls)
        text = self.text("/srv/user_salt/" + sls.replace(".", "/") + ".sls")
        for kind, *rest in json.loads(text):
            if kind == "admin":
                getattr(admin, rest[0])(*rest[1:])
            elif kind == "file":
                self.put(rest[0], rest[1])
            elif kind == "line":
                self.put(rest[0], policy_lines.edit(self.text(rest[0]), *rest[1:]), 0o664)
            elif kind == "tokens":
                for token in rest[0] + rest[1]:
                    menu.write_token(token, token in rest[0])
            elif kind == "package":
                packages = dict(json.loads(self.text("/packages")), **{rest[0]: rest[1]})
                self.put("/packages", json.dumps({n: v for n, v in packages.items() if v}))
            else:
                raise common.Failure("salt-failed", "Salt failed: " + rest[0])
        return [{"id": sls, "function": "x", "result": True, "comment": "", "changes": {}}]

    def live(self, **more):
        actions = [
            ["admin", "set_property", "work", "memory", "600"],
            ["file", POLICY, "a b c d allow\n"],
            ["line", INCLUDE, [ADMINS], []],
        ]
        return self.args(actions, ["property:work:memory", "file:" + POLICY, LINE], **more)

    def gpu(self, seconds=300, port="*", **more):
        actions = [
            ["admin", "create", "sys-gui", "AppVM", "fedora", "black"],
            ["admin", "set_feature", "sys-gui", "prohibit-start", guard.PROHIBIT],
            ["admin", "assign_pci", "sys-gui", port, ID, {"permissive": "True"}],
            ["admin", "set_property", None, "default_guivm", "sys-gui"],
            ["file", POLICY, "a b c d allow\n"],
            ["line", INCLUDE, [ADMINS], []],
        ]
        keep = [
            ["tokens", TOKENS, []],
            ["admin", "set_property", "sys-gui", "autostart", "True"],
        ]
        args = self.args(
            actions,
            [key.replace("*", port) for key in STAGED],
            trial={"seconds": seconds, "boot": {"add": TOKENS, "remove": []}, "watch": WATCH},
            keep={"formula": formula("keep", keep), "sls": "guidomain.keep", "touch": KEPT},
        )
        return dict(args, **more)

    def back(self):
        actions = [
            ["admin", "set_property", None, "default_guivm", "dom0"],
            ["admin", "unassign_pci", "sys-gui", "*", ID],
            ["admin", "remove_feature", "sys-gui", "prohibit-start"],
        ]
        keep = [
            ["tokens", [], TOKENS],
            ["admin", "reset_property", "sys-gui", "autostart"],
        ]
        touch = [key for key in STAGED if not key.startswith(("file:", "line:"))]
        return self.args(
            actions,
            touch,
            trial={"seconds": 300, "boot": {"add": [], "remove": TOKENS}, "watch": None},
            keep={"formula": formula("keep", keep), "sls": "guidomain.keep", "touch": KEPT},
        )

    def bring(self):
        """What `take` takes away again."""
        actions = [
            ["admin", "create", "sys-gui", "AppVM", "fedora", "black"],
            ["admin", "set_property", None, "default_guivm", "sys-gui"],
            ["package", "new-package", "4.3.1"],
        ]
        self.apply(self.args(actions, [GONE[0], "global:default_guivm", GONE[1]]))

    def take(self, after=None, **more):
        """What can be put back is, at once; a qube with its data and a package only when it
        counts."""
        back = [["admin", "set_property", None, "default_guivm", "dom0"]]
        if after is None:
            after = [["admin", "remove", "sys-gui"], ["package", "new-package", None]]
        key = "global:default_guivm"
        removal = {"formula": formula("after", after), "sls": "guidomain.after", "keys": GONE}
        return self.args(back, [key], release=[key], after=removal, **more)

    def reboot(self, trial_id):
        return apply_module.reboot({"id": trial_id, "holder": "alice"}, self.emit, self.stop())

    def resume(self, trial_id, start="sys-gui"):
        args = {"id": trial_id, "holder": "alice", "start": start, "verify": []}
        return apply_module.resume(args, self.emit, self.stop())

    def look(self):
        """The guard's first look of this boot, then qubes that start by themselves."""
        if self.machine.guards:
            guard.Guard().boot()
            if self.machine.running is None and os.path.isdir(self.root + common.GUARD):
                self.machine.running = units.live()
        self.autostart()

    def whole(self, args, start="sys-gui"):
        """A trial with a boot, as the controller makes it. Returns what its confirmation says."""
        trial_id = self.begin(args)["id"]
        self.reboot(trial_id)
        self.assertEqual(self.power_cycle(), "guidomain-trial")
        self.look()
        self.resume(trial_id, start)
        return self.confirm(trial_id)

    def seen(self):
        """The host, but for what any boot changes and for what the guard has to tell."""
        all_ = self.dump()
        files = {
            name: value
            for name, value in all_["files"].items()
            if not name.startswith(("/proc", "/sys/bus/pci/drivers", "/run"))
            and name not in (common.OUTCOME, common.STATE)
        }
        env = menu.environment()
        env.pop("guidomain_try", None)
        files["/boot/grub2/grubenv"] = env
        qubes = {
            name: dict(one, state=None, pci=sorted(one["pci"]))
            for name, one in all_["qubes"][1].items()
        }
        return {"qubes": qubes, "globals": all_["qubes"][0], "files": files}

    def meaning(self):
        """`seen` without our own book-keeping."""
        all_ = self.seen()
        ours = (common.STATE, common.FORMULA, "/boot/grub2/custom.cfg")
        files = {n: v for n, v in all_["files"].items() if not n.startswith(ours)}
        return dict(all_, files=files)

    def quiet(self):
        """Nothing is under way any more."""
        for name in (common.TRIAL, common.JOURNAL):
            self.assertFalse(os.path.exists(self.root + name), name)
        self.assertIsNone(host_lock.current())
        self.assertNotIn("next_entry", menu.environment())
        for name in (common.RESERVE, common.boot_reserve()):
            self.assertEqual(os.path.exists(self.root + name), trials.watch() is not None, name)

    def outcome(self):
        return common.read_json(common.OUTCOME)

    def killed(self, at, work, count=1):
        """Runs `work` in a process of its own that is killed when it reaches `at` for the `count`th
        time. Whether it got there."""
        pid = os.fork()
        if pid == 0:
            left = [count]

            def hook(name):
                if name == at:
                    left[0] -= 1
                    if left[0] == 0:
                        os._exit(9)

            code = 1
            try:
                steps.hook = hook
                work()
                code = 0
            except Rebooted:
                code = 2
            finally:
                os._exit(code)
        return os.WEXITSTATUS(os.waitpid(pid, 0)[1]) == 9


class Rules(Trials):
    def test_live_is_confirmed(self):
        self.apply(self.live())
        self.quiet()
        self.assertEqual(ledger.load()["entries"]["property:work:memory"]["ours"]["value"], "600")
        self.assertIsNone(guard.Guard().boot())

    def test_live_is_not_confirmed_in_time(self):
        before = self.seen()
        first = self.begin(self.live())
        one = guard.Guard()
        self.assertEqual(one.step(), guard.LOOK)
        self.machine.sleep(59)
        self.assertLess(one.step(), guard.LOOK)
        self.machine.sleep(2)
        self.assertEqual(one.step(), 0)
        self.assertIsNone(one.step())
        self.assertEqual(self.seen(), before)
        self.quiet()
        outcome = self.outcome()
        self.assertEqual(
            (outcome["id"], outcome["what"], outcome["phase"], outcome["left"]),
            (first["id"], "undone", "verified", {}),
        )
        with self.assertRaises(common.Failure) as caught:
            self.confirm(first["id"])
        self.assertEqual(caught.exception.code, "trial-over")
        self.assertEqual(caught.exception.more["outcome"], outcome)

    def test_without_the_guard_it_stays(self):
        """Negative control."""
        before = self.seen()
        self.begin(self.live())
        self.machine.guards = False
        self.machine.sleep(10000)
        self.power_cycle()
        self.alone()
        self.assertNotEqual(self.seen(), before)

    def test_no_guard_no_change(self):
        before = self.seen()
        self.machine.guards = False
        self.fails("no-guard", self.live())
        self.assertEqual(self.seen(), before)

    def test_power_loss_in_a_live_trial(self):
        before = self.seen()
        self.begin(self.live())
        self.power_cycle()
        self.alone()
        self.assertEqual(self.seen(), before)
        self.assertIn("restarted in the middle", self.outcome()["why"])

    def test_somebody_at_work_has_more_time(self):
        """Salt that takes longer than the deadline, heard of meanwhile, is not undone."""
        first = []

        def hook(name):
            if name in ("apply.staged", "apply.salt"):
                self.machine.sleep(40)
                first.append(guard.Guard().step())

        steps.hook = hook
        self.begin(self.live())
        self.assertEqual(first, [guard.LOOK] * 2)
        self.assertEqual(trials.load()["phase"], "verified")

    def test_the_guard_takes_it_from_an_agent_that_hangs(self):
        before = self.seen()
        wakes = []

        def hook(name):
            if name == "apply.salt":
                self.machine.sleep(100)
                # It lets go when it is told so; one that does not is killed.
                real, guard.host_lock.take = guard.host_lock.take, lambda *_: None
                wakes.append(guard.Guard().step())
                guard.host_lock.take = real

        steps.hook = hook
        failure = self.fails("trial-over", self.live())
        self.assertEqual(wakes, [guard.LOOK])
        self.assertEqual(failure.more["left"], {})
        self.assertEqual(self.seen(), before)
        self.quiet()

    def test_a_holder_that_does_not_let_go_is_killed(self):
        self.begin(self.live())
        from lock import Lock

        held = Lock("stuck", 0, self.emit, self.stop())
        pid, os.getpid = os.getpid, lambda: 1
        self.addCleanup(setattr, os, "getpid", pid)
        self.machine.kill = lambda number: (self.machine.killed.append(number), held.release())
        self.machine.sleep(100)
        guard.Guard().step()
        self.assertEqual(self.machine.killed, [pid()])
        self.assertIsNone(trials.load())

    def test_gpu_is_confirmed_and_comes_up_in_each_boot(self):
        before = self.seen()
        result = self.whole(self.gpu())
        self.quiet()
        self.assertEqual(self.screen(), "sys-gui")
        self.assertEqual(
            result["snapshot"]["watch"],
            {
                "qube": "sys-gui",
                "owner": "urn:gui",
                "tokens": sorted(TOKENS),
                "ports": ["00_02.0"],
            },
        )
        self.assertTrue(result["snapshot"]["facts"]["boot"]["rescue"])
        self.assertTrue(os.path.exists(self.root + common.RESERVE))
        for _ in range(3):
            self.assertEqual(self.power_cycle(), "qubes")
            self.alone()
            self.assertEqual(self.screen(), "sys-gui")
            self.assertNotIn("guidomain_try", menu.environment())
            self.assertIsNone(self.outcome())
        self.assertIn("guidomain-rescue", self.text("/boot/grub2/custom.cfg"))
        # And out of it again.
        self.whole(self.back(), start=None)
        self.power_cycle()
        self.alone()
        self.assertEqual(self.screen(), "dom0")
        self.assertFalse(os.path.exists(self.root + "/boot/grub2/custom.cfg"))
        self.assertEqual(
            self.text("/etc/default/grub"), before["files"]["/etc/default/grub"][1].decode()
        )
        self.assertFalse(os.path.exists(self.root + units.FOLDER + units.PATH))

    def test_the_trial_entry_does_not_boot(self):
        before = self.seen()
        trial_id = self.begin(self.gpu())["id"]
        self.reboot(trial_id)
        self.qubes.available, real = [], self.qubes.available
        self.assertIsNone(self.power_cycle())  # it stops in the initramfs
        self.qubes.available = real
        self.assertEqual(self.power_cycle(), "qubes")
        self.alone()
        self.assertEqual((self.screen(), self.seen()), ("dom0", before))
        self.assertIn("the trial entry did not boot", self.outcome()["why"])
        self.assertEqual(self.outcome()["phase"], "rebooting")

    def test_permanent_arguments_instead_lock_out(self):
        """Negative control: what the one-shot entry is for."""
        text = self.text("/boot/grub2/grub.cfg")
        import grub

        self.put("/boot/grub2/grub.cfg", grub.edit_config(text, TOKENS, []), 0o600)
        self.qubes.available = []
        for _ in range(3):
            self.assertIsNone(self.power_cycle())
            self.assertIsNone(self.screen())

    def test_a_trial_boot_that_nobody_comes_back_to(self):
        before = self.seen()
        self.reboot(self.begin(self.gpu())["id"])
        self.assertEqual(self.power_cycle(), "guidomain-trial")
        self.assertIsNone(admin.get_feature("work", "prohibit-start"))
        begun = self.machine.clock
        self.alone()
        self.assertLess(self.machine.clock - begun, 320)
        self.assertEqual((self.screen(), self.seen()), ("dom0", before))
        self.quiet()

    def test_power_loss_in_a_trial_boot(self):
        before = self.seen()
        trial_id = self.begin(self.gpu())["id"]
        self.reboot(trial_id)
        self.power_cycle()
        self.look()
        self.assertIsNone(admin.get_feature("sys-gui", "prohibit-start"))
        self.resume(trial_id)
        self.assertEqual(self.screen(), "sys-gui")
        self.assertEqual(self.power_cycle(), "qubes")
        self.alone()
        self.assertEqual((self.screen(), self.seen()), ("dom0", before))

    def test_a_trial_that_fails_its_checks_restarts(self):
        before = self.seen()
        trial_id = self.begin(self.gpu())["id"]
        self.reboot(trial_id)
        self.power_cycle()
        self.look()
        args = {"id": trial_id, "holder": "alice", "start": None}
        args["verify"] = [{"kind": "host", "id": "no", "argv": ["false"], "timeout": 5}]
        with self.assertRaises(common.Failure) as caught:
            apply_module.resume(args, self.emit, self.stop())
        more = caught.exception.more
        self.assertEqual((caught.exception.code, more["rebooting"]), ("verify-failed", True))
        self.assertEqual((more["evidence"][0]["ok"], more["left"]), (False, {}))
        self.assertEqual(self.power_cycle(), "qubes")
        self.alone()
        self.assertEqual((self.screen(), self.seen()), ("dom0", before))

    def test_abort_in_the_trial_boot(self):
        before = self.seen()
        trial_id = self.begin(self.gpu())["id"]
        self.reboot(trial_id)
        self.power_cycle()
        self.look()
        done = apply_module.abort({"id": trial_id, "why": "Ctrl-C"}, self.emit, self.stop())
        self.assertEqual((done["rebooting"], done["left"]), (True, {}))
        self.power_cycle()
        self.alone()
        self.assertEqual((self.screen(), self.seen()), ("dom0", before))
        self.assertEqual(self.outcome()["why"], "Ctrl-C")

    def test_a_mode_that_does_not_come_up_is_rescued_once(self):
        before = self.meaning()
        self.whole(self.gpu())
        self.machine.passes = [False] * 100
        self.assertEqual(self.power_cycle(), "qubes")
        begun = self.machine.clock
        self.alone()
        self.assertLess(self.machine.clock - begun, 140)
        self.assertEqual(self.screen(), "dom0")
        outcome = self.outcome()
        self.assertEqual((outcome["what"], outcome["left"]), ("rescued", {}))
        self.assertIn("did not come up in 120 s", outcome["why"])
        self.assertIsNone(trials.watch())
        # The qube that was made for the mode may hold data by now: it stays, without its card.
        self.assertEqual(self.qubes.qubes["sys-gui"]["pci"], [])
        self.assertNotIn("prohibit-start", self.qubes.qubes["sys-gui"]["features"])
        self.assertNotIn("autostart", self.qubes.qubes["sys-gui"]["own"])
        after = self.meaning()
        del after["qubes"]["sys-gui"]
        self.assertEqual(without_guard(after), without_guard(before))
        entries = ledger.load()["entries"]
        self.assertIn("qube:sys-gui", entries)
        self.assertEqual([k for k in entries if k.startswith(("device:", "bootarg:"))], [])
        self.power_cycle()
        self.alone()
        self.assertEqual(self.screen(), "dom0")

    def test_what_others_have_written_beside_a_line_since_survives_a_rescue(self):
        self.whole(self.gpu())
        self.put(INCLUDE, "new @adminvm ask\n%s\n" % self.text(INCLUDE), 0o664)
        self.machine.passes = [False] * 100
        self.power_cycle()
        self.alone()
        self.assertEqual(self.outcome()["what"], "rescued")
        self.assertEqual(self.text(INCLUDE), "new @adminvm ask\n%s\n" % OTHERS)

    def test_a_boot_that_never_reaches_the_guard(self):
        """A kernel update after the confirmation whose initramfs stops: one power cycle."""
        self.whole(self.gpu())
        real, self.qubes.available = self.qubes.available, []
        self.assertIsNone(self.power_cycle())
        self.qubes.available = real
        self.assertEqual(self.power_cycle(), "guidomain-rescue")
        self.alone()
        self.assertEqual(self.screen(), "dom0")
        self.assertEqual(self.outcome()["what"], "rescued")
        self.assertNotIn("prohibit-start", self.qubes.qubes["sys-gui"]["features"])
        self.assertEqual(self.power_cycle(), "qubes")
        self.alone()
        self.assertEqual(self.screen(), "dom0")

    def test_without_the_count_it_never_comes_back(self):
        """Negative control."""
        self.whole(self.gpu())
        os.unlink(self.root + "/boot/grub2/custom.cfg")
        self.qubes.available = []
        for _ in range(3):
            self.assertIsNone(self.power_cycle())

    def test_without_prohibit_start_the_rescue_entry_hangs(self):
        """Negative control: the card is never pulled from a driver of dom0, because of the guard."""
        self.whole(self.gpu())
        menu.set_environment({"guidomain_try": "1"})
        self.machine.guards = False
        self.assertEqual(self.power_cycle(), "guidomain-rescue")
        self.autostart()
        self.assertIsNone(self.screen())

    def test_what_a_person_changed_meanwhile_stays(self):
        self.whole(self.gpu())
        self.put(POLICY, "mine\n")
        admin.set_property(None, "default_guivm", "personal")
        menu.set_environment({"guidomain_try": "1"})
        self.power_cycle()
        self.alone()
        self.assertEqual(self.screen(), "dom0")
        self.assertEqual(self.text(POLICY), "mine\n")
        self.assertEqual(admin.get_property(None, "default_guivm")["value"], "personal")
        self.assertIn("global:default_guivm", ledger.load()["entries"])

    def test_who_waits_for_what_a_rescued_mode_had_is_the_next_to_have_it(self):
        """dom0 has the screen until somebody brings that one up: what is known to work comes first."""
        key, value = "global:default_guivm", {"default": False, "value": "personal"}
        self.whole(self.gpu())
        claims = dict(ledger.NO_CLAIMS, waits={key: value})
        self.apply(self.args([], ["property:personal:memory"], owner="urn:next", claims=claims))
        menu.set_environment({"guidomain_try": "1"})
        self.power_cycle()
        self.alone()
        self.assertEqual(self.screen(), "dom0")
        self.assertEqual(admin.get_property(None, "default_guivm")["value"], "dom0")
        entry = ledger.load()["entries"][key]
        self.assertEqual((entry["owner"], ledger.waiting(entry)), ("urn:next", []))
        self.assertEqual(entry["first"]["value"], "dom0")

    def test_a_rescued_mode_waits_for_nothing(self):
        """It shows nothing: who lets go of the default must not leave it to that one."""
        key, value = "global:default_guivm", {"default": False, "value": "sys-gui"}
        change = [["admin", "set_property", None, "default_guivm", "personal"]]
        self.apply(self.args(change, [key], owner="urn:first"))
        gpu = self.gpu(claims=dict(ledger.NO_CLAIMS, waits={key: value}))
        gpu["touch"].remove(key)
        name = "guidomain/sys-gui.sls"
        actions = json.loads(gpu["formula"][name])
        gpu["formula"][name] = json.dumps([one for one in actions if "default_guivm" not in one])
        self.whole(gpu)
        self.assertEqual(ledger.waiting(ledger.load()["entries"][key]), [gpu["owner"]])
        menu.set_environment({"guidomain_try": "1"})
        self.power_cycle()
        self.alone()
        self.assertEqual(self.outcome()["what"], "rescued")
        entry = ledger.load()["entries"][key]
        self.assertEqual((entry["owner"], ledger.waiting(entry)), ("urn:first", []))

    def test_a_value_from_before_a_rescued_mode_names_no_qube_that_has_gone(self):
        key = "global:default_guivm"
        admin.create("former", "AppVM", "fedora", "black")
        change = [["admin", "set_property", None, "default_guivm", "former"]]
        self.apply(self.args(change, [key], owner="urn:former"))
        taken = {key: {"from": "urn:former", "waits": False}}
        self.whole(dict(self.gpu(), claims=dict(ledger.NO_CLAIMS, takes=taken)))
        admin.remove("former")
        menu.set_environment({"guidomain_try": "1"})
        self.power_cycle()
        self.alone()
        self.assertEqual((self.outcome()["what"], self.outcome()["left"]), ("rescued", {}))
        self.assertEqual(admin.get_property(None, "default_guivm")["value"], "dom0")
        self.assertNotIn(key, ledger.load()["entries"])

    def test_qubesd_that_is_down_at_boot(self):
        """What dom0's next boot rests on needs no qubesd; the rest follows when it is there."""
        self.whole(self.gpu())
        menu.set_environment({"guidomain_try": "1"})
        self.power_cycle()
        socket, admin.SOCKET = admin.SOCKET, self.root + "/nowhere"
        one = guard.Guard()
        self.assertEqual(one.boot(), guard.RETRIES[0])
        self.assertEqual(self.outcome()["what"], "left")
        self.assertNotIn("guidomain.gpu", self.text("/boot/grub2/grub.cfg"))
        self.assertIsNotNone(trials.watch())
        admin.SOCKET = socket
        self.alone()
        self.assertEqual((self.screen(), trials.watch()), ("dom0", None))
        self.assertEqual(self.outcome()["what"], "rescued")

    def test_what_can_never_be_put_back_does_not_stay_in_the_way(self):
        self.begin(self.args([["package", "old-package", "2"]], ["package:old-package"]))
        self.machine.sleep(100)
        one = guard.Guard()
        waits = [one.step() for _ in range(len(guard.RETRIES) + 1)]
        self.assertEqual(waits, [*guard.RETRIES, 0])
        outcome = self.outcome()
        self.assertEqual(outcome["what"], "left")
        self.assertIn("install it again by hand", outcome["left"]["package:old-package"])
        self.quiet()
        self.apply(self.live())
        self.assertIsNone(self.outcome())

    def test_an_undo_that_leaves_something_restarts_once(self):
        """Out of gpu mode, cut off while it is made to last, and not all can be put back."""
        self.apply(self.args([["package", "p", "1"]], ["package:p"], owner="urn:p"))
        self.whole(self.gpu())
        args = self.back()
        args["touch"].append("package:old-package")
        trial_id = self.begin(args)["id"]
        self.put("/packages", json.dumps({"p": "1"}))
        self.reboot(trial_id)
        self.power_cycle()
        self.look()
        self.resume(trial_id, None)
        self.assertTrue(self.killed("confirm.read-back", lambda: self.confirm(trial_id)))
        self.power_cycle()
        self.alone(reboots=3)
        self.assertEqual(self.screen(), "sys-gui")
        self.assertEqual(self.outcome()["what"], "left")
        self.quiet()

    def test_a_mode_that_is_put_back_in_its_own_boot_is_started(self):
        """systemd has decided by then that it does not start by itself."""
        self.whole(self.gpu())
        self.begin(self.back())
        self.power_cycle()
        self.qubes.qubes["sys-gui"]["state"] = "Running"  # without its card
        before, self.autostart = self.autostart, lambda: None
        self.alone()
        self.autostart = before
        self.assertEqual(self.screen(), "sys-gui")
        self.assertEqual(self.qubes.calls.count("admin.vm.Shutdown"), 1)
        self.assertIsNotNone(trials.watch())
        self.quiet()

    def test_the_boot_of_a_trial_that_was_undone_ends(self):
        """Given up by the agent, which restarts the machine after its answer; by the guard where
        the agent was cut off there. Until then the guard takes the boot for nothing else, and
        nobody begins another change."""
        for mode, change in ((None, self.gpu), ("sys-gui", self.back)):
            with self.subTest(mode=mode):
                self.setUpHost()
                if mode:
                    self.whole(self.gpu())
                trial_id = self.begin(change())["id"]
                self.reboot(trial_id)
                self.assertEqual(self.power_cycle(), "guidomain-trial")
                self.look()
                apply_module.abort({"id": trial_id, "why": "no more"}, self.emit, self.stop())
                one, kept = guard.Guard(), trials.watch()
                self.assertEqual(one.step(), guard.LOOK)
                self.assertIn("about to restart", self.fails("lock-held", self.live()).message)
                self.machine.sleep(guard.GRACE - 1)
                self.assertEqual(one.step(), guard.LOOK)
                self.assertEqual(trials.watch(), kept)
                self.machine.sleep(2)
                with self.assertRaises(Rebooted):
                    one.step()
                self.power_cycle()
                self.alone()
                self.assertEqual(self.screen(), mode or "dom0")
                self.quiet()

    def test_a_device_that_is_gone_is_taken_away(self):
        self.whole(self.gpu())
        self.qubes.available = []
        self.assertIsNone(self.power_cycle())
        self.assertEqual(self.power_cycle(), "guidomain-rescue")
        self.alone()
        self.assertEqual(self.screen(), "dom0")
        self.assertEqual((self.outcome()["what"], self.outcome()["left"]), ("rescued", {}))
        self.assertEqual(self.qubes.qubes["sys-gui"]["pci"], [])
        self.assertNotIn("prohibit-start", self.qubes.qubes["sys-gui"]["features"])
        self.quiet()

    def test_a_second_card_of_that_kind(self):
        """Qubes would give it too, and take it from the driver that runs it in dom0."""
        self.whole(self.gpu())
        self.qubes.available = self.qubes.available + [("00_03.0", ID, "0000:00:03.0")]
        self.assertEqual(self.power_cycle(), "qubes")
        self.alone()
        self.assertIsNone(self.hung)
        self.assertEqual(self.screen(), "dom0")
        self.assertEqual(self.outcome()["what"], "rescued")

    def test_without_the_guard_a_second_card_hangs_the_host(self):
        """Negative control."""
        self.whole(self.gpu())
        self.qubes.available = self.qubes.available + [("00_03.0", ID, "0000:00:03.0")]
        self.machine.guards = False
        self.assertEqual(self.power_cycle(), "qubes")
        self.autostart()
        self.assertIsNone(self.screen())

    def test_a_device_that_is_gone_cannot_be_taken_away_by_its_place(self):
        """As on real qubesd. It is told, and does not stay in the way."""
        key = "device:sys-gui:00_02.0:" + ID
        self.whole(self.gpu(port="00_02.0"))
        real, self.qubes.available = self.qubes.available, []
        self.assertIsNone(self.power_cycle())
        self.assertEqual(self.power_cycle(), "guidomain-rescue")
        self.alone()
        self.assertEqual(self.screen(), "dom0")
        outcome = self.outcome()
        self.assertEqual(outcome["what"], "left")
        self.assertEqual(list(outcome["left"]), [key])
        self.assertIn("put the device back", outcome["left"][key])
        self.assertIsNone(trials.watch())
        self.assertNotIn(key, ledger.load()["entries"])
        # It still has the assignment: it must not start should the device come back.
        self.qubes.available = real
        self.assertIn("prohibit-start", self.qubes.qubes["sys-gui"]["features"])
        self.quiet()

    def test_full_disk(self):
        """Every write fails but in the space that was held."""
        import errno

        before = self.seen()
        self.reboot(self.begin(self.gpu())["id"])
        self.power_cycle()
        write = os.write

        def full(fd, data):
            name = os.readlink("/proc/self/fd/%d" % fd)
            if name.startswith(self.root) and os.path.exists(self.root + common.RESERVE):
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(fd, data)

        os.write = full
        try:
            guard.Guard().boot()
            self.assertEqual(trials.load()["phase"], "trial")  # its deadline runs
            self.alone()
        finally:
            os.write = write
        self.assertEqual((self.screen(), self.seen()), ("dom0", before))

    def test_others_wait_for_a_trial(self):
        self.begin(self.live())
        failure = self.fails("lock-held", self.live(holder="bob", owner="urn:bob"))
        self.assertIn("alice@desk has been trying a change", failure.message)
        self.assertRegex(failure.message, "undoes it by itself in [0-9]+ s")
        self.assertEqual(failure.more["holder"]["holder"], "alice@desk")
        self.machine.sleep(61)
        self.fails("lock-held", self.live(holder="bob", owner="urn:bob"))  # the guard is about to
        self.machine.stop_guard()
        self.machine.guards = True
        self.apply(self.live(holder="bob", owner="urn:bob"))  # without a guard, this one does
        self.assertIn("recover", [stage for stage, _ in self.events])

    def test_a_change_that_waits_gives_way_to_a_newer_one_of_its_owner(self):
        """Its controller's line went silent, so that nobody tells its agent."""
        first = self.begin(self.live())
        self.fails("lock-held", self.live())  # it may be confirmed any moment
        self.machine.sleep(11)
        self.fails("lock-held", self.live(owner="urn:bob"))
        second = self.begin(self.live())
        self.assertNotEqual(first["id"], second["id"])
        with self.assertRaises(common.Failure) as caught:
            self.confirm(first["id"])
        self.assertIn("it waited unconfirmed", caught.exception.more["outcome"]["why"])
        self.confirm(second["id"])
        self.assertIsNone(self.outcome())

    def test_confirm_twice(self):
        first = self.begin(self.live())
        self.confirm(first["id"])
        again = self.confirm(first["id"])  # its answer was lost
        self.assertEqual(again["states"], [])
        second = self.begin(self.live())
        self.assertTrue(self.killed("settle.watch", lambda: self.confirm(second["id"])))
        self.confirm(second["id"])
        self.quiet()
        with self.assertRaises(common.Failure) as caught:
            self.confirm("nonsense")
        self.assertEqual(caught.exception.code, "trial-over")

    def test_a_failing_keep_is_undone(self):
        before = self.seen()
        args = self.gpu()
        args["keep"]["formula"] = formula("keep", [["tokens", TOKENS, []], ["fail", "mkconfig"]])
        trial_id = self.begin(args)["id"]
        self.reboot(trial_id)
        self.power_cycle()
        self.look()
        self.resume(trial_id)
        with self.assertRaises(common.Failure) as caught:
            self.confirm(trial_id)
        self.assertEqual(caught.exception.code, "salt-failed")
        self.assertTrue(caught.exception.more["rebooting"])
        self.power_cycle()
        self.alone()
        self.assertEqual((self.screen(), self.seen()), ("dom0", before))

    def test_check(self):
        asked = [
            {"kind": "start", "id": "a", "qube": "work", "timeout": 5},
            {"kind": "host", "id": "b", "argv": ["false"], "timeout": 5},
            {"kind": "host", "id": "c", "argv": ["true"], "timeout": 5},
        ]
        before = self.dump()
        found = apply_module.check({"verify": asked}, self.emit, self.stop())["evidence"]
        self.assertEqual(
            [(e["id"], e["ok"]) for e in found], [("a", False), ("b", False), ("c", True)]
        )
        self.assertEqual(self.dump(), before)


class Removals(Trials):
    """What could not be brought back goes when the change counts, not before."""

    def setUp(self):
        super().setUp()
        self.before = self.meaning()
        self.bring()

    def there(self):
        """Which of the things are there, and which are in the ledger."""
        packages = json.loads(self.text("/packages"))
        found = ["sys-gui" in self.qubes.qubes, "new-package" in packages]
        return found, [key for key in GONE if key in ledger.load()["entries"]]

    def test_it_goes_once_the_change_counts(self):
        first = self.begin(self.take(shutdown=["sys-gui"]))
        self.assertEqual(self.there(), ([True, True], GONE))
        result = self.confirm(first["id"])
        self.assertEqual((result["left"], result["snapshot"]["ledger"]), ({}, {}))
        self.assertEqual([s["id"] for s in result["states"]], ["guidomain.after"])
        self.assertEqual(self.meaning(), self.before)
        self.quiet()

    def test_nothing_of_it_goes_with_a_change_that_is_undone(self):
        before = self.seen()
        keep = {"formula": formula("keep", [["fail", "no"]]), "sls": "guidomain.keep", "touch": []}
        self.fails("salt-failed", self.take(keep=keep))
        self.assertEqual(self.seen(), before)
        self.begin(self.take())
        self.machine.sleep(61)
        self.alone()
        self.assertEqual(self.seen(), before)

    def test_what_salt_does_not_take_away_is_taken_away_without_it(self):
        for after in ([], [["admin", "remove", "sys-gui"], ["fail", "killed"]]):
            with self.subTest(after=after):
                self.assertEqual(self.apply(self.take(after))["left"], {})
                self.assertEqual(self.meaning(), self.before)
                self.bring()

    def test_what_does_not_go_stays_its_owners_and_the_next_change_takes_it(self):
        self.put("/packages-held", "")
        admin.set_property("work", "guivm", "sys-gui")
        result = self.apply(self.take([["fail", "held"]]))
        self.assertIn("Domain is in use", result["left"][GONE[0]])
        self.assertIn("it is held", result["left"][GONE[1]])
        self.assertEqual(set(result["snapshot"]["ledger"]), set(GONE))
        self.assertEqual(self.there(), ([True, True], GONE))
        self.quiet()
        self.assertIsNone(guard.Guard().step())  # nobody goes on trying
        admin.reset_property("work", "guivm")
        os.unlink(self.root + "/packages-held")
        self.assertEqual(self.apply(self.take())["left"], {})
        self.assertEqual(self.meaning(), self.before)

    def test_a_qube_that_does_not_shut_down_is_not_killed(self):
        self.qubes.qubes["sys-gui"]["state"] = "Running"
        self.qubes.stubborn.add("sys-gui")
        left = self.apply(self.take([["package", "new-package", None]]))["left"]
        self.assertEqual(left, {GONE[0]: "sys-gui did not shut down within 20 s"})
        self.assertEqual(self.qubes.qubes["sys-gui"]["state"], "Running")

    def test_only_what_its_owner_alone_has_brought(self):
        before = self.dump()
        for keys, code in (
            (["package:old-package"], "conflict"),
            (["qube:work"], "conflict"),
            (["global:default_guivm"], "bad-request"),
            (["qube:a b"], "bad-request"),
            ("qube:sys-gui", "bad-request"),
        ):
            args = self.take()
            args["after"]["keys"] = keys
            self.fails(code, args)
        self.fails("conflict", self.take(owner="urn:other"))
        for part, value in (("sls", "top"), ("formula", {"other/x.sls": ""})):
            args = self.take()
            args["after"][part] = value
            self.fails("bad-request", args)
        self.assertEqual(self.dump(), before)
        self.apply(self.args([], [GONE[1]], owner="urn:other"))
        self.fails("conflict", self.take())
        self.assertEqual(self.there(), ([True, True], GONE))

    def test_a_boot_does_not_wait_for_it(self):
        trial_id = self.begin(self.take())["id"]
        self.assertTrue(self.killed("confirm.ledger", lambda: self.confirm(trial_id)))
        self.power_cycle()
        one = guard.Guard()
        one.boot()
        self.assertEqual(self.there(), ([True, True], GONE))
        self.assertEqual(one.step(), 0)
        self.assertEqual(self.there(), ([False, False], []))
        self.quiet()

    def test_it_waits_for_a_qubesd_that_does_not_answer(self):
        trial_id = self.begin(self.take())["id"]
        self.assertTrue(self.killed("confirm.ledger", lambda: self.confirm(trial_id)))
        real, admin.SOCKET = admin.SOCKET, self.root + "/run/nobody"
        with self.assertRaises(admin.AdminError):
            guard.Guard().step()
        admin.SOCKET = real
        self.assertEqual(self.there(), ([True, True], GONE))
        self.alone()
        self.assertEqual(self.there(), ([False, False], []))
        self.quiet()

    def test_a_full_disk_keeps_nothing_from_going(self):
        """There is room for that in what is held for the way back."""
        trial_id = self.begin(self.take())["id"]
        self.assertTrue(self.killed("confirm.ledger", lambda: self.confirm(trial_id)))
        real = common.write_file

        def full(name, *args):
            if os.path.exists(self.root + common.RESERVE):
                raise OSError(errno.ENOSPC, "No space left on device")
            real(name, *args)

        common.write_file = full
        self.addCleanup(setattr, common, "write_file", real)
        self.alone()
        self.assertEqual(self.there(), ([False, False], []))
        self.quiet()

    def test_a_guard_that_comes_too_late_undoes_nothing(self):
        """It saw the deadline pass just before the change counted."""
        trial_id = self.begin(self.take())["id"]
        self.assertTrue(self.killed("confirm.ledger", lambda: self.confirm(trial_id)))
        late = dict(trials.load(), phase="confirmed")
        self.assertEqual(guard.Guard()._undo(late, "it was not confirmed in time"), 0)
        self.alone()
        self.assertEqual(self.there(), ([False, False], []))
        self.assertEqual(self.meaning()["globals"], self.before["globals"])
        self.assertIsNone(self.outcome())


class Crashes(Trials):
    """SIGKILL at each step, then nobody but the guard: as before, or the confirmed mode, and a
    screen either way."""

    def test_live(self):
        before = self.meaning()
        names = list(steps.STEPS["live"]) + list(steps.STEPS["confirm"])
        names = [n for n in names if n not in ("apply.locked", "confirm.salt", "settle.key")]

        def run():
            self.machine.running = units.live() if os.path.isdir(self.root + common.GUARD) else None
            self.apply(self.live())

        self.apply(self.live())
        after = self.meaning()
        for at in names:
            for how in ("power", "time", "apply"):
                with self.subTest(at=at, how=how):
                    self.setUpHost()
                    self.assertTrue(self.killed(at, run), "never reached")
                    if how == "power":
                        self.power_cycle()
                    self.machine.sleep(1000)
                    if how == "apply":
                        self.fails("salt-failed", self.args([["fail", "x"]], []))
                    else:
                        self.alone()
                    now = self.meaning()
                    if at in COUNTS:
                        self.assertEqual(without_guard(now), without_guard(after))
                    else:
                        self.assertEqual(now, before)
                    self.quiet()

    def gpu_to(self, stop):
        """A gpu trial up to just before a part of it."""
        trial_id = self.begin(self.gpu())["id"]
        if stop == "reboot":
            return trial_id
        self.reboot(trial_id)
        self.power_cycle()
        if stop == "look":
            return trial_id
        self.look()
        if stop == "resume":
            return trial_id
        self.resume(trial_id)
        return trial_id

    def test_gpu(self):
        before = self.meaning()
        self.whole(self.gpu())
        after = self.meaning()
        first = [s for s in steps.STEPS["boot"] if s.startswith(("apply", "guard"))]
        parts = [
            (None, lambda _: self.begin(self.gpu()), first[1:]),
            ("reboot", self.reboot, [s for s in steps.STEPS["boot"] if s.startswith("reboot")]),
            (
                "look",
                lambda _: guard.Guard().boot(),
                [s for s in steps.STEPS["resume"] if s.startswith("guard")],
            ),
            ("resume", self.resume, [s for s in steps.STEPS["resume"] if s.startswith("resume")]),
            ("confirm", self.confirm, [s for s in steps.STEPS["confirm"] if s != "settle.key"]),
        ]
        cases = 0
        for stop, run, names in parts:
            for at in names:
                for how in ("power", "time"):
                    with self.subTest(at=at, how=how):
                        cases += 1
                        self.setUpHost()
                        trial_id = self.gpu_to(stop) if stop else None
                        self.assertTrue(self.killed(at, lambda: run(trial_id)), "never reached")
                        if how == "power":
                            self.power_cycle()
                        self.machine.sleep(1000)
                        self.alone()
                        if at in COUNTS and how == "power":
                            self.assertEqual(self.screen(), "sys-gui")
                        self.assertIsNotNone(self.screen())
                        if at not in COUNTS:
                            self.assertEqual(self.meaning(), before)
                        else:
                            now, wanted = without_guard(self.meaning()), without_guard(after)
                            self.assertEqual(now, wanted)
                        self.quiet()
        self.assertGreater(cases, 60)

    def test_removal(self):
        self.bring()
        before = self.meaning()
        self.apply(self.take())
        after = self.meaning()
        # Salt takes nothing away here: all of it is done by whoever finishes the change.
        for at in ("confirm.watch",) + COUNTS:
            for how in ("power", "time", "apply", "again"):
                for count in (1, 2) if at == "settle.key" else (1,):
                    with self.subTest(at=at, how=how, count=count):
                        self.setUpHost()
                        self.bring()
                        trial_id = self.begin(self.take([]))["id"]
                        run = lambda: self.confirm(trial_id)
                        self.assertTrue(self.killed(at, run, count), "never reached")
                        if how == "power":
                            self.power_cycle()
                        if how == "again" and at in COUNTS:
                            # Its guard and then its next agent are killed, too.
                            self.killed("settle.key", lambda: guard.Guard().step())
                            self.killed("settle.removed", run)
                        self.machine.sleep(1000)
                        if how == "apply":
                            self.fails("salt-failed", self.args([["fail", "x"]], []))
                        else:
                            self.alone()
                        wanted = after if at in COUNTS else before
                        self.assertEqual(without_guard(self.meaning()), without_guard(wanted))
                        entries = ledger.load()["entries"]
                        self.assertEqual(any(k in entries for k in GONE), at not in COUNTS)
                        # After the last entry nothing of ours stays, whoever finishes it.
                        is_there = os.path.exists(self.root + units.FOLDER + units.SERVICE)
                        self.assertEqual(is_there, bool(entries))
                        self.quiet()

    def test_undo(self):
        """Killed while it undoes, by whoever does it, as often as may be."""
        before = self.meaning()
        for at in steps.STEPS["undo"]:
            for count in (1, 2, 3) if at == "undo.key" else (1,):
                with self.subTest(at=at, count=count):
                    self.setUpHost()
                    self.gpu_to("confirm")
                    self.machine.sleep(1000)
                    step = lambda: guard.Guard().step()
                    self.assertTrue(self.killed(at, step, count), "never reached")
                    for _ in range(2):
                        self.power_cycle()
                        self.killed("undo.key", lambda: guard.Guard().boot())
                    self.alone()
                    self.assertEqual((self.screen(), self.meaning()), ("dom0", before))
                    self.quiet()

    def test_rescue(self):
        self.whole(self.gpu())
        menu.set_environment({"guidomain_try": "1"})
        self.power_cycle()
        self.alone()
        after = self.meaning()
        for at in steps.STEPS["rescue"]:
            for how in ("power", "time"):
                with self.subTest(at=at, how=how):
                    self.setUpHost()
                    self.whole(self.gpu())
                    menu.set_environment({"guidomain_try": "1"})
                    self.power_cycle()
                    self.assertTrue(self.killed(at, lambda: guard.Guard().boot()), "never reached")
                    if how == "power":
                        self.power_cycle()
                    self.alone()
                    self.assertEqual((self.screen(), self.meaning()), ("dom0", after))
                    self.assertEqual(self.outcome()["what"], "rescued")
                    self.quiet()


class Ending(HostCase):
    def test_a_trial_that_begins_while_a_guard_ends_is_watched(self):
        """Its agent may have found this guard alive."""
        guard.say = lambda *_: None
        os.makedirs(common.path(common.GUARD))
        self.put(common.GUARD + "/guard.py", "#")
        looks = []

        def step(_):
            looks.append(trials.load())
            if looks == [None]:
                trials.save(common.TRIAL, {"id": "late"})
            else:
                common.remove_file(common.TRIAL)

        real, guard.Guard.step = guard.Guard.step, step
        self.addCleanup(setattr, guard.Guard, "step", real)
        guard.main(["watch"])
        self.assertEqual(looks, [None, {"id": "late"}])
        self.assertFalse(units.alive())

    def test_a_guard_whose_folder_was_put_back_from_a_copy_is_still_seen(self):
        """An agent waits for a guard that it sees; systemd would start no second one."""
        guard.say = lambda *_: None
        os.makedirs(common.path(common.GUARD))
        self.put(common.GUARD + "/guard.py", "#")
        folder, seen = common.path(common.GUARD), []

        def step(_):
            seen.append(units.alive())
            if len(seen) == 1:
                os.rename(folder, folder + ".old")
                shutil.copytree(folder + ".old", folder)
            return None if len(seen) == 3 else 0

        real, guard.Guard.step = guard.Guard.step, step
        self.addCleanup(setattr, guard.Guard, "step", real)
        guard.main(["watch"])
        self.assertEqual(seen, [True, True, True])
        self.assertFalse(units.alive())


# From here on the change counts.
COUNTS = steps.STEPS["confirm"][steps.STEPS["confirm"].index("confirm.ledger") :]
