"""
The way back. Before an apply changes anything, the journal says what it may touch and what that
was; `undo` puts it back without Salt: through the Admin API, file writes and dnf. It lies on disk
until the apply counts, so the next agent finds it when this one was killed.
"""

import json
import os
import re
import time

import common
import keys
import ledger
import machine
import menu
import domains as admin
import secret
import volumes
from common import Failure
from steps import reach

ROOM = 1 << 18  # bytes
PATIENCE = 20  # seconds that a qube gets to shut down during an undo
LOST = "made again, but what its private volume held is gone"


def plan(args, staged, apply_id, own=(), kept=None):
    """
    The record of one apply: everything that undo needs, read from the host as it is now, and what
    a confirmation needs, which comes over another connection. `own`: files of the guard; `kept`:
    watch.json as it is.
    """
    keep, book = args["keep"] or {"touch": [], "formula": {}, "sls": ""}, ledger.load()
    after = args["after"] or {"keys": [], "formula": {}, "sls": ""}
    if args["claims"]["formerly"]:
        ledger.rename(book, args["claims"]["formerly"], args["owner"])
    touch = list(dict.fromkeys(args["touch"] + keep["touch"]))
    inside = args["inside"]
    volumes.forget()  # of a change that is over
    written = ["volume:%s:%s" % (one["qube"], one["volume"]) for one in inside if one.get("volume")]
    touched = keys.read_all(touch + written)
    files = [key[5:] for key in touched if key.startswith("file:")]
    shared = {keys.split(key)[1] for key in touched if key.startswith("line:")}
    states = {name: qube["state"] for name, qube in admin.qubes().items()}
    candidates = set(args["shutdown"]) | set(args["restart"])
    started = {check["qube"] for check in args["verify"] if check["kind"] == "start"}
    started |= {one["qube"] for one in inside if not one.get("volume")}
    if args["trial"]["watch"]:
        started.add(args["trial"]["watch"]["qube"])
    return {
        "id": apply_id,
        "holder": args["holder"],
        "since": time.time(),
        "before": touched,
        # Files of which single lines are touched, whole: where they stood is part of how it was.
        "shared": {name: keys.read("file:" + name) for name in sorted(shared)},
        "staged": {name: keys.read("file:" + name) for name in staged},
        "owners": {
            n: found["owner"] for n in files + staged for found in [common.read_file(n)] if found
        },
        "directories": common.missing_directories(files + staged + list(own)),
        "fresh": common.read_text(common.LEDGER) is None,
        # Qubes that we may stop and that run now; qubes that we may start and that do not.
        "running": sorted(name for name in candidates if states.get(name, "Halted") != "Halted"),
        "halted": sorted(name for name in started if states.get(name, "Halted") == "Halted"),
        # Those of the running ones that are stopped so that they start with other settings.
        "renewed": sorted(
            name
            for name in args["shutdown"]
            if "qube:" + name not in args["release"] + after["keys"]
        ),
        "bootId": machine.here.boot_id(),
        # For the confirmation, and for the way back long after it.
        "owner": args["owner"],
        "touch": touch,
        "release": args["release"],
        "claims": args["claims"],
        "formula": sorted(set(args["formula"]) | set(keep["formula"]) | set(after["formula"])),
        "formulas": book["formulas"].get(args["owner"], []),
        "keep": keep["sls"],
        # What goes for good once it counts: none of it is changed before, so no undo needs it.
        "after": {"sls": after["sls"], "keys": after["keys"]},
        "watch": args["trial"]["watch"],
        "watchBefore": kept,
        "secrets": {
            key: secret.whole(*keys.split(key)[1:]) for key in touched if key.startswith("secret:")
        },
        # Qubes that Salt may write inside, each from a disposable; in a boot of its own that of the mode.
        "inside": sorted(
            {one["qube"] for one in inside}
            | ({args["trial"]["watch"]["qube"]} if args["trial"]["watch"] else set())
        ),
        "entries": {key: book["entries"].get(key) for key in touch + args["release"]},
    }


def begin(record):
    """Writes the journal, and holds as much disk space as the undo may need. Failure disk-full."""
    text = json.dumps(record)
    try:
        os.makedirs(common.path(common.STATE), mode=0o700, exist_ok=True)
        _allocate(record, len(text))
        common.write_file(common.JOURNAL, text, 0o600)
    except OSError:
        _forget(record)
        raise


def _allocate(record, size):
    common.allocate(common.RESERVE, size + 4096 * len(record["owners"]) + 65536)
    if any(key.startswith("bootarg:") for key in record["before"]):
        menu.reserve(True)


def free():
    """Gives the way back the space that was held for it. Whether any was."""
    held = any(common.owner_of(name) for name in (common.RESERVE, common.boot_reserve()))
    common.remove_file(common.RESERVE)
    menu.reserve(False)
    return held


def surely(work, *args, **more):
    """
    On a full disk, in the space that is held for the way back. That is given up here and nowhere
    else: what fills the disk would fill it too. `work` can be done again.
    """
    try:
        return work(*args, **more)
    except (admin.AdminError, Failure, OSError) as error:
        # qubesd does not say that it could not note a change, nor does dnf.
        if not (common.is_full(error) or _is_full()) or not free():
            raise
    return work(*args, **more)


def _is_full():
    space = os.statvfs(common.path(common.STATE))
    return space.f_bavail * space.f_frsize < ROOM


def reserve(kept):
    """Holds the space that the way back from a confirmed mode may need; none without one."""
    if kept:
        hold(kept["record"])
    else:
        free()


def hold(record):
    """As much as there is."""
    try:
        _allocate(record, 2 * len(json.dumps(record)))
    except OSError as error:
        if not common.is_full(error):
            raise


def load():
    """The record of an apply that neither counted nor was undone; None without one."""
    record = common.read_json(common.JOURNAL)
    return None if record is None or record["id"] == ledger.load()["applied"] else record


def end():
    common.remove_file(common.JOURNAL)
    volumes.forget()
    free()


def recover(emit, run):
    """Undoes what an earlier, killed apply left. Failure `unfinished` where something cannot be put
    back."""
    record = load()
    if record is None:
        return
    emit("recover", "undoing what %s left unfinished" % common.clean(record["holder"], 200))
    outcome = undo(record, emit, run)
    if outcome["left"]:
        raise unfinished(record["holder"], outcome)


def unfinished(holder, outcome):
    text = "an earlier apply of %s could not be undone" % common.clean(holder, 200)
    return Failure("unfinished", text, **outcome)


# -- undo


def undo(record, emit, run, done=lambda outcome: None):
    """Puts everything back that differs; then `done`, and the journal goes where nothing is left.
    Returns {"changed", "undone", "left": {key: reason}}."""
    outcome = put_back(record, emit, run)
    reach("undo.values")
    done(outcome)
    if is_done(outcome):
        _forget(record)
        reach("undo.journal")
    return outcome


def is_done(outcome):
    """Nothing is left that another try could put back."""
    return all(reason == keys.STUCK for reason in outcome["left"].values())


def put_back(record, emit, run):
    """The values alone."""
    before, reasons, stuck = record["before"], {}, {}
    # Whether the next boot has a screen must not wait for a qubesd that does not answer.
    first = _differing(before, [key for key in before if key.startswith("bootarg:")], {})
    for key in first:
        _attempt({}, key, keys.restore, key, before[key], None, run)
        reach("undo.key")
    made = {key[5:] for key, value in before.items() if key.startswith("qube:") and value is None}
    for qube in record.get("inside", []):
        _attempt({}, "", volumes.tidy, qube)
    started = [qube for qube in record["halted"] if qube not in made]
    mode = record.get("watchBefore")
    if mode and record.get("bootId") != machine.here.boot_id() and mode["qube"] not in made:
        # It may have started before us, as what it was to become; the guard starts it anew.
        started.append(mode["qube"])
    for qube in started:
        _attempt(
            {}, "", stop_qube, qube, PATIENCE
        )  # a GUI domain may still have clients: see below
    again = record["running"]
    if record.get("bootId") != machine.here.boot_id():
        # What runs is this boot's matter; what it runs with the settings that go starts anew.
        states = _attempt({}, "", admin.qubes) or {}
        again = [q for q in record["renewed"] if states.get(q, {}).get("state") == "Running"]
    for qube in record["renewed"]:
        _attempt({}, "", stop_qube, qube, PATIENCE, force=True)  # started again below

    changed = first + [key for key in _differing(before, list(before), reasons) if key not in first]
    emit("undo", "%d of %d things to put back" % (len(changed), len(before)))
    present = _attempt(stuck, "qube:dom0", admin.qubes)
    removed = {
        key
        for key in changed
        if key.startswith("qube:")
        and before[key] is not None
        and present is not None
        and key[5:] not in present
    }
    # One value may need another (a template before its qube, a qube that provides the network): go
    # on as long as a pass gets anywhere.
    left = changed
    while left:
        for key in sorted(left, key=lambda k: _rank(k, before, removed)):
            kind, qube, _ = keys.split(key)
            if kind not in ("qube", "secret") and qube in made:
                reasons[key] = "goes with qube:%s, which could not be removed" % qube
                continue
            if key.startswith("qube:") and before[key] is None:
                _attempt(reasons, key, stop_qube, qube, PATIENCE, True)
            owner = record["owners"].get(key[5:]) if kind == "file" else None
            was = record.get("shared", {}).get(qube) if kind == "line" else None
            if kind == "secret":
                was = record.get("secrets", {}).get(key)
            _attempt(reasons, key, keys.restore, key, before[key], owner, run, was)
            reach("undo.key")
        still = _differing(before, left, reasons)
        if len(still) >= len(left):
            left = still
            break
        left = still
    for qube in started:
        # By force where running qubes name it as their GUI domain: it was off, so it showed none of
        # their windows.
        _attempt(stuck, "qube:" + qube, stop_qube, qube, PATIENCE, force=True)
    reasons = dict(stuck, **{key: reasons.get(key, "it reads back otherwise") for key in left})
    for key in removed - set(left):
        reasons[key] = LOST

    for key in [key for key in reasons if key.startswith("volume:")]:
        # Whatever is in it now, it is not what was noted of it.
        _attempt({}, key, admin.remove_feature, keys.split(key)[1], "guidomain-inside")
    for qube in record.get("inside", []):
        _attempt({}, "", _in_force, qube, run)
    for qube in again:
        key = "qube:" + qube
        if key not in reasons and _attempt(reasons, key, admin.power_state, qube) == "Halted":
            emit("undo", "starting %s again" % qube)
            _attempt(reasons, key, admin.start, qube)
    _attempt({}, "", admin.tidy)
    files = [key[5:] for key in before if key.startswith("file:")]
    for name in list(record["staged"]) + files + list(record.get("shared", {})):
        common.remove_file(name + common.BEGUN)  # of an agent that was killed while it wrote
    for name in files:
        _remove_begun_by_salt(name, record["since"])
    if any(key.startswith("bootarg:") for key in before):
        config = menu.config_file()
        for name in (config, config + common.BEGUN + ".new", common.DEFAULT_GRUB):
            _attempt(
                {}, "", common.remove_file, name if name.endswith(".new") else name + common.BEGUN
            )
    for name, value in record["staged"].items():
        if keys.read("file:" + name) != value:
            _attempt(
                reasons, "file:" + name, keys.restore_file, name, value, record["owners"].get(name)
            )
    undone = [key for key in changed if key not in reasons]
    return {"changed": changed, "undone": undone, "left": reasons}


HOOK = "/rw/config/rc.local.d/50-guidomain.rc"  # src/formula/inside/render.ts


def _in_force(qube, run):
    """One that runs on takes what is its inside again by now, and its secrets; else it has them from
    its next start on."""
    if admin.power_state(qube) == "Running" and admin.get_qube(qube)["class"] == "AppVM":
        run(["qvm-run", "-p", "--no-gui", "-u", "root", qube, "test ! -x %s || %s" % (HOOK, HOOK)], 60)


def remove(key, emit, run):
    """Takes away for good what an apply had brought. Why it is still there; None where it is not."""
    reasons = {}
    if _attempt(reasons, key, keys.read, key) is None and not reasons:
        return None
    emit("remove", key)
    kind, qube, _ = keys.split(key)
    if kind == "qube":
        _attempt(reasons, key, stop_qube, qube, PATIENCE)
    if not reasons:
        _attempt(reasons, key, keys.restore, key, None, None, run)
    if not reasons and keys.read(key) is not None:
        reasons[key] = "it is still there"
    return reasons.get(key)


def _rank(key, before, removed):
    """What decides whether the next boot has a screen, then qubes that must exist, then what refers
    to qubes, then qubes that must go, then the rest of dom0, last of its policy a level."""
    kind = key.partition(":")[0]
    if kind == "qube":
        return 0 if key in removed else 4 if before[key] is None else 2
    ranks = {"bootarg": -1, "global": 1, "property": 3, "device": 2, "usb": 2, "feature": 3, "tag": 3}
    ranks["assignable"] = 3
    # What a level denies counts until all that is wider has gone, and is back before it
    # (src/policy/levels.ts): lines of admins come before it and go after it, but where it goes itself.
    file = 8 if before[key] is None and re.search("/policy.d/46-level-", key) else 6
    return dict(ranks, file=file, line=7 if before[key] is None else 5, package=9, secret=9, volume=10)[
        kind
    ]


def _differing(before, candidates, reasons):
    found = []
    for key in candidates:
        try:
            if not keys.same(keys.read(key), before[key]):
                found.append(key)
        except (admin.AdminError, Failure, OSError) as error:
            reasons[key] = common.clean(str(error), 500)
            found.append(key)
    return found


def _attempt(reasons, key, function, *args, **more):
    """Calls; what the host refuses becomes the reason of that key, and the undo goes on."""
    try:
        return surely(function, *args, **more)
    except (admin.AdminError, Failure, OSError) as error:
        reasons[key] = common.clean(str(error), 500)
        return None


def _remove_begun_by_salt(name, since):
    """Salt writes a file beside its place first, as NAMExxxxxxxx (salt.utils.files.copyfile), and
    leaves that there when it is killed."""
    folder, base = os.path.split(name)
    try:
        with os.scandir(common.path(folder)) as found:
            for one in found:
                if re.fullmatch(re.escape(base) + "[a-z0-9_]{8}", one.name) and (
                    one.stat(follow_symlinks=False).st_mtime >= since
                ):
                    os.unlink(one.path)
    except FileNotFoundError:
        pass


def _forget(record):
    """Removes what the apply had put there for itself; the journal last of what matters."""
    common.remove_tree(common.SALT + "/_states/__pycache__")
    common.remove_tree(common.SALT + "/_utils/__pycache__")
    common.remove_tree(common.SCRATCH)
    end()
    if record["fresh"]:
        ledger.remove_ours()
    common.remove_directories(record["directories"])


def stop_qube(qube, patience, kill=False, stop=None, force=False):
    """Shuts a qube down and waits; after `patience` seconds kills it if `kill`, else raises.
    `force`: also where running qubes name it as their GUI domain."""
    if admin.power_state(qube) in (None, "Halted"):
        return
    deadline = time.monotonic() + patience
    taken = admin.shutdown(qube, force)
    while admin.power_state(qube) not in (None, "Halted"):
        if stop:
            stop.check()
        if time.monotonic() > deadline:
            if not kill:
                raise Failure(
                    "shutdown-refused",
                    "%s did not shut down within %d s" % (qube, patience),
                )
            admin.kill(qube)
            return
        if taken is False:
            taken = admin.shutdown(qube, force)
        time.sleep(0.05)
