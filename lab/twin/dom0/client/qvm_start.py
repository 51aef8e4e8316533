"""qvm-start (qubes-cli-formats.md §5)."""

from .admin import Parser, QubesException, call, complain


def main():
    parser = Parser(qubes="+", description="start a domain")
    parser.add_argument("--skip-if-running", action="store_true")
    args = parser.parse()
    code = 0
    for name in args.qubes:
        if args.known[name][1] not in ("Halted", "NA"):
            if args.skip_if_running:
                continue
            complain("domain %s is already running" % name)
            return 1
        try:
            call("admin.vm.Start", name)
        except QubesException as error:
            complain(error)
            code = 1
    return code
