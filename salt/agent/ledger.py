"""
Who owns what on this host: {key: {"owner", "first", "ours", "at", "also"?, "waiting"?}}
(src/host/protocol.ts), and beside it what we put there ourselves so that nothing of it stays when
the last entry is gone: formula files by owner, the directories that we had to make, the id of the
last apply that counts.
"""

import hashlib
import json
import marshal
import os
import sys

import common
import secret
from common import Failure


def load():
    text = common.read_text(common.LEDGER, 64 << 20)
    if text is None:
        return {"version": 1, "entries": {}, "formulas": {}, "created": [], "applied": None}
    try:
        ledger = json.loads(text)
        if ledger["version"] != 1:
            raise ValueError("version %s" % ledger["version"])
        return ledger
    except (ValueError, KeyError, TypeError) as error:
        raise Failure(
            "internal",
            "%s cannot be read (%s). It says who owns what on this host: mend it or move it away"
            % (common.LEDGER, error),
            changed=[],
        ) from error


def save(ledger):
    common.write_file(common.LEDGER, json.dumps(ledger), 0o600)


# What serves all who want it, and goes with the last of them (src/plan/changes.ts, shareable).
SHARED = (
    "package:",
    "file:/etc/qubes-rpc/guidomain.",
    "file:/etc/systemd/sleep.conf.d/",
    "file:/usr/local/libexec/guidomain-",
)

# What a change says of claims (src/host/protocol.ts, ClaimArgs); a controller of before says nothing.
NO_CLAIMS = {"formerly": None, "takes": {}, "waits": {}, "heirs": {}}


def conflicts(ledger, touch, release, owner, takes):
    """{key: the other owner}. What somebody only waits for is not theirs to change."""
    entries, found = ledger["entries"], {}
    for key in touch + release:
        entry = entries.get(key)
        if entry is None or owner in owners(entry) or key.startswith(SHARED):
            continue
        taken = takes.get(key, {}).get("from") == entry["owner"]
        if not taken and (key in touch or owner not in waiting(entry)):
            found[key] = entry["owner"]
    return found


def outdated(ledger, owner, release, claims):
    """Keys of which others want something else by now than the plan has seen."""
    entries = ledger["entries"]
    mine = {k for k in entries if entries[k]["owner"] == owner}
    stale = {key for key in claims["waits"] if key not in entries or key in mine}
    for key in mine & (set(release) | set(claims["heirs"])):
        heir, others = claims["heirs"].get(key, ""), waiting(entries[key])
        # None: of those who wait nobody's qube is there.
        if heir not in others and not (heir is None or (heir == "" and not others)):
            stale.add(key)
    return stale


def owners(entry):
    """Only what is SHARED has several."""
    return [entry["owner"]] + entry.get("also", [])


def waiting(entry):
    """Who wants it when its owner lets go, in the order in which they came."""
    return [one["owner"] for one in entry.get("waiting", [])]


def claimants(ledger):
    found = set()
    for entry in ledger["entries"].values():
        found.update(owners(entry) + waiting(entry))
    return found


def rename(ledger, former, owner):
    """A resource that has another name now keeps what it has."""
    for entry in ledger["entries"].values():
        names = [owner if name == former else name for name in owners(entry)]
        _set(entry, dict.fromkeys(names), entry.get("waiting", []))
        for one in entry.get("waiting", []):
            if one["owner"] == former:
                one["owner"] = owner
    formulas = ledger["formulas"]
    if former in formulas:
        formulas[owner] = sorted(set(formulas.pop(former)) | set(formulas.get(owner, [])))


def _set(entry, names, waits):
    entry["owner"], *also = names
    for part, value in (("also", also), ("waiting", waits)):
        entry.pop(part, None)
        if value:
            entry[part] = value


def is_disposable(ledger, key, owner):
    """Whether `owner` alone has brought it, and nobody else wants it."""
    entry = ledger["entries"].get(key)
    return entry is not None and entry["first"] is None and owners(entry) == [owner]


def claim(ledger, owner, before, after, at, takes=NO_CLAIMS["takes"]):
    """Enters what an apply made of its keys at the time `at`; the first value stays that of the
    first claim."""
    entries = ledger["entries"]
    for key, value in after.items():
        entry = entries.setdefault(
            key, {"owner": owner, "first": before[key], "ours": value, "at": at}
        )
        if key in takes and entry["owner"] == takes[key]["from"]:
            former = {"owner": entry["owner"], "value": entry["ours"]}
            rest = [one for one in entry.get("waiting", []) if one["owner"] != owner]
            _set(entry, [owner], ([former] if takes[key]["waits"] else []) + rest)
        elif owner not in owners(entry):
            entry["also"] = entry.get("also", []) + [owner]
        # Also where somebody had changed it since, and it was put right: who started in between has that.
        if entry["ours"] != value or before[key] != value:
            entry.update(ours=value, at=at)


def wait(ledger, owner, waits):
    """Notes what `owner` wants of keys that others have; who came earlier stays before it."""
    for key, value in waits.items():
        entry = ledger["entries"].get(key)
        if entry is None or owner in owners(entry):
            continue
        if owner in waiting(entry):
            entry["waiting"][waiting(entry).index(owner)]["value"] = value
        else:
            entry["waiting"] = entry.get("waiting", []) + [{"owner": owner, "value": value}]


def release(ledger, owner, keys, heirs=NO_CLAIMS["heirs"]):
    """A key that others want too stays theirs, or becomes that of its heir; the first value stays."""
    entries = ledger["entries"]
    for key in keys:
        entry = entries.get(key)
        if entry is None:
            continue
        names = [name for name in owners(entry) if name != owner]
        if owner in owners(entry) and not names and heirs.get(key):
            names = [heirs[key]]
        if not names:
            entries.pop(key)
            continue
        gone = names + [owner]
        _set(entry, names, [one for one in entry.get("waiting", []) if one["owner"] not in gone])


def tidy(ledger):
    """Removes formulas of owners without entries, and everything of ours after the last entry."""
    for owner in set(ledger["formulas"]) - claimants(ledger):
        for name in ledger["formulas"].pop(owner):
            common.remove_file(common.FORMULA + "/" + name)
    if ledger["entries"]:
        ledger["created"] = common.remove_directories(ledger["created"])
        save(ledger)
        return
    remove_ours()
    common.remove_file(common.DROP_IN)
    common.remove_directories(ledger["created"])


def remove_ours():
    """Everything of ours on this host but what the last look of the guard had to tell, and what a qube
    that stays goes on fetching."""
    import units  # only here: reading the host needs no guard

    units.remove()
    common.remove_file(common.POWER)
    outcome = common.read_text(common.OUTCOME)
    secrets = secret.every()  # of a qube that stays as it is ("keep"), and goes on fetching them
    if outcome is None and not secrets:
        common.remove_tree(common.STATE)
        return
    for name in os.listdir(common.path(common.STATE)):
        whole = common.STATE + "/" + name
        if whole == secret.FOLDER and secrets:
            continue
        if os.path.isdir(common.path(whole)):
            common.remove_tree(whole)
        elif whole != common.OUTCOME:
            common.remove_file(whole)


def store_agent(digest, bundle):
    """
    Keeps the agent's source for the next session, and beside it {module: code} as this very Python
    compiles it, after its sha256 in hex (loader.py reads both); older ones go.
    """
    makers = {
        digest + ".json": lambda: bundle,
        "%s.%x" % (digest, sys.hexversion): lambda: _compiled(bundle),
    }
    os.makedirs(common.path(common.AGENT), mode=0o700, exist_ok=True)
    there = set(os.listdir(common.path(common.AGENT)))
    for name in there - set(makers):
        common.remove_file(common.AGENT + "/" + name)
    for name in set(makers) - there:
        common.write_file(common.AGENT + "/" + name, makers[name](), 0o600)


def _compiled(bundle):
    modules = {
        name: compile(source, "guidomain/%s.py" % name, "exec")
        for name, source in json.loads(bundle).items()
    }
    code = marshal.dumps(modules)
    return hashlib.sha256(code).hexdigest().encode() + code
