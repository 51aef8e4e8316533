"""The state of a Qubes dom0 and its rules: no sockets, no files but world.json through World.

The stored form (qubes.json; an installation's `install.json` holds the same without "boot"):

    labels   [name]
    pools    [name]
    globals  {property: value set}
    qubes    {name: {class, qid, uuid, properties: {name: value set}, features: {name: text},
             tags: [name], pci: [{port, device, mode, options: {key: text}}],
             root: the template that a root volume of its own was copied from,
             volumes: {volume: {revisions_to_keep}} where it is not the pool's}}
    boot     {id, nextXid, started: autostart is done, defined: {name: MiB libvirt knows it with},
             running: {name: {xid, stubdom_xid, state, started, ready, stops, attached: [sbdf],
             services: [feature]}}}

What runs belongs to a boot: under another boot id nothing runs. Times are seconds since the epoch.
"""

import re
import time
import uuid

from guest import layers
from machine import hardware

from . import STUBDOM_MEMORY, pci, qubesdb, usb, volumes
from .errors import (
    DeviceAlreadyAssigned,
    DeviceAlreadyAttached,
    DeviceNotAssigned,
    QubesException,
    QubesLabelNotFoundError,
    QubesMemoryError,
    QubesNoSuchPropertyError,
    QubesPropertyValueError,
    QubesValueError,
    QubesVMError,
    QubesVMInUseError,
    QubesVMNotFoundError,
    QubesVMNotHaltedError,
    QubesVMNotPausedError,
    QubesVMNotRunningError,
    QubesVMNotStartedError,
    QubesVMShutdownTimeoutError,
    Refused,
)
from .properties import GLOBALS, PROPERTIES, check_name, set_once

CLASSES = ("AdminVM", "AppVM", "DispVM", "RemoteVM", "StandaloneVM", "TemplateVM")
SEE_LOG = ", see /var/log/libvirt/libxl/libxl-driver.log for details"
# Seconds from a shutdown request until the domain is gone, unless a fault says otherwise.
SHUTDOWN_TIME = 0.15


class Host:
    """What the model asks of the machine below. This one knows of no drivers: every device is free. `storage` is the folder
    /var/lib/qubes, where the images of volumes are; None for a model that only looks: it touches none.
    """

    storage = None
    images = None  # the same folder for one that only looks

    def started(self, qube):
        """The qube's domain runs: its inside begins."""

    def stopped(self, name):
        """The domain is gone, with all that ran in it; called before its volumes are stopped."""

    def driver(self, sbdf):
        """The driver of dom0's that holds a function; None for none."""
        return None

    def detach(self, sbdf):
        """Gives a function to pciback, as libvirt does before a start. It stays there: dom0 does not get it back."""

    def hang(self, why):
        """The machine stands still. Does not return."""

    def input_target(self):
        """The qube that dom0's input devices are passed on to (/etc/qubes/input-proxy-target); None for
        none, False where dom0 has no program that passes them on.
        """
        return None

    def receives_input(self):
        """Whether dom0 has what takes input devices of qubes (package qubes-input-proxy)."""
        return False

    def allowed(self, source, service, argument, target, qubes):
        """Where dom0's policy lets a call go without a question; None for nowhere."""
        return None

    def log(self, line):
        """A line of /var/log/libvirt/libxl/libxl-driver.log."""


class Holder:
    """What has properties: a qube or the system. `set_values` are the explicitly set ones."""

    def definition(self, name):
        try:
            return self.definitions[name]
        except KeyError:
            raise QubesNoSuchPropertyError(self, name)

    def has(self, name):
        return name in self.definitions

    def value(self, name):
        if name in self.set_values:
            return self.set_values[name]
        return self.definition(name).default(self)

    def is_default(self, name):
        return name not in self.set_values and (
            not self.definition(name).once or self.klass == "AdminVM"
        )

    def set(self, name, text):
        definition = self.definition(name)
        value = definition.parse(self, text)
        if definition.once:
            set_once(definition)
        if definition.read_only:
            raise QubesPropertyValueError(
                "property %r on %s instance cannot be set" % (name, self.klass)
            )
        value = definition.check(self, value)
        old = self.value(name)
        self.changing(name, value, old)
        self.set_values[name] = value
        self.changed("property-set", name, value, old)

    def reset(self, name):
        definition = self.definition(name)
        if definition.once:
            set_once(definition)
        if name == "label":
            raise Refused("a label has no default")
        if name == "template":
            default = self.system.value("default_template")
            hint = (
                ". You can set it to the current default (%s) instead" % default if default else ""
            )
            raise QubesValueError("Cannot unset template" + hint)
        old = self.value(name)
        if old:  # a False or missing value is reset without more (core-admin 4.3.50)
            self.changing(name, None, old)
        self.set_values.pop(name, None)
        self.changed("property-reset", name, self.value(name), old)

    def changing(self, name, value, old):
        """Called before a property gets a value (None: is reset); may refuse it."""

    def changed(self, what, name, value, old):
        fields = {"name": name, "oldvalue": old}
        if what == "property-set":
            fields["newvalue"] = value
        self.system.emit(self.subject, "%s:%s" % (what, name), fields)


class Qube(Holder):
    def __init__(self, system, name, raw):
        self.system, self.name = system, name
        self.klass, self.qid, self.uuid = raw["class"], raw["qid"], raw["uuid"]
        self.set_values = dict(raw.get("properties", {}))
        self.features = dict(raw.get("features", {}))
        self.tags = set(raw.get("tags", []))
        self.pci = [dict(each, options=dict(each["options"])) for each in raw.get("pci", [])]
        self.usb = [dict(each) for each in raw.get("usb", [])]
        # The template whose content a root volume of its own was copied from.
        self.root = raw.get("root")
        self.volumes = {volume: dict(each) for volume, each in raw.get("volumes", {}).items()}
        self.definitions = PROPERTIES[self.klass]
        self.subject = name

    def __str__(self):
        return self.name

    def stored(self):
        raw = {
            "class": self.klass,
            "qid": self.qid,
            "uuid": self.uuid,
            "properties": self.set_values,
            "features": self.features,
            "tags": sorted(self.tags),
            "pci": self.pci,
        }
        if self.usb:
            raw["usb"] = self.usb
        if self.volumes:
            raw["volumes"] = self.volumes
        return dict(raw, root=self.root) if self.root else raw

    # --- relations

    @property
    def template(self):
        return self.system.qubes.get(self.set_values.get("template"))

    @property
    def netvm(self):
        return self.system.qubes.get(self.value("netvm")) if self.has("netvm") else None

    def others_with(self, name):
        return [
            other for other in self.system.qubes.values() if other is not self and other.has(name)
        ]

    def connected(self):
        """Names of the qubes whose way to the network leads through this one."""
        found, todo = set(), [self.name]
        while todo:
            netvm = todo.pop()
            for other in self.system.qubes.values():
                if other.name not in found and other.has("netvm") and other.value("netvm") == netvm:
                    found.add(other.name)
                    todo.append(other.name)
        return found

    def is_networked(self):
        return self.netvm is not None or bool(
            self.has("provides_network") and self.value("provides_network")
        )

    def feature_with_template(self, name):
        """Value of a feature, its own or else its template's; None where neither has it."""
        qube = self
        while qube:
            if name in qube.features:
                return qube.features[name]
            qube = qube.template
        return None

    def can_balance_memory(self):
        """is_memory_balancing_possible: no PCI devices, and in an hvm only with Qubes' agents
        inside.
        """
        if self.pci:
            return False
        if self.value("virt_mode") != "hvm":
            return True
        names, qube = set(), self
        while qube:
            names.update(qube.features)
            qube = qube.template
        announced = any(name.startswith("supported-service.") for name in names)
        agent = self.feature_with_template("qrexec")
        return bool(
            agent
            and (not announced or self.feature_with_template("supported-service.meminfo-writer"))
        )

    # --- state

    @property
    def run(self):
        return self.system.running.get(self.name)

    def state(self):
        if self.klass == "AdminVM":
            return "Running"
        if self.run is None:
            return "Halted"
        if self.run["state"] == "Running" and self.system.now() < self.run["ready"]:
            return "Transient"
        return self.run["state"]

    def is_running(self):
        return self.state() not in ("Halted", "Paused", "Suspended")

    def is_halted(self):
        return self.state() == "Halted"

    def start_time(self):
        return str(float(self.run["started"])) if self.run else None

    def memory_now(self):
        """KiB."""
        if self.klass == "AdminVM":
            return self.system.world.get("dom0Memory", 4096) * 1024
        return self.value("memory") * 1024 if self.run else 0

    def memory_most(self):
        """KiB; libvirt knows a qube only once it was started."""
        if self.klass == "AdminVM":
            return self.system.world.get("dom0Memory", 4096) * 1024
        return self.system.boot["defined"].get(self.name, 0) * 1024

    def shown_by_dom0(self):
        """dom0's GUI daemon shows its windows: it runs, dom0 is its GUI domain, and somebody is at
        dom0's desktop.
        """
        return bool(
            self.run
            and self.system.world.get("dom0Session")
            and self.value("guivm") == "dom0"
            and self.feature_with_template("gui")
        )

    def has_desktop(self, passed=()):
        """Somebody shows it, so the X server inside has started: dom0 where somebody sits there, a GUI domain that has a desktop
        itself, or its own screen.
        """
        guivm = self.value("guivm") if self.has("guivm") else None
        if not self.run or self.name in passed:
            return False
        if guivm is None:
            return True
        if guivm == "dom0":
            return bool(self.system.world.get("dom0Session"))
        return self.system.qubes[guivm].has_desktop(passed + (self.name,))

    def emulates_sound(self):
        """Its stubdomain plays for it (qubes-host.md (h) 4)."""
        return self.value("virt_mode") == "hvm" and bool(self.feature_with_template("audio-model"))

    def connects(self, audiovm):
        """Its sound reaches the audio domain that it has now. R4.3 writes the id into its QubesDB at once (core-admin 4.3.50,
        ext/audio.py); PipeWire watches that, PulseAudio reads it when it starts (gui-agent-linux), and so does a stubdomain
        without qrexec.
        """
        began = (self.run or {}).get("audiovm") == audiovm
        if self.emulates_sound():
            return began or bool(self.feature_with_template("stubdom-qrexec"))
        packages = self.system.packages_in(self)
        return "pipewire-qubes" in packages or ("pulseaudio-qubes" in packages and began)

    def cpu_time(self):
        """Nanoseconds, whole milliseconds: what booting costs a qube here, then an idle thousandth.
        """
        if not self.run:
            return 0
        return (7 + int(self.system.now() - self.run["started"])) * 1000000

    # --- changes

    def changing(self, name, value, old):
        if name == "autostart":
            self.system.autostart(self.name, bool(value))

    def changed(self, what, name, value, old):
        super().changed(what, name, value, old)
        if name in ("guivm", "audiovm"):
            self.tag_domain(name, value)
        if name == "audiovm" and what == "property-set":
            self.moved(old, value)
        if name == "provides_network":
            self.features.pop("servicevm", None)
            if value:
                self.features["servicevm"] = "1"

    def tag_domain(self, kind, value):
        """The one tag guivm-X or audiovm-X that says whose the qube is (§3, side effects)."""
        for tag in sorted(self.tags):
            if tag.startswith(kind + "-"):
                self.remove_tag(tag)
        if value:
            self.add_tag("%s-%s" % (kind, value))

    def add_tag(self, tag):
        if not re.fullmatch(r"[a-zA-Z0-9_-]+", tag):
            raise Refused("Invalid character in tag")
        if tag not in self.tags:
            self.tags.add(tag)
            self.system.emit(self.name, "domain-tag-add:" + tag, {"tag": tag})

    def remove_tag(self, tag):
        self.tags.remove(tag)
        self.system.emit(self.name, "domain-tag-delete:" + tag, {"tag": tag})

    def set_feature(self, name, value):
        if name.startswith("service."):
            check_service(name[len("service.") :])
        old = self.features.get(name)
        self.features[name] = value
        if name.startswith("vm-config."):
            check_config(name[len("vm-config.") :])  # and it stays, although refused
        if name.startswith("custom-persist."):
            check_persist(name[len("custom-persist.") :], value)  # it stays, too
        fields = {"feature": name, "value": value}
        self.system.emit(
            self.name,
            "domain-feature-set:" + name,
            fields if old is None else dict(fields, oldvalue=old),
        )
        if name == "service.meminfo-writer":
            # Not a service any more: it decides over maxmem and goes (core-admin 4.3.50,
            # ext/services.py).
            if self.has("maxmem"):
                self.reset("maxmem") if value else self.set("maxmem", "0")
            self.remove_feature(name)

    def remove_feature(self, name):
        del self.features[name]
        self.system.emit(self.name, "domain-feature-delete:" + name, {"feature": name})

    # --- the microphone: /audio-input-config/CLIENT in the QubesDB of its audio domain (gui-daemon, qubesguidaemon/mic.py)

    def audiovm(self):
        return self.system.qubes.get(self.value("audiovm")) if self.has("audiovm") else None

    def hears_microphone(self):
        audiovm = self.audiovm()
        return bool(audiovm and audiovm.is_running() and self.system.microphone(audiovm).get(self.name))

    def attach_microphone(self, has_options):
        if self.is_halted():
            raise QubesVMNotRunningError(
                self.name, "VM not running, cannot attach device, do you mean `assign`?"
            )
        if self.hears_microphone():
            raise DeviceAlreadyAttached(
                "device dom0:mic of class mic already attached to %s" % self.name
            )
        if has_options:
            raise QubesException("Microphone assignment does not support user options")
        self._microphone()[self.name] = True
        self.system.emit(self.name, "device-attach:mic", {"device": "dom0:mic"})

    def detach_microphone(self):
        if not self.hears_microphone():
            raise DeviceNotAssigned("mic device mic not attached to %s" % self.name)
        self._microphone()[self.name] = False
        self.system.emit(self.name, "device-detach:mic", {"port": "dom0:mic"})

    def _microphone(self):
        audiovm = self.audiovm()
        if audiovm is None:
            raise QubesException("VM %s has no AudioVM set" % self.name)
        if not audiovm.is_running():
            raise QubesVMNotRunningError(audiovm.name, "Audio VM %s isn't running" % audiovm.name)
        return self.system.microphone(audiovm)

    def moved(self, old, new):
        """Its audio domain is another: the new one hears the microphone for it if the old one did."""
        before, after = self.system.qubes.get(old), self.system.qubes.get(new)
        if not (self.run and before and after and before.is_running() and after.is_running()):
            return
        heard = self.system.microphone(before).get(self.name)
        if heard is not None and before is not after:
            self.system.microphone(after)[self.name] = heard

    # --- PCI

    def find(self, port, device):
        return next(
            (each for each in self.pci if (each["port"], each["device"]) == (port, device)), None
        )

    def assign(self, port, device, mode, options):
        what = "pci device dom0:%s:%s" % (port, device)
        if self.find(port, device):
            raise DeviceAlreadyAssigned("%s already assigned to %s" % (what, self.name))
        self.pci.append({"port": port, "device": device, "mode": mode, "options": options})
        fields = {"device": "dom0:%s:%s" % (port, device), "options": str(options)}
        self.system.emit(self.name, "device-assign:pci", fields)

    def unassign(self, port, device):
        what = "pci device dom0:%s:%s" % (port, device)
        found = self.find(port, device)
        if not found:
            raise DeviceNotAssigned("%s not assigned to %s" % (what, self.name))
        self.pci.remove(found)
        self.system.emit(
            self.name, "device-unassign:pci", {"device": "dom0:%s:%s" % (port, device)}
        )

    def detach(self, port):
        device = next((each for each, _ in self.attached() if each.port == port), None)
        if device is None:
            raise DeviceNotAssigned("pci device %s not attached to %s" % (port, self.name))
        if any(each["mode"] == "required" and matches(each, device) for each in self.pci):
            raise QubesVMNotHaltedError(
                self.name,
                "Can not detach a required device from a non halted qube. "
                "You need to unassign device first.",
            )
        self.run["attached"].remove(device.sbdf)
        self.system.emit(self.name, "device-detach:pci", {"port": "dom0:" + port})

    def attached(self):
        """[(function, assignment or None)] of what it holds now; the assignment may have gone since its start, and one
        that names only the port or only the device is not known again (devices.py, get_attached_devices).
        """
        held = (self.run or {}).get("attached", [])
        found = []
        for device in self.system.functions():
            if device.sbdf in held:
                found.append((device, self.find(device.port, device.device_id)))
        return found


def check_service(name):
    """QubesDB, which tells a qube its services, takes no other names (seen on real core-admin
    4.3.50; ext/services.py).
    """
    if not name:
        raise QubesValueError("Service name cannot be empty")
    if name in (".", ".."):
        raise QubesValueError('Service name cannot be "." or ".."')
    if len(name) > 48 and not name.startswith("app-dispvm."):
        raise QubesValueError("Service name must not exceed 48 bytes")


def check_config(name):
    """Names of what a qube finds below /vm-config (seen on real core-admin 4.3.50;
    ext/vm_config.py).
    """
    if len(name) > 52:
        raise QubesValueError("VM config name must not exceed 46 bytes")
    if not name:
        raise QubesValueError("Empty config name not allowed")
    if not name[0].isalpha():
        raise QubesValueError("Config name must start with an ASCII letter")


def check_persist(name, value):
    """What stays in a qube (core-admin 4.3.50, ext/custom_persist.py)."""
    if not name:
        raise QubesValueError("custom-persist key cannot be empty")
    if len(name) > 54:
        raise QubesValueError("custom-persist key is too long (max 54), ignoring: " + name)
    if value.startswith("/"):
        return
    options = value.split(":")
    if len(options) < 5 or not options[4].startswith("/"):
        raise QubesValueError("invalid value format: '%s'" % value)
    if options[0] not in ("file", "dir"):
        raise QubesValueError("invalid resource type option '%s' in value '%s'" % (options[0], value))
    if not re.fullmatch("[0-7]{1,4}", options[3]):
        raise QubesValueError("invalid mode option '%s' in value '%s'" % (options[3], value))


def matches(assignment, device):
    return assignment["port"] in ("*", device.port) and assignment["device"] in (
        "*",
        device.device_id,
    )


class System(Holder):
    """`emit(subject, event, fields)` is called for every event; `autostart(qube name, on)` before a
    qube's autostart changes; `now` is the clock.
    """

    klass, name, subject = "Qubes", "system", ""

    def __init__(
        self, stored, world, boot_id, now=time.time, emit=None, autostart=None, host=None
    ):
        self.system = self
        self.host = host or Host()
        self.world, self.now = world, now
        self.emit = emit or (lambda subject, event, fields: None)
        self.autostart = autostart or (lambda name, on: None)
        self.definitions = GLOBALS
        self.labels = list(stored["labels"])
        self.pools = list(stored["pools"])
        self.set_values = dict(stored["globals"])
        self.qubes = {}
        for name, raw in stored["qubes"].items():
            self.qubes[name] = Qube(self, name, raw)
        boot = stored.get("boot") or {}
        if boot.get("id") != boot_id:
            boot = {"id": boot_id, "nextXid": 1, "running": {}, "defined": {}}
        self.boot = boot

    def __str__(self):
        return "system"

    def stored(self):
        return {
            "labels": self.labels,
            "pools": self.pools,
            "globals": self.set_values,
            "qubes": {name: qube.stored() for name, qube in self.qubes.items()},
            "boot": self.boot,
        }

    @property
    def running(self):
        """Runs of this boot; what was told to stop is gone once its time has come."""
        runs = self.boot["running"]
        for name in [
            name for name, run in runs.items() if run.get("stops") and run["stops"] <= self.now()
        ]:
            self.gone(name)
        return runs

    def functions(self):
        faults = self.world.get("faults") or {}
        return pci.functions(self.world.get("machine"), faults.get("noReset"))

    def qube(self, name):
        try:
            return self.qubes[name]
        except KeyError:
            raise QubesVMNotFoundError(name)

    def label(self, name):
        if name not in self.labels:
            raise QubesLabelNotFoundError(name)
        return name

    not_started = staticmethod(QubesVMNotStartedError)
    not_halted = staticmethod(QubesVMNotHaltedError)

    def changed(self, what, name, value, old):
        super().changed(what, name, value, old)
        # As in R4.3, a reset of the global property retags nothing; only setting it does.
        if what == "property-set" and name in ("default_guivm", "default_audiovm"):
            kind = name[len("default_") :]
            for qube in self.qubes.values():
                if qube.has(kind) and qube.is_default(kind):
                    qube.changed("property-set", kind, value, old)

    # --- life of a qube

    def create(self, klass, name, label, template, created_by):
        definitions = PROPERTIES.get(klass)
        if definitions is None or klass == "AdminVM":
            raise Refused("no such class")
        if template and "template" not in definitions:
            raise QubesValueError("%s cannot be based on template" % klass)
        if template:
            self.qube(template)
        check_name(name)
        self.label(label)
        if name in self.qubes:
            raise QubesValueError("VM %s already exists" % name)
        if "template" in definitions and not template:
            template = self.value("default_dispvm" if klass == "DispVM" else "default_template")
            if template is None:
                raise QubesValueError(
                    "Template for the qube not specified, nor default template set."
                )
        used = {qube.qid for qube in self.qubes.values()}
        qid = next(number for number in range(1, 65536) if number not in used)
        qube = Qube(self, name, {"class": klass, "qid": qid, "uuid": str(uuid.uuid4())})
        if klass == "DispVM":
            definitions["template"].check(qube, template)
            self._inherit(qube, self.qubes[template])
        qube.set_values["label"] = label
        if template:
            qube.set_values["template"] = definitions["template"].check(qube, template)
        self.qubes[name] = qube
        self.emit("", "domain-add", {"vm": name})
        for kind in ("guivm", "audiovm"):
            if qube.has(kind):
                qube.tag_domain(kind, qube.value(kind))
        qube.add_tag("created-by-" + created_by)
        maker = self.qubes[created_by]
        if maker.features.get("set-created-guivm"):
            qube.set("guivm", maker.features["set-created-guivm"])
        if qube.has("autostart") and qube.value("autostart"):
            self.autostart(name, True)
        self.emit(name, "domain-create-on-disk", {})

    @staticmethod
    def _inherit(qube, template):
        """A disposable begins with what its template has set, its features and its tags."""
        own = ("template", "template_for_dispvms", "installed_by_rpm", "include_in_backups")
        for name, value in template.set_values.items():
            if qube.has(name) and name not in own:
                qube.set_values[name] = value
        qube.features.update(template.features)
        qube.tags.update(tag for tag in template.tags if not tag.startswith("created-by-"))

    def remove(self, qube):
        if qube.klass == "AdminVM":
            raise QubesVMInUseError("'dom0' cannot be removed")
        if qube.value("installed_by_rpm"):
            raise QubesVMInUseError("VM installed by package manager: " + qube.name)
        if not qube.is_halted():
            raise QubesVMNotHaltedError(qube.name)
        used = any(
            value == qube.name
            for name, value in self.set_values.items()
            if GLOBALS[name].type == "vm"
        )
        for other in self.qubes.values():
            if other is not qube:
                used = used or any(
                    value == qube.name
                    for name, value in other.set_values.items()
                    if other.definitions[name].type == "vm"
                )
        if used:
            raise QubesVMInUseError(
                "Domain is in use: %r;  see 'journalctl -u qubesd -e' in dom0 for details"
                % qube.name
            )
        shown = [e["port"] for other in self.qubes.values() for e in other.usb if e["backend"] == qube.name]
        if shown:  # app.py, domain-pre-delete
            raise QubesVMInUseError("VM has devices assigned to other VMs: " + ", ".join(shown))
        if qube.has("autostart") and qube.value("autostart"):
            self.autostart(qube.name, False)
        del self.qubes[qube.name]
        volumes.removed(qube, self.host.storage)
        self.boot["defined"].pop(qube.name, None)
        self.emit("", "domain-delete", {"vm": qube.name})

    def start(self, qube):
        """Starts it and, before it, its netvm chain; nothing of it is left running when it fails.
        """
        if qube.klass == "AdminVM":
            raise QubesVMNotHaltedError(qube.name, "Cannot start Dom0 fake domain!")
        if not qube.is_halted():
            return
        self.emit(qube.name, "domain-pre-start", {"start_guid": True})
        try:
            self._start(qube)
        except (QubesException, Refused) as error:
            self.boot["running"].pop(qube.name, None)
            self.emit(qube.name, "domain-start-failed", {"reason": str(error)})
            volumes.stop(qube, self.host.storage)  # a started volume's former image is a revision now, as in Qubes
            raise
        self.host.started(qube)
        usb.started(self, qube)
        self.emit(qube.name, "domain-start", {"start_guid": True})

    def _start(self, qube):
        if qube.features.get("prohibit-start"):
            raise QubesException(
                "Qube start is prohibited. Rationale: " + qube.features["prohibit-start"]
            )
        devices = self._devices_for(qube)
        if qube.netvm and qube.netvm.klass != "AdminVM":
            self.start(qube.netvm)
        needed = qube.value("memory") + (STUBDOM_MEMORY if qube.value("virt_mode") == "hvm" else 0)
        if needed > self.free_memory():
            raise QubesMemoryError(qube.name)
        self.boot["defined"][qube.name] = qube.value("memory")
        volumes.start(qube, self.host.storage)
        self._spawn(qube, devices)
        if qube.value("guivm") not in (None, qube.name):
            # Written into QubesDB for its GUI domain; a qube that is its own gets none, and starts
            # (seen on real core-admin 4.3.50; ext/gui.py, on_domain_qdb_create).
            qube.value("keyboard_layout")
        text = self.world.fault("start", qube.name)
        if text:
            raise QubesException(text)
        xid = self.boot["nextXid"]
        run = {
            "xid": xid,
            "stubdom_xid": -1,
            "state": "Running",
            "started": self.now(),
            "stops": None,
        }
        run["ready"] = self.now() + (self.world.fault("startSeconds", qube.name) or 0)
        if qube.value("virt_mode") == "hvm":
            xid = run["stubdom_xid"] = xid + 1
        self.boot["nextXid"] = xid + 1
        run["attached"] = [device.sbdf for device in devices]
        run["audiovm"] = qube.value("audiovm")
        # A qube sees the services that were on when it started: /run/qubes-service is written at
        # its boot.
        run["services"] = [
            name for name, value in qube.features.items() if name.startswith("service.") and value
        ]
        # What is bound from the private volume, where the service asks for that (core-admin 4.3.50, ext/custom_persist.py; bind-dirs.sh).
        run["persists"] = [
            value[value.index("/") :]
            for name, value in sorted(qube.features.items())
            if name.startswith("custom-persist.")
        ]
        # qubes-input-trigger runs at the start (qubes-host.md (g)): what is set up later waits for the next one.
        run["proxied"] = (
            bool(qube.features.get("input-dom0-proxy")) and self.host.input_target() == qube.name
        )
        for heard in self.boot.get("microphone", {}).values():
            heard.pop(qube.name, None)
        self.boot["running"][qube.name] = run
        self.emit(qube.name, "domain-spawn", {"start_guid": True})
        if qube.feature_with_template("qrexec") and self.world.fault("agent", qube.name):
            timeout = qube.value("qrexec_timeout")
            raise QubesException(
                "Cannot connect to qrexec agent for %d seconds, "
                "see /var/log/xen/console/guest-%s.log for details"
                % (timeout, qube.name)
            )
        # qubesd runs it unasked, and takes its absence for an error of its own: no byte comes back,
        # and the qube is off (seen on real core-admin 4.3.50; ext/gui.py, on_domain_start).
        if qube.features.get("input-dom0-proxy") and self.host.input_target() is False:
            raise Refused("/usr/bin/qubes-input-trigger: no such file")

    def _devices_for(self, qube):
        """The functions its assignments mean; refused when a required one is not there (§5, last
        lines).
        """
        present = self.functions()
        for each in qube.pci:
            # Whatever its mode, qubesd first binds each one to pciback (core-admin 4.3.50, ext/pci.py
            # on_domain_pre_start; its answers seen on a real qubesd).
            port = each["port"]
            if port == "*" or any(device.port == port for device in present):
                continue
            sbdf = pci.sbdf_of_path(port, present)
            if sbdf is None and "-" in port:
                raise Refused("bind_pci_to_pciback: an UnknownDevice has no libvirt_name")
            sbdf = sbdf or "0000:" + port.replace("_", ":")  # no path of its own: taken for an SBDF
            if any(device.sbdf == sbdf for device in present):
                continue
            name = "pci_" + sbdf.replace(":", "_").replace(".", "_")
            raise QubesException(
                "Start failed: Node device not found: no node device with matching name %r%s"
                % (name, SEE_LOG)
            )
        found = []
        for each in qube.pci:
            if each["mode"] != "required":
                continue
            devices = [device for device in present if matches(each, device)]
            if not devices:
                raise QubesException(
                    "Pci device dom0:%s:%s not available" % (each["port"], each["device"])
                )
            found += [device for device in devices if device not in found]
        return found

    def _spawn(self, qube, devices):
        """What libvirt, libxl and Xen refuse (§5, marked [HV])."""
        if not devices:
            return
        hvm = qube.value("virt_mode") == "hvm"
        if hvm and not self.world.get("iommu", True):
            raise QubesException(
                "Failed to start an HVM qube with PCI devices assigned "
                "- hardware does not support IOMMU/VT-d/AMD-Vi"
            )

        def failed(text):
            raise QubesException("Start failed: " + text + SEE_LOG)

        self._pull(devices)
        # For its kernel's line qubesd asks each assignment for the one device that it means, and takes two for a protocol error: no
        # byte comes back (seen on real core-admin 4.3.50; vm/qubesvm.py kernelopts_common).
        one = all(sum(matches(each, device) for device in self.functions()) == 1 for each in qube.pci)
        if not one and qube.value("kernel") and qube.feature_with_template("no-nomodeset") is None:
            raise Refused("Too many devices matches to assignment")
        text = self.world.fault("startPci", qube.name)
        if text:
            if "libxenlight failed to create" in text:  # the lines that go with it (§5, end)
                self.host.log("libxl_device.c: Stubdom 6 for 5 startup: startup timed out")
                self.host.log("libxl_create.c: Domain 5:unable to add pci devices")
            raise QubesException(text.replace("{qube}", qube.name).replace("{sbdf}", devices[0].sbdf))
        if qube.value("virt_mode") == "pvh":
            failed("internal error: libxenlight failed to create new domain %r" % qube.name)
        for device in devices:
            what = "Requested operation is not valid: PCI device %s is " % device.sbdf
            for name, run in self.running.items():
                if device.sbdf in run["attached"]:
                    failed(what + "in use by driver xenlight, domain " + name)
            if device.secondary:
                failed(what + "not assignable")
        for device in devices:
            reason = self._cannot_reset(device, devices)
            strict = not any(
                each["options"].get("no-strict-reset") for each in qube.pci if matches(each, device)
            )
            if reason and strict:
                failed("internal error: Unable to reset PCI device %s: %s" % (device.sbdf, reason))

    def _pull(self, devices):
        """Before libvirt starts the domain, qubesd has every device detached from its driver in dom0. A display driver does
        not survive that, nor does dom0 without its disk (qubes-host.md (e), "host hang").
        """
        if (self.world.get("machine") or {}).get("standIn"):
            return
        for device in devices:
            driver = self.host.driver(device.sbdf)
            if driver in (None, "pciback"):
                continue
            if device.is_display():
                self.host.hang("the display %s was pulled from %s, which drove it" % (device.sbdf, driver))
            if device.interface.startswith("p01"):
                self.host.hang("the disk controller %s was pulled from dom0" % device.sbdf)
            self.host.detach(device.sbdf)

    def template_of(self, qube):
        """Whose content its root volume has."""
        template = qube.root or (qube.template or qube).name
        while (
            template in self.qubes and self.qubes[template].template
        ):  # a disposable's template's template
            template = self.qubes[template].template.name
        return template

    def packages_in(self, qube):
        """{name: version} of what is installed in a running qube."""
        template = (self.world.get("templates") or {}).get(self.template_of(qube)) or {}
        root = volumes.Volume(qube, "root", self.host.images)
        distribution = qube.feature_with_template("os-distribution") or ""
        return layers.recorded(self.host.images and root.dirty, distribution, template.get("packages", {}))

    def audio_clients(self, qube):
        """Running qubes whose audio domain it is now, with the domain whose sound its daemon asks for."""
        return [
            {
                "name": other.name,
                "xid": other.run["stubdom_xid" if other.emulates_sound() else "xid"],
                "connects": other.connects(qube.name),
            }
            for other in self.qubes.values()
            if other is not qube
            and other.run
            and other.state() == "Running"
            and other.has("audiovm")
            and other.value("audiovm") == qube.name
            and other.feature_with_template("audio") != ""
        ]

    def policy_facts(self):
        """What a policy's tokens ask about: {name: {type, tags, power_state, …}}."""
        return {
            name: {
                "type": qube.klass,
                "tags": sorted(qube.tags),
                "power_state": qube.state(),
                "template_for_dispvms": qube.has("template_for_dispvms")
                and qube.value("template_for_dispvms"),
                "default_dispvm": qube.value("default_dispvm"),
                "guivm": qube.value("guivm") if qube.has("guivm") else None,
                "internal": bool(qube.features.get("internal")),
                "uuid": qube.uuid,
            }
            for name, qube in self.qubes.items()
        }

    def passed_to(self, target):
        """Input devices of USB qubes that reach `target` ("dom0" or a qube), as if each had been plugged in now: its qube runs the
        proxy's sender and asks dom0's policy, which nobody answers for who is asked (qubes-host.md (g)).
        """
        machine, found = hardware.Hardware(self.world.read()), []
        for name in self.running:
            at = [each for each in machine.inputs() if each["at"] in self.qubes[name].run["attached"]]
            if not at or name == target or "qubes-input-proxy-sender" not in self.packages_in(self.qubes[name]):
                continue
            facts = self.policy_facts()
            for each in at:
                service, argument = hardware.input_call(each)
                if self.host.allowed(name, service, argument, "dom0", facts) == target:
                    found.append(dict(each, name="%s: %s" % (name, each["name"])))
        if target == "dom0" and not self.host.receives_input():
            return []
        return found

    def inside(self, qube):
        """What the inside of a running qube follows from; internal.GetQube."""
        run = qube.run or {}
        machine = hardware.Hardware(self.world.read())
        outputs, given = machine.outputs(), run.get("attached", [])
        own = [each for each in machine.inputs() if each["at"] in given]
        radios = [at for at in self.world.get("radios") or [] if at in given]
        dom0 = {each.sbdf: self.host.driver(each.sbdf) for each in machine.functions}
        passed = machine.in_dom0(dom0) if run.get("proxied") else []
        return {
            "name": qube.name,
            "state": qube.state(),
            "template": self.template_of(qube),
            "shown": qube.has_desktop(),
            "clients": self.audio_clients(qube),
            "services": [name[len("service.") :] for name in run.get("services", [])],
            "qrexec": bool(qube.feature_with_template("qrexec")),
            "user": qube.value("default_user") if qube.has("default_user") else "root",
            "os": qube.feature_with_template("os-distribution") or "",
            "osVersion": qube.feature_with_template("os-version") or "",
            "devices": [
                {
                    "sbdf": each.sbdf,
                    "class": each.interface[1:],
                    "vendor": each.raw["vendor"],
                    "device": each.raw["device"] or "ffff",
                    "name": "%s %s" % (each.vendor, each.product),
                    "module": each.module,
                    "outputs": outputs.get(each.sbdf, []),
                }
                for each in machine.functions
                if each.sbdf in given
            ],
            "inputs": [dict(each, name="dom0: " + each["name"]) for each in passed]
            + self.passed_to(qube.name),
            "ownInputs": own,
            "persists": run.get("persists", []),
            "class": qube.klass,
            "qdb": qubesdb.entries(qube),
            "xid": run.get("xid"),
            "volumes": {name: each.vid for name, each in volumes.volumes(qube).items() if name in ("root", "private")},
            "radios": len(radios),
            "usb": usb.inside(self, qube),
        }

    def _cannot_reset(self, device, given):
        if not device.resets:
            return "no FLR, PM reset or bus reset available"
        if set(device.resets) <= {"bus"}:
            for other in self.functions():
                if other.bus == device.bus and other.sbdf not in [each.sbdf for each in given]:
                    return (
                        "internal error: Active %s devices on bus with %s, not doing bus reset"
                        % (
                            other.sbdf,
                            device.sbdf,
                        )
                    )
        return None

    def microphone(self, audiovm):
        """{client: whether it gets the microphone} as the audio domain's QubesDB says; gone with its boot."""
        return self.boot.setdefault("microphone", {}).setdefault(audiovm.name, {})

    def stop_storage(self):
        """What qubesd does when it starts: the volumes of what does not run are stopped, so that what a crash left in them is
        theirs (core-admin 4.3, tools/qubesd.py, app.py).
        """
        for name, qube in self.qubes.items():
            if name not in self.running:
                volumes.stop(qube, self.host.storage)
        for qube in self.qubes.values():  # core-admin-linux, aux-tools/cleanup-dispvms
            if qube.name not in self.running:
                self.clean_up(qube)

    def free_memory(self):
        """MiB that Xen has left, as `xl info` says it."""
        used = self.world.get("dom0Memory", 4096)
        for name in self.running:
            qube = self.qubes[name]
            used += qube.value("memory") + (STUBDOM_MEMORY if qube.run["stubdom_xid"] != -1 else 0)
        return self.world.get("memory") - used

    def shutdown(self, qube, force=False):
        """Asks it to shut down; it is gone a moment later."""
        if qube.klass == "AdminVM":
            raise QubesVMError("Cannot shutdown Dom0 fake domain!")
        if qube.is_halted():
            raise QubesVMNotStartedError(qube.name)

        def using(name):
            return [
                other.name
                for other in self.qubes.values()
                if other.has(name) and other.value(name) == qube.name and other.is_running()
            ]

        self.emit(qube.name, "domain-pre-shutdown", {"force": force})
        if not force:
            if qube.value("provides_network") and using("netvm"):
                raise QubesVMInUseError(
                    "There are other VMs connected to this VM: " + ", ".join(using("netvm"))
                )
            if using("guivm"):  # its own guivm counts too, as in R4.3
                raise QubesVMError(
                    "There are running VMs using this VM as GuiVM: " + ", ".join(using("guivm"))
                )
            audio = [name for name in using("audiovm") if name != qube.name]
            if audio:
                raise QubesVMInUseError(
                    "There are running VMs using this VM as AudioVM: " + ", ".join(audio)
                )
        if qube.state() == "Paused":
            if not force:
                raise QubesVMNotRunningError(qube.name)
            return self.gone(qube.name)
        seconds = self.world.fault("shutdown", qube.name)
        if seconds == "never":
            return None
        if not qube.run["stops"]:
            qube.run["stops"] = self.now() + (SHUTDOWN_TIME if seconds is None else seconds)

    def kill(self, qube):
        if qube.klass == "AdminVM":
            raise QubesVMError("Cannot kill Dom0 fake domain!")
        if qube.is_halted():
            raise QubesVMNotStartedError(qube.name)
        self.gone(qube.name)

    def timed_out(self, qube):
        return QubesVMShutdownTimeoutError(qube.name)

    def gone(self, name):
        del self.boot["running"][name]
        self.boot.get("microphone", {}).pop(name, None)
        usb.gone(self, name)
        self.host.stopped(name)
        volumes.stop(self.qubes[name], self.host.storage)
        self.emit(name, "domain-stopped", {})
        self.emit(name, "domain-shutdown", {})
        self.clean_up(self.qubes[name])

    def clean_up(self, qube):
        """A disposable that is to go with its end (core-admin 4.3, vm/dispvm.py)."""
        if qube.klass == "DispVM" and qube.value("auto_cleanup"):
            self.qubes = {name: other for name, other in self.qubes.items() if other is not qube}  # somebody may be going through them
            self.boot["defined"].pop(qube.name, None)
            volumes.removed(qube, self.host.storage)
            self.emit("", "domain-delete", {"vm": qube.name})

    def pause(self, qube):
        if qube.klass == "AdminVM" or not qube.is_running():
            raise QubesVMNotRunningError(qube.name)
        qube.run["state"] = "Paused"
        self.emit(qube.name, "domain-paused", {})

    def unpause(self, qube):
        if qube.state() != "Paused":
            raise QubesVMNotPausedError(qube.name)
        qube.run["state"] = "Running"
        self.emit(qube.name, "domain-unpaused", {})
