"""What is written inside qubes: qubesctl's text, a template's way back, and what goes wrong on the way."""

import copy
import json
import os
import random
import subprocess
import unittest

from fake import HostCase, qube

import common
import guard
import insides
import ledger
import qubes_admin as admin
import secret
import steps
import volumes

KEY = "volume:fedora:root"
DIGEST, BROUGHT = "feature:fedora:guidomain-inside", "feature:fedora:guidomain-brought"
WANTED = ["lightdm", "x11vnc"]
INSTALL = [["install", "lightdm", "1"], ["install", "x11vnc", "2"], ["put", "/etc/x", "text"]]


class Cut(BaseException):
    """The power goes, or the agent is killed: nobody tidies up."""


class Template(HostCase):
    def setUp(self):
        super().setUp()
        guard.say = lambda *_: None
        self.qubes.qubes["fedora"]["root"]["packages"].update({"lightdm": "1", "kept": "1"})
        self.qubes.qubes["fedora"]["features"]["guidomain-brought"] = "gone kept"
        self.addCleanup(setattr, volumes, "NEVER", volumes.NEVER)
        volumes.NEVER = 0.1

    def template(self, actions=INSTALL, **more):
        entry = {
            "qube": "fedora",
            "sls": "guidomain.fedora.inside",
            "timeout": 60,
            "volume": "root",
            "brought": {
                "feature": "guidomain-brought",
                "query": more.pop("query", "rpm"),
                "packages": WANTED + ["kept"],
            },
            "activate": None,
        }
        args = self.args([["admin", "set_feature", "fedora", "guidomain-inside", "d1"]])
        args["formula"]["guidomain/fedora/inside.sls"] = json.dumps(list(actions))
        return dict(args, touch=[DIGEST, BROUGHT], inside=[entry], **more)

    def seen(self):
        """Without what Qubes keeps of before, and what shows that we were here."""
        return self.dump()

    def test_a_template_is_changed_in_one_run_and_off_again(self):
        result = self.apply(self.template())
        fedora = self.qubes.qubes["fedora"]
        self.assertEqual(fedora["root"]["packages"], {"lightdm": "1", "kept": "1", "x11vnc": "2"})
        self.assertEqual(fedora["features"]["guidomain-brought"], "kept x11vnc")
        self.assertEqual(fedora["state"], "Halted")
        self.assertEqual(self.qubes.calls.count("admin.vm.Start"), 2)  # and the disposable
        self.assertEqual(len(self.qubes.revisions["fedora"]), 1)
        self.assertEqual(
            [(e["id"], e["ok"]) for e in result["evidence"]], [("inside of fedora", True)]
        )
        self.assertEqual(set(ledger.load()["entries"]), {DIGEST, BROUGHT})
        self.assertFalse(os.path.exists(self.root + volumes.MARKS))

    def test_units_that_were_enabled_before_are_not_ours(self):
        args = self.template()
        args["inside"][0]["brought"]["units"] = ["lightdm.service"]
        self.apply(args)
        features = self.qubes.qubes["fedora"]["features"]
        self.assertEqual(features["guidomain-brought"], "kept unit:lightdm.service x11vnc")
        self.doCleanups()
        self.setUp()
        self.put("/enabled", "")
        self.apply(args)
        features = self.qubes.qubes["fedora"]["features"]
        self.assertEqual(features["guidomain-brought"], "kept x11vnc")

    def test_an_answer_that_is_none_makes_no_package_ours(self):
        self.put("/no-answer", "")
        for query in ("rpm", "dpkg"):
            before = self.seen()
            failure = self.fails("inside-failed", self.template(query=query))
            self.assertIn("cannot be asked for its packages (x11vnc)", failure.message)
            self.assertEqual(self.seen(), before)

    def test_an_answer_that_is_none_makes_no_unit_ours(self):
        args = self.template()
        args["inside"][0]["brought"]["units"] = ["lightdm.service"]
        self.put("/enabled", "Connection to the qube was lost")
        before = self.seen()
        failure = self.fails("inside-failed", args)
        self.assertIn("not known whether lightdm.service starts in fedora", failure.message)
        self.assertEqual(self.seen(), before)
        # Debian's lightdm, which a link of another name starts.
        self.put("/enabled", "indirect")
        self.apply(args)
        self.assertNotIn(
            "unit:", self.qubes.qubes["fedora"]["features"]["guidomain-brought"]
        )

    def test_who_starts_it_in_between_does_not_take_the_revision(self):
        for driver in ("lvm_thin", "file-reflink"):
            before = self.interrupted("inside.salt", driver, "reset")
            admin.start("fedora")
            self.qubes.stopped("fedora")
            self.machine.clock += 10_000
            self.alone()
            self.assertEqual(self.seen()["qubes"], before["qubes"], driver)
            self.assertEqual(self.qubes.keeps, 1)

    def test_a_revision_that_is_gone_is_told_and_the_digest_lies_no_more(self):
        self.interrupted("inside.salt", "lvm_thin", "reset")
        self.qubes.revisions["fedora"] = []
        self.machine.clock += 10_000
        real, volumes.APPEARS = volumes.APPEARS, 0.2
        self.addCleanup(setattr, volumes, "APPEARS", real)
        self.alone()
        outcome = common.read_json(common.OUTCOME)
        self.assertEqual(outcome["what"], "left")
        self.assertIn("has kept no revision", outcome["left"][KEY])
        self.assertNotIn("guidomain-inside", self.qubes.qubes["fedora"]["features"])

    def test_packages_of_debian_are_asked_as_debian_says_them(self):
        self.apply(self.template(query="dpkg"))
        self.assertEqual(self.qubes.qubes["fedora"]["features"]["guidomain-brought"], "kept x11vnc")

    def test_a_failing_package_leaves_the_template_as_it_was_and_is_named(self):
        for driver in volumes.DRIVERS:
            self.qubes.driver = driver
            before = self.seen()
            comment = "Problem encountered.\nerrors:\n    - Unable to find a match: x11vnc"
            failure = self.fails("inside-failed", self.template(INSTALL[:1] + [["fail", comment]]))
            self.assertEqual(self.seen(), before, driver)
            self.assertTrue(
                failure.message.startswith("Salt failed in fedora: package x11vnc: s1 (pkg.installed): Problem"),
                failure.message,
            )
            self.assertIn(KEY, failure.more["undone"])
            self.assertEqual(failure.more["left"], {})
            self.assertEqual(failure.more["failed"][0]["function"], "pkg.installed")

    def test_what_cannot_be_taken_back_is_refused_before_anything_is_done(self):
        def refused(code, word):
            before = self.seen()
            calls = len(self.qubes.calls)
            failure = self.fails(code, self.template())
            self.assertIn(word, failure.message)
            self.assertEqual(self.seen(), before)
            self.assertNotIn("admin.vm.Start", self.qubes.calls[calls:])

        self.qubes.driver = "file"
        refused("no-revision", "driver file")
        self.qubes.driver, self.qubes.keeps = "lvm_thin", 0
        refused("no-revision", "revisions_to_keep is 0")
        # One volume of which Qubes tells nothing, or nonsense, is no reason not to look at the host.
        for odd, word in ((None, "Qubes tells nothing of its volume root"), ("x", "revisions_to_keep is x")):
            self.qubes.keeps = odd
            refused("no-revision", word)
        self.qubes.keeps = 1
        admin.start("fedora")
        refused("template-busy", "fedora is running")

    def test_what_qubesctl_says_besides_states_is_no_success(self):
        for text, code, word in (
            ("fedora: ERROR (exit code 20, details in /var/log/qubes/mgmt-fedora.log)", 20, "exit code 20"),
            ("fedora: ERROR (exception no default template)", 1, "no default template"),
            ("fedora: ERROR (exit code 0, but no changes summary)", 1, "no changes summary"),
            ("fedora: SKIP (nothing to do)", 0, "nothing to do"),
            ("other: OK", 0, "other: OK"),
            ("", 0, "it says nothing"),
            ("fedora:\n    Data failed to compile:\n  ----------\n      No matching sls", 20, "compile"),
            ("fedora:\n      Minion did not return. [No response]", 0, "did not return"),
        ):
            before = self.seen()
            failure = self.fails("inside-failed", self.template([["say", text, code]]))
            self.assertIn(word, failure.message)
            self.assertEqual(self.seen(), before, text)

    def test_a_cancelled_run_leaves_neither_disposable_nor_policy_nor_a_changed_template(self):
        before = self.seen()
        stop = self.stop()
        real = self.emit

        def emit(stage, text):
            real(stage, text)
            if text.startswith("guidomain.fedora.inside"):
                import threading

                threading.Timer(0.7, stop.set).start()

        self.emit = emit
        failure = self.fails("cancelled", self.template(INSTALL + [["sleep", 30]]), stop)
        self.assertEqual(failure.more["left"], {})
        self.assertEqual(self.seen(), before)

    def test_salt_that_does_not_end_is_ended(self):
        before = self.seen()
        args = self.template(INSTALL + [["sleep", 30]])
        args["inside"][0]["timeout"] = 1
        failure = self.fails("inside-failed", args)
        self.assertIn("did not end within 1 s", failure.message)
        self.assertEqual(self.seen(), before)

    def crash_at(self, name, skip=0):
        count = [skip]

        def hook(at):
            if at == name:
                if count[0] == 0:
                    raise Cut(name)
                count[0] -= 1

        steps.hook = hook

    def after(self):
        steps.hook = lambda _name: None

    def interrupted(self, at, driver, how):
        """A change that ends at a step, and the host alone after that."""
        self.doCleanups()
        self.setUp()
        self.qubes.driver = driver
        before = self.seen()
        import apply as apply_module

        real = apply_module._undo
        apply_module._undo = lambda *a, **k: {}  # killed: it undoes nothing itself
        self.addCleanup(setattr, apply_module, "_undo", real)
        self.crash_at(at)
        try:
            self.apply(self.template())
        except (Cut, common.Failure):
            pass
        self.after()
        apply_module._undo = real
        if how == "reset":
            self.power_cycle()
        return before

    def test_a_crash_at_each_step_leaves_the_template_as_it_was(self):
        """Killed, with the machine going on or starting anew; undone by the guard alone."""
        for driver, hows in (("lvm_thin", ("kill", "reset")), ("file-reflink", ("reset",))):
            for how in hows:
                for at in steps.STEPS["inside"][1:] + ("apply.read-back", "apply.verified"):
                    before = self.interrupted(at, driver, how)
                    self.machine.clock += 10_000  # its deadline is over
                    self.alone()
                    left = self.seen()
                    left["files"].pop("/var/lib/guidomain/outcome.json", None)
                    left["files"].pop("/var/lib/guidomain", None)
                    self.assertEqual(left["qubes"], before["qubes"], (driver, how, at))
                    self.assertEqual(set(left["files"]), set(before["files"]), (driver, how, at))

    def test_without_the_way_back_of_volumes_the_template_stays_half_done(self):
        """The negative control of the one before."""
        before = self.interrupted("inside.salt", "lvm_thin", "kill")
        real, volumes.put_back = volumes.put_back, lambda *_: None
        self.addCleanup(setattr, volumes, "put_back", real)
        self.machine.clock += 10_000
        self.alone()
        fedora = self.qubes.qubes["fedora"]
        self.assertEqual(fedora["root"]["packages"], {"lightdm": "1", "kept": "1", "x11vnc": "2"})
        self.assertNotEqual(self.seen()["qubes"], before["qubes"])

    def test_an_undo_that_is_cut_off_itself_is_done_again(self):
        for driver in ("lvm_thin", "file-reflink"):
            for at in ("undo.volume", "undo.reverted", "undo.key", "undo.values"):
                before = self.interrupted("inside.off", driver, "kill")
                self.machine.clock += 10_000
                self.crash_at(at)
                with self.assertRaises(Cut):
                    self.alone()
                self.after()
                self.power_cycle()
                self.alone()
                self.assertEqual(self.seen()["qubes"], before["qubes"], (driver, at))

    def test_a_running_qube_is_written_and_put_in_force_and_stays_on(self):
        self.qubes.qubes["sys-gui"] = qube()
        entry = {
            "qube": "sys-gui",
            "sls": "guidomain.sys-gui.generation",
            "timeout": 60,
            "volume": None,
            "brought": None,
            "activate": "/rw/config/guidomain/d/activate",
        }
        args = self.args([])
        args["formula"]["guidomain/sys-gui/generation.sls"] = json.dumps([["put", "/rw/x", "y"]])
        result = self.apply(dict(args, inside=[entry]))
        self.assertEqual(self.qubes.qubes["sys-gui"]["state"], "Running")
        self.assertEqual(self.qubes.qubes["sys-gui"]["root"]["files"], {"/rw/x": "y"})
        self.assertEqual(result["evidence"][0]["id"], "inside of sys-gui")
        # One that does not get into force is undone: off as before. What it had written does nothing.
        admin.kill("sys-gui")
        failure = self.fails("inside-failed", dict(args, inside=[dict(entry, activate="false")]))
        self.assertIn("false in sys-gui: in sys-gui: false", failure.message)
        self.assertEqual(self.qubes.qubes["sys-gui"]["state"], "Halted")

    def test_the_form_of_a_request_is_checked(self):
        good = self.template()["inside"][0]
        insides.check([good])
        for wrong in (
            dict(good, sls="other.x"),
            dict(good, volume="private"),
            dict(good, timeout=0),
            dict(good, brought=dict(good["brought"], packages=["a; reboot"])),
            dict(good, brought=dict(good["brought"], query="pacman")),
        ):
            self.fails("bad-request", dict(self.template(), inside=[wrong]))


class Secrets(HostCase):
    """What dom0 keeps for a qube."""

    SECRET, FILE = "secret:work:login", "/var/lib/guidomain/secrets/work/login"
    VALUE = {"mark": "m1", "value": "$6$salt$hash"}

    def given(self, value, actions=(), **more):
        args = self.args(actions, [self.SECRET], **more)
        return dict(args, secrets={"work:login": value})

    def test_that_of_a_qube_that_goes_again_goes(self):
        before = self.dump()
        create = ["admin", "create", "new", "AppVM", "fedora", "black"]
        args = self.args([create, ["fail", "x"]], ["qube:new", "secret:new:login"])
        failure = self.fails("salt-failed", dict(args, secrets={"new:login": self.VALUE}))
        self.assertEqual(failure.more["left"], {})
        self.assertEqual(self.dump(), before)

    def test_it_is_roots_alone_and_nowhere_else(self):
        result = self.apply(self.given(self.VALUE))
        self.assertEqual(self.text(self.FILE), "m1\n$6$salt$hash")
        for name, mode in ((self.FILE, 0o600), (os.path.dirname(self.FILE), 0o700)):
            self.assertEqual(os.stat(self.root + name).st_mode & 0o777, mode)
        self.assertEqual(os.stat(self.root + secret.SERVICE).st_mode & 0o777, 0o755)
        self.assertEqual(result["snapshot"]["secrets"], {"work:login": "m1"})
        self.assertEqual(ledger.load()["entries"][self.SECRET]["ours"], "m1")
        seen = self.dump()["files"]
        holding = [n for n, (_, text) in seen.items() if text and b"$6$salt$hash" in text]
        self.assertEqual(holding, [self.FILE])
        self.assertNotIn("$6$", json.dumps([result, self.events]))

    def test_it_comes_back_where_a_change_fails_and_goes_with_its_owner(self):
        before = self.dump()
        self.fails("salt-failed", self.given(self.VALUE, [["fail", "x"]]))
        self.assertEqual(self.dump(), before)
        self.apply(self.given(self.VALUE))
        kept = self.dump()
        self.fails("salt-failed", self.given(dict(self.VALUE, mark="m2"), [["fail", "x"]]))
        self.assertEqual(self.dump(), kept)
        self.apply(self.given(None, release=[self.SECRET]))
        self.assertEqual(set(self.dump()["files"]), set(before["files"]))

    def test_what_is_kept_with_its_qube_is_still_handed_out(self):
        self.apply(self.given(self.VALUE))
        self.apply(dict(self.args(), touch=[], release=[self.SECRET], sls="", formula={}, modules={}))
        self.assertEqual(ledger.load()["entries"], {})
        self.assertEqual(self.text(self.FILE), "m1\n$6$salt$hash")
        self.assertTrue(os.path.exists(self.root + secret.SERVICE))

    def test_a_crash_after_it_was_written_is_undone_by_the_guard(self):
        self.apply(self.given(self.VALUE))
        kept = self.dump()
        steps.hook = lambda name: self.cut() if name == "inside.secret" else None
        import apply as apply_module

        real, apply_module._undo = apply_module._undo, lambda *a, **k: {}
        with self.assertRaises(common.Failure):
            self.begin(self.given(dict(self.VALUE, mark="m2", value="other")))
        apply_module._undo = real
        steps.hook = lambda _name: None
        self.assertIn("other", self.text(self.FILE))
        guard.say = lambda *_: None
        self.machine.clock += 10_000
        self.alone()
        self.assertEqual(self.text(self.FILE), kept["files"][self.FILE][1].decode())

    @staticmethod
    def cut():
        raise Cut()

    def test_the_form_of_a_request_is_checked(self):
        for wrong in (
            dict(self.VALUE, mark="a\nb"),
            {"mark": "m"},
            "text",
        ):
            self.fails("bad-request", self.given(wrong))
        self.fails("bad-request", dict(self.args(), secrets={"work:login": self.VALUE}))
        self.fails("bad-request", dict(self.args(), secrets={"work:../x": self.VALUE}))

    def test_dom0s_service_hands_to_a_qube_what_is_that_qubes(self):
        self.apply(self.given(self.VALUE))
        text = self.text(secret.SERVICE).replace(secret.FOLDER, self.root + secret.FOLDER)

        def asked(qube, name, hash_="$6$salt$of-alice"):
            """(status, output), with a sudo and a getent of dom0's."""
            self.put("/bin/sudo", "#!/bin/sh\nshift 2\nexec \"$@\"\n", 0o755)
            self.put("/bin/getent", "#!/bin/sh\necho \"$2:$HASH:1:2\"\n", 0o755)
            env = dict(self.env, QREXEC_REMOTE_DOMAIN=qube, HASH=hash_)
            done = subprocess.run(
                ["sh", "-c", text, "service"] + name, env=env, stdout=subprocess.PIPE, check=False,
                stderr=subprocess.DEVNULL,
            )
            return done.returncode, done.stdout.decode()

        self.assertEqual(asked("work", ["login"]), (0, "$6$salt$hash\n"))
        for qube, name in (
            ("personal", ["login"]),
            ("", ["login"]),
            ("../guard", ["login"]),
            ("work", ["../work/login"]),
            ("work", []),
            ("work", ["vnc"]),
        ):
            self.assertEqual((asked(qube, name)[0] != 0, asked(qube, name)[1]), (True, ""), (qube, name))
        self.apply(self.given({"mark": "dom0:alice", "value": "dom0:alice"}))
        self.assertEqual(asked("work", ["login"]), (0, "$6$salt$of-alice\n"))
        for locked in ("", "!", "!!", "*", "!$6$salt$of-alice"):
            self.assertEqual(asked("work", ["login"], locked), (1, ""), locked)


class Text(unittest.TestCase):
    """What `qubesctl --show-output` prints, read back: with Salt's own outputter where it is there."""

    def test_a_state_is_read_whatever_its_comment_says(self):
        out = """other: OK
fedora:
  ----------
            ID: a packages
      Function: pkg.installed
        Result: False
       Comment: Problem encountered. Additional info follows:
                
                errors:
                    - Unable to find a match: nosuch
                  ID: fake
                ----------
       Started: 16:46:48.519326
      Duration: 0.58 ms
       Changes:   
  ----------
            ID: /etc/x
      Function: file.managed
        Result: True
       Comment: File /etc/x updated
       Started: 16:46:48.521739
      Duration: 7.334 ms
       Changes:   
                ----------
                diff:
                    Result: False
  
  Summary for fedora
  ------------
  Succeeded: 1 (changed=1)
  Failed:    1
next:
  ----------
            ID: not ours
"""
        kind, states, _ = insides.parse("fedora", out)
        self.assertEqual(kind, "states")
        self.assertEqual(
            [(s["id"], s["function"], s["ok"], s["changed"]) for s in states],
            [("a packages", "pkg.installed", False, False), ("/etc/x", "file.managed", True, True)],
        )
        self.assertIn("Unable to find a match: nosuch", states[0]["comment"])
        self.assertIn("ID: fake", states[0]["comment"])

    def test_salts_own_outputter_is_read_back(self):
        try:
            import salt.output.highstate as highstate
        except ImportError:
            self.skipTest("Salt is not here")
        import salt.config

        options = dict(salt.config.DEFAULT_MINION_OPTS, color=False, extension_modules="/nowhere")
        highstate.__opts__ = dict(options, state_verbose=True, state_output="full")
        chance = random.Random(6)
        words = ["Result: True", "----------", "ID: x", "  Comment: y", "", "Summary for fedora", "plain"]
        for _ in range(300):
            data = {}
            for number in range(chance.randint(1, 6)):
                result = chance.random() < 0.6
                comment = "\n".join(chance.choice(words) for _ in range(chance.randint(1, 4)))
                changes = {"x": "Result: False"} if chance.random() < 0.5 else {}
                key = "pkg_|-s%d_|-n%d_|-installed" % (number, number)
                data[key] = {
                    "name": "n%d" % number,
                    "result": result,
                    "comment": comment,
                    "changes": changes,
                    "__run_num__": number,
                    "__id__": "s%d" % number,
                    "start_time": "12:00:00",
                    "duration": 1.5,
                }
            text = highstate.output({"fedora": copy.deepcopy(data)})
            lines = text.splitlines()
            out = "fedora:\n" + "\n".join("  " + line for line in lines[1:]) + "\n"
            kind, states, _ = insides.parse("fedora", out)
            self.assertEqual(kind, "states", out)
            self.assertEqual(
                [(s["id"], s["ok"], s["changed"]) for s in states],
                [(v["__id__"], v["result"], bool(v["changes"])) for v in data.values()],
                out,
            )


if __name__ == "__main__":
    unittest.main()
