"""The process of a plain Xen host that is hypervisor, xenstored, QEMU and guests in one; /run/xenstored/socket is its socket.

One JSON line there, one back: {"xl": [word], "cwd"} → {"code", "out", "err"}; {"store": [verb, …]} the same, for xenstore-*;
{"state": true} → what the screen model and dumps ask for. It also reads what is written to sysfs (sysfs.pipes), and listens where
framebuffers of domains are served: whoever connects is greeted as by a VNC server (RFB 003.008, RFC 6143 7.1.1), and no more.
"""
import json
import os
import selectors
import socket
import threading
import time

from host import control
from machine import hardware
from qubesd.world import World

from . import sysfs, xl
from .model import Hypervisor
from .store import Store
from .tools import xenstore

SOCKET = "/run/xenstored/socket"
LOGS = "/etc/default/xen"


class Real(Hypervisor):
    """Its time is the machine's. `lock`: who holds it may look and change."""

    lock = None

    def wait(self, holds, seconds):
        end = time.monotonic() + seconds
        while True:
            self.settle()
            if holds():
                return True
            if time.monotonic() > end:
                return False
            self.lock.wait(0.02)


class Server:
    def __init__(self):
        self.world = World()
        self.lock = threading.Condition()
        with open("/run/twin/boot/xen") as file:
            line = file.read().strip()
        self.xen = Real(self.world.read, lambda: hardware.Hardware(self.world.read()), Store(), time.monotonic, "", line, logs())
        self.xen.lock = self.lock
        self.files = sysfs.Sysfs("/sys", self.xen.machine, self.rebind, self.hang)
        self.xen.restart = xl.restart(self.xen, self.files)
        self.selector = selectors.DefaultSelector()
        self.listening, self.viewers = {}, {}
        self.readers, self.probe = [], None

    def rebind(self, sbdf, driver):
        hardware.rebind(self.world.read(), sbdf, driver)

    @staticmethod
    def hang(why):
        control.power("hang", why)

    # --- requests

    def serve(self):
        os.makedirs(os.path.dirname(SOCKET), exist_ok=True)
        server = socket.socket(socket.AF_UNIX)
        if os.path.exists(SOCKET):
            os.unlink(SOCKET)
        server.bind(SOCKET)
        server.listen(64)
        threading.Thread(target=self.accept, args=(server,), daemon=True).start()
        while True:
            with self.lock:
                self.xen.settle()
                self.fit_pipes()
                self.fit_listeners()
                self.lock.notify_all()
            for key, _ in self.selector.select(0.03):
                with self.lock:
                    key.data(key.fileobj)

    def accept(self, server):
        while True:
            connection, _ = server.accept()
            threading.Thread(target=control.serve, args=(connection, self.answer), daemon=True).start()

    def answer(self, line):
        request = json.loads(line)
        try:
            with self.lock:
                reply = self.reply(request)
                self.fit_listeners()
            return reply
        except Exception as error:  # who asked must get an answer
            return {"code": 1, "out": "", "err": "the twin's Xen: %r\n" % error}

    def reply(self, request):
        if "xl" in request:
            code, out, err = xl.Xl(self.xen, self.files, request.get("cwd", "/")).run(request["xl"])
            return {"code": code, "out": out, "err": err}
        self.xen.settle()
        if "store" in request:
            code, out, err = xenstore(self.xen.store, request["store"])
            self.xen.settle()
            return {"code": code, "out": out, "err": err}
        return self.state()

    def state(self):
        """{domains: [{id, name, type, paused, pci: [sbdf], vnc, drawn, up, hangs, screens: {sbdf: driver}}], owners}"""
        found = []
        for each in self.xen.domains.values():
            guest = each.guest
            seen = guest.seen(self.xen.function) if guest and guest.up and not guest.hangs else []
            drivers = {entry["sbdf"]: row[3] for entry, row in zip(each.pci, seen[len(seen) - len(each.pci) :])} if seen else {}
            found.append(
                {
                    "id": each.id,
                    "name": each.name,
                    "type": each.type,
                    "paused": each.paused,
                    "pci": [entry["sbdf"] for entry in each.pci],
                    "vnc": each.vnc[1] if each.vnc else None,
                    "drawn": guest.drawn if guest else None,
                    "up": bool(guest and guest.up),
                    "hangs": bool(guest and guest.hangs),
                    "drivers": drivers,
                }
            )
        return {"domains": found, "owners": dict(self.xen.owner)}

    # --- sysfs

    def fit_pipes(self):
        """The pipes that are there now: a world that changes writes /sys anew."""
        try:
            probe = os.stat("/sys/bus/pci/drivers_probe").st_ino, sorted(os.listdir("/sys/bus/pci/drivers"))
        except OSError:
            return
        if probe == self.probe:
            return
        self.probe = probe
        for reader in self.readers:
            self.selector.unregister(reader)
            os.close(reader)
        self.readers = []
        for path in sysfs.pipes("/sys"):
            reader = os.open(path, os.O_RDWR | os.O_NONBLOCK)  # for writing too: it never ends
            self.readers.append(reader)
            self.selector.register(reader, selectors.EVENT_READ, lambda fd, path=path: self.written(path, fd))

    def written(self, path, reader):
        try:
            text = os.read(reader, 65536).decode("utf-8", "replace")
            self.files.written(path, text)
        except OSError as error:
            print("write to %s: %s" % (path, error.strerror), flush=True)

    # --- framebuffers

    def fit_listeners(self):
        wanted = {each.vnc for each in self.xen.domains.values() if each.vnc}
        for at in set(self.listening) - wanted:
            listener = self.listening.pop(at)
            self.selector.unregister(listener)
            listener.close()
            for viewer in self.viewers.pop(at, []):
                try:
                    viewer.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
                viewer.close()
        for at in wanted - set(self.listening):
            listener = socket.socket(socket.AF_INET)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(at)
            except OSError as error:
                print("nobody listens on %s:%d: %s" % (at[0], at[1], error.strerror), flush=True)
                listener.close()
                continue
            listener.listen(16)
            self.listening[at] = listener
            self.selector.register(listener, selectors.EVENT_READ, lambda server, at=at: self.greet(server, at))

    def greet(self, server, at):
        viewer, _ = server.accept()
        try:
            viewer.sendall(b"RFB 003.008\n")
            self.viewers.setdefault(at, []).append(viewer)
        except OSError:
            viewer.close()


def logs():
    """xenconsoled keeps guests' consoles (/etc/init.d/xen reads XENCONSOLED_ARGS alone)."""
    try:
        with open(LOGS) as file:
            args = [line.partition("=")[2].strip().strip("\"'") for line in file if line.startswith("XENCONSOLED_ARGS=")]
    except OSError:
        return False
    return bool(args) and ("--log=guest" in args[-1] or "--log=all" in args[-1])


def main():
    Server().serve()
