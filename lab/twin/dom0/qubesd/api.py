"""The Admin API's calls (qubes-cli-formats.md §7): a table from method to handler(call), which
gives the reply's text.
"""

import json
import re

from . import pci, usb, volumes
from .errors import (
    QubesFeatureNotFoundError,
    QubesTagNotFoundError,
    QubesValueError,
    Refused,
)
from .model import CLASSES

METHODS = {}


class Call:
    def __init__(self, system, method, arg, dest, payload):
        self.system, self.method, self.arg, self.dest, self.payload = (
            system,
            method,
            arg,
            dest,
            payload,
        )

    @property
    def qube(self):
        return self.system.qube(self.dest)

    @property
    def text(self):
        try:
            return self.payload.decode("ascii")
        except UnicodeDecodeError:
            raise Refused("payload is not ASCII")


def method(name, on_dom0=False, arg=False, payload=False, writes=False):
    """Registers a handler. Calls with an argument or payload that the method does not take are
    refused.
    """

    def register(handler):
        def run(call):
            call.qube  # an unknown destination is the first thing that fails
            if (
                (on_dom0 and call.dest != "dom0")
                or (call.arg and not arg)
                or (call.payload and not payload)
            ):
                raise Refused("not valid for %s" % name)
            return handler(call) or ""

        run.writes = writes
        METHODS[name] = run
        return handler

    return register


def lines(items):
    return "".join("%s\n" % item for item in items)


# --- properties


def serialize(holder, name):
    value = holder.value(name)
    text = "" if value is None else str(value)
    return "default=%s type=%s %s" % (holder.is_default(name), holder.definition(name).type, text)


def holder_methods(prefix, holder_of, on_dom0):
    def each(name, **options):
        return method("%s.%s" % (prefix, name), on_dom0=on_dom0, **options)

    @each("List")
    def names(call):
        return lines(holder_of(call).definitions)

    @each("GetAll")
    def get_all(call):
        holder = holder_of(call)
        return lines(
            "%s %s" % (name, serialize(holder, name).replace("\\", "\\\\").replace("\n", "\\n"))
            for name in holder.definitions
        )

    @each("Get", arg=True)
    def get(call):
        holder_of(call).definition(call.arg)
        return serialize(holder_of(call), call.arg)

    @each("GetDefault", arg=True)
    def get_default(call):
        holder = holder_of(call)
        definition = holder.definition(call.arg)
        if definition.once or call.arg in ("label", "template"):
            return ""
        value = definition.default(holder)
        return "type=%s %s" % (definition.type, "" if value is None else value)

    @each("Set", arg=True, payload=True, writes=True)
    def set_(call):
        holder_of(call).definition(call.arg)
        try:
            text = call.payload.decode()
        except UnicodeDecodeError:
            text = "\ufffd"
        holder_of(call).set(call.arg, text)

    @each("Reset", arg=True, writes=True)
    def reset(call):
        holder_of(call).reset(call.arg)


holder_methods("admin.vm.property", lambda call: call.qube, False)
holder_methods("admin.property", lambda call: call.system, True)


# --- lists


@method("admin.vm.List")
def vm_list(call):
    system = call.system
    qubes = (
        [call.qube]
        if call.dest != "dom0"
        else sorted(system.qubes.values(), key=lambda q: (q.name != "dom0", q.name))
    )
    return lines(
        "%s class=%s state=%s uuid=%s" % (q.name, q.klass, q.state(), q.uuid) for q in qubes
    )


@method("admin.vmclass.List", on_dom0=True)
def vmclass_list(call):
    return lines(CLASSES)


@method("admin.label.List", on_dom0=True)
def label_list(call):
    return lines(call.system.labels)


@method("admin.label.Index", on_dom0=True, arg=True)
def label_index(call):
    return str(call.system.labels.index(call.system.label(call.arg)) + 1)


@method("admin.pool.List", on_dom0=True)
def pool_list(call):
    return lines(call.system.pools)


@method("admin.pool.Info", on_dom0=True, arg=True)
def pool_info(call):
    """Of file-reflink, the one driver there is (core-admin 4.3: api/admin.py pool_info, storage/reflink.py config)."""
    if call.arg not in call.system.pools:
        raise Refused("no such pool")
    if call.arg == volumes.KERNELS:
        return lines(["dir_path=/var/lib/qubes/vm-kernels", "driver=linux-kernel", "name=" + call.arg])
    config = {"dir_path": volumes.BASE, "driver": "file-reflink", "ephemeral_volatile": False, "revisions_to_keep": volumes.KEPT}
    return lines("%s=%s" % each for each in sorted(dict(config, name=call.arg).items()))


@method("admin.deviceclass.List", on_dom0=True)
def deviceclass_list(call):
    return lines(["block", "mic", "pci", "usb"])


# --- features and tags


@method("admin.vm.feature.List")
def feature_list(call):
    return lines(call.qube.features)


def found(call, value):
    if value is None:
        raise QubesFeatureNotFoundError(call.dest, call.arg)
    return value


@method("admin.vm.feature.Get", arg=True)
def feature_get(call):
    return found(call, call.qube.features.get(call.arg))


@method("admin.vm.feature.CheckWithTemplate", arg=True)
def feature_check_with_template(call):
    return found(call, call.qube.feature_with_template(call.arg))


@method("admin.vm.feature.CheckWithAdminVM", arg=True)
def feature_check_with_adminvm(call):
    own = call.qube.features.get(call.arg)
    return found(call, own if own is not None else call.system.qube("dom0").features.get(call.arg))


@method("admin.vm.feature.Set", arg=True, payload=True, writes=True)
def feature_set(call):
    if not re.fullmatch(r"[a-zA-Z0-9_.-]+", call.arg) or not re.fullmatch(
        r"[\x20-\x7e]*", call.text
    ):
        raise Refused("illegal feature name or value")
    call.qube.set_feature(call.arg, call.text)


@method("admin.vm.feature.Remove", arg=True, writes=True)
def feature_remove(call):
    found(call, call.qube.features.get(call.arg))
    call.qube.remove_feature(call.arg)


@method("admin.vm.tag.List")
def tag_list(call):
    return lines(sorted(call.qube.tags))


def tag_name(call):
    if not re.fullmatch(r"[a-zA-Z0-9_-]+", call.arg):
        raise Refused("illegal tag name")
    return call.arg


@method("admin.vm.tag.Get", arg=True)
def tag_get(call):
    return "1" if tag_name(call) in call.qube.tags else "0"


@method("admin.vm.tag.Set", arg=True, writes=True)
def tag_set(call):
    call.qube.add_tag(tag_name(call))


@method("admin.vm.tag.Remove", arg=True, writes=True)
def tag_remove(call):
    if tag_name(call) not in call.qube.tags:
        raise QubesTagNotFoundError(call.dest, call.arg)
    call.qube.remove_tag(call.arg)


# --- life of a qube


def create(call):
    klass = call.method.rpartition(".")[2]
    values = {}
    for part in call.text.split(" "):
        key, equals, value = part.partition("=")
        if not equals or key not in ("name", "label") or key in values:
            raise Refused("not a parameter: %s" % part)
        values[key] = value
    if set(values) != {"name", "label"}:
        raise Refused("name and label are needed")
    call.system.create(klass, values["name"], values["label"], call.arg or None, "dom0")


for klass in CLASSES:
    method("admin.vm.Create." + klass, on_dom0=True, arg=True, payload=True, writes=True)(create)


@method("admin.vm.Remove", writes=True)
def remove(call):
    call.system.remove(call.qube)


@method("admin.vm.Start", writes=True)
def start(call):
    call.system.start(call.qube)


@method("internal.vm.Autostart", writes=True)
def autostart(call):
    """What the unit qubes-vm@NAME asks for; nobody waits for the qube's agent."""
    call.system.start(call.qube)


@method("admin.vm.Shutdown", arg=True, writes=True)
def shutdown(call):
    words = set(call.arg.split("+")) - {""}
    if not words <= {"force", "wait"}:
        raise Refused("not an argument of Shutdown")
    call.system.shutdown(call.qube, "force" in words)


@method("admin.vm.Kill", writes=True)
def kill(call):
    call.system.kill(call.qube)


@method("admin.vm.Pause", writes=True)
def pause(call):
    call.system.pause(call.qube)


@method("admin.vm.Unpause", writes=True)
def unpause(call):
    call.system.unpause(call.qube)


@method("admin.vm.CurrentState")
def current_state(call):
    qube = call.qube
    return "mem=%d mem_static_max=%d cputime=%d power_state=%s" % (
        qube.memory_now(),
        qube.memory_most(),
        qube.cpu_time(),
        qube.state(),
    )


def volume(call):
    found = volumes.volumes(call.qube, call.system.host.storage)
    if call.arg not in found:
        raise Refused("Argument not in '%s volumes'" % call.dest)
    return found[call.arg]


@method("admin.vm.volume.List")
def volume_list(call):
    return lines(volumes.volumes(call.qube))


@method("admin.vm.volume.Info", arg=True)
def volume_info(call):
    return "".join("%s=%s\n" % row for row in volume(call).rows())


@method("admin.vm.volume.ListSnapshots", arg=True)
def volume_list_snapshots(call):
    found = volume(call).revisions
    return lines(sorted(found, key=found.__getitem__))


@method("admin.vm.volume.Revert", arg=True, payload=True, writes=True)
def volume_revert(call):
    revision = call.text.strip()
    if not re.fullmatch(r"[A-Za-z0-9:_.-]*", revision):
        raise Refused("not a revision's name")
    volume(call).revert(revision)


@method("admin.vm.volume.Set.revisions_to_keep", arg=True, payload=True, writes=True)
def volume_set_revisions_to_keep(call):
    volume(call)
    if not re.fullmatch(r"-?(0|[1-9][0-9]{0,18})", call.text):
        raise Refused("Revisions to keep contains non ASCII digits")
    volumes.keep(call.qube, call.arg, int(call.text))


@method("admin.vm.volume.CloneFrom", arg=True)
def volume_clone_from(call):
    """The token of a copy is the volume's own name here."""
    volume(call)
    return "%s+%s" % (call.qube.name, call.arg)


@method("admin.vm.volume.CloneTo", arg=True, payload=True, writes=True)
def volume_clone_to(call):
    source, _, name = call.text.partition("+")
    qube = call.system.qube(source)
    target, origin = volume(call), volumes.volumes(qube, call.system.host.storage).get(name)
    if origin is None:
        raise Refused("Token to clone volume of qube was not found")
    target.import_volume(origin)
    if name == "root":
        call.qube.root = qube.root or (qube.template or qube).name


# --- PCI devices


def fields(pairs):
    return " ".join("%s='%s'" % (key, value.replace("'", "\\'")) for key, value in pairs)


@method("admin.vm.device.pci.Available", arg=True)
def pci_available(call):
    if call.dest != "dom0":
        return ""  # only dom0 has PCI devices to give
    rows = {}
    for device in call.system.functions():
        if call.arg in ("", device.port):
            rows["%s:%s" % (device.port, device.device_id)] = fields(
                [
                    ("device_id", device.device_id),
                    ("port_id", device.port),
                    ("devclass", "pci"),
                    ("backend_domain", "dom0"),
                    ("vendor", device.vendor),
                    ("product", device.product),
                    ("interfaces", device.interface),
                    ("_sbdf", device.sbdf),
                ]
            )
    return lines("%s %s" % row for row in sorted(rows.items()))


def assignment_row(port, device, mode, frontend, options):
    basic = [
        ("device_id", device),
        ("port_id", port),
        ("devclass", "pci"),
        ("backend_domain", "dom0"),
    ]
    more = [("mode", mode), ("frontend_domain", frontend)] + [
        ("_" + key, value) for key, value in options.items()
    ]
    return "dom0+%s:%s" % (port, device), fields(basic + more)


def of_port(call, rows):
    """Only the port that the argument names, `dom0+PORT`."""
    wanted = call.arg.partition("+")[2]
    return lines(
        "%s %s" % row
        for row in sorted(rows)
        if not wanted or row[0].startswith("dom0+%s:" % wanted)
    )


@method("admin.vm.device.pci.Assigned", arg=True)
def pci_assigned(call):
    rows = [
        assignment_row(e["port"], e["device"], e["mode"], call.dest, e["options"])
        for e in call.qube.pci
    ]
    return of_port(call, rows)


@method("admin.vm.device.pci.Attached", arg=True)
def pci_attached(call):
    rows = []
    for device, each in call.qube.attached():
        mode, options = (each["mode"], each["options"]) if each else ("manual", {})
        rows.append(assignment_row(device.port, device.device_id, mode, call.dest, options))
    return of_port(call, rows)


def device_of(call):
    """(port, device id) of an argument `dom0+PORT:ID`; + stands for : in what passes through
    qrexec, _ for * and for the ? of an unknown device.
    """
    backend, plus, identity = call.arg.partition("+")
    call.system.qube(backend)
    port, _, device = identity.replace("+", ":").partition(":")
    device = device.replace("_" * len("?******"), "?******")
    if not plus or not port:
        raise Refused("not a device")
    return ("*" if port == "_" else port), ("*" if device == "_" else device)


def real_id(call, port, device):
    """The id that an entry gets: the one given, or that of the function at the port, or Qubes'
    unknown device.
    """
    if device:
        return device
    there = next((each for each in call.system.functions() if each.port == port), None)
    return there.device_id if there else "0000:0000::?******"


def must_be_there(call, port, device):
    """An entry with both port and id is looked up in libvirt, and a function that is gone from a bus
    that is still there is an error of qubesd's own: no byte comes back, and such an entry can be
    neither made nor taken away (seen on real core-admin 4.3.50; api/admin.py, load_device_info).
    """
    if "*" in (port, device):
        return
    present = call.system.functions()
    if all(each.port != port for each in present) and pci.sbdf_of_path(port, present):
        raise Refused("libvirt: no node device at %s" % port)


def unpack(text):
    """{key: value} of `key='value' key='value'`."""
    found = re.findall(r"([^\s=]+)='((?:[^'\\]|\\.)*)'(?:\s|$)", text)
    if " ".join("%s='%s'" % pair for pair in found) != text.strip():
        raise Refused("not a device's properties")
    return {key: value.replace("\\'", "'") for key, value in found}


@method("admin.vm.device.pci.Assign", arg=True, payload=True, writes=True)
def pci_assign(call):
    port, device = device_of(call)
    must_be_there(call, port, device)
    values = unpack(call.text)
    expected = {"backend_domain": "dom0", "port_id": port, "devclass": "pci"}
    if any(values.get(key, value) != value for key, value in expected.items()):
        raise Refused("the payload speaks of another device")
    mode = values.get("mode", "manual")
    if mode not in ("required", "auto-attach", "ask-to-attach"):
        raise Refused("Only auto-attachable devices can be assigned.")
    options = {key[1:]: value for key, value in values.items() if key.startswith("_")}
    call.qube.assign(port, values.get("device_id") or real_id(call, port, device), mode, options)


@method("admin.vm.device.pci.Unassign", arg=True, writes=True)
def pci_unassign(call):
    port, device = device_of(call)
    must_be_there(call, port, device)
    call.qube.unassign(port, real_id(call, port, device))


@method("admin.vm.device.pci.Detach", arg=True, writes=True)
def pci_detach(call):
    call.qube.detach(device_of(call)[0])


# --- USB devices of other qubes


@method("admin.vm.device.usb.Available", arg=True)
def usb_available(call):
    held, rows = usb.holders(call.system), {}
    for port, (identity, each) in usb.available(call.system, call.qube).items():
        if call.arg in ("", port):
            pairs = [("device_id", identity), ("port_id", port), ("devclass", "usb"), ("backend_domain", call.dest)]
            pairs += [(key, each.get(key, "unknown")) for key in ("vendorName", "productName")]
            if (call.dest, port) in held:
                pairs.append(("attachment", held[call.dest, port]))
            pairs.append(("interfaces", "".join("u" + code for code in each["interfaces"])))
            names = {"vendorName": "vendor", "productName": "product"}
            rows["%s:%s" % (port, identity)] = fields([(names.get(key, key), value) for key, value in pairs])
    return lines("%s %s" % row for row in sorted(rows.items()))


def usb_row(call, backend, port, identity, mode):
    pairs = [("device_id", identity), ("port_id", port), ("devclass", "usb"), ("backend_domain", backend)]
    pairs += [("mode", mode), ("frontend_domain", call.dest)]
    return "%s+%s:%s %s" % (backend, port, identity, fields(pairs))


def usb_of_arg(call):
    """(backend, port, device id) of `BACKEND+PORT:ID`."""
    port, device = device_of(call)
    return call.arg.partition("+")[0], port, device


@method("admin.vm.device.usb.Assigned", arg=True)
def usb_assigned(call):
    rows = [usb_row(call, e["backend"], e["port"], e["device"], e["mode"]) for e in call.qube.usb]
    return lines(sorted(row for row in rows if not call.arg or row.startswith(call.arg + ":")))


@method("admin.vm.device.usb.Attached", arg=True)
def usb_attached(call):
    rows = []
    for (backend, port), holder in usb.holders(call.system).items():
        if holder == call.dest:
            identity = usb.available(call.system, call.system.qube(backend))[port][0]
            each = usb.find(call.qube, backend, port, identity)
            rows.append(usb_row(call, backend, port, identity, each["mode"] if each else "manual"))
    return lines(sorted(row for row in rows if not call.arg or row.startswith(call.arg + ":")))


@method("admin.vm.device.usb.Assign", arg=True, payload=True, writes=True)
def usb_assign(call):
    backend, port, device = usb_of_arg(call)
    values = unpack(call.text)
    expected = {"backend_domain": backend, "port_id": port, "devclass": "usb"}
    if any(values.get(key, value) != value for key, value in expected.items()):
        raise Refused("the payload speaks of another device")
    options = {key: value for key, value in values.items() if key.startswith("_")}
    usb.assign(call.qube, backend, port, values.get("device_id") or device, values.get("mode", "manual"), options)


@method("admin.vm.device.usb.Unassign", arg=True, writes=True)
def usb_unassign(call):
    usb.unassign(call.qube, *usb_of_arg(call))


@method("admin.vm.device.usb.Attach", arg=True, payload=True, writes=True)
def usb_attach(call):
    backend, port, _ = usb_of_arg(call)
    usb.attach(call.qube, backend, port, any(key.startswith("_") for key in unpack(call.text)))


@method("admin.vm.device.usb.Detach", arg=True, writes=True)
def usb_detach(call):
    backend, port, _ = usb_of_arg(call)
    usb.detach(call.qube, backend, port)


# --- the microphone


def mic_row(call):
    """There is one, of dom0, whoever plays the sound (gui-daemon, qubesguidaemon/mic.py)."""
    identity = [
        ("device_id", "dom0:mic::m000000"),
        ("port_id", "mic"),
        ("devclass", "mic"),
        ("backend_domain", "dom0"),
    ]
    return "mic:dom0:mic::m000000", identity


@method("admin.vm.device.mic.Available", arg=True)
def mic_available(call):
    if call.dest != "dom0" or call.arg not in ("", "mic"):
        return ""
    name, identity = mic_row(call)
    more = [("product", "microphone"), ("manufacturer", "default"), ("interfaces", "m000000")]
    return lines(["%s %s" % (name, fields(identity + more))])


@method("admin.vm.device.mic.Assigned", arg=True)
def mic_assigned(call):
    return ""  # nothing here assigns it for good


@method("admin.vm.device.mic.Attached", arg=True)
def mic_attached(call):
    if not call.qube.hears_microphone():
        return ""
    name, identity = mic_row(call)
    more = [("mode", "manual"), ("frontend_domain", call.dest)]
    return lines(["dom0+%s %s" % (name, fields(identity + more))])


@method("admin.vm.device.mic.Attach", arg=True, payload=True, writes=True)
def mic_attach(call):
    if device_of(call)[0] != "mic":
        raise Refused("there is one microphone, mic")
    call.qube.attach_microphone(any(key.startswith("_") for key in unpack(call.text)))


@method("admin.vm.device.mic.Detach", arg=True, writes=True)
def mic_detach(call):
    if device_of(call)[0] != "mic":
        raise Refused("there is one microphone, mic")
    call.qube.detach_microphone()


# --- for dom0's own programs


@method("internal.GetSystemInfo", on_dom0=True)
def system_info(call):
    """{"domains": what a policy's tokens ask about}."""
    return json.dumps({"domains": call.system.policy_facts()})


@method("internal.ShutdownAll", on_dom0=True, writes=True)
def shutdown_all(call):
    """dom0 goes down in order: every qube is shut down, and nobody asks for reasons."""
    for name in list(call.system.running):
        call.system.gone(name)


@method("internal.GetQube")
def get_qube(call):
    return json.dumps(call.system.inside(call.qube))


def execute(system, method_name, arg, dest, payload):
    """(reply text, whether state may have changed)."""
    handler = METHODS.get(method_name)
    if handler is None:
        raise Refused("no such method")
    refusal = (system.world.fault("refuse", dest) or {}).get("%s+%s" % (method_name, arg))
    if refusal:
        raise QubesValueError(refusal)
    return handler(Call(system, method_name, arg, dest, payload)), handler.writes
