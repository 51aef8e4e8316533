"""USB devices as a qube with their controller shows them to others, and as qubesd gives them away (qubes-app-linux-usb-proxy 4.3.6,
qubesusbproxy/core3ext.py; core-admin, devices.py and device_protocol.py).

The world's "usb" lists what is plugged in: {at: sbdf of the controller, port: "1-2", vendor, product, serial, interfaces: ["010100"],
name}. Who has what is of the boot: {backend: {port: frontend}}.
"""

from .errors import (
    DeviceAlreadyAssigned,
    DeviceAlreadyAttached,
    DeviceNotAssigned,
    QubesException,
    QubesVMNotRunningError,
    Refused,
)

PROXY = "qubes-usb-proxy"
MODES = ("required", "auto-attach", "ask-to-attach")


def device_id(each):
    interfaces = "".join("u" + code for code in each["interfaces"])
    return "%s:%s:%s:%s" % (each["vendor"], each["product"], each.get("serial", ""), interfaces)


def has_proxy(system, qube):
    template = (system.world.get("templates") or {}).get(system.template_of(qube)) or {}
    return PROXY in template.get("packages", {})


def available(system, qube):
    """{port: (device id, entry)} of what is behind the controllers that it has now; its own rules tell dom0 of it, where it has them."""
    given = (qube.run or {}).get("attached", [])
    if qube.klass == "AdminVM" or not qube.is_running() or not has_proxy(system, qube):
        return {}
    return {each["port"]: (device_id(each), each) for each in system.world.get("usb") or [] if each["at"] in given}


def holders(system):
    """{(backend, port): frontend} of what is attached and still plugged in."""
    found = {}
    for backend, ports in system.boot.setdefault("usb", {}).items():
        there = available(system, system.qubes[backend]) if backend in system.qubes else {}
        found.update({(backend, port): name for port, name in ports.items() if port in there and name in system.running})
    return found


def fits(assignment, backend, port, identity):
    return (
        assignment["backend"] == backend
        and assignment["port"] in ("*", port)
        and assignment["device"] in ("*", identity)
    )


def find(qube, backend, port, identity):
    return next((e for e in qube.usb if (e["backend"], e["port"], e["device"]) == (backend, port, identity)), None)


def assign(qube, backend, port, identity, mode, options):
    """Whether the device is there, and whether the backend runs, nobody asks; `required` is taken too."""
    if find(qube, backend, port, identity):
        raise DeviceAlreadyAssigned(
            "usb device %s:%s:%s already assigned to %s" % (backend, port, identity, qube.name)
        )
    if mode not in MODES:
        raise Refused("Only auto-attachable devices can be assigned.")
    if options:
        raise QubesException("USB device assignment does not support user options")
    qube.usb.append({"backend": backend, "port": port, "device": identity, "mode": mode})
    qube.system.emit(qube.name, "device-assign:usb", {"device": "%s:%s:%s" % (backend, port, identity), "options": "{}"})


def unassign(qube, backend, port, identity):
    """Does not take it out of a qube that has it now."""
    found = find(qube, backend, port, identity)
    if not found:
        raise DeviceNotAssigned("usb device %s:%s:%s not assigned to %s" % (backend, port, identity, qube.name))
    qube.usb.remove(found)
    qube.system.emit(qube.name, "device-unassign:usb", {"device": "%s:%s:%s" % (backend, port, identity)})


def attach(qube, backend, port, options):
    system = qube.system
    if qube.is_halted():
        raise QubesVMNotRunningError(qube.name, "VM not running, cannot attach device, do you mean `assign`?")
    if port not in available(system, system.qube(backend)):
        raise Refused("Cannot attach unknown usb device.")
    holder = holders(system).get((backend, port))
    if holder == qube.name:
        raise DeviceAlreadyAttached("device %s:%s of class usb already attached to %s" % (backend, port, qube.name))
    if options:
        raise QubesException("USB device attach does not support user options")
    if holder:
        raise DeviceAlreadyAttached("Device %s:%s already attached to %s" % (backend, port, holder))
    if not has_proxy(system, qube):
        raise QubesException("qubes-usb-proxy not installed in the VM")
    system.boot["usb"].setdefault(backend, {})[port] = qube.name
    system.emit(qube.name, "device-attach:usb", {"device": "%s:%s" % (backend, port), "options": "{}"})


def detach(qube, backend, port):
    if holders(qube.system).get((backend, port)) != qube.name:
        raise DeviceNotAssigned("usb device %s not attached to %s" % (port, qube.name))
    del qube.system.boot["usb"][backend][port]
    qube.system.emit(qube.name, "device-detach:usb", {"port": "%s:%s" % (backend, port)})


def started(system, qube):
    """What is assigned comes by itself, to a qube that starts and, of a USB qube that starts, to those that run. What cannot be
    attached is not (an error of qubesd's log); to two at once, and in ask-to-attach, a person is asked: nobody answers here.
    """
    for backend in system.qubes.values():
        for port, (identity, _) in available(system, backend).items():
            takers = [
                other
                for other in system.qubes.values()
                if other.run
                and (other is qube or backend is qube)
                and any(e["mode"] != "ask-to-attach" and fits(e, backend.name, port, identity) for e in other.usb)
            ]
            if len(takers) == 1 and (backend.name, port) not in holders(system):
                try:
                    attach(takers[0], backend.name, port, {})
                except (QubesException, Refused):
                    pass


def gone(system, name):
    held = system.boot.get("usb", {})
    held.pop(name, None)
    for ports in held.values():
        for port in [port for port, holder in ports.items() if holder == name]:
            del ports[port]


def inside(system, qube):
    """What its kernel sees of the devices of others."""
    return [
        available(system, system.qubes[backend])[port][1]
        for (backend, port), holder in sorted(holders(system).items())
        if holder == qube.name
    ]
