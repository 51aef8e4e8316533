"""A service of dom0, run as its qrexec-daemon does: as the first member of group `qubes`, who is no root but may become it by
`sudo` without a password (core-admin, vm/qubesvm.py start_daemon; core-admin-linux, system-config/qubes.sudoers).

The twin's files have one owner, so what that user may not is kept from it by a mount namespace of its own: it can write in /tmp, /home
and /run/user only, and sees nothing of what root keeps to itself. `sudo` (bin/sudo) leaves it.
"""

import ctypes
import json
import os
import subprocess

# libqrexec/qrexec.h, QREXEC_SERVICE_PATH
FOLDERS = ("/run/qubes-rpc", "/usr/local/etc/qubes-rpc", "/etc/qubes-rpc")
NAME_MAX = 255
WRITABLE = ("/tmp", "/home", "/run/user", "/dev/shm", "/var/tmp")
# What is mounted as dom0's file system (host/sandbox.py).
ROOTS = ("/", "/run", "/sys", "/usr/share/xsessions", "/usr/lib/systemd/system", "/usr/lib/dracut", "/usr/lib/modules")
# What another user of dom0 cannot read.
PRIVATE = ("/root", "/var/lib/guidomain", "/etc/shadow", "/boot/grub2")
PATH = "/run/twin/bin:/usr/lib/twin/bin:/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin"
CLONE_NEWNS = 0x00020000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18

# Services that packages of dom0 bring, as far as anybody asks for them (packaged.py).
PACKAGED = {"qubes.PowerSupply": "dummy-psu-sender", "qubes.SetBrightness": "dummy-backlight-dom0"}

libc = ctypes.CDLL(None, use_errno=True)


class NotFound(Exception):
    pass


class NotExecutable(Exception):
    pass


def find(service):
    """The file: SERVICE+ARGUMENT, else SERVICE, in the first folder that has it (libqrexec/exec.c, find_qrexec_service). No argument
    counts as an empty one.
    """
    full = service if "+" in service else service + "+"
    for name in (full, full.partition("+")[0]):
        if len(name) > NAME_MAX:
            continue
        for folder in FOLDERS:
            path = os.path.join(folder, name)
            if os.path.lexists(path):
                if not os.access(path, os.X_OK) or os.stat(path).st_mode & 0o111 == 0:
                    raise NotExecutable("Unknown service type (not executable, not a socket): %s" % path)
                return path
    if PACKAGED.get(full.partition("+")[0], "") in installed():
        return os.path.join(os.path.dirname(os.path.realpath(__file__)), "packaged.py")
    raise NotFound("Service not found: %s" % full)


def installed():
    with open("/var/lib/rpm/twin.json") as file:
        return json.load(file)["packages"]


class Dom0Service:
    def __init__(self, service, source, target):
        self.path = find(service)
        full = service if "+" in service else service + "+"
        argument = full.partition("+")[2]
        user = member()
        # exec_qubes_rpc2: the daemon's own environment without other QREXEC…, and these.
        self.environment = {
            "PATH": PATH,
            "LANG": "C.UTF-8",
            "HOME": "/home/" + user,
            "USER": user,
            "LOGNAME": user,
            "SHELL": "/bin/bash",
            "QREXEC_SERVICE_FULL_NAME": full,
            "QREXEC_REMOTE_DOMAIN": source,
            "QREXEC_SERVICE_ARGUMENT": argument,
        }
        if target.startswith("@"):
            self.environment.update(QREXEC_REQUESTED_TARGET_TYPE="keyword", QREXEC_REQUESTED_TARGET_KEYWORD=target[1:])
        else:
            self.environment.update(QREXEC_REQUESTED_TARGET_TYPE="name", QREXEC_REQUESTED_TARGET=target)
        self.argv = [self.path] + ([argument] if argument else [])

    def start(self):
        return subprocess.Popen(
            self.argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self.environment,
            cwd="/",
            start_new_session=True,
            preexec_fn=unprivileged,
        )


def member():
    with open("/etc/group") as file:
        rows = [line.strip().split(":") for line in file]
    return next(row[3].split(",")[0] for row in rows if row[0] == "qubes")


def check(result):
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def mount(source, target, kind, flags, data=None):
    texts = [None if text is None else text.encode() for text in (source, target, kind, data)]
    check(libc.mount(texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3]))


def unprivileged():
    """In the child, before it becomes the service."""
    check(libc.unshare(CLONE_NEWNS))
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    for path in WRITABLE:
        if os.path.isdir(path):
            mount(path, path, None, MS_BIND | MS_REC)
    for path in ROOTS:
        keep = os.statvfs(path).f_flag & (MS_NOSUID | MS_NODEV | MS_NOEXEC)
        mount(None, path, None, MS_REMOUNT | MS_BIND | MS_RDONLY | keep | (1 << 21))
    for path in PRIVATE:
        if os.path.isdir(path):
            mount("tmpfs", path, "tmpfs", MS_RDONLY, "mode=0")
        elif os.path.exists(path):
            mount("/dev/null", path, None, MS_BIND)


def as_root():
    """Back to what root of dom0 sees: what sudo does, and journald for whoever logs."""
    first = os.open("/proc/1/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    if os.readlink("/proc/1/ns/mnt") != os.readlink("/proc/self/ns/mnt"):
        folder = os.getcwd()
        check(libc.setns(first, CLONE_NEWNS))
        os.chdir(folder if os.path.isdir(folder) else "/")
    os.close(first)
