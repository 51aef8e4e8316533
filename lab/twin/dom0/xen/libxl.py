"""libxl of Xen 4.17.7 as far as the twin has it: what it checks, does and prints, in its order (tools/libs/light). Line numbers are Debian's.

What libxl says goes to stderr as "libxl: error: FILE:LINE:FUNCTION: Domain N:TEXT"; many of its errors do not end in a failure.
"""
import errno
import os

from . import sysfs
from .model import IO, xs_name

FAIL, INVAL, NOPARAVIRT, TIMEDOUT, NOTFOUND = -3, -6, -10, -9, -23
INVALID_DOMID = 0xFFFFFFFF
ACKNOWLEDGED = 60.0  # seconds that a guest has to acknowledge control/shutdown (libxl_domain.c:793)


class Failed(Exception):
    def __init__(self, rc):
        super().__init__("rc=%d" % rc)
        self.rc = rc


def short(sbdf):
    """"0:6:0.0" of "0000:00:06.0": libxl's %x:%x:%x.%x"""
    segment, bus, rest = sbdf.split(":")
    slot, function = rest.split(".")
    return "%x:%x:%x.%s" % (int(segment, 16), int(bus, 16), int(slot, 16), function)


class Libxl:
    """One run of the toolstack. `err`: a list that gets its lines."""

    def __init__(self, hypervisor, files, err):
        self.xen, self.sysfs, self.err = hypervisor, files, err

    def say(self, level, file, line, function, text, domid=None):
        where = "" if domid is None else "Domain %d:" % domid
        self.err.append("libxl: %s: libxl_%s.c:%d:%s: %s%s" % (level, file, line, function, where, text))

    # --- pci-assignable-*

    def assignable(self):
        """[sbdf], libxl_device_pci_assignable_list: what pciback has, but for what a domain has."""
        if not self.sysfs.loaded(sysfs.PCIBACK):
            self.say("error", "pci", 444, "libxl_device_pci_assignable_list", "Looks like pciback driver not loaded")
            return None
        names = sorted(each for each in os.listdir(self.sysfs.path("drivers", sysfs.PCIBACK)) if each.count(":") == 2)
        return [each for each in names if self.info(each, "domid") is None]

    def info(self, sbdf, node):
        return self.xen.store.read("/libxl/pci/%s/%s" % (xs_name(sbdf), node))

    def write_info(self, sbdf, node, value):
        path = "/libxl/pci/%s/%s" % (xs_name(sbdf), node)
        if value is None:
            self.xen.store.remove(path)
        else:
            self.xen.store.write(path, value)

    def sysfs_write(self, line, work, what):
        """As sysfs_write_bdf: says which write failed; False then."""
        try:
            work()
            return True
        except OSError as error:
            self.say("error", "pci", line, "sysfs_write_bdf", "write to %s returned -1: %s" % (what, error.strerror))
            return False

    def bound(self, sbdf):
        """pciback_dev_is_assigned; None where pciback is not loaded."""
        if not self.sysfs.loaded(sysfs.PCIBACK):
            self.say("error", "pci", 693, "pciback_dev_is_assigned", "Looks like pciback driver is not loaded")
            return None
        return self.sysfs.driver(sbdf) == sysfs.PCIBACK

    def assignable_add(self, sbdf, name=None):
        where = "libxl__device_pci_assignable_add"
        if not self.sysfs.exists(sbdf):
            text = "Couldn't lstat /sys/bus/pci/devices/%s: %s" % (sbdf, os.strerror(errno.ENOENT))
            self.say("error", "pci", 792, where, text)
            raise Failed(FAIL)
        on = self.bound(sbdf)
        if on is None:
            raise Failed(FAIL)
        if on:
            self.say("warning", "pci", 802, where, "%s already assigned to pciback" % sbdf)
        else:
            self._take(sbdf, where)
        self.write_info(sbdf, "name", name)
        try:
            self.xen.assign(sbdf, IO)
        except OSError:
            self.say("error", "pci", 848, where, "failed to quarantine %s" % sbdf)
            raise Failed(FAIL)

    def _take(self, sbdf, where):
        driver = self.sysfs.driver(sbdf)
        if driver:
            path = "/sys/bus/pci/drivers/" + driver
            if not self.sysfs_write(398, lambda: self.sysfs.unbind(driver, sbdf), path + "/unbind"):
                self.say("error", "pci", 535, "sysfs_dev_unbind", "Couldn't unbind device")
                self.say("error", "pci", 809, where, "Couldn't unbind %s from driver" % sbdf)
                raise Failed(FAIL)
            self.write_info(sbdf, "driver_path", path)
        elif self.info(sbdf, "driver_path"):
            text = "%s not bound to a driver, will be rebound to %s" % (sbdf, self.info(sbdf, "driver_path"))
            self.say("info", "pci", 819, where, text)
        else:
            self.say("warning", "pci", 822, where, "%s not bound to a driver, will not be rebound." % sbdf)
        if sbdf not in sysfs.slots(self.sysfs.sys):
            self.sysfs.new_slot(sbdf)
        if self.sysfs.driver(sbdf) != sysfs.PCIBACK:
            if not self.sysfs_write(398, lambda: self.sysfs.bind(sysfs.PCIBACK, sbdf), "/sys/bus/pci/drivers/pciback/bind"):
                self.say("error", "pci", 733, "pciback_dev_assign", "Couldn't bind device to pciback!")
                self.say("error", "pci", 831, where, "Couldn't bind device to pciback!")
                raise Failed(FAIL)

    def assignable_remove(self, sbdf, rebind):
        where = "libxl__device_pci_assignable_remove"
        try:
            self.xen.deassign_io(sbdf)
        except OSError:
            self.say("error", "pci", 906, where, "failed to de-quarantine %s" % sbdf)
            raise Failed(FAIL)
        on = self.bound(sbdf)
        if on is None:
            raise Failed(FAIL)
        if on:
            self.sysfs.unbind(sysfs.PCIBACK, sbdf)
            if sbdf in sysfs.slots(self.sysfs.sys):
                self.sysfs.remove_slot(sbdf)
        else:
            self.say("warning", "pci", 917, where, "Not bound to pciback")
        path = self.info(sbdf, "driver_path")
        if path and rebind:
            self.say("info", "pci", 925, where, "Rebinding to driver at %s" % path)
            if not self.sysfs_write(398, lambda: self.sysfs.bind(os.path.basename(path), sbdf), path + "/bind"):
                self.say("error", "pci", 931, where, "Couldn't bind device to %s" % path)
                raise Failed(-1)
            self.write_info(sbdf, "driver_path", None)
        elif rebind:
            self.say("warning", "pci", 938, where, "Couldn't find path for original driver; not rebinding")
        self.write_info(sbdf, "name", None)

    # --- a domain's functions

    def pci_add(self, domain, entry, starting):
        """libxl__device_pci_add; `entry`: config.parse_spec."""
        where, sbdf = "libxl__device_pci_add", entry["sbdf"]
        try:
            self._pci_add(domain, entry, sbdf, where)
        except Failed as failed:
            text = "libxl__device_pci_add failed for PCI device %s (rc %d)" % (short(sbdf), failed.rc)
            self.say("error", "pci", 1809, "device_pci_add_done", text, domain.id)
            self.write_info(sbdf, "domid", None)
            raise
        self.attach(domain, entry)
        if not starting:
            self.xen.connect(domain)

    def _pci_add(self, domain, entry, sbdf, where):
        if domain.type == "hvm" and (not self.xen.iommu() or self.xen.held_by_guest(sbdf)):
            why = "already assigned to a different guest" if self.xen.iommu() else "cannot be assigned - no IOMMU"
            parts = sbdf.rpartition(".")
            self.say("error", "pci", 1658, where, "PCI device %s.%s %s?" % (parts[0], parts[2], why), domain.id)
            raise Failed(FAIL)
        if entry.get("seize") and not self.bound(sbdf):
            self.assignable_add(sbdf)
        if sbdf not in (self.assignable() or []):
            self.say("error", "pci", 1677, where, "PCI device %s is not assignable" % short(sbdf), domain.id)
            raise Failed(FAIL)
        self.write_info(sbdf, "domid", str(domain.id))
        self.reset(sbdf)
        try:
            self.xen.assign(sbdf, domain.id)
        except OSError as error:
            self.say("error", "pci", 1522, "pci_add_dm_done", "xc_assign_device failed: %s" % error.strerror, domain.id)
            raise Failed(FAIL)

    def attach(self, domain, entry):
        backend, front = "/local/domain/0/backend/pci/%d/0" % domain.id, domain.path("device/pci/0")
        index = len(domain.pci)
        domain.pci.append(dict(entry, index=index))
        flags = ["%s=%d" % (name, bool(entry.get(name))) for name in ("msitranslate", "power_mgmt", "permissive")]
        rows = {"frontend": front, "frontend-id": domain.id, "online": 1, "domain": domain.name}
        rows.update({"key-%d" % index: entry["sbdf"], "dev-%d" % index: entry["sbdf"], "num_devs": index + 1, "state-%d" % index: 3})
        rows["vdev-%d" % index] = "0000:00:%02x.00" % domain.slot(domain.pci[-1])
        rows.update({"root-0": "0000:00", "root_num": 1})
        rows["opts-%d" % index] = ",".join(flags + ["rdm_policy=" + (entry.get("rdm_policy") or "strict")])
        for name, value in rows.items():
            self.xen.store.write("%s/%s" % (backend, name), value)
        for name, value in (("backend", backend), ("backend-id", 0)):
            self.xen.store.write("%s/%s" % (front, name), value)
        if not self.xen.store.exists(backend + "/state"):
            self.xen.store.write(backend + "/state", 3)  # pciback is ready, the guest has not looked yet
            self.xen.store.write(front + "/state", 1)

    def destroy(self, domain):
        """libxl_domain_destroy: each function is reset once more."""
        for each in list(domain.pci):
            self.reset(each["sbdf"])
        self.xen.destroy(domain)

    def reset(self, sbdf):
        """libxl__device_pci_reset: what it says of a function that cannot be reset ends nothing."""
        function = self.xen.function(sbdf)
        where = "libxl__device_pci_reset"
        if not function.resets:
            text = "The kernel doesn't support reset from sysfs for PCI device %s" % sbdf
            self.say("error", "pci", 1573, where, text)
        elif function.raw.get("resetFails"):
            text = "write to /sys/bus/pci/devices/%s/reset returned -1: %s" % (sbdf, os.strerror(errno.ENOTTY))
            self.say("error", "pci", 1568, where, text)

    def pci_remove(self, domain, sbdf):
        found = next((each for each in domain.pci if each["sbdf"] == sbdf), None)
        if found is None:
            text = "PCI device not attached to this domain"
            self.say("error", "pci", 1966, "do_pci_remove", text, domain.id)
            raise Failed(INVAL)
        domain.pci.remove(found)
        self.write_info(sbdf, "domid", None)
        self.xen.owner[sbdf] = IO
        if not domain.pci:
            for path in ("/local/domain/0/backend/pci/%d" % domain.id, domain.path("device/pci")):
                self.xen.store.remove(path)

    # --- domains

    def create(self, settings, kind, entries, paused=False, monitored=True):
        """A Domain that runs. Raises Failed; what was made is destroyed then, but a seized function stays on pciback."""
        if self.xen.find(settings["name"]) is not None:
            # libxl__domain_make gives it a number before it finds out.
            domid = self.xen.next_id
            self.xen.next_id += 1
            text = 'Domain with name "%s" already exists.' % settings["name"]
            self.say("error", "domain", 81, "libxl__domain_rename", text, domid)
            self.say("error", "create", 1296, "initiate_domain_create", "cannot make domain: %d" % INVAL, domid)
            self._after(domid)
            raise Failed(FAIL)  # of what failed after there was a number (libxl_create.c, domcreate_destruction_cb)
        self._passthrough(settings, kind, entries)
        domain = self.xen.make(settings, kind)
        try:
            self._build(domain, settings)
            for entry in entries:
                self._entry(domain, entry)
        except Failed as failed:
            self.xen.destroy(domain)
            self._after(domain.id)
            raise failed
        domain.monitored = monitored
        if not paused:
            self.xen.run(domain)
        return domain

    def _entry(self, domain, entry):
        try:
            self.pci_add(domain, entry, True)
        except Failed:
            self.say("error", "create", 1921, "domcreate_attach_devices", "unable to add pci devices", domain.id)
            raise

    def _after(self, domid):
        """xl destroys once more what libxl has already destroyed (xl_vmcontrol.c, create_domain, error_out)."""
        for line, function, text in (
            (1183, "libxl__destroy_domid", "Non-existant domain"),
            (1137, "domain_destroy_callback", "Unable to destroy guest"),
            (1064, "domain_destroy_cb", "Destruction of domain failed"),
        ):
            self.say("error", "domain", line, function, text, domid)

    def _passthrough(self, settings, kind, entries):
        """libxl__domain_config_setdefault, before there is a domain."""
        wanted = bool(entries) or settings.get("passthrough") in ("enabled", "share_pt", "sync_pt", "1")
        if wanted and not self.xen.iommu():
            text = "passthrough not supported on this platform\n"
            self.say("error", "create", 1160, "libxl__domain_config_setdefault", text, INVALID_DOMID)
        elif settings.get("passthrough") in ("disabled", "0") and entries:
            text = "passthrough disabled but devices are specified"
            self.say("error", "create", 1167, "libxl__domain_config_setdefault", text, INVALID_DOMID)
        elif wanted and kind == "pvh":
            text = "passthrough not yet supported for x86 PVH guests\n"
            self.say("error", "x86", 831, "libxl__arch_passthrough_mode_setdefault", text, INVALID_DOMID)
        else:
            return
        raise Failed(INVAL)

    def _build(self, domain, settings):
        def failed(line, text):
            self.say("error", "dom", line, "libxl__build_dom" if line == 586 else "libxl__build_pv", text)
            self.say("error", "create", 1640, "domcreate_rebuild_done", "cannot (re-)build domain: %d" % FAIL, domain.id)
            raise Failed(FAIL)

        if self.xen.free_memory() < 0:
            failed(586, "xc_dom_boot_mem_init failed: %s" % os.strerror(errno.EOPNOTSUPP if domain.type == "hvm" else errno.ENOMEM))
        for name, line in (("kernel", 646), ("ramdisk", 657)):
            path = settings.get(name)
            if isinstance(path, str) and not os.path.isfile(self.xen.root + path):
                failed(line, "xc_dom_%s_file failed: %s" % ("kernel" if name == "kernel" else "module", os.strerror(errno.ENOENT)))
        if domain.type != "hvm" and not settings.get("kernel") and not settings.get("bootloader"):
            failed(638, "xc_dom_kernel_file failed: %s" % os.strerror(errno.ENOENT))
        self._framebuffer(domain)

    def _framebuffer(self, domain):
        """Its device model listens for viewers (vnclisten, vncdisplay, vncunused of xl.cfg(5))."""
        vfb = domain.vfb()
        if vfb is None or vfb.get("type", "vnc") != "vnc" or vfb.get("vnc") == "0":
            return
        taken = {each.vnc[1] for each in self.xen.domains.values() if each.vnc}
        display = int(vfb.get("vncdisplay") or 0)
        address, _, given = (vfb.get("vnclisten") or "127.0.0.1").partition(":")
        display = int(given) if given else display
        if vfb.get("vncunused", "1" if "vncdisplay" not in vfb else "0") == "1":
            while 5900 + display in taken:
                display += 1
        elif 5900 + display in taken:
            text = "domain %d device model: spawn failed (rc=%d)" % (domain.id, FAIL)
            self.say("error", "dm", 3055, "device_model_spawn_outcome", text, domain.id)
            raise Failed(FAIL)
        domain.vnc = (address, 5900 + display)
        self.xen.store.write(domain.path("console/vnc-listen"), address)
        self.xen.store.write(domain.path("console/vnc-port"), 5900 + display)

    def control(self, domain, word):
        """Writes control/shutdown and waits until the guest has taken it. Raises Failed."""
        if domain.type == "hvm" and not (domain.guest and domain.guest.up):
            raise Failed(NOPARAVIRT)
        self.xen.store.write(domain.path("control/shutdown"), word)
        holds = lambda: domain.id not in self.xen.domains or not self.xen.store.read(domain.path("control/shutdown"))  # noqa: E731
        if not self.xen.wait(holds, float(self.xen.world().get("acknowledgeSeconds", ACKNOWLEDGED))):
            text = "guest didn't acknowledge control request: %d" % TIMEDOUT
            self.say("error", "domain", 854, "domain_shutdown_done" if word == "poweroff" else "pvcontrol_cb", text)
            self.xen.store.write(domain.path("control/shutdown"), "")
            raise Failed(TIMEDOUT)
