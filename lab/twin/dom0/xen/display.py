"""X on dom0's screen, as far as who shows what: lightdm, its sessions, Xephyr, viewers of framebuffers. Each is a process for as long as
the real one is, and says in /run/X (files named by their process) what it shows where.

lightdm reads lightdm.conf.d and lightdm.conf (lightdm(1)): with autologin-user and a session that is there it runs that session's Exec as
DISPLAY :0, once; when that ends, and without it, the greeter is shown.
"""
import configparser
import json
import os
import pwd
import re
import shlex
import signal
import socket
import subprocess
import sys
import time

FOLDER, SOCKETS = "/run/X", "/tmp/.X11-unix"
SESSIONS = "/usr/share/xsessions"


def tell(**what):
    """Says what this process shows, until it has ended."""
    os.makedirs(FOLDER, exist_ok=True)
    path = "%s/%d" % (FOLDER, os.getpid())
    with open(path + ".new", "w") as file:
        json.dump(dict(what, started=started(os.getpid())), file)
    os.rename(path + ".new", path)


def started(pid):
    try:
        with open("/proc/%s/stat" % pid) as file:
            return file.read().rpartition(") ")[2].split()[19]
    except OSError:
        return None


def told():
    """[{"what", …}] of the processes that are still there."""
    found = []
    for name in sorted(os.listdir(FOLDER) if os.path.isdir(FOLDER) else []):
        if name.isdigit():
            with open(os.path.join(FOLDER, name)) as file:
                one = json.load(file)
            if one["started"] == started(name):
                found.append(one)
    return found


def shown():
    """What is on :0: {"session": name or None, "command", "xephyr": bool, "viewer": port or None}."""
    all_ = told()
    manager = next((each for each in all_ if each["what"] == "lightdm"), None)
    if manager is None:
        return None
    found = {"session": manager["session"], "command": manager["command"], "xephyr": False, "viewer": None}
    if manager["session"] is None:
        return found
    inner = next((each for each in all_ if each["what"] == "Xephyr" and each["on"] == ":0"), None)
    found["xephyr"] = inner is not None
    on = inner["display"] if inner else ":0"
    viewer = next((each for each in all_ if each["what"] == "viewer" and each["on"] == on and each["connected"]), None)
    found["viewer"] = viewer["port"] if viewer else None
    return found


# --- displays


def listen(display):
    """The socket of an X display, which is taken by who comes first."""
    os.makedirs(SOCKETS, exist_ok=True)
    path = "%s/X%s" % (SOCKETS, display.lstrip(":").split(".")[0])
    if os.path.exists(path):
        if opens(display):
            sys.exit("(EE) \nFatal server error:\n(EE) Server is already active for display %s" % display.lstrip(":"))
        os.unlink(path)
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen(64)
    return server


def opens(display):
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect("%s/X%s" % (SOCKETS, (display or "").split(":")[-1].split(".")[0]))
            return True
        except OSError:
            return False


def has_card():
    folder = "/sys/class/drm"
    return os.path.isdir(folder) and any(re.match(r"\Acard\d+\Z", name) for name in os.listdir(folder))


# --- lightdm


def seat():
    """{key: value} of [Seat:*]; the last file that says something counts."""
    found, paths = {}, []
    for folder in ("/usr/share/lightdm/lightdm.conf.d", "/etc/lightdm/lightdm.conf.d"):
        paths += [os.path.join(folder, name) for name in sorted(os.listdir(folder) if os.path.isdir(folder) else []) if name.endswith(".conf")]
    for path in paths + ["/etc/lightdm/lightdm.conf"]:
        parser = configparser.RawConfigParser(strict=False, allow_no_value=True)
        try:
            parser.read(path)
        except configparser.Error as error:
            print("lightdm: %s: %s" % (path, error), flush=True)
            continue
        for section in ("SeatDefaults", "Seat:*", "Seat:seat0"):
            if parser.has_section(section):
                found.update(parser.items(section))
    return found


def session_of(name):
    """Words of its Exec, None where there is no such session."""
    try:
        with open("%s/%s.desktop" % (SESSIONS, name)) as file:
            command = next((line[5:].strip() for line in file if line.startswith("Exec=")), None)
    except OSError:
        return None
    return shlex.split(command) if command else None


def known(user):
    try:
        pwd.getpwnam(user)
        return True
    except KeyError:
        return False


def lightdm(_):
    log = open("/var/log/lightdm/lightdm.log", "a", buffering=1)
    if not has_card():
        log.write("X server :0 stopped: (EE) no screens found\n")
        return 1
    server = listen(":0")  # noqa: F841  (it listens as long as this process is)
    given = seat()
    user, name = given.get("autologin-user") or "", given.get("autologin-session") or given.get("user-session") or "default"
    command = session_of(name) if user and known(user) else None
    if user and command is None:
        log.write("no session %s for %s: the greeter is shown\n" % (name, user))
    child = None
    if command:
        environment = dict(os.environ, DISPLAY=":0", HOME="/home/" + user if user != "root" else "/root", USER=user, LOGNAME=user)
        environment.update(XDG_SESSION_DESKTOP=name, DESKTOP_SESSION=name, XDG_SEAT="seat0")
        try:
            # lightdm-session, as Debian's session-wrapper, runs it in the home of who is logged in.
            errors = open("/var/log/lightdm/x-0.log", "a")
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, env=environment, cwd="/")
        except OSError as error:
            log.write("%s: %s: the greeter is shown\n" % (command[0], error.strerror))
    tell(what="lightdm", session=name if child else None, command=command if child else None)

    def ended(*_):
        if child and child.poll() is None:
            child.terminate()
        sys.exit(0)

    signal.signal(signal.SIGTERM, ended)
    while True:
        if child and child.poll() is not None:
            log.write("session %s ended with %s: the greeter is shown\n" % (name, child.returncode))
            child = None
            tell(what="lightdm", session=None, command=None)
        time.sleep(0.02)


# --- clients


def xephyr(words):
    display = next((word for word in words if re.match(r"\A:\d+\Z", word)), ":0")
    on = os.environ.get("DISPLAY", "")
    if not opens(on):
        sys.exit("\nXephyr cannot open host display. Is DISPLAY set?")
    server = listen(display)  # noqa: F841
    tell(what="Xephyr", display=display, on=on, fullscreen="-fullscreen" in words)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    while opens(on):  # an X client ends with its server
        time.sleep(0.05)
    return 1


# Options of xtightvncviewer(1) that take a value.
VALUED = "-passwd -encodings -bgr233x -via -geometry -depth -compresslevel -quality -display -title".split()
FLAGS = "-fullscreen -viewonly -shared -noshared -noraiseonbeep -owncmap -truecolor -nojpeg -nocursorshape -x11cursor -autopass".split()


def viewer(words):
    """xtightvncviewer [OPTION…] HOST[:DISPLAY | ::PORT]"""
    display, rest, given = os.environ.get("DISPLAY", ""), [], iter(words)
    for word in given:
        if word in VALUED:
            value = next(given, "")
            display = value if word == "-display" else display
        elif word in FLAGS:
            pass
        elif word.startswith("-"):
            sys.exit("TightVNC Viewer version 1.3.10\n\nUsage: vncviewer [<OPTIONS>] [<HOST>][:<DISPLAY#>]")
        else:
            rest.append(word)
    host, colons, number = (rest or [""])[0].partition(":")
    port = int(number[1:]) if number.startswith(":") else 5900 + int(number or "0") if int(number or "0") < 100 else int(number)
    if not opens(display):
        sys.exit("Error: Can't open display: %s" % display)
    server = socket.socket(socket.AF_INET)
    try:
        server.connect((host or "127.0.0.1", port))
    except OSError:
        print("vncviewer: ConnectToTcpAddr: connect: Connection refused\nUnable to connect to VNC server", file=sys.stderr)
        return 1
    greeting = server.recv(12)
    if not greeting.startswith(b"RFB "):
        print("Not a valid VNC server", file=sys.stderr)
        return 1
    tell(what="viewer", on=display, port=port, connected=True, fullscreen="-fullscreen" in words)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server.settimeout(0.1)
    while opens(display):
        try:
            if not server.recv(4096):
                print("vncviewer: VNC server closed connection", file=sys.stderr)
                return 0
        except socket.timeout:
            pass
    return 1


def xdpyinfo(words):
    display = words[words.index("-display") + 1] if "-display" in words else os.environ.get("DISPLAY", "")
    if not opens(display):
        sys.exit('xdpyinfo:  unable to open display "%s".' % display)
    print("name of display:    %s\nversion number:    11.0" % display)
    return 0


PROGRAMS = {"lightdm": lightdm, "Xephyr": xephyr, "xdpyinfo": xdpyinfo}


def main(name, words):
    return PROGRAMS.get(name, viewer)(words)
