"""qvm-shutdown (qubes-cli-formats.md §5)."""

import sys
import time

from .admin import Parser, QubesException, call, state


def request(names, force, wait):
    """Asks each; gives those that refused, of which there are none to tell of without --wait."""
    refused = []
    for name in names:
        try:
            call("admin.vm.Shutdown", name, "force" if force else "")
        except QubesException as error:
            if error.kind == "QubesVMNotStartedError":
                continue
            if wait:
                refused.append(name)
            else:
                print("%s: Shutdown error: %s" % ("vm." + name, error), file=sys.stderr)
    return refused


def halted(name):
    """Also when it has gone, as a disposable does."""
    try:
        return state(name) == "Halted"
    except QubesException as error:
        if error.kind == "QubesVMNotFoundError":
            return True
        raise


def wait_for(names, timeout):
    """Waits; what still runs then is killed, as the real tool does."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        names = [name for name in names if not halted(name)]
        if not names:
            return
        time.sleep(0.02)
    for name in names:
        call("admin.vm.Kill", name)


def main():
    parser = Parser(qubes="+", description="Shutdown a qube")
    parser.add_argument("--wait", action="store_true")
    parser.add_argument("--timeout", type=float, default=60)
    parser.add_argument("--force", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    args = parser.parse()
    force = args.force or getattr(args, "all_qubes", False)
    remaining = args.qubes
    for _ in args.qubes:  # a netvm after its clients: each round may free another
        refused = [] if args.dry_run else request(remaining, force, args.wait)
        asked = [name for name in remaining if name not in refused]
        remaining = refused
        if not args.wait or not asked:
            break
        wait_for(asked, args.timeout)
        if not remaining:
            break
    failed = [name for name in args.qubes if args.wait and not halted(name)]
    if failed:
        parser.fail("Failed to shut down: " + ", ".join(failed), len(failed))
    return 0
