"""
One apply at a time on a host: flock on a file in /run that says who holds it. A command that the
holder started keeps the same lock (runner.py), so it is never free while Salt of a killed agent
still runs.
"""

import fcntl
import json
import os
import select
import time

import common
import machine
from common import Failure


def _parse(text):
    try:
        data = json.loads(text)
        return {
            "holder": common.clean(str(data["holder"]), 200),
            "since": data["since"],
            "pid": data["pid"],
        }
    except (TypeError, ValueError, KeyError):
        return {"holder": "unknown", "since": 0, "pid": 0}


def current():
    """Who holds the lock; None where nobody does. Writes nothing."""
    try:
        with open(common.path(common.LOCK), "rb") as file:
            try:
                # Shared, and for a moment: `acquire` tries again.
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _parse(file.read(4096))
    except OSError:
        pass
    return None


class Lock:
    def __init__(self, holder, wait, emit, stop):
        """Waits up to `wait` seconds, with a progress event each 2 s; Failure lock-held after
        that."""
        deadline = time.monotonic() + max(wait, 0.5)
        told = 0.0
        while True:
            self.fd = self._try()
            if self.fd is not None:
                break
            other = current() or {"holder": "unknown", "since": 0, "pid": 0}
            now = time.monotonic()
            if now > deadline:
                raise Failure(
                    "lock-held",
                    "%s has held this host since %s (process %d)"
                    % (
                        other["holder"],
                        time.strftime("%H:%M:%S", time.localtime(other["since"])),
                        other["pid"],
                    ),
                    holder=other,
                )
            if wait and now - told > 2:
                told = now
                emit("lock", "waiting for %s" % other["holder"])
            select.select([stop.fd], [], [], 0.1)
            stop.check()
        self._sign(holder)

    def _sign(self, holder):
        text = json.dumps({"holder": holder, "since": time.time(), "pid": os.getpid()})
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, text.encode(), 0)

    @staticmethod
    def _try():
        name = common.path(common.LOCK)
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The file may have been removed by the holder before; then this lock is on nothing.
            if os.path.samestat(os.fstat(fd), os.stat(name)):
                return fd
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(fd)
        return None

    def release(self):
        if self.fd is not None:
            name = common.path(common.LOCK)
            try:
                # Removed by hand, it may be somebody else's by now.
                if os.path.samestat(os.fstat(self.fd), os.stat(name)):
                    os.unlink(name)
            except FileNotFoundError:
                pass
            os.close(self.fd)
            self.fd = None


def take(holder, grace, killed):
    """
    For the guard: the lock, or None where somebody else has it and `killed` is None. Otherwise that
    one gets `grace` seconds to let go and is killed then; what it had started gets `killed` seconds
    to end, and after that we go on without the lock: a screen matters more.
    """
    begun, told = machine.here.boottime(), False
    held = Lock.__new__(Lock)
    while True:
        held.fd = Lock._try()
        if held.fd is not None:
            held._sign(holder)
            return held
        waited = machine.here.boottime() - begun
        if killed is None:
            return None
        if waited > grace + killed:
            return held
        if waited > grace and not told:
            told, other = True, current()
            if other and other["pid"] not in (0, os.getpid()):
                machine.here.kill(other["pid"])
        machine.here.sleep(0.2)
