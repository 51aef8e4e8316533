"""dom0's namespaces and file system, and its process 1 in them (init.py). power.py starts it, once for each boot.

CONFIG (JSON): {root, world, tools, venv, interpreters: [path], python3, log, hostname, userNamespace,
platform, path: PATH in dom0, daemons: [{argv, log, socket}], sshd: path of sshd.json}; the paths are the machine's, those of the daemons dom0's.
"""
import ctypes
import fcntl
import os
import signal
import socket
import struct

from machine import hardware
from xen import sysv

from . import init

# linux/sched.h, linux/mount.h
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_NOATIME, MS_NODIRATIME, MS_BIND, MS_REC, MS_PRIVATE, MS_RELATIME = 1024, 2048, 4096, 16384, 1 << 18, 1 << 21
ST_RELATIME = 4096
MNT_DETACH = 2
PR_SET_PDEATHSIG = 1
# What dom0 has of its own in folders that the machine lends, kept on its disk.
OWN = ("/usr/share/xsessions", "/usr/lib/systemd/system", "/usr/lib/dracut", "/usr/lib/modules")

libc = ctypes.CDLL(None, use_errno=True)

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


def file_system(config, watchdog=True):
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
    if config["platform"] == "xen" and watchdog:
        # A program that is looked for by its path: /usr/sbin with one more file.
        layers = "lowerdir=%s/xen/sbin:/usr/sbin" % config["tools"].replace(":", "\\:")
        mount("overlay", root + "/usr/sbin", "overlay", MS_RDONLY, layers)
    own = {path: os.open(root + path, os.O_PATH) for path in OWN if os.path.isdir(root + path)}  # before they are covered
    lend_entries("/usr/lib", root, {"twin", "dom0-python", "os-release", "systemd", "dracut", "modules"})
    if os.path.isdir("/usr/lib/systemd"):
        lend_entries("/usr/lib/systemd", root, {"system"})
    lend_entries("/usr/share", root, {"xsessions"})
    for path, folder in own.items():
        os.makedirs(root + path, exist_ok=True)
        bind("/proc/self/fd/%d" % folder, root + path, writable=True)
        os.close(folder)
    bind(config["tools"], root + "/usr/lib/twin")
    bind(config["venv"], root + "/usr/lib/dom0-python")
    for prefix in config["interpreters"]:  # of the virtual environment, where it lies outside the lent folders
        bind(prefix, root + prefix)

    tmpfs(root + "/run")
    tmpfs(root + "/tmp", "mode=1777")
    for folder in ("lock", "systemd/system"):
        os.makedirs(root + "/run/" + folder)
    if config["platform"] == "qubes":
        os.makedirs(root + "/run/qubes/policy.d/include")
        open(root + "/run/qubes/qubes-dom0-update.lock", "w").close()
    bind(config["world"], root + "/run/twin")
    bind(config["world"] + "/state", root + "/run/twin/state", writable=True)
    tmpfs(root + "/run/twin/guests")
    tmpfs(root + "/sys")
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
    if os.path.isdir(root + "/proc/bus"):
        tmpfs(root + "/proc/bus")

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


def die_with_parent():
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def process_one(config, boot, world, log, ready):
    """`boot`: what machine/boot.py found, as JSON. Writes "ready" when a person gets in; never returns."""
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    null = os.open("/dev/null", os.O_RDONLY)
    os.umask(0o022)
    file_system(config, world.get("watchdog", True))
    socket.sethostname(config["hostname"])
    loopback_up()
    sysv.generate()
    under_xen = bool(boot["xen"]) or config["platform"] == "qubes"
    hardware.kernel_shows(world, boot["drivers"], under_xen=under_xen, loaded=boot["loaded"])
    one = init.Init(config["daemons"] if under_xen else [], boot["cmdline"], config["path"])
    one.start_daemons()
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)

    def let_in():
        os.write(ready, b"ready\n")
        os.close(ready)

    try:
        one.supervise(let_in)
    finally:
        one.end()


def start(config, boot, world, log):
    """(pid of the process that holds the namespaces and ends with process 1, file to read from). What is read there: the pid of
    process 1 as seen from here, then "ready", each on a line; or one sentence on why it fails, after a number: 1 the machine does not
    give what a sandbox needs, 2 a daemon of dom0 does not start.
    """
    reader, writer = os.pipe()
    holder = os.fork()
    if holder:
        os.close(writer)
        return holder, reader
    os.close(reader)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    die_with_parent()
    for each in (int(name) for name in os.listdir("/proc/self/fd")):
        if each > 2 and each not in (writer, log):
            try:
                os.close(each)  # sockets of power.py: who asked it something would never see their end
            except OSError:
                pass  # that of the list itself
    try:
        namespaces(config)
        child = os.fork()
        if child == 0:
            die_with_parent()
            try:
                process_one(config, boot, world, log, writer)
            except (OSError, init.DaemonFailed) as error:
                os.write(writer, ("%d %s\n" % (2 if isinstance(error, init.DaemonFailed) else 1, error)).encode())
            except SystemExit:
                pass
            os._exit(0)
        os.write(writer, b"pid %d\n" % child)
        os.close(writer)
        os.waitpid(child, 0)
    except OSError as error:
        os.write(writer, ("1 %s\n" % error).encode())
    os._exit(0)


def possible(config):
    """None, or why this machine gives no namespaces; tried before anything is booted, since a boot changes the disk."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            namespaces(config)
        except OSError as error:
            os.write(writer, str(error).encode())
        os._exit(0)
    os.close(writer)
    said = os.read(reader, 4096).decode()
    os.close(reader)
    os.waitpid(child, 0)
    return said or None
