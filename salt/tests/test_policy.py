"""The state policy.lines: single lines of files that others write to as well."""

import importlib.util
import os
import random
import stat
import unittest

from fake import SALT, HostCase

import policy_lines

INCLUDE = "/etc/qubes/policy.d/include/admin-global-rwx"
FOREIGN = "## Qubes' own\nmgmt @adminvm allow target=dom0\n"
OURS = ["sys-gui @adminvm allow target=dom0", "sys-gui sys-gui allow target=dom0"]


class Lines(HostCase):
    def setUp(self):
        super().setUp()
        spec = importlib.util.spec_from_file_location(
            "policy_states", os.path.join(SALT, "_states", "policy.py")
        )
        self.state = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.state)
        self.state.ROOT = self.root
        self.state.__utils__ = {
            "policy_lines." + n: f for n, f in vars(policy_lines).items() if callable(f)
        }
        self.state.__salt__ = {"cmd.run_all": self.lint}
        self.state.__opts__ = {"test": False}
        self.refuses = ()
        self.put(INCLUDE, FOREIGN, 0o664)

    def lint(self, argv, python_shell):
        *command, path = argv
        self.assertEqual(command, ["qubes-policy-lint", "--include-service"])
        self.assertFalse(python_shell or path.endswith(".policy"))
        with open(path) as file:
            bad = [text for text in self.refuses if text in file.read()]
        return {"retcode": len(bad), "stdout": "%s:2: error: bad" % path if bad else ""}

    def test_converges_and_goes_again(self):
        before = self.dump()
        self.state.__opts__["test"] = True
        dry = self.state.lines(INCLUDE, add=OURS)
        self.assertEqual((dry["result"], self.dump()), (None, before))
        self.state.__opts__["test"] = False
        made = self.state.lines(INCLUDE, add=OURS)
        changes = {"line:%s:%s" % (INCLUDE, line): {"old": None, "new": True} for line in OURS}
        self.assertEqual((made["result"], made["changes"]), (True, changes), made)
        self.assertEqual(dry["changes"], changes)
        self.assertEqual(self.text(INCLUDE), FOREIGN + "".join(line + "\n" for line in OURS))
        self.assertEqual(stat.S_IMODE(os.stat(self.root + INCLUDE).st_mode), 0o664)
        again = self.state.lines(INCLUDE, add=OURS)
        self.assertEqual((again["result"], again["changes"]), (True, {}))
        gone = self.state.lines(INCLUDE, remove=OURS)
        self.assertEqual((gone["result"], len(gone["changes"])), (True, 2))
        self.assertEqual(self.dump(), before)

    def test_refused_by_the_linter_is_not_written(self):
        before = self.dump()
        self.refuses = OURS[1:]
        made = self.state.lines(INCLUDE, add=OURS)
        self.assertEqual((made["result"], made["changes"], self.dump()), (False, {}, before))
        self.assertIn("refused by qubes-policy-lint: ", made["comment"])
        self.assertIn(":2: error: bad", made["comment"])

    def test_somebody_elses_bad_line_keeps_none_of_ours_there(self):
        self.state.lines(INCLUDE, add=OURS)
        self.refuses = ["mgmt"]
        self.assertTrue(self.state.lines(INCLUDE, remove=OURS)["result"])
        self.assertEqual(self.text(INCLUDE), FOREIGN)

    def test_without_the_file_nothing_is_made_up(self):
        os.unlink(self.root + INCLUDE)
        before = self.dump()
        made = self.state.lines(INCLUDE, add=OURS)
        self.assertEqual((made["result"], self.dump()), (False, before))
        self.assertIn(INCLUDE, made["comment"])


class Texts(unittest.TestCase):
    """Pure: add, then take away, is as before, whatever the text; what is another's stays."""

    def test_there_and_back(self):
        dice = random.Random(7)
        for _ in range(500):
            words = ["# sys-gui @adminvm allow", "", "  ", "mgmt @adminvm ask", "x y deny"]
            text = "\n".join(dice.choice(words) for _ in range(dice.randrange(6)))
            on = policy_lines.edit(text, OURS, [])
            self.assertTrue(all(policy_lines.has(on, line) for line in OURS), on)
            self.assertEqual(policy_lines.edit(on, OURS, []), on)
            self.assertEqual(policy_lines.edit(on, [], OURS), text)
            self.assertEqual(policy_lines.edit(text, [], OURS), text)

    def test_spellings(self):
        other = "sys-gui\t$adminvm  allow,target=dom0\r"
        self.assertTrue(policy_lines.has("# x\n%s\n" % other, OURS[0]))
        self.assertEqual(policy_lines.edit(other + "\n", OURS[:1], []), other + "\n")
        self.assertEqual(policy_lines.edit("a\n%s\nb" % other, [], OURS), "a\nb")
        self.assertFalse(policy_lines.has("sys-gui-2 @adminvm allow target=dom0", OURS[0]))
        self.assertFalse(policy_lines.has("#" + OURS[0], OURS[0]))
