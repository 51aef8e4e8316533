"""systemd, as far as dom0's boot and a set-up of GUI domains need it: units from their files, drop-ins, conditions, masks,
order, what is enabled and what is active. Processes are not its matter: `execute` runs them (see Manager).

Units of dom0 itself (/usr/lib/systemd/system) are only said to run: their programs are played by the twin, so of them nothing
is executed but what a drop-in adds. qubes-vm@NAME.service starts the qube. All others run for real.
"""
import fnmatch
import glob
import os
import re
import shlex
import signal

VENDOR, ADMIN, RUNTIME = "/usr/lib/systemd/system", "/etc/systemd/system", "/run/systemd/system"
GENERATED = "/run/systemd/generator.late"  # of scripts in /etc/init.d (xen/sysv.py)
TRANSIENT = "/run/systemd/transient"  # of systemd-run
WANTS = ("sysinit.target.wants", "basic.target.wants", "multi-user.target.wants", "graphical.target.wants")
AUTOSTART = re.compile(r"\Aqubes-vm@(.+)\.service\Z")
LISTS = ("after", "before", "wants", "requires", "wantedby", "requiredby", "alias")


class UnitProblem(Exception):
    """What systemctl prints, with its exit status."""

    def __init__(self, text, code=1):
        super().__init__(text)
        self.code = code


class Unit:
    """name; description; options {(section, key lower): [values]}; `stock`: dom0's own; `loaded`: "loaded"|"not-found"|"masked"."""

    def __init__(self, name, loaded, stock=False, path=None):
        self.name, self.loaded, self.stock, self.path = name, loaded, stock, path
        self.options, self.stock_exec = {}, {}

    def add(self, text, instance, stock):
        section = ""
        for line in text.replace("\\\n", " ").split("\n"):
            line = line.strip()
            if not line or line[0] in "#;":
                continue
            if line.startswith("[") and line.endswith("]"):
                section = line[1:-1].lower()
                continue
            key, equals, value = line.partition("=")
            if not equals:
                continue
            key, value = key.strip().lower(), specifiers(value.strip(), self.name, instance)
            if stock and key.startswith("exec"):
                continue
            if value == "":  # an empty assignment forgets what was there
                self.options[section, key] = []
            else:
                self.options.setdefault((section, key), []).append(value)

    def all(self, section, key):
        found = self.options.get((section, key), [])
        if key in LISTS:
            return [word for value in found for word in value.split()]
        return found

    def one(self, section, key, default=""):
        return (self.options.get((section, key)) or [default])[-1]

    @property
    def description(self):
        return self.one("unit", "description", self.name)

    @property
    def type(self):
        given = self.one("service", "type")
        return given or ("simple" if self.all("service", "execstart") else "oneshot")

    @property
    def stays(self):
        """Active after its command ended."""
        return self.stock or self.one("service", "remainafterexit").lower() in ("yes", "true", "1", "on")

    def after(self):
        return set(self.all("unit", "after"))


def specifiers(text, name, instance):
    base = name.rsplit(".", 1)[0]
    values = {"%i": instance or "", "%I": instance or "", "%n": name, "%N": base, "%p": base.split("@")[0], "%%": "%"}
    return re.sub(r"%[iInNp%]", lambda found: values[found.group()], text)


def full(name):
    return name if re.search(r"\.(service|path|target|timer|socket|mount)\Z", name) else name + ".service"


def seconds(text, default):
    """A systemd time span in seconds."""
    if not text:
        return default
    if text == "infinity":
        return None
    units = {"": 1, "s": 1, "sec": 1, "ms": 0.001, "min": 60, "m": 60, "h": 3600}
    return sum(float(number) * units.get(unit, 1) for number, unit in re.findall(r"([\d.]+)\s*([a-z]*)", text))


class Nothing:
    """Runs no process: every command is done with status 0, every service goes on."""

    def run(self, unit, argv, timeout):
        return 0

    def spawn(self, unit, argv):
        return argv

    def alive(self, handle):
        return True

    def kill(self, handle):
        pass

    def left(self, unit):
        """The handle of what a command of Type=forking left running, None where nothing."""
        return None


class Manager:
    """`execute`: {run(unit, argv, timeout) -> status, spawn(unit, argv) -> handle, alive(handle), kill(handle), left(unit)}.
    `start_qube(name)` starts an autostarting qube, and raises an Exception where it does not start. `changed()` is called
    after each change of a state. Its calls wait for what they start; nothing here is a thread.
    """

    def __init__(self, root, cmdline, execute=None, start_qube=None, changed=None, absent=()):
        self.root, self.cmdline = root, cmdline
        self.execute = execute or Nothing()
        self.start_qube = start_qube or (lambda name: None)
        self.changed = changed or (lambda: None)
        self.absent = set(absent)  # dom0's units that this host does not have
        self.states = {}  # name → {"active", "result", "handle", "seen"}
        self.units = {}

    # --- what is on disk

    def path(self, *parts):
        return self.root + os.path.join(*parts)

    def entries(self, *parts):
        """Names of what is in a folder; none where there is no such folder."""
        where = self.path(*parts)
        return set(os.listdir(where)) if os.path.isdir(where) else set()

    def exists(self, path):
        return os.path.exists(self.path(path))

    def masked_by_boot(self):
        return {full(word[13:]) for word in self.cmdline.split() if word.startswith("systemd.mask=")}

    def daemon_reload(self):
        self.units = {}

    def unit(self, name):
        name = full(name)
        if name not in self.units:
            self.units[name] = self.load(name)
        return self.units[name]

    def load(self, name):
        instance = name.split("@", 1)[1].rsplit(".", 1)[0] if "@" in name else None
        template = name.split("@")[0] + "@." + name.rsplit(".", 1)[1] if instance else None
        if name in self.masked_by_boot():
            return Unit(name, "masked")
        if name in self.absent:
            return Unit(name, "not-found")
        found = None
        for each in [name] + ([template] if template else []):
            for folder in (TRANSIENT, ADMIN, RUNTIME, VENDOR, GENERATED):
                path = os.path.join(folder, each)
                real = self.path(path)
                if os.path.islink(real) and os.readlink(real) == "/dev/null":
                    return Unit(name, "masked", path=path)
                target = os.readlink(real) if os.path.islink(real) else path
                if not target.startswith("/"):
                    target = os.path.normpath(os.path.join(folder, target))
                if os.path.isfile(self.path(target)):
                    found = (target, target.startswith(VENDOR))
                    break
            if found:
                break
        if not found:
            return Unit(name, "not-found")
        with open(self.path(found[0]), encoding="utf-8", errors="replace") as file:
            text = file.read()
        # A package's unit whose program the laboratory plays runs for real; systemd passes over a section of that name.
        stock = found[1] and "[X-Twin]" not in text
        unit = Unit(name, "loaded", stock=stock, path=found[0])
        unit.add(text, instance, stock)
        drop_ins = {}
        for folder in (VENDOR, RUNTIME, ADMIN):
            for each in ([template] if template else []) + [name]:
                where = os.path.join(folder, each + ".d")
                drop_ins.update({entry: self.path(where, entry) for entry in self.entries(where) if entry.endswith(".conf")})
        for entry in sorted(drop_ins):
            with open(drop_ins[entry], encoding="utf-8", errors="replace") as file:
                unit.add(file.read(), instance, False)
        return unit

    def links(self, name, unit):
        """Links that enabling makes, below /etc/systemd/system → target."""
        target = unit.path or os.path.join(VENDOR, name)
        found = {"%s.wants/%s" % (each, name): target for each in unit.all("install", "wantedby")}
        found.update({"%s.requires/%s" % (each, name): target for each in unit.all("install", "requiredby")})
        found.update({alias: target for alias in unit.all("install", "alias")})
        return found

    def is_enabled(self, name):
        """enabled, disabled, static, masked, masked-runtime or not-found."""
        name = full(name)
        unit = self.unit(name)
        if unit.loaded == "masked":
            return "masked" if unit.path else "masked-runtime"
        if unit.loaded == "not-found":
            return "not-found"
        if unit.path and unit.path.startswith(GENERATED):  # systemd-sysv-install looks at /etc/rc?.d
            return "enabled" if any(name in self.entries(GENERATED, folder) for folder in WANTS) else "disabled"
        links = self.links(name, unit)
        if not links:
            return "static"
        return "enabled" if any(os.path.lexists(self.path(ADMIN, each)) for each in links) else "disabled"

    def enable(self, name):
        """[what systemctl says]"""
        name = full(name)
        self.daemon_reload()
        unit = self.unit(name)
        if unit.loaded == "not-found":
            raise UnitProblem("Failed to enable unit: Unit %s does not exist" % name)
        if unit.loaded == "masked":
            raise UnitProblem("Failed to enable unit: Unit %s is masked." % name)
        said = []
        for each, target in self.links(name, unit).items():
            path = self.path(ADMIN, each)
            if not os.path.lexists(path):
                os.makedirs(os.path.dirname(path), exist_ok=True)
                os.symlink(target, path)
                said.append("Created symlink '%s' → '%s'." % (os.path.join(ADMIN, each), target))
        return said

    def disable(self, name):
        name = full(name)
        unit = self.unit(name)
        if unit.loaded == "not-found":
            raise UnitProblem("Failed to disable unit: Unit %s does not exist" % name)
        said = []
        candidates = set(self.links(name, unit)) | {"%s/%s" % (folder, name) for folder in WANTS}
        for each in sorted(candidates):
            path = self.path(ADMIN, each)
            if os.path.islink(path):
                os.unlink(path)
                said.append("Removed '%s'." % os.path.join(ADMIN, each))
        return said

    def mask(self, name):
        path = self.path(ADMIN, full(name))
        if os.path.lexists(path) and not os.path.islink(path):
            raise UnitProblem("Failed to mask unit: File '%s' already exists." % os.path.join(ADMIN, full(name)))
        if not os.path.lexists(path):
            os.symlink("/dev/null", path)
        self.daemon_reload()
        return ["Created symlink '%s' → '/dev/null'." % os.path.join(ADMIN, full(name))]

    def unmask(self, name):
        path = self.path(ADMIN, full(name))
        self.daemon_reload()
        if os.path.islink(path) and os.readlink(path) == "/dev/null":
            os.unlink(path)
            return ["Removed '%s'." % os.path.join(ADMIN, full(name))]
        return []

    # --- what runs

    def state(self, name):
        return self.states.get(full(name), {"active": "inactive", "result": "success"})

    def is_active(self, name):
        """active, inactive, failed or activating; a service whose process ended is so."""
        name = full(name)
        state = self.states.get(name)
        if state is None:
            return "inactive"
        if state["active"] == "active" and state.get("handle") is not None and not self.execute.alive(state["handle"]):
            self._ended(name, state)
        return state["active"]

    def _ended(self, name, state):
        status = getattr(state["handle"], "status", 0)
        state.pop("handle")
        state["active"] = "inactive" if status == 0 else "failed"
        state["result"] = "success" if status == 0 else "exit-code"
        self.changed()
        restart = self.unit(name).one("service", "restart", "no")
        if restart == "always" or (restart == "on-failure" and status != 0):
            self._start(name)

    def _set(self, name, active, result="success", **more):
        self.states[name] = dict({"active": active, "result": result}, **more)
        self.changed()

    def conditions(self, unit):
        """None, or the first condition that does not hold. Of those that begin with "|" one has to (systemd.unit(5))."""
        words, triggers = self.cmdline.split(), []
        for key, holds in (
            ("conditionkernelcommandline", lambda value: value in words or any(w.startswith(value + "=") for w in words if "=" not in value)),
            ("conditionpathexists", self.exists),
            ("conditionpathexistsglob", lambda value: bool(glob.glob(self.path(value)))),
            ("conditionpathisdirectory", lambda value: os.path.isdir(self.path(value))),
            ("conditiondirectorynotempty", lambda value: os.path.isdir(self.path(value)) and bool(os.listdir(self.path(value)))),
            ("conditionfilenotempty", lambda value: os.path.isfile(self.path(value)) and os.path.getsize(self.path(value)) > 0),
        ):
            for value in unit.all("unit", key):
                triggering, plain = value.startswith("|"), value.lstrip("|")
                fails = holds(plain.lstrip("!")) == plain.startswith("!")
                if triggering:
                    triggers.append((fails, "%s=%s" % (key, value)))
                elif fails:
                    return "%s=%s" % (key, value)
        if triggers and all(fails for fails, _ in triggers):
            return triggers[0][1]
        return None

    def start(self, name):
        """Raises UnitProblem where it does not start. Starting what runs changes nothing."""
        name = full(name)
        unit = self.unit(name)
        if unit.loaded == "masked":
            raise UnitProblem("Failed to start %s: Unit %s is masked." % (name, name))
        if unit.loaded == "not-found":
            raise UnitProblem("Failed to start %s: Unit %s not found." % (name, name), 5)
        if self.is_active(name) == "active":
            return
        self._start(name)

    def _start(self, name):
        unit = self.unit(name)
        if self.conditions(unit):
            self._set(name, "inactive")
            return
        for other in unit.all("unit", "requires") + unit.all("unit", "wants"):
            if self.unit(other).loaded == "loaded" and self.is_active(other) == "inactive":
                self.start(other)
        if name.endswith(".path"):
            self._set(name, "active", seen=self._watched(unit))
            return
        if name.endswith((".target", ".timer", ".socket", ".mount")):
            self._set(name, "active")
            return
        self._set(name, "activating")
        timeout = seconds(unit.one("service", "timeoutstartsec"), None if unit.type == "oneshot" else 90)
        commands = unit.all("service", "execstart")
        problem = self._all(unit, unit.all("service", "execstartpre"), timeout)
        handle = None
        autostart = AUTOSTART.match(name) if unit.stock else None
        if not problem and autostart:
            try:
                self.start_qube(autostart.group(1))
            except Exception as error:  # whatever the qube's start ends in, the unit fails with it
                problem = str(error)
        if not problem and unit.type in ("oneshot", "forking"):
            problem = self._all(unit, commands, timeout)
            if unit.type == "forking" and not problem and not unit.stays:
                handle = self.execute.left(unit)
                problem = None if handle else "the daemon did not stay"
        elif not problem and commands:
            handle = self.execute.spawn(unit, shlex.split(commands[-1].lstrip("-@+!")))
            self._all(unit, unit.all("service", "execstartpost"), timeout)
        if problem:
            self._set(name, "failed", "exit-code", problem=problem)
            raise UnitProblem(
                "Job for %s failed because the control process exited with error code.\n"
                'See "systemctl status %s" and "journalctl -xeu %s" for details.' % (name, name, name)
            )
        if handle is not None:
            self._set(name, "active", handle=handle)
        else:
            self._set(name, "active" if unit.stays else "inactive")

    def _all(self, unit, commands, timeout):
        """Runs them in order; the text of the first that fails."""
        for command in commands:
            tolerated = command.startswith("-")
            argv = shlex.split(command.lstrip("-@+!:"))
            status = self.execute.run(unit, argv, timeout)
            if status != 0 and not tolerated:
                return "%s ended with status %s" % (argv[0], status)
        return None

    def stop(self, name):
        name = full(name)
        unit = self.unit(name)
        if unit.loaded == "not-found" and name not in self.states:
            raise UnitProblem("Failed to stop %s: Unit %s not loaded." % (name, name), 5)
        state = self.states.get(name)
        if state and state.get("handle") is not None:
            number = unit.one("service", "killsignal")
            self.execute.kill(state["handle"], *([getattr(signal, number)] if number else []))
        if state and state["active"] == "active" and unit.loaded == "loaded":
            self._all(unit, unit.all("service", "execstop"), 90)
        self._set(name, "inactive")

    def stop_generated(self):
        """Scripts of /etc/init.d are asked to stop, the last started first."""
        for name in reversed([name for name, state in self.states.items() if state["active"] == "active"]):
            if (self.unit(name).path or "").startswith(GENERATED):
                self.stop(name)

    def restart(self, name):
        if self.unit(name).loaded == "loaded":
            self.stop(name)
        self.start(name)

    # --- at boot

    def wanted(self):
        """Units that this boot starts, in order: After= and Before= first, then by name."""
        names = set()
        for folder in WANTS:
            names.update(self.entries(ADMIN, folder) | self.entries(GENERATED, folder))
        manager = self.path(ADMIN, "display-manager.service")
        if os.path.islink(manager):
            names.add(os.path.basename(os.readlink(manager)))
        names = {name for name in names if self.unit(name).loaded == "loaded"}
        before = {name: {each for each in names if each in self.unit(name).after()} for name in names}
        for name in names:
            for other in self.unit(name).all("unit", "before"):
                if other in before:
                    before[other].add(name)
        ordered = []
        while names:
            # A cycle is cut at its first unit, as systemd cuts it at some.
            ready = sorted(name for name in names if not before[name] & names) or sorted(names)[:1]
            ordered += ready
            names -= set(ready)
        return ordered

    def boot(self, first=None):
        """Starts what this boot starts. `first()` is called when all is started that waits for no unit of somebody else's:
        from then on a person gets in.
        """
        names = self.wanted()
        foreign = {name for name in names if not self.unit(name).stock}
        later = set(foreign)
        for name in names:  # in order, so what it waits for was looked at before
            if self.unit(name).after() & later:
                later.add(name)
        for name in [name for name in names if name not in later]:
            self._try(name)
        if first:
            first()
        for name in [name for name in names if name in later]:
            self._try(name)

    def _try(self, name):
        try:
            self.start(name)
        except UnitProblem:
            pass  # the boot goes on without it

    # --- .path units

    def _watched(self, unit):
        found = {}
        for key in ("pathchanged", "pathmodified", "pathexists"):
            for path in unit.all("path", key):
                try:
                    info = os.stat(self.path(path))
                    found[path] = (info.st_mtime_ns, info.st_size, info.st_ino)
                except OSError:
                    found[path] = None
        return found

    def paths(self):
        """Names of the active path units."""
        return [name for name, state in self.states.items() if name.endswith(".path") and state["active"] == "active"]

    def poll(self):
        """Starts what active path units ask for. Returns the names of the units started."""
        started = []
        for name in self.paths():
            unit, state = self.unit(name), self.states[name]
            now = self._watched(unit)
            if now == state["seen"]:
                continue
            state["seen"] = now
            target = unit.one("path", "unit") or name[: -len(".path")] + ".service"
            started.append(target)
            self._try(target)
        return started

    def match(self, pattern):
        """Names of known states that a pattern of systemctl means."""
        return sorted(name for name in self.states if fnmatch.fnmatch(name, full(pattern) if "*" not in pattern else pattern))
