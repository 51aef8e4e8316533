"""qrexec-policy-exec, and the decision that every qrexec call from a qube passes. Denials go to the
journal.
"""

import argparse
import json
import sys
import time

from client.admin import call as admin_call

from . import AccessDenied, Call, PolicySyntaxError, evaluate, load

LOG = "/var/log/qubes/policy.log"


def log(text):
    with open(LOG, "a") as file:
        file.write(
            "%s dom0 qrexec-policy-daemon[1]: %s\n" % (time.strftime("%b %d %H:%M:%S"), text)
        )


def judge(rules, source, target, name):
    """The outcome of `evaluate` for a call `SERVICE+ARGUMENT`; raises AccessDenied."""
    service, _, argument = name.partition("+")
    qubes = json.loads(admin_call("internal.GetSystemInfo"))["domains"]
    try:
        return evaluate(rules, Call(service, "+" + argument, source, target, qubes))
    except ValueError as error:
        raise AccessDenied(str(error))


def decide(source, target, name):
    """What the policy's daemon makes of a call: as `judge`; a policy that cannot be loaded denies."""
    name = name if "+" in name else name + "+"
    prefix = "qrexec: %s: %s -> %s: " % (name, source, target)
    try:
        outcome = judge(load(), source, target, name)
        if outcome[:2] == ("allow", source):
            raise AccessDenied("loopback qrexec connection not supported")
    except PolicySyntaxError as error:
        log(prefix + "error loading policy: %s" % error)
        raise AccessDenied("error loading policy: %s" % error)
    except AccessDenied as error:
        log(prefix + "denied: %s" % error)
        raise
    log(prefix + ("allowed to %s" % outcome[1] if outcome[0] == "allow" else "ask"))
    return outcome


def just_evaluate(source, target, name):
    """"allow", "ask" or "deny", where it logs only a denial. A policy that cannot be loaded ends it
    with a traceback (seen on real core-qrexec 4.3).
    """
    warnings = []

    def warn(text):
        warnings.append(text)
        print("WARNING:root:warning: " + text, file=sys.stderr)

    rules = load(warn=warn)
    try:
        return judge(rules, source, target, name)[0]
    except AccessDenied as error:
        text = "qrexec: %s: %s -> %s: denied: %s" % (name, source, target, error)
        log(text)
        if warnings:  # Python's logging prints everything once it has warned
            print("INFO:policy:" + text, file=sys.stderr)
        return "deny"


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
    outcome = just_evaluate(*args.args)
    return 0 if outcome == "allow" or outcome == "ask" and args.assume_yes_for_ask else 1
