"""What every part of the agent needs: where things are, how failures look, how text and files are
handled."""

import errno
import json
import os
import re
import stat

ROOT = ""  # tests put a directory here: every path below is taken inside it

STATE = "/var/lib/guidomain"
AGENT = STATE + "/agent"
LEDGER = STATE + "/ledger.json"
JOURNAL = STATE + "/journal.json"
RESERVE = STATE + "/reserve"  # disk space held for the undo
TRIAL = STATE + "/trial.json"
WATCH = STATE + "/watch.json"
OUTCOME = STATE + "/outcome.json"
GUARD = STATE + "/guard"  # the guard's source
SALT = STATE + "/salt"
SCRATCH = STATE + "/scratch"  # Salt's temporary files: one that was killed leaves them
FORMULA = "/srv/user_salt"
DROP_IN = "/etc/salt/minion.d/guidomain.conf"
MINION = SALT + "/etc/minion"  # instead of it, where Salt is not the host's own (plain Xen)
LOCK = "/run/guidomain.lock"
POWER = "/run/guidomain.power"  # what guidomain.Power was last asked for
LEAVE = "/run/guidomain.leave"  # there: this boot was a trial's that is undone, so it has to end
BEGUN = ".guidomain-new"  # suffix of a file that is being written; ignored by qrexec's policy
RELEASE = "/etc/qubes-release"
DEFAULT_GRUB = "/etc/default/grub"


def path(name):
    return ROOT + name


def grub(name=""):
    """A file of GRUB's folder: /boot/grub2 of Fedora, /boot/grub of Debian."""
    folders = ("/boot/grub2", "/boot/grub")
    folder = next((one for one in folders if os.path.isdir(path(one))), folders[0])
    return folder + "/" + name if name else folder


def boot_reserve():
    """Space on /boot held for the undo."""
    return grub("guidomain.reserve")


class Failure(Exception):
    """Ends a request; becomes AgentError of src/host/protocol.ts. `more`: failed, evidence, holder
    …"""

    def __init__(self, code, message, **more):
        super().__init__(message)
        self.code, self.message, self.more = code, message, more

    def body(self):
        return dict(self.more, code=self.code, message=clean(self.message))


class Stop:
    """Set once, when a request is cancelled or the controller is gone. `fd` is readable from then
    on."""

    def __init__(self):
        self.fd, self._write = os.pipe()
        self._set = False

    def set(self):
        if not self._set:
            self._set = True
            os.write(self._write, b"x")

    def is_set(self):
        return self._set

    def check(self):
        if self._set:
            raise Failure("cancelled", "cancelled")

    def close(self):
        os.close(self.fd)
        os.close(self._write)


ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def clean(text, limit=4096):
    """Output of the host as data: no control characters, at most `limit` bytes (the middle is cut
    out)."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    text = CONTROLS.sub("", ESCAPES.sub("", text)).strip()
    raw = text.encode("utf-8", "replace")
    if len(raw) > limit:
        half = limit // 2 - 8
        raw = raw[:half] + b"\n[\xe2\x80\xa6]\n" + raw[-half:]
    return raw.decode("utf-8", "ignore")


def cleaned(value):
    """`clean` for every text inside a JSON value."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean(str(k)): cleaned(v) for k, v in value.items()}
    if isinstance(value, list):
        return [cleaned(v) for v in value]
    return value


# -- files


def read_text(name, limit=1 << 20):
    """First `limit` bytes of a file; None where it cannot be read. Odd bytes survive as
    surrogates."""
    try:
        with open(path(name), "rb") as file:
            return file.read(limit).decode("utf-8", "surrogateescape")
    except OSError:
        return None


def read_file(name):
    """{"content", "mode", "owner": [uid, gid]}; None where there is none."""
    try:
        fd = os.open(path(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Failure("bad-request", "%s is a symbolic link: not followed" % name) from error
        raise
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise Failure("bad-request", "%s is not a regular file" % name)
        content = file.read().decode("utf-8", "surrogateescape")
    return {
        "content": content,
        "mode": "%04o" % stat.S_IMODE(status.st_mode),
        "owner": [status.st_uid, status.st_gid],
    }


def write_file(name, content, mode=0o644, owner=None):
    """Replaces the file whole and durably: written beside it, synced, renamed into place."""
    data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape")
    temporary = path(name) + BEGUN
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fchmod(fd, mode)
            if owner is not None:
                os.fchown(fd, *owner)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path(name))
    except OSError:
        remove_file(name + BEGUN)
        raise
    sync_directory(os.path.dirname(name))


def allocate(name, size):
    """A file that only holds disk space, of this many bytes or of more that it has already."""
    fd = os.open(path(name), os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.posix_fallocate(fd, 0, size)
    finally:
        os.close(fd)


def owner_of(name):
    """[uid, gid]; None where there is no such file."""
    try:
        status = os.lstat(path(name))
    except FileNotFoundError:
        return None
    return [status.st_uid, status.st_gid]


def read_json(name):
    """The value in a file of ours; None where there is none. Failure where it cannot be read."""
    text = read_text(name, 64 << 20)
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError as error:
        raise Failure("internal", "%s cannot be read: %s" % (name, error)) from error


def unit_exists(name):
    folders = ("/etc/systemd/system/", "/usr/lib/systemd/system/", "/lib/systemd/system/")
    return any(os.path.exists(path(folder + name)) for folder in folders)


def remove_file(name):
    """Not an error where it is not there."""
    try:
        os.unlink(path(name))
    except FileNotFoundError:
        return
    sync_directory(os.path.dirname(name))


def sync_file(name):
    """A file that somebody else wrote, and its folder; what is not there needs nothing."""
    try:
        fd = os.open(path(name), os.O_RDONLY | os.O_NOFOLLOW)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except FileNotFoundError:
        pass
    if os.path.isdir(os.path.dirname(path(name))):
        sync_directory(os.path.dirname(name))


def sync_directory(name):
    fd = os.open(path(name), os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def missing_directories(names):
    """Every directory that would have to be made so that the files `names` can be written."""
    missing = set()
    for name in names:
        parent = os.path.dirname(name)
        while parent not in ("", "/") and not os.path.isdir(path(parent)):
            missing.add(parent)
            parent = os.path.dirname(parent)
    return sorted(missing)


def remove_directories(names):
    """Removes those that are empty; returns those that are still there."""
    for name in sorted(names, key=len, reverse=True):
        try:
            os.rmdir(path(name))
        except OSError:
            pass
    return sorted(name for name in names if os.path.isdir(path(name)))


def remove_tree(name):
    for folder, directories, files in os.walk(path(name), topdown=False):
        for file in files:
            os.unlink(os.path.join(folder, file))
        for directory in directories:
            full = os.path.join(folder, directory)
            os.unlink(full) if os.path.islink(full) else os.rmdir(full)
    try:
        os.rmdir(path(name))
    except FileNotFoundError:
        pass


def is_full(error):
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
