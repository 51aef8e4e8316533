"""Properties of qubes and of the system: types, defaults, what setting them refuses
(qubes-cli-formats.md §3).

A definition speaks to its subject, a `model.Qube` or the `model.System`. Values are Python's: str,
int, bool, None; a property of type "vm" holds a name. `None` where the type has no such value means
"no value".
"""

import ipaddress
import re
import string

from .errors import QubesPropertyValueError, QubesValueError, Refused

TRUE, FALSE = ("1", "yes", "true", "on"), ("0", "no", "false", "off")
QUBES = ("AppVM", "TemplateVM", "StandaloneVM", "DispVM")


class Property:
    """`default(subject)` gives the value that counts while nothing is set; `check(subject, value)`
    refuses or adapts.
    """

    def __init__(
        self,
        name,
        type="str",
        default=None,
        check=None,
        stage=2,
        classes=QUBES,
        read_only=False,
        once=False,
    ):
        self.name, self.type, self.stage, self.classes = name, type, stage, classes
        self.default = default if callable(default) else lambda subject: default
        self.check = check or (lambda subject, value: value)
        self.read_only = read_only
        self.once = once

    def parse(self, subject, text):
        """The value that a client's text means; refused as the real one refuses it."""
        if not text.isascii():
            raise QubesValueError("Non-ASCII bytes in property value")
        if self.type == "bool":
            return boolean(text)
        if self.type == "int":
            return number(text, int)
        if self.type in ("vm", "label"):
            return text
        if self.name in ("ip", "ip6"):
            return str(
                number(text, ipaddress.IPv4Address if self.name == "ip" else ipaddress.IPv6Address)
            )
        if not set(text) <= set(string.printable):
            raise QubesValueError("Invalid characters in property value")
        return text


def boolean(text):
    if text.lower() in TRUE:
        return True
    if text.lower() in FALSE:
        return False
    raise QubesValueError("Invalid literal for boolean property: %r" % text)


def number(text, type):
    try:
        return type(text)
    except ValueError:
        raise QubesValueError("Failed to parse property value as %s" % type.__name__)


# --- checks


def positive(name):
    def check(subject, value):
        if value <= 0:
            raise QubesPropertyValueError("%s must be positive" % name)
        return value

    return check


def not_negative(name):
    def check(subject, value):
        if value < 0:
            raise QubesPropertyValueError("%s must be positive or zero" % name)
        return value

    return check


def a_qube(name, allow_none=True, classes=QUBES + ("AdminVM",)):
    """The value of a property of type vm: "" is none, otherwise an existing qube of one of the
    classes.
    """

    def check(subject, value):
        if value == "":
            if allow_none:
                return None
            raise QubesPropertyValueError(
                "Invalid value None for property %r of %r" % (name, subject.name)
            )
        other = subject.system.qubes.get(value)
        if other is None:
            raise QubesPropertyValueError("Can't set %s to non-existing qube %s" % (name, value))
        if other.klass not in classes:
            raise QubesPropertyValueError(
                "wrong VM class: domains[%r] is of type %s and not %s"
                % (value, other.klass, classes[0])
            )
        return value

    return check


def check_netvm(subject, value):
    value = a_qube("netvm")(subject, value)
    if value is None:
        return None
    netvm = subject.system.qubes[value]
    if not netvm.has("provides_network"):
        raise Refused("dom0 is no network")
    if not netvm.value("provides_network"):
        raise QubesValueError("The %s qube does not provide network" % value)
    if value == subject.name or value in subject.connected():
        raise QubesValueError("Loops in network are unsupported")
    if subject.is_running() and not netvm.is_running():
        raise subject.system.not_started(
            value, "Cannot dynamically attach to stopped qube %s" % value
        )
    return value


def check_default_netvm(system, value):
    value = a_qube("default_netvm")(system, value)
    for qube in system.qubes.values():
        if value and qube.has("netvm") and qube.is_default("netvm"):
            if value == qube.name or value in qube.connected():
                raise QubesPropertyValueError("Network loop on '%s'" % qube.name)
    return value


def check_provides_network(subject, value):
    if not value and any(
        other.value("netvm") == subject.name for other in subject.others_with("netvm")
    ):
        raise QubesValueError("The qube is still used by other qubes, change theirs 'netvm' first")
    return value


def check_template(subject, value):
    if subject.klass == "DispVM":
        value = a_qube("template", False, ("AppVM", "StandaloneVM"))(subject, value)
        if not subject.system.qubes[value].value("template_for_dispvms"):
            raise QubesPropertyValueError(
                "template for disposable must have template_for_dispvms=True"
            )
    else:
        value = a_qube("template", False, ("TemplateVM",))(subject, value)
    if not subject.is_halted():
        raise subject.system.not_halted(
            subject.name, "Cannot change template while qube is running"
        )
    return value


def check_virt_mode(subject, value):
    value = value.lower()
    if value not in ("hvm", "pv", "pvh"):
        raise QubesPropertyValueError("Invalid virtualization mode, supported values: hvm, pv, pvh")
    if value == "pvh" and subject.pci:
        raise QubesPropertyValueError("pvh mode can't be set if pci devices are assigned")
    return value


def check_label(subject, value):
    return subject.system.label(value)


def check_kernel(subject, value):
    if "/" in value:
        raise QubesPropertyValueError("Kernel name cannot contain '/'")
    return value


def check_kernelopts(subject, value):
    if len(value) > 512:
        raise QubesPropertyValueError("Kernelopts value too long (512 chars max)")
    return value


def check_default_user(subject, value):
    allowed = string.ascii_letters + string.digits + "_-+,."
    if not set(value) <= set(allowed):
        raise QubesPropertyValueError("Username can contain only those characters: " + allowed)
    return value


def check_keyboard_layout(subject, value):
    parts = value.split("+")
    if len(parts) != 3:
        raise QubesPropertyValueError("invalid number of keyboard layout parameters")
    for part, allowed, text in zip(
        parts,
        (r"[a-zA-Z]+", r"[a-zA-Z0-9_-]*", r"[a-zA-Z0-9_:,-]*"),
        (
            "Invalid keyboard layout provided",
            "Invalid layout variant provided",
            "Invalid layout options provided",
        ),
    ):
        if not re.fullmatch(allowed, part):
            raise QubesPropertyValueError(text)
    return value


def check_devices_denied(subject, value):
    if len(value) % 7:
        raise QubesValueError(
            "Invalid length of interfaces=%r (is %d, expected multiple of 7)" % (value, len(value))
        )
    if not re.fullmatch(r"([bump*][0-9a-f*]{6})*", value):
        raise QubesPropertyValueError(
            "Interface code list should be in the form chhhhhhchhhhhh...,"
            'where c is one of "b", "u", "m", "p", "*" '
            'and h is a hexdigit or "*".'
        )
    return "".join(sorted({value[at : at + 7] for at in range(0, len(value), 7)}))


def check_mac(subject, value):
    if not re.fullmatch(r"([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}", value):
        raise QubesPropertyValueError("Invalid MAC address")
    return value.lower()


def check_pool(system, value):
    if value not in system.pools:
        raise QubesPropertyValueError("No such storage pool")
    return value


# --- defaults


def from_template(name, otherwise):
    """The template's value where there is a template."""

    def default(qube):
        if qube.template:
            return qube.template.value(name)
        return otherwise(qube) if callable(otherwise) else otherwise

    return default


def of_system(name):
    return lambda qube: qube.system.value(name)


def default_virt_mode(qube):
    if qube.pci:
        return "hvm"
    return qube.template.value("virt_mode") if qube.template else "pvh"


def default_maxmem(qube):
    if not qube.can_balance_memory():
        return 0
    if qube.template:
        return qube.template.value("maxmem")
    most = qube.value("memory") * 10 if qube.features.get("os") == "Linux" else 4000
    return min(most, qube.system.world.get("memory") // 2)


def default_kernelopts(qube):
    if not qube.value("kernel") or qube.pci:
        return ""
    return qube.template.value("kernelopts") if qube.template else "swiotlb=2048"


def default_keyboard_layout(qube):
    """That of its GUI domain, and so on. Where the GUI domains lead round in a circle and none of
    them has a layout of its own, qubesd recurses until Python stops it and answers the call with no
    byte (seen on real core-admin 4.3.50; vm/qubesvm.py).
    """
    passed = set()
    while qube.has("guivm") and qube.value("guivm"):
        passed.add(qube.name)
        qube = qube.system.qubes[qube.value("guivm")]
        if "keyboard_layout" in qube.set_values:
            return qube.set_values["keyboard_layout"]
        if qube.name in passed:
            raise Refused("keyboard_layout: the GUI domains of %s are a circle" % qube.name)
    return "us++"


def default_bootmode(qube):
    return qube.features.get("boot-mode.active", "default")


def icon(qube):
    label = qube.value("label")
    if qube.klass == "TemplateVM" or (
        qube.has("template_for_dispvms") and qube.value("template_for_dispvms")
    ):
        return "templatevm-" + label
    if qube.features.get("servicevm"):
        return "servicevm-" + label
    return qube.klass.lower() + "-" + label


def ip(qube):
    if not qube.is_networked():
        return None
    if qube.klass == "DispVM":
        return str(ipaddress.IPv4Address("10.138.0.0") + qube.value("dispid"))
    return str(ipaddress.IPv4Address("10.137.0.0") + qube.qid)


def visible_ip(qube):
    return qube.feature_with_template("net.fake-ip") or qube.value("ip")


def gateway(qube):
    return qube.value("visible_ip") if qube.value("provides_network") else None


def visible_gateway(qube):
    return qube.feature_with_template("net.fake-gateway") or (
        qube.netvm and qube.netvm.value("gateway")
    )


def visible_netmask(qube):
    return qube.feature_with_template("net.fake-netmask") or (
        "255.255.255.255" if qube.netvm and qube.netvm.is_networked() else None
    )


def dns(qube):
    return "10.139.1.1 10.139.1.2" if qube.is_networked() else None


def stubdom_xid(qube):
    return (qube.run or {}).get("stubdom_xid", -1)


NETWORKED = tuple(kind for kind in QUBES if kind != "TemplateVM")
BASED = ("AppVM", "DispVM")
DVM_TEMPLATES = ("AppVM", "StandaloneVM")
ALL = QUBES + ("AdminVM",)

OF_QUBES = [
    Property("autostart", "bool", False),
    Property("backup_timestamp", "int"),
    Property("debug", "bool", False),
    Property("default_user", "str", from_template("default_user", "user"), check_default_user),
    Property("devices_denied", "str", "", check_devices_denied, classes=ALL),
    Property("dns", "str", dns, read_only=True),
    Property("gateway", "str", gateway, read_only=True),
    Property("gateway6", "str", read_only=True),
    Property("icon", "str", icon, read_only=True, classes=ALL),
    Property("include_in_backups", "bool", True, classes=ALL),
    Property("installed_by_rpm", "bool", False),
    Property("ip", "str", ip),
    Property("ip6", "str"),
    Property("kernel", "str", from_template("kernel", of_system("default_kernel")), check_kernel),
    Property("keyboard_layout", "str", default_keyboard_layout, check_keyboard_layout, classes=ALL),
    Property("klass", "str", lambda qube: qube.klass, read_only=True, classes=ALL),
    Property("label", "label", None, check_label, classes=ALL),
    Property("mac", "str", "00:16:3e:5e:6c:00", check_mac),
    Property("maxmem", "int", default_maxmem, not_negative("maxmem")),
    Property("memory", "int", from_template("memory", 400), positive("memory")),
    Property("name", "str", lambda qube: qube.name, once=True, classes=ALL),
    Property("provides_network", "bool", False, check_provides_network),
    Property("qid", "int", lambda qube: qube.qid, once=True, classes=ALL),
    Property(
        "qrexec_timeout",
        "int",
        from_template("qrexec_timeout", of_system("default_qrexec_timeout")),
        positive("qrexec_timeout"),
    ),
    Property(
        "shutdown_timeout",
        "int",
        from_template("shutdown_timeout", of_system("default_shutdown_timeout")),
        positive("shutdown_timeout"),
    ),
    Property("start_time", "str", lambda qube: qube.start_time(), read_only=True),
    Property("stubdom_mem", "int", None, positive("stubdom_mem")),
    Property("stubdom_uuid", "str", "", read_only=True),
    Property("stubdom_xid", "int", stubdom_xid, read_only=True),
    Property("template_for_dispvms", "bool", False, classes=DVM_TEMPLATES),
    Property("updateable", "bool", lambda qube: qube.template is None, read_only=True, classes=ALL),
    Property("uuid", "str", lambda qube: qube.uuid, once=True, classes=ALL),
    Property("vcpus", "int", from_template("vcpus", 2), positive("vcpus")),
    Property("virt_mode", "str", default_virt_mode, check_virt_mode),
    Property("visible_gateway", "str", visible_gateway, read_only=True),
    Property("visible_gateway6", "str", read_only=True),
    Property("visible_ip", "str", visible_ip, read_only=True),
    Property("visible_ip6", "str", read_only=True),
    Property("visible_netmask", "str", visible_netmask, read_only=True),
    Property("xid", "int", lambda qube: (qube.run or {}).get("xid", -1), read_only=True),
    Property("auto_cleanup", "bool", False, classes=("DispVM",)),
    Property("dispid", "int", 0, once=True, classes=("DispVM",)),
    Property("appvm_default_bootmode", "str", "default", stage=4, classes=("TemplateVM",)),
    Property("audiovm", "vm", of_system("default_audiovm"), a_qube("audiovm"), 4),
    Property("bootmode", "str", default_bootmode, stage=4),
    Property("default_dispvm", "vm", of_system("default_dispvm"), a_qube("default_dispvm"), 4, ALL),
    Property("guivm", "vm", of_system("default_guivm"), a_qube("guivm"), 4),
    Property("kernelopts", "str", default_kernelopts, check_kernelopts, 4),
    Property(
        "management_dispvm",
        "vm",
        from_template("management_dispvm", of_system("management_dispvm")),
        a_qube("management_dispvm"),
        4,
    ),
    Property("netvm", "vm", of_system("default_netvm"), check_netvm, 4, NETWORKED),
    Property("netvm", "vm", None, check_netvm, 4, ("TemplateVM",)),
    Property("template", "vm", None, check_template, 4, BASED),
]

OF_SYSTEM = [
    Property("check_updates_vm", "bool", True),
    Property("clockvm", "vm", None, a_qube("clockvm")),
    Property("default_audiovm", "vm", "dom0", a_qube("default_audiovm")),
    Property("default_dispvm", "vm", None, a_qube("default_dispvm")),
    Property("default_guivm", "vm", "dom0", a_qube("default_guivm")),
    Property("default_kernel", "str", ""),
    Property("default_netvm", "vm", None, check_default_netvm),
    Property("default_pool", "str", lambda system: next(iter(system.pools)), check_pool),
    Property("default_pool_kernel", "str", of_system("default_pool"), check_pool),
    Property("default_pool_private", "str", of_system("default_pool"), check_pool),
    Property("default_pool_root", "str", of_system("default_pool"), check_pool),
    Property("default_pool_volatile", "str", of_system("default_pool"), check_pool),
    Property("default_qrexec_timeout", "int", 60),
    Property("default_shutdown_timeout", "int", 60),
    Property("default_template", "vm", None, a_qube("default_template", True, ("TemplateVM",))),
    Property("management_dispvm", "vm", None, a_qube("management_dispvm")),
    Property("stats_interval", "int", 3),
    Property("updatevm", "vm", None, a_qube("updatevm")),
]


def table(properties):
    return {
        each.name: each for each in sorted(properties, key=lambda each: (each.stage, each.name))
    }


# By class, in the order of admin.vm.property.List.
PROPERTIES = {kind: table([each for each in OF_QUBES if kind in each.classes]) for kind in ALL}
GLOBALS = table(OF_SYSTEM)


def check_name(value):
    """validate_name: refused with the reason that qubesd gives."""
    if len(value) > 31:
        raise QubesValueError("VM name must be shorter than 32 characters")
    if re.match(r"[0-9_.-]", value):
        raise QubesValueError("VM name cannot start with hyphen, underscore, dot or numbers")
    if not re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_.-]*", value):
        raise QubesValueError("VM name contains illegal characters")
    if value in ("Domain-0", "none", "default") or value.endswith("-dm"):
        raise QubesValueError("VM name cannot be %r" % value)


def set_once(definition):
    """name, qid and uuid: an internal error in the real qubesd (§1)."""
    raise Refused("property %r is write-once and already set" % definition.name)
