"""What a host is, by keys, so that two states can be compared: everything that a change may touch, and nothing that goes on by itself
(ids of boots, logs, what runs).
"""
import json
import os
import re
import stat

import policy
from machine import grub, hardware

import mounts

FOLDERS = ("/etc", "/usr/share/xsessions", "/usr/lib/systemd")
OURS = ("/var/lib/guidomain", "/srv", "/etc/salt/minion.d")
INFRASTRUCTURE = re.compile(r"\A/etc/systemd/system/(multi-user\.target\.wants/)?guidomain-guard\.(service|path)\Z|\A/etc/salt/minion\.d(/|\Z)")


def dump(machine, commands):
    """{"keys": {key: value}, "ours": [paths of what is there for us alone], "policy": None or what is wrong with it}"""
    root, keys, ours = machine.root, {}, []
    for name, qube in machine.system.qubes.items():
        keys["qube:" + name] = qube.klass
        keys.update({"property:%s:%s" % (name, prop): value for prop, value in qube.set_values.items()})
        keys.update({"feature:%s:%s" % (name, feature): value for feature, value in qube.features.items()})
        keys.update({"tag:%s:%s" % (name, tag): True for tag in qube.tags})
        keys.update({"device:%s:%s:%s" % (name, e["port"], e["device"]): [e["mode"], e["options"]] for e in qube.pci})
        keys.update({"usb:%s:%s:%s:%s" % (name, e["backend"], e["port"], e["device"]): e["mode"] for e in qube.usb})
    keys.update({"global:" + name: value for name, value in machine.system.set_values.items()})
    for folder in FOLDERS:
        for path, (mode, text) in mounts.read(root + folder, skip=()).items():
            path = folder + path
            if INFRASTRUCTURE.match(path):
                if not stat.S_ISDIR(mode):
                    ours.append(path)
            elif not stat.S_ISDIR(mode):
                keys["file:" + path] = [oct(mode), text]
    images = root + "/var/lib/qubes/vm-templates"
    for name in os.listdir(images) if os.path.isdir(images) else ():
        for path, (mode, text) in mounts.read("%s/%s/root.img" % (images, name), skip=()).items():
            if not stat.S_ISDIR(mode):
                keys["inside:%s:%s" % (name, path)] = [oct(mode), text]
    secrets = root + "/var/lib/guidomain/secrets"
    for path, (mode, text) in mounts.read(secrets, skip=()).items() if os.path.isdir(secrets) else ():
        if not stat.S_ISDIR(mode):
            keys["secret:" + path] = [oct(mode), text]
    keys.update({"package:" + name: version for name, version in commands.installed().items()})
    keys.update({"boot:" + word: True for word in default_words(root)})
    for folder in OURS:
        for path, (mode, text) in mounts.read(root + folder, skip=()).items() if os.path.isdir(root + folder) else ():
            if not stat.S_ISDIR(mode):
                ours.append(folder + path)
    ours += ["grubenv:" + name for name, value in grub.Env(root + "/boot/grub2/grubenv").get().items() if value and name in ("next_entry", "guidomain_try")]
    if os.path.exists(root + "/boot/grub2/custom.cfg"):
        ours.append("/boot/grub2/custom.cfg")
    return {"keys": keys, "ours": sorted(ours), "policy": policy_fault(root), "ledger": ledger(root)}


def default_words(root):
    """Words of the kernel line that boots when nobody chooses."""
    text = open(root + "/boot/grub2/grub.cfg", errors="replace").read()
    found = re.search(r"^\s*module2\s+/vmlinuz-\S+ placeholder (.*)$|^\s*module2\s+/vmlinuz-\S+ (.*)$", text, re.M)
    return " ".join(filter(None, found.groups())).replace("${xen_rm_opts}", "").split() if found else ["unreadable"]


def ledger(root):
    try:
        with open(root + "/var/lib/guidomain/ledger.json") as file:
            entries = json.load(file)["entries"]
    except (OSError, ValueError):
        return {}
    return {key: {part: entry[part] for part in ("owner", "first", "ours")} for key, entry in entries.items()}


def policy_fault(root):
    try:
        policy.load((root + "/run/qubes/policy.d", root + "/etc/qubes/policy.d"))
    except (policy.PolicySyntaxError, policy.AccessDenied, ValueError) as error:
        return str(error)
    return None
