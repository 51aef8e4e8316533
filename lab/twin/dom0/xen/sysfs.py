"""Drivers below /sys/bus/pci as they are written to: bind, unbind, drivers_probe, driver_override, and pciback's slots.

In the sandbox the files that only take something are pipes; server.py reads them. What somebody writes there takes effect a moment
later, and is not refused by an error of write(2) as by a kernel: who writes has to look what became of it.
"""
import errno
import os

from . import initramfs

BUS = "bus/pci"
PCIBACK = "pciback"
PIPES = ("bind", "unbind")
ORDER = ".order"  # drivers in the order in which they came; a bus asks them in that order


def write_controls(machine, sys, loaded):
    """Files of /sys/bus/pci that are written to. `loaded`: modules in their order; drivers of others have no folder."""
    drivers = {}
    for each in machine.functions:
        if each.module:
            drivers.setdefault(initramfs.module_of(each.module), each.module)
    pipe(os.path.join(sys, BUS, "drivers_probe"))
    for module in loaded:
        if module == initramfs.PCIBACK:
            held = os.path.join(sys, BUS, "drivers", PCIBACK)
            add_pciback(sys, sorted(each for each in os.listdir(held) if each.count(":") == 2) if os.path.isdir(held) else [])
        elif module in drivers:
            add_driver(sys, drivers[module])


def add_driver(sys, name, more=()):
    folder = os.path.join(sys, BUS, "drivers", name)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(sys, BUS, ORDER), "a") as file:
        file.write(name + "\n")
    for each in PIPES + tuple(more):
        pipe(os.path.join(folder, each))


def add_pciback(sys, slots):
    add_driver(sys, PCIBACK, ("new_slot", "remove_slot", "permissive"))
    write_slots(sys, slots)


def pipe(path):
    if not os.path.exists(path):
        os.mkfifo(path, 0o200)


def pipes(sys):
    """Every file that takes something."""
    found, folder = [os.path.join(sys, BUS, "drivers_probe")], os.path.join(sys, BUS, "drivers")
    for name in sorted(os.listdir(folder)):
        more = ("new_slot", "remove_slot", "permissive") if name == PCIBACK else ()
        found += [os.path.join(folder, name, each) for each in PIPES + more]
    return [path for path in found if os.path.exists(path)]


def order(sys):
    """Drivers in the order in which they came."""
    try:
        with open(os.path.join(sys, BUS, ORDER)) as file:
            return file.read().split()
    except OSError:
        return []


def slots(sys):
    try:
        with open(os.path.join(sys, BUS, "drivers", PCIBACK, "slots")) as file:
            return file.read().split()
    except OSError:
        return []


def write_slots(sys, names):
    with open(os.path.join(sys, BUS, "drivers", PCIBACK, "slots"), "w") as file:
        file.write("".join(name + "\n" for name in names))


class Sysfs:
    """`machine()`: machine.hardware.Hardware now; `rebind(sbdf, driver)`: gives a function to a driver, with what follows;
    `hang(why)`: what it costs to pull something that dom0 lives on. Raises OSError as the kernel answers write(2).
    """

    def __init__(self, sys, machine, rebind, hang):
        self.sys, self.machine, self.rebind, self.hang = sys, machine, rebind, hang

    def path(self, *parts):
        return os.path.join(self.sys, BUS, *parts)

    def exists(self, sbdf):
        return os.path.lexists(self.path("devices", sbdf))

    def driver(self, sbdf):
        link = self.path("devices", sbdf, "driver")
        return os.path.basename(os.readlink(link)) if os.path.islink(link) else None

    def loaded(self, driver):
        return os.path.isdir(self.path("drivers", driver))

    def override(self, sbdf):
        with open(self.path("devices", sbdf, "driver_override")) as file:
            text = file.read().strip()
        return None if text in ("", "(null)") else text

    def matches(self, sbdf, driver):
        """pci-driver.c, pci_match_device; pciback takes what has a slot (pci_stub.c, pcistub_probe)."""
        override = self.override(sbdf)
        if override:
            return override == driver
        if driver == PCIBACK:
            return sbdf in slots(self.sys)
        function = self.machine().by_sbdf.get(sbdf)
        return bool(function) and function.module == driver

    def unbind(self, driver, sbdf):
        if not self.exists(sbdf) or self.driver(sbdf) != driver:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        machine = self.machine()
        function = machine.by_sbdf[sbdf]
        if driver != PCIBACK and sbdf == machine.disk_controller():
            self.hang("the disk controller %s was pulled from dom0" % sbdf)
        # A driver of a display that drives one does not survive that on real hardware; QEMU's (`emulated`) do.
        if driver != PCIBACK and function.is_display() and not machine.world["machine"].get("emulated"):
            self.hang("the display %s was pulled from %s, which drove it" % (sbdf, driver))
        self.rebind(sbdf, None)

    def bind(self, driver, sbdf):
        if not self.exists(sbdf) or not self.matches(sbdf, driver) or not self.loaded(driver):
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        if self.driver(sbdf):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        self.rebind(sbdf, driver)

    def probe(self, sbdf):
        """drivers_probe: the first that came of those that know it takes it. One that has a slot of pciback is pciback's again."""
        if not self.exists(sbdf):
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        if self.driver(sbdf):
            return
        for driver in order(self.sys):
            if self.matches(sbdf, driver):
                return self.rebind(sbdf, driver)

    def new_slot(self, sbdf):
        write_slots(self.sys, slots(self.sys) + [sbdf])

    def remove_slot(self, sbdf):
        names = slots(self.sys)
        if sbdf not in names:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        names.remove(sbdf)
        write_slots(self.sys, names)

    def written(self, path, text):
        """Does what a write to one of `pipes` means. Raises OSError where the kernel refuses it."""
        folder, name = os.path.split(path)
        for word in text.split():
            if name == "drivers_probe":
                self.probe(word)
            elif name in PIPES:
                getattr(self, name)(os.path.basename(folder), word)
            elif name in ("new_slot", "remove_slot"):
                getattr(self, name)(word)
