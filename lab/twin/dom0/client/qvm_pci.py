"""qvm-pci (qubes-cli-formats.md §6)."""

import argparse
import re

from .admin import Parser, QubesException, call, complain, print_table, qubes, state

# Category by the longest start of the class code that is listed.
CATEGORIES = {
    "01": "Storage",
    "02": "Network",
    "03": "Multimedia",
    "0300": "Display",
    "0380": "Display",
    "04": "Multimedia",
    "0401": "Audio",
    "0403": "Audio",
    "0408": "Audio",
    "05": "Memory",
    "06": "PCI_Bridge",
    "0703": "Network",
    "09": "Input",
    "0900": "Keyboard",
    "0902": "Mouse",
    "0903": "Camera",
    "0a": "Docking_Station",
    "0b": "Processor",
    "0c": "PCI_Serial_Bus",
    "0c03": "PCI_USB",
    "0d11": "Bluetooth",
    "40": "Processor",
}
UNKNOWN = "0000:0000::?******"


def category(interface):
    code = interface[1:]
    for length in (4, 2):
        if code[:length] in CATEGORIES:
            return CATEGORIES[code[:length]]
    return "PCI device"


def unpack(line):
    """(identity, {key: value}) of a row of the Admin API."""
    identity, _, rest = line.partition(" ")
    found = re.findall(r"([^\s=]+)='((?:[^'\\]|\\.)*)'", rest)
    return identity, {key: value.replace("\\'", "'") for key, value in found}


class Device:
    def __init__(self, values):
        self.port, self.id, self.sbdf = (
            values["port_id"],
            values["device_id"],
            values.get("_sbdf", ""),
        )
        what = (
            category(values["interfaces"]),
            values.get("vendor", "unknown vendor"),
            values.get("product", "unknown pci device"),
        )
        self.description = "%s: %s %s" % what


def exposed():
    return [Device(unpack(line)[1]) for line in call("admin.vm.device.pci.Available").splitlines()]


def entries(name, kind):
    """[(port, device id, mode, [option text])] of `Assigned` or `Attached`."""
    found = []
    for line in call("admin.vm.device.pci." + kind, name).splitlines():
        _, values = unpack(line)
        options = [
            "%s=%s" % (key[1:], value) for key, value in values.items() if key.startswith("_")
        ]
        found.append((values["port_id"], values["device_id"], values["mode"], options))
    return found


def user(name, mode, options):
    return "%s (%s)" % (name, mode + (": " + ", ".join(options) if options else ""))


def list_(args, names):
    devices = exposed() if not args.qubes or "dom0" in args.qubes else []
    held = {name: entries(name, "Attached") for name in names}
    if args.qubes:
        wanted = {entry[0] for name in args.qubes for entry in held[name]}
        devices += [
            device for device in exposed() if device.port in wanted and device not in devices
        ]
    rows = []
    for device in devices:
        users = [
            user(name, "attached", entry[3])
            for name in names
            for entry in held[name]
            if entry[0] == device.port
        ]
        rows.append(["dom0:" + device.port, device.sbdf, device.description, ", ".join(users)])
    if args.assignments:
        seen = {}
        for name in names:
            for port, id_, mode, options in entries(name, "Assigned"):
                seen.setdefault((port, id_), []).append("*" + user(name, mode, options))
        for (port, id_), users in seen.items():
            # No SBDF: with --with-sbdf the real tool, too, ends in a TypeError here (qubes-host.md
            # (a)).
            rows.append(
                ["dom0:" + port, None, "any device" if id_ == "*" else id_, ", ".join(users)]
            )
    print_table(sorted(rows if args.with_sbdf else [[row[0]] + row[2:] for row in rows]))


def resolve(parser, text, allow_unknown):
    """(port, id) of BACKEND:PORT[:ID]; the id of what is at the port where none is given."""
    parts = text.split(":", 2)
    if len(parts) < 2:
        parser.error(
            "expected a backend vm, port id and [optional] device id combination "
            "like foo:bar[:baz] got "
            + text
        )
    backend, port = parts[:2]
    if backend not in qubes():
        parser.fail_runtime("no such backend vm!")
    there = next(
        (device for device in exposed() if backend == "dom0" and device.port == port), None
    )
    given = parts[2] if len(parts) == 3 else None
    if there and given in (None, there.id):
        return port, there.id, there
    if not allow_unknown:
        parser.fail_runtime("backend vm %s doesn't expose pci device %r" % (backend, port))
    return port, given or UNKNOWN, None


def assign(args, parser):
    port, id_, _ = resolve(parser, args.device, True)
    if args.only_port:
        id_ = "*"
    elif id_ == UNKNOWN:
        raise QubesException("backend vm dom0 doesn't expose pci device %r" % port)
    if args.only_device:
        port = "*"
    if not args.required:
        raise QubesException("PCI devices cannot be assigned as not required.")
    send(
        "Assign",
        args.qubes[0],
        port,
        id_,
        dict(option.split("=", 1) for option in args.option or []),
    )


def send(action, name, port, id_, options=None):
    payload = ""
    if options is not None:
        values = {"device_id": id_, "port_id": port, "devclass": "pci", "backend_domain": "dom0"}
        values.update({"mode": "required", "frontend_domain": name})
        values.update({"_" + key: value for key, value in options.items()})
        payload = " ".join(
            "%s='%s'" % (key, value.replace("'", "\\'")) for key, value in values.items()
        )
    arg = "dom0+%s+%s" % (port.replace("*", "_"), id_.replace(":", "+").replace("?", "_").replace("*", "_"))
    call("admin.vm.device.pci." + action, name, arg, payload.encode())


def attach(args, parser):
    port, id_, _ = resolve(parser, args.device, False)
    if not args.required:
        raise QubesException(
            "PCI devices cannot be attached manually, did you mean `qvm-pci assign --required ...`"
        )
    send(
        "Assign",
        args.qubes[0],
        port,
        id_,
        dict(option.split("=", 1) for option in args.option or []),
    )


def unassign(args, parser):
    name = args.qubes[0]
    if args.device:
        port, id_, _ = resolve(parser, args.device, True)
        found = [("*" if args.only_device else port, "*" if args.only_port else id_)]
    else:
        found = [entry[:2] for entry in entries(name, "Assigned")]
    for port, id_ in found:
        send("Unassign", name, port, id_)
        held = [] if state(name) == "Halted" else [entry[0] for entry in entries(name, "Attached")]
        hints = [
            "\tqvm-pci detach %s dom0:%s" % (name, each) for each in held if port in ("*", each)
        ]
        if hints and not args.quiet:
            print("Unassigned. To detach you can now restart domain or run: \n", "\n".join(hints))


def detach(args, parser):
    name = args.qubes[0]
    if args.device:
        send("Detach", name, *resolve(parser, args.device, True)[:2])
    else:
        for port, id_, _, _ in entries(name, "Attached"):
            send("Detach", name, port, id_)


def info(args, parser):
    _, _, device = resolve(parser, args.device, False)
    print(device.description)
    print("device ID: " + device.id)
    print("sbdf: " + device.sbdf)


class PciParser(Parser):
    def fail_runtime(self, message):
        raise QubesException(message)


def make_parser():
    parser = PciParser(description="Qubes volume and block device management")
    parser.add_argument("--list-device-classes", action="store_true")
    parser.set_defaults(func=None, names=[], assignments=False, with_sbdf=False)
    commands = parser.add_subparsers(
        title="commands", dest="command", parser_class=argparse.ArgumentParser
    )

    def command(name, aliases, func, device):
        sub = commands.add_parser(name, aliases=aliases)
        sub.set_defaults(func=func)
        if device:
            sub.add_argument("names", metavar="VMNAME", nargs=1)
        return sub

    sub = command("list", ("ls", "l"), None, False)
    sub.add_argument("--assignments", "-s", action="store_true")
    sub.add_argument("--with-sbdf", "--resolve-paths", action="store_true")
    sub.add_argument("names", metavar="VMNAME", nargs="*", default=[])
    attach_ = command("attach", ("at", "a"), attach, True)
    attach_.add_argument("--persistent", "-p", dest="required", action="store_true")
    command("detach", ("d", "dt"), detach, True).add_argument("device", nargs="?")
    assign_ = command("assign", ("s",), assign, True)
    assign_.add_argument("--required", "-r", action="store_true")
    assign_.add_argument("--ask", "--ask-to-attach", action="store_true")
    unassign_ = command("unassign", ("u",), unassign, True)
    for sub in (attach_, assign_):
        sub.add_argument("device", metavar="BACKEND:DEVICE_ID")
        sub.add_argument("--option", "-o", action="append")
        sub.add_argument("--ro", action="store_true")
    unassign_.add_argument("device", metavar="BACKEND:DEVICE_ID", nargs="?")
    for sub in (assign_, unassign_):
        sub.add_argument("--port", "--only-port", dest="only_port", action="store_true")
        sub.add_argument("--device", "--only-device", dest="only_device", action="store_true")
    command("info", ("i",), info, False).add_argument("device", metavar="BACKEND:DEVICE_ID")
    return parser


def main():
    parser = make_parser()
    args = parser.parse_args()
    if args.list_device_classes:
        print(call("admin.deviceclass.List"), end="")
        return 0
    known = qubes()
    for name in args.names:
        if name not in known:
            parser.error("no such domain: %r" % name)
    args.qubes = args.names
    try:
        if args.func:
            args.func(args, parser)
        else:
            list_(args, list(known))
    except QubesException as error:
        complain(error)
        return 1
    return 0
