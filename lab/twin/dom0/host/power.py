"""The machine below a twin's dom0, outside its namespaces: power, GRUB, initramfs, watchdog, and the sshd that answers while
dom0 runs. Boots dom0 again and again until it is ended.

    python3 -I power.py CONFIG.json        (see sandbox.py)

Prints one line of JSON when the first boot is up or has stopped, {"state", "why"}; or fails with one sentence on stderr: status 1
when this machine does not give what a sandbox needs, 2 when a daemon of dom0 does not start. SIGTERM ends it and dom0.

WORLD/power is its socket; one JSON line there, one back. {"do", "why"}: hang, reset, power, reboot, poweroff, cut-line, kill-agent, kill-guard,
kill-salt (from dom0 too), power-cycle, sshd (start or stop it to fit), wait (answered when no boot is under way).
WORLD/boot/machine.json is what it is now: {state, why, boot, log, number}; WORLD/boot/init "PID START" of process 1 while dom0 runs.
"""
import errno
import json
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from host import sandbox  # noqa: E402
from machine.core import Machine  # noqa: E402
from machine.hardware import Hardware, device_path  # noqa: E402

# Faults that kill: by what in dom0, as /proc/PID/cmdline has it (the agent: src/host/agent.ts).
KILLED = {
    "kill-agent": rb"^[^\0]*python3[^\0]*\0-IS\0-c\0",
    "kill-guard": rb"\0/var/lib/guidomain/guard/guard\.py\0",
    "kill-salt": rb"(^|[/\0])(qubesctl|salt-call)\0",
}


class RealTime:
    def boottime(self):
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall(self):
        return time.time()

    def advance(self, seconds):
        pass


class Sandboxed(Machine):
    """Its dom0 runs in a sandbox, which writes what its kernel shows by itself and knows whether the watchdog runs."""

    folder, owns_volumes = None, False

    def write_files(self):
        rows = Hardware(self.world).blocks()
        grub = next((row for mount in ("/boot", "/") for row in rows if row["mount"] == mount), None)
        lines = [("cmdline", self.boot.cmdline), ("boot_id", self.boot.id), ("osrelease", self.boot.kernel)]
        lines.append(("xen", (self.boot.xen or "").partition(" ")[2]))
        lines += [("boot-mount", "%s %s" % (grub["fs"], device_path(grub)))] if grub else []  # for bin/findmnt
        for name, text in lines:
            with open(os.path.join(self.folder, name), "w") as file:
                file.write(text + "\n")

    def watchdog(self):
        return os.path.exists(os.path.join(os.path.dirname(self.folder), "state/watchdog"))


def stat(pid):
    """(parent, start time) of a process of the machine, None where there is none."""
    try:
        with open("/proc/%s/stat" % pid) as file:
            fields = file.read().rpartition(") ")[2].split()
    except OSError:
        return None
    return (int(fields[1]), fields[19]) if fields[0] != "Z" else None


def below(pid):
    """The process and everything below it, children after parents."""
    children = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            found = stat(entry)
            if found:
                children.setdefault(found[0], []).append(int(entry))
    result = [pid]
    for each in result:
        result += children.get(each, [])
    return result


def inside(pid):
    """Every process in the pid namespace of this one, those that came in later too."""
    try:
        namespace = os.readlink("/proc/%d/ns/pid" % pid)
    except OSError:
        return []
    found = []
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and os.readlink("/proc/%s/ns/pid" % entry) == namespace:
                found.append(int(entry))
        except OSError:
            pass
    return found


def cmdline(pid):
    try:
        with open("/proc/%d/cmdline" % pid, "rb") as file:
            return file.read()
    except OSError:
        return b""


def send(pids, number):
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


class Sshd:
    """The one that lab/twin/sshd.ts configured: {"argv", "pid", "start", "log"} in its file."""

    def __init__(self, path):
        self.path = path

    def read(self):
        try:
            with open(self.path) as file:
                return json.load(file)
        except (OSError, ValueError):
            return None

    def pid(self):
        """None where it does not run."""
        known = self.read()
        found = stat(known["pid"]) if known else None
        return known["pid"] if found and found[1] == known["start"] else None

    def tree(self):
        pid = self.pid()
        return below(pid) if pid else []

    def cut(self):
        """Ends its sessions. It goes on listening."""
        send(self.tree()[1:], signal.SIGKILL)

    def end(self):
        tree = self.tree()
        send(tree, signal.SIGKILL)
        limit = time.monotonic() + 2
        while any(stat(pid) for pid in tree) and time.monotonic() < limit:
            time.sleep(0.002)
        collect(tree)

    def start(self):
        known = self.read()
        if known is None or self.pid():
            return
        for _ in range(200):  # a connection that is still being closed may hold the port for a moment
            size = os.path.getsize(known["log"])
            with open(known["log"], "ab") as log:
                process = subprocess.Popen(
                    known["argv"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
            while process.poll() is None:
                with open(known["log"], "rb") as log:
                    log.seek(size)
                    if b"Server listening" in log.read():
                        known.update(pid=process.pid, start=stat(process.pid)[1])
                        write(self.path, json.dumps(known))
                        process.returncode = 0
                        return
                time.sleep(0.003)
            time.sleep(0.02)


def write(path, text):
    with open(path + ".new", "w") as file:
        file.write(text)
    os.rename(path + ".new", path)


def collect(pids):
    for pid in pids:
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            pass


class Power:
    def __init__(self, config):
        self.config = config
        self.world_file = os.path.join(config["world"], "world.json")
        self.folder = os.path.join(config["world"], "boot")
        self.sshd = Sshd(config["sshd"])
        self.machine = Sandboxed(config["root"], self.read_world(), RealTime())
        self.machine.folder = self.folder
        self.holder = self.init = self.reader = None
        self.heard, self.number, self.waiting = b"", 0, []
        self.booting, self.stopped_with_them = False, set()
        self.wakes_at = None
        self.selector = selectors.DefaultSelector()
        self.log = os.open(config["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def read_world(self):
        with open(self.world_file) as file:
            return json.load(file)

    # --- what others may know

    def tell(self):
        """machine.json, and the door: `enter` leads into process 1 only while dom0 runs."""
        machine, door = self.machine, os.path.join(self.folder, "init")
        state = {
            "state": "booting" if self.booting else machine.state,
            "why": machine.why,
            "boot": machine.boot.to_json() if machine.boot else None,
            "log": machine.log[-50:],
            "number": self.number,
        }
        running = machine.state == "running" and self.init and not self.booting
        if running:
            write(door, "%d %s\n" % (self.init, stat(self.init)[1]))
        elif os.path.exists(door):
            os.unlink(door)
        write(os.path.join(self.folder, "machine.json"), json.dumps(state))
        if not self.booting:
            for connection in self.waiting:
                self.answer(connection, {"state": state["state"], "why": state["why"]})
            self.waiting = []

    # --- boots

    def power_on(self, why):
        self.end_dom0()
        running = os.path.join(self.config["world"], "state/watchdog")
        if os.path.exists(running):
            os.unlink(running)
        self.machine.world = self.machine.triggers.world = world = self.read_world()
        changed = bool(world.get("nextMachine"))
        self.machine.power_on(why)
        if changed:
            write(self.world_file, json.dumps(world, indent=1))
        self.number += 1
        self.launch()

    def launch(self):
        if self.machine.state != "running":
            self.booting = False
            self.fit_sshd()
            return self.tell()
        self.booting = True
        self.tell()
        self.holder, self.reader = sandbox.start(self.config, self.machine.boot.to_json(), self.machine.world, self.log)
        self.heard = b""
        self.selector.register(self.reader, selectors.EVENT_READ, self.hear)

    def hear(self, _):
        """What process 1 says of its start."""
        part = os.read(self.reader, 4096)
        self.heard += part
        lines = self.heard.decode().split("\n")
        for line in lines[:-1]:
            if line.startswith("pid "):
                self.init = int(line[4:])
        if "ready" in lines[:-1] or not part:
            self.selector.unregister(self.reader)
            os.close(self.reader)
            self.reader = None
            self.booting = False
            if "ready" not in lines[:-1]:
                said = [line for line in lines if line[:2] in ("1 ", "2 ")]
                self.failed(said[0] if said else "1 process 1 ended with its start")
            self.fit_sshd()
            self.tell()

    def failed(self, said):
        """dom0's process 1 does not come up: the first time that ends the start of the twin, later it is a boot that stopped."""
        if self.number == 1:
            self.end_dom0()
            print(said[2:], file=sys.stderr, flush=True)
            os._exit(int(said[0]))
        self.end_dom0()
        self.machine.state, self.machine.why = "stopped", said[2:]

    def end_dom0(self, gently=False):
        if self.reader is not None:
            self.selector.unregister(self.reader)
            os.close(self.reader)
            self.reader = None
        if self.holder:
            if gently and self.init:
                send([self.init], signal.SIGTERM)
                limit = time.monotonic() + 1.5
                while stat(self.init) and time.monotonic() < limit:
                    time.sleep(0.003)
            send([self.init] if self.init else [self.holder], signal.SIGKILL)
            # nsenter stops with its child, and process 1 is not gone before nsenter has collected it.
            send(self.stopped_with_them, signal.SIGCONT)
            self.stopped_with_them = set()
            os.waitpid(self.holder, 0)
        self.holder = self.init = None

    def fit_sshd(self):
        if self.machine.state == "running" and not self.booting:
            self.sshd.start()
        elif self.machine.state in ("off", "stopped"):
            self.sshd.end()

    # --- what happens to it

    def do(self, what, why):
        machine = self.machine
        if what == "cut-line":
            machine.note(what, why)
            self.sshd.cut()
        elif what in KILLED:
            machine.note(what, why)
            send([pid for pid in inside(self.init or 0) if re.search(KILLED[what], cmdline(pid))], signal.SIGKILL)
        elif what == "hang":
            machine.hang(why)
            self.booting = False
            self.freeze()
        elif what == "suspend":
            if machine.sleep(why):
                self.wakes_at = time.monotonic() + float(machine.world.get("sleepSeconds", 0.3))
            self.freeze()
        elif what in ("reset", "reboot"):
            machine.note(what, why)
            self.boot_anew(why or what)
        elif what in ("power", "poweroff"):
            machine.lose_power(why or what)
            self.leave()
            self.end_dom0()
            self.booting = False
        elif what == "power-cycle":
            machine.lose_power("power cycle by hand")
            self.boot_anew("power cycle by hand")
        elif what == "sshd":
            self.fit_sshd()

    def freeze(self):
        """Nothing of dom0 goes on."""
        if self.init:
            stopped = inside(self.init)
            parents = [stat(pid) for pid in stopped]
            self.stopped_with_them = {parent[0] for parent in parents if parent} - set(stopped) - {self.holder}
            send(stopped, signal.SIGSTOP)
        send(self.sshd.tree(), signal.SIGSTOP)

    def wake(self):
        self.wakes_at = None
        send(inside(self.init or 0), signal.SIGCONT)
        send(self.stopped_with_them, signal.SIGCONT)
        self.stopped_with_them = set()
        send(self.sshd.tree(), signal.SIGCONT)
        self.machine.note("wake")
        self.tell()

    def leave(self):
        """Between two states: told before sshd ends, so that nobody finds dom0 running without it."""
        self.wakes_at = None
        self.booting = True
        self.tell()
        self.sshd.end()

    def boot_anew(self, why):
        self.leave()
        self.power_on(why)

    def accept(self, server):
        connection, _ = server.accept()
        connection.settimeout(2)
        data = b""
        try:
            while not data.endswith(b"\n"):
                part = connection.recv(4096)
                if not part:
                    break
                data += part
            request = json.loads(data.decode())
        except (OSError, ValueError):
            return connection.close()
        what = request.get("do")
        if what in ("power-cycle", "wait"):
            self.waiting.append(connection)
        else:
            # Before it happens: whoever asked may be gone afterwards.
            self.answer(connection, {"ok": True})
        self.do(what, request.get("why", ""))
        self.tell()

    @staticmethod
    def answer(connection, reply):
        try:
            connection.sendall(json.dumps(reply).encode() + b"\n")
        except OSError:
            pass
        connection.close()

    def listen(self):
        path = os.path.join(self.config["world"], "power")
        if os.path.exists(path):
            os.unlink(path)
        folder = os.open(self.config["world"], os.O_PATH)
        server = socket.socket(socket.AF_UNIX)
        server.bind("/proc/self/fd/%d/power" % folder)  # a socket's path has at most 107 bytes
        os.close(folder)
        server.listen(64)
        self.selector.register(server, selectors.EVENT_READ, self.accept)

    def watch(self):
        """What comes by itself: the watchdog, somebody who types the passphrase, the end of process 1."""
        machine = self.machine
        if self.wakes_at is not None and time.monotonic() >= self.wakes_at:
            self.wake()
        if machine.due() is not None and machine.clock.boottime() >= machine.due():
            machine.note("watchdog", "no sign from dom0 for %g s" % machine.watchdog_seconds())
            self.boot_anew("watchdog")
        if machine.state == "stopped" and machine.boot.status == "waiting" and self.read_world().get("person", True):
            if machine.type_passphrase():
                self.launch()
        if self.holder and machine.state != "hung" and self.reader is None:
            pid, _ = os.waitpid(self.holder, os.WNOHANG)
            if pid:
                self.holder = self.init = None
                machine.lose_power("process 1 ended")
                self.leave()
                self.booting = False
                self.tell()

    def run(self):
        signal.signal(signal.SIGTERM, lambda *_: self.end())
        self.listen()
        why = sandbox.possible(self.config)
        if why:
            print(why, file=sys.stderr, flush=True)
            return 1
        self.power_on("power button")
        told = False
        while True:
            if not told and not self.booting:
                told = True
                print(json.dumps({"state": self.machine.state, "why": self.machine.why}), flush=True)
                for stream in (1, 2):  # nobody reads them from here on
                    os.dup2(self.log, stream)
            for key, _ in self.selector.select(0.1):
                key.data(key.fileobj)
            self.watch()

    def end(self):
        if self.machine.state == "hung":
            self.sshd.end()
        self.end_dom0(gently=self.machine.state == "running")
        os._exit(0)


def main():
    with open(sys.argv[1]) as file:
        config = json.load(file)
    sys.exit(Power(config).run())


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        print(error, file=sys.stderr)
        sys.exit(2 if error.errno == errno.EADDRINUSE else 1)
