"""Process 1 of the twin's dom0: keeps qubesd, starts the units of the boot, answers systemctl, reaps.

Units and their states are machine/units.py; here are their processes, and threads: one for the boot, one for each systemctl that
waits, one that looks at files.
"""
import collections
import fnmatch
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid

import xen
from machine import faults, units
from qubesd.world import World

from . import control

ENVIRONMENT = {
    "PATH": "/run/twin/bin:/usr/lib/twin/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "USER": "root",
    "LOGNAME": "root",
    "LANG": "C.UTF-8",
}
LOGS = "/var/log/twin"
WATCHDOG = "xenwatchdogd.service"


class DaemonFailed(Exception):
    pass


def serves(path):
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(path)
        except OSError:
            return False
    return True


class Process:
    def __init__(self, pid):
        self.pid, self.status = pid, None


class Processes:
    """What units execute. Their end is seen by `reap`, which process 1's main thread calls for every process that ends."""

    def __init__(self):
        self.ended = threading.Condition()
        self.running = {}

    def spawn(self, unit, argv):
        os.makedirs(LOGS, exist_ok=True)
        with self.ended, open("%s/%s.log" % (LOGS, unit.name), "ab") as log:
            try:
                child = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment(unit), cwd="/", start_new_session=True
                )
            except OSError as error:
                log.write(("%s: %s\n" % (argv[0], error)).encode())
                failed = Process(0)
                failed.status = 203  # systemd's EXIT_EXEC
                return failed
            child.returncode = 0  # it is reaped by process 1, not by Popen
            process = self.running[child.pid] = Process(child.pid)
            return process

    @staticmethod
    def environment(unit):
        own = [word.partition("=") for value in unit.all("service", "environment") for word in value.strip('"').split()]
        found = dict(ENVIRONMENT, **{name: value for name, _, value in own})
        return dict(found, INVOCATION_ID=Processes.invocation(unit))

    @staticmethod
    def invocation(unit):
        """systemd's is new at each start; of the twin's units only one start runs at a time."""
        return uuid.uuid5(uuid.NAMESPACE_URL, unit.name).hex

    def reap(self, pid, status):
        """True if it was one of a unit's."""
        with self.ended:
            process = self.running.pop(pid, None)
            if process:
                process.status = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
                self.ended.notify_all()
        return process is not None

    def run(self, unit, argv, timeout):
        process = self.spawn(unit, argv)
        with self.ended:
            if not self.ended.wait_for(lambda: process.status is not None, timeout):
                self._signal(process, signal.SIGKILL)
                return 124
        return process.status

    def alive(self, process):
        return process.status is None

    def left(self, unit):
        """The daemon that a command of Type=forking has left: the first process that still has the unit's invocation."""
        wanted = b"INVOCATION_ID=" + self.invocation(unit).encode()
        for name in sorted((name for name in os.listdir("/proc") if name.isdigit()), key=int):
            try:
                with open("/proc/%s/environ" % name, "rb") as file:
                    if wanted in file.read().split(b"\0"):
                        with self.ended:
                            return self.running.setdefault(int(name), Process(int(name)))
            except OSError:
                pass  # it has just ended
        return None

    def kill(self, process, number=signal.SIGTERM, patience=2.0):
        self._signal(process, number)
        with self.ended:
            if self.ended.wait_for(lambda: process.status is not None, patience):
                return
        self._signal(process, signal.SIGKILL)

    @staticmethod
    def _signal(process, number):
        if process.pid and process.status is None:
            try:
                os.killpg(process.pid, number)
            except ProcessLookupError:
                pass


class Manager(units.Manager):
    """Two that start the same unit wait for one another."""

    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **more)
        self.locks = collections.defaultdict(threading.Lock)

    def start(self, name):
        with self.locks[units.full(name)]:
            super().start(name)


GROUPS = "/sys/fs/cgroup/system.slice"


class Init:
    def __init__(self, daemons, cmdline, path=None):
        if path:
            ENVIRONMENT["PATH"] = path
        self.daemons, self.keeping = daemons, {}
        self.sleeping = threading.Lock()
        self.processes = Processes()
        self.world = World()
        absent = () if self.world.get("watchdog", True) else (WATCHDOG,)
        self.manager = Manager("", cmdline, self.processes, self.start_qube, self.changed, absent)
        self.triggers = faults.Triggers(self.world, "/run/twin/state/fired.json")

    def changed(self):
        """A service that runs has a control group, as below a real systemd. And the machine below has to know whether dom0's
        watchdog runs: it then resets a host that hangs.
        """
        states = dict(self.manager.states)
        services = {name for name, state in states.items() if name.endswith(".service") and state["active"] == "active"}
        os.makedirs(GROUPS, exist_ok=True)
        for name in services ^ set(os.listdir(GROUPS)):
            folder = os.path.join(GROUPS, name)
            try:
                os.mkdir(folder) if name in services else os.rmdir(folder)
            except (FileExistsError, FileNotFoundError):
                pass  # another thread was faster
        if xen.on(self.world.read()):
            return  # xen/bin/xenwatchdogd says so itself
        active = WATCHDOG in services
        path = "/run/twin/state/watchdog"
        if active and not os.path.exists(path):
            open(path, "w").close()
        elif not active and os.path.exists(path):
            os.unlink(path)

    # --- daemons

    def start_daemons(self):
        for daemon in self.daemons:
            self.keep(daemon)
        for daemon in self.daemons:
            end = time.monotonic() + 10
            while not serves(daemon["socket"]):
                if os.waitpid(-1, os.WNOHANG)[0] or time.monotonic() > end:
                    raise DaemonFailed("%s does not serve %s; see %s" % (daemon["argv"][0], daemon["socket"], daemon["log"]))
                time.sleep(0.003)

    def keep(self, daemon):
        with open(daemon["log"], "ab") as log:
            process = subprocess.Popen(daemon["argv"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=ENVIRONMENT, cwd="/")
        process.returncode = 0
        self.keeping[process.pid] = daemon

    def start_qube(self, name):
        """Its unit is active when it is on its way: nothing at boot waits for an agent."""
        self.ask_qubesd("internal.vm.Autostart dom0 name %s" % name)

    # --- main

    def boot(self, ready):
        self.manager.boot(ready)
        trigger = self.triggers.fires("boot", "")
        if trigger:
            control.power(trigger["do"], "fault at boot")

    def supervise(self, ready):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        for work in (lambda: self.boot(ready), lambda: self.accept(self.socket()), self.look):
            threading.Thread(target=work, daemon=True).start()
        while True:
            try:
                pid, status = os.waitpid(-1, 0)
            except ChildProcessError:
                time.sleep(0.05)
                continue
            daemon = self.keeping.pop(pid, None)
            if daemon:  # as systemd does with Restart=on-failure
                print("%s ended with status %d, started again" % (daemon["argv"][0], status), flush=True)
                time.sleep(0.1)
                self.keep(daemon)
            else:
                self.processes.reap(pid, status)

    def end(self):
        for pid in self.keeping:
            os.kill(pid, signal.SIGTERM)
        end = time.monotonic() + 1
        while self.keeping and time.monotonic() < end:
            try:
                self.keeping.pop(os.waitpid(-1, os.WNOHANG)[0], None)
            except ChildProcessError:
                break
            time.sleep(0.005)

    def look(self):
        """Path units and faults that wait for a file. Faults are looked for often: they mean one moment."""
        while True:
            waiting = bool(self.triggers.files())
            trigger = self.triggers.look() if waiting else None
            if trigger:
                control.power(trigger["do"], "fault at %s" % trigger["at"])
            if self.manager.paths():
                self.manager.poll()
            time.sleep(0.003 if waiting else 0.1)

    # --- systemctl

    def socket(self):
        server = socket.socket(socket.AF_UNIX)
        server.bind(control.INIT)
        server.listen(64)
        return server

    def accept(self, server):
        while True:
            connection, _ = server.accept()
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        control.serve(connection, self.answer)

    def answer(self, line):
        try:
            return self.systemctl(self, json.loads(line)).answer()
        except Exception as error:  # process 1 must not fall over a request
            return {"code": 1, "out": "", "err": "systemctl: %r\n" % error}

    def ask_qubesd(self, call):
        """The reply's text to a call without payload; raises RuntimeError with qubesd's reason."""
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(self.daemons[0]["socket"])
            client.sendall(call.encode() + b"\0")
            client.shutdown(socket.SHUT_WR)
            reply = b"".join(iter(lambda: client.recv(65536), b"")).decode()
        if not reply.startswith("0\0"):
            raise RuntimeError(reply.split("\0")[4] if reply.count("\0") > 4 else "qubesd gives no answer")
        return reply[2:]

    def sleep(self):
        """The one who asked gets an answer first, and the next one after the sleep."""
        time.sleep(0.1)
        control.power("suspend", "systemctl suspend")
        time.sleep(0.1)
        self.sleeping.release()

    def go_down(self, what, force):
        """Stops what runs, tells the machine below. The one who asked gets an answer first."""
        time.sleep(0.1)
        if force < 2:
            self.manager.stop_generated()
        if force == 0 and self.daemons and not xen.on(self.world.read()):  # qubes-core.service: qvm-shutdown --all --wait (core-admin-linux)
            try:
                self.ask_qubesd("internal.ShutdownAll dom0 name dom0")
            except (OSError, RuntimeError):
                pass
        if force < 2:
            for name, state in list(self.manager.states.items()):
                if state.get("handle") is not None:
                    try:
                        self.manager.stop(name)
                    except units.UnitProblem:
                        pass
        control.power(what, "systemctl %s" % what)


class Systemctl:
    """One run of it: {"verb", "names", "options": [word]} → {"code", "out", "err"}."""

    def __init__(self, init, request):
        self.init, self.manager = init, init.manager
        self.verb, self.names, self.options = request["verb"], request["names"], request["options"]
        self.out, self.err, self.code = [], [], 0

    def answer(self):
        getattr(self, "do_" + self.verb.replace("-", "_"))()
        return {"code": self.code, "out": "".join(line + "\n" for line in self.out), "err": "".join(line + "\n" for line in self.err)}

    def each(self, work):
        for name in self.names:
            try:
                self.err += work(name) or []
            except units.UnitProblem as problem:
                self.err.append(str(problem))
                self.code = max(self.code, problem.code)

    def expanded(self):
        names = []
        for name in self.names:
            names += (self.known(name) or []) if "*" in name else [name]
        return names

    def known(self, pattern="*"):
        """Units that were loaded, and the senders of dom0's input devices, which qubesd starts with the qube that gets them."""
        found = set(self.manager.states) | set(senders())
        return sorted(name for name in found if fnmatch.fnmatch(name, pattern))

    def state(self, name):
        full = units.full(name)
        if full in senders():
            return "active"
        return self.manager.is_active(name)

    def do_is_active(self):
        states = [self.state(name) for name in self.expanded()]
        self.out += states
        gone = [self.manager.unit(name).loaded == "not-found" for name in self.expanded() if units.full(name) not in senders()]
        self.code = 0 if "active" in states else 4 if gone and all(gone) else 3

    def do_is_failed(self):
        states = [self.state(name) for name in self.expanded()]
        self.out += states
        self.code = 0 if "failed" in states else 1

    def do_is_enabled(self):
        self.manager.daemon_reload()
        states = [self.manager.is_enabled(name) for name in self.names]
        self.out += states
        good = [state for state in states if state in ("enabled", "static")]
        self.code = 0 if good else 4 if states and all(state == "not-found" for state in states) else 1

    def do_is_system_running(self):
        failed = any(state["active"] == "failed" for state in self.manager.states.values())
        self.out.append("degraded" if failed else "running")
        self.code = 1 if failed else 0

    def do_status(self):
        for name in self.names:
            unit = self.manager.unit(name)
            full = units.full(name)
            if unit.loaded == "not-found":
                self.err.append("Unit %s could not be found." % full)
                self.code = max(self.code, 4)
                continue
            state = self.state(name)
            words = {"active": "active (running)", "failed": "failed (Result: exit-code)", "inactive": "inactive (dead)"}
            self.out.append("%s %s - %s" % ("●" if state == "active" else "×" if state == "failed" else "○", full, unit.description))
            self.out.append("     Active: %s" % words.get(state, state))
            problem = self.manager.state(full).get("problem")
            if problem:
                self.out.append("    Process: %s" % problem)
            self.code = max(self.code, 0 if state == "active" else 3)

    def do_start(self):
        if "--no-block" in self.options:
            threading.Thread(target=lambda: self.each(self.manager.start), daemon=True).start()
        else:
            self.each(self.manager.start)

    def do_stop(self):
        self.each(self.manager.stop)

    def do_restart(self):
        self.each(self.manager.restart)

    def do_try_restart(self):
        self.each(lambda name: self.manager.restart(name) if self.state(name) == "active" else None)

    def do_reload(self):
        self.each(lambda name: None)

    def do_reset_failed(self):
        for name, state in list(self.manager.states.items()):
            if state["active"] == "failed" and (not self.names or name in [units.full(each) for each in self.names]):
                del self.manager.states[name]

    def do_enable(self):
        self.each(self.manager.enable)
        if "--now" in self.options and self.code == 0:
            self.each(self.manager.start)

    def do_disable(self):
        self.each(self.manager.disable)
        if "--now" in self.options:
            self.each(self.manager.stop)

    def do_mask(self):
        self.each(self.manager.mask)
        if "--now" in self.options:
            self.each(self.manager.stop)

    def do_unmask(self):
        self.each(self.manager.unmask)

    def do_daemon_reload(self):
        self.manager.daemon_reload()

    def do_cat(self):
        for name in self.names:
            unit = self.manager.unit(name)
            if unit.loaded != "loaded":
                self.err.append("No files found for %s." % units.full(name))
                self.code = 1
                continue
            with open(unit.path) as file:
                self.out += ["# " + unit.path] + file.read().rstrip("\n").split("\n")

    def do_show(self):
        wanted = [w for option in self.options if option.startswith(("-p=", "--property=")) for w in option.partition("=")[2].split(",")]
        for name in self.names:
            unit, state = self.manager.unit(name), self.state(name)
            handle = self.manager.state(name).get("handle")
            rows = {
                "Id": units.full(name),
                "Description": unit.description,
                "LoadState": unit.loaded,
                "ActiveState": state,
                "SubState": {"active": "running", "failed": "failed", "activating": "start"}.get(state, "dead"),
                "Result": self.manager.state(name).get("result", "success"),
                "MainPID": str(handle.pid if handle else 0),
                "UnitFileState": {"not-found": ""}.get(self.manager.is_enabled(name), self.manager.is_enabled(name)),
                "FragmentPath": unit.path or "",
            }
            for key, value in rows.items():
                if not wanted or key in wanted:
                    self.out.append(value if "--value" in self.options else "%s=%s" % (key, value))

    def do_list_units(self):
        states = [w for option in self.options if option.startswith("--state=") for w in option[8:].split(",")]
        for name in [name for pattern in self.names or ["*"] for name in self.known(pattern)]:
            state = self.state(name)
            if states and state not in states and {"active": "running"}.get(state) not in states:
                continue
            sub = {"active": "running", "failed": "failed"}.get(state, "dead")
            self.out.append("  %s loaded %s %s %s" % (name, state, sub, self.manager.unit(name).description))

    def do_list_unit_files(self):
        found = set()
        for folder in (units.ADMIN, units.VENDOR):
            found.update(name for name in os.listdir(folder) if "." in name and not name.endswith((".wants", ".d", ".requires")))
        for name in sorted(found):
            if not self.names or any(fnmatch.fnmatch(name, pattern) for pattern in self.names):
                self.out.append("%s %s" % (name, self.manager.is_enabled(name)))

    def power(self, what):
        force = self.options.count("--force") + self.options.count("-f")
        threading.Thread(target=self.init.go_down, args=(what, force), daemon=True).start()

    def do_reboot(self):
        self.power("reboot")

    def do_poweroff(self):
        self.power("poweroff")

    do_halt = do_poweroff

    def do_suspend(self):
        """systemd 256: login/logind-dbus.c, method_do_shutdown_or_sleep; systemd-sleep.conf(5)."""
        if not sleep_allowed():
            self.err.append("Call to Suspend failed: Sleep verb 'suspend' is disabled by config")
            self.code = 1
        elif not self.init.sleeping.acquire(blocking=False):
            self.err.append("Call to Suspend failed: There's already a shutdown or sleep operation in progress")
            self.code = 1
        else:
            threading.Thread(target=self.init.sleep, daemon=True).start()


def sleep_allowed():
    """AllowSuspend= of the last file that has it."""
    allowed, folder = True, "/etc/systemd/sleep.conf.d"
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    for name in names:
        if name.endswith(".conf"):
            with open(os.path.join(folder, name)) as file:
                found = [line.partition("=")[2].strip() for line in file if line.startswith("AllowSuspend=")]
            allowed = found[-1] in ("yes", "true", "1", "on") if found else allowed
    return allowed


Init.systemctl = Systemctl  # a qube's process 1 has another (guest/init.py)


def senders():
    """Units that pass dom0's input devices on (qubes-host.md (d) 4), as qubesd wrote them down."""
    try:
        with open("/run/qubes/input-senders") as file:
            return file.read().split()
    except OSError:
        return []
