"""Runs a command inside a qube: in a mount namespace of its own, its root a tree that holds what
content.py says and a few harmless programs of the machine. The tree is read-only but for /tmp: what
is written elsewhere fails, as nothing of it would stay. Programs that the model does not know are
not there, so the shell ends with 127.
"""

import ctypes
import json
import os

import qrexec

CLONE_NEWNS, CLONE_NEWUTS = 0x00020000, 0x04000000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18

# The machine's programs that do the same in any Linux.
LENT = (
    "sh bash cat test [ ls grep egrep head tail sed awk cut sort uniq wc tr tee true false echo"
    " printf sleep env expr basename dirname readlink stat find xargs mkdir rm cp mv touch chmod ln"
    " date timeout kill seq id sha256sum od"
).split()
# Those that answer from the model, see guest-tool.
PLAYED = ("rpm", "dpkg-query", "systemctl", "pgrep", "ss", "whoami", "hostname", "lspci", "xrandr", "pactl", "runuser", "mountpoint")
PATH = "/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin"
HERE = os.path.dirname(os.path.realpath(__file__))
MACHINE = "/.machine"

libc = ctypes.CDLL(None, use_errno=True)


def check(result, what):
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, "%s: %s" % (what, os.strerror(number)))


def mount(source, target, kind, flags, data=None):
    texts = [None if text is None else text.encode() for text in (source, target, kind, data)]
    check(
        libc.mount(texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3]), "mount " + target
    )


def folder(root, path):
    os.makedirs(root + path, exist_ok=True)
    return root + path


def lend(root, path):
    """A folder of the machine's libraries, entry by entry, so that the guest may have entries of
    its own in it.
    """
    if os.path.isdir(path) and not os.path.islink(path):
        for entry in os.listdir(path):
            target = folder(root, path) + "/" + entry
            if not os.path.lexists(target):
                os.symlink(MACHINE + path[len("/usr") :] + "/" + entry, target)


def build(root, inside):
    for path in (
        "/usr/bin",
        "/tmp",
        "/dev",
        "/etc",
        "/run",
        "/rw",
        "/home/user",
        "/root",
        "/proc",
        MACHINE,
        "/.guest",
    ):
        folder(root, path)
    mount("/usr", root + MACHINE, None, MS_BIND | MS_REC)
    mount("/dev", root + "/dev", None, MS_BIND | MS_REC)
    for path in ("/usr/lib", "/usr/lib64", "/usr/lib32"):
        lend(root, path)
    for name in ("bin", "sbin", "lib", "lib64", "lib32"):
        if os.path.isdir("/usr/" + name) and not os.path.lexists("%s/%s" % (root, name)):
            os.symlink("usr/" + name, "%s/%s" % (root, name))
    folder(root, "/usr/sbin")
    for name in LENT:
        if os.path.exists("/usr/bin/" + name):
            os.symlink("%s/bin/%s" % (MACHINE, name), "%s/usr/bin/%s" % (root, name))
    with open(HERE + "/guest-tool") as source:
        write(root, "/.guest/guest-tool", source.read(), 0o755)
    for name in PLAYED:
        os.symlink("/.guest/guest-tool", "%s/usr/bin/%s" % (root, name))
    with open(HERE + "/qrexec-client-vm") as source:
        write(root, "/usr/bin/qrexec-client-vm", source.read(), 0o755)
    for path, text in inside["files"].items():
        write(root, path, text)
    write(root, "/.guest/inside.json", json.dumps(inside))


def write(root, path, text, mode=0o644):
    folder(root, os.path.dirname(path))
    if os.path.islink(root + path):
        return  # a lent program
    with open(root + path, "w") as file:
        file.write(text)
    os.chmod(root + path, mode)


def run(inside, user, argv):
    """Replaces this process. `argv` is looked up inside."""
    root = "/mnt"  # in a namespace of its own: dom0 sees nothing of it
    check(libc.unshare(CLONE_NEWNS | CLONE_NEWUTS), "unshare")
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    mount("tmpfs", root, "tmpfs", 0, "mode=755")
    build(root, inside)
    qrexec.offer(root, inside["name"])
    mount("tmpfs", root + "/tmp", "tmpfs", 0, "mode=1777")
    mount(None, root, None, MS_REMOUNT | MS_BIND | MS_RDONLY)
    check(libc.sethostname(inside["name"].encode(), len(inside["name"])), "sethostname")
    os.chroot(root)
    home = "/root" if user == "root" else "/home/" + user
    os.chdir(home if os.path.isdir(home) else "/")
    os.execvpe(
        argv[0],
        argv,
        {"PATH": PATH, "HOME": home, "USER": user, "LOGNAME": user, "LANG": "C.UTF-8"},
    )
