"""The Admin API as the client commands use it, and their common manners: messages, exit codes,
tables.
"""

import argparse
import fnmatch
import os
import socket
import sys

SOCKET = "/run/qubesd.sock"


class QubesException(Exception):
    """What qubesd refused; `kind` is the class name in its reply."""

    kind = "QubesException"


class EmptyReply(QubesException):
    """qubesd refused the call or met an error of its own: not a byte."""


class QubesDaemonCommunicationError(Exception):
    pass


# A traceback names it as the real one: qubesadmin.exc.QubesDaemonCommunicationError (§1).
QubesDaemonCommunicationError.__module__ = "qubesadmin.exc"

# Exceptions that are KeyErrors in the real client, which quotes their text.
QUOTED = ("DeviceAlreadyAssigned", "DeviceNotAssigned")


def call(method, dest="dom0", arg="", payload=b""):
    """The reply's data as text. A local dom0 only: /etc/qubes-release tells."""
    if not os.path.exists("/etc/qubes-release"):
        raise FileNotFoundError(2, "No such file or directory", "qrexec-client-vm")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(SOCKET)
        except OSError as error:
            raise QubesDaemonCommunicationError("Failed to connect to qubesd service: %s" % error)
        connection.sendall(("%s+%s dom0 name %s\0" % (method, arg, dest)).encode() + payload)
        connection.shutdown(socket.SHUT_WR)
        data = b""
        while True:
            part = connection.recv(65536)
            if not part:
                break
            data += part
    if not data:
        raise EmptyReply("Got empty response from qubesd. See journalctl in dom0 for details.")
    if data.startswith(b"0\0"):
        return data[2:].decode()
    _, kind, _, text = data.decode().split("\0")[:4]
    error = QubesException(repr(text) if kind in QUOTED else text)
    error.kind = kind
    raise error


def qubes():
    """{name: (class, state)} in the order of admin.vm.List."""
    found = {}
    for line in call("admin.vm.List").splitlines():
        name, *fields = line.split(" ")
        values = dict(field.split("=", 1) for field in fields)
        found[name] = (values["class"], values["state"])
    return found


def state(name):
    return dict(field.split("=") for field in call("admin.vm.CurrentState", name).split(" "))[
        "power_state"
    ]


def parse_property(reply):
    """(is default, type, text)"""
    default, type_, text = reply.split(" ", 2)
    return default == "default=True", type_[len("type=") :], text


def properties(dest, prefix="admin.vm.property"):
    """{name: (is default, type, text)}; escapes of GetAll undone. One property without an answer
    leaves GetAll without one; they are then asked for one by one, and what still has none counts as
    without a value (seen on real core-admin 4.3.50; qubesadmin/base.py, _fetch_all_properties).
    """
    found = {}
    try:
        rows = call(prefix + ".GetAll", dest).split("\n")[:-1]
    except EmptyReply:
        for name in call(prefix + ".List", dest).splitlines():
            try:
                found[name] = parse_property(call(prefix + ".Get", dest, name))
            except EmptyReply:
                found[name] = (True, "int", "")
        return found
    for row in rows:
        name, _, reply = row.partition(" ")
        reply = reply.replace("\\\\", "\0").replace("\\n", "\n").replace("\0", "\\")
        found[name] = parse_property(reply)
    return found


def feature(name, key, check="Get"):
    """Value of a feature; None where it is not set."""
    try:
        return call("admin.vm.feature." + check, name, key)
    except QubesException as error:
        if error.kind != "QubesFeatureNotFoundError":
            raise
        return None


def features(name):
    return [
        (key, call("admin.vm.feature.Get", name, key))
        for key in call("admin.vm.feature.List", name).splitlines()
    ]


def print_table(rows):
    """As `column -t`: two blanks between columns, the last one not filled up."""
    if rows:
        widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]) - 1)]
        for row in rows:
            print("".join(cell.ljust(width + 2) for cell, width in zip(row, widths)) + row[-1])


class Parser(argparse.ArgumentParser):
    """The options that every command has; `qubes` says how many names it takes: None, 1, "*" or
    "+".
    """

    def __init__(self, qubes=None, **options):
        os.environ["COLUMNS"] = "80"
        if sys.version_info >= (3, 14):
            options["color"] = False
        super().__init__(add_help=False, **options)
        self.takes = qubes
        self.add_argument("--verbose", "-v", action="count", default=1)
        self.add_argument("--quiet", "-q", action="count", default=0)
        self.add_argument("--force-root", action="store_true", help=argparse.SUPPRESS)
        self.add_argument("--help", "-h", action="help")
        self.add_argument("--version", action="version", version="%(prog)s 4.3.34")
        if qubes == 1:
            self.add_argument("names", metavar="VMNAME", nargs=1)
        elif qubes:
            self.add_argument("--all", action="store_true", dest="all_qubes")
            self.add_argument("--exclude", action="append", default=[])
            self.add_argument("names", metavar="VMNAME", nargs="*", default=[])

    def parse(self):
        """The arguments, with `.qubes` = the chosen qubes' names and `.known` = what admin.vm.List
        says of all.
        """
        args = self.parse_args()
        args.known = qubes()
        args.qubes = []
        if not self.takes:
            return args
        if getattr(args, "all_qubes", False):
            args.qubes = [
                name
                for name, (kind, _) in args.known.items()
                if kind != "AdminVM" and name not in args.exclude
            ]
            return args
        if getattr(args, "exclude", None):
            self.error("--exclude can only be used with --all")
        if self.takes == "+" and not args.names:
            self.error("one of the arguments --all VMNAME is required")
        for name in args.names:
            if any(wildcard in name for wildcard in "*?[!]"):
                args.qubes += [each for each in args.known if fnmatch.fnmatch(each, name)]
            elif name not in args.known:
                self.error("no such domain: %r" % name)
            else:
                args.qubes.append(name)
        args.qubes = list(dict.fromkeys(args.qubes))
        return args

    def fail(self, message, code=1):
        self.exit(code, "%s: error: %s\n" % (self.prog, message))


def complain(message):
    print("Error: %s" % message, file=sys.stderr)
