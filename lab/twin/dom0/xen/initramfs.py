"""/boot/initrd.img-VERSION: an archive (cpio, newc) with what of initramfs-tools' decides which driver is first, and its reading.

conf/modules          modules that are loaded after udev's coldplug, in this order (initramfs-tools(7), modules)
etc/modprobe.d/*      of the time when it was made
usr/lib/modules/VERSION/kernel/…/NAME.ko    modules that are in it

/etc/initramfs-tools/initramfs.conf and conf.d say MODULES=most or list. "most" brings drivers of disks, networks and USB controllers
(hook-functions, auto_add_modules); displays, sound and xen-pciback it leaves out.
"""
import os
import re
import stat

MOST = ("01", "02", "0c03")  # base classes whose drivers are in it with MODULES=most
PCIBACK = "xen_pciback"
# Driver as /sys calls it → module, where they differ by more than a dash.
MODULES = {"bochs-drm": "bochs", "xhci_hcd": "xhci_pci", "e1000e": "e1000e"}


def module_of(driver):
    return MODULES.get(driver, driver).replace("-", "_")


def conf(root):
    """{name: value} of initramfs.conf and conf.d, as the shell reads them."""
    found = {"MODULES": "most"}
    folder = root + "/etc/initramfs-tools"
    more = os.path.join(folder, "conf.d")
    paths = [os.path.join(folder, "initramfs.conf")] + [os.path.join(more, name) for name in sorted(os.listdir(more) if os.path.isdir(more) else [])]
    for path in paths:
        for line in lines(path):
            name, equals, value = line.partition("=")
            if equals:
                found[name] = value.strip("\"'")
    return found


def lines(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return [line.strip() for line in file if line.strip() and not line.strip().startswith("#")]
    except OSError:
        return []


def listed(root):
    """Modules of /etc/initramfs-tools/modules and of packages' lists."""
    found = lines(root + "/etc/initramfs-tools/modules")
    folder = root + "/usr/share/initramfs-tools/modules.d"
    for name in sorted(os.listdir(folder) if os.path.isdir(folder) else []):
        found += lines(os.path.join(folder, name))
    return [line.split()[0].replace("-", "_") for line in found]


def make(root, version, hardware):
    """As `update-initramfs -u -k VERSION`; `hardware`: machine.hardware.Hardware."""
    names = listed(root)
    inside = set(names)
    if conf(root)["MODULES"] != "list":
        inside |= {module_of(each.module) for each in hardware.functions if each.module and each.interface[1:].startswith(MOST)}
    entries = {"conf/modules": "".join(name + "\n" for name in names)}
    folder = root + "/etc/modprobe.d"
    for name in sorted(os.listdir(folder) if os.path.isdir(folder) else []):
        if name.endswith(".conf"):
            with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as file:
                entries["etc/modprobe.d/" + name] = file.read()
    for name in sorted(inside):
        entries["usr/lib/modules/%s/kernel/drivers/%s.ko" % (version, name.replace("_", "-") if name == PCIBACK else name)] = ""
    path = "%s/boot/initrd.img-%s" % (root, version)
    with open(path + ".new", "wb") as file:
        file.write(pack(entries))
    os.rename(path + ".new", path)


def pack(entries):
    """{path: text} as cpio's "newc"."""
    data = b""
    for number, (name, text) in enumerate(list(sorted(entries.items())) + [("TRAILER!!!", "")]):
        body, title = text.encode(), name.encode() + b"\0"
        fields = (number + 1, stat.S_IFREG | 0o644, 0, 0, 1, 0, len(body), 0, 0, 0, 0, len(title), 0)
        record = b"070701" + b"".join(b"%08X" % field for field in fields) + title
        data += record + b"\0" * (-len(record) % 4) + body + b"\0" * (-len(body) % 4)
    return data


def unpack(data):
    """{path: text}; raises ValueError where it is no such archive."""
    found, at = {}, 0
    while True:
        if data[at : at + 6] != b"070701":
            raise ValueError("not a cpio archive")
        fields = [int(data[at + 6 + 8 * each : at + 14 + 8 * each], 16) for each in range(13)]
        size, length = fields[6], fields[11]
        name = data[at + 110 : at + 110 + length - 1].decode()
        body = at + 110 + length + (-(110 + length) % 4)
        if name == "TRAILER!!!":
            return found
        found[name] = data[body : body + size].decode()
        at = body + size + (-size % 4)


class Initramfs:
    """What is in an archive. `modules`: in it; `order`: loaded after the coldplug; `softdeps` {module: [before it]}; `blacklist`."""

    def __init__(self, entries):
        self.modules = {os.path.basename(name)[:-3].replace("-", "_") for name in entries if name.endswith(".ko")}
        self.order = entries.get("conf/modules", "").split()
        self.softdeps, self.blacklist = modprobe([text for name, text in sorted(entries.items()) if name.startswith("etc/modprobe.d/")])


def read(root, version):
    with open("%s/boot/initrd.img-%s" % (root, version), "rb") as file:
        return Initramfs(unpack(file.read()))


def modprobe(texts):
    """({module: [modules loaded before it]}, {blacklisted}) of files of modprobe.d (modprobe.d(5))."""
    softdeps, blacklist = {}, set()
    for text in texts:
        for line in text.split("\n"):
            words = line.replace("-", "_").split()
            if words[:1] == ["blacklist"] and len(words) > 1:
                blacklist.add(words[1])
            elif words[:1] == ["softdep"] and len(words) > 2:
                before = re.search(r"\bpre:(.*?)(?:\bpost:|\Z)", line.replace("-", "_"))
                softdeps.setdefault(words[1], []).extend(before.group(1).split() if before else [])
    return softdeps, blacklist
