"""qrexec-policy-exec, and the decision that every qrexec call from a qube passes. Denials go to the
journal.
"""

import argparse
import json
import time

from client.admin import call as admin_call

from . import Call, Denied, SyntaxError_, evaluate, load

LOG = "/var/log/qubes/policy.log"


def log(text):
    with open(LOG, "a") as file:
        file.write(
            "%s dom0 qrexec-policy-daemon[1]: %s\n" % (time.strftime("%b %d %H:%M:%S"), text)
        )


def decide(source, target, name):
    """The outcome of `evaluate` for a call `SERVICE+ARGUMENT`; raises Denied, also when the policy
    cannot be loaded.
    """
    service, plus, argument = name.partition("+")
    prefix = "qrexec: %s: %s -> %s: " % (service + "+" + argument, source, target)
    qubes = json.loads(admin_call("internal.GetSystemInfo"))["domains"]
    try:
        outcome = evaluate(load(), Call(service, "+" + argument, source, target, qubes))
    except SyntaxError_ as error:
        log(prefix + "error loading policy: %s" % error)
        raise Denied("error loading policy: %s" % error)
    except ValueError as error:
        raise Denied(str(error))
    except Denied as error:
        log(prefix + "denied: %s" % error)
        raise
    log(prefix + ("allowed to %s" % outcome[1] if outcome[0] == "allow" else "ask"))
    return outcome


def main():
    parser = argparse.ArgumentParser(prog="qrexec-policy-exec")
    parser.add_argument(
        "--just-evaluate", action="store_true", help="Do not run the service, only evaluate policy"
    )
    parser.add_argument("--assume-yes-for-ask", action="store_true")
    parser.add_argument("args", nargs="*")
    args = parser.parse_args()
    if len(args.args) != 3:
        parser.error("Must have 3 or 5 positional arguments, not %d" % len(args.args))
    if not args.just_evaluate:
        parser.error("the twin evaluates only: --just-evaluate is needed")
    try:
        outcome = decide(*args.args)
    except Denied:
        return 1
    return 0 if outcome[0] == "allow" or args.assume_yes_for_ask else 1
