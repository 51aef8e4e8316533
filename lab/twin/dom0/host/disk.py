#!/usr/lib/dom0-python/bin/python3
"""disk.py fill|free: makes dom0's disk full, so that every write really ends in ENOSPC, or gives it room again.

The disk is a folder of the machine, which must not be filled. So each part is copied to a tmpfs mounted over it, which is
then shrunk to what it holds. Left as they are: /var/log and /var/lib/qubes, without which the twin could not go on
recording (there qubesd keeps its state), and /run and /tmp, which are tmpfs on a real dom0 too.
"""
import ctypes
import os
import shutil
import stat
import sys
import tempfile

PARTS = ["/boot", "/etc", "/home", "/opt", "/root", "/srv", "/usr/share/xsessions", "/var/cache", "/var/lib"]
LEFT = ("/var/lib/qubes",)
MS_REMOUNT, MS_BIND, MS_REC, MNT_DETACH = 32, 4096, 16384, 2

libc = ctypes.CDLL(None, use_errno=True)


def mount(source, target, kind, flags, options):
    done = libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode())
    if done != 0:
        raise OSError(ctypes.get_errno(), "mount on %s: %s" % (target, os.strerror(ctypes.get_errno())))


def umount(target):
    if libc.umount2(target.encode(), MNT_DETACH) != 0:
        raise OSError(ctypes.get_errno(), "umount %s: %s" % (target, os.strerror(ctypes.get_errno())))


def mounts():
    """[(mount point, kind)]"""
    with open("/proc/self/mountinfo") as file:
        rows = [line.split() for line in file]
    return [(row[4].encode().decode("unicode_escape"), row[row.index("-") + 1]) for row in rows]


def kept(path):
    """What below this path is not copied but stays what it is: LEFT, and what the machine lends there."""
    left = [each for each in LEFT if os.path.isdir(each)]
    return {point for point in left + [point for point, _ in mounts()] if point.startswith(path + "/")}


def copy(source, target, path, without):
    """What lies in `source` into `target`; `path` is where that is in dom0. Of `without`, empty folders."""
    for item in os.scandir(source):
        to = os.path.join(target, item.name)
        inside = os.path.join(path, item.name)
        if item.is_symlink():
            os.symlink(os.readlink(item.path), to)
        elif item.is_dir():
            os.makedirs(to, exist_ok=True)
            if inside not in without:
                copy(item.path, to, inside, without)
                shutil.copystat(item.path, to)
        elif stat.S_ISREG(item.stat().st_mode):
            shutil.copy2(item.path, to)


def clear(path, without):
    for item in os.scandir(path):
        if item.path in without:
            continue
        if not item.is_dir(follow_symlinks=False):
            os.unlink(item.path)
        elif any(each.startswith(item.path + "/") for each in without):
            clear(item.path, without)
        else:
            shutil.rmtree(item.path)


def fill():
    for path in PARTS:
        without = kept(path)
        below = {each: os.open(each, os.O_PATH) for each in [path] + sorted(without)}
        mount("tmpfs", path, "tmpfs", 0, "size=256m,mode=%o" % stat.S_IMODE(os.stat(path).st_mode))
        copy("/proc/self/fd/%d" % below[path], path, path, without)
        for each in sorted(without):
            mount("/proc/self/fd/%d" % below[each], each, "", MS_BIND | MS_REC, "")
        has = os.statvfs(path)
        size = max(1, has.f_blocks - has.f_bfree) * has.f_frsize
        mount("tmpfs", path, "tmpfs", MS_REMOUNT, "size=%d,nr_inodes=%d" % (size, has.f_files - has.f_ffree))


def free():
    full = {point for point, kind in mounts() if kind == "tmpfs"} & set(PARTS)
    for path in sorted(full):
        without = kept(path)
        with tempfile.TemporaryDirectory() as saved:
            copy(path, saved, path, without)
            umount(path)  # with what was mounted on it
            clear(path, without)
            copy(saved, path, path, without)


if __name__ == "__main__":
    {"fill": fill, "free": free}[sys.argv[1]]()
