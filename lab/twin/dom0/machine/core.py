"""The machine as a whole: off, booting, running, hung, off again. See TWIN below for how it is used.

    machine = Machine(root, world, Clock())
    boot = machine.power_on()
    if boot.status == "running": machine.units.boot()

What runs on the host in this process (agent, guard, qubesd's model) reaches the machine by `machine.request(…)`: when the
host goes down under it, Down is raised there. Nothing is a thread, and no time passes but the clock's.
"""
import json
import os

import policy
import xen
from qubesd.errors import QubesException, Refused
from qubesd.model import Host, System
from qubesd.world import Fixed

from . import boot as booting
from . import disk, faults, hardware, screen, units

WATCHDOG = "xenwatchdogd.service"
WATCHDOG_SECONDS = 30.0  # without a sign from dom0, Xen's default for xenwatchdogd's domain watchdog
STATE = "/var/lib/qubes/qubes.json"


class Down(BaseException):
    """The host goes down (what: reboot, poweroff, hang, reset, power) or only its line (cut-line). No `except Exception` of
    the code that runs on it may hold that up.
    """

    def __init__(self, what, why):
        super().__init__("%s: %s" % (what, why))
        self.what, self.why = what, why


class Clock:
    """Virtual time. `boottime` goes on over reboots, as what measures a machine from outside does; `wall` can jump."""

    def __init__(self, boottime=1000.0, wall=1790000000.0):
        self._boottime, self._offset = boottime, wall - boottime

    def boottime(self):
        return self._boottime

    def wall(self):
        return self._boottime + self._offset

    def advance(self, seconds):
        self._boottime += max(0.0, seconds)

    def jump(self, seconds):
        self._offset += seconds


class _Host(Host):
    def __init__(self, machine):
        self.machine = machine
        self.storage = self.images = machine.root + "/var/lib/qubes" if machine.owns_volumes else None

    def driver(self, sbdf):
        return self.machine.drivers().get(sbdf)

    def detach(self, sbdf):
        self.machine.bind(sbdf, hardware.PCIBACK)

    def hang(self, why):
        self.machine.request("hang", why)

    def input_target(self):
        return hardware.sender(self.machine.root)

    def receives_input(self):
        return hardware.receives_input(self.machine.root)

    def allowed(self, source, service, argument, target, qubes):
        folders = [self.machine.root + each for each in (policy.RUNTIME_POLICY, policy.POLICY)]
        folders = tuple(each for each in folders if os.path.isdir(each))
        return policy.goes_to(source, service, argument, target, qubes, folders)

    def log(self, line):
        folder = self.machine.root + "/var/log/libvirt/libxl"
        os.makedirs(folder, exist_ok=True)
        with open(folder + "/libxl-driver.log", "a") as file:
            file.write(line + "\n")


class Machine:
    """`root`: dom0's disk. `world`: a dict (disk.world), read at each look. `sys`: where the tree of /sys is written, `proc`
    where cmdline, boot id and input devices are (both below root unless given). `execute`: see units.Manager.
    """

    owns_volumes = True  # its dom0 runs in this very process

    def __init__(self, root, world, clock=None, sys=None, proc=None, execute=None):
        self.root, self.world, self.clock = root, world, clock or Clock()
        self.sys, self.proc = sys or root + "/sys", proc or root + "/proc"
        self.execute = execute
        self.state, self.why, self.boot = "off", "not switched on yet", None
        self.log = []
        self.triggers = faults.Triggers(world)
        self._due = None  # boottime at which the watchdog bites
        self._units = self._system = None

    def note(self, what, why=""):
        self.log.append({"at": self.clock.boottime(), "wall": self.clock.wall(), "what": what, "why": why})

    # --- power

    def power_on(self, why="power button"):
        """A boot, up to where units start; they are the caller's to start (`units.boot()`)."""
        if self.world.get("nextMachine"):  # a firmware update, or a card in another slot
            self.world["machine"] = self.world.pop("nextMachine")
        disk.prepare(self.root, self.world)
        self._units = self._system = self._due = None
        self.boot = booting.start(self.root, self.world, self.clock.boottime())
        self.clock.advance(self.world.get("bootSeconds", 0))
        self.state = "running" if self.boot.status == "running" else "stopped"
        self.why = self.boot.why
        self.note("power on", why)
        if self.state == "stopped":
            self.note("stopped", self.why)
        else:
            self.write_files()
        return self.boot

    def write_files(self):
        """What the kernel shows below /sys and /proc."""
        for path, text in (
            ("cmdline", self.boot.cmdline),
            ("sys/kernel/random/boot_id", self.boot.id),
            ("sys/kernel/osrelease", self.boot.kernel),
        ):
            hardware.write(os.path.join(self.proc, path), text + "\n")
        os.makedirs(os.path.join(self.proc, "bus"), exist_ok=True)
        under_xen = bool(self.boot.xen) or not xen.on(self.world)
        hardware.kernel_shows(self.world, self.boot.drivers, self.sys, self.proc, under_xen, self.boot.loaded)

    def type_passphrase(self):
        """Somebody comes and types it. True if the boot goes on."""
        if self.state != "stopped" or self.boot.status != "waiting":
            return False
        booting.prompt(self.boot, dict(self.world, person=True), hardware.Hardware(self.world))
        if self.boot.status == "running":
            self.state, self.why = "running", ""
            self.note("passphrase")
            self.write_files()
        return self.state == "running"

    def hang(self, why):
        if self.state != "running":
            return
        self.state, self.why = "hung", why
        self.note("hang", why)
        self._due = self.clock.boottime() + self.watchdog_seconds() if self.watchdog() else None

    def sleep(self, why):
        """It suspends; true where it will wake, else it is as one that hangs until somebody takes the power away."""
        self.note("suspend", why)
        if (self.world.get("faults") or {}).get("noWake"):
            self.hang("it does not wake from its sleep")
            self._due = None  # the watchdog sleeps too
            return False
        return True

    def watchdog_seconds(self):
        return float(self.world.get("watchdogSeconds", WATCHDOG_SECONDS))

    def reset(self, why):
        self.note("reset", why)
        return self.power_on(why)

    def lose_power(self, why):
        self.state, self.why, self._due = "off", why, None
        self.note("power off", why)

    def power_cycle(self):
        self.lose_power("power cycle by hand")
        return self.power_on("power cycle by hand")

    def due(self):
        """boottime at which it resets by itself; None where nothing is going to happen."""
        return self._due if self.state == "hung" else None

    def tick(self):
        """Does what is due by now; true if that was a reset."""
        if self.due() is None or self.clock.boottime() < self._due:
            return False
        self.note("watchdog", "no sign from dom0 for %g s" % self.watchdog_seconds())
        self.reset("watchdog")
        return True

    def request(self, what, why=""):
        """What happens to the host under the code that runs on it. Raises Down; a reboot is then the caller's to do."""
        if what == "hang":
            self.hang(why)
        elif what == "power":
            self.lose_power(why)
        elif what == "poweroff":
            self.lose_power(why or "poweroff")
        else:
            self.note(what, why)
        raise Down(what, why)

    # --- what runs

    def watchdog(self):
        return self.active(WATCHDOG)

    def active(self, unit):
        return self.units.is_active(unit) == "active"

    @property
    def units(self):
        if self._units is None:
            absent = () if self.world.get("watchdog", True) else (WATCHDOG,)
            self._units = units.Manager(self.root, self.boot.cmdline, self.execute, self._autostart, absent=absent)
        return self._units

    @property
    def system(self):
        if self._system is None:
            with open(self.root + STATE) as file:
                stored = json.load(file)
            self._system = System(
                stored, Fixed(self.world), self.boot.id, now=self.clock.boottime, autostart=self._link, host=_Host(self)
            )
            self._system.stop_storage()
        return self._system

    def store(self):
        """qubesd's state onto the disk, in one step."""
        hardware.write(self.root + STATE + ".new", json.dumps(self.system.stored()))
        os.rename(self.root + STATE + ".new", self.root + STATE)

    def call(self, method, arg, dest, payload=b""):
        """One Admin API call: the reply's text, or an exception of qubesd.errors. What it changed is stored."""
        from qubesd import api  # it registers every method, which a boot alone does not need

        what = "%s%s %s" % (method, "+" + arg if arg else "", dest)
        self.trigger("call", what, "before")
        text, writes = api.execute(self.system, method, arg, dest, payload)
        if writes:
            self.store()
        self.trigger("call", what, "after")
        return text

    def trigger(self, kind, what, when="before"):
        """Faults that wait for this; raises Down where one bites."""
        found = self.triggers.fires(kind, what, when)
        if found:
            self.request(found["do"], "fault at %s" % found["at"])

    def _autostart(self, name):
        try:
            self.system.start(self.system.qube(name))
        except (QubesException, Refused) as error:
            raise RuntimeError(str(error))
        finally:
            if self.state == "running":
                self.store()

    def _link(self, name, on):
        link_autostart(self.root, name, on)

    # --- looks

    def drivers(self):
        return hardware.bound(self.sys)

    def bind(self, sbdf, driver):
        hardware.rebind(self.world, sbdf, driver, self.sys, self.proc)

    def screen(self):
        if self.state == "off":
            return screen.nothing("the machine is off: " + self.why)
        if self.state == "hung":
            return screen.nothing("the machine stands still: " + self.why)
        if self.state == "stopped":
            return screen.nothing("the boot stopped: " + self.why)
        return screen.screen(self.world, self.drivers(), self.active("lightdm.service"), screen.guest_view(self.system), self.system.passed_to("dom0"))


def link_autostart(root, name, on):
    """The link that has systemd start a qube at boot (seen on real core-admin 4.3.50; vm/qubesvm.py)."""
    link = "%s/etc/systemd/system/multi-user.target.wants/qubes-vm@%s.service" % (root, name)
    if not on and os.path.lexists(link):
        os.unlink(link)
    if on and not os.path.lexists(link):
        os.makedirs(os.path.dirname(link), exist_ok=True)
        os.symlink("/usr/lib/systemd/system/qubes-vm@.service", link)
