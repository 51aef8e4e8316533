"""dom0's disk of a Debian host: what a boot needs on it, and what an update of the kernel does to it. As machine/disk.py for Qubes."""
import os
import re
import shutil

from machine import grub as menu
from machine.hardware import ROOT_UUID, Hardware, device_path, write

from . import grub, initramfs


SKEL = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "skel-debian")
FOLDERS = "etc/lightdm/lightdm.conf.d etc/modprobe.d home/user proc root run srv sys tmp var/lib/dpkg var/lib/xen/save var/log/xen/console"


def install(root, world, installation):
    """A fresh disk at `root`, which must not exist, for machines without a sandbox; lab/twin/platform.ts does it for the others."""
    shutil.copytree(SKEL, root, symlinks=True)
    for folder in FOLDERS.split():
        os.makedirs(os.path.join(root, folder), exist_ok=True)
    rows = sorted(installation.get("packages", {}).items())
    status = "Package: %s\nStatus: install ok installed\nArchitecture: amd64\nVersion: %s\n"
    write(root + "/var/lib/dpkg/status", "\n".join(status % row for row in rows))
    for path, file in installation.get("files", {}).items():
        write(root + path, file if isinstance(file, str) else file["content"])
        os.chmod(root + path, int("0644" if isinstance(file, str) else file["mode"], 8))
    prepare(root, world)


def prepare(root, world):
    """What is missing on a disk that was just installed."""
    if os.path.exists(root + "/boot/grub/grub.cfg"):
        return
    os.makedirs(root + "/boot/grub", exist_ok=True)
    version = world["xen"].rpartition(".")[0]  # Debian names the file after the series: xen-4.17-amd64.gz
    for name in ("xen-%s-amd64.gz", "xen-%s-amd64.efi", "xen-%s-amd64.config"):
        write("%s/boot/%s" % (root, name % version), "Xen %s\n" % world["xen"])
    for each in world.get("kernels") or [world["kernel"]]:
        add_kernel(root, world, each)
    row = next(row for row in Hardware(world).blocks() if row["mount"] == "/")
    device = device_path(row) if row["type"] in ("lvm", "crypt") else "UUID=" + ROOT_UUID
    write(root + "/etc/fstab", "%s / %s errors=remount-ro 0 1\n" % (device, row["fs"]))
    with open(root + "/boot/grub/grubenv", "wb") as file:
        file.write(menu.block({}))
    regenerate(root, world)


def add_kernel(root, world, version):
    for name in ("vmlinuz-%s", "System.map-%s"):
        write("%s/boot/%s" % (root, name % version), "kernel %s\n" % version)
    write("%s/boot/config-%s" % (root, version), "CONFIG_XEN_DOM0=y\nCONFIG_XEN_PCIDEV_BACKEND=m\n")
    write("%s/usr/lib/modules/%s/modules.alias" % (root, version), Hardware(world).modules_alias())
    initramfs.make(root, version, Hardware(world))


def regenerate(root, world, settings=None):
    """As update-grub: written beside, then renamed."""
    path = root + "/boot/grub/grub.cfg"
    write(path + ".new", grub.mkconfig(root, world, settings))
    os.chmod(path + ".new", 0o600)
    os.rename(path + ".new", path)


def update_kernel(root, world):
    """A newer kernel's package is installed; apt keeps the one that runs and the newest two. Its version."""
    versions = menu.versions(root, "vmlinuz")
    newest = versions[0] if versions else world["kernel"]
    newer = re.sub(r"-(\d+)-", lambda found: "-%d-" % (int(found.group(1)) + 1), newest, count=1)
    add_kernel(root, world, newer)
    for version in menu.versions(root, "vmlinuz")[3:]:
        for name in ("vmlinuz-%s", "System.map-%s", "config-%s", "initrd.img-%s"):
            os.unlink("%s/boot/%s" % (root, name % version))
        shutil.rmtree("%s/usr/lib/modules/%s" % (root, version), ignore_errors=True)
    regenerate(root, world)
    return newer
