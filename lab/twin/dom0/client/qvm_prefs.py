"""qvm-prefs, and the part that qubes-prefs shares (qubes-cli-formats.md §3)."""

from .admin import EmptyReply, Parser, QubesException, call, parse_property, properties

# Where "none" means none.
MAY_BE_NONE = ("default_dispvm", "netvm", "template", "guivm", "audiovm")


def make_parser(qubes):
    parser = Parser(qubes=qubes)
    parser.add_argument("--help-properties", action="store_true")
    parser.add_argument("--hide-default", action="store_true")
    parser.add_argument("--get", "-g", action="store_true")
    parser.add_argument("--set", "-s", action="store_true")
    parser.add_argument("property", metavar="PROPERTY", nargs="?")
    parser.add_argument("value", metavar="VALUE", nargs="?")
    parser.add_argument("--default", "-D", dest="delete", action="store_true")
    return parser


def shown(type_, text):
    """What is printed for a value; None where there is none (U in the table)."""
    if type_ == "int" and text == "":
        return None
    return "None" if type_ == "vm" and text == "" else text


def print_all(dest, prefix, hide_default):
    found = properties(dest, prefix)
    width = max(len(name) for name in found)
    for name, (default, type_, text) in sorted(found.items()):
        value = shown(type_, text)
        if value is None:
            print("%s  U" % name.ljust(width))
        elif not (default and hide_default):
            print("%s  %s  %s" % (name.ljust(width), "D" if default else "-", value))


def act(parser, args, dest, prefix):
    if args.help_properties:
        for name in sorted(call(prefix + ".List", dest).splitlines()):
            print(name)
        return 0
    if args.property is None:
        print_all(dest, prefix, args.hide_default)
        return 0
    name = args.property.replace("-", "_")
    try:
        if args.value is not None:
            value = "" if args.value.lower() == "none" and name in MAY_BE_NONE else args.value
            call(prefix + ".Set", dest, name, value.encode())
        elif args.delete:
            call(prefix + ".Reset", dest, name)
        else:
            default, _, text = parse_property(call(prefix + ".Get", dest, name))
            if text and not (args.hide_default and default):
                print(text)
    except EmptyReply as error:
        # `name` is an attribute of the real client's own, which words it otherwise (as recorded).
        parser.fail(error if name == "name" else "Failed to access '%s' property" % name)
    except QubesException as error:
        if error.kind == "QubesNoSuchPropertyError":
            parser.error("no such property: %r" % name)
        parser.fail(error)
    return 0


def main():
    parser = make_parser(1)
    args = parser.parse()
    return act(parser, args, args.qubes[0], "admin.vm.property")
