"""
What a plain Xen host tells and takes beside its domains: xl's commands, the PCI functions of dom0 and
who drives them. For the agent, the guard and our Salt states (through xen_domains.py). Python 3.8+,
standard library only.

xl is not believed (xen-lab.md): what it says goes into errors, what holds is read from sysfs. A
function is named by its address, 0000:02:00.0; its port is that with "_" for ":".
"""

import os
import re
import subprocess
import time

ROOT = ""  # tests put a directory here
DEVICES, PCIBACK = "/sys/bus/pci/devices/", "/sys/bus/pci/drivers/pciback/"
SHORT, LONG = 60, 300  # seconds; a command of an emulated host takes up to 20
SETTLES = 2  # seconds for a driver to take what is given back; for some there is none
SBDF = re.compile(r"\b[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]\b")


class AdminError(Exception):
    """What the host refuses. `type`: as qubesd names the like, where the agent asks for it."""

    def __init__(self, type_, message):
        super().__init__(message)
        self.type, self.message = type_, message


class EmptyReply(AdminError):
    """This kind of host knows nothing of that at all."""


# -- commands


def run(argv, timeout):
    """(exit status, stdout, stderr). AdminError where it cannot be run, or does not end.

    Into memory, not through pipes: what xl leaves behind for a domain would hold those open.
    """
    out, err = os.memfd_create("out"), os.memfd_create("err")
    try:
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=dict(os.environ, LC_ALL="C")
        )
        try:
            status = child.wait(timeout)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            text = "%s did not end within %d s" % (" ".join(argv[:2]), timeout)
            raise AdminError("Timeout", text) from None
        return status, _text(out), _text(err)
    except OSError as error:
        raise AdminError("Missing", "%s cannot be run: %s" % (argv[0], error.strerror)) from error
    finally:
        os.close(out)
        os.close(err)


def _text(fd):
    data = os.pread(fd, 1 << 20, 0)
    return data.decode("utf-8", "replace")


def xl(*words, timeout=SHORT):
    return run(("xl",) + words, timeout)


WHERE = re.compile(r"^(?:libxl|xl|xc): (\w+): (?:\w+\.c:\d+: ?(?:\w+: ?)?)?(?:Domain \d+: ?)?")
# Said at each assignment of most devices, with exit status 0 (xen-lab.md, "Devices and passthrough"), or
# after the reason, of a domain that is then not there.
NOISE = re.compile(
    r"doesn't support reset from sysfs|reset returned -1|^Parsing config from|^Non-existant domain"
    r"|^Unable to destroy guest|^Destruction of domain failed|^cannot \(re-\)build domain"
    r"|^libxl__device_pci_add failed"
)


def words(text):
    """What xl has to say of a failure, in its own words and in one line; "" for nothing."""
    found = []
    for line in re.sub("\x1b\\[[0-9;]*[A-Za-z]|[\0-\x08\x0b-\x1f\x7f-\x9f]", "", text).splitlines():
        where = WHERE.match(line)
        plain = line[where.end() :].strip() if where else line.strip()
        quiet = where and where.group(1) in ("warning", "notice", "info", "detail", "debug")
        if plain and not quiet and not NOISE.search(plain) and plain not in found:
            found.append(plain)
    return "; ".join(found[:4])[:600]


def is_xen():
    """Whether there is a hypervisor in this boot; plain Linux of the same disk has none."""
    return (_read("/sys/hypervisor/type") or "").strip() == "xen"


# -- PCI functions


def _read(name):
    try:
        with open(ROOT + name, encoding="utf-8", errors="replace") as file:
            return file.read(1 << 16)
    except OSError:
        return None


def _write(name, text):
    with open(ROOT + name, "w") as file:
        file.write(text)


def port(sbdf):
    return sbdf.replace(":", "_")


def address(port_):
    return port_.replace("_", ":")


def identity(sbdf):
    """`0x8086:0x02c8::p040300` (src/pci/identity.ts, qubesDeviceId); None where the place is empty."""
    parts = [(_read(DEVICES + sbdf + "/" + name) or "").strip() for name in ("vendor", "device", "class")]
    if not all(part.startswith("0x") for part in parts):
        return None
    return "%s:%s::p%s" % (parts[0], parts[1], parts[2][2:].zfill(6))


def pci_available():
    """As admin.vm.device.pci.Available tells it."""
    try:
        names = sorted(os.listdir(ROOT + DEVICES))
    except OSError:
        return []
    return [
        {"port": port(sbdf), "device": identity(sbdf) or "*", "sbdf": sbdf, "name": None}
        for sbdf in names
    ]


def driver(sbdf):
    """Who drives it; None for nobody, or where there is no such function."""
    try:
        return os.path.basename(os.readlink(ROOT + DEVICES + sbdf + "/driver"))
    except OSError:
        return None


def is_display(sbdf):
    return (_read(DEVICES + sbdf + "/class") or "").startswith("0x03")


# -- pciback


def assignable(port_):
    """True where pciback has it; None where it has not. Key assignable:PORT."""
    return True if driver(address(port_)) == "pciback" else None


def hidden():
    """Addresses that the kernel line of this boot gives to pciback."""
    lists = re.findall(r"(?:^|\s)xen[-_]pciback\.hide=(\S+)", _read("/proc/cmdline") or "")
    found = re.findall(r"\(([0-9a-f:.]+)\)", lists[-1]) if lists else []
    return {one if one.count(":") == 2 else "0000:" + one for one in found}


def add_assignable(port_):
    """dom0 gives it up, now. Where that fails it is given back, and the error says what xl said."""
    sbdf = address(port_)
    if identity(sbdf) is None:
        raise AdminError("NoSuchDevice", "%s: dom0 has no such PCI device" % sbdf)
    if driver(sbdf) == "pciback":
        return
    if is_display(sbdf):
        text = "%s is a display: it is never taken from a dom0 that runs, only hidden from its next boot"
        raise AdminError("Refused", text % sbdf)
    if not os.path.isdir(ROOT + PCIBACK):
        run(("modprobe", "xen-pciback"), SHORT)
    before = driver(sbdf)
    status, out, err = xl("pci-assignable-add", sbdf)
    if status == 0 and driver(sbdf) == "pciback":
        return
    said = words(err) or words(out) or "xl pci-assignable-add ended with %d" % status
    # Without an IOMMU it is bound and listed all the same.
    give_back([sbdf])
    now = driver(sbdf)
    if now == "pciback":
        said += "; it is still on pciback"
    elif now != before:
        said += "; its driver %s did not come back" % before
    raise AdminError("Refused", "%s: %s" % (sbdf, said))


def remove_assignable(port_, users):
    """dom0 has it again. One that the kernel line hides stays where it is. `users`: {address: domain}
    of what running domains have."""
    sbdf = address(port_)
    if driver(sbdf) != "pciback" or sbdf in hidden():
        return
    if sbdf in users:
        raise AdminError("Refused", "%s is in use by the running domain %s" % (sbdf, users[sbdf]))
    status, out, err = xl("pci-assignable-remove", "-r", sbdf)
    if driver(sbdf) == "pciback":
        give_back([sbdf])
    if driver(sbdf) == "pciback":
        said = words(err) or words(out) or "xl pci-assignable-remove ended with %d" % status
        raise AdminError("Refused", "%s: %s" % (sbdf, said))


def give_back(addresses):
    """What nobody uses goes from pciback to its driver, without xl, which refuses that where it
    could not do the whole of an assignment."""
    taken = [sbdf for sbdf in addresses if driver(sbdf) == "pciback"]
    for sbdf in taken:
        # pciback would take it again as long as it is in its list.
        for name, text in (
            (PCIBACK + "unbind", sbdf),
            (PCIBACK + "remove_slot", sbdf),
            (DEVICES + sbdf + "/driver_override", "\n"),
            ("/sys/bus/pci/drivers_probe", sbdf),
        ):
            try:
                _write(name, text)
            except OSError:
                pass  # what counts is who drives it in the end
    until = time.monotonic() + (SETTLES if taken else 0)
    while any(driver(sbdf) in (None, "pciback") for sbdf in taken) and time.monotonic() < until:
        time.sleep(0.05)
