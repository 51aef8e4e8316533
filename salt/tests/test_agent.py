"""The agent as a process: loader, protocol, cancel, end of stdin, signals, SIGKILL."""

import hashlib
import json
import marshal
import os
import signal
import sys
import time

from fake import Agent, HostCase, wait_for

from test_apply import ACTIONS, TOUCH


class Process(HostCase):
    def snapshot(self, agent):
        reply = agent.ask("snapshot", {"packages": []})
        self.assertIn("ok", reply, reply)
        return reply["ok"]

    def busy(self, agent, more=()):
        """An apply that has made all its changes and now hangs in Salt."""
        number = agent.send(
            "apply",
            self.args(
                ACTIONS + [["file", "/mark", "x"], ["sleep", 60]] + list(more),
                TOUCH + ["file:/mark"],
            ),
        )
        wait_for(lambda: os.path.exists(self.root + "/mark"))
        return number

    def test_from_memory_and_nothing_written(self):
        before = self.dump()
        agent = Agent(self)
        self.assertFalse(agent.stored)
        self.assertEqual(agent.hello["agent"], agent.digest)
        self.assertEqual(agent.hello["protocol"], 1)
        self.snapshot(agent)
        agent.process.stdin.close()
        self.assertEqual(agent.process.wait(10), 0)
        self.assertEqual(agent.process.stderr.read(), b"")
        self.assertEqual(self.dump(), before)

    def test_stored_by_an_apply(self):
        agent = Agent(self)
        first = agent.ask("apply", self.args(ACTIONS, TOUCH))
        self.assertEqual(first["ok"]["phase"], "verified", first)
        self.assertIn({"stage": "salt", "text": "guidomain.sys-gui"}, agent.events)
        confirm = {"id": first["ok"]["id"], "holder": "alice", "snapshot": {"packages": []}}
        # Who was there before cannot show that the way in still works.
        self.assertIn("older than", agent.ask("confirm", confirm)["error"]["message"])
        self.assertIn("ok", Agent(self).ask("confirm", confirm))
        agent.process.stdin.close()
        self.assertEqual(agent.process.wait(10), 0)
        self.assertIn("sys-gui", self.qubes.qubes)
        again = Agent(self)
        self.assertTrue(again.stored)
        self.snapshot(again)
        name = self.root + "/var/lib/guidomain/agent/%s.json" % agent.digest
        os.chmod(name, 0o666)  # somebody else could have written it
        self.assertFalse(Agent(self).stored)
        os.chmod(name, 0o600)
        self.assertTrue(Agent(self).stored)
        with open(name, "a") as file:
            file.write(" ")
        self.assertFalse(Agent(self).stored)

    def test_compiled_by_an_apply(self):
        agent = Agent(self)
        first = agent.ask("apply", self.args(ACTIONS, TOUCH))
        confirm = {"id": first["ok"]["id"], "holder": "alice", "snapshot": {"packages": []}}
        self.assertIn("ok", Agent(self).ask("confirm", confirm))
        folder = self.root + "/var/lib/guidomain/agent/"
        name = "%s%s.%x" % (folder, agent.digest, sys.hexversion)
        self.assertEqual(len(os.listdir(folder)), 2)

        def hello(modules, mode=0o600):
            code = marshal.dumps(modules)
            with open(name, "wb") as file:
                file.write(hashlib.sha256(code).hexdigest().encode() + code)
            os.chmod(name, mode)
            return Agent(self).hello

        with open(name, "rb") as file:
            modules = marshal.loads(file.read()[64:])
        self.assertEqual(hello(modules), agent.hello)
        # That it is this code which runs, and only where it is whole and root's own.
        other = "def main(*_): __import__('os').write(1, b'\"other\"\\n')"
        modules["agent"] = compile(other, "other", "exec")
        self.assertEqual(hello(modules), "other")
        self.assertEqual(hello(modules, 0o666), agent.hello)
        os.chmod(name, 0o600)
        with open(name, "r+b") as file:
            file.truncate(2000)
        self.assertEqual(Agent(self).hello, agent.hello)

    def test_spoilt_source_is_refused(self):
        agent = Agent(self, spoil=True)
        self.assertEqual(agent.process.wait(10), 65)
        self.assertIn(b"did not arrive whole", agent.process.stderr.read())

    def test_bad_requests(self):
        agent = Agent(self)
        for text in (
            "nonsense",
            "[]",
            '{"id": "x", "op": "snapshot"}',
            '{"id": 1}',
            '{"id": 1, "op": "nosuch"}',
            '{"id": 1, "op": "snapshot"}',
            '{"id": 1, "op": "snapshot", "args": {"packages": [1]}}',
            '{"id": 1, "op": "snapshot", "args": {"packages": [], "usb": "sys-usb"}}',
        ):
            agent.write(text + "\n")
            self.assertEqual(agent.line()["error"]["code"], "bad-request", text)
        self.snapshot(agent)

    def test_qubesd_down(self):
        os.unlink(self.root + "/run/qubesd.sock")
        error = Agent(self).ask("snapshot", {"packages": []})["error"]
        self.assertEqual(error["code"], "admin-api")
        self.assertIn("qubesd does not answer", error["message"])

    def test_requests_in_one_write(self):
        agent = Agent(self)
        line = json.dumps({"id": 5, "op": "snapshot", "args": {"packages": []}}) + "\n"
        agent.write(line + line.replace("5", "6", 1))
        self.assertEqual([agent.line()["id"], agent.line()["id"]], [5, 6])

    def test_not_a_qubes_host(self):
        os.unlink(self.root + "/etc/qubes-release")
        agent = Agent(self)
        self.assertIsNone(self.snapshot(agent)["facts"]["qubesRelease"])
        self.assertEqual(
            agent.ask("apply", self.args(ACTIONS, TOUCH))["error"]["code"], "not-qubes"
        )

    def test_cancel(self):
        before = self.dump()
        agent = Agent(self)
        number = self.busy(agent)
        waiting = agent.send("snapshot", {"packages": []})
        agent.send("cancel", {"id": waiting})
        agent.send("cancel", {"id": number})
        begun, replies = time.monotonic(), [agent.reply() for _ in range(4)]
        self.assertLess(time.monotonic() - begun, 3)
        by_id = {reply["id"]: reply for reply in replies}
        self.assertEqual(by_id[3]["ok"], {"cancelled": True})
        self.assertEqual(by_id[number]["error"]["code"], "cancelled")
        self.assertEqual(by_id[number]["error"]["left"], {})
        self.assertEqual(len(by_id[number]["error"]["undone"]), len(TOUCH) + 1)
        self.assertEqual(by_id[waiting]["error"]["code"], "cancelled")
        self.assertEqual(agent.ask("cancel", {"id": number})["ok"], {"cancelled": False})
        self.assertEqual(self.dump(), before)

    def test_unconfirmed_ends_with_its_controller(self):
        before = self.dump()
        agent = Agent(self)
        self.assertIn("ok", agent.ask("apply", self.args(ACTIONS, TOUCH)))
        self.assertEqual(self.snapshot(agent)["trial"]["phase"], "verified")
        agent.process.stdin.close()
        self.assertEqual(agent.process.wait(10), 0)
        wait_for(lambda: self.dump() == before)

    def test_a_confirmation_is_carried_out_though_its_line_is_cut(self):
        agent = Agent(self)
        keep = {
            "formula": {"guidomain/keep.sls": json.dumps([["sleep", 1], ["file", "/kept", "x"]])}
        }
        keep.update(sls="guidomain.keep", touch=["file:/kept"])
        trial_id = agent.ask("apply", self.args(ACTIONS, TOUCH, keep=keep))["ok"]["id"]
        other = Agent(self)
        other.send("confirm", {"id": trial_id, "holder": "a", "snapshot": {"packages": []}})
        self.assertEqual(other.line()["event"]["stage"], "salt")
        other.process.stdin.close()
        agent.process.stdin.close()
        self.assertEqual(other.process.wait(15), 0)
        self.assertTrue(os.path.exists(self.root + "/kept"))
        snapshot = self.snapshot(Agent(self))
        self.assertIsNone(snapshot["trial"])
        self.assertIn("file:/kept", snapshot["ledger"])

    def test_released_it_is_the_guards(self):
        before = self.dump()
        agent = Agent(self)
        args = self.args(ACTIONS, TOUCH, trial={"seconds": 3, "boot": None, "watch": None})
        trial_id = agent.ask("apply", args)["ok"]["id"]
        self.assertEqual(agent.ask("release", {"id": trial_id})["ok"], {})
        agent.process.stdin.close()
        self.assertEqual(agent.process.wait(10), 0)
        self.assertIn("sys-gui", self.qubes.qubes)
        wait_for(lambda: "sys-gui" not in self.qubes.qubes, 15)
        wait_for(lambda: self.snapshot(Agent(self))["trial"] is None)
        outcome = self.snapshot(Agent(self))["outcome"]
        self.assertEqual((outcome["id"], outcome["what"]), (trial_id, "undone"))
        self.assertIn("not confirmed in time", outcome["why"])
        os.unlink(self.root + "/var/lib/guidomain/outcome.json")
        os.rmdir(self.root + "/var/lib/guidomain")
        self.assertEqual(self.dump(), before)

    def ends_clean(self, end):
        before = self.dump()
        agent = Agent(self)
        self.busy(agent)
        end(agent)
        self.assertEqual(agent.process.wait(15), 0)
        self.assertEqual(self.dump(), before)

    def test_end_of_stdin(self):
        self.ends_clean(lambda agent: agent.process.stdin.close())

    def test_both_ends_closed(self):
        self.ends_clean(lambda agent: (agent.process.stdout.close(), agent.process.stdin.close()))

    def test_signals_end_the_apply_but_not_the_undo(self):
        def signals(agent):
            for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGPIPE, signal.SIGINT) * 3:
                agent.process.send_signal(number)
                time.sleep(0.02)

        self.ends_clean(signals)

    def test_killed_agent(self):
        before = self.dump()
        agent = Agent(self)
        agent.send("apply", self.args(ACTIONS + [["child"]], TOUCH + ["file:/child"]))
        wait_for(lambda: self.child() != "")
        other, child = Agent(self), self.child()
        self.assertEqual(self.snapshot(other)["lock"]["holder"], "alice@desk")
        agent.process.kill()
        agent.process.wait()
        # The keeper ends Salt and what Salt started, however stubborn; only then the lock is free.
        self.assertTrue(os.path.exists("/proc/" + child))
        self.assertIsNotNone(self.snapshot(other)["lock"])
        wait_for(lambda: self.snapshot(other)["lock"] is None)
        self.assertFalse(os.path.exists("/proc/" + child))
        unfinished = self.snapshot(other)["unfinished"]
        self.assertEqual(
            (unfinished["holder"], len(unfinished["keys"])), ("alice@desk", len(TOUCH) + 1)
        )
        self.assertIn("sys-gui", self.qubes.qubes)
        reply = other.ask("apply", self.args([["fail", "x"]], TOUCH, wait=20, holder="bob"))
        self.assertIn(
            {"stage": "recover", "text": "undoing what alice@desk left unfinished"}, other.events
        )
        self.assertEqual(reply["error"]["code"], "salt-failed")
        self.assertEqual(self.dump(), before)

    def child(self):
        """Process id of what the stand-in Salt started; "" before."""
        try:
            with open(self.root + "/child") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def test_killed_at_every_stage(self):
        """SIGKILL when the agent says where it is: the next apply first puts all of it back."""
        before = self.dump()
        self.qubes.start_seconds = 0.5
        start = {"kind": "start", "id": "s", "qube": "sys-gui", "timeout": 5}
        for stage in ("stage", "salt", "read-back", "verify"):
            agent = Agent(self)
            agent.send("apply", self.args(ACTIONS, TOUCH, verify=[start]))
            while agent.line()["event"]["stage"] != stage:
                pass
            agent.process.kill()
            agent.process.wait()
            other = Agent(self)
            wait_for(lambda other=other: self.snapshot(other)["lock"] is None)
            self.assertIsNotNone(self.snapshot(other)["unfinished"], stage)
            reply = other.ask("apply", self.args([["fail", "x"]], [], wait=20))
            self.assertEqual(reply["error"]["code"], "salt-failed", reply)
            self.assertEqual(self.dump(), before, "killed at " + stage)
            other.process.stdin.close()
