"""
The step of an apply that writes inside qubes: `qubesctl --targets` for one qube after the other (for one
without a state, only the command that puts it in force). It starts a template for it and shuts it down again, exactly once (volumes.py says why); any other qube
keeps running.
"""

import re
import time

import common
import domains as admin
import verify
import volumes
from common import Failure
from steps import reach

START = 180  # seconds for the qube to start
STOP = 120  # seconds for a template to shut down, before it is killed
SHAPE = {"qube": str, "sls": (str, type(None)), "timeout": (int, float)}
QUERIES = {
    "rpm": "rpm -q --queryformat '%{NAME}\\n'",
    "dpkg": "dpkg-query -W -f '${Package} ${db:Status-Abbrev}\\n'",
}


def check(entries):
    for one in entries:
        good = all(isinstance(one.get(name), kind) for name, kind in SHAPE.items())
        good = good and one.get("volume") in (None, "root") and one["timeout"] > 0
        good = good and (one["sls"] or not one.get("volume"))
        good = good and (not one["sls"] or re.fullmatch(r"guidomain\.[A-Za-z0-9_.-]+", one["sls"]))
        brought, command = one.get("brought"), one.get("activate")
        good = good and (command is None or isinstance(command, str))
        if brought is not None:
            good = good and isinstance(brought.get("feature"), str)
            good = good and brought.get("query") in QUERIES
            names = brought.get("packages")
            good = good and isinstance(names, list)
            good = good and all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9+._-]*", n) for n in names)
            units = brought.setdefault("units", [])
            good = good and isinstance(units, list)
            good = good and all(re.fullmatch(r"[A-Za-z0-9@:._-]+", unit) for unit in units)
        if not good:
            raise Failure("bad-request", "apply: inside is not of the form that was agreed")


def keys_of(entries):
    """What the journal has to know of beside what is touched."""
    return ["volume:%s:%s" % (one["qube"], one["volume"]) for one in entries if one.get("volume")]


def started(entries):
    """Qubes that may be started by it."""
    return {one["qube"] for one in entries}


def preflight(entries):
    """Whatever would make it fail, and can be seen before anything is done."""
    for one in entries:
        if one.get("volume"):
            state = admin.power_state(one["qube"])
            if state != "Halted":
                raise Failure(
                    "template-busy",
                    "%s is %s: it has to be off, so that it can be taken back"
                    % (one["qube"], "running" if state == "Running" else state or "not there"),
                )
            why = volumes.fault(one["qube"], one["volume"])
            if why:
                raise Failure("no-revision", "%s cannot be changed: %s" % (one["qube"], why))


def apply(entries, emit, stop, run):
    """[{"id", "ok", "seconds", "output"}]: evidence of each. Failures leave what is undone to the
    journal."""
    evidence = []
    for one in entries:
        begun = time.monotonic()
        text = _apply(one, emit, stop, run)
        seconds = round(time.monotonic() - begun, 3)
        evidence.append(
            {"id": "inside of %s" % one["qube"], "ok": True, "seconds": seconds, "output": text}
        )
    return evidence


def _apply(one, emit, stop, run):
    qube, volume = one["qube"], one.get("volume")
    reach("inside.begins")
    if one["sls"] is None and admin.power_state(qube) != "Running":
        return "it is off: it takes it when it starts"
    if volume:
        preflight([one])  # since then somebody may have started it
        volumes.mark(qube, volume)
    reach("inside.marked")
    if volume or admin.power_state(qube) != "Running":
        emit("inside", "starting %s" % qube)
        ok, text = verify.start(qube, START, stop, lambda s: emit("inside", "%s starts" % qube))
        if not ok:
            raise Failure("inside-failed", text)
    if volume:
        volumes.started(qube, volume)
    reach("inside.started")
    if one.get("brought"):
        _note(qube, one["brought"], emit, run, stop)
    reach("inside.noted")
    states = _salt(one, emit, stop, run) if one["sls"] else []
    reach("inside.salt")
    if volume:
        _off(qube, volume, emit, stop)
    elif one.get("activate"):
        emit("inside", "%s: %s" % (qube, one["activate"]))
        ended = _in(qube, one["activate"], 120, emit, run, stop)
        if ended.code != 0:
            text = common.clean(ended.err or ended.out, 1000)
            raise Failure("inside-failed", "%s in %s: %s" % (one["activate"], qube, text or "failed"))
    reach("inside.done")
    changed = sum(1 for state in states if state["changed"])
    return "%d states, %d of them changed something" % (len(states), changed)


def _in(qube, command, timeout, emit, run, stop):
    """A command as root in the qube."""
    argv = ["qvm-run", "-p", "--no-gui", "-u", "root", qube, command]
    ended = run(argv, timeout, stop=stop, tick=lambda s: emit("inside", "%s answers" % qube))
    stop.check()
    if ended.why == "timeout":
        raise Failure("inside-failed", "%s: no end within %d s in %s" % (command, timeout, qube))
    return ended


# What `systemctl is-enabled` may say (systemctl(1)); those with which a unit starts, or is the one that a link of another name
# starts: Debian's lightdm has no [Install], it is display-manager.service.
STARTS = ("enabled", "enabled-runtime", "static", "indirect", "alias", "linked", "generated")
UNIT_STATES = STARTS + ("disabled", "masked", "masked-runtime", "linked-runtime", "transient", "not-found")


def _note(qube, brought, emit, run, stop):
    """What we bring: packages that are not there yet, units that do not start yet ("unit:NAME"), and of
    what we had brought before what is still wanted."""
    names, units = brought["packages"], brought["units"]
    missing = _missing(qube, names, brought["query"], emit, run, stop) if names else []
    for unit in units:
        ended = _in(qube, "systemctl is-enabled %s" % unit, 60, emit, run, stop)
        said = (ended.out + b"\n" + ended.err).decode("utf-8", "replace").strip()
        state = said.splitlines()[0] if said else ""
        # What is not known to be off would be switched off by a delete.
        if state not in UNIT_STATES and not re.search(r"No such file|not-found|does not exist", said):
            raise Failure(
                "inside-failed",
                "it is not known whether %s starts in %s: %s"
                % (unit, qube, common.clean(said, 300) or "systemctl said nothing"),
            )
        if state not in STARTS:
            missing.append("unit:" + unit)
    noted = admin.get_feature(qube, brought["feature"])
    wanted = set(names) | {"unit:" + unit for unit in units}
    value = " ".join(sorted(set(missing) | (set((noted or "").split(" ")) & wanted)))
    if noted != value:
        admin.set_feature(qube, brought["feature"], value)


def _missing(qube, names, query, emit, run, stop):
    """Of packages those that are not installed. Each must be accounted for: what is not known to be
    missing would be taken away by a delete."""
    command = "LC_ALL=C %s %s" % (QUERIES[query], " ".join(names))
    ended = _in(qube, command, 120, emit, run, stop)
    lines = (ended.out + b"\n" + ended.err).decode("utf-8", "replace").splitlines()
    there, missing = set(), set()
    for line in lines:
        words = line.split()
        if query == "rpm":
            found = re.fullmatch(r"package (\S+) is not installed", line.strip())
            if found:
                missing.add(found.group(1))
            elif len(words) == 1:
                there.add(words[0])
        else:
            found = re.search(r"no packages found matching (\S+)", line)
            if found:
                missing.add(found.group(1))
            elif words and words[0] in names:
                installed = len(words) > 1 and words[1][1:2] == "i"
                (there if installed else missing).add(words[0])
    unknown = [name for name in names if name not in there | missing]
    if unknown or (query == "dpkg" and ended.code not in (0, 1)):
        text = common.clean(ended.err or ended.out, 500)
        raise Failure(
            "inside-failed",
            "%s cannot be asked for its packages (%s): %s"
            % (qube, ", ".join(unknown[:3]) or "exit %d" % ended.code, text or "no answer"),
        )
    return [name for name in names if name not in there]


def _off(qube, volume, emit, stop):
    """Off, and what it was before kept by Qubes: only then the change can be taken back."""
    emit("inside", "shutting %s down" % qube)
    admin.shutdown(qube)
    until = time.monotonic() + STOP
    while admin.power_state(qube) not in (None, "Halted"):
        stop.check()
        emit("inside", "%s shuts down" % qube)
        if time.monotonic() > until:
            raise Failure("shutdown-refused", "%s did not shut down within %d s" % (qube, STOP))
        time.sleep(0.25)
    reach("inside.off")
    emit("inside", "%s is off" % qube)
    if volumes.await_revision(qube, volume, volumes.APPEARS / 2, stop) is None:
        raise Failure("inside-failed", "Qubes has kept no revision of %s after it was stopped" % qube)


# -- qubesctl


def _salt(one, emit, stop, run):
    qube, sls = one["qube"], one["sls"]
    # No check of the top file stands in the way: Qubes makes one for highstates alone (qubessalt, run_one).
    argv = ["qubesctl", "--skip-dom0", "--targets", qube, "--show-output", "state.sls", sls, "saltenv=user"]
    emit("inside", "%s in %s" % (sls, qube))
    try:
        ended = run(
            argv,
            one["timeout"],
            stop=stop,
            tick=lambda s: emit("inside", "%s: running for %d s" % (qube, s)),
        )
    finally:
        if stop.is_set():
            volumes.tidy(qube)
    if ended.why != "exit":
        volumes.tidy(qube)
    stop.check()
    if ended.why == "timeout":
        raise Failure("inside-failed", "Salt did not end within %d s in %s" % (one["timeout"], qube))
    out = ended.out.decode("utf-8", "replace")
    kind, states, text = parse(qube, out)
    failed = [state for state in states if not state["ok"]]
    if failed:
        raise Failure(
            "inside-failed",
            "Salt failed in %s: %s" % (qube, "; ".join(_told(state, one) for state in failed)),
            failed=[
                {
                    "id": state["id"],
                    "function": state["function"],
                    "result": False,
                    "comment": state["comment"],
                    "changes": {},
                }
                for state in failed
            ],
        )
    complaint = common.clean(text or ended.err.decode("utf-8", "replace"), 2000)
    if ended.code == 127:
        raise Failure("salt-missing", "qubesctl is not in dom0: every change here is made by Salt")
    if kind not in ("states", "ok", "skip") or ended.code != 0:
        raise Failure(
            "inside-failed",
            "qubesctl did nothing in %s (exit %d): %s" % (qube, ended.code, complaint or "it says nothing"),
        )
    if kind == "skip":
        raise Failure("inside-failed", "qubesctl skipped %s: %s" % (qube, complaint))
    return states


def _told(state, one):
    """A failed state in words; of a list of packages those that Salt names."""
    comment = state["comment"]
    packages = (one.get("brought") or {}).get("packages", [])
    named = [
        name
        for name in packages
        if re.search(r"(?<![A-Za-z0-9+._-])%s(?![A-Za-z0-9+_-])" % re.escape(name), comment)
    ]
    if state["function"].startswith("pkg.") and named and len(named) < len(packages):
        text = "%s (%s): %s" % (state["id"], state["function"], comment)
        return "package %s: %s" % (", ".join(named), text)
    return "%s (%s): %s" % (state["id"], state["function"], comment)


def parse(qube, out):
    """
    What `qubesctl --show-output` says of a qube: (kind, states, text). `kind`: "states" (Salt's own
    text follows, two blanks in), "ok", "skip", "error", None where it says nothing at all of it.
    `states`: [{"id", "function", "ok", "comment", "changed"}] of Salt's text, in its order.
    """
    lines = [common.CONTROLS.sub("", common.ESCAPES.sub("", line)) for line in out.splitlines()]
    for number, line in enumerate(lines):
        if line.rstrip() == qube + ":":
            block = []
            for following in lines[number + 1 :]:
                if following and not following.startswith("  "):
                    break
                block.append(following[2:])
            states = _states(block)
            return ("states" if states else "text"), states, "\n".join(block).strip()
        if line.startswith(qube + ": "):
            said = line[len(qube) + 2 :].strip()
            word = said.partition(" ")[0]
            kind = {"OK": "ok", "SKIP": "skip", "ERROR": "error"}.get(word, "error")
            return kind, [], said
    return None, [], "\n".join(lines).strip()


FIELD = re.compile(r"( *)(ID|Function|Name|Result|Comment|Started|Duration|Changes|SLS): ?(.*)")
WIDTH = 12  # the colons of a state's fields stand in this column; what goes on below is deeper


def _states(lines):
    """Salt's output for a person (its outputter "highstate"): the fields of a state, each comment and
    change that has more lines going on deeper in."""
    found, state, field = [], None, None
    for line in lines:
        match = FIELD.match(line)
        if match and len(match.group(1)) + len(match.group(2)) == WIDTH:
            _, field, value = match.groups()
            if field == "ID":
                state = {"id": value, "function": "", "ok": False, "comment": "", "changed": False}
                found.append(state)
            elif state is None:
                continue
            elif field == "Function":
                state["function"] = value
            elif field == "Result":
                state["ok"] = value in ("True", "Clean", "Changed")
            elif field == "Comment":
                state["comment"] = value
        elif not line.startswith(" " * (WIDTH + 2)):
            field = None  # a line between states, or the summary
        elif state is not None and field == "Comment":
            state["comment"] += "\n" + line[WIDTH + 2 :]
        elif state is not None and field == "Changes":
            state["changed"] = True
    for one in found:
        one["id"] = common.clean(one["id"], 200)
        one["comment"] = common.clean(one["comment"], 2000)
    return found
