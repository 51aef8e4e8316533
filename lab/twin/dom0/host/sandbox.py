"""The twin's machine: namespaces, mounts and process 1.

    python3 -I sandbox.py CONFIG.json

Run outside, by the machine's own Python. It makes the namespaces (mount, pid, uts, ipc, net; a user namespace
too unless `userNamespace` is false), builds dom0's file system in them and starts process 1 there, which keeps
qubesd, reaps and ends cleanly on SIGTERM. It prints one line of JSON, {"pid": process 1 as seen from outside}, when
qubesd answers, and then waits for that process, whose parent it is. Else it fails with one sentence on stderr: exit
status 1 when the machine does not give what a sandbox needs, 2 when a daemon of dom0 does not start.

CONFIG: {root, world, sys, tools, venv, interpreters: [path], log, hostname, userNamespace,
daemons: [{argv, log, socket}]}; the paths are the machine's, those of the daemons dom0's. Standard library only.
"""
import ctypes
import errno
import fcntl
import json
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import time

# linux/sched.h, linux/mount.h
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_NOATIME, MS_NODIRATIME, MS_BIND, MS_REC, MS_PRIVATE, MS_RELATIME = 1024, 2048, 4096, 16384, 1 << 18, 1 << 21
ST_RELATIME = 4096
MNT_DETACH = 2

libc = ctypes.CDLL(None, use_errno=True)

ENVIRONMENT = {
    "PATH": "/run/twin/bin:/usr/lib/twin/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "USER": "root",
    "LOGNAME": "root",
    "LANG": "C.UTF-8",
}

# The parts of the machine's /usr that the twin lends; /usr/lib and /usr/share are lent entry by entry, because the
# twin has folders of its own in them.
LENT = ["/usr/bin", "/usr/sbin", "/usr/lib32", "/usr/lib64", "/usr/libx32", "/usr/libexec"]
TOP = ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"]


def check(result, what):
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, "%s: %s" % (what, os.strerror(number)))


def unshare(flags, what):
    check(libc.unshare(flags), what)


def mount(source, target, kind=None, flags=0, data=None):
    def encode(text):
        return None if text is None else text.encode()

    check(
        libc.mount(encode(source), encode(target), encode(kind), ctypes.c_ulong(flags), encode(data)),
        "mount %s on %s" % (source, target),
    )


def read_only(target):
    """A remount must repeat the flags that an outer namespace has locked, else the kernel refuses it."""
    has = os.statvfs(target).f_flag
    keep = has & (MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME | MS_NODIRATIME)
    if has & ST_RELATIME:
        keep |= MS_RELATIME
    mount(None, target, None, MS_REMOUNT | MS_BIND | MS_RDONLY | keep)


def bind(source, target, writable=False):
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    elif not os.path.exists(target):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        open(target, "w").close()
    mount(source, target, None, MS_BIND | MS_REC)
    if not writable:
        read_only(target)


def tmpfs(target, options="mode=755"):
    os.makedirs(target, exist_ok=True)
    mount("tmpfs", target, "tmpfs", MS_NOSUID | MS_NODEV, options)


def lend(source, target):
    """The same name in the twin: a link stays a link, anything else is bound read-only."""
    if os.path.islink(source):
        os.symlink(os.readlink(source), target)
    elif os.path.exists(source):
        bind(source, target)


def lend_entries(folder, root, own):
    """The entries of a folder of the machine, in a folder of the twin's; `own` are left for the twin to fill."""
    tmpfs(root + folder)
    for entry in os.listdir(folder):
        if entry not in own:
            lend(folder + "/" + entry, root + folder + "/" + entry)


def namespaces(config):
    if config["userNamespace"]:
        uid, gid = os.getuid(), os.getgid()
        unshare(CLONE_NEWUSER, "make a user namespace")
        for name, text in (("setgroups", "deny"), ("uid_map", "0 %d 1" % uid), ("gid_map", "0 %d 1" % gid)):
            with open("/proc/self/" + name, "w") as file:
                file.write(text)
    unshare(
        CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET,
        "make mount, pid, uts, ipc and net namespaces",
    )


def file_system(config):
    root = config["root"]
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    mount(root, root, None, MS_BIND | MS_REC)

    for path in TOP:
        if os.path.islink(path):
            if not os.path.lexists(root + path):
                os.symlink(os.readlink(path), root + path)
        elif os.path.isdir(path):
            bind(path, root + path)
    for path in LENT:
        if os.path.isdir(path) and not os.path.islink(path):
            bind(path, root + path)
    if not os.path.exists("/usr/bin/python3"):  # a dom0 always has one; here it is the virtual environment's
        lend_entries("/usr/bin", root, {"python3"})
        os.symlink(config["python3"], root + "/usr/bin/python3")
    lend_entries("/usr/lib", root, {"twin", "dom0-python", "os-release"})
    bind(config["tools"], root + "/usr/lib/twin")
    bind(config["venv"], root + "/usr/lib/dom0-python")
    for prefix in config["interpreters"]:  # of the virtual environment, where it lies outside the lent folders
        bind(prefix, root + prefix)
    xsessions = root + "/usr/share/xsessions"
    own = os.open(xsessions, os.O_PATH)  # before it is covered
    lend_entries("/usr/share", root, {"xsessions"})
    os.mkdir(xsessions)
    bind("/proc/self/fd/%d" % own, xsessions, writable=True)
    os.close(own)

    tmpfs(root + "/run")
    tmpfs(root + "/tmp", "mode=1777")
    for folder in ("lock", "qubes/policy.d/include", "systemd/system"):
        os.makedirs(root + "/run/" + folder)
    open(root + "/run/qubes/qubes-dom0-update.lock", "w").close()
    bind(config["world"], root + "/run/twin")
    bind(config["sys"], root + "/sys", writable=True)
    devices(root + "/dev")

    os.makedirs(root + "/proc", exist_ok=True)
    mount("proc", root + "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    boot = config["world"] + "/boot/"
    for name, path in (
        ("cmdline", "cmdline"),
        ("boot_id", "sys/kernel/random/boot_id"),
        ("osrelease", "sys/kernel/osrelease"),
    ):
        bind(boot + name, root + "/proc/" + path)

    os.chdir(root)
    check(libc.pivot_root(b".", b"."), "enter the twin's file system")
    check(libc.umount2(b".", MNT_DETACH), "leave the machine's file system")
    os.chdir("/")


def devices(dev):
    tmpfs(dev)
    for name in ("null", "zero", "full", "random", "urandom", "tty"):
        open(dev + "/" + name, "w").close()
        mount("/dev/" + name, dev + "/" + name, None, MS_BIND)
    for name, target in (
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ):
        os.symlink(target, dev + "/" + name)
    os.makedirs(dev + "/pts")
    mount("devpts", dev + "/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620")
    tmpfs(dev + "/shm", "mode=1777")


def loopback_up():
    """dom0 has no network, only `lo`."""
    SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(probe, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(probe, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))


def serves(path):
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(path)
        except OSError:
            return False
    return True


class DaemonFailed(Exception):
    pass


class Supervisor:
    """Process 1: keeps the daemons, reaps, ends everything on SIGTERM."""

    def __init__(self, daemons):
        self.daemons = daemons  # [{"argv": […], "log": path, "socket": path}]
        self.running = {}

    def start(self, daemon):
        with open(daemon["log"], "ab") as log:
            process = subprocess.Popen(
                daemon["argv"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=ENVIRONMENT, cwd="/"
            )
        self.running[process.pid] = daemon

    def start_all(self):
        for daemon in self.daemons:
            self.start(daemon)
            end = time.monotonic() + 10
            while not serves(daemon["socket"]):
                if os.waitpid(-1, os.WNOHANG)[0] or time.monotonic() > end:
                    raise DaemonFailed("%s does not serve %s; see %s" % (daemon["argv"][0], daemon["socket"], daemon["log"]))
                time.sleep(0.005)

    def supervise(self):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        while True:
            try:
                pid, status = os.waitpid(-1, 0)
            except ChildProcessError:
                signal.pause()
                continue
            daemon = self.running.pop(pid, None)
            if daemon:  # as systemd does with Restart=on-failure
                print("%s ended with status %d, started again" % (daemon["argv"][0], status), flush=True)
                time.sleep(0.1)
                self.start(daemon)

    def end(self):
        for pid in self.running:
            os.kill(pid, signal.SIGTERM)
        end = time.monotonic() + 1
        while self.running and time.monotonic() < end:
            try:
                self.running.pop(os.waitpid(-1, os.WNOHANG)[0], None)
            except ChildProcessError:
                break
            time.sleep(0.005)


def process_one(config, log, ready):
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    null = os.open("/dev/null", os.O_RDONLY)
    os.umask(0o022)
    file_system(config)
    socket.sethostname(config["hostname"])
    loopback_up()
    supervisor = Supervisor(config["daemons"])
    supervisor.start_all()
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.write(ready, b"ready")
    os.close(ready)
    try:
        supervisor.supervise()
    finally:
        supervisor.end()


def main():
    with open(sys.argv[1]) as file:
        config = json.load(file)
    log = os.open(config["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    namespaces(config)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            process_one(config, log, writer)
        except (OSError, DaemonFailed) as error:
            print(error, file=sys.stderr, flush=True)
            os._exit(2 if isinstance(error, DaemonFailed) else 1)
        except SystemExit:
            pass
        os._exit(0)
    os.close(writer)
    if os.read(reader, 16) != b"ready":
        sys.exit(os.WEXITSTATUS(os.waitpid(child, 0)[1]) or 1)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends with its child, which it has to collect
    print(json.dumps({"pid": child}), flush=True)
    for stream in (1, 2):  # nobody reads them from here on
        os.dup2(log, stream)
    os.waitpid(child, 0)


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(str(error))
