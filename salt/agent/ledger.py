"""
Who owns what on this host: {key: {"owner", "first", "ours", "at", "also"?}}
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


def conflicts(ledger, keys, owner):
    """{key: the other owner}."""
    entries = ledger["entries"]
    return {
        k: entries[k]["owner"]
        for k in keys
        if k in entries and owner not in owners(entries[k]) and not k.startswith("package:")
    }


def owners(entry):
    """Only a package has several: it serves all who want it, and goes with the last of them."""
    return [entry["owner"]] + entry.get("also", [])


def is_disposable(ledger, key, owner):
    """Whether `owner` alone has brought it, and nobody else wants it."""
    entry = ledger["entries"].get(key)
    return entry is not None and entry["first"] is None and owners(entry) == [owner]


def claim(ledger, owner, before, after, at):
    """Enters what an apply made of its keys at the time `at`; the first value stays that of the
    first claim."""
    entries = ledger["entries"]
    for key, value in after.items():
        entry = entries.setdefault(
            key, {"owner": owner, "first": before[key], "ours": value, "at": at}
        )
        if owner not in owners(entry):
            entry["also"] = entry.get("also", []) + [owner]
        # Also where somebody had changed it since, and it was put right: who started in between has that.
        if entry["ours"] != value or before[key] != value:
            entry.update(ours=value, at=at)


def release(ledger, owner, keys):
    """A key that others want too stays theirs."""
    entries = ledger["entries"]
    for key in keys:
        entry = entries.pop(key, None)
        others = [other for other in owners(entry) if other != owner] if entry else []
        if others:
            entry.pop("also", None)
            entries[key] = dict(
                entry, owner=others[0], **({"also": others[1:]} if others[1:] else {})
            )


def tidy(ledger):
    """Removes formulas of owners without entries, and everything of ours after the last entry."""
    claimants = {owner for entry in ledger["entries"].values() for owner in owners(entry)}
    for owner in set(ledger["formulas"]) - claimants:
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
    """Everything of ours on this host but what the last look of the guard had to tell."""
    import units  # only here: reading the host needs no guard

    units.remove()
    outcome = common.read_text(common.OUTCOME)
    if outcome is None:
        common.remove_tree(common.STATE)
        return
    for name in os.listdir(common.path(common.STATE)):
        whole = common.STATE + "/" + name
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
