"""
What decides whether a boot of this machine can be tried once and come back by itself (BootFacts of
src/host/protocol.ts). Unknown is None. Writes nothing.
"""

import os
import re
import stat

import common
import grub
import machine

CONFIG, ENV = common.GRUB + "/grub.cfg", common.GRUB + "/grubenv"
HIDES = "/usr/lib/dracut/modules.d/90qubes-pciback/qubes-pciback.sh"
# File systems that GRUB writes one block of without a journal or checksum getting in the way.
PLAIN = ("ext2", "ext3", "ext4", "vfat", "xfs")


def collect(findmnt):
    """`findmnt`: "FSTYPE SOURCE" of the folder of grub.cfg."""
    config, cmdline = common.read_text(CONFIG), common.read_text("/proc/cmdline")
    one_shot, one_shot_why = _one_shot(config, findmnt)
    unattended, unattended_why = _unattended(cmdline, common.read_text("/etc/crypttab"))
    hides = common.read_text(HIDES)
    return {
        "oneShot": one_shot,
        "oneShotWhy": one_shot_why,
        "unattended": unattended,
        "unattendedWhy": unattended_why,
        "hidePaths": None if hides is None else "secondary_bus_number" in hides,
        "args": grub.default_tokens(common.read_text(common.DEFAULT_GRUB) or ""),
        "watchdog": common.unit_exists(machine.WATCHDOG) if config is not None else None,
        "rescue": grub.RESCUE in (grub.ours(common.read_text(common.CUSTOM)) or ""),
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
        return None, "%s cannot be read" % CONFIG
    if "custom.cfg" not in config:
        return False, "%s does not source custom.cfg" % CONFIG
    if "next_entry" not in config:
        return False, "%s knows no entry for one boot only (next_entry)" % CONFIG
    try:
        status = os.lstat(common.path(ENV))
        with open(common.path(ENV), "rb") as file:
            env = grub.read_env(file.read(4096))
    except FileNotFoundError:
        return False, "there is no %s" % ENV
    except (OSError, ValueError) as error:
        return False, "%s: %s" % (ENV, error)
    if not stat.S_ISREG(status.st_mode):
        return False, "%s is not a file of its own" % ENV
    if grub.default_entry(config, env) is None:
        return False, "no entry with a kernel can be found in %s" % CONFIG
    words = (findmnt or "").split()
    if len(words) != 2:
        return None, "findmnt does not say where %s is" % common.GRUB
    if words[0] not in PLAIN:
        return False, "%s is on %s, where GRUB cannot clear a choice" % (common.GRUB, words[0])
    kinds = _kinds(re.sub(r"\[.*\]$", "", words[1]))
    if not kinds:
        return None, "sysfs does not say what %s is" % words[1]
    odd = sorted(kinds - {"part", "disk"})
    if odd:
        text = "%s is on a device made by %s, where GRUB cannot clear a choice"
        return False, text % (common.GRUB, odd[-1])
    return True, "%s is %s on a plain partition" % (common.GRUB, words[0])


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
