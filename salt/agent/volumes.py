"""
The way back of a qube's volume: what is written inside a template while it runs. Qubes keeps, each
time that a qube has stopped, the volume as it was when that had started, so there is one start and
one stop of it in a change, and the revision that appears is what it was before. Whether there is
anything to take back stands in a file of ours: a mark from before the start, with the revisions
that there were.

Pools that keep none cannot be taken back (`fault` says so before anything is started).
"""

import json
import os
import time

import common
import domains as admin
from common import Failure
from steps import reach

MARKS = common.STATE + "/volumes.json"
# Drivers whose volumes can be reverted (core-admin, storage/*.py: `revert`); of those that are not here
# "file" cannot.
DRIVERS = ("lvm_thin", "file-reflink", "zfs")
APPEARS = 60  # seconds for a revision to appear once the qube is off
MORE = 3  # revisions more than usual are kept meanwhile: somebody else may start and stop it, too
NEVER = 5  # seconds after which a qube that is off was never started


def fault(qube, volume):
    """Why the volume could not be taken back; None where it can. Whatever Qubes says of it: a look at
    the host is not to fail because of one volume."""
    try:
        info = admin.volume_info(qube, volume)
    except admin.AdminError as error:
        return "Qubes tells nothing of its volume %s: %s" % (volume, common.clean(str(error), 200))
    if info is None:
        return "%s has no volume %s" % (qube, volume)
    driver = admin.pool_driver(info.get("pool", ""))
    if driver not in DRIVERS:
        return "its pool %s (driver %s) takes no volume back" % (info.get("pool", ""), driver or "unknown")
    kept = info.get("revisions_to_keep", "0")
    if not kept.isdigit() or int(kept) < 1:
        return "Qubes keeps no revision of its volume %s (revisions_to_keep is %s)" % (
            volume,
            info.get("revisions_to_keep"),
        )
    return None


def _marks():
    return common.read_json(MARKS) or {}


def _save(marks):
    common.write_file(MARKS, json.dumps(marks), 0o600)


def forget():
    """The change is over: as many revisions are kept as before."""
    for name, found in _marks().items():
        try:
            _usual(*name.split(":"), found)
        except (admin.AdminError, ValueError):
            pass  # more are kept than before: that must not stop whoever tidies up
    if os.path.isdir(os.path.dirname(common.path(MARKS))):
        common.remove_file(MARKS)


def _usual(qube, volume, found):
    info = admin.volume_info(qube, volume)
    if info and int(info["revisions_to_keep"]) == found["keeps"] + MORE:
        admin.keep_revisions(qube, volume, found["keeps"])


def mark(qube, volume):
    """From here on its qube may be started and written to."""
    info = admin.volume_info(qube, volume)
    marks = _marks()
    marks["%s:%s" % (qube, volume)] = {
        "revisions": admin.volume_revisions(qube, volume),
        "driver": admin.pool_driver(info.get("pool", "")),
        "keeps": int(info["revisions_to_keep"]),
        "started": False,
        "back": None,
        "reverting": False,
        "done": False,
    }
    _save(marks)
    admin.keep_revisions(qube, volume, int(info["revisions_to_keep"]) + MORE)


def started(qube, volume):
    """From here on a stop of it leaves a revision, or something is wrong."""
    marks = _marks()
    marks["%s:%s" % (qube, volume)]["started"] = True
    _save(marks)


def read(qube, volume):
    """True: as it was before the change; None: it may be otherwise."""
    found = _marks().get("%s:%s" % (qube, volume))
    return True if found is None or found["done"] else None


def await_revision(qube, volume, seconds, stop=None):
    """The revision that has come since the mark; None where none comes."""
    known = _marks()["%s:%s" % (qube, volume)]["revisions"]
    until = time.monotonic() + seconds
    while True:
        new = [one for one in admin.volume_revisions(qube, volume) if one not in known]
        if new:
            return new[0]
        if time.monotonic() > until:
            return None
        if stop:
            stop.check()
        time.sleep(0.1)


def put_back(qube, volume):
    """The volume as it was at the mark. Can be done again after a crash at any place."""
    name = "%s:%s" % (qube, volume)
    marks = _marks()
    found = marks.get(name)
    if found is None or found["done"]:
        return
    ran = _kill(qube)
    if found["back"] is None:
        # One that was only about to be started has nothing to show.
        back = await_revision(qube, volume, APPEARS if ran else NEVER)
        if back is None and _kill(qube):  # it had only been slow to start
            ran, back = True, await_revision(qube, volume, APPEARS)
        if back is None and (ran or found["started"]):
            raise Failure("internal", "Qubes has kept no revision of it after it was stopped")
        new = [one for one in admin.volume_revisions(qube, volume) if one not in found["revisions"]]
        if len(new) >= found["keeps"] + MORE:
            text = "it was started and stopped so often since that what it was before is gone"
            raise Failure("internal", text)
        # On disk before it is used: a pool may give a revision up by going back to it.
        found["back"] = back
        _save(marks)
    reach("undo.volume")
    if found["back"] is not None:
        if found["back"] in admin.volume_revisions(qube, volume):
            found["reverting"] = True
            _save(marks)
            admin.revert_volume(qube, volume, found["back"])
        elif not (found["reverting"] and found["driver"] == "file-reflink"):
            raise Failure("internal", "Qubes does not have its revision %s any more" % found["back"])
    reach("undo.reverted")
    found["done"] = True
    _save(marks)
    _usual(qube, volume, found)


def _kill(qube):
    """Whether there was something to stop: nothing of what it runs is to stay."""
    if admin.power_state(qube) in (None, "Halted"):
        return False
    until = time.monotonic() + APPEARS
    while admin.power_state(qube) not in (None, "Halted"):
        admin.kill(qube)
        if time.monotonic() > until:
            raise Failure("internal", "%s cannot be stopped" % qube)
        time.sleep(0.1)
    return True


# -- what qubesctl leaves where it is cut off

POLICY = "/etc/qubes/policy.d/30-qubesctl-salt.policy"


def disposable(qube):
    """The name of the disposable from which qubesctl manages it (qubes-mgmt-salt, qubessalt)."""
    return ("disp-mgmt-" + qube)[:31]


def tidy(qube):
    """The disposable that managed the qube, and the lines of policy that let it: both are for one run
    alone, so where the run has ended they are left over."""
    name = disposable(qube)
    found = admin.qubes().get(name)
    if found and found["class"] == "DispVM":
        if found["state"] != "Halted":
            admin.kill(name)
        for _ in range(20):  # Qubes removes one that cleans up after itself when it stops
            if name not in admin.qubes():
                break
            time.sleep(0.05)
        else:
            try:
                admin.remove(name)
            except admin.AdminError as error:
                if error.type != "QubesVMNotFoundError":
                    raise
    policy = common.read_file(POLICY)
    if policy is None:
        return
    lines = policy["content"].splitlines(True)
    kept = [line for line in lines if line.split()[2:4] != [name, qube]]
    if any(not line.startswith("#") for line in kept):
        if kept != lines:
            common.write_file(POLICY, "".join(kept), int(policy["mode"], 8), policy["owner"])
    else:
        common.remove_file(POLICY)
