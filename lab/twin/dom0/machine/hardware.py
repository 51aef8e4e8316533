"""What follows from a machine's profile (lab/twin/machines, Machine of lab/twin/world.ts): its functions, drivers, screens,
input devices and disks, and the files below /sys and /proc that tell of them.

A profile's `outputs` {sbdf: [{name, connected}]}, `inputs` [{name, kind, at: "ps2" or sbdf}], `bootDisplay` (sbdf) and `dmi`
{vendor, product, bios} are derived where it does not give them: a laptop has its own panel and a keyboard on PS/2, others a
monitor on the boot display and a keyboard on USB.
"""
import json
import os
import re
import shutil

import xen
from qubesd import pci
from xen import sysfs

PCIBACK = "pciback"
DISK_CLASS, NET_CLASS, DISPLAY_CLASS, USB_CLASS = "01", "02", "03", "0c03"
# Kernel modules that bring a picture to a display's connectors (qubes-host.md (d) 3), by the vendor that they serve.
DRM = ("i915", "xe", "amdgpu", "radeon", "nouveau", "mgag200", "ast", "bochs", "bochs-drm", "qxl", "virtio-pci")
DISPLAY_MODULE = {"8086": "i915", "1002": "amdgpu", "10de": "nouveau", "102b": "mgag200", "1a03": "ast", "1234": "bochs"}
MODULE_NAME = {"bochs-drm": "bochs"}  # of a driver that is not called like its module
MODULE = {"0403": "snd_hda_intel", "0c0330": "xhci_hcd", "0c0320": "ehci-pci", "0106": "ahci", "0108": "nvme"}

# Of dom0's file systems; any will do, they only have to stay.
ROOT_UUID = "7f3a2b64-1c0e-4a5d-9b7e-0d6c5e8f4a21"
BOOT_UUID = "c41d8a90-52e7-4f3b-8a16-2b9f7e0d3c55"
DISK_UUID = "e2b7c6f1-9d04-4c38-a7f5-61c3d08b9e72"
# Handlers and bit maps of a keyboard, a mouse, a tablet, as the kernel prints them (drivers/input/input.c): a reader knows what a
# device is by its bits, as udev's input_id does.
EVENTS = {
    "keyboard": ("sysrq kbd", {"EV": "120013", "KEY": "402000000 3803078f800d001 feffffdfffefffff fffffffffffffffe"}),
    "mouse": ("mouse0", {"EV": "17", "KEY": "ff0000 0 0 0 0", "REL": "903"}),
    "tablet": ("mouse0", {"EV": "1b", "KEY": "1c03 0 0 0 0 0", "ABS": "1000003"}),
}


def module(raw):
    """The module that its modalias loads: the profile's driver, or what serves its class. Closed drivers are not in dom0."""
    klass = pci.class_code(raw)
    if klass[:2] == DISPLAY_CLASS:
        named = raw.get("driver")
        return named if named in DRM else DISPLAY_MODULE.get(raw["vendor"])
    return raw.get("driver") or MODULE.get(klass) or MODULE.get(klass[:4])


def place(entry):
    """How a keyboard's place is called: "ps2" or "usb:SBDF" (contract of the facts)."""
    return entry["at"] if entry["at"] == "ps2" else "usb:" + entry["at"]


def device_path(row):
    """/dev/sda2, /dev/mapper/qubes_dom0-root"""
    return "/dev/mapper/" + row["name"] if row["type"] in ("lvm", "crypt") else "/dev/" + row["name"]


def renumbered(machine):
    """The machine after a firmware update that shows one more root port: every bus behind a later one is one further.
    Paths ("00_01.0-00_00.0") stay, addresses ("0000:01:00.0") do not.
    """
    buses = sorted(int(raw["bridge"]["secondary"], 16) for raw in machine["devices"] if raw.get("bridge"))
    first = buses[0] if buses else 1
    shift = lambda bus: "%02x" % (int(bus, 16) + 1 if int(bus, 16) >= first else int(bus, 16))  # noqa: E731
    high = {"%02x" % (first + at) for at in range(256 - first)} - {"ff"}
    used = {raw["sbdf"] for raw in machine["devices"]}
    devices = []
    for raw in machine["devices"]:
        segment, bus, slot = raw["sbdf"].split(":")
        moved = dict(raw)
        if segment == "0000" and bus in high and bus != "ff":
            moved["sbdf"] = "%s:%s:%s" % (segment, shift(bus), slot)
        if raw.get("bridge") and segment == "0000":
            moved["bridge"] = {key: shift(value) for key, value in raw["bridge"].items()}
        devices.append(moved)
    slot = next(s for s in ("00:1b.4", "00:1d.4", "00:06.0", "00:1a.7") if "0000:" + s not in used)
    port = {"sbdf": "0000:" + slot, "class": "0604", "vendor": "8086", "device": "a32c", "subsystem": None, "rev": "f0"}
    port.update(name="Intel PCI Express Root Port", driver="pcieport", bridge={"secondary": "%02x" % first, "subordinate": "%02x" % first})
    return _renamed(machine, dict(machine, devices=sorted(devices + [port], key=lambda raw: raw["sbdf"])), shift)


def moved(machine):
    """The machine after somebody put the cards behind the first bridge into another slot: paths change as well."""
    bridge = next((raw for raw in machine["devices"] if raw.get("bridge") and int(raw["bridge"]["secondary"], 16)), None)
    if bridge is None:
        return renumbered(machine)
    used = {raw["sbdf"] for raw in machine["devices"]}
    slot = next(s for s in ("0000:00:1c.7", "0000:00:1d.7", "0000:00:07.0") if s not in used)
    devices = [dict(raw, sbdf=slot) if raw is bridge else raw for raw in machine["devices"]]
    return dict(machine, devices=sorted(devices, key=lambda raw: raw["sbdf"]))


def _renamed(machine, new, shift):
    """The places that a profile gives by address follow the renumbering."""

    def follow(sbdf):
        if sbdf == "ps2" or not sbdf.startswith("0000:"):
            return sbdf
        _, bus, slot = sbdf.split(":")
        return "0000:%s:%s" % (shift(bus) if bus != "ff" else bus, slot)

    if machine.get("outputs") is not None:
        new["outputs"] = {follow(sbdf): value for sbdf, value in machine["outputs"].items()}
    if machine.get("inputs") is not None:
        new["inputs"] = [dict(each, at=follow(each["at"])) for each in machine["inputs"]]
    if machine.get("bootDisplay"):
        new["bootDisplay"] = follow(machine["bootDisplay"])
    return new


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)


def link(path, target):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    os.symlink(os.path.relpath(target, os.path.dirname(path)), path)


def modalias(function):
    raw = function.raw
    vendor, _, device = (raw.get("subsystem") or "0000:0000").partition(":")
    klass = function.interface[1:].upper()
    return "pci:v%08Xd%08Xsv%08Xsd%08Xbc%ssc%si%s" % (
        int(raw["vendor"], 16),
        int(raw["device"] or "ffff", 16),
        int(vendor, 16),
        int(device, 16),
        klass[:2],
        klass[2:4],
        klass[4:],
    )


def bind(sys, sbdf, driver):
    """Gives a function to a driver (None: to nobody)."""
    device = os.path.join(sys, "bus/pci/devices", sbdf)
    folder = os.path.realpath(device)
    now = os.path.join(folder, "driver")
    if os.path.islink(now):
        holder = os.path.join(os.path.realpath(now), sbdf)
        os.unlink(now)
        if os.path.islink(holder):
            os.unlink(holder)
    if driver:
        home = os.path.join(sys, "bus/pci/drivers", driver)
        os.makedirs(home, exist_ok=True)
        link(os.path.join(folder, "driver"), home)
        link(os.path.join(home, sbdf), folder)


def bound(sys):
    """{sbdf: driver or None} as /sys has it."""
    folder = os.path.join(sys, "bus/pci/devices")
    found = {}
    for sbdf in sorted(os.listdir(folder)):
        driver = os.path.join(folder, sbdf, "driver")
        found[sbdf] = os.path.basename(os.readlink(driver)) if os.path.islink(driver) else None
    return found


class Hardware:
    """One look at a world's machine. `functions`: what is plugged in, each with `raw` (the profile's entry), `parent` (sbdf of
    the bridge above) and `module` (what its modalias loads).
    """

    def __init__(self, world):
        self.world = world
        self.functions = pci.functions(world["machine"], (world.get("faults") or {}).get("noReset"), every=True)
        self.by_sbdf = {each.sbdf: each for each in self.functions}
        for each in self.functions:
            each.module = module(each.raw)

    def displays(self):
        return [each for each in self.functions if each.is_display()]

    def boot_display(self):
        """The display that the firmware lights: the profile's, else the first VGA on a root bus, else the first display."""
        given = self.world["machine"].get("bootDisplay")
        if given:
            return given
        found = self.displays()
        ranked = sorted(found, key=lambda each: (each.interface[1:5] != "0300", each.parent is not None))
        return ranked[0].sbdf if ranked else None

    def outputs(self):
        """{sbdf: [{"name": "eDP-1", "connected": bool}]} of every display."""
        given = self.world["machine"].get("outputs")
        if given is not None:
            return given
        lit, laptop = self.boot_display(), self.world["machine"].get("kind") == "notebook"
        found = {}
        for each in self.displays():
            if each.sbdf == lit:
                found[each.sbdf] = [{"name": "eDP-1" if laptop else "HDMI-A-1", "connected": True}, {"name": "DP-1", "connected": False}]
            elif each.interface[1:5] == "0300":
                found[each.sbdf] = [{"name": "HDMI-A-2", "connected": False}]
            else:
                found[each.sbdf] = []
        return found

    def inputs(self):
        """[{"name", "kind": "keyboard"|"mouse"|"tablet", "at": "ps2"|sbdf of the USB controller}]"""
        given = self.world["machine"].get("inputs")
        if given is not None:
            return given
        if self.world["machine"].get("kind") == "notebook":
            return [
                {"name": "AT Translated Set 2 keyboard", "kind": "keyboard", "at": "ps2"},
                {"name": "SynPS/2 Synaptics TouchPad", "kind": "mouse", "at": "ps2"},
            ]
        usb = next((each.sbdf for each in self.functions if each.interface[1:5] == USB_CLASS), None)
        if usb is None:
            return [{"name": "AT Translated Set 2 keyboard", "kind": "keyboard", "at": "ps2"}]
        return [
            {"name": "Logitech USB Keyboard", "kind": "keyboard", "at": usb},
            {"name": "Logitech USB Optical Mouse", "kind": "mouse", "at": usb},
        ]

    def in_dom0(self, drivers):
        """The input devices that dom0's kernel has: PS/2, and those on controllers that one of its drivers holds."""
        return [each for each in self.inputs() if each["at"] == "ps2" or drivers.get(each["at"]) not in (None, PCIBACK)]

    def disk_controller(self):
        """sbdf of the controller that dom0's disk hangs on; None where the profile has none."""
        found = [each for each in self.functions if each.interface[1:3] == DISK_CLASS]
        ranked = sorted(found, key=lambda each: each.interface[1:5] not in ("0106", "0108"))
        return ranked[0].sbdf if ranked else None

    def blocks(self):
        """dom0's block devices, parents first: [{name, type, fs, mount, parent: [name], uuid}] as lsblk speaks of them."""
        controller = next((each for each in self.functions if each.sbdf == self.disk_controller()), None)
        nvme = controller is not None and controller.interface[1:5] == "0108"
        name, part = ("nvme0n1", "nvme0n1p") if nvme else ("sda", "sda")
        boot = self.world.get("bootDisk") or {"fs": "ext4", "on": "partition"}
        rows = []

        def row(row_name, kind, fs=None, mount=None, parents=(), uuid=None):
            rows.append({"name": row_name, "type": kind, "fs": fs, "mount": mount, "parents": list(parents), "uuid": uuid})
            return row_name

        on = boot["on"]
        if xen.on(self.world):  # Debian's partitioning: one for all, or LVM
            disk = row("vda" if controller is not None and controller.raw.get("driver") == "virtio-pci" else name, "disk")
            first = disk + ("p1" if nvme else "1")
            if on == "partition":
                row(first, "part", boot["fs"], "/", [disk], ROOT_UUID)
            elif on == "raid":
                row(first, "part", "linux_raid_member", None, [disk])
                row("sdz", "disk")
                row("sdz1", "part", "linux_raid_member", None, ["sdz"])
                row("md0", "raid1", boot["fs"], "/", [first, "sdz1"], ROOT_UUID)
            else:
                below = row(first, "part", "crypto_LUKS" if on == "crypt" else "LVM2_member", None, [disk], DISK_UUID)
                below = row("vda1_crypt", "crypt", "LVM2_member", None, [below]) if on == "crypt" else below
                row("vg-root", "lvm", boot["fs"], "/", [below], ROOT_UUID)
            return rows
        row(name, "disk")
        row(part + "1", "part", "vfat", "/boot/efi", [name])
        if on == "partition":
            row(part + "2", "part", boot["fs"], "/boot", [name], BOOT_UUID)
        elif on == "raid":
            row(part + "2", "part", "linux_raid_member", None, [name])
            row("sdb", "disk")
            row("sdb2", "part", "linux_raid_member", None, ["sdb"])
            row("md127", "raid1", boot["fs"], "/boot", [part + "2", "sdb2"], BOOT_UUID)
        below = row(part + "3", "part", "crypto_LUKS" if self.world.get("passphrase") else "LVM2_member", None, [name], DISK_UUID)
        if self.world.get("passphrase"):
            below = row("luks-" + DISK_UUID, "crypt", "LVM2_member", None, [below])
        if on in ("lvm", "crypt"):
            row("qubes_dom0-boot", "lvm", boot["fs"], "/boot", [below], BOOT_UUID)
        row("qubes_dom0-root", "lvm", "ext4", "/", [below], ROOT_UUID)
        row("qubes_dom0-swap", "lvm", "swap", "[SWAP]", [below])
        return rows

    def resolve(self, word):
        """(sbdf, None) that a word of rd.qubes.hide_pci means, or (None, why): what the initramfs of 4.3 makes of it. An address
        that is well formed but where nothing is comes back too: only binding it then fails (qubes-host.md (a), "PCI ids").
        """
        if re.match(r"\A[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f]\Z", word):
            return word, None
        if re.match(r"\A[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f]\Z", word):
            return "0000:" + word, None
        if "_" not in word:
            return None, "Invalid device format: " + word
        segment, rest = (word[:4], word[5:]) if re.match(r"\A[0-9a-f]{4}_.*_", word) else ("0000", word)
        known, offset, sbdf = self.by_sbdf, 0, None
        for part in rest.split("-"):
            found = re.match(r"\A([0-9a-f]{2})_([0-9a-f]{2}\.[0-9a-f])\Z", part)
            if not found or offset is None:
                return None, "no bridge leads to " + word
            sbdf = "%s:%02x:%s" % (segment, int(found.group(1), 16) + offset, found.group(2))
            bridge = known.get(sbdf)
            offset = int(bridge.secondary, 16) if bridge and bridge.secondary else None
        return sbdf, None

    def write_sys(self, sys, drivers, under_xen=True):
        """The tree of /sys (sysfs-bus-pci, Xen's, DMI, DRM, input, block), with each function on the driver that holds it."""
        for part in ("bus", "devices", "class", "hypervisor", "block"):
            shutil.rmtree(os.path.join(sys, part), ignore_errors=True)
        bus = os.path.join(sys, "bus/pci")
        for part in ("bus/pci/devices", "bus/pci/drivers", "class", "devices/virtual", "hypervisor"):
            os.makedirs(os.path.join(sys, part))
        if not xen.on(self.world):
            os.makedirs(os.path.join(sys, "bus/pci/drivers/pciback"))
        found = self.functions
        lit = self.boot_display()
        for function in found:
            self._write_function(bus, self.folder_of(sys, function), function, lit)
        for function in found:
            if drivers.get(function.sbdf):
                bind(sys, function.sbdf, drivers[function.sbdf])
        if under_xen:
            self._write_xen(sys)
        dmi = self.world["machine"].get("dmi") or {}
        vendor, _, product = self.world["machine"]["machine"].partition(" ")
        for name, text in (
            ("sys_vendor", dmi.get("vendor", vendor)),
            ("product_name", dmi.get("product", product)),
            ("bios_vendor", dmi.get("vendor", vendor)),
            ("bios_version", dmi.get("bios", "1.0")),
        ):
            write(os.path.join(sys, "class/dmi/id", name), text + "\n")
        self._write_power(sys)
        self.write_consoles(sys, drivers)
        self.write_inputs(sys, drivers)
        self._write_blocks(sys, drivers)

    def folder_of(self, sys, function):
        """The function's folder below /sys/devices: root bus, bridges, itself."""
        known, names, at = self.by_sbdf, [function.sbdf], function
        while at.parent:
            at = known[at.parent]
            names.insert(0, at.sbdf)
        return os.path.join(sys, "devices", "pci" + at.bus, *names)

    def _write_function(self, bus, folder, function, lit):
        raw = function.raw
        vendor, _, device = (raw.get("subsystem") or "0000:0000").partition(":")
        klass = function.interface[1:]
        files = {
            "vendor": "0x" + raw["vendor"],
            "device": "0x" + (raw["device"] or "ffff"),
            "class": "0x" + klass,
            "subsystem_vendor": "0x" + vendor,
            "subsystem_device": "0x" + device,
            "revision": "0x" + (raw.get("rev") or "00"),
            "modalias": modalias(function),
            "driver_override": "(null)",
            "enable": "1",
        }
        if function.resets:  # Linux shows these only where there is a method (drivers/pci/pci-sysfs.c)
            files["reset_method"] = " ".join(function.resets)
        if function.secondary:
            # In decimal, unlike every other number here (drivers/pci/pci-sysfs.c).
            files["secondary_bus_number"] = str(int(raw["bridge"]["secondary"], 16))
            files["subordinate_bus_number"] = str(int(raw["bridge"]["subordinate"], 16))
        if klass[:4] == "0300":
            files["boot_vga"] = "1" if function.sbdf == lit else "0"
        os.makedirs(folder, exist_ok=True)
        for name, text in files.items():
            with open(os.path.join(folder, name), "w") as file:
                file.write(text + "\n")
        if function.resets:
            open(os.path.join(folder, "reset"), "w").close()
        if raw.get("rom"):
            open(os.path.join(folder, "rom"), "w").close()
        link(os.path.join(bus, "devices", function.sbdf), folder)

    def modules_alias(self):
        """Text of /lib/modules/VERSION/modules.alias, as far as this machine's devices need it."""
        lines = set()
        for each in self.functions:
            if each.module:
                raw = each.raw
                ids = (int(raw["vendor"], 16), int(raw["device"] or "ffff", 16), MODULE_NAME.get(each.module, each.module))
                lines.add("alias pci:v%08Xd%08Xsv*sd*bc*sc*i* %s" % ids)
        return "# Aliases extracted from modules themselves.\n%s\n" % "\n".join(sorted(lines))

    def _write_xen(self, sys):
        major, minor, extra = (self.world["xen"].split(".") + ["", ""])[:3]
        for name, text in (("type", "xen"), ("version/major", major), ("version/minor", minor), ("version/extra", "." + extra)):
            write(os.path.join(sys, "hypervisor", name), text + "\n")
        if xen.on(self.world):
            write(os.path.join(sys, "hypervisor/guest_type"), "PV\n")
            write(os.path.join(sys, "hypervisor/uuid"), "00000000-0000-0000-0000-000000000000\n")
            write(os.path.join(sys, "hypervisor/properties/pagesize"), "4096\n")

    def _write_power(self, sys):
        """/sys/class/power_supply and backlight: a notebook's, unless its profile says otherwise."""
        notebook = self.world["machine"].get("kind") == "notebook"
        found = dict({"battery": notebook, "backlights": ["intel_backlight"] if notebook else []}, **self.world["machine"].get("power", {}))
        for part in ("power_supply", "backlight"):
            os.makedirs(os.path.join(sys, "class", part))
        write(os.path.join(sys, "class/power_supply/AC/type"), "Mains\n")
        write(os.path.join(sys, "class/power_supply/AC/online"), "1\n")
        if found["battery"]:
            rows = {"type": "Battery", "status": "Discharging", "capacity": "72", "scope": "System"}
            uevent = "POWER_SUPPLY_NAME=BAT0\nPOWER_SUPPLY_TYPE=Battery\nPOWER_SUPPLY_STATUS=Discharging\nPOWER_SUPPLY_CAPACITY=72\n"
            for name, text in dict(rows, uevent=uevent).items():
                write(os.path.join(sys, "class/power_supply/BAT0", name), text.rstrip("\n") + "\n")
        for name in found["backlights"]:
            write(os.path.join(sys, "class/backlight", name, "max_brightness"), "4000\n")
            write(os.path.join(sys, "class/backlight", name, "brightness"), "4000\n")

    def write_consoles(self, sys, drivers):
        """/sys/class/drm: connectors of the displays that a driver of dom0 holds."""
        shutil.rmtree(os.path.join(sys, "class/drm"), ignore_errors=True)
        os.makedirs(os.path.join(sys, "class/drm"))
        number = 0
        for function in self.displays():
            folder = self.folder_of(sys, function)
            shutil.rmtree(os.path.join(folder, "drm"), ignore_errors=True)
            if drivers.get(function.sbdf) not in DRM:
                continue
            card = os.path.join(folder, "drm", "card%d" % number)
            os.makedirs(card)
            link(os.path.join(card, "device"), folder)
            link(os.path.join(sys, "class/drm/card%d" % number), card)
            for output in self.outputs().get(function.sbdf, []):
                name = "card%d-%s" % (number, output["name"])
                write(os.path.join(card, name, "status"), "connected\n" if output["connected"] else "disconnected\n")
                write(os.path.join(card, name, "enabled"), "enabled\n" if output["connected"] else "disabled\n")
                write(os.path.join(card, name, "modes"), "1920x1080\n" if output["connected"] else "")
                link(os.path.join(sys, "class/drm", name), os.path.join(card, name))
            number += 1

    def input_path(self, entry, number):
        """Below /sys, where the kernel puts it."""
        if entry["at"] == "ps2":
            return "/devices/platform/i8042/serio%d/input/input%d" % (number, number)
        function = self.by_sbdf.get(entry["at"])
        folder = self.folder_of("", function) if function else "/devices/virtual"
        return "/%s/usb1/1-%d/1-%d:1.0/0003:046D:C31C.0001/input/input%d" % (folder.lstrip("/"), number + 1, number + 1, number)

    def input_devices(self, entries, virtual=False):
        """Text of /proc/bus/input/devices."""
        parts = []
        for number, entry in enumerate(entries):
            handlers, bits = EVENTS[entry["kind"]]
            bus = "0011" if entry["at"] == "ps2" else "0003"
            path = "/devices/virtual/input/input%d" % number if virtual else self.input_path(entry, number)
            parts.append(
                "I: Bus=%s Vendor=0001 Product=0001 Version=ab41\n"
                'N: Name="%s"\nP: Phys=%s\nS: Sysfs=%s\nU: Uniq=\n'
                "H: Handlers=%s event%d \nB: PROP=0\n"
                % (bus, entry["name"], "isa0060/serio%d/input0" % number if bus == "0011" else "usb-%s-1/input0" % entry["at"], path, handlers, number)
                + "".join("B: %s=%s\n" % row for row in bits.items())
            )
        return "".join(part + "\n" for part in parts)

    def write_inputs(self, sys, drivers):
        os.makedirs(os.path.join(sys, "class/input"))
        for number, entry in enumerate(self.in_dom0(drivers)):
            folder = os.path.join(sys, self.input_path(entry, number).lstrip("/"))
            write(os.path.join(folder, "name"), entry["name"] + "\n")
            write(os.path.join(folder, "event%d" % number, "uevent"), "DEVNAME=input/event%d\n" % number)
            link(os.path.join(sys, "class/input/input%d" % number), folder)
            link(os.path.join(sys, "class/input/event%d" % number), os.path.join(folder, "event%d" % number))

    def _write_blocks(self, sys, drivers):
        """/sys/block and /sys/class/block: whole disks below their controller, what is made of them with its `slaves`."""
        for part in ("block", "class/block"):
            os.makedirs(os.path.join(sys, part))
        controller = self.by_sbdf.get(self.disk_controller())
        names, folders = {}, {}
        for row in self.blocks():
            mapped = row["type"] in ("lvm", "crypt")
            name = "dm-%d" % sum(each.startswith("dm-") for each in names.values()) if mapped else row["name"]
            names[row["name"]] = name
            if row["type"] == "disk":
                base = self.folder_of(sys, controller) if controller else os.path.join(sys, "devices/platform")
                folder = os.path.join(base, "ata1/host0/target0:0:0/0:0:0:0/block", name)
            elif row["type"] == "part":
                folder = os.path.join(folders[row["parents"][0]], name)
            else:
                folder = os.path.join(sys, "devices/virtual/block", name)
            folders[row["name"]] = folder
            write(os.path.join(folder, "size"), "976773168\n")
            os.makedirs(os.path.join(folder, "holders"), exist_ok=True)
            os.makedirs(os.path.join(folder, "slaves"), exist_ok=True)
            if row["type"] == "part":
                write(os.path.join(folder, "partition"), name[-1] + "\n")
            else:
                link(os.path.join(sys, "block", name), folder)
                for parent in row["parents"]:
                    link(os.path.join(folder, "slaves", names[parent]), folders[parent])
                    link(os.path.join(folders[parent], "holders", name), folder)
            if mapped:
                write(os.path.join(folder, "dm/name"), row["name"] + "\n")
                write(os.path.join(folder, "dm/uuid"), "%s-%s\n" % ("LVM" if row["type"] == "lvm" else "CRYPT-LUKS2", row["name"]))
            link(os.path.join(sys, "class/block", name), folder)


def adapted(stored, world):
    """An installation's qubes on this machine: whoever holds a device that is not here gets the network functions, which is
    what Qubes' installer gives sys-net. Without an IOMMU no HVM starts with devices (qubes-cli-formats.md §5): where such a machine
    has a network, somebody has set sys-net to pv, which needs none (qubes-host.md (h) 2).
    """
    functions = Hardware(world).functions
    ports = {each.port: each.device_id for each in functions}
    network = [each for each in functions if each.interface.startswith("p02")]
    qubes = {}
    for name, raw in stored["qubes"].items():
        if any(ports.get(each["port"]) != each["device"] for each in raw.get("pci", [])):
            pci = [{"port": e.port, "device": e.device_id, "mode": "required", "options": {"no-strict-reset": "True"}} for e in network]
            raw = dict(raw, pci=pci)
        if raw.get("pci") and not world["iommu"]:
            raw = dict(raw, properties=dict(raw["properties"], virt_mode="pv"))
        qubes[name] = raw
    return dict(stored, qubes=qubes)


TARGET = "/etc/qubes/input-proxy-target"


def installed(root):
    """{package of dom0: version}"""
    try:
        with open(root + "/var/lib/rpm/twin.json") as file:
            return json.load(file)["packages"]
    except (OSError, ValueError):
        return {}


def sender(root):
    """The qube that /etc/qubes/input-proxy-target names (qubes-host.md (b)); None for none, False where the package that reads
    it is not installed.
    """
    if "qubes-input-proxy-sender" not in installed(root):
        return False
    try:
        with open(root + TARGET) as file:
            rows = [line.strip() for line in file]
    except OSError:
        return None
    return next((row.partition("=")[2].strip("\"'") for row in rows if row.startswith("TARGET_DOMAIN=")), None)


def receives_input(root):
    return bool({"qubes-input-proxy", "qubes-input-proxy-receiver"} & set(installed(root)))


def input_call(entry):
    """(service, argument) by which the qube that has an input device asks to pass it on: port, bus, vendor, product and version as
    its kernel shows them (qubes-app-linux-input-proxy 1.0.45, input-proxy-arg; the same numbers as `input_devices`).
    """
    service = {"keyboard": "qubes.InputKeyboard", "mouse": "qubes.InputMouse", "tablet": "qubes.InputTablet"}[entry["kind"]]
    return service, "+usb-%s-1+3-1-1-ab41" % entry["at"].replace(":", "_")


def kernel_shows(world, drivers, sys="/sys", proc="/proc", under_xen=True, loaded=()):
    """Below /sys and /proc, what the kernel of a dom0 shows of this machine with these drivers. `loaded`: modules, of a plain Xen host."""
    machine = Hardware(world)
    machine.write_sys(sys, drivers, under_xen)
    if xen.on(world):
        sysfs.write_controls(machine, sys, loaded)
    if os.path.isdir(os.path.join(proc, "bus")):
        write(os.path.join(proc, "bus/input/devices"), machine.input_devices(machine.in_dom0(drivers)))


def rebind(world, sbdf, driver, sys="/sys", proc="/proc"):
    """Gives a function to another driver, with what follows: connectors and input devices come and go."""
    bind(sys, sbdf, driver)
    machine, drivers = Hardware(world), bound(sys)
    machine.write_consoles(sys, drivers)
    shutil.rmtree(os.path.join(sys, "class/input"), ignore_errors=True)
    machine.write_inputs(sys, drivers)
    if os.path.isdir(os.path.join(proc, "bus")):
        write(os.path.join(proc, "bus/input/devices"), machine.input_devices(machine.in_dom0(drivers)))
