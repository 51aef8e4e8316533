"""
A change that undoes itself until it is confirmed (design §5): trial.json, its phases, and the two
ways out of it. Agents and the guard meet here: whoever moves a trial out of a phase first has it.

    applying → staged → rebooting → trial → verified → confirmed → committed (no file)
    applying → verified → confirmed → committed                    without a boot of its own
    any      → undoing  → as before (no file)

The ledger decides whether a trial counts: once its `applied` is this id, there is nothing to undo,
only to finish (`settle`): what could not have been undone is removed then, and not before.
"""

import contextlib
import fcntl
import json
import os

import common
import grub
import journal
import keys
import ledger
import machine
import menu
import domains as admin
import units
from common import Failure
from steps import reach


@contextlib.contextmanager
def _alone():
    """Nobody else changes trial.json meanwhile. The lock is on the folder (no file of its own
    stays); without the folder there is no trial."""
    try:
        fd = os.open(common.path(common.STATE), os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        fd = None
    try:
        if fd is not None:
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        if fd is not None:
            os.close(fd)


def load():
    return common.read_json(common.TRIAL)


def watch():
    """The confirmed mode that each boot must bring up; None without one."""
    return common.read_json(common.WATCH)


def save(name, value):
    common.write_file(name, json.dumps(value), 0o600)


def save_surely(name, value):
    """On a full disk, in the space that is held for the way back; what is held afterwards is what
    there is. A full disk must not keep the guard from its work."""
    try:
        save(name, value)
    except OSError as error:
        if not common.is_full(error):
            raise
        journal.free()
        save(name, value)
        record = value.get("record") or common.read_json(common.JOURNAL)
        if record:
            journal.hold(record)


def begin(trial):
    with _alone():
        save(common.TRIAL, trial)


def move(trial_id, sources, phase, **more):
    """The trial in its new phase; None where it is in none of `sources` any more."""
    with _alone():
        now = load()
        if now is None or now["id"] != trial_id or now["phase"] not in sources:
            return None
        now.update(more, phase=phase)
        # In the trial's boot a deadline must run, and a way back begin, whatever the disk says.
        (save_surely if phase in ("trial", "undoing") else save)(common.TRIAL, now)
        return now


def due(seconds):
    return {"bootId": machine.here.boot_id(), "at": machine.here.boottime() + seconds}


def left(trial):
    """Seconds until the guard undoes it; None where none run in this boot."""
    deadline = trial["deadline"]
    if deadline is None or deadline["bootId"] != machine.here.boot_id():
        return None
    return deadline["at"] - machine.here.boottime()


def extend(trial_id, phase, least, seconds):
    """`seconds` from now for a phase in which somebody is at work, where less than `least` are
    left. Failure where the guard was faster."""
    now = load()
    if now and now["id"] == trial_id and now["phase"] == phase and (left(now) or 0) >= least:
        return
    if move(trial_id, [phase], phase, deadline=due(seconds)) is None:
        raise over(trial_id)


def over(trial_id):
    """The failure for who comes back to a trial that is not theirs any more."""
    outcome = common.read_json(common.OUTCOME)
    outcome = outcome if outcome and outcome["id"] == trial_id else None
    why = outcome["why"] if outcome else "it is not under way"
    return Failure("trial-over", "this trial is over: %s" % why, outcome=outcome)


def is_committed(trial_id):
    return ledger.load()["applied"] == trial_id


def in_its_boot(trial):
    """This boot is one that only the trial made: to leave it takes another one."""
    return "guidomain.trial=" + trial["id"] in machine.here.cmdline().split()


def is_leaving():
    """A trial was undone in its own boot. Who did that restarts the machine; the guard where that
    one was cut off."""
    return common.owner_of(common.LEAVE) is not None


def is_wrong_boot(trial):
    """This boot is not the one that the default entry, as it is now, makes: by what the trial adds
    to the kernel line or takes from it."""
    words, default = grub.tokens(machine.here.cmdline().split()), menu.default_tokens()
    changed = trial["boot"]["add"] + trial["boot"]["remove"] if trial["boot"] else []
    return in_its_boot(trial) or (
        default is not None and any((t in words) != (t in default) for t in changed)
    )


# -- out of it


def undo(trial, emit, run, told):
    """
    Puts everything back; the trial must be in phase `undoing`, and the host's lock be held. `told`:
    nobody waits for the answer, so it is kept as outcome.json. Returns {"changed", "undone", "left"}.
    """
    reach("undo.undoing")
    record = common.read_json(common.JOURNAL)
    menu.unchoose()
    menu.untry()  # whoever leaves this boot does it on purpose: it is none that nobody verified
    reach("undo.choice")

    def done(outcome):
        # All of this is done again after a crash, as the trial is still `undoing` until the end.
        if told:
            _tell(trial, "left" if outcome["left"] else "undone", trial.get("why", ""), outcome)
            reach("undo.outcome")
        if not journal.is_done(outcome):
            return
        if record:
            journal.surely(_restore_watch, record)
        journal.surely(menu.sync, None, watch())
        reach("undo.menu")
        if trial.get("armed"):
            machine.here.unwatch()
        if in_its_boot(trial):
            common.write_file(common.LEAVE, "")
        common.remove_file(common.TRIAL)
        reach("undo.trial")

    if record is None or record["id"] != trial["id"]:
        # The journal is there before the trial and goes after it: somebody took it away.
        outcome = {"changed": [], "undone": [], "left": {}}
        done(outcome)
        if not ledger.load()["entries"]:
            ledger.remove_ours()
    else:
        outcome = journal.undo(record, emit, run, done)
        if watch() and journal.is_done(outcome):
            journal.reserve(watch())
    reach("undo.done")
    return outcome


def give_up(trial):
    """What is left cannot be put back, as often as it was tried: that is told already. The trial
    ends, so that another change can mend it."""
    record = common.read_json(common.JOURNAL)
    if record and record["id"] == trial["id"]:
        journal.surely(_restore_watch, record)
        journal.end()
    menu.sync(None, watch())
    common.remove_file(common.TRIAL)
    journal.reserve(watch())


def _restore_watch(record):
    """watch.json as it was: a confirmation that was cut off has written it already."""
    if record["watchBefore"] != watch():
        if record["watchBefore"] is None:
            common.remove_file(common.WATCH)
        else:
            save(common.WATCH, record["watchBefore"])


def _tell(trial, what, why, outcome):
    former = common.read_json(common.OUTCOME) or {}
    # What a first try could not keep (the data of a removed qube) stays true after a second.
    lost = former.get("left", {}) if former.get("id") == trial["id"] else {}
    story = {
        "id": trial["id"],
        "owner": trial["owner"],
        "what": what,
        "why": common.clean(why, 1000),
        "phase": trial.get("from", trial["phase"]),
        "at": machine.here.now(),
        "bootId": machine.here.boot_id(),
        "left": dict(
            {key: text for key, text in lost.items() if text == journal.LOST}, **outcome["left"]
        ),
    }
    try:
        journal.surely(save, common.OUTCOME, story)
    except OSError as error:
        # Where there is no room to tell it, it is done all the same: the host comes first.
        if not common.is_full(error):
            raise


def commit(trial, record, book, at):
    """
    Makes it count. The order is what makes every crash safe: watch.json first (an undo puts the
    former one back), then the ledger, which is the one moment that decides; whatever of `settle` is
    missing after it is done by the next agent or the guard, which see that the ledger has the id.
    """
    after = keys.read_all(record["before"])
    reach("confirm.read-back")
    touched = {key: after[key] for key in record["touch"]}
    owner, claims = record["owner"], record.get("claims", ledger.NO_CLAIMS)
    if claims["formerly"]:
        ledger.rename(book, claims["formerly"], owner)
    ledger.claim(book, owner, record["before"], touched, at, claims["takes"])
    ledger.release(book, owner, record["release"], claims["heirs"])
    ledger.wait(book, owner, claims["waits"])
    if record["watch"]:
        save(common.WATCH, _watch(record, book, after))
    reach("confirm.watch")
    book["formulas"].setdefault(record["owner"], [])
    book["formulas"][record["owner"]] = sorted(
        set(book["formulas"][record["owner"]]) | set(record["formula"])
    )
    book["created"] = sorted(
        set(book["created"])
        | {name for name in record["directories"] if not name.startswith(common.STATE)}
    )
    book["applied"] = record["id"]
    for key in record["touch"]:
        if key.startswith("file:"):
            common.sync_file(key[5:])  # Salt leaves that to the kernel
    save(common.LEDGER, book)
    reach("confirm.ledger")


def names(record):
    """Whose change it is, under the name of before as well."""
    return {record["owner"], record.get("claims", ledger.NO_CLAIMS)["formerly"]}


def _watch(record, book, after):
    """What each boot from now on is held to. After a further change of the same mode, the way back
    is still the way to what was before all of them."""
    former = record["watchBefore"]
    if former is None or former["owner"] not in names(record):
        former = {"record": {}, "ours": {}}
    merged = dict(record)
    for part in ("before", "entries", "staged", "owners", "shared", "secrets"):
        merged[part] = dict(record.get(part, {}), **former["record"].get(part, {}))
    for part in ("directories", "running", "halted"):
        merged[part] = sorted(set(record[part]) | set(former["record"].get(part, [])))
    for key, entry in merged["entries"].items():
        if entry and entry["owner"] in names(record):
            merged["entries"][key] = dict(entry, owner=record["owner"])
    merged["formulas"] = former["record"].get("formulas", record["formulas"])
    for part in ("watchBefore", "watch"):
        del merged[part]
    tokens = [
        key[8:]
        for key, entry in book["entries"].items()
        if key.startswith("bootarg:")
        and record["owner"] in ledger.owners(entry)
        and entry["ours"] is True
    ]
    return dict(
        record["watch"],
        owner=record["owner"],
        tokens=sorted(tokens),
        record=merged,
        ours=dict(former["ours"], **after),
        # The checks of this boot have just passed, or it is another boot's matter.
        verified=machine.here.boot_id(),
    )


def settle(trial_id, owner, emit, run):
    """
    After the ledger counts it: what it takes away for good goes, and everything that was there for
    the trial alone. Can be done again, and by anybody, and needs no Salt. {key: reason} of what
    should have gone and did not: it stays its owner's, whose next change tries it again.
    """
    record = common.read_json(common.JOURNAL)
    mine = record is not None and record["id"] == trial_id
    kept = watch()
    if mine and kept and not record["watch"] and kept["owner"] in names(record):
        common.remove_file(common.WATCH)
        kept = None
    reach("settle.watch")
    menu.unchoose()
    menu.untry()
    journal.surely(menu.sync, None, kept)
    journal.surely(units.follow, kept)
    reach("settle.menu")
    outcome = common.read_json(common.OUTCOME)
    if outcome and outcome["owner"] in (names(record) if mine else {owner}):
        common.remove_file(common.OUTCOME)
    reach("settle.outcome")
    # Last of what may fail or take long: the screen is no matter of it.
    left = _remove(record, emit, run) if mine else {}
    reach("settle.removed")
    trial = load()
    if trial and trial["id"] == trial_id:
        if trial.get("armed"):
            machine.here.unwatch()
        common.remove_file(common.TRIAL)
    reach("settle.trial")
    if mine:
        journal.end()
    journal.reserve(kept)
    if mine:
        _tidy(record)
    reach("settle.journal")
    return left


def _tidy(record):
    """Formulas and files that nobody needs any more; after the last entry everything of ours."""
    book = ledger.load()
    for name in set(book["formulas"].get(record["owner"], [])) - set(record["formula"]):
        common.remove_file(common.FORMULA + "/" + name)
    book["formulas"][record["owner"]] = record["formula"]
    for folder in ("/_states", "/_utils"):
        common.remove_tree(common.SALT + folder + "/__pycache__")
    common.remove_tree(common.SCRATCH)
    ledger.tidy(book)


def settle_rest(emit, run):
    """A journal that was left after its trial counted."""
    record = common.read_json(common.JOURNAL)
    if record and load() is None and is_committed(record["id"]):
        settle(record["id"], record["owner"], emit, run)


def _remove(record, emit, run):
    """{key: reason} of what is still there. What is gone is nobody's any more."""
    book, owner = ledger.load(), record["owner"]
    going = [k for k in record.get("after", {}).get("keys", []) if k in book["entries"]]
    if any(key.startswith("qube:") for key in going):
        admin.qubes()  # where qubesd does not answer it is not refused, only too early
    left = {}
    for key in sorted(going, reverse=True):  # a qube before the packages that serve it
        if ledger.is_disposable(book, key, owner):
            reason = journal.remove(key, emit, run)
            if reason is not None:
                left[key] = reason
        reach("settle.key")
    gone = [key for key in going if key not in left]
    if gone:
        ledger.release(book, owner, gone)
        journal.surely(ledger.save, book)
    return left


# -- a confirmed mode that does not come up


def rescue(kept, emit, run):
    """
    The way back from a confirmed mode, long after: what is still ours gets the value from before the
    mode, and the ledger the entries from before. A qube that was made for the mode stays, without
    its devices and its autostart: by now it may hold somebody's data.
    """
    record, book = kept["record"], ledger.load()
    # Who has gone since wants nothing any more.
    here = ledger.claimants(book) | {kept["owner"]}
    entries = {key: e for key, e in record["entries"].items() if e and e["owner"] in here}
    made = {key[5:] for key, value in record["before"].items() if key[:5] == "qube:" and not value}
    before = {}
    for key, value in record["before"].items():
        kind, qube, name = keys.split(key)
        entry = book["entries"].get(key)
        if entry and entry["owner"] != kept["owner"]:
            continue
        if qube in made and kind != "device":
            if (kind, name) != ("property", "autostart"):
                continue
            value = {"default": True, "value": "False"}
        elif entry and name in DOMAINS and not _has_its_qube(value):
            value = entry["first"]  # it was another GUI domain's, which has gone since
        if key in kept["ours"] and keys.same(_read(key), kept["ours"][key]):
            before[key] = value
    alone = dict(record, before=before, halted=[kept["qube"]], renewed=[], running=[])
    outcome = journal.put_back(alone, emit, run)
    reach("undo.values")
    stuck = {key for key, reason in outcome["left"].items() if reason == keys.STUCK}
    for key, value in record["before"].items():
        kind, qube, _ = keys.split(key)
        if key in stuck:
            book["entries"].pop(key, None)  # nobody can do anything about it
        elif key not in outcome["left"] and (kind == "device" or qube not in made):
            # Also what an earlier try had put back before it was cut off.
            if keys.same(_read(key), before.get(key, value)):
                _give_up(book, kept["owner"], key, entries.get(key))
    for key, entry in entries.items():  # given up by the mode, and put back
        if key not in book["entries"] and key not in outcome["left"]:
            book["entries"][key] = entry
    # Nobody may leave a default to a GUI domain that shows nothing; its next run waits again.
    waits = [k for k, e in book["entries"].items() if kept["owner"] in ledger.waiting(e)]
    ledger.release(book, kept["owner"], waits)
    book["formulas"][kept["owner"]] = record["formulas"]
    journal.surely(save, common.LEDGER, book)
    reach("rescue.ledger")
    trial = {"id": record["id"], "owner": kept["owner"], "phase": "committed"}
    _tell(trial, "left" if outcome["left"] else "rescued", kept["rescuing"], outcome)
    reach("rescue.outcome")
    if not journal.is_done(outcome):
        return outcome  # watch.json stays: the guard tries again
    journal.surely(_allow, kept)
    menu.untry()
    journal.surely(menu.sync, None, None)
    reach("rescue.menu")
    journal.reserve(None)
    units.follow(None)
    common.remove_file(common.WATCH)  # last: until then all of it is done again
    reach("rescue.watch")
    return outcome


DOMAINS = ("guivm", "audiovm", "default_guivm", "default_audiovm")


def _has_its_qube(value):
    """Whether the qube that a property names is there, where it names one. Where qubesd does not
    answer it is not known to be gone."""
    named = value and not value["default"] and value["value"]
    return not named or _read("qube:" + named) is not None


def _give_up(book, owner, key, former):
    """The ledger's entry from before the mode. Who waits goes on waiting, or is the next to have it;
    the value is that of before all the same, as the screen comes first."""
    entries = book["entries"]
    waits = entries.get(key, {}).get("waiting", [])
    if former:
        rest = [one for one in waits if one["owner"] != former["owner"]]
        entries[key] = dict(former, waiting=rest)
    else:
        ledger.release(book, owner, [key], {key: waits[0]["owner"]} if waits else {})


def _allow(kept):
    """Without its card the qube may start in any boot."""
    now = admin.get_feature(kept["qube"], "prohibit-start")
    if now and now.startswith("guidomain:") and not given(kept):
        admin.remove_feature(kept["qube"], "prohibit-start")


def given(mode):
    """The assignments of the mode's qube that are for the devices it keeps from dom0: by their
    places, or by what they are on whatever port."""
    ids = mode.get("ids", [])  # a record of before had places only
    return [
        one
        for one in admin.pci_assigned(mode["qube"])
        if one["port"] in mode["ports"] or (one["port"] == "*" and one["device"] in ids)
    ]


def _read(key):
    """As `keys.read`; what cannot be read is nothing that we know to be ours."""
    try:
        return keys.read(key)
    except Exception as error:
        return "unreadable: %s" % error
