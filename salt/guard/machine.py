"""What the agent and the guard need of the machine itself, in one place that a simulated machine can
take over: `machine.here`."""

import os
import signal
import subprocess
import threading
import time

import common

WATCHDOG = "xenwatchdogd.service"
# Debian ships the program without a unit. This one is transient: it needs no file, and is gone with
# the boot. Its arguments and its way to stop are those of Xen's own unit: by SIGUSR1 it disarms, by
# any other signal the machine is reset 300 s later (xenwatchdogd.c).
PROGRAM, OWN = "/usr/sbin/xenwatchdogd", "guidomain-watchdog.service"
# Seconds until the reset, and between two signs of life. A dom0 that is only busy stands still for half a
# minute at times (seen in an emulated one, which a watchdog of 30 s had reset); a reset is for a hang.
PATIENCE = ("180", "15")
TRANSIENT = ("--quiet", "--unit=" + OWN, "--property=Type=forking", "--property=KillSignal=SIGUSR1")


def watchdog_unit():
    """What arms Xen's watchdog on this host; None where there is nothing that would."""
    if common.unit_exists(WATCHDOG):
        return WATCHDOG
    return OWN if os.path.exists(common.path(PROGRAM)) else None


class Machine:
    def boottime(self):
        """Seconds since the boot, sleep included; no change of the wall clock moves it."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def now(self):
        """The wall clock: for what a person reads, never for a decision."""
        return time.time()

    def boot_id(self):
        return (common.read_text("/proc/sys/kernel/random/boot_id") or "").strip()

    def cmdline(self):
        return common.read_text("/proc/cmdline") or ""

    def sleep(self, seconds):
        time.sleep(seconds)

    def systemctl(self, *words):
        """Exit status; 127 where it cannot be run, 124 where it does not end."""
        return self._call("systemctl", *words)

    @staticmethod
    def _call(*argv):
        try:
            return subprocess.call(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=60,
            )
        except OSError:
            return 127
        except subprocess.TimeoutExpired:
            return 124

    def watchdog(self):
        """Arms Xen's watchdog for dom0, which turns a hang into a reset. True: armed, and it was
        not before; False: it was, or it cannot be; None: there is none."""
        unit = watchdog_unit()
        if unit is None:
            return None
        if self.systemctl("is-active", "--quiet", unit) == 0:
            return False
        if unit == OWN:
            return self._call("systemd-run", *TRANSIENT, PROGRAM, *PATIENCE) == 0
        return self.systemctl("start", unit) == 0

    def is_watched(self):
        """For evidence: True, False, or None where there is no watchdog."""
        unit = watchdog_unit()
        return None if unit is None else self.systemctl("is-active", "--quiet", unit) == 0

    def unwatch(self):
        self.systemctl("stop", watchdog_unit() or WATCHDOG)

    def reboot(self):
        """Returns only where the machine is still here after both ways."""
        self.systemctl("reboot")
        self.sleep(60)
        # By force nothing is written any more; a disk that hangs must not stop it either.
        writing = threading.Thread(target=os.sync, daemon=True)
        writing.start()
        writing.join(30)
        self.systemctl("reboot", "--force", "--force")
        self.sleep(60)

    def kill(self, pid):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def checks(self, checks, seconds):
        """Runs checks for at most `seconds` each; their evidence, or Failure verify-failed."""
        import runner
        import verify

        capped = [dict(c, timeout=max(1, min(c["timeout"], seconds))) for c in checks]
        return verify.verify(capped, runner.run, lambda *_: None, common.Stop())


here = Machine()
