"""dom0's systemd units as far as a set-up of GUI domains touches them.

Enabled is what it is on a real host, a link below /etc/systemd/system. Active is: enabled at boot, unless
/run/systemd/units/NAME says "active" or "inactive" since.
"""
import os

SYSTEM = "/etc/systemd/system"
STATE = "/run/systemd/units"

# unit → (description, link that enables it)
UNITS = {
    "lightdm.service": ("Light Display Manager", "display-manager.service"),
    "qubesd.service": ("Qubes OS daemon", "multi-user.target.wants/qubesd.service"),
    "qubes-qrexec-policy-daemon.service": (
        "Qubes remote exec policy daemon",
        "multi-user.target.wants/qubes-qrexec-policy-daemon.service",
    ),
    "libvirtd.service": ("Virtualization daemon", "multi-user.target.wants/libvirtd.service"),
    "xenconsoled.service": ("Xenconsoled", "multi-user.target.wants/xenconsoled.service"),
    "xenwatchdogd.service": ("Xen Watchdog daemon", "multi-user.target.wants/xenwatchdogd.service"),
    "systemd-journald.service": ("Journal Service", None),
}


def unit(name):
    """The full name, None when there is no such unit."""
    full = name if "." in name else name + ".service"
    return full if full in UNITS else None


def is_enabled(name):
    link = UNITS[name][1]
    return link is None or os.path.lexists(os.path.join(SYSTEM, link))


def is_active(name):
    try:
        with open(os.path.join(STATE, name)) as file:
            return file.read() == "active"
    except FileNotFoundError:
        return is_enabled(name)


def set_active(name, active):
    os.makedirs(STATE, exist_ok=True)
    with open(os.path.join(STATE, name), "w") as file:
        file.write("active" if active else "inactive")


def set_enabled(name, enabled):
    """Returns what systemctl says about it."""
    set_active(name, is_active(name))  # enabling does not start, disabling does not stop
    link = UNITS[name][1]
    path = os.path.join(SYSTEM, link or name)
    target = "/usr/lib/systemd/system/" + name
    if link is None or enabled == is_enabled(name):
        return None
    if enabled:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.symlink(target, path)
        return "Created symlink '%s' → '%s'." % (path, target)
    os.unlink(path)
    return "Removed '%s'." % path
