"""dom0's file systems: tmpfs of limited size in a mount namespace of our own, so that "disk full" is the kernel's word, and a synced
write costs nothing. /boot is one of its own, as on a real host; /sys, /proc and /run are none of the disk.
"""
import ctypes
import os
import stat

from machine import disk

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_REC, MS_PRIVATE, MNT_DETACH = 16384, 1 << 18, 2
SIZES = {"": "24m", "boot": "8m", "sys": "16m", "proc": "4m", "run": "4m"}
VOLATILE = ("sys", "proc", "run")
libc = ctypes.CDLL(None, use_errno=True)


def check(result, what):
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, "%s: %s" % (what, os.strerror(number)))


def own_namespace():
    uid, gid = os.getuid(), os.getgid()
    check(libc.unshare(CLONE_NEWNS | (CLONE_NEWUSER if uid else 0)), "unshare")
    if uid:
        for name, text in (("setgroups", "deny"), ("uid_map", "0 %d 1" % uid), ("gid_map", "0 %d 1" % gid)):
            with open("/proc/self/" + name, "w") as file:
                file.write(text)
    check(libc.mount(None, b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None), "make / private")


def fresh(root, files=None):
    """New, empty file systems at `root`; with the `files` that `read` gave."""
    os.makedirs(root, exist_ok=True)
    libc.umount2(root.encode(), MNT_DETACH)
    for name, size in SIZES.items():
        target = os.path.join(root, name) if name else root
        os.makedirs(target, exist_ok=True)
        check(libc.mount(b"tmpfs", target.encode(), b"tmpfs", ctypes.c_ulong(0), ("mode=755,size=" + size).encode()), "mount " + target)
    put(root, files or {})


def put(root, files):
    """What `read` gave, below another root."""
    for path, (mode, text) in files.items():
        if stat.S_ISDIR(mode):
            os.makedirs(root + path, exist_ok=True)
        elif stat.S_ISLNK(mode):
            os.symlink(text, root + path)
        else:
            with open(root + path, "wb") as file:
                file.write(text.encode("utf-8", "surrogateescape"))
        if not stat.S_ISLNK(mode):
            os.chmod(root + path, stat.S_IMODE(mode))


def fill(root, world):
    """A fresh installation. It wants to make the folder itself, which is a mount point here."""
    apart = root + "/.install"
    disk.install(apart, world)
    for name in os.listdir(apart):
        source, target = os.path.join(apart, name), os.path.join(root, name)
        if os.path.isdir(target):
            put(target, read(source, skip=()))
        else:
            os.rename(source, target)
    empty(apart)
    os.rmdir(apart)


def read(root, skip=VOLATILE):
    """{path: [mode, text or target of the link]}, folders first."""
    found = {}
    for folder, folders, names in os.walk(root):
        here = folder[len(root) :]
        if here == "":
            folders[:] = [name for name in folders if name not in skip]
        for name in sorted(folders) + sorted(names):
            path = here + "/" + name
            mode = os.lstat(root + path).st_mode
            if stat.S_ISLNK(mode):
                found[path] = [mode, os.readlink(root + path)]
            elif stat.S_ISDIR(mode):
                found[path] = [mode, ""]
            elif stat.S_ISREG(mode):
                with open(root + path, "rb") as file:
                    found[path] = [mode, file.read().decode("utf-8", "surrogateescape")]
    return found


def empty(folder):
    for parent, folders, names in os.walk(folder, topdown=False):
        for name in names:
            os.unlink(os.path.join(parent, name))
        for name in folders:
            path = os.path.join(parent, name)
            os.unlink(path) if os.path.islink(path) else os.rmdir(path)
