"""qubesctl's second half: Salt in qubes, by way of a management disposable each (qubes-mgmt-salt, qubessalt/__init__.py). What is printed, exit
statuses, logs, the policy file, names and the order of what is done are as there.
"""
import fcntl
import json
import logging
import multiprocessing
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time

from client.admin import QubesException, call, state

LOGS = "/var/log/qubes"
POLICY = "/etc/qubes/policy.d/30-qubesctl-salt.policy"
HEAD = ["# DO NOT EDIT: automatically generated file\n", "# This file is managed by qubesctl tool\n"]
SERVICES = ("qubes.Filecopy", "qubes.VMShell", "qubes.VMRootShell")
NO_TEMPLATE = (
    "DVM template for management not selected. Execute 'sudo qubesctl state.sls qvm.default-mgmt-dvm' or create it manually and set "
    "management_dispvm property."
)
GUEST = "/usr/lib/twin/bin/qubes-guest"


def qubes():
    """{name: class}"""
    found = {}
    for line in call("admin.vm.List").splitlines():
        name, *fields = line.split(" ")
        found[name] = dict(field.split("=", 1) for field in fields)["class"]
    return found


def value(name, prop):
    return call("admin.vm.property.Get", name, prop).split(" ", 2)[2]


def is_running(name):
    return state(name) not in ("Halted", "Paused", "Suspended")


def allow(source, target, on):
    """The disposable's leave to be root in its one qube, under a lock, in one step."""
    while True:
        with open(POLICY, "a+") as file:
            fcntl.lockf(file.fileno(), fcntl.LOCK_EX)
            try:
                if os.fstat(file.fileno()).st_ino != os.stat(POLICY).st_ino:
                    continue
            except FileNotFoundError:
                continue
            file.seek(0)
            lines = file.readlines() or list(HEAD)
            for service in SERVICES:
                line = "%s * %s %s allow user=root\n" % (service, source, target)
                if on:
                    lines.append(line)
                elif line in lines:
                    lines.remove(line)
            if all(line.startswith("#") for line in lines):
                os.unlink(POLICY)
            else:
                with tempfile.NamedTemporaryFile("w", prefix=POLICY, delete=False) as new:
                    new.writelines(lines)
                os.chmod(new.name, 0o660)
                os.rename(new.name, POLICY)
        return


class Managed:
    def __init__(self, name):
        self.name, self.path = name, "%s/mgmt-%s.log" % (LOGS, name)
        self.log = logging.getLogger("qubessalt.vm." + name)
        handler = logging.FileHandler(self.path, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        self.log.addHandler(handler)
        self.log.setLevel(logging.INFO)
        self.log.propagate = False
        self.template = value(name, "management_dispvm")
        if not self.template:
            raise QubesException(NO_TEMPLATE)
        self.disposable = ("disp-mgmt-" + name)[:31]

    def make(self):
        name = self.disposable
        if name not in qubes():
            label = value(self.template, "label")
            call("admin.vm.Create.DispVM", arg=self.template, payload=("name=%s label=%s" % (name, label)).encode())
            call("admin.vm.feature.Set", name, "internal", b"1")
            call("admin.vm.feature.Set", name, "gui", b"")
            call("admin.vm.property.Set", name, "netvm", b"")
            call("admin.vm.property.Set", name, "auto_cleanup", b"True")

    def config(self):
        """A copy of /srv with the pillar of this one qube."""
        output = os.path.join(tempfile.mkdtemp(), "srv")
        shutil.copytree("/srv", output)
        said = subprocess.run(
            ["qubesctl", "--dom0-only", "--id=" + self.name, "--out=json", "pillar.items"], stdout=subprocess.PIPE
        ).stdout
        pillar = json.loads(said.decode())["local"]
        master = pillar.pop("master", {})
        for roots in master.get("pillar_roots", {}).values():
            for root in roots:
                shutil.rmtree(os.path.dirname(output) + root, ignore_errors=True)
        extmods = master.get("extension_modules", "/var/cache/salt/minion/extmods")
        if os.path.exists(extmods):
            shutil.copytree(extmods, output + "/_extmods")
        with open(output + "/master", "w") as file:
            json.dump({"file_roots": master.get("file_roots", {"base": ["/srv/salt"], "user": ["/srv/user_salt"]})}, file)
        os.makedirs(output + "/pillar")
        with open(output + "/pillar/combined.sls", "w") as file:
            json.dump(pillar, file)
        with open(output + "/pillar/top.sls", "w") as file:
            json.dump({"base": {self.name: ["combined"]}}, file)
        return output

    def service(self, argv, **options):
        qube = call("internal.GetQube", self.disposable)
        return subprocess.run([GUEST, qube, options.pop("user", "root")] + argv, **options)

    def call(self, command, show):
        """(exit status, text or lines)"""
        self.log.info("calling '%s'...", command)
        self.make()
        allow(self.disposable, self.name, True)
        try:
            before = is_running(self.name)
            if not is_running(self.disposable):
                call("admin.vm.Start", self.disposable)
            output = self.config()
            with subprocess.Popen(["tar", "-C", os.path.dirname(output), "-cf", "-", "srv"], stdout=subprocess.PIPE) as packed:
                copied = self.service(
                    ["sh", "-c", "mkdir -p ~/QubesIncoming/dom0 && tar -C ~/QubesIncoming/dom0 -xf -"], user="user", stdin=packed.stdout
                )
            shutil.rmtree(os.path.dirname(output))
            if copied.returncode != 0:
                raise QubesException("Failed to copy Salt configuration to " + self.disposable)
            ended = self.service(
                ["/etc/qubes-rpc/qubes.SaltLinuxVM"],
                input=("%s\n%s\n" % (self.name, command)).encode(),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            text = ended.stdout.decode("ascii", "ignore") + ended.stderr.decode("ascii", "ignore")
            lines = ["".join(char for char in line if " " <= char <= "~") for line in text.splitlines()]
            for line in lines:
                self.log.info("output: %s", line)
            if lines[0].count(self.name + ":") == 1:
                lines = lines[1:]
            self.log.info("exit code: %d", ended.returncode)
            code = ended.returncode
            if code == 0 and command.startswith("state.") and not lines:
                code, found = 1, "ERROR (exit code 0, but no changes summary)"
                self.log.info("missing changes summary, considering it a failure")
            elif show and lines:
                found = lines
            elif code == 127:
                found = "ERROR (missing qubes-mgmt-salt-vm-connector package in %s (template of %s))" % (
                    value(self.template, "template"),
                    self.template,
                )
            else:
                found = "OK" if code == 0 else "ERROR (exit code %d, details in %s)" % (code, self.path)
            if is_running(self.name) and not before:
                call("admin.vm.Shutdown", self.name)
                while is_running(self.name):
                    time.sleep(0.1)  # a second there
            return code, found
        finally:
            allow(self.disposable, self.name, False)
            try:
                call("admin.vm.Kill", self.disposable)
            except QubesException as error:
                if error.kind != "QubesVMNotStartedError":
                    raise


def has_states(name):
    """Whether any top file names the qube."""
    import salt.client
    import salt.config

    opts = salt.config.minion_config("/etc/salt/minion")
    opts.update(file_client="local", id=name)
    return bool(salt.client.Caller(mopts=opts).cmd("state.show_top", queue=False, concurrent=True))


def one(name, command, show, skip_check):
    """(name, exit status, text or lines)"""
    uses_top = "state.highstate" in command or command[-1] == "state.apply"
    if uses_top and not skip_check:
        try:
            if not has_states(name):
                return name, 0, "SKIP (nothing to do)"
        except Exception as error:
            return name, 1, "ERROR (exception %s)" % error
    try:
        if name not in qubes():
            return name, 2, "ERROR (vm not found)"
        code, found = Managed(name).call(" ".join(shlex.quote(word) for word in command), show)
    except Exception as error:
        return name, 1, "ERROR (exception %s)" % error
    return name, code, found


def run(names, command, concurrency, show, skip_check):
    """The highest exit status of all."""
    codes = [0]

    def collect(result):
        name, code, found = result
        codes.append(code)
        if show and isinstance(found, list):
            sys.stdout.write("%s:\n%s\n" % (name, "\n".join("  " + line for line in found)))
        else:
            print("%s: %s" % (name, found))

    if names:  # a pool of workers costs something
        with multiprocessing.Pool(min(concurrency, len(names)) if concurrency > 0 else concurrency) as pool:
            for name in names:
                pool.apply_async(one, (name, command, show, skip_check), callback=collect)
            pool.close()
            pool.join()
    return max(codes)
