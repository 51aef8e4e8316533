"""
Runs a command of the host so that nothing of it outlives us: a small keeper process stands between
the agent and the command. It ends the command with everything that it started when the agent asks
for it, or is gone (SIGKILL too: its end of the pipe closes), and it holds the host's lock until the
last of them has ended.
"""

import os
import select
import subprocess
import sys
import time
from collections import namedtuple

# Runs as `python3 -I -c KEEPER argv…`; its stdin is the life line.
KEEPER = r"""
import ctypes, os, select, signal, subprocess, sys, time
prctl = ctypes.CDLL(None).prctl
prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: what loses its parent becomes our child
wake, ring = os.pipe()
os.set_blocking(ring, False)
signal.set_wakeup_fd(ring)
# Handlers that do nothing: an ignored signal would stay ignored in the child.
for number in (signal.SIGCHLD, signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: None)

def children():
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/stat" % pid, errors="replace") as file:
                head, _, rest = file.read().rpartition(")")
        except OSError:
            continue
        if int(rest.split()[1]) == os.getpid():
            found.append((int(pid), head.partition("(")[2]))
    return found

try:
    child = subprocess.Popen(
        sys.argv[1:], stdin=subprocess.DEVNULL,
        preexec_fn=lambda: prctl(1, signal.SIGKILL),  # PR_SET_PDEATHSIG: if we are killed
    )
except OSError as error:
    sys.stderr.write("%s: %s\n" % (sys.argv[1], error.strerror))
    sys.exit(127)
while child.poll() is None:
    ready = select.select([0, wake], [], [])[0]
    if 0 in ready:
        break
    os.read(wake, 512)
asked, begun = set(), time.monotonic()
while True:
    child.poll()
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        break
    for pid, name in children():
        # rpm in the middle of a transaction ends by itself; killed, it leaves a broken data base.
        patience = 120 if name in ("dnf", "dnf5", "rpm", "yum", "apt-get", "dpkg") else 1
        try:
            if pid not in asked:
                asked.add(pid)
                os.kill(pid, signal.SIGTERM)
            elif time.monotonic() - begun > patience:
                os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    time.sleep(0.01)
code = child.returncode
sys.exit(128 - code if code is not None and code < 0 else code or 0)
"""

Ended = namedtuple("Ended", "code out err why")  # why: "exit", "timeout" or "stop"
LIMIT = 16 * 1024 * 1024  # bytes kept of each stream; the rest is read and dropped


def run(argv, timeout, stop=None, lock=None, tick=None, scratch=None):
    """Runs `argv` (never a shell line) for at most `timeout` seconds; bytes in `out` and `err`.

    `lock`: descriptor that the command keeps open. `tick(seconds)` is called about every 5 s.
    `scratch`: folder that the command runs in and puts its temporary files.
    """
    started = time.monotonic()
    keeper = subprocess.Popen(
        [sys.executable, "-I", "-c", KEEPER] + list(argv),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=() if lock is None else (lock,),
        start_new_session=True,
        cwd=scratch,
        env=dict(os.environ, LC_ALL="C", **({"TMPDIR": scratch} if scratch else {})),
        bufsize=0,
    )
    streams = {keeper.stdout.fileno(): bytearray(), keeper.stderr.fileno(): bytearray()}
    out, err = streams.values()
    why, ticks = "exit", 0
    while streams:
        watched = list(streams) + ([stop.fd] if stop and why == "exit" else [])
        ready = select.select(watched, [], [], 0.5)[0]
        seconds = time.monotonic() - started
        if why == "exit" and (stop and stop.is_set() or seconds > timeout):
            why = "stop" if stop and stop.is_set() else "timeout"
            keeper.stdin.close()
        for fd in set(ready) & set(streams):
            data = os.read(fd, 65536)
            if not data:
                del streams[fd]
            elif len(streams[fd]) < LIMIT:
                streams[fd] += data
        if tick and seconds // 5 > ticks:
            ticks = seconds // 5
            tick(seconds)
    code = keeper.wait()
    for pipe in (keeper.stdin, keeper.stdout, keeper.stderr):
        pipe.close()
    return Ended(code, bytes(out), bytes(err), why)
