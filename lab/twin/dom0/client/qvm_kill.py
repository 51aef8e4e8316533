"""qvm-kill: nothing is said of a qube that is off (qubes-cli-formats.md §5)."""

from .admin import Parser, QubesException, call, complain


def main():
    args = Parser(qubes="+", description="forceful shutdown of a domain").parse()
    code = 0
    for name in args.qubes:
        try:
            call("admin.vm.Kill", name)
        except QubesException as error:
            if error.kind != "QubesVMNotStartedError":
                complain("Failed to kill '%s': %s" % (name, error))
                code = 1
    return code
