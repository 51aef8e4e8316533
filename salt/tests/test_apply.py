"""Apply, undo, ledger, lock and snapshot, in this process against the fake host."""

import errno
import json
import os
import random
import threading
import time
import unittest.mock

from fake import HostCase, qube, wait_for

import apply as apply_module
import common
import journal
import keys
import ledger
import lock
import menu
import policy_lines
import qubes_admin as admin
import snapshot
import steps
import verify

TOUCH = [
    "qube:sys-gui",
    "property:sys-gui:maxmem",
    "feature:sys-gui:gui",
    "tag:sys-gui:mine",
    "global:default_guivm",
    "property:work:memory",
    "file:/etc/qubes/policy.d/50-gui.policy",
    "file:/usr/share/xsessions/new/gui.desktop",
    "package:new-package",
]
ACTIONS = [
    ["admin", "create", "sys-gui", "AppVM", "fedora", "black"],
    ["admin", "set_property", "sys-gui", "maxmem", "4000"],
    ["admin", "set_feature", "sys-gui", "gui", "1"],
    ["admin", "set_tag", "sys-gui", "mine"],
    ["admin", "set_property", None, "default_guivm", "sys-gui"],
    ["admin", "set_property", "work", "memory", "600"],
    ["file", "/etc/qubes/policy.d/50-gui.policy", "a b c d allow\n"],
    ["file", "/usr/share/xsessions/new/gui.desktop", "[x]\n"],
    ["package", "new-package", "4.3.1"],
]
USB = ["net", "*", "0d8c:0014::u010100"]
INCLUDE = "/etc/qubes/policy.d/include/admin-global-rwx"
LINES = ["work @adminvm allow target=dom0", "work work allow target=dom0"]
UNDO = [
    ["admin", "set_property", None, "default_guivm", "dom0"],
    ["admin", "set_property", "work", "memory", "500"],
    ["admin", "remove", "sys-gui"],
]


class Apply(HostCase):
    def test_success(self):
        result = self.apply(
            self.args(
                ACTIONS,
                TOUCH,
                verify=[
                    {"kind": "start", "id": "starts", "qube": "sys-gui", "timeout": 5},
                    {
                        "kind": "guest",
                        "id": "in it",
                        "qube": "sys-gui",
                        "command": "true",
                        "timeout": 5,
                    },
                ],
            )
        )
        self.assertEqual([s["result"] for s in result["states"]], [True] * len(ACTIONS))
        self.assertEqual(
            [(e["id"], e["ok"], e["output"]) for e in result["evidence"]],
            [("starts", True, "sys-gui is running"), ("in it", True, "in sys-gui: true")],
        )
        snap = result["snapshot"]
        self.assertEqual(set(snap["ledger"]), set(TOUCH))
        entry = snap["ledger"]["property:work:memory"]
        self.assertEqual(
            (entry["owner"], entry["first"], entry["ours"]),
            ("urn:gui", {"default": False, "value": "500"}, {"default": False, "value": "600"}),
        )
        self.assertEqual(snap["packages"], {"old-package": "1.2", "new-package": "4.3.1"})
        self.assertEqual((snap["lock"], snap["unfinished"]), (None, None))
        self.assertEqual(snap["qubes"]["sys-gui"]["state"], "Running")
        self.assertIn(
            "states_dirs: [/var/lib/guidomain/salt/_states]", common.read_text(common.DROP_IN)
        )
        self.assertEqual(
            sorted(os.listdir(self.root + common.STATE)), ["agent", "guard", "ledger.json", "salt"]
        )

    def test_failing_state_puts_everything_back(self):
        before = self.dump()
        failure = self.fails(
            "salt-failed", self.args(ACTIONS + [["fail", "maxmem: no \x1b[31mway\x07"]], TOUCH)
        )
        self.assertEqual(self.dump(), before)
        # What refers to the qube was put back first: its removal was not refused.
        self.assertEqual(self.qubes.calls.count("admin.vm.Remove"), 1)
        self.assertEqual(failure.more["failed"][0]["comment"], "maxmem: no way")
        self.assertEqual(failure.more["failed"][0]["function"], "qube.properties")
        self.assertEqual(sorted(failure.more["changed"]), sorted(TOUCH))
        self.assertEqual(sorted(failure.more["undone"]), sorted(TOUCH))
        self.assertEqual(failure.more["left"], {})
        self.assertEqual(
            failure.message, "Salt failed: s9 (qube.properties): maxmem: no way", "that alone"
        )

    def test_a_level_is_the_last_of_its_policy_to_go(self):
        """What the other files allow is wider than it."""
        folder = "/etc/qubes/policy.d/"
        level, gui = folder + "46-level-work.policy", folder + "50-gui-work.policy"
        order, real = [], keys.restore
        before = self.dump()

        def restore(key, *more):
            order.append(key)
            return real(key, *more)

        actions = [["file", name, "a b c d allow\n"] for name in (level, gui)]
        with unittest.mock.patch.object(keys, "restore", restore):
            self.fails(
                "salt-failed",
                self.args(actions + [["fail", "x"]], ["file:" + level, "file:" + gui]),
            )
        self.assertEqual(order, ["file:" + gui, "file:" + level])
        self.assertEqual(self.dump(), before)

    def lines(self):
        """An include file with somebody's line in the middle of ours, and the keys of ours."""
        texts = {
            "without": "## Entries\n\nmgmt @adminvm allow target=dom0\n# no end",
            "with": "## Entries\n%s\n\nmgmt @adminvm allow target=dom0\n%s\n# no end"
            % tuple(LINES),
        }
        return INCLUDE, ["line:%s:%s" % (INCLUDE, line) for line in LINES], texts

    def test_lines_of_a_shared_file_are_claimed_one_by_one_and_go_back_byte_by_byte(self):
        include, touch, texts = self.lines()
        for first, then in (("without", "with"), ("with", "without")):
            self.put(include, texts[first], 0o664)
            before = self.dump()
            actions = [["file", include, texts[then]]]
            failure = self.fails("salt-failed", self.args(actions + [["fail", "x"]], touch))
            self.assertEqual(sorted(failure.more["undone"]), sorted(touch))
            self.assertEqual(self.dump(), before)
        self.put(include, texts["without"])
        self.apply(self.args([["file", include, texts["with"]]], touch))
        entries = ledger.load()["entries"]
        self.assertEqual(
            {key: (entry["first"], entry["ours"]) for key, entry in entries.items()},
            dict.fromkeys(touch, (None, True)),
        )
        self.fails("conflict", self.args([], touch[:1], owner="urn:other"))

    def test_what_others_write_into_a_shared_file_meanwhile_survives_the_undo(self):
        include, touch, texts = self.lines()
        theirs = "new @adminvm allow target=dom0\n"
        self.put(include, texts["without"])
        self.fails(
            "salt-failed",
            self.args([["file", include, theirs + texts["with"]], ["fail", "x"]], touch),
        )
        self.assertEqual(self.text(include), theirs + texts["without"])
        self.put(include, texts["with"])
        self.fails(
            "salt-failed",
            self.args([["file", include, theirs + texts["without"]], ["fail", "x"]], touch),
        )
        self.assertEqual(
            sorted(self.text(include).split("\n")), sorted((theirs + texts["with"]).split("\n"))
        )

    def test_a_line_is_of_an_include_file_and_of_printable_ascii(self):
        for path, line in (
            ("/etc/qubes/policy.d/30-user.policy", "a b allow"),
            ("/etc/qubes/policy.d/include/../30-user.policy", "a b allow"),
            ("/etc/qubes/policy.d/include/x", "a b allow\n* * allow"),
            ("/etc/qubes/policy.d/include/x", ""),
        ):
            self.fails("bad-request", self.args([], ["line:%s:%s" % (path, line)]))

    def test_undo_of_a_level_is_never_wider_than_before_and_after(self):
        """An admin's lines come back before the level that lets them count, and go after the level
        that does not; where the level goes itself, before it."""
        include, touch, texts = self.lines()
        level = "/etc/qubes/policy.d/46-level-work.policy"
        order, real = [], keys.restore

        def restore(key, *more):
            if key.startswith(("line:", "file:")):
                order.append(key)
            return real(key, *more)

        for was, policy, expected in (
            ("without", "a b c d deny\n", ["file:" + level] + touch),
            ("with", "a b c d allow\n", touch + ["file:" + level]),
            ("without", None, touch + ["file:" + level]),
        ):
            self.put(include, texts[was])
            if policy is None:
                os.unlink(self.root + level)
            else:
                self.put(level, policy)
            before, order[:] = self.dump(), []
            becomes = texts["with" if was == "without" else "without"]
            actions = [["file", include, becomes], ["file", level, "x y z d deny\n"], ["fail", "x"]]
            with unittest.mock.patch.object(keys, "restore", restore):
                self.fails("salt-failed", self.args(actions, touch + ["file:" + level]))
            self.assertEqual((order, self.dump()), (expected, before))

    def test_what_a_killed_salt_was_writing_goes_and_nothing_else(self):
        policy = "/etc/qubes/policy.d/50-gui.policy"
        with open(self.root + policy + "older_08", "w") as file:
            file.write("somebody else's, from before")
        os.utime(self.root + policy + "older_08", (1, 1))
        before = self.dump()
        half = [["file", policy + "half_w8n", "x"], ["litter"], ["fail", "x"]]
        self.fails("salt-failed", self.args(ACTIONS + half, TOUCH))
        self.assertEqual(self.dump(), before)
        self.apply(self.args(ACTIONS + [["litter"]], TOUCH))
        self.assertFalse(os.path.exists(self.root + common.SCRATCH))

    def test_a_check_may_wait_until_it_passes(self):
        self.put("/tries", "")
        count = 'echo x >> "$FAKE_ROOT/tries"; test $(wc -l < "$FAKE_ROOT/tries") -ge 3'
        patient = {"kind": "host", "id": "p", "argv": ["sh", "-c", count], "timeout": 30, "until": True}
        false = {"kind": "host", "id": "no", "argv": ["false"], "timeout": 5}
        with unittest.mock.patch.object(verify, "PAUSE", 0.01):
            self.fails("verify-failed", self.args(ACTIONS, TOUCH, verify=[patient, false]))
            self.assertEqual(len(self.text("/tries").splitlines()), 3, "until it passes")
            self.put("/tries", "")
            self.fails("verify-failed", self.args(ACTIONS, TOUCH, verify=[false, patient]))
        self.assertEqual(len(self.text("/tries").splitlines()), 1, "not after what it rests on failed")

    def test_other_failures_put_everything_back(self):
        before = self.dump()
        start = {"kind": "start", "id": "s", "qube": "sys-gui", "timeout": 5}
        guest = {"kind": "guest", "id": "g", "qube": "sys-gui", "command": "false", "timeout": 5}
        failure = self.fails("verify-failed", self.args(ACTIONS, TOUCH, verify=[start, guest]))
        self.assertEqual([e["ok"] for e in failure.more["evidence"]], [True, False])
        self.assertIn("exit 3", failure.message)
        self.assertEqual(self.dump(), before)
        host = {"kind": "host", "id": "h", "argv": ["sleep", "5"], "timeout": 0.2}
        self.assertIn(
            "no end within 0.2 s",
            self.fails("verify-failed", self.args(ACTIONS, TOUCH, verify=[host])).message,
        )
        self.assertEqual(self.dump(), before)
        failure = self.fails(
            "salt-compile", self.args([["compile", "Rendering SLS failed: x"]], TOUCH)
        )
        self.assertTrue(failure.message.endswith("Rendering SLS failed: x"), failure.message)
        self.assertEqual(failure.more["changed"], [])
        self.fails(
            "salt-missing",
            self.args([["die", "ModuleNotFoundError: No module named 'salt'", 1]], TOUCH),
        )
        self.assertIn(
            "boom",
            self.fails("salt-failed", self.args(ACTIONS + [["die", "boom", 5]], TOUCH)).message,
        )
        self.assertEqual(self.dump(), before)

    def test_salt_missing(self):
        before = self.dump()
        os.unlink(self.root + "/bin/qubesctl")
        before["files"].pop("/bin/qubesctl")
        self.assertIn(
            "qubesctl is not in dom0", self.fails("salt-missing", self.args(ACTIONS, TOUCH)).message
        )
        self.assertEqual(self.dump(), before)

    def test_not_qubes_and_no_root(self):
        os.unlink(self.root + "/etc/qubes-release")
        before = self.dump()
        self.fails("not-qubes", self.args(ACTIONS, TOUCH))
        self.assertEqual(self.dump(), before)

    def test_bad_requests(self):
        before = self.dump()
        for change in (
            {"touch": ["nonsense:x"]},
            {"touch": ["file:/etc/../x"]},
            {"touch": ["package:-x"]},
            {"formula": {"other/x.sls": ""}},
            {"formula": {"guidomain/../x": ""}},
            {"sls": "top"},
            {"modules": {"x": ""}},
            {"wait": "1"},
            {"touch": ["property:a b:c"]},
            {"release": None},
            {"claims": {"takes": {}}},
            {"claims": dict(ledger.NO_CLAIMS, takes={"global:default_guivm": "urn:b"})},
            {"claims": dict(ledger.NO_CLAIMS, waits={"nothing": None})},
        ):
            self.fails("bad-request", self.args(ACTIONS, **dict({"touch": []}, **change)))
        self.assertEqual(self.dump(), before)

    def test_conflict(self):
        self.apply(self.args(ACTIONS, TOUCH))
        before = self.dump()
        failure = self.fails("conflict", self.args([], ["property:work:memory"], owner="urn:other"))
        self.assertEqual(failure.message, "property:work:memory belongs to urn:gui")
        self.fails("conflict", self.args([], [], release=["qube:sys-gui"], owner="urn:other"))
        self.assertEqual(self.dump(), before)

    def test_a_plan_from_the_middle_of_a_trial_that_was_undone_forgets_nothing(self):
        """It took a value that was about to be given back for somebody else's."""
        ours, other = "property:work:memory", "property:fedora:memory"
        self.apply(self.args([["admin", "set_property", "work", "memory", "700"]], [ours]))
        before, change = self.dump(), [["admin", "set_property", "fedora", "memory", "600"]]
        failure = self.fails("outdated", self.args(change, [other], release=[ours]))
        self.assertIn(ours, failure.message)
        self.assertEqual(self.dump(), before)
        admin.set_property("work", "memory", "650")  # now it is somebody else's
        self.apply(self.args(change, [other], release=[ours]))
        self.assertNotIn(ours, ledger.load()["entries"])

    def test_a_package_serves_several_and_goes_with_the_last(self):
        key, begun = "package:new-package", time.time()
        self.apply(self.args(ACTIONS[-1:], [key], owner="urn:a"))
        for owner in ("urn:b", "urn:c"):
            self.apply(self.args([], [key], owner=owner))
        entry = ledger.load()["entries"][key]
        self.assertEqual((entry["owner"], entry["also"]), ("urn:a", ["urn:b", "urn:c"]))
        self.assertIsNone(entry["first"])
        self.assertGreaterEqual(entry["at"], begun)
        release = dict(formula={}, sls="", modules={})
        self.apply(self.args([], [], owner="urn:b", release=[key], **release))
        self.assertEqual(ledger.load()["entries"][key]["also"], ["urn:c"])
        self.apply(self.args([], [], owner="urn:a", release=[key], **release))
        left = ledger.load()["entries"][key]
        self.assertEqual((left["owner"], "also" in left, left["first"]), ("urn:c", False, None))
        # A snapshot tells of the ledger's packages, though nobody asks.
        seen = snapshot.snapshot({"packages": []})
        self.assertEqual(seen["packages"], {"new-package": "4.3.1"})
        self.apply(self.args([], [], owner="urn:c", release=[key], **release))
        self.assertIsNone(common.read_text(common.LEDGER))

    # Who wants a default, each with its own qube.
    DEFAULT, WANT = "global:default_guivm", {"urn:a": "work", "urn:b": "sys-gui", "urn:c": "fedora"}

    def change(self, owner, value=None, touch=(), release=(), **claims):
        actions = [["admin", "set_property", None, "default_guivm", value]] if value else []
        # What is its own besides: who waits has something there as well.
        own = ["property:work:" + {"a": "memory", "b": "vcpus", "c": "maxmem"}[owner[-1]]]
        claims = dict(ledger.NO_CLAIMS, **claims)
        args = self.args(actions, own + list(touch), owner=owner, release=list(release))
        return dict(args, claims=claims)

    def has(self, owner, **claims):
        return self.apply(self.change(owner, self.WANT[owner], [self.DEFAULT], **claims))

    def waits(self, owner):
        value = {"default": False, "value": self.WANT[owner]}
        return self.apply(self.change(owner, waits={self.DEFAULT: value}))

    def entry(self):
        return ledger.load()["entries"].get(self.DEFAULT)

    def order(self):
        return [self.entry()["owner"]] + ledger.waiting(self.entry())

    def test_who_waits_gets_it_when_its_owner_lets_go_and_the_first_value_stays(self):
        admin.create("sys-gui", "AppVM", "fedora", "black")
        before = self.dump()
        self.has("urn:a")
        # Nobody takes it by just writing it, and who waits may not write it either.
        self.fails("conflict", self.change("urn:b", "sys-gui", [self.DEFAULT]))
        self.waits("urn:b")
        self.waits("urn:c")
        self.waits("urn:b")  # again: still before c
        self.assertEqual(self.order(), ["urn:a", "urn:b", "urn:c"])
        self.assertEqual(admin.get_property(None, "default_guivm")["value"], "work")
        self.fails("conflict", self.change("urn:b", "sys-gui", [self.DEFAULT]))
        # A plan that has not seen who waits would give the default back to dom0.
        late = self.change("urn:a", "dom0", [self.DEFAULT], [self.DEFAULT])
        self.assertIn(self.DEFAULT, self.fails("outdated", late).message)
        heirs = {self.DEFAULT: "urn:b"}
        self.apply(
            self.change("urn:a", "sys-gui", [self.DEFAULT], [self.DEFAULT], heirs=heirs)
        )
        self.assertEqual(self.order(), ["urn:b", "urn:c"])
        self.assertEqual(self.entry()["first"]["value"], "dom0")
        self.assertEqual(self.entry()["ours"]["value"], "sys-gui")
        # Who waits lets go: the default is not touched. Then nobody is left to inherit it.
        self.apply(self.change("urn:c", release=[self.DEFAULT]))
        self.assertEqual(self.order(), ["urn:b"])
        gone = self.change("urn:b", "fedora", [self.DEFAULT], [self.DEFAULT], heirs={self.DEFAULT: "urn:c"})
        self.fails("outdated", gone)
        self.apply(self.change("urn:b", "dom0", [self.DEFAULT], [self.DEFAULT]))
        for owner in self.WANT:
            release = [key for key, e in ledger.load()["entries"].items() if e["owner"] == owner]
            self.apply(self.args([], [], owner=owner, release=release, formula={}, sls="", modules={}))
        self.assertIsNone(common.read_text(common.LEDGER))
        admin.reset_property("work", "maxmem")
        self.assertEqual(self.dump(), before)

    def test_to_wait_for_what_nobody_has_any_more_is_a_plan_of_before(self):
        self.assertIn(self.DEFAULT, self.fails("outdated", self.change("urn:b", waits={self.DEFAULT: None})).message)
        self.has("urn:a")
        self.fails("outdated", self.change("urn:a", waits={self.DEFAULT: None}))

    def test_what_is_left_as_it_is_becomes_the_next_ones_all_the_same(self):
        self.has("urn:a")
        self.waits("urn:c")
        release = dict(formula={}, sls="", modules={}, release=[self.DEFAULT])
        heirs = dict(ledger.NO_CLAIMS, heirs={self.DEFAULT: "urn:c"})
        self.apply(self.args([], [], owner="urn:a", claims=heirs, **release))
        self.assertEqual(self.order(), ["urn:c"])
        self.assertEqual(admin.get_property(None, "default_guivm")["value"], "work")

    def test_one_takes_from_another_what_its_program_says(self):
        self.has("urn:a")
        self.waits("urn:c")
        self.fails("conflict", self.change("urn:c", "fedora", [self.DEFAULT], takes={self.DEFAULT: {"from": "urn:b", "waits": False}}))
        taken = {self.DEFAULT: {"from": "urn:a", "waits": True}}
        self.has("urn:c", takes=taken)
        self.assertEqual(self.order(), ["urn:c", "urn:a"])
        self.assertEqual(self.entry()["first"]["value"], "dom0")
        self.has("urn:a", takes={self.DEFAULT: {"from": "urn:c", "waits": False}})
        self.assertEqual(self.order(), ["urn:a"])

    def test_a_change_that_fails_leaves_claims_as_they_were(self):
        self.has("urn:a")
        self.waits("urn:c")
        for args in (
            self.change("urn:a", "fedora", [self.DEFAULT], [self.DEFAULT], heirs={self.DEFAULT: "urn:c"}),
            self.change("urn:c", "fedora", [self.DEFAULT], takes={self.DEFAULT: {"from": "urn:a", "waits": False}}),
            self.change("urn:c", release=[self.DEFAULT]),
        ):
            before = self.dump()
            formula = json.loads(args["formula"]["guidomain/sys-gui.sls"]) + [["fail", "x"]]
            args["formula"] = {"guidomain/sys-gui.sls": json.dumps(formula)}
            self.fails("salt-failed", args)
            self.assertEqual(self.dump(), before)

    def test_a_resource_with_another_name_keeps_what_it_has(self):
        self.has("urn:a")
        self.waits("urn:b")
        renamed = dict(self.change("urn:c"), touch=["property:work:memory"])
        self.fails("conflict", renamed)
        renamed["claims"] = dict(ledger.NO_CLAIMS, formerly="urn:a")
        self.apply(renamed)
        book = ledger.load()
        self.assertEqual(self.order(), ["urn:c", "urn:b"])
        self.assertEqual(book["entries"]["property:work:memory"]["owner"], "urn:c")
        self.assertNotIn("urn:a", ledger.claimants(book))
        self.assertEqual(sorted(book["formulas"]), ["urn:b", "urn:c"])

    def test_whatever_order_they_come_and_go_in_somebody_who_wants_it_has_it_or_nobody_does(self):
        key, first, dice, seen = self.DEFAULT, "dom0", random.Random(5), set()
        book, now = {"entries": {}, "formulas": {}}, first
        for at in range(500):
            owner, entry = dice.choice(sorted(self.WANT)), book["entries"].get(key)
            names = [entry["owner"]] + ledger.waiting(entry) if entry else []
            expected = [name for name in names if name != owner]
            claims = dict(ledger.NO_CLAIMS)
            if owner not in names:
                expected = names + [owner]
                if names:
                    claims["waits"] = {key: self.WANT[owner]}
                else:
                    ledger.claim(book, owner, {key: now}, {key: self.WANT[owner]}, at)
                    now = self.WANT[owner]
                ledger.wait(book, owner, claims["waits"])
            else:
                if names[0] == owner:
                    value = self.WANT[expected[0]] if expected else entry["first"]
                    claims["heirs"] = {key: expected[0]} if expected else {}
                    ledger.claim(book, owner, {key: now}, {key: value}, at)
                    now = value
                self.assertEqual(ledger.outdated(book, owner, [key], claims), set())
                ledger.release(book, owner, [key], claims["heirs"])
            left = book["entries"].get(key)
            self.assertEqual([left["owner"]] + ledger.waiting(left) if left else [], expected)
            self.assertEqual(now, self.WANT[expected[0]] if expected else first)
            self.assertEqual(left["first"] if left else first, first)
            seen.add(tuple(expected))
        self.assertEqual(len(seen), 16)  # every order of every number of them

    def test_clients_that_are_restarted_start_after_the_change(self):
        admin.start("work")
        start, starts = verify.start, []
        verify.start = lambda *args: starts.append(time.time()) or start(*args)
        self.addCleanup(setattr, verify, "start", start)
        result = self.apply(self.args(ACTIONS[:1], TOUCH[:1], restart=["work"]))
        self.assertEqual(result["restarted"], ["work"])
        self.assertLessEqual(ledger.load()["entries"]["qube:sys-gui"]["at"], starts[0])

    def test_what_is_put_right_counts_as_written_then(self):
        key = "property:work:memory"
        actions = [["admin", "set_property", "work", "memory", "700"]]
        self.apply(self.args(actions, [key]))
        first = ledger.load()["entries"][key]["at"]
        self.apply(self.args(actions, [key]))
        self.assertEqual(ledger.load()["entries"][key]["at"], first)  # as it was
        admin.set_property("work", "memory", "650")
        self.apply(self.args(actions, [key]))
        self.assertGreater(ledger.load()["entries"][key]["at"], first)

    def test_first_value_is_kept_and_destroy_leaves_nothing(self):
        before = self.dump()
        self.apply(self.args(ACTIONS, TOUCH))
        self.apply(
            self.args(
                [["admin", "set_property", "work", "memory", "700"]], ["property:work:memory"]
            )
        )
        entry = ledger.load()["entries"]["property:work:memory"]
        self.assertEqual((entry["first"]["value"], entry["ours"]["value"]), ("500", "700"))
        args = self.args(
            [["admin", "set_property", "fedora", "memory", "600"]],
            ["property:fedora:memory"],
            owner="urn:b",
            formula={"guidomain/b/x.txt": "x", "guidomain/b.sls": json.dumps([])},
            sls="guidomain.b",
        )
        self.apply(args)
        self.assertTrue(os.path.exists(self.root + "/srv/user_salt/guidomain/b/x.txt"))
        self.apply(dict(args, touch=[], release=["property:fedora:memory"]))
        self.assertFalse(os.path.exists(self.root + "/srv/user_salt/guidomain/b.sls"))
        self.assertTrue(os.path.exists(self.root + "/srv/user_salt/guidomain/sys-gui.sls"))
        undo = UNDO + [["file", "/packages", json.dumps({"old-package": "1.2"})]]
        for name in TOUCH:
            if name.startswith("file:"):
                os.unlink(self.root + name[5:])
        result = self.apply(self.args(undo, TOUCH, release=TOUCH, shutdown=["sys-gui"]))
        self.assertEqual(result["snapshot"]["ledger"], {})
        self.assertEqual(self.dump(), before)

    def test_a_failing_second_apply_keeps_the_first(self):
        self.apply(self.args(ACTIONS, TOUCH))
        before = self.dump()
        args = self.args(
            [["admin", "set_property", "work", "memory", "700"], ["fail", "x"]],
            ["property:work:memory"],
        )
        args["formula"]["guidomain/sys-gui/more.txt"] = "more"
        args["modules"]["_states/qube.py"] = "# newer\n"
        self.fails("salt-failed", args)
        self.assertEqual(self.dump(), before)

    def test_failing_delete_makes_the_qube_again_and_says_what_is_lost(self):
        self.apply(self.args(ACTIONS, TOUCH))
        before = self.qubes.dump()
        failure = self.fails("salt-failed", self.args(UNDO + [["fail", "x"]], TOUCH, release=TOUCH))
        self.assertEqual(self.qubes.dump(), before)
        self.assertEqual(list(failure.more["left"]), ["qube:sys-gui"])
        self.assertIn("private volume", str(failure.more["left"]))
        # It is as before now, so the journal that is kept for it is undone without more ado.
        self.apply(
            self.args(
                [["admin", "set_property", "work", "memory", "700"]], ["property:work:memory"]
            )
        )
        self.assertIn("recover", [stage for stage, _ in self.events])

    def test_a_gui_domain_with_running_clients(self):
        """Its clients are moved off first, by the undo as by the formula that removes it."""
        self.qubes.qubes["personal"]["state"] = "Running"
        before = self.dump()
        start = {"kind": "start", "id": "s", "qube": "sys-gui", "timeout": 5}
        false = {"kind": "host", "id": "no", "argv": ["false"], "timeout": 5}
        failure = self.fails("verify-failed", self.args(ACTIONS, TOUCH, verify=[start, false]))
        self.assertEqual(failure.more["left"], {})
        self.assertEqual(self.dump(), before)
        # The same for a qube that was there before.
        admin.create("sys-gui", "AppVM", "fedora", "black")
        before = self.dump()
        args = self.args(ACTIONS[1:], TOUCH, verify=[start, false])
        self.assertEqual(self.fails("verify-failed", args).more["left"], {})
        self.assertEqual(self.dump(), before)
        self.apply(self.args(ACTIONS[1:], TOUCH, verify=[start]))
        args = self.args(UNDO[:2] + [["admin", "shutdown", "sys-gui"]] + UNDO[2:], TOUCH)
        self.apply(dict(args, release=TOUCH, shutdown=["sys-gui"]))
        self.assertIn("sys-gui not yet: There are running VMs", str(self.events))
        self.assertNotIn("sys-gui", self.qubes.qubes)

    def test_a_gui_domain_that_starts_anew(self):
        """It is stopped though a running client names it, and runs again after a failure, too."""
        admin.create("sys-gui", "AppVM", "fedora", "black")
        admin.set_property("personal", "guivm", "sys-gui")
        self.qubes.qubes["personal"]["state"] = "Running"
        start = {"kind": "start", "id": "s", "qube": "sys-gui", "timeout": 5}
        false = {"kind": "host", "id": "no", "argv": ["false"], "timeout": 5}
        vnc = [["admin", "set_feature", "sys-gui", "service.guivm-vnc", "1"]]
        touch = ["feature:sys-gui:service.guivm-vnc"]
        off = self.dump()
        failure = self.fails("verify-failed", self.args(vnc, touch, verify=[start, false]))
        self.assertEqual(failure.more["left"], {})
        self.assertEqual(self.dump(), off)
        admin.start("sys-gui")
        on = self.dump()
        args = self.args(vnc, touch, shutdown=["sys-gui"], verify=[start, false])
        self.assertEqual(self.fails("verify-failed", args).more["left"], {})
        self.assertEqual(self.dump(), on)
        self.apply(self.args(vnc, touch, shutdown=["sys-gui"], verify=[start]))
        self.assertEqual(admin.power_state("sys-gui"), "Running")
        self.assertEqual(admin.get_feature("sys-gui", "service.guivm-vnc"), "1")

    def test_only_the_ledger(self):
        self.apply(self.args(ACTIONS, TOUCH))
        before = self.qubes.dump()
        os.unlink(self.root + "/bin/qubesctl")
        result = self.apply(self.args(sls="", formula={}, modules={}, release=TOUCH))
        self.assertEqual((result["states"], result["snapshot"]["ledger"]), ([], {}))
        self.assertEqual(self.qubes.dump(), before)
        self.assertFalse(os.path.exists(self.root + common.STATE))
        self.assertFalse(os.path.exists(self.root + common.FORMULA))

    def test_shutdown_and_restart_are_undone(self):
        self.qubes.qubes["work"]["state"] = self.qubes.qubes["personal"]["state"] = "Running"
        before = self.dump()
        self.fails("salt-failed", self.args([["fail", "x"]], [], shutdown=["work"]))
        self.assertEqual(self.dump(), before)
        result = self.apply(self.args([], ["property:work:memory"], restart=["work", "fedora"]))
        self.assertEqual(result["restarted"], ["work"])
        self.qubes.stubborn = {"personal"}
        self.qubes.qubes["personal"]["own"]["shutdown_timeout"] = "0"
        failure = self.fails("shutdown-refused", self.args([], [], shutdown=["personal"]))
        self.assertEqual(failure.message, "personal did not shut down within 0 s")
        self.assertEqual(failure.more["changed"], [])
        self.assertEqual(self.qubes.qubes["personal"]["state"], "Running")
        self.assertEqual(self.apply(self.args([], [], restart=["personal"]))["restarted"], [])

    def test_what_cannot_be_put_back_is_left_and_tried_again(self):
        before = self.dump()
        # Somebody else begins to use the new qube while the apply runs.
        actions = ACTIONS + [
            ["admin", "set_property", "personal", "guivm", "sys-gui"],
            ["fail", "x"],
        ]
        failure = self.fails("salt-failed", self.args(actions, TOUCH))
        self.assertEqual(
            failure.more["left"].pop("qube:sys-gui"),
            "Domain is in use: 'sys-gui' (admin.vm.Remove on sys-gui)",
        )
        self.assertEqual(
            set(failure.more["left"].values()),
            {"goes with qube:sys-gui, which could not be removed"},
        )
        snap = snapshot.snapshot({"packages": []})
        self.assertEqual(
            (snap["unfinished"]["holder"], sorted(snap["unfinished"]["keys"])),
            ("alice@desk", sorted(TOUCH)),
        )
        again = self.fails("unfinished", self.args(ACTIONS, TOUCH))
        self.assertEqual(again.message, "an earlier apply of alice@desk could not be undone")
        self.assertIn("Domain is in use", again.more["left"]["qube:sys-gui"])
        del self.qubes.qubes["personal"]["own"]["guivm"]
        self.fails("salt-failed", self.args([["fail", "x"]], TOUCH))
        self.assertEqual(self.dump(), before)

    def test_cancel_ends_salt_and_all_its_children(self):
        before = self.dump()
        stop = common.Stop()

        def cancel():
            wait_for(lambda: os.path.exists(self.root + "/child"))
            stop.set()

        threading.Thread(target=cancel).start()
        failure = self.fails("cancelled", self.args(ACTIONS + [["child"]], TOUCH), stop)
        self.assertEqual(failure.message, "cancelled")
        self.assertEqual(len(failure.more["undone"]), 9)
        with open(self.root + "/child") as file:
            child = file.read()
        self.assertFalse(os.path.exists("/proc/" + child))
        os.unlink(self.root + "/child")
        self.assertEqual(self.dump(), before)

    def test_cancel_while_a_qube_starts(self):
        before = self.dump()
        self.qubes.start_seconds = 1
        stop = common.Stop()
        threading.Timer(0.6, stop.set).start()
        self.fails(
            "cancelled",
            self.args(
                ACTIONS,
                TOUCH,
                verify=[{"kind": "start", "id": "s", "qube": "sys-gui", "timeout": 30}],
            ),
            stop,
        )
        self.assertEqual(self.dump(), before)

    def test_file_owners_links_and_odd_bytes(self):
        name = "/etc/qubes/policy.d/include/odd"
        with open(self.root + name, "wb") as file:
            file.write(b"\xff\x00bytes")
        os.chmod(self.root + name, 0o664)
        if os.getuid() == 0:
            os.chown(self.root + name, 0, 77)
        owner = os.stat(self.root + name).st_gid
        before = self.dump()
        self.fails(
            "salt-failed", self.args([["file", name, "text"], ["fail", "x"]], ["file:" + name])
        )
        self.assertEqual(self.dump(), before)
        self.assertEqual(os.stat(self.root + name).st_gid, owner)
        os.symlink("/etc/passwd", self.root + "/etc/link")
        before = self.dump()
        self.assertIn(
            "symbolic link", self.fails("bad-request", self.args([], ["file:/etc/link"])).message
        )
        self.assertEqual(self.dump(), before)

    def test_disk_full_at_every_write(self):
        """The disk is full from the 1st, 2nd, … write on, but for what the way back has reserved:
        nothing is changed, and nothing stays."""
        before = self.dump()
        real = {name: getattr(os, name) for name in ("write", "posix_fallocate")}
        main, hits = threading.get_ident(), 0
        for limit in range(1, 100):
            left, reserved = [limit], [False]

            def guarded(function):
                def call(fd, *args):
                    if threading.get_ident() == main and os.readlink(
                        "/proc/self/fd/%d" % fd
                    ).startswith(self.root):
                        left[0] -= 1
                        there = os.path.exists(self.root + common.RESERVE)
                        reserved[0] |= there
                        if left[0] <= 0 and (there or not reserved[0]):
                            raise OSError(errno.ENOSPC, "No space left on device")
                    return function(fd, *args)

                return call

            for name in real:
                setattr(os, name, guarded(real[name]))
            try:
                self.apply(self.args(ACTIONS, TOUCH))
            except common.Failure as failure:
                self.assertEqual(failure.code, "disk-full", failure.message)
                self.assertEqual(failure.more["left"], {})
                hits += 1
            finally:
                for name in real:
                    setattr(os, name, real[name])
            if left[0] > 0:
                break
            if os.path.exists(self.root + common.LEDGER):
                break  # what comes after the ledger is not part of the change
            self.assertEqual(self.dump(), before, "write %d" % limit)
        self.assertGreater(hits, 5)

    def test_too_little_space(self):
        before, real = self.dump(), os.statvfs
        os.statvfs = lambda name: os.statvfs_result((4096, 4096, 9, 9, 9, 9, 9, 9, 0, 255))
        try:
            self.assertIn("are needed", self.fails("disk-full", self.args(ACTIONS, TOUCH)).message)
        finally:
            os.statvfs = real
        self.assertEqual(self.dump(), before)

    def test_salt_that_fails_for_want_of_space(self):
        """The reason is the disk, not the change: it is not remembered as one that cannot work."""
        before, real = self.dump(), os.statvfs
        full = os.statvfs_result((4096, 4096, 9, 9, 9, 9, 9, 9, 0, 255))
        steps.hook = lambda name: (
            name == "apply.shutdown" and setattr(os, "statvfs", lambda _: full)
        )
        try:
            args = self.args([["die", "OSError: No space left on device", 1]], TOUCH)
            self.assertIn("No space left", self.fails("disk-full", args).message)
        finally:
            os.statvfs = real
        self.assertEqual(self.dump(), before)

    def test_committed_but_not_cleaned_up_is_not_undone(self):
        real, journal_end = journal.end, []
        journal.end = lambda: (
            journal_end.append(1) or os._exit
        )  # "killed" right after the ledger was written
        try:
            self.apply(self.args(ACTIONS, TOUCH))
        finally:
            journal.end = real
        self.assertTrue(os.path.exists(self.root + common.JOURNAL))
        self.assertIsNone(journal.load())
        self.apply(
            self.args(
                [["admin", "set_property", "work", "memory", "700"]], ["property:work:memory"]
            )
        )
        self.assertIn("sys-gui", self.qubes.qubes)
        self.assertFalse(os.path.exists(self.root + common.JOURNAL))

    def test_half_written_files_of_a_killed_agent_go(self):
        before = self.dump()
        formula = common.FORMULA + "/guidomain/x.sls"
        record = journal.plan(self.args(touch=TOUCH), [formula, common.DROP_IN], "id")
        journal.begin(record)
        for name in (formula, common.DROP_IN, "/etc/qubes/policy.d/50-gui.policy"):
            os.makedirs(os.path.dirname(self.root + name), exist_ok=True)
            self.put(name + common.BEGUN, "half")
        journal.recover(lambda *_: None, apply_module.runner.run)
        self.assertEqual(self.dump(), before)

    def test_unreadable_ledger(self):
        os.makedirs(self.root + common.STATE)
        self.put(common.LEDGER, "{")
        before = self.dump()
        self.assertIn("cannot be read", self.fails("internal", self.args(ACTIONS, TOUCH)).message)
        self.assertEqual(self.dump(), before)

    def test_random_changes_are_undone(self):
        """Any state, any changes to any keys by a formula that then fails: everything is as
        before."""
        dice = random.Random(11)
        kinds = {}
        for _ in range(30):
            self.randomise(dice)
            touch, actions = self.random_change(dice)
            for key in touch:
                kinds[key.split(":")[0]] = kinds.get(key.split(":")[0], 0) + 1
            files = self.dump()["files"]
            before = self.qubes.dump()
            failure = self.undone(touch, actions)
            self.assertEqual(failure["left"], {}, (touch, actions))
            self.assertEqual(set(failure["undone"]), set(failure["changed"]))
            self.assertEqual(self.qubes.dump()[0], before[0])
            for name, was in before[1].items():
                now = self.qubes.qubes[name]
                self.assertEqual(
                    (now["own"], now["features"], sorted(now["tags"]), now["state"], now["pci"], now["usb"]),
                    (was["own"], was["features"], sorted(was["tags"]), was["state"], was["pci"], was["usb"]),
                    (name, actions),
                )
            self.assertEqual(set(self.qubes.qubes), set(before[1]))
            self.assertEqual(self.dump()["files"], files)
        print("keys in random undos:", kinds)
        # These two no formula writes; test_inside.py has them.
        self.assertEqual(set(kinds), set(keys.FORMS) - {"secret", "volume", "assignable"})

    def randomise(self, dice):
        q = self.qubes
        q.qubes = {
            "dom0": dict(qube("AdminVM"), state="Running"),
            "fedora": qube("TemplateVM"),
            "net": qube(),
        }
        q.qubes["net"]["own"]["provides_network"] = "True"
        for name in dice.sample(["a", "b", "c"], 2):
            q.qubes[name] = qube(netvm=dice.choice(["", "net"]), memory=dice.choice(["400", "900"]))
            q.qubes[name]["features"] = {
                f: dice.choice(["", "1", "x y"]) for f in dice.sample(["f", "g", "service.h"], 2)
            }
            q.qubes[name]["tags"] = ["created-by-dom0", dice.choice(["t", "owner-bob"])]
            if dice.random() < 0.5:
                admin.assign_pci(name, "00_02.0", "*", {})
            if dice.random() < 0.5:
                admin.assign_usb(name, *USB, dice.choice(["auto-attach", "ask-to-attach"]))
        q.globals = {"default_guivm": dice.choice(sorted(q.qubes))}
        self.put("/packages", json.dumps({"old-package": "1.2"}))
        lines = dice.choices(LINES + ["# x", "", "mgmt @adminvm ask"], k=dice.randrange(6))
        self.put(INCLUDE, "\n".join(lines))

    def pci(self, name):
        return self.qubes.qubes[name]["pci"] if name in self.qubes.qubes else []

    def random_change(self, dice):
        """Keys and what is done to them; a new qube comes first, references to it later."""
        actions, touch, names = [], [], [n for n in self.qubes.qubes if n not in ("dom0", "fedora")]
        if dice.random() < 0.6:
            touch.append("qube:new")
            actions.append(["admin", "create", "new", "AppVM", "fedora", "black"])
            names.append("new")
        for name in names:
            for prop, values in (
                ("memory", ["300", "400"]),
                ("netvm", ["", "net"]),
                ("guivm", ["dom0", names[-1]]),
            ):
                if dice.random() < 0.5 and not (name == "net" and prop == "netvm"):
                    touch.append("property:%s:%s" % (name, prop))
                    actions.append(
                        ["admin", "set_property", name, prop, dice.choice(values)]
                        if dice.random() < 0.7
                        else ["admin", "reset_property", name, prop]
                    )
            for feature in ("f", "service.h"):
                if dice.random() < 0.5:
                    touch.append("feature:%s:%s" % (name, feature))
                    actions.append(
                        ["admin", "set_feature", name, feature, "9"]
                        if dice.random() < 0.6
                        else ["admin", "remove_feature", name, feature]
                    )
            if dice.random() < 0.5:
                ways = ["00_02.0 *", "00_02.0 0x8086:0x9b41::p030000", "* 0x8086:0x9b41::p030000"]
                port, device = dice.choice(ways).split()
                touch.append("device:%s:%s:%s" % (name, port, device))
                had = any(
                    entry[0].endswith("+%s:%s" % (port, device)) for entry in self.pci(name)
                )
                actions.append(
                    ["admin", "unassign_pci", name, port, device]
                    if had
                    else ["admin", "assign_pci", name, port, device, {"permissive": "True"}]
                )
            if dice.random() < 0.5:
                touch.append("usb:%s:%s" % (name, ":".join(USB)))
                had = name in self.qubes.qubes and self.qubes.qubes[name]["usb"]
                actions.append(["admin", "take_usb" if had else "assign_usb", name, *USB])
            if dice.random() < 0.5:
                touch.append("tag:%s:t" % name)
                actions.append(["admin", dice.choice(["set_tag", "remove_tag"]), name, "t"])
        if dice.random() < 0.6:
            touch.append("global:default_guivm")
            actions.append(["admin", "set_property", None, "default_guivm", names[-1]])
        for token in ("guidomain.gpu=a", "rd.qubes.hide_pci=00_02.0", "x.y=1"):
            if dice.random() < 0.4:
                touch.append("bootarg:" + token)
                actions.append(["token", token, True])
        if dice.random() < 0.5:
            touch.append("package:new-package")
            actions.append(["package", "new-package", "1"])
        if dice.random() < 0.7:
            name = dice.choice(["/etc/qubes/policy.d/90-default.policy", "/etc/new/dir/file"])
            touch.append("file:" + name)
            actions.append(["file", name, "changed"])
        for line in LINES:
            if dice.random() < 0.4:
                touch.append("line:%s:%s" % (INCLUDE, line))
                actions.append(["line", *dice.choice([([line], []), ([], [line])])])
        return touch, actions

    def undone(self, touch, actions):
        """Journal, the changes in this process (no Salt: quick), undo."""
        record = journal.plan(self.args(touch=touch), [common.DROP_IN], "id")
        journal.begin(record)
        for kind, *rest in actions:
            if kind == "admin":
                getattr(admin, rest[0])(*rest[1:])
            elif kind == "token":
                menu.write_token(*rest)
            elif kind == "file":
                os.makedirs(os.path.dirname(self.root + rest[0]), exist_ok=True)
                self.put(rest[0], rest[1])
            elif kind == "line":
                self.put(INCLUDE, policy_lines.edit(self.text(INCLUDE), *rest))
            else:
                self.put("/packages", json.dumps({"old-package": "1.2", rest[0]: rest[1]}))
        return journal.undo(record, lambda *_: None, apply_module.runner.run)


class Locks(HostCase):
    def test_held_and_freed(self):
        mine = lock.Lock("alice", 0, None, common.Stop())
        holder = lock.current()
        self.assertEqual((holder["holder"], holder["pid"]), ("alice", os.getpid()))
        failure = self.fails("lock-held", self.args())
        self.assertIn("alice has held this host since", failure.message)
        self.assertEqual(failure.more["holder"], holder)
        threading.Timer(0.8, mine.release).start()
        self.apply(self.args(wait=10))
        self.assertIn(("lock", "waiting for alice"), self.events)
        self.assertIsNone(lock.current())
        self.assertFalse(os.path.exists(self.root + common.LOCK))

    def test_waiting_can_be_cancelled(self):
        mine = lock.Lock("alice", 0, None, common.Stop())
        stop = common.Stop()
        threading.Timer(0.2, stop.set).start()
        self.fails("cancelled", self.args(wait=60), stop)
        mine.release()

    def test_many_contenders_one_at_a_time(self):
        inside, most = [], [0]

        def contend():
            for _ in range(5):
                held = lock.Lock("x", 30, lambda *_: None, common.Stop())
                inside.append(1)
                most[0] = max(most[0], len(inside))
                lock.current()
                inside.pop()
                held.release()

        threads = [threading.Thread(target=contend) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(most, [1])


class Snapshot(HostCase):
    def test_everything_and_nothing_written(self):
        self.qubes.qubes["work"]["state"] = "Running"
        self.qubes.qubes["work"]["own"].update(xid="7", memory="1\\n2\n3")
        self.qubes.qubes["work"]["features"] = {"f": "", "g": "a b\nc"}
        self.put("/run/qubes/guid-running.7", "")
        self.put("/usr/share/xsessions/big.desktop", "x" * 300000)
        self.put("/etc/qubes/policy.d/include/admin-local-rwx", "a\n")
        for folder in ("/run/qubes/policy.d", "/etc/qubes-rpc/policy"):
            os.makedirs(self.root + folder, exist_ok=True)
            self.put(folder + "/also", "b\n")
        before = self.dump()
        snap = snapshot.snapshot({"packages": ["old-package", "new-package"]})
        self.assertEqual(self.dump(), before)
        facts = snap["facts"]
        self.assertEqual(facts["qubesRelease"], "Qubes release 4.3.0 (R4.3)")
        self.assertEqual(
            facts["xen"],
            {
                "version": "4.19.4",
                "virtCaps": ["pv", "hvm", "hvm_directio"],
                "freeMemory": 0,
                "totalMemory": 16000,
                "iommu": True,
                "interruptRemapping": False,
            },
        )
        self.assertEqual(
            facts["pci"],
            [
                {
                    "sbdf": "0000:00:02.0",
                    "port": "00_02.0",
                    "class": "030000",
                    "vendor": "8086",
                    "device": "9b41",
                    "subsystem": "17aa:5082",
                    "driver": None,
                    "reset": ["flr", "bus"],
                    "name": "Int'el GPU",
                    "bridge": None,
                    "parent": None,
                    "bootVga": None,
                    "rom": False,
                    "module": None,
                    "outputs": [],
                    "inputs": [],
                    "disks": [],
                    "nets": [],
                }
            ],
        )
        work = snap["qubes"]["work"]
        self.assertEqual(
            (work["class"], work["state"], work["guidRunning"]), ("AppVM", "Running", True)
        )
        self.assertEqual(work["features"], {"f": "", "g": "a b\nc"})
        self.assertEqual(work["properties"]["memory"], {"default": False, "value": "1\\n2\n3"})
        self.assertEqual(work["properties"]["netvm"], {"default": True, "value": ""})
        self.assertEqual(snap["globals"]["default_guivm"], {"default": False, "value": "dom0"})
        self.assertEqual(snap["labels"], ["red", "black"])
        self.assertEqual(
            sorted(snap["files"]),
            [
                "/etc/qubes-rpc/policy/also",
                "/etc/qubes/policy.d/90-default.policy",
                "/etc/qubes/policy.d/include/admin-local-rwx",
                "/run/qubes/policy.d/also",
            ],
        )
        self.assertEqual(snap["files"]["/etc/qubes/policy.d/90-default.policy"]["mode"], "0664")
        self.assertEqual(snap["packages"], {"old-package": "1.2", "new-package": None})

    def test_not_a_qubes_host(self):
        os.unlink(self.root + "/etc/qubes-release")
        os.unlink(self.root + "/run/qubesd.sock")
        for name in ("xl", "rpm"):
            os.unlink(self.root + "/bin/" + name)
        snap = snapshot.snapshot({"packages": ["surely-no-such-package"]})
        self.assertIsNone(snap["facts"]["qubesRelease"])
        self.assertEqual(
            (snap["qubes"], snap["globals"], snap["packages"]),
            ({}, {}, {"surely-no-such-package": None}),
        )

    def test_a_qube_that_vanishes_meanwhile(self):
        real = self.qubes.vm_feature_List

        def vanish(arg, dest, payload):
            if dest == "work":
                self.qubes.qubes.pop("work", None)
            return real(arg, dest, payload)

        self.qubes.vm_feature_List = vanish
        self.assertEqual(
            sorted(snapshot.snapshot({"packages": []})["qubes"]), ["dom0", "fedora", "personal"]
        )

    def test_usb_devices_where_they_are_asked_for_or_owned(self):
        q = self.qubes
        q.qubes["net"] = dict(qube(), state="Running")
        q.qubes["off"] = qube()
        # What a device calls itself is taken for nothing else.
        odd = q.plugged["net", "1-4"] = "1:2:a' attachment='work' device_id='3:4::u0' b='"
        self.assertNotIn("usb", snapshot.snapshot({"packages": []}))
        self.assertFalse([call for call in q.calls if ".usb." in call])
        admin.assign_usb("work", *USB)
        q.holders["net", "1-2"] = "work"
        found = snapshot.snapshot({"packages": [], "usb": ["net", "off", "nosuch"]})
        self.assertEqual(sorted(found["usb"]), ["net", "nosuch", "off"])
        self.assertEqual((found["usb"]["off"], found["usb"]["nosuch"]), (None, None))
        headset = {"port": "1-2", "device": USB[2], "name": "C-Media Head'set", "attachment": "work"}
        other = dict(headset, port="1-4", device=odd, attachment=None)
        self.assertEqual(found["usb"]["net"], [headset, other])
        self.assertEqual(
            found["qubes"]["work"]["usb"],
            [{"backend": "net", "port": "*", "device": USB[2], "mode": "auto-attach"}],
        )
        book = {"usb:work:" + ":".join(USB): {"owner": "x", "first": None, "ours": None, "at": 0}}
        os.makedirs(self.root + common.STATE, exist_ok=True)
        ledger.save(dict(ledger.load(), entries=book))
        self.assertEqual(list(snapshot.snapshot({"packages": []})["usb"]), ["net"])
        q.plugged = None  # dom0 lacks Qubes' proxy
        self.assertEqual(snapshot.snapshot({"packages": []})["usb"], {"net": None})

    def test_undo_takes_a_usb_device_out_of_the_running_qube_as_well(self):
        q = self.qubes
        q.qubes["net"] = dict(qube(), state="Running")
        key = "usb:work:" + ":".join(USB)
        for state, holder, after in (
            ("Running", None, {}),
            ("Running", "personal", {("net", "1-2"): "personal"}),  # whose it is not, keeps it
            ("Halted", None, {}),
        ):
            q.qubes["work"]["state"] = state
            q.holders = {} if holder is None else {("net", "1-2"): holder}
            admin.assign_usb("work", *USB)
            admin.give_usb("work", *USB)
            held = holder or ("work" if state == "Running" else None)
            self.assertEqual(q.holders.get(("net", "1-2")), held)
            self.assertEqual(keys.read(key), {"mode": "auto-attach", "options": {}})
            keys.restore(key, None, None, None)
            self.assertEqual((keys.read(key), q.holders, q.qubes["work"]["usb"]), (None, after, {}))

    def test_a_usb_key_is_one_word_to_a_call(self):
        for rest in ("net:*:1:2::u0", "net:1-2.1:1:2:ser-1/x:u0"):
            self.assertEqual(keys.split("usb:work:" + rest), ("usb", "work", rest))
        for rest in ("net:*:", "net:x:1", "net:*:a+b", "net:*:a b", "net:*:a'b", "n t:*:a", "net:*:a\nb"):
            with self.assertRaises(common.Failure):
                keys.split("usb:work:" + rest)

    def test_resets_are_unknown_without_the_kernels_word(self):
        os.unlink(self.root + "/sys/bus/pci/devices/0000:00:02.0/reset_method")
        self.assertIsNone(snapshot.snapshot({"packages": []})["facts"]["pci"][0]["reset"])


class Clean(HostCase):
    def test_clean(self):
        self.assertEqual(common.clean("\x1b[0;32mok\x1b[0m\x07\r\n\x9b31mx\u202ey"), "ok\n31mxy")
        long = common.clean("ä" * 5000)
        self.assertLessEqual(len(long.encode()), 4096)
        self.assertIn("…", long)
        self.assertEqual(common.cleaned({"a\x07": ["\x00b", 1, None]}), {"a": ["b", 1, None]})
