"""A room for real servers: the network namespace of a qube of the twin, and a root of this machine's programs with the qube's own files over
them. Units start as systemd would start them, as far as ours need it: conditions, ExecStartPre, User, RuntimeDirectory, ExecStart. It needs
root, as servers and logins have users of their own.

    nsenter --net=… unshare --mount --pid --fork --kill-child --uts python3 room.py FOLDER UNIT…

FOLDER/files is what lies over the machine's files; FOLDER/screen gets the screen of :0 (Xvfb -fbdir); FOLDER/log what the servers say. "ready"
on standard output, then each line of standard input is a shell command in the room, answered by its exit status; it ends with the input.
"""

import ctypes
import os
import pwd
import shlex
import shutil
import subprocess
import sys
import time

FOLDER, UNITS = sys.argv[1], sys.argv[2:]
ROOT = FOLDER + "/root"
MS_RDONLY, MS_BIND, MS_REC, MS_PRIVATE = 1, 4096, 16384, 1 << 18
libc = ctypes.CDLL(None, use_errno=True)


def mount(source, target, kind, flags, data=None):
    texts = [None if text is None else text.encode() for text in (source, target, kind, data)]
    if libc.mount(texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3]) != 0:
        raise OSError(ctypes.get_errno(), "mount " + target)


def rows(path):
    with open(path) as file:
        return {line.split(":")[0]: line for line in file if line.strip()}


def build():
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    os.makedirs(ROOT)
    mount("tmpfs", ROOT, "tmpfs", 0, "mode=755")
    for name in ("usr", "dev", "proc", "run", "tmp", "rw", "var/log", "var/tmp", "home/user", "root", "screen", "log"):
        os.makedirs("%s/%s" % (ROOT, name))
    os.chmod(ROOT + "/tmp", 0o1777)
    os.symlink("../run", ROOT + "/var/run")
    for name in ("bin", "sbin", "lib", "lib64", "lib32", "libx32"):
        if os.path.islink("/" + name):
            os.symlink(os.readlink("/" + name), "%s/%s" % (ROOT, name))
    mount("/usr", ROOT + "/usr", None, MS_BIND | MS_REC)
    mount("/dev", ROOT + "/dev", None, MS_BIND | MS_REC)
    mount("proc", ROOT + "/proc", "proc", 0)
    for name in ("screen", "log"):
        mount("%s/%s" % (FOLDER, name), "%s/%s" % (ROOT, name), None, MS_BIND)
    mount("tmpfs", ROOT + "/usr/libexec", "tmpfs", 0, "mode=755")
    shutil.copytree("/etc", ROOT + "/etc", symlinks=True)
    shutil.copytree(FOLDER + "/files", ROOT, symlinks=True, dirs_exist_ok=True, ignore=lambda folder, names: {"passwd", "group", "shadow"} & set(names))
    # The machine's users with the qube's "user" among them, its password too.
    for name in ("passwd", "group", "shadow"):
        mine = rows("/etc/" + name)
        mine.pop("guidomain-rdp", None)
        mine["user"] = rows("%s/files/etc/%s" % (FOLDER, name))["user"]
        with open("%s/etc/%s" % (ROOT, name), "w") as file:
            file.writelines(mine.values())
    os.makedirs(ROOT + "/run/lightdm/root", mode=0o700)
    with open(ROOT + "/run/lightdm/root/:0", "w"):
        pass
    os.chroot(ROOT)
    os.chdir("/")


class Unit:
    def __init__(self, name):
        self.name, self.values = name, {}
        section = ""
        with open("/etc/systemd/system/" + name) as file:
            for line in (each.strip() for each in file):
                if line.startswith("["):
                    section = line
                elif line and not line.startswith("#"):
                    key, _, value = line.partition("=")
                    self.values.setdefault(section + key, []).append(value)

    def all(self, section, key):
        return self.values.get("[%s]%s" % (section, key), [])

    def start(self, log):
        for path in self.all("Unit", "ConditionPathExists"):
            if os.path.exists(path.lstrip("!")) == path.startswith("!"):
                raise SystemExit("%s: ConditionPathExists=%s" % (self.name, path))
        for command in self.all("Service", "ExecStartPre"):
            status = subprocess.call(shlex.split(command.lstrip("-+")), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            if status and not command.startswith("-"):
                raise SystemExit("%s: %s ended with %d" % (self.name, command, status))
        user = (self.all("Service", "User") or ["root"])[0]
        for name in self.all("Service", "RuntimeDirectory"):
            os.makedirs("/run/" + name, exist_ok=True)
            shutil.chown("/run/" + name, user)
        account = pwd.getpwnam(user)
        return subprocess.Popen(
            shlex.split(self.all("Service", "ExecStart")[0]),
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, user=account.pw_uid, group=account.pw_gid, extra_groups=[],
        )


def main():
    build()
    os.environ.update(DISPLAY=":0", HOME="/root", PATH="/usr/sbin:/usr/bin:/sbin:/bin")
    with open("/log/Xvfb", "w") as log:
        xvfb = ["Xvfb", ":0", "-noreset", "-screen", "0", "800x600x24", "-nolisten", "tcp", "-fbdir", "/screen"]
        subprocess.Popen(xvfb, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    for _ in range(100):
        if subprocess.call(["xset", "q"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0:
            break
        time.sleep(0.1)
    for name in UNITS:
        with open("/log/" + name, "w") as log:
            Unit(name).start(log)
    print("ready", flush=True)
    for line in sys.stdin:
        status = subprocess.call(["sh", "-c", line], stdin=subprocess.DEVNULL, stdout=sys.stderr)
        print(status, flush=True)


main()
