"""
The boundaries between any two effects of a trial, by name. `reach` is called at each; the product
does nothing there, a test that kills, cuts or switches off exactly there replaces `hook`.
"""

STEPS = {
    # An apply up to where it waits for its confirmation (live) or for the restart (boot).
    "live": (
        "apply.locked",
        "apply.journal",  # the journal is on disk
        "apply.trial",  # trial.json is
        "guard.files",
        "guard.armed",
        "apply.staged",  # the formula is on disk
        "apply.shutdown",
        "apply.salt",  # Salt has ended
        "apply.read-back",
        "apply.checked",
        "apply.restarted",
        "apply.verified",  # phase verified, lock free
    ),
    "boot": (
        "apply.locked",
        "apply.journal",
        "apply.trial",
        "guard.files",
        "guard.armed",
        "apply.staged",
        "apply.shutdown",
        "apply.salt",
        "apply.read-back",
        "apply.checked",
        "apply.waits",  # phase staged, lock free
        "reboot.menu",  # trial and rescue entry are in custom.cfg
        "reboot.chosen",  # next_entry is set
        "reboot.rebooting",  # phase rebooting
    ),
    # The guard's first look of the trial boot, then the controller's new agent there.
    "resume": (
        "guard.begins",
        "guard.trial",  # phase trial
        "guard.watchdog",
        "guard.prohibit",
        "resume.locked",
        "resume.started",
        "resume.checked",
        "resume.verified",
    ),
    "confirm": (
        "confirm.locked",
        "confirm.confirmed",  # phase confirmed
        "confirm.salt",
        "confirm.read-back",
        "confirm.watch",  # watch.json is written
        "confirm.ledger",  # the ledger is: from here on it counts
        "confirm.after",  # Salt has ended once more: what goes for good is gone
        "settle.watch",
        "settle.menu",
        "settle.outcome",
        "settle.key",  # once a key that goes for good
        "settle.removed",  # the ledger has none of them any more
        "settle.trial",  # trial.json is gone
        "settle.journal",
        "confirm.settled",
    ),
    "undo": (
        "undo.undoing",  # phase undoing
        "undo.choice",  # next_entry is not ours any more
        "undo.key",  # once a key that differs
        "undo.values",
        "undo.outcome",
        "undo.menu",
        "undo.trial",
        "undo.journal",
        "undo.done",
    ),
    # A boot of a confirmed mode.
    "watch": ("guard.begins", "guard.watchdog", "guard.prohibit", "watch.checked", "watch.done"),
    "rescue": (
        "rescue.begun",
        "undo.key",
        "undo.values",
        "rescue.ledger",
        "rescue.outcome",
        "rescue.menu",
        "rescue.watch",  # watch.json is gone
        "rescue.done",
    ),
    # After apply.salt, or after resume.started: once for each qube that is written inside.
    "inside": (
        "inside.secret",  # once for each that is written or taken away, after apply.shutdown
        "inside.begins",
        "inside.marked",  # the revisions of its volume are noted (a template)
        "inside.started",
        "inside.noted",  # the packages that we bring are
        "inside.salt",  # Salt has ended in it
        "inside.off",  # a template alone: it is off
        "inside.done",
    ),
    # Between undo.choice and undo.values, once a volume.
    "inside-undo": (
        "undo.volume",  # its qube is off, and which revision it was before is noted
        "undo.reverted",
    ),
}


def hook(_name):
    """Replaced by tests."""


def reach(name):
    hook(name)
