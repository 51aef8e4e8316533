"""The inside of a running qube: namespaces (mount, pid, uts, ipc, net) that last from its start to its end, with a process 1 of its
own (init.py), and what runs a command in them.

    /        overlay: own files of this qube, its template's (base.py) and lent programs of the machine below; its root volume above
    /rw      overlay: what a first boot puts there below, its private volume above; /home and /usr/local are bound from it
    /run, /sys, /proc, /tmp     new at each start; what content.py says of them is written anew before each command
    /.guest  the laboratory's: stand-ins for programs, a Python, and what these answer from

dom0 sees a qube's part below /run/twin/guests/NAME: `pid`, `net` (its network namespace, for nsenter --net=), `run`.
Programs that the model does not know are not there, so the shell ends with 127.
"""

import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import shutil
import signal
import socket
import struct
import time

import qrexec

from . import base
from .programs import BROUGHT, PLAYED, TOOL

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWNET = 0x00020000, 0x04000000, 0x08000000, 0x20000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
MNT_DETACH = 2
GUESTS = "/run/twin/guests"
IMAGES = "/var/lib/qubes"
CONSOLE = "/var/log/xen/console/guest-%s.log"
INSIDE = "/run/systemd/twin"  # the socket of its process 1, in the qube

# The machine's programs that do the same in any Linux.
LENT = (
    "sh bash cat test [ ls grep egrep head tail sed awk cut sort uniq wc tr tee true false echo"
    " printf sleep env expr basename dirname readlink realpath stat find xargs mkdir rmdir rm cp mv touch chmod ln"
    " date timeout kill seq sha256sum sha512sum md5sum od base64 tar gzip install mktemp nohup setsid flock"
    " cmp diff comm tac nl dd sync python3 getent mkfifo uname"
).split()
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MACHINE = "/.machine"
LIBRARIES = ("/usr/lib", "/usr/lib64", "/usr/lib32")
FOLDERS = (
    "/usr/bin /usr/sbin /usr/local /usr/share /usr/lib/systemd/system /dev /etc/systemd/system /run /rw /home /root /sys /proc /.proc /tmp /srv"
    " /mnt /opt /media /var/lib /var/cache /var/log /var/tmp " + MACHINE
).split()
DYNAMIC = ("/run/", "/sys/", "/proc/")
PYTHON = "/usr/lib/dom0-python"

libc = ctypes.CDLL(None, use_errno=True)


def check(result, what):
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, "%s: %s" % (what, os.strerror(number)))


def mount(source, target, kind, flags, data=None):
    texts = [None if text is None else text.encode() for text in (source, target, kind, data)]
    check(libc.mount(texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3]), "mount " + target)


def bind(source, target):
    mount(source, target, None, MS_BIND | MS_REC)


def overlay(lower, upper, work, target):
    os.makedirs(work, exist_ok=True)
    mount("overlay", target, "overlay", 0, "userxattr,lowerdir=%s,upperdir=%s,workdir=%s" % (":".join(lower), upper, work))


def write(path, text, mode=0o644):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".new", "w") as file:
        file.write(text)
    os.chmod(path + ".new", mode)
    os.rename(path + ".new", path)


def lay(folder, files):
    """Files of base.py in a folder."""
    for path, text in files.items():
        if isinstance(text, base.Link):
            os.makedirs(os.path.dirname(folder + path), exist_ok=True)
            os.symlink(text, folder + path)
        else:
            write(folder + path, text, 0o755 if isinstance(text, base.Program) else 0o600 if path == "/etc/shadow" else 0o644)


def once(folder, build):
    """A layer that several qubes share; made by the first."""
    if not os.path.isdir(folder):
        new = "%s.%d" % (folder, os.getpid())
        os.makedirs(new)
        build(new)
        try:
            os.rename(new, folder)
        except OSError:
            shutil.rmtree(new)
    return folder


def lend(root, path):
    """A folder of the machine's libraries, entry by entry, so that the qube may have entries of its own in it."""
    if os.path.isdir(path) and not os.path.islink(path):
        os.makedirs(root + path, exist_ok=True)
        for entry in os.listdir(path):
            target = "%s%s/%s" % (root, path, entry)
            if not os.path.lexists(target):
                os.symlink(MACHINE + path[len("/usr") :] + "/" + entry, target)


def machine_layer(root):
    for path in FOLDERS:
        os.makedirs(root + path, exist_ok=True)
    os.makedirs(root + "/.guest")
    os.makedirs(root + interpreter(), exist_ok=True)
    os.chmod(root + "/var/tmp", 0o1777)
    os.symlink("../run", root + "/var/run")
    for path in LIBRARIES:
        lend(root, path)
    for name in ("terminfo", "zoneinfo", "X11", "locale"):
        if os.path.exists("/usr/share/" + name):
            os.symlink("%s/share/%s" % (MACHINE, name), "%s/usr/share/%s" % (root, name))
    for name in ("bin", "sbin", "lib", "lib64", "lib32"):
        if os.path.isdir("/usr/" + name):
            os.symlink("usr/" + name, "%s/%s" % (root, name))
    for name in LENT:
        if os.path.exists("/usr/bin/" + name):
            os.symlink("%s/bin/%s" % (MACHINE, name), "%s/usr/bin/%s" % (root, name))
    for name in set(PLAYED) - BROUGHT:
        os.symlink(TOOL, "%s/usr/bin/%s" % (root, name))
    os.symlink(TOOL, root + "/usr/sbin/usermod")
    for name in ("ldconfig", "ldconfig.real"):
        if os.path.exists("/usr/sbin/" + name):
            os.symlink("%s/sbin/%s" % (MACHINE, name), "%s/usr/sbin/%s" % (root, name))
    if os.path.exists("/etc/ld.so.cache"):
        shutil.copy("/etc/ld.so.cache", root + "/etc/ld.so.cache")
    os.symlink("/.guest/code/guest/qrexec-client-vm", root + "/usr/bin/qrexec-client-vm")


def interpreter():
    """Prefix of the Python that the virtual environment is made of. It finds its library by its own path, so it has that in a qube too."""
    return os.path.dirname(os.path.dirname(os.path.realpath(PYTHON + "/bin/python3")))


def private_layer(root):
    for path in base.PRIVATE_FOLDERS:
        os.makedirs(root + path)
    lay(root, base.PRIVATE)


def digest(files):
    return hashlib.sha256(json.dumps([(path, type(text).__name__, text) for path, text in sorted(files.items())]).encode()).hexdigest()[:16]


def base_layer(files):
    """The folder that holds the root of a template with these files (base.root), made when first asked for."""
    return once("%s/.layers/%s" % (GUESTS, digest(files)), lambda root: lay(root, files))


class Guest:
    """`qube`: internal.GetQube; `files`: base.root of its template; `own`: what the qube has beyond that below no dynamic folder."""

    def __init__(self, qube, files, own=None):
        self.qube, self.name = qube, qube["name"]
        self.files, self.own = files, own or {}
        self.folder = os.path.join(GUESTS, self.name)

    def image(self, volume, suffix):
        return os.path.join(IMAGES, self.qube["volumes"][volume] + suffix + ".img")

    def path(self, name):
        return os.path.join(self.folder, name)

    @property
    def layers(self):
        own = self.own
        return [
            once(self.path("own-" + digest(own)), lambda root: lay(root, own)),
            base_layer(self.files),
            once(GUESTS + "/.layers/machine", machine_layer),
        ]

    # --- from outside

    @contextlib.contextmanager
    def lock(self):
        os.makedirs(GUESTS + "/.lock", exist_ok=True)
        with open("%s/.lock/%s" % (GUESTS, self.name), "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def pid(self):
        """That of its process 1, as dom0 sees it; None where it has none."""
        return running(self.name)

    def begin(self):
        """Makes its namespaces and its process 1, unless they are there. Call under `lock`."""
        if self.pid():
            return
        if announced(self.name) != str(self.qube["xid"]):
            raise OSError("%s is gone" % self.name)
        if os.path.isdir(self.folder):
            shutil.rmtree(self.folder)
        for name in ("run/systemd/system", "run/qubes-service", "run/user/1000", "run/lock", "tmp", "sys", "proc", "guest"):
            os.makedirs(self.path(name))
        os.chmod(self.path("tmp"), 0o1777)
        for name in os.listdir("/proc"):
            if not name.isdigit() and name not in ("bus", "asound"):
                os.symlink("../.proc/" + name, self.path("proc/") + name)
        os.makedirs(self.path("proc/bus/input"))
        layers = self.layers
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            self._bear(layers, writer)
        os.close(writer)
        said = b"".join(iter(lambda: os.read(reader, 4096), b"")).decode()
        os.close(reader)
        os.waitpid(child, 0)
        if said != "ready":
            raise OSError("the inside of %s cannot be made: %s" % (self.name, said))
        write(self.path("layers"), json.dumps(layers))

    def _bear(self, layers, writer):
        """In a child: the qube's process 1 is this one's child, and dom0's process 1 gets it."""
        try:
            os.setsid()
            check(libc.unshare(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET), "unshare")
            from . import init  # before the root is another

            first, go = os.pipe()
            one = os.fork()
            if one == 0:
                os.close(go)
                os.read(first, 1)  # its pid is written down
                os.close(first)
                self._process_one(init, layers, writer)
            write(self.path("pid"), "%d %s\n" % (one, started(one)))
            os.symlink("/proc/%d/ns/net" % one, self.path("net"))
            os.write(go, b".")
        except BaseException as error:
            os.write(writer, repr(error).encode())
        os._exit(0)

    def _process_one(self, init, layers, writer):
        try:
            os.setsid()
            os.umask(0o022)
            for number in (signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            os.makedirs(os.path.dirname(CONSOLE), exist_ok=True)
            console = os.open(CONSOLE % self.name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
            os.dup2(console, 1)
            os.dup2(console, 2)
            for each in (int(name) for name in os.listdir("/proc/self/fd")):
                if each > 2 and each != writer:
                    with contextlib.suppress(OSError):
                        os.close(each)
            self.mounts(layers, new_proc=True)
            socket.sethostname(self.name)
            loopback_up()
            one = init.Init(self.qube)
            one.listening()
            os.write(writer, b"ready")
            os.close(writer)
            one.supervise()
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.write(writer, repr(error).encode())
        os._exit(1)

    def mounts(self, layers, new_proc=False):
        """In a mount namespace of its own: makes the qube's root and goes there."""
        root = "/mnt"
        mount(None, "/", None, MS_REC | MS_PRIVATE)
        work = "-work" if new_proc else "-work/%d" % os.getpid()
        overlay(layers, self.image("root", "-dirty"), self.image("root", work), root)
        bind("/usr", root + MACHINE)
        bind("/dev", root + "/dev")
        for name in ("run", "sys", "proc", "tmp"):
            bind(self.path(name), "%s/%s" % (root, name))
        qrexec.offer(root, self.name)
        if new_proc:
            mount("proc", root + "/.proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
        else:
            bind("/proc/%d/root/.proc" % self.pid(), root + "/.proc")
        # The laboratory's own.
        mount("tmpfs", root + "/.guest", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
        prefix = interpreter()
        if not prefix.startswith("/usr"):
            mount(prefix, root + prefix, None, MS_BIND)
        site = os.path.join(PYTHON, "lib", sorted(os.listdir(PYTHON + "/lib"))[0], "site-packages")
        for source, name in (
            (self.path("guest"), "model"),
            (prefix, "python"),
            (site, "site"),
            (os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "code"),
            ("/run/twin", "twin"),
        ):
            os.mkdir("%s/.guest/%s" % (root, name))
            mount(source, "%s/.guest/%s" % (root, name), None, MS_BIND)
        # The private volume.
        below = once(GUESTS + "/.layers/private", private_layer)
        overlay([below], self.image("private", "-dirty"), self.image("private", work), root + "/rw")
        persists = [("/rw/home", "/home"), ("/rw/usrlocal", "/usr/local")]
        if "custom-persist" in self.qube["services"]:
            persists = [("/rw/bind-dirs" + path, path) for path in self.qube["persists"]]
        for source, target in persists:
            if not target.startswith("/home") and not os.path.lexists(root + target):
                continue
            os.makedirs(root + source, exist_ok=True)
            os.makedirs(root + target, exist_ok=True)
            bind(root + source, root + target)
        if not os.path.isdir(root + "/home/user"):
            os.makedirs(root + "/home/user")
        os.chdir(root)
        check(libc.pivot_root(b".", b"."), "pivot_root")
        check(libc.umount2(b".", MNT_DETACH), "umount")
        os.chdir("/")

    def refresh(self, inside):
        """What content.py says now. Call under `lock`."""
        files = {}
        for path, text in inside["files"].items():
            path = path.replace("/var/run/", "/run/", 1)
            if path.startswith(DYNAMIC):
                files[path] = text
        known = self.path("dynamic.json")
        before = {}
        if os.path.exists(known):
            with open(known) as file:
                before = json.load(file)
        for path in set(before) - set(files):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.folder + path)
        for path, text in files.items():
            if before.get(path) != text:
                write(self.folder + path, text)
        if before != files:
            write(known, json.dumps(files))
        write(self.path("guest/qubesdb.json"), json.dumps(inside["qdb"]))
        write(self.path("guest/inside.json"), json.dumps(inside))

    def run(self, user, argv):
        """Runs a command inside; its exit status."""
        one = self.pid()
        if one is None:
            raise OSError("%s is gone" % self.name)
        layers = self.layers
        with open(self.path("layers")) as file:
            known = json.load(file) == layers
        spaces = [("net", CLONE_NEWNET), ("ipc", CLONE_NEWIPC), ("uts", CLONE_NEWUTS), ("pid", CLONE_NEWPID)]
        spaces += [("mnt", CLONE_NEWNS)] if known else []
        opened = [(os.open("/proc/%d/ns/%s" % (one, name), os.O_RDONLY | os.O_CLOEXEC), flag) for name, flag in spaces]
        if not known:  # what the world says of the template is other than at the start
            check(libc.unshare(CLONE_NEWNS), "unshare")
            self.mounts(layers)
        for opened_space, flag in opened:
            check(libc.setns(opened_space, flag), "setns")
        child = os.fork()
        if child == 0:
            home = "/root" if user == "root" else "/home/" + user
            os.chdir(home if os.path.isdir(home) else "/")
            for number in (signal.SIGINT, signal.SIGPIPE):
                signal.signal(number, signal.SIG_DFL)
            execute(self.name, argv, {"PATH": PATH, "HOME": home, "USER": user, "LOGNAME": user, "LANG": "C.UTF-8"})
        while True:
            _, status = os.waitpid(child, 0)
            if os.WIFEXITED(status):
                return os.WEXITSTATUS(status)
            if os.WIFSIGNALED(status):
                return 128 + os.WTERMSIG(status)


def execute(name, argv, environment):
    """Replaces this process. What cannot be: 127 where there is no such program, 126 where it is none."""
    try:
        os.execvpe(argv[0], argv, environment)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        os.write(2, ("qrexec: %s: %s in %s\n" % (argv[0], "not found" if missing else error.strerror, name)).encode())
        os._exit(127 if missing else 126)


def started(pid):
    """When a process began, in ticks since the machine's boot; None where there is none."""
    try:
        with open("/proc/%d/stat" % pid) as file:
            fields = file.read().rpartition(") ")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def running(name):
    """The pid of a qube's process 1, None where its inside does not run."""
    try:
        with open("%s/%s/pid" % (GUESTS, name)) as file:
            pid, start = file.read().split()
    except (OSError, ValueError):
        return None
    return int(pid) if started(int(pid)) == start else None


def announce(name, xid):
    """The domain runs under this id: from now on its inside may begin."""
    write("%s/.xid/%s" % (GUESTS, name), str(xid))


def announced(name):
    try:
        with open("%s/.xid/%s" % (GUESTS, name)) as file:
            return file.read()
    except OSError:
        return None


def end(name):
    """All that runs in the qube is gone, and its namespaces with it. One that is about to begin its inside finds that out."""
    folder = os.path.join(GUESTS, name)
    os.makedirs(GUESTS + "/.lock", exist_ok=True)
    with open("%s/.lock/%s" % (GUESTS, name), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            os.unlink("%s/.xid/%s" % (GUESTS, name))
        if not os.path.isdir(folder):
            return
        pid = running(name)
        if pid:
            os.kill(pid, signal.SIGKILL)  # a pid namespace's first takes all others with it, and is reaped after them
            limit = time.monotonic() + 5
            while os.path.exists("/proc/%d" % pid) and time.monotonic() < limit:
                time.sleep(0.002)
        shutil.rmtree(folder, ignore_errors=True)


def loopback_up():
    SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(probe, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(probe, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))
