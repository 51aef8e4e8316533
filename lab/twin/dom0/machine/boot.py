"""From the power button to the first unit: GRUB, the hypervisor, the initramfs, the passphrase prompt.

The initramfs' rules are those of 90qubes-pciback in qubes-core-admin-linux 4.3: network functions are always hidden, USB with
rd.qubes.hide_all_usb; of several rd.qubes.hide_pci the last counts; a word that leads nowhere stops the boot.
"""
import re
import uuid

import xen
import xen.boot

from . import grub, hardware

# File systems that GRUB writes a grubenv on, and only where they lie on a partition (qubes-host.md (c), design §5).
WRITABLE = ("ext2", "ext3", "ext4", "vfat", "xfs")


def grub_can_write(world):
    disk = world.get("bootDisk") or {"fs": "ext4", "on": "partition"}
    return disk["on"] == "partition" and disk["fs"] in WRITABLE


def getarg(cmdline, name):
    """The last value of name=… (dracut's getarg); "" where it stands without a value, None where it does not stand."""
    found = None
    for word in cmdline.split():
        key, equals, value = word.partition("=")
        if key == name:
            found = value if equals else ""
    return found


def getargbool(cmdline, default, name):
    value = getarg(cmdline, name)
    if value is None:
        return default
    return value not in ("0", "no", "off")


class Boot:
    """One boot. status: "running" (units come next), "waiting" (for a passphrase) or "stopped"; `why` in one sentence.

    id: boot id; entry, title: of GRUB's menu; xen, cmdline: the lines; drivers: {sbdf: driver or None} as the initramfs and udev
    leave them; loaded: modules of a plain Xen host; at: CLOCK_BOOTTIME of its start; stage: "grub", "initramfs", "prompt", "system"; cleared: see grub.Choice.
    """

    FIELDS = "id status stage why entry title xen cmdline kernel drivers loaded at cleared oneShot warnings".split()

    def __init__(self, at):
        self.id, self.at = str(uuid.uuid4()), at
        self.status, self.stage, self.why = "stopped", "grub", ""
        self.entry = self.title = self.xen = self.kernel = self.cleared = None
        self.cmdline, self.drivers, self.oneShot, self.warnings, self.loaded = "", {}, False, [], []

    def stop(self, stage, why):
        self.status, self.stage, self.why = "stopped", stage, why
        return self

    def to_json(self):
        return {name: getattr(self, name) for name in self.FIELDS}


def start(root, world, at=0.0):
    """A Boot, up to where the first unit would start or where it ends."""
    boot = Boot(at)
    choice = grub.next_boot(root, grub_can_write(world), world.get("typed"))
    boot.entry, boot.title, boot.xen, boot.cmdline = choice.id, choice.title, choice.xen, choice.cmdline
    boot.cleared, boot.oneShot, boot.warnings = choice.cleared, choice.oneShot, choice.warnings
    if not choice.ok:
        return boot.stop("grub", choice.why)
    boot.kernel = choice.kernel.split(" ")[0].rsplit("/vmlinuz-", 1)[-1]
    if not choice.initrd:
        return boot.stop("grub", "the kernel panics: no initramfs, no root file system")
    if xen.on(world):
        found = xen.boot.start(root, world, boot)
        return found if found.why else prompt(found, world, hardware.Hardware(world))
    return initramfs(boot, world, hardware.Hardware(world))


def initramfs(boot, world, machine):
    if world["machine"].get("standIn"):  # recorded on a host whose kernel was played: nothing was hidden, nothing hung
        boot.drivers = {each.sbdf: each.raw.get("driver") for each in machine.functions}
        boot.status, boot.stage = "running", "system"
        return boot
    if not boot.xen:
        return boot.stop("initramfs", "plain Linux without Xen: no qubes, no way in")
    hidden, why = hidden_functions(boot.cmdline, machine)
    if why:
        return boot.stop("initramfs", "dracut: FATAL: %s; refusing to continue" % why)
    boot.drivers = {
        each.sbdf: hardware.PCIBACK if each.sbdf in hidden else driver_of(each, boot.cmdline) for each in machine.functions
    }
    controller = machine.disk_controller()
    if controller in hidden:
        return boot.stop("initramfs", "dracut: the root device is behind %s, which is hidden: no root file system" % controller)
    return prompt(boot, world, machine)


def hidden_functions(cmdline, machine):
    """(sbdf of what pciback holds, None), or (None, what the initramfs dies of)."""
    classes = ("02", "0c03") if getargbool(cmdline, False, "rd.qubes.hide_all_usb") else ("02",)
    hidden = {each.sbdf for each in machine.functions if each.interface[1:].startswith(classes)}
    given = getarg(cmdline, "rd.qubes.hide_pci") or ""
    words = [word for word in given.split(",") if word]
    if not re.match(r"\A[0-9a-f_.:,-]*\Z", given):
        return None, "Bogus PCI device list - fix your kernel command line!"
    for word in words:
        sbdf, _ = machine.resolve(word)
        if sbdf is None:
            return None, "Cannot find device '%s' to hide" % word
        if sbdf not in machine.by_sbdf:
            return None, "Cannot unbind PCI devices."
        hidden.add(sbdf)
    return hidden, None


def driver_of(function, cmdline):
    """What udev binds it to: the module of its modalias, unless the kernel line keeps that away."""
    blocked = set()
    for name in ("module_blacklist", "rd.driver.blacklist", "modprobe.blacklist"):
        blocked.update((getarg(cmdline, name) or "").split(","))
    module = function.module
    if module in blocked:
        return None
    if function.is_display() and "nomodeset" in cmdline.split():
        return None
    return module



def prompt(boot, world, machine):
    """The disk's passphrase: it takes a keyboard that dom0 has, and somebody who types."""
    if not world.get("passphrase"):
        boot.status, boot.stage = "running", "system"
        return boot
    reaching = [each for each in machine.in_dom0(boot.drivers) if each["kind"] == "keyboard"]
    if not reaching:
        return boot.stop("prompt", "it asks for the disk's passphrase, and no keyboard reaches it")
    if not world.get("person", True):
        boot.status, boot.stage, boot.why = "waiting", "prompt", "it asks for the disk's passphrase, and nobody is there"
        return boot
    boot.status, boot.stage, boot.why = "running", "system", ""
    return boot
