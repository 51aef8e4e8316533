"""dom0's commands, answered from the machine model: (status, output, errors as text). Formats: qubes-cli-formats.md and the
programs of lab/twin/dom0/bin, which say the same in a sandbox.
"""
import json
import os

import policy
from machine import hardware, units
from policy import lint
from policy.call import judge  # noqa: F401  (the evaluator reads qubes through it)
from qubesd import STUBDOM_MEMORY
from qubesd.errors import QubesException, Refused

import inside
import shell

RPMS = "/var/lib/rpm/twin.json"


class Commands:
    def __init__(self, machine, mkconfig):
        self.machine, self.root = machine, machine.root
        self.files = shell.Disk(machine.root)
        self.mkconfig = mkconfig
        self.in_force = {}  # (qube, start of its run) → generation, see inside.py

    def run(self, argv):
        name = os.path.basename(argv[0])
        if name in ("sh", "test", "grep", "true", "false"):
            code, out = shell.simple(argv, {}, "", lambda words, env, stdin: self.run(words)[:2], self.files)
            return code, out, ""
        method = getattr(self, name.replace("-", "_"), None)
        if method is None:
            raise shell.Unknown("in dom0: %s" % argv)
        try:
            answer = method(argv[1:])
        except OSError as error:  # a full disk
            return 1, "", "%s: %s\n" % (name, error.strerror)
        return answer if len(answer) == 3 else answer + ("",)

    # --- systemd

    def systemctl(self, words):
        options = {word for word in words if word.startswith("-")}
        verb, *names = [word for word in words if not word.startswith("-")]
        manager = self.machine.units
        if verb == "daemon-reload":
            manager.daemon_reload()
            return 0, ""
        if verb == "reboot":
            self.machine.request("reboot", "systemctl reboot")
        if verb == "list-units":
            # Which units pass dom0's input devices on follows from the qube that gets them (qubes-host.md (g)).
            return 0, "".join(line + "\n" for line in self.senders()) if "qubes-input-sender" in "".join(names) else ""
        code = 0
        for name in names:
            if verb == "is-active":
                state = manager.is_active(name)
                return (0 if state == "active" else 3), "" if "--quiet" in options else state + "\n"
            try:
                getattr(manager, {"start": "start", "stop": "stop", "restart": "restart"}[verb])(name)
            except units.UnitProblem as problem:
                return problem.code, "", str(problem) + "\n"
        return code, ""

    def senders(self):
        machine = hardware.Hardware(self.machine.world)
        proxied = any(run.get("proxied") for run in self.machine.system.running.values())
        found = machine.in_dom0(self.machine.drivers()) if proxied else []
        return [
            "  qubes-input-sender-%s@-dev-input-event%d.service loaded active running Input proxy" % (each["kind"], number)
            for number, each in enumerate(found)
        ]

    # --- Xen

    def domains(self):
        """[(xid, name, MiB, devices)]"""
        system = self.machine.system
        found = [(0, "Domain-0", self.machine.world["dom0Memory"], [])]
        for name, run in system.running.items():
            found.append((run["xid"], name, system.boot["defined"][name], run.get("attached", [])))
            if run["stubdom_xid"] != -1:
                found.append((run["stubdom_xid"], name + "-dm", STUBDOM_MEMORY, []))
        return sorted(found)

    def xl(self, words):
        world = self.machine.world
        if words == ["info"]:
            rows = [
                ("virt_caps", "pv hvm %shap shadow" % ("hvm_directio pv_directio " if world["iommu"] else "")),
                ("total_memory", world["memory"]),
                ("free_memory", world["memory"] - sum(domain[2] for domain in self.domains())),
                ("xen_version", world["xen"]),
            ]
            return 0, "".join("%-22s : %s\n" % row for row in rows)
        if words == ["dmesg"]:
            if not world["iommu"]:
                return 0, "(XEN) I/O virtualisation disabled\n"
            return 0, "(XEN) I/O virtualisation enabled\n(XEN)  - Dom0 mode: Relaxed\n(XEN) Interrupt remapping enabled\n"
        if words[:1] == ["pci-list"]:
            for xid, name, _, devices in self.domains():
                if words[1] in (name, str(xid)):
                    return 0, "Vdev Device\n" + "".join("%02x.0 %s\n" % (n + 5, sbdf) for n, sbdf in enumerate(devices))
            return 1, "", "%s is an invalid domain identifier (rc=-6)\n" % words[1]
        raise shell.Unknown("xl %s" % words)

    # --- disks and boot

    def boot_row(self):
        rows = hardware.Hardware(self.machine.world).blocks()
        return rows, next(row for row in rows if row["mount"] == "/boot")

    def findmnt(self, words):
        row = self.boot_row()[1]
        return 0, "%s %s\n" % (row["fs"], hardware.device_path(row))

    def lsblk(self, words):
        rows, row = self.boot_row()
        known, types, todo = {each["name"]: each for each in rows}, [], [row["name"]]
        while todo:
            each = known[todo.pop(0)]
            types.append(each["type"])
            todo += each["parents"]
        return 0, "".join(kind + "\n" for kind in types)

    def grub2_mkconfig(self, words):
        target = words[words.index("-o") + 1]
        # An agent's state may give the path below the folder that it takes for the root.
        target = target[len(self.root) :] if target.startswith(self.root) else target
        self.mkconfig(target)
        return 0, "", "Generating grub configuration file ...\ndone\n"

    def grub2_script_check(self, words):
        from machine import grub

        problem = grub.check(self.files.read(words[-1].replace(self.root, "", 1)) or "")
        return (1, "", str(problem)) if problem else (0, "")

    def sync(self, words):
        return 0, ""

    # --- packages

    def installed(self):
        return json.loads(self.files.read(RPMS))["packages"]

    def rpm(self, words):
        assert words[0] == "-q", words
        found = self.installed()
        rows = [("%s-%s-1.fc41.noarch" if n in found else "package %s is not installed") % ((n, found[n]) if n in found else n) for n in words[1:]]
        return sum(name not in found for name in words[1:]), "".join(row + "\n" for row in rows)

    def keep(self, packages):
        hardware.write(self.root + RPMS + ".new", json.dumps({"packages": packages}))
        os.rename(self.root + RPMS + ".new", self.root + RPMS)

    def dnf(self, words):
        names = [word for word in words if not word.startswith("-")]
        assert names.pop(0) == "remove", words
        self.keep({name: version for name, version in self.installed().items() if name not in names})
        return 0, ""

    def qubes_dom0_update(self, words):
        """What Salt's pkg.installed comes to."""
        names, repository, found = [w for w in words if not w.startswith("-")], self.machine.world["repository"], self.installed()
        missing = [name for name in names if name not in repository and name not in found]
        if missing:
            return 1, "", "No match for argument: %s\n" % ", ".join(missing)
        self.keep(dict(found, **{name: repository[name] for name in names if name not in found}))
        return 0, ""

    # --- policy

    def qubes_policy_lint(self, words):
        as_include = "--include-service" in words
        for path in words:
            if path.startswith("--"):
                continue
            text = self.files.read(path[len(self.root) :] if path.startswith(self.root) else path)
            if text is None:
                return 1, path + ":0: error: File does not exist.\n"
            found = lint.lint(path, text.splitlines(), as_include, False)
            if found:
                return 1, "\n".join(found) + "\n"
        return 0, ""

    def rules(self):
        """Every rule of the host; raises PolicySyntaxError."""
        return policy.load((self.root + policy.RUNTIME_POLICY, self.root + policy.POLICY))

    def qrexec_policy_exec(self, words):
        source, target, name = [word for word in words if not word.startswith("-")]
        service, _, argument = name.partition("+")
        qubes = json.loads(self.machine.call("internal.GetSystemInfo", "", "dom0"))["domains"]
        try:
            outcome = policy.evaluate(self.rules(), policy.Call(service, "+" + argument, source, target, qubes))
        except policy.PolicySyntaxError as error:
            return 1, "", "Traceback (most recent call last):\n%s\n" % error
        except (policy.AccessDenied, ValueError) as error:
            return 1, "", "denied: %s\n" % error
        return (0 if outcome[0] == "allow" else 1), ""

    def may(self, source, target, name):
        return self.qrexec_policy_exec([source, target, name])[0] == 0

    # --- qubes

    def qvm_run(self, words):
        name, command = words[-2:]
        try:
            if self.machine.system.qube(name).is_halted():
                self.machine.call("admin.vm.Start", "", name)
            if self.machine.system.qube(name).state() != "Running":
                return 255, "", "vm.%s: no qrexec agent answers\n" % name
            found = inside.generation(self.machine, name, command, self.may, self.in_force)
            return (found or inside.run(self.machine, name, command, self.may)) + ("",)
        except (QubesException, Refused) as error:
            return 255, "", "vm.%s: %s\n" % (name, error)
