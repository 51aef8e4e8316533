"""The socket /run/qubesd.sock, the stored state and the log of calls.

A request is `METHOD+ARG SOURCE name TARGET\\0PAYLOAD` up to the client's half-close
(qubes-cli-formats.md §7).
"""

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time

import policy
from guest import room
from host import control
from machine import faults, hardware

from . import api, qubesdb, volumes
from .errors import QubesException, Refused
from .model import Host, System
from .world import World

SOCKET = "/run/qubesd.sock"
STATE = "/var/lib/qubes/qubes.json"
INSTALL = "/run/twin/install.json"
GUEST = "/usr/lib/twin/bin/qubes-guest"
GUI_DAEMONS = "/run/qubes"
CALLS = "/var/log/qubes/qubesd-calls.log"
BOOT_ID = "/proc/sys/kernel/random/boot_id"
# What starts a qube at boot (seen on real core-admin 4.3.50; vm/qubesvm.py).
AUTOSTART_LINK = "/etc/systemd/system/multi-user.target.wants/qubes-vm@%s.service"
AUTOSTART_UNIT = "/usr/lib/systemd/system/qubes-vm@.service"
STORED = ("labels", "pools", "globals", "qubes", "boot")


def read_text(path):
    with open(path) as file:
        return file.read()


def read_state(path=STATE):
    """The stored state, or that of a fresh installation; None where there is neither."""
    for each in (path, INSTALL):
        try:
            raw = json.loads(read_text(each))
        except FileNotFoundError:
            continue
        return {key: raw[key] for key in STORED if key in raw}
    return None


def link_autostart(name, on):
    """Makes or removes the link that has systemd start the qube at boot."""
    link = AUTOSTART_LINK % name
    try:
        if not on and os.path.lexists(link):
            os.unlink(link)
        if on and not os.path.lexists(link):
            os.makedirs(os.path.dirname(link), exist_ok=True)
            os.symlink(AUTOSTART_UNIT, link)
    except OSError:
        raise QubesException("Failed to set autostart for VM in systemd")


class Dom0(Host):
    """The machine below, as the twin's /sys shows it. Only qubesd's own has power over volumes and what runs in qubes."""

    images = "/var/lib/qubes"

    def __init__(self, world, owner=False):
        self.world, self.owner = world, owner
        self.storage = self.images if owner else None

    def started(self, qube):
        """Begins the inside of a qube that has anything to run; of another it begins with the first command."""
        if self.owner:
            room.announce(qube.name, qube.run["xid"])
        if self.owner and any(os.path.isdir(each) and os.listdir(each) for each in self.written(qube)):
            view = json.dumps(qube.system.inside(qube))
            subprocess.Popen([GUEST, "--begin", view], stdin=subprocess.DEVNULL, start_new_session=True)

    @staticmethod
    def written(qube):
        found = volumes.volumes(qube, Dom0.images)
        return [found[name].dirty for name in ("root", "private") if name in found]

    def stopped(self, name):
        if self.owner:
            room.end(name)

    def driver(self, sbdf):
        link = "/sys/bus/pci/devices/%s/driver" % sbdf
        return os.path.basename(os.readlink(link)) if os.path.islink(link) else None

    def detach(self, sbdf):
        hardware.rebind(self.world.read(), sbdf, hardware.PCIBACK)

    def hang(self, why):
        control.power("hang", why)

    def input_target(self):
        return hardware.sender("")

    def receives_input(self):
        return hardware.receives_input("")

    def allowed(self, source, service, argument, target, qubes):
        return policy.goes_to(source, service, argument, target, qubes)

    def log(self, line):
        with open("/var/log/libvirt/libxl/libxl-driver.log", "a") as file:
            file.write(time.strftime("%Y-%m-%d %H:%M:%S ", time.gmtime()) + line + "\n")


class Daemon:
    def __init__(self):
        self.world = World()
        self.triggers = faults.Triggers(self.world, "/run/twin/state/fired.json")
        self.lock = threading.Lock()
        self.listeners = []  # [(destination, queue of (subject, event, fields))]
        self.saved, self.senders, self.told = None, "", {}
        os.makedirs(GUI_DAEMONS, exist_ok=True)
        self.shown = {name for name in os.listdir(GUI_DAEMONS) if name.startswith("guid-running.")}
        self.load()
        self.calls = open(CALLS, "a", buffering=1)

    def load(self):
        stored = read_state()
        if stored is None:
            raise SystemExit("qubesd: neither %s nor %s is there" % (STATE, INSTALL))
        if not os.path.exists(STATE):
            stored = hardware.adapted(stored, self.world.read())
        self.system = System(
            stored,
            self.world,
            read_text(BOOT_ID).strip(),
            emit=self.emit,
            autostart=link_autostart,
            host=Dom0(self.world, owner=True),
        )

    def save(self):
        text = json.dumps(self.system.stored(), indent=1)
        if text == self.saved:
            return
        with open(STATE + ".new", "w") as file:
            file.write(text)
        os.rename(STATE + ".new", STATE)
        self.saved = text

    def prepare(self):
        """A fresh installation has the links that start its qubes at boot."""
        if not os.path.exists(STATE):
            for qube in self.system.qubes.values():
                if qube.has("autostart") and qube.value("autostart"):
                    link_autostart(qube.name, True)
        self.system.stop_storage()
        self.save()

    def tick(self):
        """What was told to stop is gone, whether anybody looks or not."""
        with self.lock:
            if self.system.running is not None:
                self.keep()
            self.show_windows()

    def show_windows(self):
        """/run/qubes/guid-running.XID of what dom0 shows (qubes-host.md (d) 3)."""
        shown = {
            "guid-running.%d" % q.run["xid"]
            for q in self.system.qubes.values()
            if q.shown_by_dom0()
        }
        for name in shown - self.shown:
            open(os.path.join(GUI_DAEMONS, name), "w").close()
        for name in self.shown - shown:
            os.unlink(os.path.join(GUI_DAEMONS, name))
        self.shown = shown
        self.show_senders()
        self.tell_qubes()

    def tell_qubes(self):
        """dom0's words to the qubes whose inside has begun, see qubesdb.py; others read them when it begins."""
        for name in self.system.running:
            path = "%s/%s/guest/qubesdb.json" % (room.GUESTS, name)
            if os.path.exists(path):
                text = json.dumps(qubesdb.entries(self.system.qubes[name]))
                if self.told.get(name) != text:
                    room.write(path, text)
                    self.told[name] = text

    def show_senders(self):
        """The units that pass dom0's input devices on to a qube that runs (qubes-host.md (d) 4)."""
        text = ""
        if any(q.run and q.run.get("proxied") for q in self.system.qubes.values()):
            machine = hardware.Hardware(self.world.read())
            found = enumerate(machine.in_dom0(hardware.bound("/sys")))
            text = "".join("qubes-input-sender-%s@event%d.service\n" % (e["kind"], n) for n, e in found)
        if text != self.senders:
            with open(os.path.join(GUI_DAEMONS, "input-senders"), "w") as file:
                file.write(text)
            self.senders = text

    def trigger(self, what, when):
        """A fault that waits for this call. Only after a cut line does anything go on."""
        found = self.triggers.fires("call", what, when)
        if found:
            control.power(found["do"], "fault at %s" % found["at"])

    # --- events

    def emit(self, subject, event, fields):
        for dest, events in self.listeners:
            if dest == "dom0" or subject == dest:
                events.put((subject, event, fields))

    def stream(self, connection, dest):
        events = queue.Queue()
        listener = (dest, events)
        with self.lock:
            self.system.qube(dest)
            self.listeners.append(listener)
        try:
            events.put(("", "connection-established", {}))
            while True:
                subject, event, fields = events.get()
                parts = ["1", subject, event]
                for key, value in fields.items():
                    parts += [key, "" if value is None else str(value)]
                connection.sendall("\0".join(parts + ["", ""]).encode())
        except OSError:
            return
        finally:
            with self.lock:
                self.listeners.remove(listener)

    # --- calls

    def answer(self, method, arg, dest, payload):
        """The reply's bytes; none at all where the call is not valid or something broke."""
        what = "%s%s %s" % (method, "+" + arg if arg else "", dest)
        with self.lock:
            self.calls.write("%.6f %s %s %s\n" % (time.time(), method, arg or "-", dest))
            self.trigger(what, "before")
            try:
                try:
                    text, _ = api.execute(self.system, method, arg, dest, payload)
                finally:
                    if getattr(api.METHODS.get(method), "writes", False):
                        self.keep()
                    self.show_windows()
            except Refused as error:
                print(
                    "%s+%s to %s refused: %s" % (method, arg, dest, error),
                    file=sys.stderr,
                    flush=True,
                )
                return b""
            except QubesException as error:
                return ("2\0%s\0\0%s\0" % (type(error).__name__, error)).encode()
        if method == "admin.vm.Shutdown":
            self.remember(dest)
        try:
            self.wait(method, arg, dest)
        except QubesException as error:
            return ("2\0%s\0\0%s\0" % (type(error).__name__, error)).encode()
        self.trigger(what, "after")
        return b"0\0" + text.encode()

    def remember(self, name):
        with self.lock:
            run = self.system.boot["running"].get(name)
            left = run["stops"] - self.system.now() if run and run["stops"] else None
        if left is not None:
            timer = threading.Timer(max(0, left) + 0.005, self.tick)
            timer.daemon = True
            timer.start()

    def keep(self):
        try:
            self.save()
        except OSError as error:
            self.saved = None
            self.load()  # what could not be stored did not happen
            raise Refused("cannot store: %s" % error)

    def wait(self, method, arg, dest):
        """Start answers when the qube's agent is up, Shutdown+wait when the qube is gone."""
        if method == "admin.vm.Start":
            self.until(lambda qube: qube.state() != "Transient", dest, None)
        elif method == "admin.vm.Shutdown" and "wait" in arg.split("+"):
            with self.lock:
                qube = self.system.qube(dest)
                timeout = qube.value("shutdown_timeout")
            if not self.until(lambda qube: qube.is_halted(), dest, timeout):
                raise self.system.timed_out(qube)

    def until(self, condition, dest, timeout):
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            with self.lock:
                qube = self.system.qubes.get(dest)
                if qube is None or condition(qube):
                    return True
            if end is not None and time.monotonic() > end:
                return False
            time.sleep(0.02)

    def serve(self, connection):
        with connection:
            data = bytearray()
            while True:
                part = connection.recv(65536)
                if not part:
                    break
                data += part
            try:
                header, payload = bytes(data).split(b"\0", 1)
                call, _source, kind, dest = header.decode("ascii").split(" ")
            except ValueError:
                return  # a framing error: qubesd hangs up
            if kind != "name":
                return
            method, _, arg = call.partition("+")
            if method == "admin.Events":
                return self.stream(connection, dest)
            try:
                connection.sendall(self.answer(method, arg, dest, payload))
            except OSError:
                return  # the client has gone

    def listen(self):
        try:
            os.unlink(SOCKET)
        except FileNotFoundError:
            pass
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        server.bind(SOCKET)
        os.chmod(SOCKET, 0o660)
        server.listen(128)
        while True:
            connection, _ = server.accept()
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()


def main():
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    os.makedirs(os.path.dirname(STATE), exist_ok=True)
    os.makedirs(os.path.dirname(CALLS), exist_ok=True)
    daemon = Daemon()
    daemon.prepare()
    daemon.listen()
