"""dom0's disk: what an installation puts there that a boot needs, and what updates do to it."""
import json
import os
import re
import shutil

import xen
import xen.disk

from . import grub
from .hardware import BOOT_UUID, DISK_UUID, ROOT_UUID, Hardware, adapted, write

TWIN = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
KEEP = 3  # kernels that stay installed (dnf's installonly_limit)


def fixture(folder, name):
    """A machine or an installation of lab/twin, by name or by path; `extends` names one that it adds to."""
    own = os.path.join(TWIN, folder, name + ".json")
    with open(own if os.path.exists(own) else name) as file:
        found = json.load(file)
    return dict(fixture(folder, found["extends"]), **found) if "extends" in found else found


def patched(value, patch):
    """Objects are merged, everything else is replaced; None stays a value. As `patched` of lab/twin/world.ts."""
    if not isinstance(value, dict) or not isinstance(patch, dict):
        return patch
    return dict(value, **{key: patched(value.get(key), part) for key, part in patch.items()})


def world(machine="laptop", patch=None, install="qubes-4.3"):
    """The world that a twin starts in."""
    with open(os.path.join(TWIN, "world.json")) as file:
        found = json.load(file)
    found["machine"] = fixture("machines", machine) if isinstance(machine, str) else machine
    found["iommu"] = found["machine"].get("iommu", True)
    found = patched(found, (fixture("installs", install) if isinstance(install, str) else install).get("world", {}))
    return patched(found, patch or {})


def install(root, world, installation="qubes-4.3"):
    """A fresh disk at `root`, which must not exist; for machines without a sandbox. lab/twin/sandbox.ts does it for the others."""
    installation = fixture("installs", installation) if isinstance(installation, str) else installation
    if xen.on(world):
        return xen.disk.install(root, world, installation)
    shutil.copytree(os.path.join(TWIN, "skel"), root, symlinks=True)
    number = world["release"].lstrip("R")
    for folder in ("etc/systemd/system", "proc", "run", "sys", "tmp", "var/lib/qubes", "var/log/libvirt/libxl", "srv", "root"):
        os.makedirs(os.path.join(root, folder), exist_ok=True)
    write(root + "/etc/qubes-release", "Qubes release %s (R%s)\n" % (number, number))
    write(root + "/var/lib/rpm/twin.json", json.dumps({"packages": installation.get("packages", {})}))
    for path, file in installation.get("files", {}).items():
        write(root + path, file if isinstance(file, str) else file["content"])
        os.chmod(root + path, int("0644" if isinstance(file, str) else file["mode"], 8))
    stored = {key: installation[key] for key in ("labels", "pools", "globals", "qubes")}
    write(root + "/var/lib/qubes/qubes.json", json.dumps(adapted(stored, world)))
    for name, raw in stored["qubes"].items():
        if raw["properties"].get("autostart"):
            link = "%s/etc/systemd/system/multi-user.target.wants/qubes-vm@%s.service" % (root, name)
            os.makedirs(os.path.dirname(link), exist_ok=True)
            os.symlink("/usr/lib/systemd/system/qubes-vm@.service", link)
    prepare(root, world)


def prepare(root, world):
    """What is missing for a boot on a disk that was just installed: kernels, Xen, GRUB, tables of disks."""
    if xen.on(world):
        return xen.disk.prepare(root, world)
    if os.path.isdir(root + "/boot/grub2"):
        return
    os.makedirs(root + "/boot/grub2")
    write("%s/boot/xen-%s.gz" % (root, world["xen"]), "Xen %s\n" % world["xen"])
    for version in world.get("kernels") or [world["kernel"]]:
        add_kernel(root, world, version)
    luks = "luks-" + DISK_UUID
    if world.get("passphrase"):
        path = root + "/etc/default/grub"
        with open(path) as file:
            text = file.read()
        write(path, text.replace('GRUB_CMDLINE_LINUX="', 'GRUB_CMDLINE_LINUX="rd.luks.uuid=%s ' % luks, 1))
    write(root + "/etc/crypttab", "%s UUID=%s none discard\n" % (luks, DISK_UUID) if world.get("passphrase") else "")
    fs = (world.get("bootDisk") or {}).get("fs", "ext4")
    write(
        root + "/etc/fstab",
        "/dev/mapper/qubes_dom0-root / ext4 defaults,discard 1 1\nUUID=%s /boot %s defaults 1 2\n"
        "/dev/mapper/qubes_dom0-swap none swap defaults 0 0\n" % (BOOT_UUID, fs),
    )
    with open(root + "/boot/grub2/grubenv", "wb") as file:
        file.write(grub.block({}))
    regenerate(root, world)


def add_kernel(root, world, version):
    for name in ("vmlinuz-%s", "initramfs-%s.img"):
        write("%s/boot/%s" % (root, name % version), "kernel %s\n" % version)
    write("%s/usr/lib/modules/%s/modules.alias" % (root, version), Hardware(world).modules_alias())


def regenerate(root, world, path="/boot/grub2/grub.cfg"):
    """As grub2-mkconfig -o does it: written beside, then renamed."""
    write(root + path + ".new", grub.mkconfig(root, world))
    os.chmod(root + path + ".new", 0o600)
    os.rename(root + path + ".new", root + path)


def update_kernel(root, world):
    """A newer kernel comes, the oldest of more than three goes, grub.cfg is made anew (kernel-install of Qubes). Its version."""
    if xen.on(world):
        return xen.disk.update_kernel(root, world)
    versions = grub.versions(root, "vmlinuz")
    newest = versions[0] if versions else world["kernel"]
    newer = re.sub(r"\A(\d+\.\d+\.)(\d+)", lambda found: found.group(1) + str(int(found.group(2)) + 1), newest)
    add_kernel(root, world, newer)
    for version in grub.versions(root, "vmlinuz")[KEEP:]:
        for name in ("vmlinuz-%s", "initramfs-%s.img"):
            os.unlink("%s/boot/%s" % (root, name % version))
        shutil.rmtree("%s/usr/lib/modules/%s" % (root, version), ignore_errors=True)
    regenerate(root, world)
    return newer
