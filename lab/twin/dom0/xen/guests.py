"""What runs in a domain: the lab's guest (lab/xen/image/guest/init), or something that says nothing.

A domain whose `kernel` and `ramdisk` are files of dom0 runs the lab's guest where the ramdisk begins with MARK; with HANGS after it, it stops
before it looks at its devices (its kernel goes on, and takes what control/shutdown asks for, which nobody then does). The fault guestDead: not even that. What it says and writes follows from what the domain was given.

To its console: `guest up after S s as PV`, `guest sees ADDRESS CLASS VENDOR:DEVICE DRIVER` for each PCI function, `guest ready`.
Into its own xenstore folder: data/guidomain/pci "1234:1111 8086:2668" and, where it has a screen, data/guidomain/screen "on".
From dom0: data/lab/draw TOKEN, data/lab/look, data/lab/off, and control/shutdown, which its kernel obeys.
"""
MARK, HANGS = "guest of the lab", "hangs"
SECONDS = 0.3  # from its start until it has told what it sees (world.guestSeconds)
DRIVERS = {"1234:1111": "bochs-drm", "1af4:1050": "virtio-pci"}  # that it has
DISPLAY = "03"
# qemu-system-i386 -M xenfv gives an HVM guest, before what is passed: address → (class, vendor:device).
EMULATED = (
    ("0000:00:00.0", "060000", "8086:1237"),
    ("0000:00:01.0", "060100", "8086:7000"),
    ("0000:00:01.1", "010180", "8086:7010"),
    ("0000:00:01.3", "068000", "8086:7113"),
    ("0000:00:02.0", "ff8000", "5853:0001"),
)
CARDS = {"cirrus": ("030000", "1013:00b8"), "stdvga": ("030000", "1234:1111")}


class Guest:
    """`domain`: model.Domain. `kind`: "lab" or "other"; `hangs`."""

    def __init__(self, domain, text, faults):
        self.domain = domain
        words = (text or "").split("\n")[0]
        self.kind = "lab" if words.startswith(MARK) else "other"
        fault = faults.get("guestHangs")
        self.hangs = HANGS in words or fault is True or (isinstance(fault, list) and domain.name in fault)
        dead = faults.get("guestDead")
        self.dead = dead is True or (isinstance(dead, list) and domain.name in dead)
        self.no_driver = bool(faults.get("guestNoDrm"))
        self.up, self.drawn = False, None

    @property
    def obeys(self):
        """Its kernel looks at control/shutdown."""
        return self.up and not self.dead

    def seen(self, function_of):
        """[(address, class, "vendor:device", driver)] of the PCI functions that its kernel sees."""
        domain, found = self.domain, []
        if domain.type == "hvm":
            found = [(address, kind, ids, "") for address, kind, ids in EMULATED]
            card = domain.settings.get("vga") or ("stdvga" if domain.settings.get("stdvga") == "1" else "cirrus")
            if card in CARDS:
                found.append(("0000:00:03.0",) + CARDS[card] + ("",))
        for each in domain.pci:
            function = function_of(each["sbdf"])
            if function is None:
                continue
            ids = "%s:%s" % (function.raw["vendor"], function.raw["device"])
            driver = "" if self.no_driver and function.is_display() else DRIVERS.get(ids, "")
            found.append((domain.address(each), function.interface[1:], ids, driver))
        return found

    def has_screen(self, seen):
        if self.domain.vfb() and self.domain.type != "hvm":
            return True
        return any(kind.startswith(DISPLAY) and driver for _, kind, _, driver in seen)
