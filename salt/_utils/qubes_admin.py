"""
Client of the Qubes Admin API over dom0's socket, for the agent and for our Salt states
(`__utils__["qubes_admin.…"]`). Python 3.8+, standard library only.

Framing (qubes-cli-formats.md §7): the request is ``METHOD+ARG dom0 name TARGET\\0PAYLOAD``, then
the sending side is closed. The reply is ``0\\0DATA``, or
``2\\0TYPE\\0TRACEBACK\\0FORMAT\\0[ARG\\0…]`` for an error, or nothing at all where qubesd refused
the call or met an internal error.

Values are text as the API gives them: "True", "4000", "dom0", "" for none. A property is
``{"default": bool, "value": str}``. Nothing here caches.
"""

import re
import socket

SOCKET = "/run/qubesd.sock"  # tests point it elsewhere

REPLY_LIMIT = 16 * 1024 * 1024  # bytes
TIMEOUT = 60  # seconds, for calls that do not start or stop a qube


class AdminError(Exception):
    """A call that did not succeed. `type` is the class Qubes names, such as
    QubesVMNotFoundError."""

    def __init__(self, method, arg, dest, type_, message):
        super().__init__(message)
        self.method, self.arg, self.dest = method, arg, dest
        self.type, self.message = type_, message

    def __str__(self):
        call_ = self.method + ("+" + self.arg if self.arg else "")
        return "%s (%s on %s)" % (self.message, call_, self.dest)


class QubesdUnreachable(AdminError):
    """Nobody answers at the socket, or not in time."""


class EmptyReply(AdminError):
    """qubesd closed without an answer: it does not know this call, or met an internal error."""


# -- calls


def call(method, dest="dom0", arg="", payload="", timeout=TIMEOUT):
    """One call; returns DATA as text. `timeout` in seconds, for each wait on the socket."""
    for part in (method, dest, arg):
        if not re.fullmatch(r"[\x21-\x7e]*", part):
            raise AdminError(method, arg, dest, "ValueError", "not allowed in a call: %r" % part)
    request = "%s+%s dom0 name %s\0%s" % (method, arg, dest, payload)
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(timeout)
            sock.connect(SOCKET)
            sock.sendall(request.encode("utf-8", "surrogateescape"))
            sock.shutdown(socket.SHUT_WR)
            reply = _read_all(sock)
    except OSError as error:
        text = "qubesd does not answer at %s: %s" % (SOCKET, error)
        raise QubesdUnreachable(method, arg, dest, "QubesDaemonCommunicationError", text) from error
    return _parse_reply(reply, method, arg, dest)


def _read_all(sock):
    chunks, size = [], 0
    while True:
        chunk = sock.recv(65536)
        if not chunk:
            return b"".join(chunks)
        size += len(chunk)
        if size > REPLY_LIMIT:
            raise OSError("an answer of more than %d bytes" % REPLY_LIMIT)
        chunks.append(chunk)


def _parse_reply(reply, method, arg, dest):
    text = reply.decode("utf-8", "surrogateescape")
    if not text:
        raise EmptyReply(
            method,
            arg,
            dest,
            "EmptyReply",
            "Got empty response from qubesd: it refused the call or met an internal error, "
            "see journalctl -u qubesd in dom0",
        )
    if text.startswith("0\0"):
        return text[2:]
    if text.startswith("2\0"):
        fields = text.split("\0")[1:-1]
        if len(fields) >= 3:
            type_, _traceback, format_, args = fields[0], fields[1], fields[2], fields[3:]
            try:
                message = format_ % tuple(args) if args else format_
            except (TypeError, ValueError):
                message = " ".join([format_] + args)
            raise AdminError(method, arg, dest, type_, message)
    raise AdminError(method, arg, dest, "ProtocolError", "an answer that is no Admin API reply")


def _lines(text):
    return [line for line in text.split("\n") if line]


# -- parsing


def parse_list(text):
    """admin.vm.List → {name: {"class": …, "state": …, "uuid": …}}."""
    qubes = {}
    for line in _lines(text):
        name, _, rest = line.partition(" ")
        qubes[name] = dict(word.partition("=")[::2] for word in rest.split(" "))
    return qubes


def parse_property(text):
    """``default=True type=int 400`` → {"default": True, "value": "400"}."""
    found = re.fullmatch(r"default=(True|False) type=\w+ ?(.*)", text, re.DOTALL)
    if not found:
        raise ValueError("not a property: %r" % text)
    return {"default": found.group(1) == "True", "value": found.group(2)}


def parse_properties(text):
    """admin.vm.property.GetAll → {name: property}; newlines and backslashes in values are
    unescaped."""
    properties_ = {}
    for line in _lines(text):
        name, _, rest = line.partition(" ")
        value = re.sub(r"\\(.)", lambda m: "\n" if m.group(1) == "n" else m.group(1), rest)
        properties_[name] = parse_property(value)
    return properties_


def parse_devices(text):
    """Device lines → [{"backend", "port", "device", "mode", "sbdf", "name", "options": {…}}].

    ``[dom0+]PORT:ID key='value' …``; keys with a leading underscore are the backend's or the user's
    own: options of an assignment, `_sbdf` of an available device. Without its first words: a USB
    device says its own id, which may hold what looks like a field; the fields are escaped.
    """
    devices_ = []
    for line in _lines(text):
        line = line[max(0, line.rfind(" device_id='")) :]
        fields = {
            key: re.sub(r"\\(.)", r"\1", value)
            for key, value in re.findall(r"(\S+?)='((?:[^'\\]|\\.)*)'", line)
        }
        own = {key[1:]: value for key, value in fields.items() if key.startswith("_")}
        name = " ".join(filter(None, (fields.get("vendor"), fields.get("product"))))
        devices_.append(
            {
                "backend": fields.get("backend_domain", ""),
                "port": fields.get("port_id", ""),
                "device": fields.get("device_id", "*"),
                "mode": fields.get("mode", ""),
                "sbdf": own.get("sbdf"),
                "name": name or None,
                "attachment": fields.get("attachment") or None,
                "options": own,
            }
        )
    return devices_


# -- reading


def _or_none(missing, function, *args):
    """What `function` returns, or None where Qubes says that the thing does not exist."""
    try:
        return function(*args)
    except AdminError as error:
        if error.type in missing:
            return None
        raise


def qubes():
    return parse_list(call("admin.vm.List"))


def properties(qube):
    """Every property of the qube; one whose value qubesd cannot compute is left out.

    One such property leaves the whole of GetAll without an answer: keyboard_layout, where a qube is
    its own GUI domain (core-admin 4.3.50, vm/qubesvm.py: its default is that of the GUI domain). The
    rest is then read one by one, as Qubes' own client does.
    """
    try:
        return parse_properties(call("admin.vm.property.GetAll", qube))
    except EmptyReply:
        found = {}
    for name in _lines(call("admin.vm.property.List", qube)):
        try:
            found[name] = parse_property(call("admin.vm.property.Get", qube, name))
        except EmptyReply:
            pass
    return found


def global_properties():
    return parse_properties(call("admin.property.GetAll"))


def get_property(qube, name):
    """The property; None where the qube or the property does not exist. `qube` None: a global
    one."""
    method = "admin.property.Get" if qube is None else "admin.vm.property.Get"
    missing = ("QubesVMNotFoundError", "QubesNoSuchPropertyError")
    text = _or_none(missing, call, method, qube or "dom0", name)
    return None if text is None else parse_property(text)


def get_default(qube, name):
    """What the property would be if it followed its default; "" for none."""
    method = "admin.property.GetDefault" if qube is None else "admin.vm.property.GetDefault"
    return re.sub(r"^type=\w+ ?", "", call(method, qube or "dom0", name))


def features(qube):
    """{name: value}; one that goes while we read is left out."""
    found = {name: get_feature(qube, name) for name in _lines(call("admin.vm.feature.List", qube))}
    return {name: value for name, value in found.items() if value is not None}


def get_feature(qube, name):
    """The value ("" is a value: off); None where the feature is not set or the qube does not
    exist."""
    missing = ("QubesVMNotFoundError", "QubesFeatureNotFoundError")
    return _or_none(missing, call, "admin.vm.feature.Get", qube, name)


def tags(qube):
    return _lines(call("admin.vm.tag.List", qube))


def has_tag(qube, name):
    return _or_none(("QubesVMNotFoundError",), call, "admin.vm.tag.Get", qube, name) == "1"


def pci_available():
    return parse_devices(call("admin.vm.device.pci.Available"))


def pci_assigned(qube):
    return parse_devices(call("admin.vm.device.pci.Assigned", qube))


def usb_available(backend):
    """What is plugged into a USB qube: none where it does not run, or lacks Qubes' proxy. EmptyReply
    where dom0 lacks it (qubes-usb-proxy-dom0)."""
    return parse_devices(call("admin.vm.device.usb.Available", backend))


def usb_assigned(qube):
    return parse_devices(call("admin.vm.device.usb.Assigned", qube))


def labels():
    return _lines(call("admin.label.List"))


def power_state(qube):
    """Running, Halted, Transient … as admin.vm.CurrentState says; None where the qube does not
    exist."""
    text = _or_none(("QubesVMNotFoundError",), call, "admin.vm.CurrentState", qube)
    if text is None:
        return None
    found = re.search(r"power_state=(\S+)", text)
    return found.group(1) if found else ""


def get_qube(name):
    """{"class", "template" (None without one), "label"}; None where the qube does not exist."""
    known = qubes().get(name)
    if known is None:
        return None
    template, label = get_property(name, "template"), get_property(name, "label")
    return {
        "class": known["class"],
        "template": (template or {}).get("value") or None,
        "label": (label or {}).get("value", ""),
    }


# -- writing


def set_property(qube, name, value):
    method = "admin.property.Set" if qube is None else "admin.vm.property.Set"
    call(method, qube or "dom0", name, value)


def reset_property(qube, name):
    method = "admin.property.Reset" if qube is None else "admin.vm.property.Reset"
    call(method, qube or "dom0", name)


def set_feature(qube, name, value):
    call("admin.vm.feature.Set", qube, name, value)


def remove_feature(qube, name):
    """Not an error where the feature is not set."""
    _or_none(("QubesFeatureNotFoundError",), call, "admin.vm.feature.Remove", qube, name)


def set_tag(qube, name):
    call("admin.vm.tag.Set", qube, name)


def remove_tag(qube, name):
    """Not an error where the tag is not there."""
    _or_none(("QubesTagNotFoundError",), call, "admin.vm.tag.Remove", qube, name)


def create(name, class_, template, label):
    payload = "name=%s label=%s" % (name, label)
    call("admin.vm.Create." + class_, "dom0", template or "", payload, 120)


def remove(name):
    call("admin.vm.Remove", name, timeout=120)


def assign_pci(qube, port, device, options, mode="required"):
    """An assignment. qubesd does not check port, id or option keys: the caller has to
    (§7)."""
    fields = [
        ("device_id", device),
        ("port_id", port),
        ("devclass", "pci"),
        ("backend_domain", "dom0"),
        ("mode", mode),
        ("frontend_domain", qube),
    ]
    fields += [("_" + key, value) for key, value in sorted(options.items())]
    payload = " ".join("%s='%s'" % (k, re.sub(r"(['\\])", r"\\\1", v)) for k, v in fields)
    call("admin.vm.device.pci.Assign", qube, "dom0+%s:%s" % (port, device), payload)


def unassign_pci(qube, port, device):
    call("admin.vm.device.pci.Unassign", qube, "dom0+%s:%s" % (port, device))


def assign_usb(qube, backend, port, device, mode="auto-attach"):
    """For good: each time that `qube` or `backend` starts, or the device is plugged in. One that is
    plugged in already waits for that, see `attach_usb`. qubesd checks nothing of it."""
    call(
        "admin.vm.device.usb.Assign",
        qube,
        _usb_arg(backend, port, device),
        _usb_payload(qube, backend, port, device, mode),
    )


def unassign_usb(qube, backend, port, device):
    """Whoever has it now keeps it until `detach_usb`."""
    call("admin.vm.device.usb.Unassign", qube, _usb_arg(backend, port, device))


def attach_usb(qube, backend, port, device):
    """Until one of the two qubes goes off, or the device is pulled out."""
    call(
        "admin.vm.device.usb.Attach",
        qube,
        _usb_arg(backend, port, device),
        _usb_payload(qube, backend, port, device, "manual"),
    )


def detach_usb(qube, backend, port, device):
    call("admin.vm.device.usb.Detach", qube, _usb_arg(backend, port, device))


def give_usb(qube, backend, port, device):
    """Lets a qube that runs have what is assigned to it, plugged in and nobody else's now."""
    if power_state(qube) == "Running":
        for one in _usb_present(backend, port, device):
            if one["attachment"] is None:
                attach_usb(qube, backend, one["port"], one["device"])


def take_usb(qube, backend, port, device):
    """The assignment goes, and before it the device from the qube that has it: whoever is cut off in
    between finds the assignment still there, and does both again."""
    for one in _usb_present(backend, port, device):
        if one["attachment"] == qube:
            detach_usb(qube, backend, one["port"], one["device"])
    unassign_usb(qube, backend, port, device)


def _usb_present(backend, port, device):
    return [
        one
        for one in usb_available(backend)
        if port in ("*", one["port"]) and device in ("*", one["device"])
    ]


def _usb_arg(backend, port, device):
    return "%s+%s:%s" % (backend, port, device)


def _usb_payload(qube, backend, port, device, mode):
    fields = [
        ("device_id", device),
        ("port_id", port),
        ("devclass", "usb"),
        ("backend_domain", backend),
        ("mode", mode),
        ("frontend_domain", qube),
    ]
    return " ".join("%s='%s'" % field for field in fields)


def start(qube, timeout=180):
    """Returns when the qube's agent answers, as qubesd does. No error where it already runs
    (§5)."""
    call("admin.vm.Start", qube, timeout=timeout)


def shutdown(qube, force=False):
    """Asks the qube to shut down and returns at once. No error where it is not running.

    qubesd refuses while running qubes name this one as their GUI domain, unless `force`d.
    """
    arg = "force" if force else ""
    _or_none(("QubesVMNotStartedError",), call, "admin.vm.Shutdown", qube, arg)


def kill(qube):
    _or_none(("QubesVMNotStartedError",), call, "admin.vm.Kill", qube)


# -- volumes


def volume_info(qube, volume):
    """{"pool", "revisions_to_keep", "save_on_stop" …} as text; None where qube or volume does not
    exist."""
    try:
        text = call("admin.vm.volume.Info", qube, volume)
    except EmptyReply:  # no such volume
        return None
    except AdminError as error:
        if error.type == "QubesVMNotFoundError":
            return None
        raise
    return dict(line.partition("=")[::2] for line in _lines(text))


def pool_driver(pool):
    """"lvm_thin", "file-reflink", "zfs", "file" …; "" where it is not known."""
    try:
        text = call("admin.pool.Info", "dom0", pool)
    except AdminError:
        return ""
    return dict(line.partition("=")[::2] for line in _lines(text)).get("driver", "")


def volume_revisions(qube, volume):
    """Ids of what the volume was before, the oldest first. Qubes makes one each time that the qube has
    stopped: of the volume as it was when that had started (core-admin, storage/lvm.py _commit,
    storage/reflink.py _commit)."""
    return _lines(call("admin.vm.volume.ListSnapshots", qube, volume))


def keep_revisions(qube, volume, number):
    call("admin.vm.volume.Set.revisions_to_keep", qube, volume, str(number))


def revert_volume(qube, volume, revision):
    """Refused while the qube runs. Afterwards the revision is still there, or (reflink) is not."""
    call("admin.vm.volume.Revert", qube, volume, revision, 600)
