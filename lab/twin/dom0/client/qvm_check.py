"""qvm-check: what it finds goes to stderr, the verdict is the exit code (qubes-cli-formats.md §4).
"""

import sys

from .admin import Parser, properties, qubes


def networked(name):
    found = properties(name)
    return (
        bool(found.get("netvm", ("", "", ""))[2])
        or found.get("provides_network", ("", "", ""))[2] == "True"
    )


def main():
    parser = Parser(qubes="+", description="Check whether qubes exist, and how they are")
    for option in ("running", "paused", "template", "networked"):
        parser.add_argument("--" + option, action="store_true")
    args = parser.parse_args()
    known = qubes()
    names = (
        [name for name in known if known[name][0] != "AdminVM"] if args.all_qubes else args.names
    )
    there = [name for name in names if name in known]
    checks = {
        "running": lambda name: known[name][1] not in ("Halted", "Paused", "Suspended"),
        "paused": lambda name: known[name][1] == "Paused",
        "template": lambda name: known[name][0] == "TemplateVM",
        "networked": networked,
    }
    wanted = [option for option in checks if getattr(args, option)]
    passed = [name for name in there if all(checks[option](name) for option in wanted)]

    def say(text):
        if args.verbose > args.quiet:
            print("qvm-check: " + text, file=sys.stderr)

    code = 0
    if wanted:
        status = ", ".join(wanted)
        if set(passed) != set(there):
            code = 3 if passed else 1
        if not passed:
            say("None of qubes: " + status)
    else:
        status = "exists"
        code = 0 if there else 1
    for name in sorted(passed):
        say("%s: %s" % (name, status))
    for name in names:
        if name not in known:
            say("%s: non-existent!" % name)
            code = 1
    return code
