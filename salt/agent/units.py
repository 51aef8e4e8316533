"""The guard on this host: its source, its units, whether it is alive."""

import fcntl
import json
import os

import common
import domains
import machine
from common import Failure
from steps import reach

FOLDER = "/etc/systemd/system/"
WANTS = FOLDER + "multi-user.target.wants/"
SERVICE, PATH = "guidomain-guard.service", "guidomain-guard.path"
GUARD = "/usr/bin/python3 -I %s/guard.py " % common.GUARD
SOURCES = (
    "common",
    "domains",
    "grub",
    "guard",
    "journal",
    "keys",
    "ledger",
    "lock",
    "machine",
    "menu",
    "packages",
    "policy_lines",
    "qubes_admin",
    "runner",
    "secret",
    "steps",
    "trial",
    "units",
    "verify",
    "volumes",
    "xen_domains",
    "xen_host",
    "xl_config",
)
# On Qubes a GUI domain that takes a card is ordered after it (its own drop-in): whether it may start in
# this boot is decided here. Nothing else waits for it, dom0's greeter least of all.
QUBES = ("After=qubesd.service\nWants=qubesd.service", "")
# On plain Xen all domains that start by themselves wait for it (Debian; Xen's own units). What xl and
# the device model of a domain leave behind that the guard has started must not end with the guard.
XEN = (
    "After=xen.service xenstored.service xenconsoled.service\nBefore=xendomains.service",
    "KillMode=process\n",
)
UNITS = {
    SERVICE: """\
[Unit]
Description=Undoes changes of guidomain that nobody confirmed
{order}
StartLimitIntervalSec=0

[Service]
Type=simple
ExecStartPre={guard}boot
ExecStart={guard}watch
{kill}Restart=on-failure
RestartSec=5
TimeoutStartSec=15min

[Install]
WantedBy=multi-user.target
""",
    # A kernel update writes grub.cfg: the rescue entry then follows.
    PATH: """\
[Unit]
Description=Keeps the rescue entry of guidomain up to date

[Path]
PathChanged={config}
Unit={service}

[Install]
WantedBy=multi-user.target
""",
}
ALIVE_WITHIN = 20  # seconds


def text(unit):
    order, kill = QUBES if domains.is_qubes() else XEN
    return UNITS[unit].format(
        order=order, kill=kill, guard=GUARD, config=common.grub("grub.cfg"), service=SERVICE
    )


def files():
    """Every path outside STATE that may be made."""
    return [FOLDER + name for name in UNITS] + [WANTS + name for name in UNITS]


def install(bundle):
    """Puts the guard's source and unit there. Returns whether anything was not so already."""
    sources = json.loads(bundle)
    changed = False
    os.makedirs(common.path(common.GUARD), mode=0o700, exist_ok=True)
    for name in SOURCES:
        changed |= _put("%s/%s.py" % (common.GUARD, name), sources[name], 0o600)
    return _place(SERVICE) or changed


def _put(name, text, mode):
    if common.read_text(name, 4 << 20) == text:
        return False
    os.makedirs(os.path.dirname(common.path(name)), exist_ok=True)
    common.write_file(name, text, mode)
    return True


def _place(unit):
    changed = _put(FOLDER + unit, text(unit), 0o644)
    link = common.path(WANTS + unit)
    if not os.path.islink(link):
        os.makedirs(os.path.dirname(link), exist_ok=True)
        os.symlink("../" + unit, link)
        common.sync_directory(WANTS)
        changed = True
    return changed


def follow(kept):
    """The path unit is there exactly while a confirmed mode is watched."""
    if kept and common.read_text(FOLDER + SERVICE) is not None:
        if _place(PATH):
            machine.here.systemctl("daemon-reload")
            machine.here.systemctl("start", "--no-block", PATH)
    elif not kept and common.read_text(FOLDER + PATH) is not None:
        machine.here.systemctl("stop", "--no-block", PATH)
        _remove(PATH)


def _remove(unit):
    for name in (WANTS + unit, FOLDER + unit):
        if os.path.isdir(os.path.dirname(common.path(name))):
            common.remove_file(name)


def remove():
    """What `install` and `follow` made, but the folder of the source. A guard that runs ends by
    itself: there is nothing to watch any more."""
    if common.read_text(FOLDER + SERVICE) is None:
        return
    for unit in UNITS:
        _remove(unit)
    machine.here.systemctl("daemon-reload")


def arm(bundle):
    """A guard that runs from now on, also after a power loss. Failure no-guard where there is
    none."""
    changed = install(bundle)
    reach("guard.files")
    if changed:
        machine.here.systemctl("daemon-reload")
    # A guard of an older version is replaced; one that runs goes on.
    verb = "restart" if changed else "start"
    code = machine.here.systemctl(verb, SERVICE)
    waited, asked = 0.0, 1.0
    while not alive():
        if code == 0 and waited > asked:
            # One that was just ending still counted as running: systemd had nothing to start.
            code, asked = machine.here.systemctl("start", SERVICE), waited + 1.0
        if code != 0 or waited > ALIVE_WITHIN:
            raise Failure(
                "no-guard",
                "the guard that would undo this change does not run (systemctl %s %s ended with %d): "
                "nothing was changed" % (verb, SERVICE, code),
            )
        machine.here.sleep(0.05)
        waited += 0.05
    reach("guard.armed")


def live():
    """For the guard: holds, as long as this process is there, what `alive` looks at."""
    fd = os.open(common.path(common.GUARD), os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def holds(fd):
    """Whether that is still what `alive` looks at; also where there is nothing to look at any more."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(common.path(common.GUARD)))
    except FileNotFoundError:
        return True


def alive():
    try:
        fd = os.open(common.path(common.GUARD), os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
