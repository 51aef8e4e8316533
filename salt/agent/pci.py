"""What sysfs tells about each PCI function (PciFunction of src/host/protocol.ts), and what of dom0
hangs on it: screens, keyboards, disks, networks. Unknown is None. Writes nothing, runs nothing."""

import fnmatch
import os
import re

import common

PCI = "/sys/bus/pci/devices"
SBDF = re.compile(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
# Kinds of which a person may name the driver: network, display, multimedia, USB.
DRIVEN = ("02", "03", "04", "0c03")


def functions(available, inputs):
    """`available`: what admin.vm.device.pci.Available lists; it alone knows how ports are called.
    `inputs`: what `read_inputs` found."""
    known = {device["sbdf"]: device for device in available}
    try:
        addresses = sorted(os.listdir(common.path(PCI)))
    except OSError:
        return []
    # Linux >= 5.15 shows reset_method only where there is one; before, it shows it nowhere and we
    # know nothing.
    tells = any(os.path.exists(common.path("%s/%s/reset_method" % (PCI, a))) for a in addresses)
    found = {a: _function(a, known.get(a, {}), tells) for a in addresses}
    modules = _modules([fn for fn in found.values() if fn["class"].startswith(DRIVEN)])
    secondary = {
        (address[:-8], fn["bridge"]["secondary"]): address
        for address, fn in found.items()
        if fn["bridge"]
    }
    for address, fn in found.items():
        fn["module"] = modules.get(address)
        fn["parent"] = secondary.get((address[:-8], address[-7:-5]))
    for part, names in (
        ("inputs", [(kind, path) for path, kinds in inputs or [] for kind in kinds]),
        ("disks", _disks()),
        ("nets", _links("/sys/class/net", "/device")),
    ):
        for name, path in names:
            # Behind a volume manager (VMD) there are two functions on the way, both needed.
            for address in SBDF.findall(path):
                fn = found.get(address)
                if fn and not fn["bridge"] and name not in fn[part]:
                    fn[part].append(name)
    return list(found.values())


def _function(address, known, tells):
    folder = "%s/%s/" % (PCI, address)

    def text(name):
        return (common.read_text(folder + name, 256) or "").strip()

    def hexadecimal(name, digits):
        return text(name)[2:] if text(name).startswith("0x") else "0" * digits

    vendor, device = hexadecimal("subsystem_vendor", 4), hexadecimal("subsystem_device", 4)
    reset = common.read_text(folder + "reset_method", 256)
    try:
        driver = os.path.basename(os.readlink(common.path(folder + "driver")))
    except OSError:
        driver = None
    class_ = hexadecimal("class", 6)
    # In decimal, unlike every other number here.
    buses = [text(name + "_bus_number") for name in ("secondary", "subordinate")]
    return {
        "sbdf": address,
        "port": known.get("port"),
        "class": class_,
        "vendor": hexadecimal("vendor", 4),
        "device": hexadecimal("device", 4),
        "subsystem": None if vendor == device == "0000" else "%s:%s" % (vendor, device),
        "driver": driver,
        "reset": reset.split() if reset is not None else [] if tells else None,
        "name": common.clean(known["name"], 200) if known.get("name") else None,
        "bridge": dict(zip(("secondary", "subordinate"), ("%02x" % int(bus) for bus in buses)))
        if all(bus.isdigit() for bus in buses)
        else None,
        "parent": None,
        "bootVga": {"0": False, "1": True}.get(text("boot_vga")),
        "rom": os.path.exists(common.path(folder + "rom")),
        "module": None,
        "outputs": _outputs(folder) if class_.startswith("03") else [],
        "inputs": [],
        "disks": [],
        "nets": [],
    }


def _outputs(folder):
    """DRM connectors: `drm/card0/card0-eDP-1` with the files `status` and `enabled`; some kernels show
    them a second time in `drm/controlD64`."""
    found = []
    for card in _names(folder + "drm"):
        for name in _names("%sdrm/%s" % (folder, card)):
            status = common.read_text("%sdrm/%s/%s/status" % (folder, card, name), 64)
            if status is not None and name not in [one["name"] for one in found]:
                enabled = common.read_text("%sdrm/%s/%s/enabled" % (folder, card, name), 64) or ""
                found.append(
                    {
                        "name": common.clean(name, 64),
                        "connected": status.strip() == "connected",
                        "enabled": enabled.strip() == "enabled",
                    }
                )
    return found


def _names(folder):
    try:
        return sorted(os.listdir(common.path(folder)))
    except OSError:
        return []


def _links(folder, below=""):
    """[(name, real path)] of what stands in a folder of links such as /sys/class/net."""
    return [(n, os.path.realpath(common.path(folder + "/" + n + below))) for n in _names(folder)]


# -- modules


def _modules(driven):
    """{sbdf: module that the modalias would load}: that of the driver that is bound, as it did so;
    else, of those in modules.alias that match, one made for the very device before one for a whole
    class, then the first."""
    found, hidden = {}, []
    for fn in driven:
        link = common.path("%s/%s/driver/module" % (PCI, fn["sbdf"]))
        if fn["driver"] not in (None, "pciback") and os.path.exists(link):
            found[fn["sbdf"]] = os.path.basename(os.path.realpath(link))
        else:
            hidden.append(fn)
    try:
        with open(common.path("/lib/modules/%s/modules.alias" % os.uname().release), "rb") as file:
            text = file.read() if hidden else b""
    except OSError:
        return found
    banned = _blacklist() if hidden else set()
    for fn in hidden:
        alias = (common.read_text("%s/%s/modalias" % (PCI, fn["sbdf"]), 256) or "").strip()
        vendor, device = fn["vendor"].upper(), fn["device"].upper()
        # Some 40 000 lines of which a handful can match: found by what they begin with.
        for start in ("v0000%sd0000%s" % (vendor, device), "v0000%sd*" % vendor, "v*d*"):
            for pattern, module in _aliases(text, b"alias pci:" + start.encode()):
                if module not in banned and fnmatch.fnmatchcase(alias, pattern):
                    found.setdefault(fn["sbdf"], module)
    return found


def _aliases(text, start):
    """[(pattern, module)] of the lines that begin so."""
    at = text.find(start)
    while at >= 0:
        end = text.find(b"\n", at)
        _, pattern, module = text[at:end].decode("utf-8", "replace").split(" ", 2)
        yield pattern, module
        at = text.find(start, end)


def _blacklist():
    names = set()
    for folder in ("/usr/lib/modprobe.d", "/etc/modprobe.d", "/run/modprobe.d"):
        for name in _names(folder):
            text = common.read_text(folder + "/" + name) or ""
            names |= set(re.findall(r"^\s*blacklist\s+(\S+)", text, re.MULTILINE))
    return {name.replace("-", "_") for name in names}


# -- what hangs on them


def read_inputs():
    """[(sysfs path, ["keyboard", …])] of /proc/bus/input/devices; None where it cannot be read."""
    text = common.read_text("/proc/bus/input/devices")
    if text is None:
        return None
    found = []
    for block in text.split("\n\n"):
        path = re.search(r"^S: Sysfs=(\S+)", block, re.MULTILINE)
        bits = dict(re.findall(r"^B: (\w+)=([0-9a-f ]+)", block, re.MULTILINE))
        kinds = _kinds({kind: _bits(words) for kind, words in bits.items()})
        if path and kinds:
            found.append((path.group(1), kinds))
    return found


def _bits(words):
    """The kernel prints 64-bit words in hex, the highest first, without leading zeros."""
    value = 0
    for word in words.split():
        value = (value << 64) | int(word, 16)
    return value


def _kinds(bits):
    """As udev tells them (builtin input_id): a keyboard has all of the keys 1 to 31 (Esc to S); a
    power button has a few keys only. BTN_TOOL_FINGER 0x145 is a touchpad's."""
    key, kinds = bits.get("KEY", 0), []
    if key & 0xFFFFFFFE == 0xFFFFFFFE:
        kinds.append("keyboard")
    if bits.get("REL", 0) & 3 == 3:
        kinds.append("mouse")
    elif bits.get("ABS", 0) & 3 == 3:
        kinds.append("mouse" if key >> 0x145 & 1 else "tablet")
    return kinds


def keyboards(inputs):
    """ "ps2", "usb:SBDF"; "pci:SBDF" for one behind another controller (I²C)."""
    if inputs is None:
        return None
    found = set()
    for path, kinds in inputs:
        if "keyboard" in kinds:
            functions_ = SBDF.findall(path)
            if "/i8042/" in path:
                found.add("ps2")
            elif functions_:
                found.add(("usb:" if "/usb" in path else "pci:") + functions_[-1])
    return sorted(found)


def _disks():
    """[(name, sysfs path)] of whole disks that dom0 uses: mounted, swap, or below a device that
    the kernel holds open (LVM, LUKS, RAID)."""
    used = set()
    for line in (common.read_text("/proc/self/mountinfo") or "").splitlines():
        before, _, after = line.partition(" - ")
        used.add(before.split()[2])
        used.update(after.split()[1:2])  # btrfs: the number is its own, the source a device
    used |= set(re.findall(r"^(/dev/\S+)", common.read_text("/proc/swaps") or "", re.MULTILINE))
    used |= {os.path.realpath(name) for name in used if name.startswith("/dev/")}
    found = []
    for name, path in _links("/sys/class/block"):
        inside = path[len(common.ROOT) :]
        number = (common.read_text(inside + "/dev", 64) or "").strip()
        if number in used or "/dev/" + name in used or _names(inside + "/holders"):
            partition = os.path.exists(path + "/partition")
            disk = os.path.dirname(path) if partition else path
            # NVMe with several paths stands in a folder of its own; its controllers are links there.
            ways = [disk] + [
                real
                for link, real in _links(os.path.dirname(disk)[len(common.ROOT) :])
                if "/nvme-subsystem/" in disk and re.fullmatch(r"nvme\d+", link)
            ]
            found += [(os.path.basename(disk), way) for way in ways]
    return found
