"""
What our states for qubes and for domains of plain Xen have in common: how one thing after the other is
made to hold, honestly under test=True, read back, and told. Imported by them as it is.
"""

import time


class Run:
    """Collects what one state does: `step` for every single thing that it wants to hold."""

    def __init__(self, name, test):
        self.name, self.test = name, test
        self.changes, self.errors, self.notes = {}, [], []

    def step(self, key, label, old, new, write, read):
        """Make `old` into `new` by `write()` unless they are equal; `read()` must then give
        `new`."""
        if old == new:
            return
        if not self.test:
            try:
                write()
                now = read()
            except Exception as error:  # AdminError, but Salt's loader hides the class
                self.fail(label, error)
                return
            if now != new:
                self.errors.append("%s: written, but it reads back as %r" % (label, now))
                if now == old:
                    return
                new = now
        self.changes[key] = {"old": old, "new": new}

    def fail(self, label, error):
        self.errors.append("%s: %s" % (label, getattr(error, "message", None) or error))

    def result(self, done="changed"):
        if self.errors:
            result, comment = False, "\n".join(self.errors)
        elif not self.changes:
            result, comment = True, "as wanted"
        elif self.test:
            result, comment = None, "would be %s: %s" % (done, ", ".join(sorted(self.changes)))
        else:
            result, comment = True, "%s: %s" % (done, ", ".join(sorted(self.changes)))
        comment = "\n".join(self.notes + [comment])
        return {"name": self.name, "result": result, "comment": comment, "changes": self.changes}


def state(function, name, opts, **kwargs):
    """Result of the state that `function(run, name, …)` is. An error of the host while reading becomes
    a false state that says so, never a traceback. `opts`: Salt's own."""
    run = Run(name, bool(opts.get("test")))
    try:
        function(run, name, **{k: v for k, v in kwargs.items() if not k.startswith("__")})
    except Exception as error:  # AdminError, but Salt's loader hides the class
        if not hasattr(error, "message"):
            raise
        run.fail(name, error)
    return run.result()


def exists(run, there, kind="qube"):
    """Whether there is anything to read. What is missing is an error, under test=True only a remark."""
    if there:
        return True
    if run.test:
        run.notes.append("%s does not exist yet" % run.name)
    else:
        run.errors.append("no such %s: %s" % (kind, run.name))
    return False


def is_down(run, admin, seconds):
    """Whether it is halted now; waits that long. Nothing is killed. `admin`: calls a function of the
    host's kind by its name."""
    if admin("power_state", run.name) == "Halted":
        return True
    deadline = time.monotonic() + seconds
    taken = False  # a domain of xl may have to be asked again
    while True:
        if taken is False:
            try:
                taken = admin("shutdown", run.name)
            except Exception as error:
                run.fail("%s does not shut down" % run.name, error)
                return False
        if admin("power_state", run.name) == "Halted":
            return True
        if time.monotonic() > deadline:
            text = "%s did not shut down within %d s; nothing was killed"
            run.errors.append(text % (run.name, seconds))
            return False
        time.sleep(0.05)


def assignment(devices, where):
    """Of these assignments the one at `where`, (port, id), with its options that are on; None without one."""
    for one in devices:
        if (one["port"], one["device"]) == where:
            options = {key: "True" for key, value in one["options"].items() if value}
            return {"mode": one["mode"], "options": options}
    return None


def place(text):
    """(port, id) of "00_02.0:0x8086:0x9a49::p030000" or "*:0x8086:0x9a49::p030000"."""
    port, _, device = text.partition(":")
    return port, device or "*"


def on(options):
    """Of options that are asked for, those that are on: not what YAML or a person writes for
    "off"."""
    off = ("", "false", "0", "no", "off")
    return {key: "True" for key, value in (options or {}).items() if str(value).lower() not in off}
