"""
One change to the host, whole or not at all, in as many requests as it needs: `apply` (lock, journal,
guard, stage, Salt, read back, verify), for a trial with a boot of its own `reboot` and `resume`, and
`confirm` over a new connection: only then the ledger, which is what makes it count, and only after
that what no undo could bring back. Salt does every forward change; the way back is journal.py,
walked by whoever is left: this agent, the next one, or the guard.
"""

import functools
import json
import os
import re
import select
import shutil
import time
import traceback
import uuid

import common
import grub
import insides
import journal
import keys
import ledger
import machine
import menu
import domains as admin
import runner
import secret
import snapshot
import trial as trials
import units
import verify
from common import Failure
from lock import Lock
from steps import reach

SALT_TIMEOUT = 3600  # seconds; a package may have to come from far away

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
    "trial": dict,
}
WORK = 60  # seconds that somebody at work has at least, and is heard of more often
PLAIN_SHUTDOWN = 120  # seconds for a domain to shut down; a qube says itself how long
PATIENCE = 10  # seconds after which a change that waits gives way to a newer one of its owner
IDLE = ("staged", "verified", "rebooting", "trial")  # phases in which no agent is at work


def check_args(args):
    for name, kind in SHAPE.items():
        if not isinstance(args.get(name), kind):
            raise Failure("bad-request", "apply: %s is missing or of the wrong type" % name)
    trial, keep, after = args["trial"], args.setdefault("keep", None), args.setdefault("after", None)
    claims = args.setdefault("claims", ledger.NO_CLAIMS)
    insides.check(args.setdefault("inside", []))
    _check_secrets(args.setdefault("secrets", {}), args["touch"])
    boot, watch = trial.get("boot"), trial.get("watch")
    try:
        good = trial["seconds"] > 0 and (
            keep is None or _has(keep, formula=dict, sls=str, touch=list)
        )
        good = good and (after is None or _has(after, formula=dict, sls=str, keys=list))
        good = good and _has(claims, formerly=(str, type(None)), takes=dict, waits=dict, heirs=dict)
        good = good and all(_has(one, waits=bool, **{"from": str}) for one in claims["takes"].values())
        good = good and (boot is None or _has(boot, add=list, remove=list))
        good = good and (watch is None or _has(watch, qube=str, ports=list, ids=list, checks=list))
        good = good and (watch is None or watch["seconds"] > 0)
        grub.check((boot["add"] + boot["remove"]) if boot else [])
    except (KeyError, TypeError, ValueError) as error:
        raise Failure("bad-request", "apply: trial: %s" % error) from error
    if not good:
        raise Failure(
            "bad-request", "apply: trial, keep, after or claims is not of the form that was agreed"
        )
    claimed = [key for part in ("takes", "waits", "heirs") for key in claims[part]]
    for key in args["touch"] + args["release"] + (keep["touch"] if keep else []) + claimed:
        keys.split(key)
    for key in after["keys"] if after else []:
        if keys.split(key)[0] not in ("package", "qube"):
            raise Failure("bad-request", "apply: after: %s could be brought back" % key)
    formulas = [("formula", name, ("guidomain/",)) for name in args["formula"]]
    formulas += [("keep", name, ("guidomain/",)) for name in (keep["formula"] if keep else [])]
    formulas += [("after", name, ("guidomain/",)) for name in (after["formula"] if after else [])]
    modules = [("modules", name, ("_states/", "_utils/")) for name in args["modules"]]
    for part, file, allowed in formulas + modules:
        if (
            not file.startswith(allowed)
            or not re.fullmatch(r"[A-Za-z0-9_./-]+", file)
            or ".." in file
        ):
            raise Failure(
                "bad-request", "apply: %s may not hold %s" % (part, common.clean(file, 200))
            )
    for sls in (args["sls"], keep["sls"] if keep else "", after["sls"] if after else ""):
        if sls and not re.fullmatch(r"guidomain\.[A-Za-z0-9_.-]+", sls):
            raise Failure("bad-request", "apply: sls may not be %s" % common.clean(sls, 200))


def _check_secrets(secrets, touch):
    if not isinstance(secrets, dict):
        raise Failure("bad-request", "apply: secrets must be a map")
    for name, value in secrets.items():
        keys.split("secret:" + name)
        good = value is None or (
            isinstance(value, dict)
            and all(isinstance(value.get(part), str) for part in ("mark", "value"))
            and "\n" not in value["mark"]
        )
        if not good or "secret:" + name not in touch:
            raise Failure("bad-request", "apply: secret %s is not of the form that was agreed" % name)


def _has(value, **kinds):
    return all(isinstance(value[name], kind) for name, kind in kinds.items())


def apply(args, emit, stop, bundle):
    """Up to where the change waits: `verified`, or `staged` for a trial with a boot of its own."""
    check_args(args)
    if admin.platform() == "none":
        raise Failure(
            "not-qubes",
            "this is dom0 neither of Qubes (%s is missing) nor of Xen (/proc/xen/capabilities has no "
            "control_d)" % common.RELEASE,
        )
    _check_root()
    lock = _take(args, emit, stop)
    try:
        reach("apply.locked")
        run = functools.partial(runner.run, lock=lock.fd)
        journal.recover(emit, run)
        stop.check()
        return _forward(args, emit, stop, run, bundle)
    finally:
        lock.release()


def _check_root():
    if os.geteuid() != 0:
        raise Failure("unsupported-user", "an apply needs root on the host")


def _take(args, emit, stop):
    """The host's lock, where no trial of somebody else's is under way; waits for both."""
    until = time.monotonic() + max(args["wait"], 0.5)
    told = 0.0
    while True:
        lock = Lock(args["holder"], max(0, until - time.monotonic()), emit, stop)
        try:
            busy = _reclaim(args, emit, functools.partial(runner.run, lock=lock.fd))
        except BaseException:
            lock.release()
            raise
        if busy is None:
            return lock
        lock.release()
        if time.monotonic() > until:
            raise busy
        if time.monotonic() - told > 2:
            told = time.monotonic()
            emit("lock", "waiting for the trial of %s" % busy.more["holder"]["holder"])
        select.select([stop.fd], [], [], 0.2)
        stop.check()


def _reclaim(args, emit, run):
    """Under the lock: ends a trial whose agent is gone. The failure to give up with where one is
    under way and may still be confirmed; None where the host is free."""
    trial = trials.load()
    if trial is None:
        if trials.is_leaving():
            return Failure(
                "lock-held",
                "this host is about to restart, to leave the boot of a trial that was undone",
                holder={"holder": "guidomain's guard", "since": machine.here.now(), "pid": 0},
            )
        trials.settle_rest(emit, run)
        return None
    if trials.is_committed(trial["id"]):
        trials.settle(trial["id"], trial["owner"], emit, run)
        return None
    seconds = trials.left(trial)
    # While somebody is at work, they hold the lock: we have it, so they are gone.
    dead = trial["phase"] not in IDLE or not (seconds and seconds > 0 or units.alive())
    # Its controller would have confirmed it at once; behind a line that went silent it never will.
    idle = machine.here.boottime() - trial.get("verifiedAt", 0)
    mine = seconds is not None and trial["owner"] == args["owner"]
    stale = trial["phase"] in ("staged", "verified") and mine and idle > PATIENCE
    if (dead or stale) and not trials.in_its_boot(trial):
        emit("recover", "undoing what %s left unfinished" % common.clean(trial["holder"], 200))
        why = "it waited unconfirmed, or its agent was gone, when %s came" % args["holder"]
        now = trials.move(
            trial["id"], [trial["phase"]], "undoing", why=trial.get("why", why), deadline=None
        )
        outcome = trials.undo(now or trial, emit, run, told=stale or bool(trial["boot"]))
        if outcome["left"]:
            raise journal.unfinished(trial["holder"], outcome)
        return None
    # In the boot of a trial the guard has to restart the machine, too.
    if not units.alive():
        machine.here.systemctl("start", "--no-block", units.SERVICE)
    when = "in %d s" % seconds if seconds and seconds > 0 else "at its next look"
    return Failure(
        "lock-held",
        "%s has been trying a change on this host since %s; unless it is confirmed, the host undoes "
        "it by itself %s"
        % (
            trial["holder"],
            time.strftime("%H:%M:%S", time.localtime(trial["since"])),
            when,
        ),
        holder={"holder": trial["holder"], "since": trial["since"], "pid": 0},
    )


def _forward(args, emit, stop, run, bundle):
    """Everything between the lock and the wait. On any failure the host is as before when this
    raises."""
    book, boot = ledger.load(), args["trial"]["boot"]
    keep = args["keep"] or {"formula": {}, "touch": []}
    after = args["after"] or {"formula": {}, "keys": []}
    owner, claims = args["owner"], args["claims"]
    if claims["formerly"]:
        ledger.rename(book, claims["formerly"], owner)
    others = ledger.conflicts(
        book, args["touch"] + keep["touch"], args["release"], owner, claims["takes"]
    )
    if others:
        text = ", ".join("%s belongs to %s" % item for item in sorted(others.items()))
        raise Failure("conflict", text)
    stale = ledger.outdated(book, owner, args["release"], claims)
    if stale:
        raise Failure(
            "outdated",
            "others have come or gone after this run had looked at the host, and want %s"
            % ", ".join(sorted(stale)),
        )
    forgotten = [key for key in args["release"] if _is_forgotten(key, args, book)]
    if forgotten:
        raise Failure(
            "outdated",
            "the host was changed after this run had looked at it: %s would stay behind as nobody's"
            % ", ".join(sorted(forgotten)),
        )
    for key in after["keys"]:
        if not ledger.is_disposable(book, key, owner):
            raise Failure("conflict", "%s is not for %s alone to remove" % (key, owner))
    program = admin.salt_call("")[0]
    if (args["sls"] or args["inside"]) and not shutil.which(program):
        raise _no_salt("%s is not in dom0" % program)
    insides.preflight(args["inside"])
    files = _staged(args["formula"], keep["formula"], after["formula"], modules=args["modules"])
    _check_space(files)
    trial_id, seconds = uuid.uuid4().hex, args["trial"]["seconds"]
    begun = False
    try:
        record = journal.plan(args, list(files), trial_id, units.files(), trials.watch())
        journal.begin(record)
        begun = True
        reach("apply.journal")
        trials.begin(
            {
                "id": trial_id,
                "phase": "applying",
                "holder": args["holder"],
                "owner": owner,
                "since": record["since"],
                "seconds": seconds,
                "deadline": trials.due(max(seconds, WORK)),
                "boot": boot,
                "watch": args["trial"]["watch"],
            }
        )
        reach("apply.trial")
        units.arm(bundle)
        watched = None
        if boot:
            if machine.here.watchdog():
                trials.move(trial_id, ["applying"], "applying", armed=True)
            watched = machine.here.is_watched()

        def beat(stage, text):
            """Who is heard of gets more time."""
            trials.extend(trial_id, "applying", WORK / 2, max(seconds, WORK))
            emit(stage, text)

        _stage(files, beat)
        reach("apply.staged")
        for qube in args["shutdown"]:
            if "qube:" + qube not in args["release"] + after["keys"]:
                # It stays and is started again; the controller has seen that it shows no windows.
                _shutdown(qube, beat, stop, force=True)
                continue
            try:
                _shutdown(qube, beat, stop)
            except admin.AdminError as error:
                # It still has clients; qube.absent shuts it down once the formula moved them off.
                emit("shutdown", "%s not yet: %s" % (qube, error.message))
        reach("apply.shutdown")
        for name, value in args["secrets"].items():
            qube, _, which = name.partition(":")
            text = value and "%s\n%s" % (value["mark"], value["value"])
            secret.write(qube, which, text)
            reach("inside.secret")
        # Without a state only the ledger changes: things are given up as they are.
        states = _salt(args["sls"], args["wait"], beat, stop, run) if args["sls"] else []
        reach("apply.salt")
        written = insides.apply(args["inside"], beat, stop, run)
        # What starts from now on, such as clients that are restarted below, starts with the change.
        at = machine.here.now()
        beat("read-back", "%d keys" % len(args["touch"]))
        keys.read_all(args["touch"])
        reach("apply.read-back")
        longest = WORK + seconds + sum(check["timeout"] for check in args["verify"])
        trials.extend(trial_id, "applying", longest, longest)
        evidence = written + verify.verify(args["verify"], run, emit, stop)
        reach("apply.checked")
        restarted = [] if boot else _restart(args["restart"], beat, stop)
        reach("apply.restarted")
        stop.check()
        phase = "staged" if boot else "verified"
        now = machine.here.boottime()
        if not trials.move(
            trial_id, ["applying"], phase, deadline=trials.due(seconds), at=at, verifiedAt=now
        ):
            raise trials.over(trial_id)
        reach("apply.waits" if boot else "apply.verified")
    except BaseException as error:
        failure = _failure(error)
        if begun:
            emit("undo", failure.message)
            failure.more.update(_undo(record, trial_id, failure.message, emit, run))
        else:
            failure.more.update(changed=[], undone=[], left={})
        raise failure from error
    return {
        "phase": phase,
        "id": trial_id,
        "states": states,
        "evidence": evidence,
        "restarted": restarted,
        "watchdog": watched,
    }


def _is_forgotten(key, args, book):
    """What is given up as somebody else's value by now, and is ours: the plan was made while another
    change was tried, which has been put back since. With onDelete "keep" nothing is touched at all."""
    entry, keep, after = book["entries"].get(key), args["keep"] or {}, args["after"] or {}
    if not args["touch"] or not entry or entry.get("also") or key.startswith("package:"):
        return False
    if entry["owner"] != args["owner"]:
        return False  # it was only waited for
    if key in args["touch"] + keep.get("touch", []) + after.get("keys", []):
        return False
    ours, first = entry["ours"], entry["first"]
    try:
        return not keys.same(ours, first) and keys.same(keys.read(key), ours)
    except (admin.AdminError, OSError):
        return False  # its qube is gone


def _undo(record, trial_id, why, emit, run, told=False):
    """As before, unless the guard was faster: then it does that."""
    now = trials.load()
    if now is None:
        return journal.undo(record, emit, run)  # it had not begun
    phases = ["applying", "staged", "trial", "verified", "confirmed", "undoing"]
    moved = now["id"] == trial_id and trials.move(
        trial_id, phases, "undoing", why=why, deadline=None, **{"from": now["phase"]}
    )
    if not moved:
        return {}
    return trials.undo(moved, emit, run, told)


# -- what comes after: each one a request, mostly of another agent


def _expect(trial_id, phases, emit, stop, holder, wait=30):
    """(lock, trial): the trial in one of `phases`, nobody else at work. Failure trial-over."""
    lock = Lock(holder, wait, emit, stop)
    trial = trials.load()
    if trial is None or trial["id"] != trial_id or trial["phase"] not in phases:
        lock.release()
        failure = trials.over(trial_id)
        if trial and trial["id"] == trial_id:
            failure.more["phase"] = trial["phase"]
            failure.message = "this trial is in phase %s" % trial["phase"]
        raise failure
    return lock, trial


def reboot(args, emit, stop):
    """Lets the next boot be the trial's. The caller then restarts the machine."""
    lock, trial = _expect(args["id"], ["staged"], emit, stop, args["holder"])
    run = functools.partial(runner.run, lock=lock.fd)
    try:
        stop.check()
        menu.sync(trial, trials.watch())
        reach("reboot.menu")
        menu.choose(trial["id"])
        reach("reboot.chosen")
        stop.check()
        if not trials.move(
            trial["id"], ["staged"], "rebooting", deadline=trials.due(trial["seconds"])
        ):
            raise trials.over(trial["id"])
        reach("reboot.rebooting")
        return {"boot": machine.here.boot_id(), "watchdog": machine.here.is_watched()}
    except BaseException as error:
        failure = _failure(error)
        record = common.read_json(common.JOURNAL)
        failure.more.update(_undo(record, trial["id"], failure.message, emit, run))
        raise failure from error
    finally:
        lock.release()


def resume(args, emit, stop):
    """In the trial's boot: starts and checks what it is for. A failure undoes it, and restarts the
    machine (`rebooting`)."""
    _check_root()
    insides.check(args.setdefault("inside", []))
    trial = trials.load()
    if trial and trial["id"] == args["id"] and trial["phase"] == "rebooting":
        # The old boot, or the guard has not looked yet.
        raise Failure("not-yet", "the trial's boot has not begun")
    lock, trial = _expect(args["id"], ["trial"], emit, stop, args["holder"])
    run = functools.partial(runner.run, lock=lock.fd)
    try:
        reach("resume.locked")
        if args["start"]:
            emit("start", args["start"])
            begun = time.monotonic()
            ok, text = verify.start(args["start"], max(1, trials.left(trial) or 0), stop)
            seconds = round(time.monotonic() - begun, 3)
            started = {"id": "starts", "ok": ok, "seconds": seconds, "output": common.clean(text)}
            if not ok:
                raise Failure("verify-failed", text, evidence=[started])
        reach("resume.started")

        def beat(stage, text):
            trials.extend(trial["id"], "trial", WORK / 2, max(trial["seconds"], WORK))
            emit(stage, text)

        written = insides.apply(args["inside"], beat, stop, run)
        evidence = written + verify.verify(args["verify"], run, emit, stop)
        if args["start"]:
            evidence.insert(0, started)
        reach("resume.checked")
        stop.check()
        now = machine.here.boottime()
        if not trials.move(
            trial["id"],
            ["trial"],
            "verified",
            deadline=trials.due(trial["seconds"]),
            at=machine.here.now(),
            verifiedAt=now,
        ):
            raise trials.over(trial["id"])
        reach("resume.verified")
        return {"phase": "verified", "id": trial["id"], "evidence": evidence}
    except BaseException as error:
        raise _given_up(error, trial, emit, run) from error
    finally:
        lock.release()


def _given_up(error, trial, emit, run):
    """The failure for a request that ends a trial."""
    failure = _failure(error)
    emit("undo", failure.message)
    here = trials.in_its_boot(trial)
    record = common.read_json(common.JOURNAL)
    failure.more.update(_undo(record, trial["id"], failure.message, emit, run, told=here))
    failure.more["rebooting"] = here
    return failure


def confirm(args, emit, stop, since, digest, bundle):
    """Somebody came over a connection that was opened after all was verified (`since`: when this
    agent started, CLOCK_BOOTTIME): the way in works, so the change is made to last."""
    if trials.is_committed(args["id"]):
        return _confirmed(args, emit, stop, digest, bundle)
    lock, trial = _expect(args["id"], ["verified"], emit, stop, args["holder"])
    run = functools.partial(runner.run, lock=lock.fd)
    try:
        reach("confirm.locked")
        if since <= trial["verifiedAt"]:
            raise Failure("bad-request", "confirm: this connection is older than what it confirms")
        record, seconds = journal.load(), max(trial["seconds"], WORK)
        try:
            if not trials.move(
                trial["id"], ["verified"], "confirmed", deadline=trials.due(seconds)
            ):
                raise trials.over(trial["id"])
            reach("confirm.confirmed")

            def beat(stage, text):
                trials.extend(trial["id"], "confirmed", WORK / 2, seconds)
                emit(stage, text)

            states = _salt(record["keep"], 30, beat, stop, run) if record["keep"] else []
            reach("confirm.salt")
            beat("confirm", "%d keys" % len(record["touch"]))
            trials.commit(trial, record, ledger.load(), trial["at"])
        except BaseException as error:
            if trials.is_committed(trial["id"]):
                raise
            raise _given_up(error, trial, emit, run) from error
        left = {}
        try:
            states += _remove(record, emit, stop, run)
            left = _settle(trial["id"], record, digest, bundle, emit, run)
            reach("confirm.settled")
        except (OSError, admin.AdminError, Failure) as error:
            emit(
                "settle",
                "the change counts, but not everything was cleaned up: %s. The next apply does it"
                % error,
            )
    finally:
        lock.release()
    try:
        after = snapshot.snapshot(args["snapshot"])
    except Exception as error:
        raise Failure(
            "internal",
            "the change was made and counts; only reading the host afterwards failed: %s" % error,
            changed=record["touch"],
            undone=[],
            left={},
        ) from error
    return {"states": states, "evidence": [], "restarted": [], "left": left, "snapshot": after}


def _remove(record, emit, stop, run):
    """What goes for good. The change counts already: a failure undoes nothing, and what is still
    there `settle` tries once more, without Salt, and says why it stays."""
    states = []
    if record["after"]["sls"]:
        try:
            states = _salt(record["after"]["sls"], 30, emit, stop, run)
        except (Failure, OSError) as error:
            failure = _failure(error)
            emit("remove", failure.message)
            states = failure.more.get("failed", [])
    reach("confirm.after")
    return states


def _confirmed(args, emit, stop, digest, bundle):
    """Asked again, as the answer did not arrive. What the first time could not tidy up is done."""
    lock = Lock(args["holder"], 30, emit, stop)
    run = functools.partial(runner.run, lock=lock.fd)
    left = {}
    try:
        record = common.read_json(common.JOURNAL)
        if record and record["id"] == args["id"] and trials.is_committed(args["id"]):
            left = _settle(args["id"], record, digest, bundle, emit, run)
    finally:
        lock.release()
    after = snapshot.snapshot(args["snapshot"])
    return {"states": [], "evidence": [], "restarted": [], "left": left, "snapshot": after}


def abort(args, emit, stop):
    """Undoes a trial that is not confirmed; in its own boot the machine then restarts."""
    phases = ["staged", "rebooting", "trial", "verified"]
    lock, trial = _expect(args["id"], phases, emit, stop, args.get("holder", "abort"))
    run = functools.partial(runner.run, lock=lock.fd)
    try:
        here = trials.in_its_boot(trial)
        moved = trials.move(
            trial["id"],
            [trial["phase"]],
            "undoing",
            why=args["why"],
            deadline=None,
            **{"from": trial["phase"]},
        )
        if not moved:
            raise trials.over(trial["id"])
        outcome = trials.undo(moved, emit, run, told=here)
        return dict(outcome, rebooting=here)
    finally:
        lock.release()


def abandon(trial_id):
    """The controller is gone: a trial that waits for it alone is undone. One that waits for a boot,
    or that somebody else has confirmed, goes on."""
    trial = trials.load()
    if trial is None or trial["id"] != trial_id:
        return
    try:
        lock, trial = _expect(
            trial_id, ["staged", "verified"], lambda *_: None, common.Stop(), trial["holder"]
        )
    except Failure:
        return
    try:
        _undo(
            common.read_json(common.JOURNAL),
            trial_id,
            "its controller went away",
            lambda *_: None,
            functools.partial(runner.run, lock=lock.fd),
        )
    finally:
        lock.release()


def check(args, emit, stop):
    """Checks alone: nothing is started."""
    evidence = []
    for one in args["verify"]:
        if one["kind"] == "start":
            state = admin.power_state(one["qube"])
            text = "%s is %s" % (one["qube"], "running" if state == "Running" else state)
            ok = state == "Running"
            evidence.append({"id": one["id"], "ok": ok, "seconds": 0, "output": text})
            continue
        try:
            evidence += verify.verify([one], runner.run, emit, stop)
        except Failure as failure:
            if failure.code != "verify-failed":
                raise
            evidence += failure.more["evidence"]
    return {"evidence": evidence}


def _settle(trial_id, record, digest, bundle, emit, run):
    """After the ledger was written; and this agent is kept for the next session, where there is
    one to come. {key: reason} of what should have gone for good and did not."""
    left = trials.settle(trial_id, record["owner"], emit, run)
    if ledger.load()["entries"]:
        ledger.store_agent(digest, bundle)
    return left


def _failure(error):
    if isinstance(error, Failure):
        if error.code.startswith("salt-"):
            try:
                _check_space({})
            except Failure as full:  # the reason, whatever Salt made of it
                return Failure("disk-full", "%s: %s" % (full.message, error.message), **error.more)
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


def _staged(*formulas, modules):
    """{absolute path: text} of everything that is put there for Salt."""
    files = {common.FORMULA + "/" + n: text for formula in formulas for n, text in formula.items()}
    files.update({common.SALT + "/" + name: text for name, text in modules.items()})
    return dict(files, **admin.salt_files())


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


def _salt(sls, wait, emit, stop, run):
    """Runs a state of the formula; returns its results in the order they ran. Failures as salt-*."""
    argv = admin.salt_call(sls)
    emit("salt", sls)
    scratch = common.path(common.SCRATCH)
    os.makedirs(scratch, mode=0o700, exist_ok=True)
    patience = time.monotonic() + wait
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
            "Salt cannot compile %s: %s" % (sls, common.clean("\n".join(map(str, local)))),
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
    seconds = int(limit["value"]) if limit and limit["value"].isdigit() else PLAIN_SHUTDOWN
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
