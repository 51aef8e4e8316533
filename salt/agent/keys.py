"""
Keys (src/model/keys.ts): one name for each thing on a host that may change. Read them, compare
them, put one back to an earlier value.
"""

import os
import re

import common
import grub
import menu
import packages
import policy_lines
import domains as admin
import secret
import volumes
from common import Failure

NAME = r"[A-Za-z][A-Za-z0-9_.-]*"
FORMS = {
    "qube": re.compile(NAME),
    "property": re.compile("(%s):([a-z0-9_]+)" % NAME),
    "feature": re.compile(r"(%s):([\x21-\x7e]+)" % NAME),
    "tag": re.compile("(%s):([A-Za-z0-9_.-]+)" % NAME),
    "global": re.compile("[a-z0-9_]+"),
    "file": re.compile(r"/[^\x00-\x1f\x7f]+"),
    "package": re.compile(r"[A-Za-z0-9][A-Za-z0-9+._-]*"),
    # The qube, and PORT:IDENTITY; "*" for one of the two: any device on that port, or that device
    # on whatever port.
    "device": re.compile(
        r"(%s):([0-9a-f_.-]+:(?:\*|[!-)+-~]+)|\*:[!-)+-~]+)" % NAME
    ),
    # The qube, and BACKEND:PORT:IDENTITY; port "*": wherever it is plugged in there. What would need
    # quoting, or is something else in a call's argument ("+"), a key cannot name.
    "usb": re.compile(r"(%s):(%s:(?:\*|[0-9]+-[0-9.]+):[!#-&(),-\[\]-~]+)" % (NAME, NAME)),
    # Of it the ledger has a mark alone.
    "secret": re.compile("(%s):(%s)" % (NAME, secret.NAME)),
    # Never in the ledger: for the way back of what is written inside a qube, and for that alone.
    "volume": re.compile("(%s):(root|private)" % NAME),
    "bootarg": re.compile(grub.TOKEN.pattern),
    # A function that dom0 has given up to pciback (plain Xen), by its place.
    "assignable": re.compile(r"[0-9a-f]{4}_[0-9a-f]{2}_[0-9a-f]{2}\.[0-7]"),
    # Of an include file, and nowhere else: it is shared with whoever writes to it.
    "line": re.compile(r"(/etc/qubes/policy\.d/include/[a-z][a-z0-9_-]*):([\x21-\x7e][\x20-\x7e]*)"),
}


def split(key):
    """("property", "sys-gui", "maxmem"), ("qube", "sys-gui", None), ("global", None,
    "default_guivm") …"""
    kind, _, rest = key.partition(":")
    found = FORMS[kind].fullmatch(rest) if kind in FORMS else None
    if not found or (kind == "file" and os.path.normpath(rest) != rest):
        raise Failure("bad-request", "not a key: %s" % common.clean(key, 200))
    if kind == "qube":
        return kind, rest, None
    return (kind,) + (found.groups() or (None, rest))


def read(key):
    kind, qube, name = split(key)
    if kind == "qube":
        return admin.get_qube(qube)
    if kind in ("property", "global"):
        return admin.get_property(qube, name)
    if kind == "feature":
        return admin.get_feature(qube, name)
    if kind == "tag":
        return True if admin.has_tag(qube, name) else None
    if kind == "file":
        found = common.read_file(name)
        return found and {"content": found["content"], "mode": found["mode"]}
    if kind == "device":
        return _read_device(qube, *name.split(":", 1))
    if kind == "usb":
        return _read_usb(qube, name.split(":", 2))
    if kind == "bootarg":
        return menu.read_token(name)
    if kind == "assignable":
        return admin.assignable(name)
    if kind == "volume":
        return volumes.read(qube, name)
    if kind == "secret":
        return secret.read(qube, name)
    if kind == "line":
        found = common.read_file(qube)
        return True if found and policy_lines.has(found["content"], name) else None
    return packages.installed([name])[name]


def _read_device(qube, port, device):
    """The assignment; of its options those that are on (any text that is not empty)."""
    try:
        assigned = admin.pci_assigned(qube)
    except admin.AdminError as error:
        if error.type == "QubesVMNotFoundError":
            return None
        raise
    for one in assigned:
        if (one["port"], one["device"]) == (port, device):
            options = {key: "True" for key, value in one["options"].items() if value}
            return {"mode": one["mode"], "options": options}
    return None


def _read_usb(qube, place):
    """The assignment, in the form of a PCI one; a USB one has no options."""
    try:
        assigned = admin.usb_assigned(qube)
    except admin.AdminError as error:
        if error.type == "QubesVMNotFoundError":
            return None
        raise
    for one in assigned:
        if [one["backend"], one["port"], one["device"]] == place:
            return {"mode": one["mode"], "options": {}}
    return None


def read_all(keys):
    names = [split(key)[2] for key in keys if key.startswith("package:")]
    versions = packages.installed(names)
    return {key: versions[key[8:]] if key.startswith("package:") else read(key) for key in keys}


def same(one, other):
    """Equal, where a property that follows its default is one thing whatever that default is
    now."""
    if (
        isinstance(one, dict)
        and isinstance(other, dict)
        and one.get("default")
        and other.get("default")
    ):
        return True
    return one == other


# -- putting back


def restore(key, before, owner, run, was=None):
    """Makes `key` what it was. `owner`: [uid, gid] of a file; `was`: the whole file of a line, or of a
    secret. Raises where the host refuses."""
    kind, qube, name = split(key)
    if kind in ("property", "global"):
        if before is None:
            raise Failure("internal", "it did not exist before")
        if before["default"]:
            admin.reset_property(qube, name)
        else:
            admin.set_property(qube, name, before["value"])
    elif kind == "feature":
        admin.remove_feature(qube, name) if before is None else admin.set_feature(
            qube, name, before
        )
    elif kind == "tag":
        admin.remove_tag(qube, name) if before is None else admin.set_tag(qube, name)
    elif kind == "file":
        restore_file(name, before, owner)
    elif kind == "package":
        packages.restore(name, before, run)
    elif kind == "device":
        _restore_device(qube, *name.split(":", 1), before)
    elif kind == "usb":
        _restore_usb(qube, name.split(":", 2), before)
    elif kind == "bootarg":
        menu.write_token(name, before is True)
    elif kind == "assignable":
        admin.remove_assignable(name) if before is None else admin.add_assignable(name)
    elif kind == "volume":
        volumes.put_back(qube, name)
    elif kind == "secret":
        secret.write(qube, name, was)
    elif kind == "line":
        _restore_line(qube, name, before is True, was)
    else:
        _restore_qube(qube, before)


def restore_file(name, before, owner):
    if before is None:
        common.remove_file(name)
        return
    os.makedirs(os.path.dirname(common.path(name)), exist_ok=True)
    common.write_file(name, before["content"], int(before["mode"], 8), owner)


def _restore_line(path, line, present, was):
    """Only this line; byte by byte as it was, where that is all that is different by now."""
    now = common.read_file(path)
    if now is None:
        if present:
            raise Failure("internal", "%s, which is Qubes' own, is gone" % path)
        return
    text = policy_lines.edit(now["content"], [line] if present else [], [] if present else [line])
    if was and _said(text) == _said(was["content"]):
        text = was["content"]
    if text != now["content"]:
        common.write_file(path, text, int(now["mode"], 8), now["owner"])


def _said(text):
    return set(text.split("\n")) - {""}


STUCK = (
    "the place of this device is empty, and until it is back Qubes neither takes the assignment "
    "away nor makes it: put the device back, or remove the qube"
)


def _restore_device(qube, port, device, before):
    try:
        if _read_device(qube, port, device) is not None:
            admin.unassign_pci(qube, port, device)
        if before is not None:
            admin.assign_pci(qube, port, device, before["options"], before["mode"])
    except admin.EmptyReply as error:
        # One that names no port comes and goes at any time (src/model/settings.ts, assignmentOf).
        if port == "*" or port in {one["port"] for one in admin.pci_available()}:
            raise
        raise Failure("stuck", STUCK) from error


def _restore_usb(qube, place, before):
    if _read_usb(qube, place) is not None:
        if before is None:
            admin.take_usb(qube, *place)
        else:
            admin.unassign_usb(qube, *place)
    if before is not None:
        admin.assign_usb(qube, *place, before["mode"])


def _restore_qube(qube, before):
    now = admin.get_qube(qube)
    if before is None:
        admin.remove(qube)
    elif now is None:
        admin.create(qube, before["class"], before["template"], before["label"])
    elif now["class"] != before["class"]:
        raise Failure("internal", "it is a %s now" % now["class"])
    else:
        for part in ("template", "label"):
            if now[part] != before[part]:
                admin.set_property(qube, part, before[part])
