"""What is switched off for a negative control: in a process of the host, never in the product. A run with one of these must show what the
part is there for.
"""


def guard_off(process):
    """Nobody watches any more; whoever looks is told that somebody does. The host does not start it either (light.py)."""
    process.product["units"].alive = lambda: True


def journal_off(process):
    """There is nothing to put back from."""
    process.product["journal"].put_back = lambda record, emit, run: {"changed": [], "undone": [], "left": {}}


def permanent(process):
    """The trial's arguments go where those of every boot are, as somebody would do by hand."""
    menu, trial = process.product["menu"], process.product["trial"]

    def choose(trial_id):
        boot = trial.load()["boot"]
        for token in boot["add"] + ["guidomain.trial=" + trial_id]:
            menu.write_token(token, True)
        for token in boot["remove"]:
            menu.write_token(token, False)

    menu.choose = choose


def volumes_off(process):
    """What was written inside a template stays as it is."""
    process.product["volumes"].put_back = lambda qube, volume: None
    process.product["volumes"].read = lambda qube, volume: True


def power_unguarded(process):
    """dom0's service for the machine's power asks nobody whether a change is under way (light.py, which is it)."""
