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
LEFT = "/var/lib/qubes"
MS_REMOUNT, MS_BIND, MNT_DETACH = 32, 4096, 2

libc = ctypes.CDLL(None, use_errno=True)


def mount(source, target, kind, flags, options):
    done = libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode())
    if done != 0:
        raise OSError(ctypes.get_errno(), "mount on %s: %s" % (target, os.strerror(ctypes.get_errno())))


def umount(target):
    if libc.umount2(target.encode(), MNT_DETACH) != 0:
        raise OSError(ctypes.get_errno(), "umount %s: %s" % (target, os.strerror(ctypes.get_errno())))


def copy(source, target, path):
    """What lies in `source` into `target`; `path` is where that is in dom0. LEFT stays an empty folder."""
    for item in os.scandir(source):
        to = os.path.join(target, item.name)
        inside = os.path.join(path, item.name)
        if item.is_symlink():
            os.symlink(os.readlink(item.path), to)
        elif item.is_dir():
            os.mkdir(to)
            if inside != LEFT:
                copy(item.path, to, inside)
            shutil.copystat(item.path, to)
        elif stat.S_ISREG(item.stat().st_mode):
            shutil.copy2(item.path, to)


def filled():
    """The parts that are full now."""
    with open("/proc/self/mountinfo") as file:
        rows = [line.split() for line in file]
    return {row[4] for row in rows if row[row.index("-") + 1] == "tmpfs"} & set(PARTS)


def fill():
    for path in PARTS:
        below, kept = os.open(path, os.O_PATH), None
        if LEFT.startswith(path):
            kept = os.open(LEFT, os.O_PATH)
        mount("tmpfs", path, "tmpfs", 0, "size=256m,mode=%o" % stat.S_IMODE(os.stat(path).st_mode))
        copy("/proc/self/fd/%d" % below, path, path)
        if kept is not None:
            mount("/proc/self/fd/%d" % kept, LEFT, "", MS_BIND, "")
        has = os.statvfs(path)
        size = max(1, has.f_blocks - has.f_bfree) * has.f_frsize
        mount("tmpfs", path, "tmpfs", MS_REMOUNT, "size=%d,nr_inodes=%d" % (size, has.f_files - has.f_ffree))


def free():
    for path in sorted(filled()):
        with tempfile.TemporaryDirectory() as saved:
            if LEFT.startswith(path):
                umount(LEFT)
            copy(path, saved, path)
            umount(path)
            clear(path)
            if LEFT.startswith(path):
                os.rmdir(os.path.join(saved, os.path.relpath(LEFT, path)))
            copy(saved, path, path)


def clear(path):
    for item in os.scandir(path):
        if item.path == LEFT:
            continue
        if item.is_dir(follow_symlinks=False):
            shutil.rmtree(item.path)
        else:
            os.unlink(item.path)


if __name__ == "__main__":
    {"fill": fill, "free": free}[sys.argv[1]]()
