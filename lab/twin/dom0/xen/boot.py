"""Debian's boot after GRUB: the initramfs finds the root file system and gives functions to drivers, then the host's udev does.

Which driver gets a function is decided by who is loaded first:
1. the initramfs: udev's coldplug (scripts/init-top/udev) loads drivers by alias, before the list in conf/modules (scripts: init,
   load_modules); `softdep DRIVER pre: xen-pciback` makes pciback come before that driver (lab/xen/README.md, "Traps");
2. the list, in its order;
3. the host: what udev knows by alias, then /etc/modules and /etc/modules-load.d (their order there is anybody's guess).
pciback takes, when it comes, what xen-pciback.hide names (the last one of several: lib/params of Linux) and nobody holds. It is there
under Xen only (drivers/xen/xen-pciback/pci_stub.c, pcistub_init: ENODEV unless xen_initial_domain()).
"""
import os
import re

from machine import hardware

from . import initramfs

HIDE = "xen-pciback.hide"


def getarg(cmdline, name):
    found = None
    for word in cmdline.split():
        key, equals, value = word.partition("=")
        if equals and key.replace("_", "-") == name.replace("_", "-"):
            found = value
    return found


def hidden(cmdline):
    """[sbdf] of what the last xen-pciback.hide= names; (B:D.F) is in segment 0 (pci_stub.c, str_to_slot)."""
    found = re.findall(r"\((?:([0-9a-f]{1,4}):)?([0-9a-f]{1,2}):([0-9a-f]{1,2})\.([0-7])\)", getarg(cmdline, HIDE) or "", re.I)
    return ["%04x:%02x:%02x.%s" % (int(segment or "0", 16), int(bus, 16), int(slot, 16), function) for segment, bus, slot, function in found]


class Drivers:
    """Who holds what while it boots. `bound`: {sbdf: driver or None}."""

    def __init__(self, machine, cmdline, under_xen):
        self.machine, self.under_xen, self.hide = machine, under_xen, hidden(cmdline)
        self.bound = {each.sbdf: None for each in machine.functions}
        self.loaded, self.barred = [], set()
        for name in ("module_blacklist", "rd.driver.blacklist", "modprobe.blacklist"):
            self.barred.update((getarg(cmdline, name) or "").replace("-", "_").split(","))
        self.nomodeset = "nomodeset" in cmdline.split()

    def load(self, module, softdeps):
        if module in self.loaded:
            return
        for before in softdeps.get(module, []):
            self.load(before, softdeps)
        if module == initramfs.PCIBACK and not self.under_xen:
            return
        self.loaded.append(module)
        if module == initramfs.PCIBACK:
            for sbdf in self.hide:
                if sbdf in self.bound and self.bound[sbdf] is None:
                    self.bound[sbdf] = hardware.PCIBACK
            return
        for each in self.machine.functions:
            if each.module and initramfs.module_of(each.module) == module and self.bound[each.sbdf] is None:
                if not (self.nomodeset and each.is_display()):
                    self.bound[each.sbdf] = each.module

    def coldplug(self, known, softdeps, blacklist):
        """udev over every function, in the order of their addresses; `known`: modules that are there, None for all."""
        for each in sorted(self.machine.functions, key=lambda function: function.sbdf):
            module = initramfs.module_of(each.module) if each.module else None
            if module and module not in self.barred | blacklist and (known is None or module in known):
                self.load(module, softdeps)


def start(root, world, boot):
    """Goes on with a Boot (machine/boot.py) whose entry is chosen, up to the first unit."""
    machine = hardware.Hardware(world)
    try:
        archive = initramfs.read(root, boot.kernel)
    except (OSError, ValueError):
        return boot.stop("initramfs", "the kernel panics: no initramfs in /boot/initrd.img-%s, no root file system" % boot.kernel)
    drivers = Drivers(machine, boot.cmdline, bool(boot.xen))
    drivers.coldplug(archive.modules, archive.softdeps, archive.blacklist)
    for module in archive.order:
        if module in archive.modules:
            drivers.load(module, archive.softdeps)
    wanted = getarg(boot.cmdline, "root") or ""
    controller = machine.disk_controller()
    if not has_root(machine, wanted) or (controller and drivers.bound[controller] in (None, hardware.PCIBACK)):
        # scripts/local, local_device_setup: it waits for rootdelay seconds first.
        return boot.stop("initramfs", "ALERT!  %s does not exist.  Dropping to a shell!" % (wanted or "(none)"))
    softdeps, blacklist = initramfs.modprobe(modprobe_files(root))
    drivers.coldplug(None, softdeps, blacklist)
    for module in modules_load(root):
        drivers.load(module, softdeps)
    boot.drivers, boot.loaded = drivers.bound, drivers.loaded
    return boot


def has_root(machine, wanted):
    row = next(row for row in machine.blocks() if row["mount"] == "/")
    return wanted in ("UUID=" + row["uuid"], hardware.device_path(row), "/dev/disk/by-uuid/" + row["uuid"])


def modprobe_files(root):
    found = {}
    for folder in ("/usr/lib/modprobe.d", "/etc/modprobe.d"):
        names = os.listdir(root + folder) if os.path.isdir(root + folder) else []
        found.update({name: root + folder + "/" + name for name in names if name.endswith(".conf")})
    return ["\n".join(initramfs.lines(found[name])) for name in sorted(found)]


def modules_load(root):
    """modules-load.d(5) and /etc/modules."""
    folder = root + "/etc/modules-load.d"
    paths = [os.path.join(folder, name) for name in sorted(os.listdir(folder) if os.path.isdir(folder) else []) if name.endswith(".conf")]
    return [line.split()[0].replace("-", "_") for path in paths + [root + "/etc/modules"] for line in initramfs.lines(path)]
