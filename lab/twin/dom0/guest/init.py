"""Process 1 of a qube: what Qubes runs at its start (core-agent-linux, vm-systemd/qubes-early-vm-config.sh, misc-post.sh), its units,
and systemctl's answers. Units of packages (/usr/lib/systemd/system) are only said to run, by content.py; all others run for real.
"""

import glob
import json
import os
import subprocess
import sys
import threading
import time

from host import control, init as dom0
from machine import units

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "USER": "root",
    "LOGNAME": "root",
    "LANG": "C.UTF-8",
}
MODEL = "/.guest/model/inside.json"


class Processes(dom0.Processes):
    environment = staticmethod(lambda unit: dict(dom0.Processes.environment(unit), **ENVIRONMENT))


class Manager(dom0.Manager):
    """What content.py says of a package's unit counts before what a boot made of it."""

    def played(self, name):
        return model()["units"].get(units.full(name))

    def is_active(self, name):
        played = self.played(name)
        if played is None:
            return super().is_active(name)
        unit = self.unit(name)
        return "active" if played and (unit.loaded != "loaded" or self.state(name)["active"] != "stopped") else "inactive"

    def stop(self, name):
        super().stop(name)
        if self.played(name):
            self.states[units.full(name)] = {"active": "stopped", "result": "success"}


def model():
    try:
        with open(MODEL) as file:
            return json.load(file)
    except (OSError, ValueError):
        return {"units": {}, "system": "running"}


class Systemctl(dom0.Systemctl):
    def do_is_system_running(self):
        if "--wait" in self.options:
            self.init.booted.wait()
        if not self.init.booted.is_set():
            self.out.append("starting")
            self.code = 1
            return
        super().do_is_system_running()
        said = model()["system"]
        if said != "running":
            self.out, self.code = [said], 1

    def power(self, what):
        self.err.append("systemctl: the twin's qubes end by qvm-shutdown")
        self.code = 1


class Init(dom0.Init):
    systemctl = Systemctl

    def __init__(self, qube):
        self.qube = qube
        self.keeping = {}
        self.processes = Processes()
        self.manager = Manager("", "", self.processes)
        self.booted = threading.Event()

    def listening(self):
        self.server = self.socket()

    def boot(self):
        try:
            self.scripts("/rw/config/rc.local-early")
            if "custom-persist" not in self.qube["services"]:
                self.scripts("/rw/config/rc.local")
            self.manager.boot()
        except Exception as error:
            print("boot: %r" % error, flush=True)
        self.booted.set()

    def scripts(self, name):
        """NAME.d/*.rc in order, then NAME; those that are executable."""
        for script in sorted(glob.glob(glob.escape(name) + ".d/*.rc")) + [name]:
            if os.path.isfile(script) and os.access(script, os.X_OK):
                unit = units.Unit("qubes-misc-post.service", "loaded")
                status = self.processes.run(unit, [script], None)
                print("%s ended with status %s" % (script, status), flush=True)

    def supervise(self):
        for work in (self.boot, lambda: self.accept(self.server), self.look):
            threading.Thread(target=work, daemon=True).start()
        while True:
            try:
                pid, status = os.waitpid(-1, 0)
            except ChildProcessError:
                time.sleep(0.02)
                continue
            self.processes.reap(pid, status)

    def look(self):
        while True:
            if self.manager.paths():
                self.manager.poll()
            time.sleep(0.1)
