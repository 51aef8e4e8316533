"""
What decides whether a boot of this machine can be tried once and come back by itself (BootFacts of
src/host/protocol.ts). Unknown is None. Writes nothing.
"""

import os
import re
import stat

import common
import domains
import grub
import machine
import menu

HIDES = "/usr/lib/dracut/modules.d/90qubes-pciback/qubes-pciback.sh"
# File systems that GRUB writes one block of without a journal or checksum getting in the way.
PLAIN = ("ext2", "ext3", "ext4", "vfat", "xfs")


def collect(findmnt, functions):
    """`findmnt`: "FSTYPE SOURCE" of the folder of grub.cfg; `functions`: what pci.py found."""
    config, cmdline = common.read_text(menu.config_file()), common.read_text("/proc/cmdline")
    one_shot, one_shot_why = _one_shot(config, findmnt)
    unattended, unattended_why = _unattended(cmdline, common.read_text("/etc/crypttab"))
    if domains.is_qubes():
        text = common.read_text(HIDES)
        hides, hide_why = None if text is None else "secondary_bus_number" in text, {}
    else:
        hides, why = _hides(functions)
        hide_why = {"hideWhy": why}
    return {
        **hide_why,
        "oneShot": one_shot,
        "oneShotWhy": one_shot_why,
        "unattended": unattended,
        "unattendedWhy": unattended_why,
        "hidePaths": hides,
        "args": grub.default_tokens(common.read_text(common.DEFAULT_GRUB) or ""),
        "watchdog": machine.watchdog_unit() is not None if config is not None else None,
        "rescue": grub.RESCUE in (grub.ours(common.read_text(menu.custom_file())) or ""),
    }


def _block(source):
    """The kernel's name of a device: "dm-0" of /dev/mapper/x, which udev makes a link, and device-mapper alone a node."""
    name = os.path.basename(os.path.realpath(common.path(source)))
    blocks = common.path("/sys/class/block")
    if os.path.isdir(blocks) and not os.path.exists(os.path.join(blocks, name)):
        for other in os.listdir(blocks):
            if (common.read_text("/sys/class/block/%s/dm/name" % other, 256) or "").strip() == name:
                return other
    return name


def _kinds(source):
    """What a device is made of down to the disk, as `lsblk -s` names it: {"part", "disk"}, {"lvm",
    …}. Empty where it cannot be told."""
    name = _block(source)
    folder = os.path.realpath(common.path("/sys/class/block/" + name))
    if not os.path.isdir(folder):
        return set()
    inside = folder[len(common.ROOT) :]
    if os.path.exists(folder + "/partition"):
        return {"part"} | _kinds("/dev/" + os.path.basename(os.path.dirname(folder)))
    slaves = os.listdir(folder + "/slaves") if os.path.isdir(folder + "/slaves") else []
    if not slaves:
        return {"disk"}
    uuid = common.read_text(inside + "/dm/uuid", 256)
    kind = "raid" if name.startswith("md") else (uuid or "").split("-")[0].lower() or "dm"
    return {kind}.union(*(_kinds("/dev/" + slave) for slave in slaves))


def _one_shot(config, findmnt):
    if config is None:
        return None, "%s cannot be read" % menu.config_file()
    if "custom.cfg" not in config:
        return False, "%s does not source custom.cfg" % menu.config_file()
    if "next_entry" not in config:
        return False, "%s knows no entry for one boot only (next_entry)" % menu.config_file()
    try:
        status = os.lstat(common.path(menu.env_file()))
        with open(common.path(menu.env_file()), "rb") as file:
            env = grub.read_env(file.read(4096))
    except FileNotFoundError:
        return False, "there is no %s" % menu.env_file()
    except (OSError, ValueError) as error:
        return False, "%s: %s" % (menu.env_file(), error)
    if not stat.S_ISREG(status.st_mode):
        return False, "%s is not a file of its own" % menu.env_file()
    entry = grub.default_entry(config, env)
    if entry is None:
        return False, "no entry with a kernel can be found in %s" % menu.config_file()
    if not domains.is_qubes():
        why = _without_us(config, entry)
        if why:
            return False, why
    words = (findmnt or "").split()
    if len(words) != 2:
        return None, "findmnt does not say where %s is" % common.grub()
    if words[0] not in PLAIN:
        return False, "%s is on %s, where GRUB cannot clear a choice" % (common.grub(), words[0])
    kinds = _kinds(re.sub(r"\[.*\]$", "", words[1]))
    if not kinds:
        return None, "sysfs does not say what %s is" % words[1]
    odd = sorted(kinds - {"part", "disk"})
    if odd:
        text = "%s is on a device made by %s, where GRUB cannot clear a choice"
        return False, text % (common.grub(), odd[-1])
    return True, "%s is %s on a plain partition" % (common.grub(), words[0])


def _without_us(config, entry):
    """Why what we write into GRUB_CMDLINE_LINUX would not reach a boot with Xen; None where it does.
    Debian's 20_linux_xen takes another variable instead, where that is set; its default may be Linux."""
    if not grub.is_xen(config, entry):
        return "the entry that boots by default (%s) is one without Xen" % entry["title"]
    folder = common.DEFAULT_GRUB + ".d"
    try:
        more = sorted(n for n in os.listdir(common.path(folder)) if n.endswith(".cfg"))
    except OSError:
        more = []
    for name in [common.DEFAULT_GRUB] + ["%s/%s" % (folder, n) for n in more]:
        text = common.read_text(name) or ""
        replaced = "GRUB_CMDLINE_LINUX_XEN_REPLACE"
        if re.search(r"^[ \t]*(?:export[ \t]+)?%s=(?!(\"\"|'')?[ \t]*(#|$))" % replaced, text, re.MULTILINE):
            return "%s sets %s, so that dom0's kernel does not get GRUB_CMDLINE_LINUX" % (name, replaced)
        own = re.search(r"^[ \t]*(?:export[ \t]+)?GRUB_CMDLINE_LINUX=(.*)$", text, re.MULTILINE)
        if own and name != common.DEFAULT_GRUB and "GRUB_CMDLINE_LINUX" not in own.group(1):
            return "%s sets GRUB_CMDLINE_LINUX anew" % name
    return None


# -- plain Xen: whether pciback is there before the driver of a display

MODPROBE = ("/etc/modprobe.d", "/run/modprobe.d", "/usr/lib/modprobe.d")
EARLY = ("/etc/initramfs-tools/modules", "/usr/share/initramfs-tools/modules.d")
BACK = "xen_pciback"


def _hides(functions):
    """(True, False or None, why). What pciback is to hide it takes where it is loaded before the driver
    that knows the device (xen-lab.md): by this boot, else by what the next one is told to load."""
    names = {fn["module"] or fn["driver"] for fn in functions if fn["class"].startswith("03")}
    modules = sorted(_plain(name) for name in names - {None, "pciback"})
    loaded = [line.split(" ")[0] for line in (common.read_text("/proc/modules") or "").splitlines()]
    loaded.reverse()  # the kernel shows the last one first
    first, early = _after_us(), _early()
    unknown = []
    for module in modules:
        if BACK in loaded and module in loaded:
            if loaded.index(module) < loaded.index(BACK):
                return False, "%s was loaded before xen-pciback in this boot" % module
        elif BACK not in loaded and module not in first:
            if BACK not in early or module in early[: early.index(BACK)]:
                unknown.append(module)
    if unknown:
        text = "nothing says that xen-pciback is loaded before %s: neither a softdep in /etc/modprobe.d nor "
        return None, text % ", ".join(unknown) + "the modules of the initramfs"
    told = ", ".join(modules)
    return True, "xen-pciback is loaded before %s" % told if told else "no driver has a display"


def _plain(module):
    return module.replace("-", "_")


def _lines(places):
    """Of files, and of all files of folders, what is no comment."""
    for place in places:
        try:
            names = sorted(os.listdir(common.path(place)))
            files = [place + "/" + name for name in names]
        except NotADirectoryError:
            files = [place]
        except OSError:
            continue
        for name in files:
            for line in (common.read_text(name) or "").splitlines():
                if line.strip() and not line.lstrip().startswith("#"):
                    yield line.split()


def _after_us():
    """Modules before which modprobe loads pciback (modprobe.d(5), softdep)."""
    found = set()
    for words in _lines(MODPROBE):
        if words[0] == "softdep" and len(words) > 3:
            rest = words[2:]
            end = rest.index("post:") if "post:" in rest else len(rest)
            if "pre:" in rest and BACK in map(_plain, rest[rest.index("pre:") : end]):
                found.add(_plain(words[1]))
    return found


def _early():
    """Modules that the initramfs loads by name, in their order (initramfs-tools(7))."""
    return [_plain(words[0]) for words in _lines(EARLY)]


def _unattended(cmdline, crypttab):
    if cmdline is None:
        return None, "/proc/cmdline cannot be read"
    luks = [word for word in cmdline.split() if word.startswith("rd.luks.")]
    if luks:
        return False, "the kernel line names an encrypted disk (%s)" % common.clean(luks[0], 100)
    for line in (crypttab or "").splitlines():
        words = line.split()
        if len(words) < 2 or words[0].startswith("#"):
            continue
        options = words[3] if len(words) > 3 else ""
        if (words[2:3] or ["none"])[0] in ("none", "-") and not re.search(
            r"(?:tpm2|fido2|pkcs11)-", options
        ):
            return False, "/etc/crypttab: %s asks for a passphrase" % common.clean(words[0], 100)
    return True, "no passphrase is asked for at boot"
