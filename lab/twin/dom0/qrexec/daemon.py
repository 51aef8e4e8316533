"""qrexec's daemons, one process for all qubes: a socket each at /run/qubes/qrexec/NAME, made when a command first runs there.

A request is one JSON line {"target", "service"}, at once followed by what the service is to read, up to a half-close. The answer is
nothing where it was refused, else "a" at once, and frames: one letter, four bytes of length, and that many bytes; "o" is output, "x" the exit
status.
"""

import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading

import policy
from client.admin import call as admin_call
from client.admin import QubesException
from client.qvm_run import service_argv
from policy.call import decide, log

from . import CONTROL, MAX_SERVICE, PROBLEM, SERVICE_NOT_FOUND, SOCKETS
from .service import Dom0Service, NotFound, NotExecutable

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")


def sanitized(text, extra):
    """As qrexec-daemon does with what a qube sends, byte by byte (a character each here): sanitize_name."""
    return re.sub(r"[^A-Za-z0-9_.%s-]" % re.escape(extra), "_", text)


def read_line(connection, limit):
    data = b""
    while b"\n" not in data and len(data) <= limit:
        part = connection.recv(4096)
        if not part:
            return None, b""
        data += part
    line, _, rest = data.partition(b"\n")
    return line, rest


class Call:
    """One call of a qube."""

    def __init__(self, source, connection):
        self.source, self.connection = source, connection

    def run(self):
        with self.connection:
            line, rest = read_line(self.connection, 8 * MAX_SERVICE)
            if line is None:
                return
            request = json.loads(line.decode())
            # The client's own strncpy cuts the target.
            target = sanitized(request["target"][:63], "@:")
            service = sanitized(request["service"], "+")
            # validate_service_name: empty, or only an argument
            if not service or service.startswith("+") or len(service) > MAX_SERVICE:
                return
            try:
                kind, where, user = decide(self.source, target or "@default", service)
            except policy.AccessDenied:
                return
            if kind == "ask":
                log("qrexec: %s: %s -> %s: denied: nobody is at the twin's prompt" % (service, self.source, target))
                return
            self.serve(service, where, user, target, rest)

    def serve(self, service, where, user, target, first):
        self.connection.sendall(b"a")
        try:
            process = self.start(service, where, user, target)
        except NotFound:
            return self.end(SERVICE_NOT_FOUND)
        except (NotExecutable, OSError, QubesException, ValueError) as error:
            print("%s: %s" % (service, error), file=sys.stderr, flush=True)
            return self.end(PROBLEM)
        threading.Thread(target=self.feed, args=(process.stdin, first), daemon=True).start()
        while True:
            part = os.read(process.stdout.fileno(), 65536)
            if not part:
                break
            if not self.send(b"o", part):
                break  # the one who asked has gone; the service learns it when it writes
        process.stdout.close()
        self.end(process.wait())

    def start(self, service, where, user, target):
        if where == "dom0":
            return Dom0Service(service, self.source, target).start()
        if where.startswith("@"):
            raise ValueError("the twin makes no disposable for a call")
        admin_call("admin.vm.Start", where)
        qube = json.loads(admin_call("internal.GetQube", where))
        name, _, argument = service.partition("+")
        program = service_argv(service) or ["/etc/qubes-rpc/" + name] + ([argument] if argument else [])
        says = ["QREXEC_REMOTE_DOMAIN=" + self.source, "QREXEC_SERVICE_ARGUMENT=" + argument]
        argv = ["/usr/lib/twin/bin/qubes-guest", json.dumps(qube), user or qube["user"], "env"] + says + program
        return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def feed(self, stdin, first):
        """What the caller sends; its end is the service's."""
        part = first
        try:
            while True:
                if part:
                    stdin.write(part)
                    stdin.flush()
                part = self.connection.recv(65536)
                if not part:
                    break
        except (OSError, ValueError):
            pass
        try:
            stdin.close()
        except OSError:
            pass

    def send(self, kind, data):
        try:
            self.connection.sendall(kind + struct.pack(">I", len(data)) + data)
        except OSError:
            return False
        return True

    def end(self, code):
        self.send(b"x", struct.pack(">I", code & 0xFF))


class Daemon:
    def __init__(self):
        self.listening, self.lock = {}, threading.Lock()

    def socket_of(self, name):
        """The path of the qube's socket, where it is served from now on."""
        if not NAME.fullmatch(name):
            raise ValueError("not a qube's name: %s" % name)
        path = "%s/%s" % (SOCKETS, name)
        with self.lock:
            if name not in self.listening:
                self.listening[name] = listen(path)
                threading.Thread(target=self.accept, args=(name,), daemon=True).start()
        return path

    def accept(self, name):
        server = self.listening[name]
        while True:
            connection, _ = server.accept()
            threading.Thread(target=Call(name, connection).run, daemon=True).start()

    def control(self):
        server = listen(CONTROL)
        while True:
            connection, _ = server.accept()
            with connection:
                line, _ = read_line(connection, 4096)
                if line is None:
                    continue  # somebody who looks whether it is served
                try:
                    path = self.socket_of(json.loads(line.decode())["qube"])
                    connection.sendall(json.dumps({"socket": path}).encode() + b"\n")
                except (KeyError, ValueError, OSError) as error:
                    print(error, file=sys.stderr, flush=True)


def listen(path):
    if os.path.lexists(path):
        os.unlink(path)
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen(128)
    return server


def main():
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    os.makedirs(SOCKETS, exist_ok=True)
    Daemon().control()
