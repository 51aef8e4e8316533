"""Facts of the machine (Facts of src/host/protocol.ts), by the sources of qubes-host.md (a). Writes
nothing."""

import os
import re
import subprocess
import time

import boot
import common
import domains
import pci

ASKED = {
    "info": ["xl", "info"],
    "dmesg": ["xl", "dmesg"],
}
FINDMNT = ["findmnt", "-n", "-o", "FSTYPE,SOURCE", "--target"]
LIGHTDM = "lightdm.service"
GROUPS = "/sys/fs/cgroup/system.slice"  # a folder for each service that has processes


class Commands:
    """What only a command can tell, under way while the rest is read."""

    def __init__(self):
        self.running = {}
        for what, argv in dict(ASKED, findmnt=FINDMNT + [common.grub()]).items():
            self.start(what, argv)
        if not os.path.isdir(common.path(GROUPS)):
            self.start("lightdm", ["systemctl", "is-active", LIGHTDM])

    def start(self, what, argv):
        try:
            self.running[what] = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=dict(os.environ, LC_ALL="C"),
            )
        except OSError:
            pass  # no Xen here, or no such tool

    def text(self, what):
        """What it printed; "" where it could not be run."""
        process = self.running.get(what)
        if process is None:
            return ""
        try:
            return process.communicate(timeout=10)[0].decode("utf-8", "replace")
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return ""


def collect(commands, available):
    """`available`: what admin.vm.device.pci.Available lists; it alone knows how ports are
    called."""
    platform, release = domains.platform(), domains.release()
    space = os.statvfs(common.path("/var/lib"))
    inputs = pci.read_inputs()
    functions = pci.functions(available, inputs)
    return {
        "platform": platform,
        "release": release,
        "qubesRelease": release if platform == "qubes" else None,
        "kernel": os.uname().release,
        "bootId": (common.read_text("/proc/sys/kernel/random/boot_id") or "").strip(),
        "cmdline": common.clean(common.read_text("/proc/cmdline") or ""),
        "now": time.time(),
        "freeBytes": space.f_bavail * space.f_frsize,
        "xen": xen(commands.text("info"), commands.text("dmesg")),
        "pci": functions,
        "boot": boot.collect(commands.text("findmnt"), functions),
        "firmware": {
            "vendor": _dmi("sys_vendor"),
            "product": _dmi("product_name"),
            "bios": _dmi("bios_version"),
        },
        "cpu": _cpu(common.read_text("/proc/cpuinfo", 4096)),
        "keyboards": pci.keyboards(inputs),
        "lightdm": _lightdm(commands.text("lightdm")),
        "batteries": batteries(),
        "backlights": _class("backlight"),
    }


def _class(name):
    """What the kernel shows of a kind; None where it does not know that kind."""
    try:
        return sorted(common.clean(one, 64) for one in os.listdir(common.path("/sys/class/" + name)))
    except OSError:
        return None


def batteries():
    """Those of the machine itself; a mouse has one too (sysfs-class-power: scope)."""
    found = _class("power_supply")
    return found and [
        name
        for name in found
        if (common.read_text("/sys/class/power_supply/%s/type" % name, 64) or "").strip() == "Battery"
        and (common.read_text("/sys/class/power_supply/%s/scope" % name, 64) or "").strip() != "Device"
    ]


def _dmi(name):
    text = common.clean(common.read_text("/sys/class/dmi/id/" + name, 256) or "", 100)
    return text or None


def _cpu(text):
    found = re.search(r"^vendor_id\s*: (\w+)", text or "", re.MULTILINE)
    return found and found.group(1)


def _lightdm(answer):
    """Whether dom0's display manager runs; `answer`: what systemctl says where it had to be
    asked."""
    if os.path.isdir(common.path(GROUPS)):
        return os.path.isdir(common.path(GROUPS + "/" + LIGHTDM))
    word = answer.strip()
    return word in ("active", "activating", "reloading") if word else None


def xen(info, dmesg):
    fields = dict(re.findall(r"^(\w+)\s*: ?(.*)$", info, re.MULTILINE))

    def number(name):
        return int(fields[name]) if fields.get(name, "").isdigit() else 0

    def enabled(what):
        found = re.findall(
            r"^\(XEN\) (?:\[[^]]*\] )?%s (enabled|disabled)" % what, dmesg, re.MULTILINE
        )
        return found[-1] == "enabled" if found else None

    return {
        "version": fields.get("xen_version", ""),
        "virtCaps": fields.get("virt_caps", "").split(),
        "totalMemory": number("total_memory"),
        "freeMemory": number("free_memory"),
        "iommu": enabled("I/O virtualisation"),
        "interruptRemapping": enabled("Interrupt remapping"),
    }
