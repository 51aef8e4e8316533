"""
Domains of a plain Xen host, in the words of qubes_admin.py: what a qube is there, is here a domain
that /etc/xen/NAME.cfg describes. For the agent and the guard (through domains.py) and for our Salt
states (`__utils__["xen_domains.…"]`). Python 3.8+, standard library only. Nothing here caches.

A property is a setting of that file, as text: "192", "pv", a list as compact JSON; one that is not
set is {"default": True, "value": ""}. `autostart` is the link in /etc/xen/auto. `pci` is no property
but the devices.
"""

import os
import re
import stat
import sys

try:
    import xl_config
except ImportError:  # Salt's loader knows this file, and not its neighbours
    sys.path.append(os.path.dirname(os.path.abspath(__file__)))
    import xl_config
import xen_host
from xen_host import AdminError, EmptyReply, xl

FOLDER, AUTO, SUFFIX = "/etc/xen", "/etc/xen/auto", ".cfg"
BEGUN = ".guidomain-new"
CLASS = "Domain"
ASKED = 90  # seconds for xl to end that waits a minute for the domain (libxl_domain_shutdown)
STATES = {"p": "Paused", "s": "Halting", "c": "Crashed", "d": "Dying"}
LISTED = re.compile(r"(.+?)\s+(\d+)\s+\d+\s+\d+\s+([r-][b-][p-][s-][c-][d-])\s+[0-9.]+")
NOWHERE = "Domain %r has no configuration in " + FOLDER


# -- which there are


def _read(name):
    with open(xen_host.ROOT + name, encoding="utf-8", errors="surrogateescape", newline="") as file:
        return file.read()


def _files():
    """{domain: its file}. One that xl would not take counts by its own name, so that nothing is
    written over it; one without a name describes no domain."""
    try:
        names = sorted(os.listdir(xen_host.ROOT + FOLDER))
    except OSError:
        return {}
    found = {}
    for name in names:
        if not name.endswith(SUFFIX) or name.startswith("."):
            continue
        path, stem = FOLDER + "/" + name, name[: -len(SUFFIX)]
        try:
            domain = xl_config.values(_read(path)).get("name")
        except OSError:
            continue
        except xl_config.ConfigError:
            domain = stem
        if isinstance(domain, str) and domain and (domain not in found or domain == stem):
            found[domain] = path
    return found


def _states():
    """{domain that runs: state}, dom0 left out. By `xl list`, where it says that dom0 runs."""
    if not xen_host.is_xen():
        return {}
    status, out, err = xl("list")
    found = [LISTED.fullmatch(line.rstrip()) for line in out.splitlines()]
    rows = [row for row in found if row]
    if status or not any(row.group(2) == "0" for row in rows):
        said = xen_host.words(err) or "it ended with %d and does not list dom0" % status
        raise AdminError("XlError", "xl list: %s" % said)
    return {
        row.group(1): next((STATES[flag] for flag in "dcsp" if flag in row.group(3)), "Running")
        for row in rows
        if row.group(2) != "0" and row.group(1) != "(null)"
    }


def qubes():
    states = _states()
    return {
        name: {"class": CLASS, "state": states.get(name, "Halted")}
        for name in sorted(set(_files()) | set(states))
    }


def power_state(name):
    """Running, Halted, Paused, Halting, Crashed, Dying; None where there is no such domain."""
    state = _states().get(name)
    return state or ("Halted" if name in _files() else None)


def get_qube(name):
    there = name in _files() or name in _states()
    return {"class": CLASS, "template": "", "label": ""} if there else None


def _missing(name):
    return AdminError("QubesVMNotFoundError", "No such domain: %r" % name)


# -- its file


def _text(name):
    """(file, text). AdminError where it has none, or one that xl would not take."""
    path = _files().get(name)
    if path is None:
        raise AdminError("NoConfiguration", NOWHERE % name) if name in _states() else _missing(name)
    text = _read(path)
    _checked(path, xl_config.values, text)
    return path, text


def _checked(path, function, *args):
    try:
        return function(*args)
    except ValueError as error:
        raise AdminError("XlConfigError", "%s %s" % (path, error)) from error


def _settings(name):
    path = _files().get(name)
    return {} if path is None else _checked(path, xl_config.values, _read(path))


def _write(path, text):
    """Whole and durably, or not at all; owner and mode stay."""
    full = xen_host.ROOT + path
    beside = full + BEGUN
    try:
        status = os.stat(full)
    except FileNotFoundError:
        status = None
    try:
        with open(beside, "wb") as file:
            file.write(text.encode("utf-8", "surrogateescape"))
            os.fchmod(file.fileno(), stat.S_IMODE(status.st_mode) if status else 0o644)
            if status:
                os.fchown(file.fileno(), status.st_uid, status.st_gid)
            file.flush()
            os.fsync(file.fileno())
        os.rename(beside, full)
    except OSError:
        _unlink(path + BEGUN)
        raise
    _sync(os.path.dirname(path))


def _unlink(path):
    try:
        os.unlink(xen_host.ROOT + path)
    except FileNotFoundError:
        pass


def _sync(folder):
    fd = os.open(xen_host.ROOT + folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _edit(name, function, *args):
    path, text = _text(name)
    new = _checked(path, function, text, *args)
    if new != text:
        _write(path, new)


def tidy():
    """What was being written when somebody was killed."""
    try:
        names = os.listdir(xen_host.ROOT + FOLDER)
    except OSError:
        return
    for name in names:
        if name.endswith(SUFFIX + BEGUN):
            _unlink(FOLDER + "/" + name)


def forget_saved(names):
    """Debian's xendomains saves what runs when the machine is shut down, and at the next start goes on
    from there, whatever the files say by then (/etc/default/xendomains). Those of `names`, and each that
    has a device by us: Xen does not carry a device over, and in another boot it is another's."""
    try:
        told = _read("/etc/default/xendomains")
    except OSError:
        told = ""
    found = re.findall(r"^[ \t]*XENDOMAINS_SAVE=[\"']?([^\"'\n#]*)", told, re.MULTILINE)
    folder = found[-1].strip() if found else "/var/lib/xen/save"
    for name in set(names) | {name for name in _files() if _has_ours(name)}:
        if folder.startswith("/") and re.fullmatch(r"[A-Za-z0-9_.-]+", name):
            _unlink("%s/%s" % (folder, name))


def _has_ours(name):
    try:
        return bool(_noted(name))
    except AdminError:
        return False  # a file that xl would not take


# -- properties


def _links(path):
    """Names in /etc/xen/auto that lead to this file."""
    target = os.path.realpath(xen_host.ROOT + path)
    folder = xen_host.ROOT + AUTO
    try:
        return [one for one in os.listdir(folder) if os.path.realpath(folder + "/" + one) == target]
    except OSError:
        return []


def spelled(name, value):
    """The property as it reads once it has been set to `value`."""
    if name == "autostart":
        return _property("True" if value == "True" else None, "False")
    return _property(xl_config.shown(xl_config.meant(value)), "")


def _property(value, default):
    return {"default": value is None, "value": default if value is None else value}


def properties(qube):
    """Those that are set, and autostart. Of a file that xl would not take nothing is known."""
    try:
        settings = _settings(qube)
    except AdminError:
        return {}
    found = {
        name: _property(xl_config.shown(value), "")
        for name, value in settings.items()
        if name not in ("name", "pci")
    }
    path = _files().get(qube)
    return dict(found, autostart=get_property(qube, "autostart")) if path else found


def global_properties():
    return {}


def get_property(qube, name):
    """None where there is no such domain, and for what is no property."""
    if qube is None or name in ("name", "pci"):
        return None
    path = _files().get(qube)
    if path is None and qube not in _states():
        return None
    if name == "autostart":
        return spelled(name, "True" if path and _links(path) else "False")
    value = _settings(qube).get(name)
    return _property(None if value is None else xl_config.shown(value), "")


def get_default(qube, name):
    return "False" if name == "autostart" else ""


def set_property(qube, name, value):
    _check_name(qube, name)
    if name == "autostart":
        _autostart(qube, value == "True")
    else:
        _edit(qube, xl_config.put, name, xl_config.meant(value))


def reset_property(qube, name):
    _check_name(qube, name)
    if name == "autostart":
        _autostart(qube, False)
    else:
        _edit(qube, xl_config.take, name)


def _check_name(qube, name):
    if qube is None:
        raise AdminError("NoSuchProperty", "a Xen host has no property %s of its own" % name)
    if name in ("name", "pci") or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise AdminError("NoSuchProperty", "%s: %s is no property of a domain" % (qube, name))


def _autostart(qube, on):
    path = _files().get(qube) or _text(qube)[0]
    links = _links(path)
    if on and not links:
        os.makedirs(xen_host.ROOT + AUTO, exist_ok=True)
        os.symlink("../" + os.path.basename(path), xen_host.ROOT + AUTO + "/" + os.path.basename(path))
        _sync(AUTO)
    elif not on and links:
        for one in links:
            _unlink(AUTO + "/" + one)
        _sync(AUTO)
        try:
            os.rmdir(xen_host.ROOT + AUTO)  # Debian has none before it is needed
        except OSError:
            pass


# -- what only a qube has


def features(qube):
    return {}


def get_feature(qube, name):
    return None


def set_feature(qube, name, value):
    raise AdminError("NoSuchFeature", "a Xen domain has no features: %s of %s" % (name, qube))


def remove_feature(qube, name):
    pass


def tags(qube):
    return []


def has_tag(qube, name):
    return False


def set_tag(qube, name):
    raise AdminError("NoSuchTag", "a Xen domain has no tags: %s of %s" % (name, qube))


def remove_tag(qube, name):
    pass


def labels():
    return []


def usb_available(backend):
    raise EmptyReply("EmptyReply", "a Xen host passes on whole controllers, no USB devices")


def usb_assigned(qube):
    return usb_available(qube)


def volume_info(qube, volume):
    return None


# -- devices

ENTRY = re.compile(
    r"(?:bdf=)?(?:([0-9a-f]{1,4}):)?([0-9a-f]{1,2}):([0-9a-f]{1,2})\.([0-7*])(?:@[0-9a-f]+)?(,.*)?"
)
OPTIONS = ("permissive", "seize")


def _entry(text):
    """(address, options that are on) of an entry of the list `pci` (xl-pci-configuration(5))."""
    found = ENTRY.fullmatch(text.replace(" ", "").lower())
    if not found:
        return None, {}
    domain, bus, slot, function, rest = found.groups()
    address = "%04x:%02x:%02x.%s" % (int(domain or "0", 16), int(bus, 16), int(slot, 16), function)
    given = dict(part.partition("=")[::2] for part in (rest or "").split(",") if part)
    on = {name: "True" for name in OPTIONS if given.get(name) in ("1", "yes", "true", "on")}
    return address, on


def _entries(qube):
    """The entries as they are written."""
    written = _settings(qube).get("pci", [])
    return [one for one in written if isinstance(one, str)] if isinstance(written, list) else []


def _noted(qube):
    """{address: identity} of what we have assigned, from when that was done."""
    path = _files().get(qube)
    note = _checked(path, xl_config.note, _read(path), "pci") if path else ""
    return dict(part.partition("=")[::2] for part in note.split())


def pci_assigned(qube):
    """By what sits there now. Of an empty place what we had assigned, "*" where that is not known."""
    if qube not in _files() and qube not in _states():
        raise _missing(qube)
    noted, found = _noted(qube), []
    for text in _entries(qube):
        address, options = _entry(text)
        if address is not None:
            device = xen_host.identity(address) or noted.get(address, "*")
            port = xen_host.port(address)
            found.append({"port": port, "device": device, "mode": "required", "options": options})
    return found


def assign_pci(qube, port, device, options, mode="required"):
    address = xen_host.address(port)
    there = xen_host.identity(address)
    if device != "*" and there not in (None, device):
        raise AdminError("NoSuchDevice", "%s: dom0 has %s there, not %s" % (port, there, device))
    on = ["%s=1" % name for name in OPTIONS if options.get(name)]
    entries = [text for text in _entries(qube) if _entry(text)[0] != address]
    noted = dict(_noted(qube), **{address: device if device != "*" else there or "*"})
    _put_entries(qube, entries + [",".join([address] + on)], noted)


def unassign_pci(qube, port, device):
    """Whatever sits there by now."""
    address, noted = xen_host.address(port), _noted(qube)
    noted.pop(address, None)
    _put_entries(qube, [one for one in _entries(qube) if _entry(one)[0] != address], noted)


def drop_strangers():
    """[(domain, address, what sits there now)] of our assignments where another device sits by now, as
    after a card was put in: they are taken out. xl goes by the place alone, and what it may seize it
    would take from dom0."""
    found = []
    for name in _files():
        try:
            for address, device in _noted(name).items():
                there = xen_host.identity(address)
                if there not in (None, device):
                    unassign_pci(name, xen_host.port(address), device)
                    found.append((name, address, there))
        except AdminError:
            continue  # a file that xl would not take either
    return found


def _put_entries(qube, entries, noted):
    note = " ".join("%s=%s" % item for item in noted.items())
    path, text = _text(qube)
    theirs = xl_config.values(xl_config.split(text)[0]).get("pci", [])
    if entries or theirs:
        _edit(qube, xl_config.put, "pci", entries, note)
    else:
        _edit(qube, xl_config.take, "pci")


def _devices(qube):
    """Addresses that a running domain has."""
    status, out, err = xl("pci-list", qube)
    if status:
        raise AdminError("XlError", "xl pci-list %s: %s" % (qube, xen_host.words(err) or status))
    return xen_host.SBDF.findall(out)


def users():
    """{address: domain} of what running domains have."""
    return {address: name for name in _states() for address in _devices(name)}


def pci_available():
    return xen_host.pci_available()


def assignable(port):
    return xen_host.assignable(port)


def add_assignable(port):
    xen_host.add_assignable(port)


def hidden_ports():
    """What the kernel line of this boot gives to pciback, which keeps it."""
    return sorted(xen_host.port(sbdf) for sbdf in xen_host.hidden())


def remove_assignable(port):
    if assignable(port):
        xen_host.remove_assignable(port, users())


# -- life


def create(name, class_=CLASS, template="", label=""):
    path = "%s/%s%s" % (FOLDER, name, SUFFIX)
    if name in _files() or name in _states() or os.path.lexists(xen_host.ROOT + path):
        raise AdminError("QubesValueError", "domain %s already exists" % name)
    _write(path, "name = %s\n" % xl_config.literal(name))


def remove(name):
    """Its file and its link; never what its disks hold."""
    if name in _states():
        raise AdminError("QubesVMNotHaltedError", "Domain is not powered off: %r" % name)
    path = _files().get(name)
    if path is None:
        raise _missing(name)
    _autostart(name, False)
    _unlink(path)
    _sync(FOLDER)


def start(qube, timeout=xen_host.LONG):
    """Returns when the domain runs and has every device of its file; no error where it runs already.
    One that does not get there leaves nothing behind: no domain, no device that dom0 had before."""
    state = _states().get(qube)
    if state == "Running":
        return
    if state is not None:
        raise AdminError("XlError", "%s is there already: %s" % (qube, state.lower()))
    path, _ = _text(qube)
    for address, device in _noted(qube).items():
        there = xen_host.identity(address)
        if there not in (None, device):
            text = "at %s there is now %s, not the %s that was assigned to %s"
            raise AdminError("Refused", text % (address, there, device, qube))
    entries = {a: on for a, on in map(_entry, _entries(qube)) if a and not a.endswith("*")}
    wanted = list(entries)
    before = {address: xen_host.driver(address) for address in wanted}
    for address, driver in before.items():
        # Without "seize" xl refuses by itself.
        if "seize" in entries[address] and driver != "pciback" and xen_host.is_display(address):
            text = "%s is a display that is dom0's in this boot (driver %s), and is not taken from it"
            raise AdminError("Refused", text % (address, driver))
    problem = _started(qube, path, wanted, timeout)
    if problem is None:
        return
    try:
        if qube in _states():
            kill(qube)
    finally:
        xen_host.give_back([a for a in wanted if before[a] != "pciback"])
    raise AdminError("XlError", problem)


def _started(qube, path, wanted, timeout):
    """Why it does not run as it should; None where it does."""
    try:
        status, out, err = xl("create", xen_host.ROOT + path, timeout=timeout)
        said = xen_host.words(err) or xen_host.words(out)
        if status:
            return said or "xl create ended with %d" % status
        if qube not in _states():
            return said or "it ended as soon as it had started"
        missing = sorted(set(wanted) - set(_devices(qube))) if wanted else []
        return "it runs without %s: %s" % (", ".join(missing), said or "xl does not say why") if missing else None
    except AdminError as error:
        return error.message


def shutdown(qube, force=False):
    """Asks the domain to shut down; no error where it is not running. Without a PV driver it is asked by
    its power button (-F). False: its kernel has not taken the word within a minute, as one that still
    boots, and xl has withdrawn it (docs/real-xen.md): who waits for it asks again."""
    status, out, err = xl("shutdown", "-F", qube, timeout=ASKED)
    if status and "acknowledge" in err:
        return qube not in _states()
    _stopped(qube, status, out, err)
    return True


def kill(qube):
    _stopped(qube, *xl("destroy", qube))


def _stopped(qube, status, out, err):
    if status and qube in _states():
        raise AdminError("XlError", "%s: %s" % (qube, xen_host.words(err or out) or "xl ended with %d" % status))
