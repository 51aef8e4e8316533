"""The inside of a forked process of the light host: the product's agent or guard as they are shipped, on virtual time.

Patched are only the edges to the machine: clocks, sleeping, waiting, commands, the Admin API's socket, and `steps.hook`, at which
the host may kill, cut, hang, switch off. What is asked of the host goes over one channel (`ask`), which blocks until it answers:
a process that the host wants dead never gets its answer.
"""
import hashlib
import importlib
import json
import os
import select
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SALT = os.path.join(REPOSITORY, "salt")
FOLDERS = [os.path.join(SALT, part) for part in ("agent", "guard", "_utils")]
COMMANDS = "qubesctl xl rpm dnf systemctl findmnt lsblk qvm-run qubes-policy-lint qrexec-policy-exec grub2-mkconfig".split()


def load_product():
    """{module name: module} of everything that travels to a host. Apart from the twin's own modules, one of which has the same name."""
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "machine"}
    before = list(sys.path)
    sys.path[:0] = FOLDERS
    found = {}
    try:
        for folder in FOLDERS:
            for file in sorted(os.listdir(folder)):
                name, ending = os.path.splitext(file)
                if ending == ".py" and name != "loader":
                    found[name] = importlib.import_module(name)
                    with open(os.path.join(folder, file)) as source:
                        found[name].SOURCE = source.read()
    finally:
        sys.path[:] = before
        for name in found:
            sys.modules.pop(name, None)
        sys.modules.update(hidden)
    return found


class Ask:
    """The channel to the host. Only the main thread uses it."""

    def __init__(self, sock):
        self.file = sock.makefile("rwb", buffering=0)

    def __call__(self, what, **more):
        try:
            self.file.write(json.dumps(dict(more, ask=what)).encode() + b"\n")
            line = self.file.readline()
        except OSError:
            line = b""
        if not line:  # the machine is gone
            os.kill(os.getpid(), signal.SIGKILL)
        return json.loads(line)


class Popen:
    """subprocess.Popen, of a command that ends at once."""

    ask = None

    def __init__(self, argv, stdin=None, stdout=None, stderr=None, text=False, universal_newlines=False, **_):
        code, out, err = self.ask("run", argv=list(argv))
        self.args, self.pid, self.ended = argv, 0, code
        if code == 127 and not out:
            raise FileNotFoundError(2, "No such file or directory", argv[0])
        convert = (lambda t: t) if text or universal_newlines else (lambda t: t.encode("utf-8", "surrogateescape"))
        self.out = convert(out) if stdout == subprocess.PIPE else None
        self.err = convert(err) if stderr == subprocess.PIPE else None
        self.returncode = None
        self.stdin = self.stdout = self.stderr = None

    def communicate(self, input=None, timeout=None):
        self.returncode = self.ended
        return self.out, self.err

    def wait(self, timeout=None):
        self.returncode = self.ended
        return self.ended

    poll = wait

    def kill(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.wait()


class Process:
    """`root`: dom0's disk; `page`: mmap of [boottime, wall] that the host keeps; `controls`: names of what is switched off for a
    negative control."""

    def __init__(self, product, root, ask, page, controls):
        self.product, self.root, self.ask, self.page, self.controls = product, root, ask, page, controls
        self.real_select, self.real_join = select.select, threading.Thread.join
        for name in [name for name in sys.modules if name.split(".")[0] == "machine"]:
            del sys.modules[name]
        sys.modules.update(product)

    def boottime(self):
        return struct.unpack_from("d", self.page, 0)[0]

    def wall(self):
        return struct.unpack_from("d", self.page, 8)[0]

    def sleep(self, seconds):
        if threading.current_thread() is threading.main_thread():
            self.ask("sleep", seconds=seconds)

    def select(self, reading, writing, odd, timeout=None):
        if timeout is None or threading.current_thread() is not threading.main_thread():
            return self.real_select(reading, writing, odd, timeout)
        ready = self.real_select(reading, writing, odd, 0)
        if not any(ready) and timeout > 0:
            self.sleep(timeout)
            ready = self.real_select(reading, writing, odd, 0)
        return ready

    def patch(self):
        product, this = self.product, self
        product["common"].ROOT = self.root
        product["qubes_admin"].SOCKET = self.root + "/run/qubesd.sock"
        product["steps"].hook = lambda name: self.ask("reach", step=name)
        product["runner"].run = self.run
        product["guard"].Guard.__init__.__defaults__ = (self.run,)
        product["guard"].LOOK = 10  # looks cost real time here, and no fault lies between two of them
        Popen.ask = staticmethod(self.ask)
        subprocess.Popen = Popen
        time.time, time.monotonic, time.sleep = self.wall, self.boottime, self.sleep
        time.clock_gettime = lambda clock: self.boottime()
        select.select = self.select
        shutil.which = lambda name, *_, **__: "/usr/bin/" + name if name in COMMANDS else None
        real_fsync = os.fsync

        def fsync(fd):
            real_fsync(fd)
            path = os.readlink("/proc/self/fd/%d" % fd)
            if path.startswith(self.root) and not path.endswith(product["common"].BEGUN) and not os.path.isdir(path):
                self.ask("synced", path=path[len(self.root) :])

        def sync():
            if threading.current_thread() is threading.main_thread():
                self.ask("synced", path="")

        os.fsync, os.sync = fsync, sync
        real = os.uname()
        os.uname = lambda: os.uname_result(real[:2] + (self.read("/proc/sys/kernel/osrelease"),) + tuple(real[3:]))

        def join(thread, timeout=None):
            if timeout is None or threading.current_thread() is not threading.main_thread():
                return self.real_join(thread, timeout)
            self.real_join(thread, 0.002)
            if thread.is_alive():
                self.sleep(max(timeout, 0.25))
                self.real_join(thread, 0.002)

        threading.Thread.join = join

        class Here(product["machine"].Machine):
            def boottime(self):
                return this.boottime()

            def now(self):
                return this.wall()

            def sleep(self, seconds):
                this.sleep(seconds)

            def systemctl(self, *words):
                return this.ask("run", argv=["systemctl"] + list(words))[0]

        product["machine"].here = Here()
        for control in self.controls:
            import controls

            getattr(controls, control)(self)

    def read(self, path):
        with open(self.root + path) as file:
            return file.read().strip()

    def run(self, argv, timeout, stop=None, lock=None, tick=None, scratch=None):
        """In runner.run's place."""
        ended = self.product["runner"].Ended
        if os.path.basename(argv[0]) == "qubesctl":
            import formula
            import targets

            if "--targets" in argv:
                code, out, err, why = targets.run(self, argv, stop, tick or (lambda seconds: None))
            else:
                code, out, err, why = formula.run(self, argv, stop)
            return ended(code, out, err, why)
        code, out, err = self.ask("run", argv=list(argv))
        return ended(code, out.encode("utf-8", "surrogateescape"), err.encode("utf-8", "surrogateescape"), "exit")

    # --- what it becomes

    def agent(self, command):
        """What salt/agent/loader.py does, with the modules that are loaded already."""
        digest = command.rsplit(" ", 1)[1]
        try:
            with open("%s/var/lib/guidomain/agent/%s.json" % (self.root, digest), "rb") as file:
                bundle, rest = file.read(), b""
        except OSError:
            bundle, rest = None, b""
        os.write(1, b'{"stored": %s}\n' % (b"true" if bundle else b"false"))
        if bundle is None:
            data = b""
            while b"\n" not in data:
                chunk = os.read(0, 1 << 16)
                if not chunk:
                    os._exit(65)
                data += chunk
            bundle, _, rest = data.partition(b"\n")
        if hashlib.sha256(bundle).hexdigest() != digest:
            os._exit(65)
        for name, source in json.loads(bundle).items():
            if self.product[name].SOURCE != source:
                raise SystemExit("light host: %s has changed since it was loaded" % name)
        self.product["agent"].main(digest, bundle, rest)

    def guard(self, words):
        """`python3 -I STATE/guard/guard.py WORDS`"""
        if not os.path.exists(self.root + "/var/lib/guidomain/guard/guard.py"):
            os._exit(2)
        self.product["guard"].main(words)
        os._exit(0)
