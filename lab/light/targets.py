"""qubesctl --targets for one qube: a formula of ours that writes inside it, from a disposable as Qubes' own does (qubes-mgmt-salt, qubessalt).
In the process of the agent, so what it leaves when it is ended stays. What is inside lies on the volumes of lab/twin's model
(dom0/qubesd/volumes.py): packages in the record that dom0/guest/layers.py reads, /rw on the private volume, all else on the root volume.
"""
import json
import os
import shutil

import yaml

POLICY = "/etc/qubes/policy.d/30-qubesctl-salt.policy"
IMAGES = "/var/lib/qubes"
RECORDS = {"fedora": "/var/lib/rpm/twin.json", "debian": "/var/lib/dpkg/twin.json"}
UNITS = "/.units.json"


def run(process, argv, stop, tick):
    """(status, stdout, stderr, why) as runner.Ended has it."""
    qube, sls = argv[argv.index("--targets") + 1], argv[argv.index("state.sls") + 1]
    common, admin = process.product["common"], process.product["qubes_admin"]
    reach = lambda name: process.ask("reach", step=name)  # noqa: E731
    process.sleep(2)
    name = ("disp-mgmt-" + qube)[:31]
    template = admin.get_property(qube, "management_dispvm")["value"]
    if not template:
        return 1, ("%s: ERROR (exception DVM template for management not selected.)\n" % qube).encode(), b"", "exit"
    if name not in admin.qubes():
        admin.create(name, "DispVM", template, "black")
        admin.set_property(name, "auto_cleanup", "True")
    before = common.read_text(POLICY) or "# DO NOT EDIT: automatically generated file\n"
    line = "qubes.VMRootShell * %s %s allow user=root\n" % (name, qube)
    with open(common.path(POLICY), "w") as file:
        file.write(before + line)
    if reach("targets.policy").get("kill"):
        return 137, b"", b"Killed", "exit"
    admin.start(name)
    if reach("targets.begun").get("kill"):
        return 137, b"", b"Killed", "exit"
    text = common.read_text("%s/%s/init.sls" % (common.FORMULA, sls.replace(".", "/")))
    if text is None:
        lines, code = ["  Data failed to compile:", "----------", "    No matching sls found for '%s' in env 'user'" % sls], 20
    else:
        inside = Inside(process, qube)
        lines, code = [], 0
        for number, (ident, body) in enumerate((yaml.safe_load(text) or {}).items()):
            if stop and stop.is_set():
                return 143, b"", b"", "stop"
            tick(5)
            (function, arguments), = body.items()
            given = {key: value for part in arguments for key, value in part.items()}
            given.pop("failhard", None), given.pop("require", None)
            good, comment = getattr(inside, function.replace(".", "_"))(given.pop("name", ident), **given)
            lines += ["-" * 10, "          ID: " + ident, "    Function: " + function, "      Result: %s" % good]
            lines += ["     Comment: " + comment, "     Started: 12:00:00.000000", "    Duration: 1.0 ms", "     Changes:   "]
            if good:
                lines += [" " * 14 + "-" * 10, " " * 14 + ident + ":", " " * 18 + "new"]
            process.sleep(2)
            if reach("targets.state").get("kill"):
                return 137, b"", b"Killed", "exit"
            if not good:
                code = 20
                break
        lines += ["", "Summary for " + qube]
    out = "%s:\n%s\n" % (qube, "\n".join("  " + each for each in lines))
    admin.kill(name)
    reach("targets.ended")
    left = [each for each in common.read_text(POLICY).splitlines(True) if each != line]
    if any(not each.startswith("#") for each in left):
        with open(common.path(POLICY), "w") as file:
            file.writelines(left)
    else:
        os.unlink(common.path(POLICY))
    return code, out.encode(), b"", "exit"


class Inside:
    """Salt's states in the qube that runs, on its volumes."""

    def __init__(self, process, qube):
        self.process, self.qube = process, qube
        product = process.product
        self.common, admin = product["common"], product["qubes_admin"]
        kind = admin.qubes()[qube]["class"]
        self.folder = "%s/%s/%s" % (IMAGES, "vm-templates" if kind == "TemplateVM" else "appvms", qube)
        self.distribution = admin.get_feature(qube, "os-distribution") or ""

    def path(self, name):
        if name.startswith("/rw/"):
            return self.common.path("%s/private-dirty.img%s" % (self.folder, name[len("/rw") :]))
        return self.common.path("%s/root-dirty.img%s" % (self.folder, name))

    def read(self, name, default):
        try:
            with open(self.path(name)) as file:
                return json.load(file)
        except FileNotFoundError:
            return default

    def write(self, name, text):
        os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        with open(self.path(name), "w") as file:
            file.write(text)

    # --- packages: "fail" of the world is what cannot be had

    def pkg_installed(self, name, pkgs):
        record = self.read(RECORDS[self.distribution], {"installed": {}, "removed": []})
        for each in pkgs:
            self.process.sleep(1)
            if each in self.process.ask("world")["faults"].get("noPackages", []):
                return False, "Problem encountered installing package(s): Unable to find a match: " + each
            if each in self.process.ask("world")["came"].get(self.qube, {}):
                continue
            record["installed"].setdefault(each, "1")
            self.write(RECORDS[self.distribution], json.dumps(record, sort_keys=True))
        return True, "installed"

    def pkg_removed(self, name, pkgs):
        record = self.read(RECORDS[self.distribution], {"installed": {}, "removed": []})
        record["installed"] = {each: version for each, version in record["installed"].items() if each not in pkgs}
        if record["installed"] or record["removed"]:
            self.write(RECORDS[self.distribution], json.dumps(record, sort_keys=True))
        elif os.path.exists(self.path(RECORDS[self.distribution])):
            os.unlink(self.path(RECORDS[self.distribution]))
        return True, "removed"

    # --- files and units

    def file_managed(self, name, contents, mode="0644", makedirs=False):
        self.write(name, contents)
        os.chmod(self.path(name), int(mode, 8))
        return True, "File %s updated" % name

    def file_absent(self, name):
        if os.path.lexists(self.path(name)):
            os.unlink(self.path(name))
        return True, "Removed file " + name

    def file_directory(self, name, mode="0755", makedirs=False, clean=False, exclude_pat=""):
        import re

        os.makedirs(self.path(name), exist_ok=True)
        for entry in os.listdir(self.path(name)) if clean else ():
            if not re.search(exclude_pat[len("E@") :], entry):
                shutil.rmtree(os.path.join(self.path(name), entry))
        return True, "The directory is in the correct state"

    def service_enabled(self, name):
        return self._unit(name, "enabled")

    def service_disabled(self, name):
        return self._unit(name, None)

    def _unit(self, name, state):
        units = dict(self.read(UNITS, {}), **{name: state})
        units = {unit: is_ for unit, is_ in units.items() if is_}
        if units:
            self.write(UNITS, json.dumps(units, sort_keys=True))
        elif os.path.exists(self.path(UNITS)):
            os.unlink(self.path(UNITS))
        return True, "Service %s is %s" % (name, state or "disabled")
