"""
One change to the host, whole or not at all: lock, journal, stage, Salt, read back, verify, and only
then the ledger, which is what makes it count. Salt does every forward change; the way back is
journal.py.
"""

import functools
import json
import os
import re
import shutil
import time
import traceback
import uuid

import common
import journal
import keys
import ledger
import qubes_admin as admin
import runner
import snapshot
import verify
from common import Failure
from lock import Lock

SALT_TIMEOUT = 3600  # seconds; a package may have to come from far away
DROP_IN = "states_dirs: [%s/_states]\nutils_dirs: [%s/_utils]\n" % (common.SALT, common.SALT)

SHAPE = {
    "holder": str,
    "wait": (int, float),
    "owner": str,
    "touch": list,
    "release": list,
    "shutdown": list,
    "formula": dict,
    "sls": str,
    "modules": dict,
    "verify": list,
    "restart": list,
    "snapshot": dict,
}


def check_args(args):
    for name, kind in SHAPE.items():
        if not isinstance(args.get(name), kind):
            raise Failure("bad-request", "apply: %s is missing or of the wrong type" % name)
    for key in args["touch"] + args["release"]:
        keys.split(key)
    for name, allowed in (("formula", ("guidomain/",)), ("modules", ("_states/", "_utils/"))):
        for file in args[name]:
            if (
                not file.startswith(allowed)
                or not re.fullmatch(r"[A-Za-z0-9_./-]+", file)
                or ".." in file
            ):
                raise Failure(
                    "bad-request", "apply: %s may not hold %s" % (name, common.clean(file, 200))
                )
    if args["sls"] and not re.fullmatch(r"guidomain\.[A-Za-z0-9_.-]+", args["sls"]):
        raise Failure("bad-request", "apply: sls may not be %s" % common.clean(args["sls"], 200))


def apply(args, emit, stop, digest, bundle):
    check_args(args)
    if common.read_text(common.RELEASE) is None:
        raise Failure(
            "not-qubes",
            "%s is missing: this is not a Qubes host's dom0" % common.RELEASE,
        )
    if os.geteuid() != 0:
        raise Failure("unsupported-user", "an apply needs root on the host")
    lock = Lock(args["holder"], args["wait"], emit, stop)
    try:
        run = functools.partial(runner.run, lock=lock.fd)
        journal.recover(emit, run)
        stop.check()
        result = _transaction(args, emit, stop, run)
        try:
            _settle(args, digest, bundle)
        except OSError as error:
            emit(
                "settle",
                "the change counts, but not everything was cleaned up: %s. The next apply does it"
                % error,
            )
    finally:
        lock.release()
    try:
        result["snapshot"] = snapshot.snapshot(args["snapshot"])
    except Exception as error:
        raise Failure(
            "internal",
            "the change was made and counts; only reading the host afterwards failed: %s" % error,
            changed=args["touch"],
            undone=[],
            left={},
        ) from error
    return result


def _transaction(args, emit, stop, run):
    """Everything between the lock and the ledger. On any failure the host is as before when this
    raises."""
    book = ledger.load()
    others = ledger.conflicts(book, args["touch"] + args["release"], args["owner"])
    if others:
        text = ", ".join("%s belongs to %s" % item for item in sorted(others.items()))
        raise Failure("conflict", text)
    if args["sls"] and not shutil.which("qubesctl"):
        raise _no_salt("qubesctl is not in dom0")
    files = _staged(args)
    _check_space(files)
    try:
        record = journal.plan(args, list(files), uuid.uuid4().hex)
        journal.begin(record)
    except Exception as error:
        failure = _failure(error)
        failure.more.update(changed=[], undone=[], left={})
        raise failure from error
    try:
        _stage(files, emit)
        for qube in args["shutdown"]:
            if "qube:" + qube not in args["release"]:
                # It stays and is started again; the controller has seen that it shows no windows.
                _shutdown(qube, emit, stop, force=True)
                continue
            try:
                _shutdown(qube, emit, stop)
            except admin.AdminError as error:
                # It still has clients; qube.absent shuts it down once the formula moved them off.
                emit("shutdown", "%s not yet: %s" % (qube, error.message))
        # Without a state only the ledger changes: things are given up as they are.
        states = _salt(args, emit, stop, run) if args["sls"] else []
        # What starts from now on, such as clients that are restarted below, starts with the change.
        at = time.time()
        emit("read-back", "%d keys" % len(args["touch"]))
        after = keys.read_all(args["touch"])
        evidence = verify.verify(args["verify"], run, emit, stop)
        restarted = _restart(args["restart"], emit, stop)
        stop.check()
        ledger.claim(book, args["owner"], record["before"], after, args["release"], at)
        book["formulas"].setdefault(args["owner"], [])
        book["formulas"][args["owner"]] = sorted(
            set(book["formulas"][args["owner"]]) | set(args["formula"])
        )
        book["created"] = sorted(
            set(book["created"])
            | {name for name in record["directories"] if not name.startswith(common.STATE)}
        )
        book["applied"] = record["id"]
        ledger.save(book)  # from here on it counts
    except BaseException as error:
        failure = _failure(error)
        emit("undo", failure.message)
        failure.more.update(journal.undo(record, emit, run))
        raise failure from error
    return {"states": states, "evidence": evidence, "restarted": restarted}


def _settle(args, digest, bundle):
    """After the ledger was written: what is no longer needed goes. All of it can be done again
    later."""
    journal.end()
    book = ledger.load()
    for name in set(book["formulas"].get(args["owner"], [])) - set(args["formula"]):
        common.remove_file(common.FORMULA + "/" + name)
    book["formulas"][args["owner"]] = sorted(args["formula"])
    for folder in ("/_states", "/_utils"):
        common.remove_tree(common.SALT + folder + "/__pycache__")
    common.remove_tree(common.SCRATCH)
    ledger.tidy(book)
    if book["entries"]:
        ledger.store_agent(digest, bundle)


def _failure(error):
    if isinstance(error, Failure):
        return error
    if isinstance(error, admin.AdminError):
        return Failure("admin-api", common.clean(str(error)))
    if common.is_full(error):
        return Failure(
            "disk-full", "no space left on the host for %s" % (error.filename or common.STATE)
        )
    where = traceback.extract_tb(error.__traceback__)[-1]
    return Failure(
        "internal",
        "%s: %s (%s line %d)"
        % (type(error).__name__, common.clean(str(error), 500), where.filename, where.lineno),
    )


# -- staging


def _staged(args):
    """{absolute path: text} of everything that is put there for Salt."""
    files = {common.FORMULA + "/" + name: text for name, text in args["formula"].items()}
    files.update({common.SALT + "/" + name: text for name, text in args["modules"].items()})
    files[common.DROP_IN] = DROP_IN
    return files


def _check_space(files):
    for folder in ("/srv", "/var/lib", "/etc"):
        if os.path.isdir(common.path(folder)):
            space = os.statvfs(common.path(folder))
            needed = 2 * sum(len(text) for text in files.values()) + (1 << 20)
            free = space.f_bavail * space.f_frsize
            if free < needed:
                raise Failure(
                    "disk-full",
                    "%d KiB are free on %s, %d are needed" % (free >> 10, folder, needed >> 10),
                )


def _stage(files, emit):
    emit("stage", "%d files" % len(files))
    for name, text in files.items():
        data = text.encode("utf-8")
        now = common.read_file(name)
        if now is None or now["content"] != text:
            os.makedirs(os.path.dirname(common.path(name)), mode=0o755, exist_ok=True)
            common.write_file(name, data)


# -- Salt


def _no_salt(what):
    return Failure("salt-missing", "%s: every change here is made by Salt" % what)


def _salt(args, emit, stop, run):
    """Runs the formula's state; returns its results in the order they ran. Failures as salt-*."""
    argv = [
        "qubesctl",
        "--dom0-only",
        "state.sls",
        args["sls"],
        "saltenv=user",
        "--out=json",
        "--no-color",
    ]
    emit("salt", args["sls"])
    scratch = common.path(common.SCRATCH)
    os.makedirs(scratch, mode=0o700, exist_ok=True)
    patience = time.monotonic() + args["wait"]
    while True:
        begun = time.monotonic()
        ended = run(
            argv,
            SALT_TIMEOUT,
            stop=stop,
            tick=lambda s: emit("salt", "running for %d s" % s),
            # file.managed writes what it checks into the current directory.
            scratch=scratch,
        )
        stop.check()
        local = _local(ended.out)
        # Somebody else's state run: Salt refuses a second one (qubes-cli-formats.md §8).
        if not (
            isinstance(local, list)
            and any("is running as PID" in str(line) for line in local)
            and time.monotonic() < patience
        ):
            break
        emit("salt", "waiting for another Salt run on this host")
        time.sleep(1)
    if ended.why == "timeout":
        raise Failure("salt-failed", "Salt did not end within %d s" % SALT_TIMEOUT)
    if isinstance(local, list):
        raise Failure(
            "salt-compile",
            "Salt cannot compile %s: %s" % (args["sls"], common.clean("\n".join(map(str, local)))),
        )
    complaint = common.clean(ended.err or ended.out)
    if local is None:
        if ended.code == 127 or re.search(
            r"No module named '?salt|salt-call.*(not found|No such file)", complaint
        ):
            raise _no_salt(complaint.splitlines()[-1] if complaint else "Salt cannot be run")
        raise Failure(
            "salt-failed", "Salt ended with %d and no result: %s" % (ended.code, complaint)
        )
    states = [
        {
            "id": _state_id(key, state),
            "function": _function(key),
            "result": state.get("result"),
            "comment": common.clean(str(state.get("comment", ""))),
            "changes": _changes(state.get("changes")),
        }
        for key, state in sorted(local.items(), key=lambda item: item[1].get("__run_num__", 0))
    ]
    failed = [state for state in states if state["result"] is False]
    if failed or ended.code:
        text = (
            "; ".join("%s (%s): %s" % (s["id"], s["function"], s["comment"]) for s in failed)
            or complaint
        )
        raise Failure("salt-failed", "Salt failed: %s" % text, failed=failed)
    emit("salt", "%d states, %d s" % (len(states), time.monotonic() - begun))
    return states


def _local(out):
    """The value of "local" in Salt's JSON; None where there is none."""
    try:
        local = json.loads(out.decode("utf-8", "replace"))["local"]
    except (ValueError, KeyError, TypeError):
        return None
    if isinstance(local, dict) and not all(isinstance(state, dict) for state in local.values()):
        return None
    return local if isinstance(local, (dict, list)) else None


def _state_id(key, state):
    return common.clean(str(state.get("__id__") or key.split("_|-")[1]), 200)


def _function(key):
    parts = key.split("_|-")
    return "%s.%s" % (parts[0], parts[-1])


def _changes(changes):
    return common.cleaned(changes) if isinstance(changes, dict) else {}


# -- qubes


def _shutdown(qube, emit, stop, force=False):
    if admin.power_state(qube) in (None, "Halted"):
        return
    emit("shutdown", qube)
    limit = admin.get_property(qube, "shutdown_timeout")
    seconds = int(limit["value"]) if limit and limit["value"].isdigit() else 60
    journal.stop_qube(qube, seconds, stop=stop, force=force)


def _restart(qubes, emit, stop):
    """Restarts running clients; one that does not shut down is left alone and not named in the
    answer."""
    restarted = []
    for qube in qubes:
        if admin.power_state(qube) in (None, "Halted"):
            continue
        try:
            _shutdown(qube, emit, stop)
        except admin.AdminError as error:
            emit("restart", "%s does not shut down: %s" % (qube, error.message))
            continue
        except Failure as failure:
            if failure.code != "shutdown-refused":
                raise
            emit("restart", failure.message)
            continue
        emit("restart", qube)
        ok, text = verify.start(qube, 180, stop)
        if not ok:
            raise Failure("verify-failed", text)
        restarted.append(qube)
    return restarted
