"""The state boot.args: kernel arguments for good, or not at all."""

import importlib.util
import os
import random

from fake import SALT, HostCase

import grub
import menu

XEN = ["xen-pciback.hide=(0000:02:00.0)", "xen-pciback.hide=(0000:02:00.1)"]
TOKENS = ["rd.qubes.hide_pci=00_02.0", "systemd.mask=lightdm.service", "guidomain.gpu=sys-gui"]


class Args(HostCase):
    def setUp(self):
        super().setUp()
        path = os.path.join(SALT, "_states", "boot.py")
        spec = importlib.util.spec_from_file_location("boot_states", path)
        self.state = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.state)
        self.state.ROOT = self.root
        self.state.__utils__ = {"grub." + n: f for n, f in vars(grub).items() if callable(f)}
        self.state.__salt__ = {"cmd.run_all": self.mkconfig}
        self.state.__opts__ = {"test": False}
        self.fails = None
        self.runs = 0

    def mkconfig(self, argv, python_shell):
        """grub2-mkconfig: the words of GRUB_CMDLINE_LINUX on every kernel line of Qubes."""
        beside = "/boot/grub2/grub.cfg.guidomain-new"
        self.assertEqual(argv, ["grub2-mkconfig", "-o", self.root + beside])
        self.assertFalse(python_shell)
        self.runs += 1
        words = grub.default_words(self.text("/etc/default/grub"))
        if self.fails == "exit":
            self.put(beside + ".new", "half")
            return {"retcode": 1, "stderr": "grub2-probe: error: no", "stdout": ""}
        lines = []
        for line in self.text("/boot/grub2/grub.cfg").split("\n"):
            head, root, _ = line.partition(" root=/dev/dm-0 ro ")
            if root and self.fails != "ignores":
                line = head + root + " ".join(words)
            lines.append(line)
        self.put(beside, "\n".join(lines), 0o600)
        return {"retcode": 0, "stderr": "", "stdout": ""}

    def both(self):
        return self.text("/etc/default/grub"), self.text("/boot/grub2/grub.cfg")

    def test_converges_and_goes_again(self):
        before = self.both()
        self.state.__opts__["test"] = True
        dry = self.state.args("x", add=TOKENS)
        self.assertEqual((dry["result"], self.both()), (None, before))
        self.state.__opts__["test"] = False
        made = self.state.args("x", add=TOKENS)
        self.assertEqual((made["result"], made["changes"]), (True, dry["changes"]), made)
        self.assertEqual(
            made["changes"], {"bootarg:" + t: {"old": None, "new": True} for t in TOKENS}
        )
        line = next(l for l in self.both()[1].split("\n") if "/vmlinuz-6.12" in l)
        self.assertTrue(line.endswith(" ".join(TOKENS)), line)
        again = self.state.args("x", add=TOKENS)
        self.assertEqual((again["result"], again["changes"], self.runs), (True, {}, 1))
        gone = self.state.args("x", remove=TOKENS)
        self.assertEqual((gone["result"], len(gone["changes"])), (True, 3))
        self.assertEqual(self.both(), before)

    def test_a_half_made_change_is_finished(self):
        """Killed between the two files: the next run sees that what boots is not what is written."""
        text = grub.edit_default(self.text("/etc/default/grub"), TOKENS, [])
        self.put("/etc/default/grub", text)
        made = self.state.args("x", add=TOKENS)
        self.assertEqual((made["result"], len(made["changes"]), self.runs), (True, 3, 1))

    def test_failures_leave_both_files(self):
        before = self.both()
        for how, text in (
            ("exit", "grub2-mkconfig ended with 1: grub2-probe: error: no"),
            ("ignores", "written, but it is only in /etc/default/grub"),
        ):
            self.fails = how
            made = self.state.args("x", add=TOKENS)
            self.assertEqual((made["result"], made["changes"]), (False, {}))
            self.assertIn(text, made["comment"])
            self.assertEqual(self.both(), before)
            self.assertEqual(sorted(os.listdir(self.root + "/boot/grub2")), ["grub.cfg", "grubenv"])

    def test_refusals(self):
        before = self.both()
        self.assertIn("not a word", self.state.args("x", add=["a b"])["comment"])
        self.assertFalse(self.state.args("x", add=["$(reboot)"])["result"])
        os.unlink(self.root + "/boot/grub2/grub.cfg")
        self.assertFalse(self.state.args("x", add=["a"])["result"])
        self.assertEqual(self.text("/etc/default/grub"), before[0])


class Texts(HostCase):
    """Pure: add then take away is as before, whatever the text."""

    dice = random.Random(5)

    def word(self):
        return self.dice.choice(
            [
                "quiet",
                "rhgb",
                "rd.luks.uuid=luks-1",
                "a=b,c",
                "rd.qubes.hide_pci=00_1f.3",
                "rd.qubes.hide_pci=03:00.0,04:00.0",
                "xen-pciback.hide=(0000:03:00.0)(0000:04:00.0)",
                "xen_pciback.hide=(00:1f.3)",
                "x",
            ]
        )

    def ours(self, words):
        some = self.dice.sample(TOKENS + XEN + ["rd.qubes.hide_pci=00_01.0-00_00.0", "y.z"], 4)
        return [token for token in some if token not in grub.tokens(words)]

    def test_kernel_lines(self):
        for _ in range(2000):
            words = [self.word() for _ in range(self.dice.randrange(6))]
            blank = self.dice.choice([" ", "  ", "\t"])
            line = blank.join(words) + self.dice.choice(["", " "])
            ours = self.ours(words)
            there = grub.edit_line(line, ours, [])
            self.assertTrue(set(ours) <= set(grub.tokens(there.split())), (line, there))
            # What hid a device before still does: dracut takes the last list alone.
            self.assertTrue(set(grub.tokens(words)) <= set(grub.tokens(there.split())), there)
            self.assertEqual(grub.edit_line(there, ours, []), there)
            self.dice.shuffle(ours)
            self.assertEqual(grub.edit_line(there, [], ours), line)

    def test_default_grub(self):
        forms = [
            'GRUB_CMDLINE_LINUX="%s"',
            "GRUB_CMDLINE_LINUX='%s'",
            'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX %s"',
            'GRUB_CMDLINE_LINUX+=" %s"',
            'export GRUB_CMDLINE_LINUX="${GRUB_CMDLINE_LINUX} %s" # mine',
            'GRUB_CMDLINE_LINUX="a $(cat /x) `y` \\" %s"',
            "GRUB_CMDLINE_LINUX=%.0squiet",
        ]
        others = [
            '# GRUB_CMDLINE_LINUX="no"',
            "GRUB_TIMEOUT=5",
            "",
            "GRUB_CMDLINE_LINUX_DEFAULT='q'",
            'GRUB_CMDLINE_XEN_DEFAULT="console=none"',
            ". /etc/default/grub.qubes",
        ]
        for _ in range(2000):
            lines = []
            for _ in range(self.dice.randrange(5)):
                words = " ".join(self.word() for _ in range(self.dice.randrange(4)))
                lines.append(
                    self.dice.choice(forms) % words
                    if self.dice.random() < 0.5
                    else self.dice.choice(others)
                )
            text = "\n".join(lines) + self.dice.choice(["", "\n"])
            before = grub.default_words(text)
            ours = self.ours(before)
            there = grub.edit_default(text, ours, [])
            self.assertTrue(set(ours) <= set(grub.default_tokens(there)), (text, there))
            self.assertTrue(set(grub.tokens(before)) <= set(grub.default_tokens(there)), there)
            self.assertEqual(grub.edit_default(there, ours, []), there)
            self.dice.shuffle(ours)
            self.assertEqual(grub.edit_default(there, [], ours), text, there)

    def test_default_grub_means_to_a_shell_what_it_means_here(self):
        import subprocess

        for text in (
            "GRUB_CMDLINE_LINUX='a b'\n",
            "GRUB_CMDLINE_LINUX=a\n",
            'GRUB_CMDLINE_LINUX="a" # x',
            'GRUB_CMDLINE_LINUX="a"\nGRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX b"\n',
            "",
            'GRUB_CMDLINE_LINUX="a \\\n b"\n',
            "GRUB_CMDLINE_LINUX=a\\ b\n",
            'GRUB_CMDLINE_LINUX="a"\nGRUB_CMDLINE_LINUX+=" rd.qubes.hide_pci=1:0.0"\n',
        ):
            there = grub.edit_default(text, TOKENS + XEN, [])
            said = subprocess.check_output(
                ["bash", "-c", there + '\necho "$GRUB_CMDLINE_LINUX"'], text=True
            )
            self.assertEqual(grub.tokens(said.split()), grub.default_tokens(there), there)
            self.assertEqual(grub.edit_default(there, [], TOKENS + XEN), text)
            # One argument, as of several the last alone would count.
            self.assertEqual(said.count("xen-pciback.hide="), 1)
            self.assertIn("xen-pciback.hide=(0000:02:00.0)(0000:02:00.1)", said)

    def test_config_and_its_copies(self):
        config = self.text("/boot/grub2/grub.cfg")
        env = menu.environment()
        entry = grub.default_entry(config, env)
        self.assertEqual((entry["id"], entry["path"]), ("qubes", [0]))
        for name, wanted in (
            ("1>0", "qubes-6.11"),
            ("advanced>qubes-6.11", "qubes-6.11"),
            ("2", "other"),
            ("Another system", "other"),
            ("nosuch", "qubes"),
            ("", "qubes"),
            ("1", "qubes-6.11"),
        ):
            found = grub.default_entry(config, {"saved_entry": name})
            self.assertEqual(found["id"], wanted, name)
        there = grub.edit_config(config, TOKENS, [], entry)
        changed = [(a, b) for a, b in zip(config.split("\n"), there.split("\n")) if a != b]
        self.assertEqual(len(changed), 2)  # both kernels of Qubes; not the other system
        self.assertTrue(all(b == a + " " + " ".join(TOKENS) for a, b in changed))
        self.assertEqual(grub.edit_config(there, [], TOKENS, entry), config)

        block = grub.block(there, env, TOKENS + ["t=1"], {"add": ["t=1"], "remove": []}, True)
        ids = {e["id"]: e for e in grub.entries(block)}
        self.assertEqual(sorted(ids), [grub.RESCUE, grub.TRIAL])
        rescue = grub.entry_tokens(block, ids[grub.RESCUE])
        self.assertEqual(rescue, grub.entry_tokens(config, entry))
        self.assertEqual(
            grub.entry_tokens(block, ids[grub.TRIAL]),
            grub.entry_tokens(there, grub.default_entry(there, env)) + ["t=1"],
        )
        for line in (
            "multiboot2\t/xen-4.19.4.gz placeholder  console=none",
            "--nounzip\t/initramfs",
        ):
            self.assertEqual(block.count(line), 2)

    def test_custom_cfg_keeps_what_is_not_ours(self):
        for text in ("", "# mine\nmenuentry 'x' {\n}\n", "no line end"):
            there = grub.with_block(text, "menuentry 'y' {\n}\n")
            self.assertEqual(grub.ours(there), "menuentry 'y' {\n}\n")
            self.assertIn(text, there)
            twice = grub.with_block(there, "z\n")
            self.assertEqual((grub.ours(twice), twice.count(grub.BEGIN)), ("z\n", 1))
            self.assertEqual(grub.with_block(twice, ""), text)
            self.assertEqual(grub.with_block(text, ""), text)

    def test_grubenv(self):
        head = grub.ENV_HEAD
        data = (head + b"# WARNING: do not edit\nsaved_entry=a\\\\b\nx=1\n").ljust(1024, b"#")
        self.assertEqual(grub.read_env(data), {"saved_entry": "a\\b", "x": "1"})
        there = grub.edit_env(data, {"next_entry": "guidomain-trial", "y": "a\nb"})
        self.assertEqual(len(there), 1024)
        self.assertEqual(grub.read_env(there)["y"], "a\nb")
        self.assertEqual(grub.edit_env(there, {"next_entry": None, "y": None}), data)
        for wrong in (data[:-1], data + b"#", b"x" * 1024):
            self.assertRaises(ValueError, grub.read_env, wrong)
        self.assertRaises(ValueError, grub.edit_env, data, {"z": "1" * 1000})
