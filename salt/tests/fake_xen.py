"""
A plain Xen host in a temporary folder: the same HostCase, with Debian's files, a stand-in for xl that
computes its answers from /xen.json, and the kernel's side of sysfs. Formats and errors: xen-lab.md, and
what the lab's real dom0 says (recorded in test_xen.py).
"""

import json
import os
import sys
import unittest.mock

from fake import HostCase

import xen_host

AUDIO, USB, CARD, NET = "0000:00:07.0", "0000:00:08.0", "0000:02:00.0", "0000:00:09.0"
FUNCTIONS = {
    # address: vendor, device, class, driver
    "0000:00:03.0": ("1234", "1111", "030000", "bochs-drm"),
    AUDIO: ("8086", "293e", "040300", "snd_hda_intel"),
    USB: ("1033", "0194", "0c0330", "xhci_hcd"),
    NET: ("8086", "100e", "020000", "e1000"),
    CARD: ("1234", "1111", "038000", "bochs-drm"),
}
AUDIO_ID = "0x8086:0x293e::p040300"
CARD_ID = "0x1234:0x1111::p038000"

DEFAULT_GRUB = """\
GRUB_DEFAULT=0
GRUB_TIMEOUT=5
GRUB_DISTRIBUTOR=`lsb_release -i -s 2> /dev/null || echo Debian`
GRUB_CMDLINE_LINUX_DEFAULT="quiet"
GRUB_CMDLINE_LINUX="console=hvc0"
"""
ROOT = "root=UUID=1111-2222 ro"
# Debian 12 with xen-hypervisor-4.17-amd64 (shortened): Linux alone first, the default by its title.
GRUB_CFG = """\
### BEGIN /etc/grub.d/00_header ###
if [ -s $prefix/grubenv ]; then
  set have_grubenv=true
  load_env
fi
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
   set next_entry=
   save_env next_entry
   set boot_once=true
else
   set default="Debian GNU/Linux, with Xen hypervisor"
fi
### BEGIN /etc/grub.d/10_linux ###
function gfxmode {
	set gfxpayload="${1}"
}
menuentry 'Debian GNU/Linux' --class debian --class gnu-linux $menuentry_id_option 'gnulinux-simple-1111-2222' {
	load_video
	insmod ext2
	linux	/boot/vmlinuz-6.1.0-37-amd64 %(root)s console=hvc0 quiet
	initrd	/boot/initrd.img-6.1.0-37-amd64
}
submenu 'Advanced options for Debian GNU/Linux' $menuentry_id_option 'gnulinux-advanced-1111-2222' {
	menuentry 'Debian GNU/Linux, with Linux 6.1.0-37-amd64 (recovery mode)' --class debian $menuentry_id_option 'gnulinux-6.1.0-37-amd64-recovery-1111-2222' {
		linux	/boot/vmlinuz-6.1.0-37-amd64 %(root)s single console=hvc0
		initrd	/boot/initrd.img-6.1.0-37-amd64
	}
}
### BEGIN /etc/grub.d/20_linux_xen ###
menuentry 'Debian GNU/Linux, with Xen hypervisor' --class debian --class xen $menuentry_id_option 'xen-gnulinux-simple-1111-2222' {
	insmod ext2
	search --no-floppy --fs-uuid --set=root 1111-2222
	echo	'Loading Xen 4.17-amd64 ...'
        if [ "$grub_platform" = "pc" -o "$grub_platform" = "" ]; then
            xen_rm_opts=
        else
            xen_rm_opts="no-real-mode edd=off"
        fi
	multiboot2	/boot/xen-4.17-amd64.gz placeholder dom0_mem=1024M,max:1024M ${xen_rm_opts}
	echo	'Loading Linux 6.1.0-37-amd64 ...'
	module2	/boot/vmlinuz-6.1.0-37-amd64 placeholder %(root)s console=hvc0 quiet
	echo	'Loading initial ramdisk ...'
	module2	--nounzip   /boot/initrd.img-6.1.0-37-amd64
}
submenu 'Advanced options for Debian GNU/Linux (with Xen hypervisor)' $menuentry_id_option 'gnulinux-advanced-1111-2222' {
	submenu 'Xen hypervisor, version 4.17-amd64' $menuentry_id_option 'xen-hypervisor-4.17-amd64-1111-2222' {
		menuentry 'Debian GNU/Linux, with Xen 4.17-amd64 and Linux 6.1.0-37-amd64' --class debian --class xen $menuentry_id_option 'xen-gnulinux-6.1.0-37-amd64-advanced-1111-2222' {
			multiboot2	/boot/xen-4.17-amd64.gz placeholder dom0_mem=1024M,max:1024M ${xen_rm_opts}
			module2	/boot/vmlinuz-6.1.0-37-amd64 placeholder %(root)s console=hvc0 quiet
			module2	--nounzip   /boot/initrd.img-6.1.0-37-amd64
		}
		menuentry 'Debian GNU/Linux, with Xen 4.17-amd64 and Linux 6.1.0-37-amd64 (recovery mode)' --class debian --class xen $menuentry_id_option 'xen-gnulinux-6.1.0-37-amd64-recovery-1111-2222' {
			multiboot2	/boot/xen-4.17-amd64.gz placeholder dom0_mem=1024M,max:1024M ${xen_rm_opts}
			module2	/boot/vmlinuz-6.1.0-37-amd64 placeholder %(root)s single console=hvc0
			module2	--nounzip   /boot/initrd.img-6.1.0-37-amd64
		}
	}
}
### BEGIN /etc/grub.d/30_os-prober ###
menuentry 'Another Linux (on /dev/sdb1)' --class linux $menuentry_id_option 'osprober-x' {
	linux /boot/vmlinuz root=/dev/sdb1 quiet
}
### BEGIN /etc/grub.d/41_custom ###
if [ -f  ${config_directory}/custom.cfg ]; then
  source ${config_directory}/custom.cfg
elif [ -z "${config_directory}" -a -f  $prefix/custom.cfg ]; then
  source $prefix/custom.cfg
fi
""" % {"root": ROOT}

XL = """
import json, os, re, sys
sys.dont_write_bytecode = True
root = os.environ["FAKE_ROOT"]
sys.path.insert(0, os.environ["FAKE_UTILS"])
state = json.load(open(root + "/xen.json"))
words = sys.argv[1:]
domains, log = state["domains"], open(root + "/xl.log", "a")
log.write(" ".join(words).replace(root, "") + "\\n")

def save():
    with open(root + "/xen.json.new", "w") as file:
        json.dump(state, file)
    os.rename(root + "/xen.json.new", root + "/xen.json")

def end(status, *lines):
    save()
    sys.stderr.write("".join(line + "\\n" for line in lines))
    sys.exit(status)

def link(sbdf):
    return root + "/sys/bus/pci/devices/" + sbdf + "/driver"

def driver(sbdf):
    return os.path.basename(os.readlink(link(sbdf))) if os.path.islink(link(sbdf)) else None

def bind(sbdf, name):
    if os.path.islink(link(sbdf)):
        os.unlink(link(sbdf))
    if name:
        os.symlink("../../drivers/" + name, link(sbdf))

def add(sbdf):
    bind(sbdf, "pciback")
    state["slots"].append(sbdf)

def named(text):
    text = text.split(",")[0].split("@")[0]
    return text if text.count(":") == 2 else "0000:" + text

if words[0] == "info":
    print("xen_version            : 4.17.7\\nvirt_caps              : pv hvm hap "
          + ("hvm_directio pv_directio " if state["iommu"] else "")
          + "\\ntotal_memory           : 3071\\nfree_memory            : 1500")
elif words[0] == "dmesg":
    print("(XEN) I/O virtualisation " + ("enabled" if state["iommu"] else "disabled"))
elif words[0] == "list":
    if state.get("broken"):
        end(1, "libxl: error: libxl.c:144:libxl_ctx_alloc: Is xenstore daemon running?", "cannot init xl context")
    print("Name                                        ID   Mem VCPUs\\tState\\tTime(s)")
    print("Domain-0                                     0  1024     2     r-----      25.1")
    for name, one in domains.items():
        print("%-40s %5d %5d %5d     %s  %8.1f" % (name, one["id"], 192, 1, one["state"], 1.5))
elif words[0] == "create":
    import xl_config
    config = xl_config.values(open(words[1]).read())
    name, pci = config["name"], config.get("pci", [])
    if name in domains:
        end(1, "libxl: error: libxl_create.c:1247:initiate_domain_create: Domain with name %s already exists" % name)
    state["next"] += 1
    number = state["next"]
    where = "libxl: error: libxl_pci.c:1677:libxl__device_pci_add: Domain %d:" % number
    if pci and not state["iommu"]:
        end(6, "Parsing config from " + words[1], "libxl: error: libxl_create.c:1180:libxl__domain_config_setdefault: "
            "passthrough not supported on this platform")
    domains[name] = {"id": number, "state": "--p---", "pci": []}
    for text in pci:
        sbdf = named(text)
        if not os.path.isdir(root + "/sys/bus/pci/devices/" + sbdf):
            end(3, where + "PCI device %s does not exist" % sbdf)
        if driver(sbdf) != "pciback":
            if "seize=1" not in text:
                state["domains"].pop(name) if not state.get("half") else None
                end(3, where + "PCI device 0:%x:%s is not assignable" % (int(sbdf[5:7], 16), "%x.%s" % (int(sbdf[8:10], 16), sbdf[11:])))
            add(sbdf)
        if sbdf in state.get("lost", []):
            continue
        domains[name]["pci"].append(sbdf)
    if state.get("refuse"):
        end(3, "libxl: error: libxl_device.c:1109:device_backend_callback: Domain %d:unable to add device" % number,
            "libxl: error: libxl_pci.c:1700:x: Domain %d:%s" % (number, state["refuse"]))
    domains[name]["state"] = "r-----"
    if name in state.get("ends", []):
        del domains[name]
    if pci:
        end(0, "libxl: error: libxl_pci.c:1576:libxl__device_pci_reset: The kernel doesn't support reset from sysfs "
            "for PCI device " + named(pci[0]))
elif words[0] == "pci-list":
    print("Vdev Device")
    for sbdf in domains[words[1]]["pci"]:
        print("00.0 " + sbdf)
elif words[0] in ("shutdown", "destroy"):
    name = words[-1]
    if name not in domains:
        end(1, "%s is an invalid domain identifier (rc=-6)" % name)
    # Still booting, or its kernel stands still: as often as it says, xl waits for it in vain.
    deaf = state.get("deaf", {}).get(name, 0)
    if words[0] == "shutdown" and deaf:
        state["deaf"][name] = deaf - 1
        end(1, "libxl: error: libxl_domain.c:854:domain_shutdown_done: Domain 5:guest didn't acknowledge control request: -9",
            "shutdown failed (rc=-9)")
    if words[0] == "destroy" or name not in state.get("stubborn", []):
        del domains[name]
elif words[0] == "pci-assignable-add":
    sbdf = words[-1]
    if driver(sbdf) == "pciback":
        end(0, "libxl: warning: libxl_pci.c:794:x: %s already assigned to pciback" % sbdf)
    add(sbdf)
    if not state["iommu"]:
        end(1, "libxl: error: libxl_pci.c:845:libxl__device_pci_assignable_add: failed to quarantine " + sbdf)
elif words[0] == "pci-assignable-remove":
    sbdf = words[-1]
    if not state["iommu"] or any(sbdf in one["pci"] for one in domains.values()):
        end(1, "libxl: error: libxl_pci.c:880:x: failed to de-quarantine " + sbdf)
    state["slots"].remove(sbdf)
    bind(sbdf, state["drivers"].get(sbdf) if "-r" in words else None)
else:
    end(2, "command not implemented")
save()
"""


class XenCase(HostCase):
    def setUp(self):
        super().setUp()
        os.unlink(self.root + "/etc/qubes-release")
        self.tree("/etc/qubes", "/etc/qubes-rpc", "/etc/salt", "/boot/grub2", "/sys/bus/pci")
        for folder in ("etc/xen", "boot/grub", "sys/hypervisor", "proc/xen", "usr/sbin"):
            os.makedirs(os.path.join(self.root, folder))
        self.put("/proc/xen/capabilities", "control_d\n")
        self.put("/sys/hypervisor/type", "xen\n")
        self.put("/etc/debian_version", "12.11\n")
        self.put("/etc/os-release", 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\n')
        self.put("/etc/default/grub", DEFAULT_GRUB)
        self.put("/boot/grub/grub.cfg", GRUB_CFG, 0o600)
        with open(self.root + "/boot/grub/grubenv", "wb") as file:
            file.write(b"# GRUB Environment Block\n".ljust(1024, b"#"))
        self.put("/proc/cmdline", "placeholder %s console=hvc0 quiet\n" % ROOT)
        self.put("/etc/xen/xl.conf", "# autoballoon=\"auto\"\n")
        self.put("/etc/xen/xlexample.pvlinux", 'name = "example.pvlinux"\n')
        self.put("/etc/xen/work.cfg", "# mine\nname = 'work'\nmemory = 512 # enough\ndisk = [ 'phy:/dev/x,xvda,w',\n]\n")
        for sbdf, (vendor, device, class_, driver) in FUNCTIONS.items():
            folder = "/sys/bus/pci/devices/%s/" % sbdf
            os.makedirs(self.root + folder)
            for name, text in (("vendor", vendor), ("device", device), ("class", class_)):
                self.put(folder + name, "0x%s\n" % text)
            self.bind(sbdf, driver)
        os.makedirs(self.root + "/sys/bus/pci/drivers/pciback")
        self.put("/bin/xl", "#!%s\n%s" % (sys.executable, XL), 0o755)
        self.state(
            domains={}, iommu=True, slots=[], next=0, drivers={s: f[3] for s, f in FUNCTIONS.items()}
        )
        xen_host.ROOT = self.root
        self.addCleanup(setattr, xen_host, "ROOT", "")
        patch = unittest.mock.patch.object(xen_host, "_write", self.kernel)
        patch.start()
        self.addCleanup(patch.stop)

    def tree(self, *names):
        import shutil

        for name in names:
            shutil.rmtree(self.root + name)

    def state(self, **more):
        """What xl knows; with changes."""
        found = json.loads(self.text("/xen.json")) if os.path.exists(self.root + "/xen.json") else {}
        found.update(more)
        self.put("/xen.json", json.dumps(found))
        return found

    def log(self):
        return self.text("/xl.log").splitlines() if os.path.exists(self.root + "/xl.log") else []

    # -- the kernel's side of sysfs

    def bind(self, sbdf, driver):
        link = self.root + "/sys/bus/pci/devices/%s/driver" % sbdf
        if os.path.islink(link):
            os.unlink(link)
        if driver:
            os.symlink("../../drivers/" + driver, link)

    def kernel(self, name, text):
        sbdf, state = text.strip(), self.state()
        if name.endswith("/pciback/unbind"):
            self.bind(sbdf, None)
        elif name.endswith("/pciback/remove_slot"):
            self.state(slots=[one for one in state["slots"] if one != sbdf])
        elif name.endswith("/drivers_probe"):
            if xen_host.driver(sbdf) is None:
                taken = sbdf in state["slots"]
                self.bind(sbdf, "pciback" if taken else state["drivers"].get(sbdf))
        else:
            assert name.endswith("/driver_override") and text == "\n", (name, text)

    # -- boots

    def shut_down(self):
        """As xendomains does (Debian): what runs is saved, but for what has devices; that is stopped."""
        os.makedirs(self.root + "/var/lib/xen/save", exist_ok=True)
        state = self.state()
        for name, one in state["domains"].items():
            if not one["pci"]:
                self.put("/var/lib/xen/save/" + name, self.text("/etc/xen/%s.cfg" % name))
        self.state(domains={})

    def power_cycle(self, xen=True):
        """Off and on again, nobody at the keyboard (`xen`: or somebody who starts Linux without Xen). The id of the entry that booted."""
        import grub

        text, entry, _ = self.turn_on("/boot/grub", None if xen else "gnulinux-simple-1111-2222")
        is_xen = grub.is_xen(text, entry)
        for name, there in (("/proc/xen/capabilities", "control_d\n"), ("/sys/hypervisor/type", "xen\n")):
            if is_xen:
                self.put(name, there)
            elif os.path.exists(self.root + name):
                os.unlink(self.root + name)
        hidden = xen_host.hidden() if is_xen else set()
        self.state(domains={}, slots=sorted(hidden))
        for sbdf, function in FUNCTIONS.items():
            self.bind(sbdf, "pciback" if sbdf in hidden else function[3])
        return entry["id"]

    def xendomains(self):
        """Those that were saved go on as they were, then those of /etc/xen/auto begin."""
        import subprocess

        if not xen_host.is_xen():
            return
        folder = self.root + "/var/lib/xen/save"
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
            subprocess.run(["xl", "create", folder + "/" + name], capture_output=True, check=False)
            os.unlink(folder + "/" + name)
        auto = self.root + "/etc/xen/auto"
        for name in sorted(os.listdir(auto)) if os.path.isdir(auto) else []:
            if name[:-4] not in self.state()["domains"]:
                subprocess.run(["xl", "create", os.path.realpath(auto + "/" + name)], capture_output=True)

    autostart = xendomains

    def starts(self, name):
        import xen_domains

        try:
            xen_domains.start(name)
            return True
        except xen_domains.AdminError:
            return False

    def screen(self):
        """Whose the card is that the screen hangs on; None where nobody shows anything."""
        words = self.text("/proc/cmdline").split()
        if xen_host.driver(CARD) != "pciback":
            ours = [word for word in words if word.startswith("guidomain.gpu=")]
            return "dom0" if not ours or not xen_host.is_xen() else None
        return next((n for n, one in self.state()["domains"].items() if CARD in one["pci"]), None)

    def dump(self):
        """Every file and folder of this host with its mode, and its links."""
        found = {}
        for parent, folders, names in os.walk(self.root):
            for name in folders + names:
                full = os.path.join(parent, name)
                if os.path.islink(full):
                    found[full[len(self.root) :]] = os.readlink(full)
                    continue
                content = None
                if os.path.isfile(full):
                    with open(full, "rb") as file:
                        content = file.read()
                found[full[len(self.root) :]] = (oct(os.lstat(full).st_mode), content)
        for name in ("/xl.log", "/xen.json", "/log"):
            found.pop(name, None)
        return found
