"""A Qubes host in virtual time: light.py DIR

One process, one machine: lab/twin's model of GRUB, boot, units, screen and qubesd, and forked from it, as they are shipped, the
product's agents (one for each SSH session) and its guard (a unit). Virtual time passes only where somebody on the host waits and
nobody works. At each step of the product (steps.reach, and salt.* in formula.py) and at each message of a session the fault that
was armed may strike: the process is killed, the line is cut, the machine hangs, resets, loses power.

    DIR/ssh        Unix socket: one connection is one SSH session that runs a command. First line {"controller", "exec"}, answered by
                   {"ok": true} or {"refused": why, "final": whether it stays so}; then the lines of the command's stdin and stdout. A line that begins with \\0 tells
                   how the command ended; a line that is cut just ends.
    stdin, stdout  what a test asks: {"id", "do", …} → {"id", "ok"} or {"id", "error"}; {"event": …} in between. See `Control`.
"""
import copy
import faulthandler
import gc
import json
import mmap
import os
import select
import signal
import socket
import struct
import sys
import traceback
import types

HERE = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "twin", "dom0")]

import policy  # noqa: E402
from machine import core, disk, faults, grub, hardware, units  # noqa: E402
from machine.core import Down  # noqa: E402
from qubesd import api  # noqa: E402,F401  (registers the calls before the first fork)
from qubesd.errors import QubesException, Refused  # noqa: E402

import commands  # noqa: E402
import mounts  # noqa: E402
import process  # noqa: E402
import state  # noqa: E402

GUARD = "guidomain-guard.service"
SETTLED = 2 * 3600.0  # seconds of virtual time after which a host that still has something to do never settles
ATTEMPT = 5.0  # seconds that an attempt to connect takes where nobody answers
CONNECT = 4.0  # seconds that one takes otherwise, with the pause before it (retryEvery of src/host/conversation.ts)
START = 4.0  # seconds until a qube's agent answers


class Clock(core.Clock):
    """Shared with every process of the host by a page of memory."""

    def __init__(self, page):
        super().__init__()
        self.page = page
        self.publish()

    def publish(self):
        struct.pack_into("dd", self.page, 0, self.boottime(), self.wall())

    def advance(self, seconds):
        super().advance(seconds)
        self.publish()

    def jump(self, seconds):
        super().jump(seconds)
        self.publish()


class Machine(core.Machine):
    """It is asked for its drivers at every call of the Admin API; they are looked up where they change."""

    known = None

    def drivers(self):
        if self.known is None:
            self.known = super().drivers()
        return self.known

    def write_files(self):
        super().write_files()
        self.known = None

    def bind(self, sbdf, driver):
        self.known = None
        super().bind(sbdf, driver)
        self.known = None


class Process:
    """A forked process of the host. `waits`: it asked for something and has no answer yet."""

    def __init__(self, kind, pid, channel, session=None):
        self.kind, self.pid, self.channel, self.session = kind, pid, channel, session
        self.buffer, self.waits, self.status = b"", False, None

    @property
    def busy(self):
        return self.status is None and not self.waits and not (self.session and self.session.idle)

    def answer(self, value):
        self.waits = False
        try:
            self.channel.sendall(json.dumps(value).encode() + b"\n")
        except OSError:
            pass


class Session:
    """One SSH session: the lines between a controller and an agent."""

    def __init__(self, controller, sock):
        self.controller, self.sock = controller, sock
        self.inner = None  # our end of the agent's stdin and stdout
        self.process = None
        self.outward, self.inward = b"", b""
        self.open = True  # the controller's end
        self.ops = {}  # id → op of what has no answer yet
        self.hello = self.bundle = False

    @property
    def idle(self):
        """It waits for its controller."""
        return self.open and not self.ops and (self.hello or self.bundle)


class Host:
    def __init__(self, folder):
        self.folder, self.root = folder, os.path.join(folder, "root")
        self.page = mmap.mmap(-1, mmap.PAGESIZE)
        self.product = process.load_product()
        self.steps = self.product["steps"].STEPS
        self.poll = select.poll()
        self.handlers = {}
        self.depth = 0
        self.controls = []
        self.control = Control(self)
        self.ssh = self.listen(os.path.join(folder, "ssh"), self.on_connect)
        self.qubesd = None
        self.machine = None
        self.watch(0, self.control.on_input)
        self.clear()

    def clear(self):
        self.processes, self.sessions, self.timers, self.number = [], [], [], 0
        self.counts, self.trace, self.fault, self.struck = {}, [], None, None
        self.dead, self.settling, self.inside, self.boots = set(), False, False, 0
        self.last_bad = None  # until when the screen was not usable, after the fault
        self.filler = False
        self.unsynced = {}  # path → when Salt wrote it, and nobody synced it since
        self.restarts = 0

    # --- events

    def listen(self, path, handler):
        server = socket.socket(socket.AF_UNIX)
        if os.path.exists(path):
            os.unlink(path)
        server.bind(path)
        server.listen(64)
        self.watch(server.fileno(), lambda: handler(server.accept()[0]))
        return server

    def watch(self, fd, handler):
        self.handlers[fd] = handler
        self.poll.register(fd, select.POLLIN | select.POLLHUP)

    def forget(self, fd):
        if self.handlers.pop(fd, None):
            self.poll.unregister(fd)

    def at(self, when, action, foreground):
        self.number += 1
        self.timers.append((when, self.number, action, foreground))

    def after(self, seconds, action, foreground=True):
        self.at(self.machine.clock.boottime() + seconds, action, foreground)

    def serve(self, done):
        """Until `done()`. Raises Down where the machine goes."""
        self.depth += 1
        try:
            while not done():
                busy = any(each.busy for each in self.processes)
                moves = self.timers and (self.settling or any(timer[3] for timer in self.timers))
                ready = self.poll.poll(0 if moves and not busy else 2000)
                if ready:
                    for fd, _ in ready:
                        handler = self.handlers.get(fd)
                        if handler:
                            handler()
                        if done():
                            break
                elif not busy and moves:
                    self.pass_time()
        finally:
            self.depth -= 1

    def pass_time(self):
        timer = min(self.timers)
        self.timers.remove(timer)
        clock = self.machine.clock
        self.look(timer[0])
        clock.advance(timer[0] - clock.boottime())
        timer[2]()

    def look(self, until=None):
        """Notes that the screen is not usable now, and so until `until`."""
        if self.struck and not self.machine.screen()["usable"]:
            self.last_bad = max(until or 0, self.machine.clock.boottime())

    # --- processes

    def fork(self, kind, work, session=None):
        ours, theirs = socket.socketpair()
        if session:
            session.inner, stdio = socket.socketpair()
        gc.freeze()  # or the child copies every page that its first collection touches
        pid = os.fork()
        if pid == 0:
            try:
                if session:
                    os.dup2(stdio.fileno(), 0)
                    os.dup2(stdio.fileno(), 1)
                else:
                    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
                    os.dup2(2, 1)
                os.dup2(theirs.fileno(), 3)
                os.closerange(4, 1024)
                sys.stdout = os.fdopen(1, "w")
                channel = socket.socket(fileno=3)
                work(process.Process(self.product, self.root, process.Ask(channel), self.page, self.switched_off()))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(70)
        theirs.close()
        found = Process(kind, pid, ours, session)
        self.processes.append(found)
        self.watch(ours.fileno(), lambda: self.on_channel(found))
        if session:
            stdio.close()
            session.process = found
            self.watch(session.inner.fileno(), lambda: self.on_agent(session))
        return found

    def on_channel(self, proc):
        try:
            data = proc.channel.recv(1 << 20)
        except OSError:
            data = b""
        if not data:
            return self.ended(proc)
        proc.buffer += data
        while b"\n" in proc.buffer:
            line, _, proc.buffer = proc.buffer.partition(b"\n")
            proc.waits = True
            self.asked(proc, json.loads(line))

    def asked(self, proc, question):
        what = question.pop("ask")
        if what == "sleep":
            if proc.kind == "guard" and question["seconds"] > 0:
                self.machine.units.poll()
            self.after(max(0.0, question["seconds"]), lambda: self.wake(proc), proc.kind != "guard")
        elif what == "reach":
            answer = self.reach(proc, question["step"])
            if proc.status is None:
                proc.answer(answer)
        elif what == "run":
            try:
                answer = self.commands.run(question["argv"])
            except commands.shell.Unknown as unknown:
                self.control.complain(str(unknown))
                answer = (127, "", str(unknown))
            if proc.status is None:
                proc.answer(answer)
        elif what == "world":
            templates = self.machine.world.get("templates") or {}
            came = {name: each["packages"] for name, each in templates.items()}
            proc.answer({"faults": self.machine.world.get("faults") or {}, "came": came})
        elif what == "unsynced":
            self.unsynced[question["path"]] = self.machine.clock.boottime()
            proc.answer(True)
        elif what == "synced":
            self.unsynced.pop(question["path"], None) if question["path"] else self.unsynced.clear()
            proc.answer(True)

    def wake(self, proc):
        if proc.status is None:
            proc.answer(True)

    def ended(self, proc):
        self.forget(proc.channel.fileno())
        proc.channel.close()
        if proc.session:
            self.drain(proc.session)
        _, status = os.waitpid(proc.pid, 0)
        proc.status = status
        self.processes.remove(proc)
        if proc.session:
            self.close(proc.session, "\0%s" % json.dumps({"signal": os.WTERMSIG(status)} if os.WIFSIGNALED(status) else {"code": os.WEXITSTATUS(status)}))
        if proc.kind in ("guard", "boot") and status != 0 and self.inside is not None and not self.guard_is_off():
            # RestartSec of its unit; longer each time, as a loop would only cost real time here.
            self.after(5 * 2 ** min(self.restarts, 6), self.restart_guard, False)
            self.restarts += 1

    def restart_guard(self):
        try:
            if self.machine.units.is_active(GUARD) == "failed":
                self.machine.units.start(GUARD)
        except units.UnitProblem:
            pass  # its end is the next reason to start it

    def kill(self, proc):
        if isinstance(proc, Process) and proc.status is None:  # a unit whose program is only played has no process
            os.kill(proc.pid, signal.SIGKILL)
            self.ended(proc)

    # --- units run processes (lab/twin/dom0/machine/units.py, Manager)

    def run(self, unit, argv, timeout):
        words = guard_words(argv)
        if words is None or self.guard_is_off():
            return 0
        proc = self.fork("boot" if words == ["boot"] else "guard", lambda inside: self.be_guard(inside, words))
        self.serve(lambda: proc.status is not None)
        return proc.status

    def spawn(self, unit, argv):
        words = guard_words(argv)
        return argv if words is None or self.guard_is_off() else self.fork("guard", lambda inside: self.be_guard(inside, words))

    def switched_off(self):
        return [part for part in self.controls if part != "guard_off" or self.struck is not None]

    def guard_is_off(self):
        """A guard that is switched off is so from the fault on: what it had done before is done."""
        return "guard_off" in self.controls and self.struck is not None

    @staticmethod
    def be_guard(inside, words):
        inside.patch()
        inside.guard(words)

    def alive(self, handle):
        return not isinstance(handle, Process) or handle.status is None

    # --- sessions

    def on_connect(self, sock):
        data = b""
        while b"\n" not in data:
            chunk = sock.recv(1 << 16)
            if not chunk:
                return sock.close()
            data += chunk
        line, _, rest = data.partition(b"\n")
        asked = json.loads(line)

        def refuse(why, final=True):
            try:
                sock.sendall(json.dumps({"refused": why, "final": final}).encode() + b"\n")
            except OSError:
                pass
            sock.close()

        if asked["controller"] in self.dead:
            return refuse("this controller is dead")
        if not self.inside or self.machine.state != "running":
            machine = self.machine
            self.look()
            final = machine.state in ("off", "stopped") or machine.state == "hung" and machine.due() is None
            # Somebody who waits for the host makes time pass.
            return self.after(ATTEMPT, lambda: refuse("connect ECONNREFUSED (%s: %s)" % (machine.state, machine.why), final))
        if not self.admits():
            return self.after(ATTEMPT, lambda: refuse("dom0's policy denies qubes.ConnectTCP", False))
        self.after(CONNECT, lambda: self.log_in(asked, sock, rest) if self.inside else refuse("connection reset", False))

    def admits(self):
        """A new connection comes through the qube `through`, where there is one, and policy is asked about each."""
        through = self.machine.world.get("through")
        return through is None or self.commands.may(through, "dom0", "qubes.ConnectTCP+22")

    def log_in(self, asked, sock, rest):
        session = Session(asked["controller"], sock)
        self.sessions.append(session)
        try:
            sock.sendall(b'{"ok": true}\n')
        except OSError:
            pass  # it has gone meanwhile; reading says so

        def be(inside):
            inside.patch()
            inside.agent(asked["exec"])

        self.watch(sock.fileno(), lambda: self.on_controller(session))
        self.fork("agent", be, session)
        if rest:
            self.from_controller(session, rest)

    def on_controller(self, session):
        try:
            data = session.sock.recv(1 << 20)
        except OSError:
            data = b""
        if data:
            self.from_controller(session, data)
        else:
            self.close(session)

    def from_controller(self, session, data):
        """Each line goes on to the agent; a fault may lie before or behind it."""
        session.inward += data
        while b"\n" in session.inward and session.open:
            line, _, session.inward = session.inward.partition(b"\n")
            op = None
            if session.hello:
                head = json.loads(line) if len(line) < 1 << 12 else {"id": number_of(line, b'{"id":'), "op": text_of(line, b'"op":"')}
                op = head["op"]
                if op != "cancel" and self.message("request " + op, "before", session):
                    return
                session.ops[head["id"]] = op
            session.bundle = False
            session.inner.sendall(line + b"\n")
            if op and op != "cancel" and self.message("request " + op, "after", session):
                return

    def on_agent(self, session):
        try:
            data = session.inner.recv(1 << 20)
        except OSError:
            data = b""
        if not data:
            return self.forget(session.inner.fileno())
        self.from_agent(session, data)

    def drain(self, session):
        session.inner.setblocking(False)
        try:
            while True:
                data = session.inner.recv(1 << 20)
                if not data:
                    break
                self.from_agent(session, data)
        except (BlockingIOError, ConnectionError):
            pass

    def from_agent(self, session, data):
        session.outward += data
        while b"\n" in session.outward:
            line, _, session.outward = session.outward.partition(b"\n")
            op = None
            if line == b'{"stored": false}':
                session.bundle = True
            elif line.startswith(b'{"agent"'):
                session.hello = True
            elif session.hello and not line.startswith(b'{"id": '):  # no event
                number = number_of(line[line.rindex(b'"id": ') :], b'"id": ')
                op = session.ops.pop(number, "cancel")
            if op and op != "cancel" and session.open and self.message("reply " + op, "before", session):
                continue
            if session.open:
                try:
                    session.sock.sendall(line + b"\n")
                except OSError:
                    self.close(session)
            if op and op != "cancel" and session.open:
                self.message("reply " + op, "after", session)

    def close(self, session, last=None):
        """The controller's end closes; the agent's stdin ends."""
        if session.open:
            session.open = False
            self.forget(session.sock.fileno())
            try:
                if last:
                    session.sock.sendall(last.encode() + b"\n")
            except OSError:
                pass
            session.sock.close()
        if session.process and session.process.status is None:
            try:
                session.inner.shutdown(socket.SHUT_WR)
            except OSError:
                pass
        elif session.inner:
            self.forget(session.inner.fileno())
            session.inner.close()
            session.inner = None
            if session in self.sessions:
                self.sessions.remove(session)

    # --- faults

    def reach(self, proc, step):
        """What the process is told; it may be dead after this."""
        return self.passes("step", step, proc) or {}

    def message(self, name, when, session):
        """Whether the line was cut."""
        self.passes("message", "%s %s" % (when, name), session.process)
        return not session.open

    def passes(self, kind, name, proc):
        count = self.counts[name] = self.counts.get(name, 0) + 1
        self.trace.append([kind, name, count, proc.kind if proc else None])
        fault = self.fault
        if fault and fault["at"] == [name, count] and self.struck is None:
            self.struck = self.machine.clock.boottime()
            return self.strike(fault["do"], proc)
        return None

    def strike(self, do, proc):
        self.control.event("struck", do=do)
        self.take_guard_away()
        if proc is not None and proc.status is not None:
            return None
        clock, why = self.machine.clock, "fault"
        if do == "kill":
            self.kill(proc)
        elif do == "kill-salt":
            return {"kill": True}
        elif do == "kill-guard":
            for each in [each for each in self.processes if each.kind in ("guard", "boot")]:
                self.kill(each)
        elif do == "cut-line":
            for session in [s for s in self.sessions if proc is None or s is proc.session or proc.kind != "agent"]:
                self.close(session)
        elif do == "kill-controller":
            for session in [s for s in self.sessions if proc is None or s is proc.session or proc.kind != "agent"]:
                self.dead.add(session.controller)
                self.close(session)
            self.control.event("controller-dies")
        elif do == "disk-full":
            self.fill(True)
        elif do == "clock-on":
            clock.jump(3 * 86400)
        elif do == "clock-back":
            clock.jump(-3 * 86400)
        elif do == "second":
            self.control.event("second")
        elif do.startswith("ask-"):
            self.ask_power(do[len("ask-") :])
        elif do in ("hang", "reset", "power", "reboot"):
            raise Down(do, why)
        else:
            raise ValueError(do)
        return None

    def ask_power(self, action):
        """Somebody at the GUI domain clicks: dom0's service as it is written there, in this process. What it does to the machine comes
        true at once; where it refuses nothing does.
        """
        name = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../templates/qubes/power/service.hbs")
        service = types.ModuleType("guidomain_power")
        with open(name) as file:
            exec(compile(file.read(), name, "exec"), service.__dict__)
        light = self

        class Host(service.Host):
            root, asked = self.root, []

            def now(self):
                return light.machine.clock.boottime()

            def run(self, argv):
                if argv[0] == "systemctl":
                    self.asked.append(argv[1])
                return 0

        if "power_unguarded" in self.controls:
            service.is_changing = lambda host: False
        host = Host()
        service.act(host, action, "sys-gui")
        for verb in host.asked:
            raise Down("reboot" if verb == "reboot" else "power", "guidomain.Power")

    def take_guard_away(self):
        if self.guard_is_off():
            for each in [each for each in self.processes if each.kind in ("guard", "boot")]:
                self.kill(each)

    def fill(self, on):
        for folder in (self.root, self.root + "/boot"):
            name = folder + "/filler"
            if not on:
                if os.path.exists(name):
                    os.unlink(name)
                continue
            with open(name, "wb") as file:
                space = os.statvfs(folder)
                os.posix_fallocate(file.fileno(), 0, max(1, space.f_bavail * space.f_frsize))

    # --- qubesd

    def on_call(self, sock):
        data = bytearray()
        while True:
            part = sock.recv(65536)
            if not part:
                break
            data += part
        header, _, payload = bytes(data).partition(b"\0")
        call, _, _, dest = header.decode("ascii").split(" ")
        method, _, arg = call.partition("+")
        try:
            reply, wait = self.call(method, arg, dest, payload)
        except BaseException:
            sock.close()
            raise
        self.reply(sock, reply, wait)

    def reply(self, sock, reply, wait):
        """Start answers when the qube's agent does, as qubesd."""
        if wait and self.machine.clock.boottime() < wait:
            return self.at(wait, lambda: self.reply(sock, reply, None), True)
        try:
            sock.sendall(reply)
        except OSError:
            pass
        sock.close()

    def call(self, method, arg, dest, payload):
        try:
            text = self.machine.call(method, arg, dest, payload)
        except Refused:
            return b"", None
        except QubesException as error:
            return ("2\0%s\0\0%s\0" % (type(error).__name__, error)).encode(), None
        except OSError:  # a full disk: what could not be stored did not happen
            self.machine._system = None
            for qube in self.machine.system.qubes.values():
                core.link_autostart(self.root, qube.name, bool(qube.has("autostart") and qube.value("autostart")))
            return b"", None
        wait = None
        if method == "admin.vm.Start":
            run = self.machine.system.running.get(dest)
            wait = run and run["ready"]
        return b"0\0" + text.encode(), wait

    # --- the machine

    def install(self, world, files=None):
        """A machine that is off, with this disk or a fresh one."""
        self.stop_all()
        if self.qubesd:
            self.forget(self.qubesd.fileno())
            self.qubesd.close()
        self.clear()
        mounts.fresh(self.root, files)
        if files is None:
            mounts.fill(self.root, world)
        self.machine = Machine(self.root, world, Clock(self.page), execute=self)
        self.commands = commands.Commands(self.machine, self.mkconfig)
        policy.OLD_POLICY = self.root + "/etc/qubes-rpc/policy"
        self.qubesd = None
        self.listen_qubesd()

    def listen_qubesd(self):
        os.makedirs(self.root + "/run", exist_ok=True)
        if self.qubesd:
            self.forget(self.qubesd.fileno())
            self.qubesd.close()
        self.qubesd = self.listen(self.root + "/run/qubesd.sock", self.on_call)

    def mkconfig(self, path):
        """grub2-mkconfig, which copies into the file at the end (Fedora's is not atomic): what strikes in between leaves half of it."""
        text, target = grub.mkconfig(self.root, self.machine.world), self.root + path
        hardware.write(target + ".new", text)
        with open(target, "w") as file:
            file.write(text[: len(text) // 2])
            file.flush()
            self.passes("step", "salt.mkconfig", None)
            file.write(text[len(text) // 2 :])
        os.unlink(target + ".new")

    def down(self, fall):
        """Until the machine stays as it is. Returns when nothing more happens by itself at once."""
        while fall:
            self.stop_all()
            self.lose_unsynced(fall.what)
            fall = self.caught(lambda: self.go_on(fall.what, fall.why))

    def caught(self, action):
        """The Down that `action` ends in, or None."""
        try:
            action()
        except Down as down:
            return down
        return None

    def go_on(self, what, why):
        machine = self.machine
        if machine.state == "running" and what in ("hang", "power"):
            machine.hang(why) if what == "hang" else machine.lose_power(why)
        if what in ("reboot", "reset"):
            machine.clock.advance(8 if what == "reboot" else 1)
            self.look()
            machine.reset(why) if what == "reset" else machine.power_on("reboot: " + why)
            self.come_up()
        elif machine.due() is not None:
            self.at(machine.due(), self.bite, False)
        self.look()

    def bite(self):
        if self.machine.tick():
            self.come_up()

    def come_up(self):
        self.boots += 1
        self.restarts = 0
        self.look()
        self.volatile()
        self.passes("step", "boot.kernel", None)
        if self.machine.state != "running":
            return
        if self.machine.world["faults"].get("bootHangs") and "guidomain.gpu=" in self.machine.boot.cmdline:
            raise Down("hang", "before any unit starts")
        self.machine.units.boot(first=self.let_in)
        self.inside = True
        self.passes("step", "boot.done", None)

    def volatile(self):
        """What a boot finds anew."""
        mounts.empty(self.root + "/run")
        os.makedirs(self.root + "/run/qubes/policy.d")
        self.listen_qubesd()

    def let_in(self):
        self.inside = True

    def stop_all(self):
        self.inside = None  # nothing is started again
        for proc in list(self.processes):
            self.kill(proc)
        for session in list(self.sessions):
            self.close(session)
        self.processes, self.sessions, self.timers = [], [], []
        self.inside = False

    def lose_unsynced(self, what):
        """Files that Salt wrote, and nobody synced, a moment before the power went."""
        if what in ("power", "reset", "hang"):
            for path, when in self.unsynced.items():
                if self.machine.clock.boottime() - when < 30 and os.path.exists(self.root + path):
                    os.truncate(self.root + path, 0)
        self.unsynced = {}

    def do(self, action):
        """An action of a test; the machine may go down under it."""
        self.down(self.caught(action))

    def settle(self):
        """Until nothing happens any more by itself."""
        end = self.machine.clock.boottime() + SETTLED
        self.settling = True

        def done():
            return self.machine.clock.boottime() > end or not self.timers and not any(each.busy for each in self.processes)

        while not done():
            self.down(self.caught(lambda: self.serve(done)))
        self.settling = False
        self.look()
        return self.machine.clock.boottime() <= end

    def main(self):
        while True:
            self.down(self.caught(lambda: self.serve(lambda: self.control.waiting)))
            if self.control.waiting:
                self.control.next()


class Control:
    """What a test asks of the host."""

    def __init__(self, host):
        self.host, self.buffer, self.waiting, self.goldens = host, b"", [], {}

    def on_input(self):
        data = os.read(0, 1 << 20)
        if not data:
            self.host.stop_all()
            os._exit(0)
        self.buffer += data
        while b"\n" in self.buffer:
            line, _, self.buffer = self.buffer.partition(b"\n")
            self.waiting.append(json.loads(line))

    def say(self, message):
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[os.write(1, data) :]

    def event(self, what, **more):
        self.say(dict(more, event=what))

    def complain(self, text):
        self.event("unknown", text=text)

    def next(self):
        asked = self.waiting.pop(0)
        try:
            self.say({"id": asked.pop("id"), "ok": getattr(self, asked.pop("do"))(**asked)})
        except Exception as error:
            traceback.print_exc()
            self.say({"id": 0, "error": "%s: %s" % (type(error).__name__, error)})

    def install(self, machine="laptop", world=None, controls=()):
        """A fresh installation, switched on."""
        self.host.controls = list(controls)
        self.host.install(disk.world(machine, world))
        return self.power("on")

    def save(self):
        """The disk and the world as a golden state."""
        host = self.host
        host.machine.store()
        return {"files": mounts.read(host.root), "world": host.machine.world}

    def keep(self, name, golden):
        self.goldens[name] = golden

    def restore(self, name, world=None, controls=()):
        """The machine as it was saved, booted anew."""
        self.host.controls = list(controls)
        golden = self.goldens[name]
        self.host.install(disk.patched(copy.deepcopy(golden["world"]), world or {}), golden["files"])
        return self.power("on")

    def power(self, how):
        host, machine = self.host, self.host.machine
        if how == "cycle":
            host.stop_all()
            host.look()
            machine.clock.advance(60)  # until somebody has come
            host.look()
            machine.lose_power("by hand")
        if how in ("on", "cycle"):
            host.do(lambda: (machine.power_on("by hand"), host.come_up()))
        elif how == "passphrase":
            host.do(lambda: machine.type_passphrase() and host.come_up())
        elif how in ("reboot", "reset", "hang"):
            host.down(Down(how, "asked for"))
        elif how == "off":
            host.down(Down("power", "asked for"))
        return self.screen()

    def screen(self):
        machine = self.host.machine
        screen = machine.screen()
        way_in = screen["wayIn"] and self.host.admits()
        return dict(screen, wayIn=way_in, state=machine.state, stopped=machine.boot.status if machine.boot else None, entry=machine.boot.entry)

    def arm(self, fault):
        """{"at": [step or "before request apply", nth time], "do": …}; counted from now."""
        self.host.counts, self.host.trace, self.host.fault, self.host.struck, self.host.last_bad = {}, [], fault, None, None

    def mend(self):
        """A person makes the machine whole again."""
        self.host.fill(False)
        self.host.machine.world.update(faults={}, iommu=True, watchdog=True)

    def world(self, patch):
        self.host.machine.world.update(disk.patched(self.host.machine.world, patch))

    def event_now(self, name):
        """kernel-update, firmware-renumber, firmware-move, template-update: see lab/twin/dom0/machine/faults.py; and whom dom0 is reached through"""
        machine = self.host.machine
        world = machine.world
        if name == "kernel-update":
            disk.update_kernel(self.host.root, world)
            machine.units.poll()
        elif name == "firmware-renumber":
            world["nextMachine"] = hardware.renumbered(world["machine"])
        elif name == "firmware-move":
            world["nextMachine"] = hardware.moved(world["machine"])
        elif name == "template-update":
            for template in world["templates"].values():
                template["packages"] = {package: version + ".1" for package, version in template["packages"].items()}
        elif name in ("reached-through-sys-gui", "way-in-comes-first"):
            world["through"] = "sys-gui"
            number = 50 if name == "reached-through-sys-gui" else 30
            with open(self.host.root + "/etc/qubes/policy.d/%d-ssh.policy" % number, "w") as file:
                file.write("qubes.ConnectTCP +22 sys-gui @adminvm allow\n")
        else:
            raise ValueError(name)

    def struck_now(self):
        self.host.struck, self.host.last_bad = self.host.machine.clock.boottime(), None
        self.host.take_guard_away()

    def settle(self):
        host = self.host
        settled = host.settle()
        lost = host.last_bad is not None and host.struck is not None
        return dict(
            self.screen(),
            settled=settled,
            struck=host.struck is not None,
            seconds=host.last_bad - host.struck if lost else 0,
            boots=host.boots,
        )

    def state(self):
        return state.dump(self.host.machine, self.host.commands)

    def named(self):
        """Faults that are there all along: {name: patch of the world}."""
        return {name: patch for name, (_, patch) in faults.NAMED.items()}

    def trace(self):
        return self.host.trace

    def steps(self):
        return {kind: list(names) for kind, names in self.host.steps.items()}

    def shell(self, argv):
        return self.host.commands.run(argv)


def guard_words(argv):
    return argv[argv.index("-I") + 2 :] if any(word.endswith("/guard.py") for word in argv) else None


def number_of(line, mark):
    at = line.index(mark) + len(mark)
    end = at
    while line[end : end + 1].isdigit():
        end += 1
    return int(line[at:end])


def text_of(line, mark):
    at = line.index(mark) + len(mark)
    return line[at : line.index(b'"', at)].decode()


def main():
    folder = sys.argv[1]
    faulthandler.register(signal.SIGUSR1)  # where does it hang?
    mounts.own_namespace()
    Host(folder).main()


if __name__ == "__main__":
    main()
