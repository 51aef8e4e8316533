"""Facts of the machine (Facts of src/host/protocol.ts), by the sources of qubes-host.md (a). Writes
nothing."""

import os
import re
import subprocess
import time

import common

PCI = "/sys/bus/pci/devices"


class Commands:
    """`xl info` and `xl dmesg`, under way while the rest is read."""

    def __init__(self):
        self.running = {}
        for what in ("info", "dmesg"):
            try:
                self.running[what] = subprocess.Popen(
                    ["xl", what],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env=dict(os.environ, LC_ALL="C"),
                )
            except OSError:
                pass  # no Xen here, or no xl

    def text(self, what):
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
    release = common.read_text(common.RELEASE)
    space = os.statvfs(common.path("/var/lib"))
    return {
        "qubesRelease": None if release is None else common.clean(release.split("\n")[0], 200),
        "kernel": os.uname().release,
        "bootId": (common.read_text("/proc/sys/kernel/random/boot_id") or "").strip(),
        "cmdline": common.clean(common.read_text("/proc/cmdline") or ""),
        "now": time.time(),
        "freeBytes": space.f_bavail * space.f_frsize,
        "xen": xen(commands.text("info"), commands.text("dmesg")),
        "pci": pci(available),
    }


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


def pci(available):
    known = {device["sbdf"]: device for device in available}
    try:
        addresses = sorted(os.listdir(common.path(PCI)))
    except OSError:
        return []
    # Linux >= 5.15 shows reset_method only where there is one; before, it shows it nowhere and we
    # know nothing.
    tells = any(os.path.exists(common.path("%s/%s/reset_method" % (PCI, a))) for a in addresses)
    return [_function(address, known.get(address, {}), tells) for address in addresses]


def _function(address, known, tells):
    folder = "%s/%s/" % (PCI, address)

    def hexadecimal(name, digits):
        text = (common.read_text(folder + name, 64) or "").strip()
        return text[2:] if text.startswith("0x") else "0" * digits

    vendor, device = hexadecimal("subsystem_vendor", 4), hexadecimal("subsystem_device", 4)
    reset = common.read_text(folder + "reset_method", 256)
    try:
        driver = os.path.basename(os.readlink(common.path(folder + "driver")))
    except OSError:
        driver = None
    return {
        "sbdf": address,
        "port": known.get("port"),
        "class": hexadecimal("class", 6),
        "vendor": hexadecimal("vendor", 4),
        "device": hexadecimal("device", 4),
        "subsystem": None if vendor == device == "0000" else "%s:%s" % (vendor, device),
        "driver": driver,
        "reset": reset.split() if reset is not None else [] if tells else None,
        "name": common.clean(known["name"], 200) if known.get("name") else None,
    }
