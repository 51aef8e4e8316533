"""qvm-pause, and the loop that qvm-unpause shares."""

from .admin import Parser, QubesException, call, complain


def each(method, description):
    args = Parser(qubes="+", description=description).parse()
    code = 0
    for name in args.qubes:
        try:
            call(method, name)
        except QubesException as error:
            complain(error)
            code = 1
    return code


def main():
    return each("admin.vm.Pause", "pause a domain")
