"""Servers of remote screens, as far as they listen and greet: where their options and files say, and nowhere else. What they would show
is no matter of the laboratory; whoever gets as far as the login is told so. tests/remoteServers.test.ts runs the real ones.
"""

import configparser
import os
import signal
import socket
import struct
import subprocess
import sys
import threading

from . import INSIDE, loud

ENDED = "/run/systemd/twin-ended/"


def serve(address, port, greet):
    """Listens until it is killed."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = socket.socket(family, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind((address, port))
    except OSError as error:
        print("%s: port %d of %s: %s" % (os.path.basename(sys.argv[0]), port, address, error.strerror), file=sys.stderr)
        sys.exit(1)
    server.listen(32)
    while True:
        connection, peer = server.accept()
        threading.Thread(target=_one, args=(connection, peer, greet), daemon=True).start()


def _one(connection, peer, greet):
    with connection:
        try:
            connection.settimeout(60)
            greet(connection, peer)
        except (OSError, ValueError):
            pass


def take(connection, count):
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise ValueError("it hung up")
        data += part
    return data


# --- x11vnc (its manual): without -localhost it listens on every address, without a password it asks for none

FLAGS = {"-norc", "-forever", "-shared", "-localhost", "-noipv6", "-noremote", "-nosel", "-xrandr", "-quiet", "-nocmds", "-nopw"}
TAKING = {"-display", "-auth", "-rfbport", "-passwdfile", "-accept"}


def x11vnc(args):
    options, left = {}, list(args)
    while left:
        option = left.pop(0)
        if option in FLAGS:
            options[option] = True
        elif option in TAKING and left:
            options[option] = left.pop(0)
        else:
            loud("x11vnc " + option)
    if options.get("-display") != ":0" or not os.path.exists(options.get("-auth", "")):
        print("XOpenDisplay(\"%s\") failed." % options.get("-display", ""), file=sys.stderr)
        return 1
    password = None
    if "-passwdfile" in options:
        try:
            with open(options["-passwdfile"]) as file:
                password = file.readline().rstrip("\n")
        except OSError as error:
            print("%s: %s" % (options["-passwdfile"], error.strerror), file=sys.stderr)
            return 1
    if password == "":
        print("x11vnc: the password file is empty", file=sys.stderr)
        return 1

    def greet(connection, peer):
        connection.sendall(b"RFB 003.008\n")
        take(connection, 12)
        if "-accept" in options:
            environment = dict(os.environ, RFB_CLIENT_IP=peer[0], RFB_CLIENT_PORT=str(peer[1]))
            if subprocess.call(options["-accept"], shell=True, env=environment) != 0:
                return
        connection.sendall(bytes([1, 2 if password else 1]))
        take(connection, 1)
        if password:
            connection.sendall(os.urandom(16))
            take(connection, 16)
        why = b"the twin's x11vnc shows nothing"
        connection.sendall(struct.pack(">II", 1, len(why)) + why)

    return serve("127.0.0.1" if "-localhost" in options else "0.0.0.0", int(options.get("-rfbport", 5900)), greet)


# --- xrdp (its manual, xrdp.ini(5))


def _config(args):
    if args[:2] != ["--nodaemon", "--config"] or len(args) != 3:
        loud(" ".join(args))
    parser = configparser.ConfigParser(strict=False, interpolation=None, comment_prefixes=("#", ";"))
    with open(args[2]) as file:
        parser.read_file(file)
    return parser


def xrdp(args):
    values = _config(args)["Globals"]
    for name in ("certificate", "key_file"):
        with open(values[name]):
            pass
    scheme, _, place = values["port"].partition("://")
    address, _, port = place.rpartition(":") if scheme == "tcp" else ("0.0.0.0", "", values["port"])

    def greet(connection, peer):
        # MS-RDPBCGR 2.2.1.1 and 2.2.1.2: a request in a TPKT; TLS is what it gets.
        length = struct.unpack(">H", take(connection, 4)[2:])[0]
        request = take(connection, length - 4)
        if request[1] != 0xE0:
            return
        connection.sendall(bytes.fromhex("030000130ed000001234000200080001000000"))
        connection.recv(1)

    return serve(address or "0.0.0.0", int(port), greet)


def xrdp_sesman(args):
    values = _config(args)["Globals"]
    return serve(values.get("ListenAddress", "0.0.0.0"), int(values.get("ListenPort", "3350")), lambda connection, peer: None)


# --- what their units call


def systemd_sysusers(args):
    if len(args) != 1:
        loud(" ".join(args))
    with open(args[0]) as file:
        lines = [line.split(None, 3) for line in file if line.strip() and not line.startswith("#")]
    for kind, name, *_ in lines:
        if kind != "u":
            loud("a line of kind " + kind)
        with open("/etc/passwd") as file:
            rows = [line.split(":") for line in file]
        if any(row[0] == name for row in rows):
            continue
        number = min([1000] + [int(row[2]) for row in rows if 900 < int(row[2]) < 1000]) - 1
        for path, row in (
            ("/etc/passwd", "%s:x:%d:%d::/:/usr/sbin/nologin\n" % (name, number, number)),
            ("/etc/group", "%s:x:%d:\n" % (name, number)),
            ("/etc/shadow", "%s:!*:20000::::::\n" % name),
        ):
            with open(path, "a") as file:
                file.write(row)
    return 0


def openssl(args):
    options = dict(zip(args, args[1:]))
    if args[:2] != ["req", "-x509"] or not {"-keyout", "-out", "-subj"} <= set(options):
        loud(" ".join(args))
    for option, what in (("-keyout", "PRIVATE KEY"), ("-out", "CERTIFICATE")):
        with open(options[option], "w") as file:
            file.write("-----BEGIN %s-----\n(the twin's, of %s)\n-----END %s-----\n" % (what, options["-subj"], what))
    return 0


def programs():
    """{pid: name} of what runs in the qube, a script by its own name."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/.proc")):
        try:
            with open("/.proc/%s/cmdline" % pid) as file:
                words = file.read().split("\0")
        except OSError:
            continue
        script = next((word for word in words[1:] if not word.startswith("-")), "") if "python" in words[0] else words[0]
        found[int(pid)] = os.path.basename(script)
    return found


def pkill(args):
    if len(args) != 2 or args[0] != "-x":
        loud(" ".join(args))
    killed = 1
    for pid, name in programs().items():
        if name == args[1] and pid != os.getpid():
            os.kill(pid, signal.SIGTERM)
            killed = 0
    # One that is only said to run.
    if args[1] in INSIDE["processes"] and not os.path.exists(ENDED + args[1]):
        os.makedirs(ENDED, exist_ok=True)
        with open(ENDED + args[1], "w"):
            killed = 0
    return killed
