"""xl of Xen 4.17 (tools/xl): info, dmesg, list, create, destroy, shutdown, reboot, pause, unpause, domid, domname, rename, save, restore,
pci-assignable-add/-list/-remove, pci-list, pci-attach, pci-detach, trigger, uptime. What it does not know it refuses loudly.

    Xl(hypervisor, files, cwd).run(["list"]) → (status, stdout, stderr)
"""
import json
import os
import platform
import re

from . import config
from .libxl import FAIL, INVAL, NOPARAVIRT, Failed, Libxl



# Commands of xl_cmdtable.c.
REAL = """
create config-update list destroy shutdown reboot pci-attach pci-detach pci-list pci-assignable-add
pci-assignable-remove pci-assignable-list pause unpause console vncviewer save migrate restore migrate-receive dump-core
cd-insert cd-eject mem-max mem-set button-press vcpu-list vcpu-pin vcpu-set vm-list info sharing sched-credit
sched-credit2 sched-rtds domid domname rename trigger sysrq debug-keys set-parameters dmesg top network-attach
network-list network-detach channel-list block-attach block-list block-detach vtpm-attach vtpm-list vtpm-detach
vkb-attach vkb-list vkb-detach vdispl-attach vdispl-list vdispl-detach vsnd-attach vsnd-list vsnd-detach uptime claims
cpupool-create cpupool-list cpupool-destroy cpupool-rename cpupool-cpu-add cpupool-cpu-remove cpupool-migrate
cpupool-numa-split getenforce setenforce loadpolicy remus devd psr-hwinfo psr-cmt-attach psr-cmt-detach psr-cmt-show
psr-cat-set psr-cat-show psr-mba-set psr-mba-show usbctrl-attach usbctrl-detach usbdev-attach usbdev-detach usb-list
qemu-monitor-command
""".split()


class Exit(Exception):
    def __init__(self, code):
        super().__init__(code)
        self.code = code


class Xl:
    """`files`: sysfs.Sysfs. `cwd`: what relative paths are relative to."""

    def __init__(self, hypervisor, files, cwd="/"):
        self.xen, self.cwd = hypervisor, cwd
        self.out, self.err = [], []
        self.libxl = Libxl(hypervisor, files, self.err)
        self.files = files

    def run(self, argv):
        self.xen.settle()
        words = list(argv)
        while words and words[0] in ("-v", "-vv", "-vvv", "-f", "-t", "-T", "-N"):
            words.pop(0)
        try:
            handler = getattr(self, "do_" + words[0].replace("-", "_"), None) if words else None
            if handler is None and words and words[0] not in REAL:
                self.fail("command not implemented", 1)
            if handler is None:
                self.fail("xl: the twin does not know: xl %s" % " ".join(argv), 1)
            code = handler(words[1:]) or 0
        except Exit as ended:
            code = ended.code
        except Failed as failed:
            code = 1 if failed.rc else 0
        self.xen.settle()
        return code, "".join(line + "\n" for line in self.out), "".join(line + "\n" for line in self.err)

    def fail(self, text, code):
        self.err.append(text)
        raise Exit(code)

    def options(self, command, words, letters, least=0):
        """({letter: value or True}, words); SWITCH_FOREACH_OPT of xl.h."""
        long = {"--quiet": "-q", "--defconfig": "-f", "--dryrun": "-n", "--all": "-a", "--wait": "-w", "--long": "-l", "--name": "-n"}
        long.update({"--show-names": "-n", "--verbose": "-v"})
        found, rest, given = {}, [], iter(words)
        for word in given:
            name, equals, value = word.partition("=")
            if word.startswith("--") and name in long:
                letter = long[name][1]
                found[letter] = (value if equals else next(given, "")) if letter + ":" in letters else True
            elif word.startswith("-") and len(word) > 1:
                for at, letter in enumerate(word[1:]):
                    if letter not in letters or letter == ":":
                        self.err.append("xl: invalid option -- '%s'" % letter)
                        self.fail("Usage: xl [-vfNtT] %s" % command, 2)
                    if letter + ":" in letters:
                        found[letter] = word[at + 2 :] or next(given, "")
                        break
                    found[letter] = True
            else:
                rest.append(word)
        if len(rest) < least:
            self.out.append("Usage: xl [-vtT] %s\n" % command)
            self.fail("'xl %s' requires at least %d argument%s.\n" % (command, least, "s" if least > 1 else ""), 2)
        return found, rest

    def domain(self, word):
        found = self.xen.find(word)
        if found is None:
            self.fail("%s is an invalid domain identifier (rc=%d)" % (word, INVAL), 1)
        return found

    def path(self, name):
        return self.xen.root + os.path.join(self.cwd, name)

    # --- looks

    def do_info(self, words):
        world, xen = self.xen.world(), self.xen
        iommu = xen.iommu()
        major, minor, extra = (world["xen"].split(".", 2) + ["", ""])[:3]
        caps = "pv hvm hvm_directio pv_directio hap iommu_hap_pt_share" if iommu else "pv hvm hap"
        cpus = int(world.get("cpus", 4))
        rows = [
            ("host", hostname(xen.root)),
            ("release", kernel(xen.root)),
            ("version", "#1 SMP PREEMPT_DYNAMIC Debian"),
            ("machine", "x86_64"),
            ("nr_cpus", cpus),
            ("max_cpu_id", cpus - 1),
            ("nr_nodes", 1),
            ("cores_per_socket", cpus),
            ("threads_per_core", 1),
            ("cpu_mhz", "2400.000"),
            ("hw_caps", ":".join(["00000000"] * 8)),
            ("virt_caps", caps + " gnttab-v1 gnttab-v2"),
            ("total_memory", world["memory"]),
            ("free_memory", xen.free_memory()),
            ("sharing_freed_memory", 0),
            ("sharing_used_memory", 0),
            ("outstanding_claims", 0),
            ("free_cpus", 0),
            ("xen_major", major),
            ("xen_minor", minor),
            ("xen_extra", "." + extra),
            ("xen_version", world["xen"]),
            ("xen_caps", "xen-3.0-x86_64 hvm-3.0-x86_32 hvm-3.0-x86_32p hvm-3.0-x86_64 "),
            ("xen_scheduler", "credit2"),
            ("xen_pagesize", 4096),
            ("platform_params", "virt_start=0xffff800000000000"),
            ("xen_changeset", ""),
            ("xen_commandline", xen.xen_line),
            ("xend_config_format", 4),
        ]
        self.out += ["%-22s : %s" % row for row in rows]

    def do_dmesg(self, words):
        world = self.xen.world()
        intel = not any(raw["vendor"] == "1022" for raw in world["machine"]["devices"])
        self.out.append("(XEN) Xen version %s" % world["xen"])
        self.out.append("(XEN) Command line: %s" % self.xen.xen_line)
        self.out.append("(XEN) System RAM: %dMB (%dkB)" % (world["memory"], world["memory"] * 1024))
        if self.xen.iommu():
            self.out.append("(XEN) Intel VT-d iommu 0 supported page sizes: 4kB, 2MB, 1GB" if intel else "(XEN) AMD-Vi: IOMMU 0 Enabled.")
            self.out += ["(XEN) I/O virtualisation enabled", "(XEN)  - Dom0 mode: Relaxed", "(XEN) Interrupt remapping enabled"]
        else:
            self.out.append("(XEN) I/O virtualisation disabled")

    def rows(self):
        """[(name, id, MiB, vcpus, flags, seconds)] of dom0 and all domains."""
        world, now = self.xen.world(), self.xen.clock()
        yield "Domain-0", 0, world["dom0Memory"], int(world.get("cpus", 4)), "r-----", (now - self.xen.begun) / 10
        for each in sorted(self.xen.domains.values(), key=lambda domain: domain.id):
            running = not each.paused and not each.down
            flags = "-%s%s%s--" % ("b" if running else "-", "p" if each.paused else "-", "s" if each.down else "-")
            yield each.name, each.id, each.memory, each.vcpus, flags, (now - each.started) / 10 if each.started else 0.0

    def do_list(self, words):
        given, names = self.options("list", words, "lvZcnh")
        if len(names) > 1:
            self.fail("Usage: xl [-vfNtT] list [options] [Domain]", 1)
        only = None
        if names:
            found = self.domain(names[0])
            only = 0 if found == 0 else found.id
        if "l" in given:
            chosen = [0] + sorted(self.xen.domains) if only is None else [only]
            self.out.append(json.dumps([self.details(number) for number in chosen], indent=4))
            return
        self.out.append("Name                                        ID   Mem VCPUs\tState\tTime(s)")
        for name, number, memory, vcpus, flags, seconds in self.rows():
            if only in (None, number):
                self.out.append("%-40s %5d %5d %5d     %s  %8.1f" % (name, number, memory, vcpus, flags, seconds))

    def details(self, number):
        """libxl_domain_config as JSON (libxl_types.idl), what the twin knows of it."""
        if number == 0:
            return {"domid": 0, "config": {"c_info": {"type": "pv", "name": "Domain-0"}, "b_info": {"type.pv": {}}}}
        domain = self.xen.domains[number]
        inner = {name: domain.settings[name] for name in ("kernel", "ramdisk") if name in domain.settings}
        if domain.settings.get("extra"):
            inner["cmdline"] = domain.settings["extra"]
        found = {
            "c_info": {"type": domain.type, "name": domain.name, "uuid": domain.uuid},
            "b_info": {"max_memkb": domain.memory * 1024, "target_memkb": domain.memory * 1024, "type." + domain.type: {}},
        }
        found["b_info"].update(inner, **({"max_vcpus": domain.vcpus} if domain.vcpus != 1 else {}))
        if domain.vfb() is not None and domain.type != "hvm":
            found["vfbs"] = [{"devid": 0, "vnc": {"enable": "True", "listen": domain.vnc[0] if domain.vnc else "", "display": domain.vnc[1] - 5900 if domain.vnc else 0}}]
        if domain.pci:
            found["pcidevs"] = [self.pcidev(each) for each in domain.pci]
        for event in ("on_poweroff", "on_reboot", "on_crash"):
            if event in domain.settings:
                found[event] = domain.settings[event]
        return {"domid": number, "config": found}

    @staticmethod
    def pcidev(entry):
        segment, bus, rest = entry["sbdf"].split(":")
        slot, function = rest.split(".")
        found = {"func": int(function), "dev": int(slot, 16), "bus": int(bus, 16), "domain": int(segment, 16)}
        found = {name: value for name, value in found.items() if value}  # what is as it always is, libxl leaves out
        found["vfunc_mask"] = 1
        found.update({name: True for name in ("permissive", "seize", "power_mgmt", "msitranslate") if entry.get(name)})
        return dict(found, rdm_policy=entry.get("rdm_policy") or "strict")

    def do_domid(self, words):
        _, names = self.options("domid", words, "", 1)
        found = self.xen.find(names[0]) if not names[0].isdigit() else None
        if found is None:
            self.fail("Can't get domid of domain name '%s', maybe this domain does not exist." % names[0], 1)
        self.out.append(str(0 if found == 0 else found.id))

    def do_domname(self, words):
        _, names = self.options("domname", words, "", 1)
        if not re.match(r"\A\d", names[0]):
            self.fail("Invalid domain id.\n", 1)
        found = self.xen.find(names[0])
        if found is None:
            self.fail("Can't get domain name of domain id '%s', maybe this domain does not exist." % names[0], 1)
        self.out.append("Domain-0" if found == 0 else found.name)

    def do_uptime(self, words):
        self.out.append("%-33s %4s %s" % ("Name", "ID", "Uptime"))
        for name, number, _, _, _, seconds in self.rows():
            age = int(seconds * 10)
            self.out.append("%-33s %4d %2d:%02d:%02d" % (name, number, age // 3600, age // 60 % 60, age % 60))

    # --- functions

    def bdf(self, command, text, quote='"'):
        try:
            return config.parse_bdf(text)[0].replace("*", "0")
        except config.Malformed:
            self.fail("%s: malformed BDF %s%s%s" % (command, quote, text, quote), 2)

    def do_pci_assignable_list(self, words):
        given, _ = self.options("pci-assignable-list", words, "n")
        for sbdf in self.libxl.assignable() or []:
            self.out.append("%s %s" % (sbdf, (self.libxl.info(sbdf, "name") or "") if "n" in given else ""))

    def do_pci_assignable_add(self, words):
        given, names = self.options("pci-assignable-add", words, "n:", 1)
        self.libxl.assignable_add(self.bdf("pci-assignable-add", names[0]), given.get("n"))

    def do_pci_assignable_remove(self, words):
        given, names = self.options("pci-assignable-remove", words, "r", 1)
        named = next((each for each in self.xen.store.children("/libxl/pci") if self.xen.store.read("/libxl/pci/%s/name" % each) == names[0]), None)
        if named:
            segment, bus, slot, function = named.split("-")
            sbdf = "%s:%s:%s.%s" % (segment, bus, slot, function)
        else:
            sbdf = self.bdf("pci-assignable-remove", names[0], "'")
        self.libxl.assignable_remove(sbdf, "r" in given)

    def do_pci_list(self, words):
        _, names = self.options("pci-list", words, "", 1)
        found = self.domain(names[0])
        if found == 0 or not found.pci:
            return
        self.out.append("Vdev Device")
        for each in found.pci:
            # vdevfn is what xenstore has: nothing for PV without a slot of the configuration (libxl_pci.c).
            slot = found.slot(each) if found.type == "hvm" or each.get("vslot") is not None else 0
            self.out.append("%02x.0 %s" % (slot, each["sbdf"]))

    def do_pci_attach(self, words):
        _, names = self.options("pci-attach", words, "", 2)
        self.libxl.pci_add(self.guest(names[0]), self.spec("pci-attach", names[1]), False)

    def do_pci_detach(self, words):
        _, names = self.options("pci-detach", words, "f", 2)
        self.libxl.pci_remove(self.guest(names[0]), self.spec("pci-detach", names[1])["sbdf"])

    def spec(self, command, text):
        try:
            return config.parse_spec(text)
        except config.Malformed as problem:
            if str(problem):
                self.err.append(str(problem))
            self.fail('%s: malformed PCI_SPEC_STRING "%s"' % (command, text), 2)

    def guest(self, word):
        found = self.domain(word)
        if found == 0:
            self.fail("xl: the twin does that to guests only", 1)
        return found

    # --- domains

    def do_create(self, words):
        name = words.pop(0) if words and not words[0].startswith("-") and "=" not in words[0] else None
        given, rest = self.options("create", words, "AFVcdef:inpq")
        name = given.get("f", name)
        extra = [word for word in rest if "=" in word]
        for word in rest:
            if "=" not in word:
                if name:
                    self.fail("Usage: xl [-vfNtT] create <ConfigFile> [options] [vars]", 2)
                name = word
        if name is None:
            self.fail("Config file not specified and none in save file", -INVAL)
        text = self.text(name)
        if "q" not in given:
            self.err.append("Parsing config from %s" % name)
        settings, kind, entries = self.parsed("\n".join([text] + extra), name)
        if "n" in given:
            self.out.append(json.dumps({"c_info": {"type": kind, "name": settings["name"]}}, indent=4))
            return
        try:
            self.libxl.create(settings, kind, entries, "p" in given, "e" not in given)
        except Failed as failed:
            raise Exit(-failed.rc)

    def text(self, name):
        if name == "/dev/null":
            return ""
        try:
            with open(self.path(name), encoding="utf-8", errors="replace") as file:
                return file.read()
        except OSError as error:
            self.fail("Failed to read config file: %s: %s" % (name, error.strerror), -FAIL)

    def parsed(self, text, source):
        """(settings, type, [spec]) of a configuration (xl_parse.c, parse_config_data)."""
        try:
            settings = config.parse(text, source)
        except config.Unreadable as problem:
            self.err.append(str(problem))
            self.fail("Failed to parse config: Invalid argument", 1)
        kind = self.type(settings)
        if not isinstance(settings.get("name"), str):
            self.fail("Domain name must be specified.", 1)
        entries = []
        for text in settings.get("pci") or []:
            try:
                entry = config.parse_spec(text)
            except config.Malformed as problem:
                if str(problem):
                    self.err.append(str(problem))
                self.fail("unable to parse PCI_SPEC_STRING `%s' for passthrough" % text, -INVAL)
            for flag in ("seize", "permissive", "msitranslate", "power_mgmt"):
                entry.setdefault(flag, settings.get("pci_" + flag) == "1")
            entries.append(entry)
        return settings, kind, entries

    def type(self, settings):
        """A beginning of the word will do (xl_parse.c: strncmp over its length)."""
        kinds = []
        for key, known in (("type", ("hvm", "pv", "pvh")), ("builder", ("hvm", "generic"))):
            word = settings.get(key)
            if word is None:
                continue
            kind = next((each for each in known if each.startswith(word)), None)
            if kind is None:
                self.fail("Invalid domain type %s." % word, 1)
            kinds.append("pv" if kind == "generic" else kind)
        if len(set(kinds)) > 1:
            self.fail('Contradicting "builder" and "type" options specified.', 1)
        return kinds[0] if kinds else "pv"

    def do_destroy(self, words):
        given, names = self.options("destroy", words, "f", 1)
        found = self.domain(names[0])
        if found == 0:
            self.fail(
                "Not destroying domain 0; use -f to force.\nThis can only be done when using a disaggregated hardware domain and toolstack.\n",
                1,
            )
        self.libxl.destroy(found)

    def do_shutdown(self, words):
        self.ask_down("shutdown", "poweroff", words)

    def do_reboot(self, words):
        self.ask_down("reboot", "reboot", words)

    def ask_down(self, command, word, words):
        given, names = self.options(command, words, "awF")
        if not names and "a" not in given:
            self.fail("You must specify -a or a domain id.\n", 1)
        chosen = [self.domain(names[0])] if "a" not in given else list(self.xen.domains.values())
        for domain in chosen:
            self.shut(domain, command, word, "F" in given)
        if "w" in given:
            gone = lambda: all(each.down or each.id not in self.xen.domains for each in chosen)  # noqa: E731
            self.err.append("Waiting for %d domains" % len(chosen))
            self.xen.wait(gone, 3600.0)

    def shut(self, domain, command, word, trigger):
        if domain == 0:
            self.fail("xl: the twin does that to guests only", 1)
        self.err.append("%s domain %d" % ("Shutting down" if command == "shutdown" else "Rebooting", domain.id))
        try:
            self.libxl.control(domain, word)
        except Failed as failed:
            if failed.rc == NOPARAVIRT and trigger:
                self.err.append("PV control interface not available: sending ACPI power button event.")
                return self.power_button(domain)
            if failed.rc == NOPARAVIRT:
                self.err.append("PV control interface not available: external graceful shutdown not possible.")
                self.err.append('Use "-F" to fallback to ACPI power event.')
            self.fail("%s failed (rc=%d)" % (command, failed.rc), 1)

    def power_button(self, domain):
        """ACPI's, as an operating system that is up obeys it; the lab's guest has no ACPI daemon."""
        if domain.guest and domain.guest.kind == "other" and domain.guest.obeys:
            domain.requested = "poweroff"
            self.xen.at(0.2, domain.id, "poweroff")

    def do_trigger(self, words):
        _, names = self.options("trigger", words, "", 2)
        domain = self.guest(names[0])
        if names[1] == "power" and domain.type == "hvm":
            self.power_button(domain)
        elif domain.type != "hvm":
            self.fail("libxl: error: libxl_domain.c:1773:libxl_send_trigger: Domain %d:Send trigger '%s' failed: Function not implemented" % (domain.id, names[1]), 1)

    def do_pause(self, words):
        _, names = self.options("pause", words, "", 1)
        self.guest(names[0]).paused = True

    def do_unpause(self, words):
        _, names = self.options("unpause", words, "", 1)
        domain = self.guest(names[0])
        if domain.guest is None:
            self.xen.run(domain)
        domain.paused = False

    def do_rename(self, words):
        _, names = self.options("rename", words, "", 2)
        domain = self.guest(names[0])
        if self.xen.find(names[1]) is not None:
            text = 'Domain with name "%s" already exists.' % names[1]
            self.libxl.say("error", "domain", 81, "libxl__domain_rename", text, domain.id)
            self.fail("Can't rename domain '%s'." % names[0], 1)
        domain.name = domain.settings["name"] = names[1]
        self.xen.store.write(domain.path("name"), names[1])

    def do_save(self, words):
        """Its guest suspends, its state goes into a file, it is destroyed."""
        _, names = self.options("save", words, "cp", 2)
        domain = self.guest(names[0])
        self.err.append("Saving to %s new xl format (info 0x3/0x0/%d)" % (names[1], len(self.xen.saved(domain))))
        try:
            self.libxl.control(domain, "suspend")
        except Failed as failed:
            self.err.append("Failed to save domain, resuming domain")
            raise Exit(1 if failed.rc == NOPARAVIRT else -failed.rc)
        self.xen.wait(lambda: domain.down, 60.0)
        with open(self.path(names[1]), "w") as file:
            file.write(self.xen.saved(domain) + "\n")
        self.xen.destroy(domain)

    def do_restore(self, words):
        given, names = self.options("restore", words, "epcd", 1)
        try:
            with open(self.path(names[0])) as file:
                saved = json.load(file)
        except OSError as error:
            self.fail("Can't open restore file: %s" % error.strerror, -INVAL)
        except ValueError:
            self.fail("File has wrong magic number - corrupt or for a different tool?", -INVAL)
        self.err.append("Loading new save file %s (new xl fmt info 0x3/0x0/%d)" % (names[0], len(json.dumps(saved))))
        self.err.append(" Savefile contains xl domain config in JSON format\nParsing config from <saved>")
        entries = [config.parse_spec(text) for text in saved["settings"].get("pci") or []]
        try:
            domain = self.libxl.create(saved["settings"], saved["type"], entries, True, "e" not in given)
        except Failed as failed:
            raise Exit(-failed.rc)
        self.xen.resume(domain, saved.get("drawn"))
        domain.paused = "p" in given


def restart(hypervisor, files):
    """What the waiting `xl create` of a domain does when that reboots."""

    def again(settings, kind, passed):
        entries = [{key: value for key, value in each.items() if key != "index"} for each in passed]
        try:
            Libxl(hypervisor, files, []).create(settings, kind, entries)
        except Failed:
            pass  # it says so in /var/log/xen/xl-NAME.log and ends

    return again


def hostname(root):
    try:
        with open(root + "/etc/hostname") as file:
            return file.read().strip()
    except OSError:
        return platform.node()


def kernel(root):
    try:
        with open(root + "/proc/sys/kernel/osrelease") as file:
            return file.read().strip()
    except OSError:
        return platform.release()
