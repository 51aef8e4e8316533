"""The hypervisor and what xenstored knows: domains, who is given which function, guests over time.

Nothing here is a thread. `settle()` does what is due by `clock()`; who waits asks `wait`. Messages of the toolstack are libxl.py.
"""
import errno
import json
import os
import uuid

from .guests import SECONDS, Guest

IO = "io"  # DOMID_IO: where quarantined functions are
GOES = 0.2  # seconds that a guest takes to power off


class Domain:
    """`settings`: of its configuration, as config.parse gives them. `pci`: [{"sbdf", "vslot", …, "index"}] attached, in order."""

    def __init__(self, number, settings, kind):
        self.id, self.settings, self.type = number, settings, kind
        self.name = settings["name"]
        self.uuid = settings.get("uuid") or str(uuid.uuid4())
        self.pci, self.paused, self.down = [], True, None  # `down`: shutdown reason letter of xl list, or None
        self.guest, self.started, self.monitored = None, 0.0, True
        self.vnc = None  # (address, port) of its framebuffer
        self.requested = None  # what control/shutdown asked for

    def number(self, name, default):
        value = self.settings.get(name)
        return int(value) if isinstance(value, str) and value.isdigit() else default

    @property
    def memory(self):
        return self.number("memory", 128)

    @property
    def vcpus(self):
        return self.number("vcpus", 1)

    def path(self, *parts):
        return "/".join(("/local/domain/%d" % self.id,) + parts)

    def vfb(self):
        """{key: value} of its framebuffer: `vfb` of PV and PVH, `vnc…` of HVM; None where it has none."""
        if self.type == "hvm":
            on = self.settings.get("vnc", "1") != "0"
            return {key: value for key, value in self.settings.items() if key.startswith("vnc")} if on else None
        given = self.settings.get("vfb")
        if not isinstance(given, list) or not given:
            return None
        return dict(pair.strip().partition("=")[::2] for pair in given[0].split(","))

    def address(self, entry):
        """Where its kernel finds a passed function: pciback's virtual bus counts from 0 (vpci.c), QEMU's slots begin behind its own."""
        return "0000:00:%02x.0" % self.slot(entry)

    def slot(self, entry):
        if entry.get("vslot") is not None:
            return entry["vslot"]
        return (4 if self.type == "hvm" else 0) + entry["index"]


class Hypervisor:
    """`world()`: the world now. `machine()`: machine.hardware.Hardware now. `root`: dom0's disk. `boot`: {"xen": its line, "version"}."""

    def __init__(self, world, machine, store, clock, root="", xen_line="", logs=True):
        self.world, self.machine, self.store, self.clock, self.root = world, machine, store, clock, root
        self.xen_line, self.logs = xen_line, logs
        self.domains, self.next_id, self.owner, self.touched = {}, 1, {}, set()
        self.due = []
        self.begun = clock()
        store.write("/local/domain/0/name", "Domain-0")
        store.write("/local/domain/0/domid", "0")
        store.write("/tool/xenstored", "")
        store.write("/libxl", "")

    # --- what there is

    def iommu(self):
        return bool(self.world().get("iommu"))

    def find(self, word):
        """The domain of that name or number, None where there is none; 0 is dom0's."""
        if word in ("0", "Domain-0"):
            return 0
        if word.isdigit():
            return self.domains.get(int(word))
        return next((each for each in self.domains.values() if each.name == word), None)

    def free_memory(self):
        world = self.world()
        return world["memory"] - world["dom0Memory"] - sum(each.memory for each in self.domains.values())

    def function(self, sbdf):
        return self.machine().by_sbdf.get(sbdf)

    # --- functions (xen/drivers/passthrough/pci.c, assign_device and deassign_device)

    def assign(self, sbdf, to):
        """Gives a function to a domain or to IO. Raises OSError as xc_assign_device."""
        if not self.iommu():
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        if sbdf not in self.machine().by_sbdf:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        refused = (self.world().get("faults") or {}).get("refuseAssign")
        if to != IO and (refused is True or sbdf in (refused or [])):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        now = self.owner.get(sbdf)
        if now not in (None, IO, to):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        self.owner[sbdf] = to

    def deassign_io(self, sbdf):
        if self.owner.get(sbdf) != IO:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        del self.owner[sbdf]

    def held_by_guest(self, sbdf):
        return self.owner.get(sbdf) not in (None, IO)

    # --- domains

    def make(self, settings, kind):
        domain = Domain(self.next_id, settings, kind)
        self.next_id += 1
        self.domains[domain.id] = domain
        write = lambda path, value: self.store.write(domain.path(path), value)  # noqa: E731
        write("name", domain.name)
        write("domid", domain.id)
        write("vm", "/vm/" + domain.uuid)
        write("memory/target", domain.memory * 1024)
        write("control/shutdown", "")
        write("data", "")
        self.store.write("/libxl/%d/type" % domain.id, kind)
        return domain

    def run(self, domain):
        """Unpauses it: its guest begins."""
        if not domain.paused:
            return
        domain.paused = False
        if domain.guest is None:
            faults = self.world().get("faults") or {}
            domain.guest, domain.started = Guest(domain, self.text(domain.settings.get("ramdisk")), faults), self.clock()
            self.at(float(self.world().get("guestSeconds", SECONDS)), domain.id, "boot")

    def resume(self, domain, drawn):
        """A domain that was saved goes on: its guest does not begin anew, and what it once wrote into its folder is not there."""
        domain.paused, domain.started = False, self.clock()
        domain.guest = Guest(domain, self.text(domain.settings.get("ramdisk")), {})
        domain.guest.up, domain.guest.drawn = True, drawn
        self.connect(domain)

    def text(self, path):
        """The beginning of a file of dom0, None where there is none."""
        try:
            with open(self.root + path, "rb") as file:
                return file.read(200).decode("utf-8", "replace")
        except (OSError, TypeError):
            return None

    def connect(self, domain):
        """The guest's pcifront and pciback agree (states of xenbus: 4 is connected); an HVM guest has none, its QEMU passes them."""
        if domain.pci:
            state = "3" if domain.type == "hvm" else "4"
            self.store.write("/local/domain/0/backend/pci/%d/0/state" % domain.id, state)
            if domain.type != "hvm":
                self.store.write(domain.path("device/pci/0/state"), "4")

    def destroy(self, domain):
        for each in domain.pci:
            # To quarantine again: Xen 4.17's default (iommu=quarantine).
            self.owner[each["sbdf"]] = IO
            self.store.remove("/libxl/pci/%s/domid" % xs_name(each["sbdf"]))
        for path in (domain.path(), "/libxl/%d" % domain.id, "/vm/" + domain.uuid):
            self.store.remove(path)
        for kind in self.store.children("/local/domain/0/backend"):
            self.store.remove("/local/domain/0/backend/%s/%d" % (kind, domain.id))
        self.due = [each for each in self.due if each[1] != domain.id]
        del self.domains[domain.id]

    # --- time

    def at(self, seconds, number, what):
        self.due.append((self.clock() + seconds, number, what))
        self.due.sort()

    def settle(self):
        while self.due and self.due[0][0] <= self.clock():
            _, number, what = self.due.pop(0)
            domain = self.domains.get(number)
            if domain is not None:
                getattr(self, "_" + what)(domain)
        for domain in list(self.domains.values()):
            self._listen(domain)

    def _listen(self, domain):
        """What dom0 wrote into its xenstore folder, as the guest hears it."""
        guest = domain.guest
        if guest is None or not guest.obeys or domain.paused or domain.down:
            return
        asked = self.store.read(domain.path("control/shutdown"))
        if asked and not domain.requested:
            self.store.write(domain.path("control/shutdown"), "")  # its kernel has taken it
            if asked == "suspend" or not guest.hangs:  # that is the kernel's own; the others are done by a program
                domain.requested = asked
                self.at(GOES, domain.id, {"reboot": "reboot", "suspend": "suspend"}.get(asked, "poweroff"))
        if guest.kind != "lab" or guest.hangs:
            return
        token = self.store.read(domain.path("data/lab/draw"))
        token = "".join(c for c in token or "" if c in "0123456789abcdef")
        if token and token != guest.drawn:
            guest.drawn = token
            self.say(domain, "guest drew " + token)
        if self.store.remove(domain.path("data/lab/look")):
            self._look(domain)
        if self.store.remove(domain.path("data/lab/off")) and not domain.requested:
            domain.requested = "poweroff"
            self.at(GOES, domain.id, "poweroff")

    def _boot(self, domain):
        guest = domain.guest
        if guest.dead:
            return
        guest.up = True
        if not guest.hangs or guest.kind != "lab":
            self.connect(domain)
        if guest.kind != "lab":
            return
        self.say(domain, "guest up after %.2f s as %s" % (self.clock() - domain.started, domain.type.upper()))
        if guest.hangs:
            return self.say(domain, "guest hangs")
        self._look(domain)
        if domain.vfb() and domain.type != "hvm":
            self.say(domain, "guest has a screen of 800,600")
        self.say(domain, "guest ready")

    def _look(self, domain):
        guest = domain.guest
        seen = guest.seen(self.function)
        for address, kind, ids, driver in seen:
            self.say(domain, "guest sees %s 0x%s 0x%s:0x%s %s" % (address, kind, ids[:4], ids[5:], driver))
        self.store.write(domain.path("data/guidomain/pci"), " ".join(ids for _, _, ids, _ in seen))
        if guest.has_screen(seen):
            self.store.write(domain.path("data/guidomain/screen"), "on")

    def say(self, domain, line):
        """xenconsoled keeps what guests say where it runs with --log=guest (/etc/default/xen)."""
        if not self.logs:
            return
        folder = self.root + "/var/log/xen/console"
        os.makedirs(folder, exist_ok=True)
        try:
            with open("%s/guest-%s.log" % (folder, domain.name), "a") as file:
                file.write(line + "\n")
        except OSError:
            pass  # a full disk

    def _poweroff(self, domain):
        self.ended(domain, "s", domain.settings.get("on_poweroff", "destroy"))

    def _reboot(self, domain):
        self.ended(domain, "r", domain.settings.get("on_reboot", "restart"))

    def _suspend(self, domain):
        domain.down = "s"

    def ended(self, domain, reason, action):
        """What the `xl create` that waits for it does (xl_vmcontrol.c, handle_domain_death)."""
        domain.down = reason
        if not domain.monitored or action == "preserve":
            return
        settings, kind, passed = domain.settings, domain.type, domain.pci
        self.destroy(domain)
        if action == "restart" and self.restart:
            self.restart(settings, kind, passed)

    restart = None

    def wait(self, holds, seconds):
        """Until `holds()`; False where it does not within that time. Who runs this decides how time passes."""
        raise NotImplementedError

    # --- looks

    def saved(self, domain):
        return json.dumps({"settings": domain.settings, "type": domain.type, "drawn": domain.guest.drawn if domain.guest else None})


def xs_name(sbdf):
    """"0000-00-06-0" (libxl_pci.c, PCI_BDF_XSPATH)."""
    return sbdf.replace(":", "-").replace(".", "-")
