"""Faults that bite when something happens: world["faults"]["triggers"], a list of

    {"at": "admin.vm.Start sys-gui", "do": "hang", "when": "before", "skip": 0}

at    "METHOD[+ARG] DESTINATION" of an Admin API call (patterns of fnmatch; without +ARG any argument counts);
      "command NAME" or "command NAME ARGUMENTS…" of one of dom0's commands; "file PATH" once it is there, "file PATH ~ TEXT" once it
      says that; "boot" when the units of a boot have started; "step NAME" of a runner that has steps
do    hang, reset, power (it is gone until somebody switches it on), reboot, cut-line (SSH sessions end, dom0 goes on), kill-agent, kill-guard, kill-salt
when  "before" it happens (the default) or "after"; only for calls and commands
skip  how many times it happens without harm first

Each bites once. Which have is kept in `fired`, by what they say.
"""
import fnmatch
import json
import os

# One-word faults: name → (what it does, patch of world["faults"] or of the world).
TEXTS = {
    "start-in-use": "Start failed: Requested operation is not valid: PCI device {sbdf} is in use by driver xenlight, domain sys-gui-gpu, see /var/log/libvirt/libxl/libxl-driver.log for details",
    "start-not-assignable": "Start failed: Requested operation is not valid: PCI device {sbdf} is not assignable, see /var/log/libvirt/libxl/libxl-driver.log for details",
    "start-no-reset": "Start failed: internal error: Unable to reset PCI device {sbdf}: no FLR, PM reset or bus reset available, see /var/log/libvirt/libxl/libxl-driver.log for details",
    "start-reset-failed": "Start failed: internal error: Unable to reset PCI device {sbdf}: internal error: libxenlight failed to reset the device, see /var/log/libvirt/libxl/libxl-driver.log for details",
    "start-libxl": "Start failed: internal error: libxenlight failed to create new domain '{qube}', see /var/log/libvirt/libxl/libxl-driver.log for details",
    "start-node-device": "Start failed: Node device not found: no node device with matching name 'pci_0000_00_99_0', see /var/log/libvirt/libxl/libxl-driver.log for details",
    "start-no-iommu": "Failed to start an HVM qube with PCI devices assigned - hardware does not support IOMMU/VT-d/AMD-Vi",
    "start-not-available": "Pci device dom0:{sbdf}:0000:0000::?****** not available",
    "start-memory": "Not enough memory to start domain '{qube}'",
    "start-agent": "Cannot connect to qrexec agent for 60 seconds, see /var/log/xen/console/guest-{qube}.log for details",
    "start-prohibited": "Qube start is prohibited. Rationale: fault",
}
NAMED = {
    "no-iommu": ("Xen finds no IOMMU", {"iommu": False}),
    "no-reset": ("no display can be reset", {"faults": {"noReset": True}}),
    "stubdom-timeout": ("the device model does not start", {"faults": {"startPci": {"*": TEXTS["start-libxl"]}}}),
    "guest-no-drm": ("a qube's kernel has no driver for its display", {"faults": {"guestNoDrm": True}}),
    "guest-no-sound": ("a qube's kernel has no driver for its sound", {"faults": {"guestNoSound": True}}),
    "no-wake": ("the host does not wake from sleep", {"faults": {"noWake": True}}),
    "disk-full": ("dom0's disk is full", {"faults": {"diskFull": True}}),
    "no-watchdog": ("the host has no xenwatchdogd", {"watchdog": False}),
    "clock-right": ("dom0's clock is right, and programs that begin now see it jump later", {"clockOffset": 0}),
    "clock-ahead": ("dom0's wall clock jumps a day ahead", {"clockOffset": 86400}),
    "clock-behind": ("dom0's wall clock jumps ten years back", {"clockOffset": -315360000}),
    "xen-guests-hang": ("guests of a plain Xen host stop before they look at their devices", {"faults": {"guestHangs": True}}),
    "xen-refuses": ("the hypervisor of a plain Xen host gives no function to a domain", {"faults": {"refuseAssign": True}}),
    "no-person": ("nobody is there to type a passphrase", {"person": False}),
}
NAMED.update({name: ("a start with PCI devices ends in: " + text, {"faults": {"startPci": {"*": text}}}) for name, text in TEXTS.items()})
EVENTS = {
    "kernel-update": "a newer kernel is installed, grub.cfg is made anew, the oldest of more than three goes",
    "firmware-renumber": "at the next boot the firmware shows one more root port: bus numbers shift, paths stay",
    "firmware-move": "at the next boot the cards behind the first bridge are in another slot: paths change too",
    "template-update": "every template's packages get a newer version",
    "cut-line": "every SSH session ends now",
    "kill-agent": "the agents of guidomain are killed now",
    "kill-guard": "the guard is killed now",
    "kill-salt": "what runs of Salt is killed now",
    "second-controller": "somebody else holds the host for a minute from now",
    "hang": "the host stands still now",
    "reset": "the host resets now",
    "power": "the host loses power now",
}


def listed():
    """{name: {"what", "patch" or None}}"""
    found = {name: {"what": what, "patch": patch} for name, (what, patch) in NAMED.items()}
    found.update({name: {"what": what, "patch": None} for name, what in EVENTS.items()})
    return found


def updated(templates):
    """The templates after an update: the last number of every package's version is one higher."""

    def newer(version):
        head, dot, last = version.rpartition(".")
        return head + dot + (str(int(last) + 1) if last.isdigit() else last + ".1")

    return {
        name: dict(each, packages={package: newer(version) for package, version in each["packages"].items()})
        for name, each in templates.items()
    }


class Triggers:
    def __init__(self, world, fired=None):
        """`world`: a dict, or an object with .read(); `fired`: path of a file that remembers which have bitten."""
        self.world, self.path, self.known = world, fired, {}

    def listed(self):
        world = self.world if isinstance(self.world, dict) else self.world.read()
        return (world.get("faults") or {}).get("triggers") or []

    def _counts(self):
        if self.path:
            try:
                with open(self.path) as file:
                    self.known = json.load(file)
            except (OSError, ValueError):
                self.known = {}
        return self.known

    def _count(self, key):
        """How often it has happened before this time."""
        counts = self._counts()
        before = counts.get(key, 0)
        counts[key] = before + 1
        if self.path:
            with open(self.path + ".new", "w") as file:
                json.dump(counts, file)
            os.rename(self.path + ".new", self.path)
        return before

    def fires(self, kind, what, when="before"):
        """The trigger that bites now, or None. kind: "call", "command", "boot", "step"."""
        for each in self.listed():
            if each.get("when", "before") != when or not _means(each["at"], kind, what):
                continue
            if self._count(json.dumps(each, sort_keys=True)) == each.get("skip", 0):
                return each
        return None

    def files(self):
        """[(trigger, path, text or None)] of those that wait for a file."""
        found = []
        for each in self.listed():
            if each["at"].startswith("file ") and self._counts().get(json.dumps(each, sort_keys=True), 0) <= each.get("skip", 0):
                path, _, text = each["at"][5:].partition(" ~ ")
                found.append((each, path.strip(), text or None))
        return found

    def look(self, root=""):
        """The trigger whose file is there now, or None."""
        for each, path, text in self.files():
            try:
                with open(root + path, errors="replace") as file:
                    if text is None or text in file.read():
                        if self._count(json.dumps(each, sort_keys=True)) == each.get("skip", 0):
                            return each
            except OSError:
                pass
        return None


def _means(at, kind, what):
    if kind in ("boot",):
        return at == "boot"
    if kind in ("command", "step"):
        return at.startswith(kind + " ") and _begins(what, at[len(kind) + 1 :])
    if at.startswith(("command ", "file ", "step ")) or at == "boot":
        return False
    method, _, dest = at.partition(" ")
    called, _, target = what.partition(" ")
    if "+" not in method:
        called = called.partition("+")[0]
    return fnmatch.fnmatchcase(called, method) and (not dest or fnmatch.fnmatchcase(target, dest))


def _begins(what, pattern):
    """The pattern's words are the first of what was run."""
    given, wanted = what.split(), pattern.split()
    return len(given) >= len(wanted) and all(fnmatch.fnmatchcase(g, w) for g, w in zip(given, wanted))
