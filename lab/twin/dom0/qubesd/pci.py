"""PCI functions of the twin's machine as Qubes 4.3 names them (qubes-cli-formats.md §6)."""

import re

# Full names as pci.ids has them, for profiles that give only a short "name".
VENDORS = {
    "8086": "Intel Corporation",
    "10de": "NVIDIA Corporation",
    "1002": "Advanced Micro Devices, Inc. [AMD/ATI]",
    "1022": "Advanced Micro Devices, Inc. [AMD]",
    "10ec": "Realtek Semiconductor Co., Ltd.",
    "1b21": "ASMedia Technology Inc.",
    "144d": "Samsung Electronics Co Ltd",
    "14e4": "Broadcom Inc. and subsidiaries",
    "1217": "O2 Micro, Inc.",
    "1180": "Ricoh Co Ltd",
    "168c": "Qualcomm Atheros",
    "14c3": "MEDIATEK Corp.",
    "15b7": "Sandisk Corp",
    "1c5c": "SK hynix",
    "1987": "Phison Electronics Corporation",
    "102b": "Matrox Electronics Systems Ltd.",
}
PATH = re.compile(
    r"\A(?:[0-9a-f]{4}_)?[0-9a-f]{2}_[0-9a-f]{2}\.[0-9a-f](?:-[0-9a-f]{2}_[0-9a-f]{2}\.[0-9a-f])*\Z"
)


class Function:
    """One PCI function: sbdf, port (Qubes' path id), interface ("p030000"), device_id, vendor,
    product, resets, parent (the bridge above, its sbdf); `raw` is the profile's entry.
    """

    def __init__(self, raw, machine, without_reset=False):
        self.raw = raw
        self.sbdf = raw["sbdf"]
        self.bus = self.sbdf.rsplit(":", 1)[0]  # segment and bus: "0000:01"
        self.interface = "p" + class_code(raw)
        self.device_id = "0x%s:0x%s::%s" % (raw["vendor"], raw["device"] or "ffff", self.interface)
        self.vendor = raw.get("vendorName") or VENDORS.get(raw["vendor"], "unknown")
        self.product = (
            raw.get("productName") or (raw.get("name") or "").partition(" ")[2] or "unknown"
        )
        self.secondary = (raw.get("bridge") or {}).get("secondary")
        self.port = port_of(raw, machine)
        above = bridge_above(raw, machine)
        self.parent = above["sbdf"] if above else None
        self.resets = reset_methods(raw, machine)
        if without_reset and self.is_display():
            self.resets = []

    def is_display(self):
        return self.interface.startswith("p03")


def class_code(raw):
    """Class, subclass and programming interface, 6 hex digits; a profile without the last has it
    from the name.
    """
    if len(raw["class"]) == 6:
        return raw["class"]
    if raw.get("interface"):
        return raw["class"] + raw["interface"]
    if raw["class"] != "0c03":
        return raw["class"] + "00"
    name = "%s %s" % (raw.get("name"), raw.get("productName"))
    for word, interface in (("EHCI", "20"), ("Enhanced", "20"), ("OHCI", "10"), ("UHCI", "00")):
        if word.lower() in name.lower():
            return raw["class"] + interface
    return raw["class"] + "30"


def bridge_above(raw, machine):
    segment, bus, _ = raw["sbdf"].split(":")
    for other in machine["devices"]:
        if (other.get("bridge") or {}).get("secondary") == bus and other["sbdf"].split(":")[
            0
        ] == segment:
            return other
    return None


def port_of(raw, machine):
    """The bridge chain, each bus relative to its parent's secondary one; a segment other than 0000
    comes first.
    """
    segment, bus, slot = raw["sbdf"].split(":")
    bridge = bridge_above(raw, machine)
    if bridge is None:
        return ("" if segment == "0000" else segment + "_") + "%s_%s" % (bus, slot)
    return "%s-%02x_%s" % (
        port_of(bridge, machine),
        int(bus, 16) - int(bridge["bridge"]["secondary"], 16),
        slot,
    )


def reset_methods(raw, machine):
    """As the kernel offers them: given, or from what the capabilities say; a bus reset needs the
    bus for itself.
    """
    if raw.get("reset") is not None:
        return list(raw["reset"])
    methods = [name for name, key in (("flr", "flr"), ("pm", "pmReset")) if raw.get(key)]
    bus = raw["sbdf"][:-4]
    alone = sum(other["sbdf"][:-4] == bus for other in machine["devices"]) == 1
    return methods + (["bus"] if bridge_above(raw, machine) and alone else [])


def functions(machine, without_reset=False, every=False):
    """Every function that libvirt lists: names of more than four segment digits (a VMD's) it does
    not know; with `every` those too. `without_reset`: the fault noReset, displays cannot be reset.
    """
    known = [raw for raw in machine["devices"] if every or len(raw["sbdf"].split(":")[0]) == 4]
    return [Function(raw, machine, without_reset) for raw in known]


def sbdf_of_path(port, devices):
    """Where a path leads, whether or not a function is there; None for what is not a path on a root
    bus.
    """
    if not PATH.match(port):
        return None
    by_sbdf = {device.sbdf: device for device in devices}
    secondaries = {
        device.sbdf.split(":")[0] + ":" + device.secondary for device in devices if device.secondary
    }
    segment, rest = (port[:4], port[5:]) if re.match(r"[0-9a-f]{4}_", port) else ("0000", port)
    offset, sbdf = 0, None
    for part in rest.split("-"):
        bus, slot = part.split("_")
        if sbdf is None and (
            "%s:%s" % (segment, bus) in secondaries
            or int(bus, 16) not in root_buses(devices, segment)
        ):
            return None
        if offset is None:
            return None
        sbdf = "%s:%02x:%s" % (segment, int(bus, 16) + offset, slot)
        bridge = by_sbdf.get(sbdf)
        offset = int(bridge.secondary, 16) if bridge and bridge.secondary else None
    return sbdf


def root_buses(devices, segment):
    behind = {
        device.secondary
        for device in devices
        if device.secondary and device.sbdf.startswith(segment)
    }
    buses = {device.sbdf.split(":")[1] for device in devices if device.sbdf.startswith(segment)}
    return {int(bus, 16) for bus in buses - behind}
