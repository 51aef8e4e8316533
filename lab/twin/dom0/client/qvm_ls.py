"""qvm-ls: the qubes as a table or as raw rows (qubes-cli-formats.md §2)."""

import sys

from .admin import Parser, call, print_table, properties, qubes

FORMATS = {
    "simple": "name,state,class,label,template,netvm",
    "network": "name,state,netvm,ip,ipback,gateway",
    "kernel": "name,state,class,template,kernel,kernelopts",
    "full": "name,state,class,label,qid,xid,uuid",
    "prefs": "name,label,template,netvm,vcpus,initialmem,maxmem,virt_mode",
}
LETTERS = {"AdminVM": "0", "TemplateVM": "t", "AppVM": "a", "StandaloneVM": "s", "DispVM": "d"}
STATES = ("running", "paused", "halted")


class Row:
    def __init__(self, name, known):
        self.name = name
        self.klass, self.state = known[name]
        self.properties = properties(name)

    def text(self, name):
        """A property's text; "" where it has no value or is not there."""
        return self.properties.get(name, (True, "str", ""))[2]

    def cell(self, column):
        special = {
            "NAME": self.name,
            "STATE": self.state,
            "CLASS": self.klass,
            "FLAGS": None,
            "MEMORY": None,
        }
        if column not in special:
            return self.text(column.lower().replace("-", "_")) or "-"
        if column == "FLAGS":
            return self.flags()
        if column == "MEMORY":
            return self.memory()
        return special[column]

    def memory(self):
        """MiB, only of what runs."""
        if self.state in ("Halted", "Paused"):
            return "-"
        return str(
            int(call("admin.vm.CurrentState", self.name).split(" ")[0][len("mem=") :]) // 1024
        )

    def flags(self):
        letter = LETTERS.get(self.klass, "-")
        if letter not in "0-" and self.text("virt_mode") == "hvm":
            letter = letter.upper()
        power = self.state[0].lower() if self.state != "Halted" else "-"
        flags = [
            ("updateable", "U"),
            ("provides_network", "N"),
            ("installed_by_rpm", "R"),
            ("internal", "i"),
            ("debug", "D"),
            ("autostart", "A"),
        ]
        return (
            letter
            + power
            + "".join(sign if self.text(name) == "True" else "-" for name, sign in flags)
        )


def tags(name):
    return set(call("admin.vm.tag.List", name).splitlines())


def feature_is(name, key, value):
    there = key in call("admin.vm.feature.List", name).splitlines()
    return (call("admin.vm.feature.Get", name, key) if there else None) == value


def pairs(parser, option, items):
    """[(key, value)] of KEY=VALUE items; an empty value means not set, two quotes mean empty."""
    for item in items or []:
        key, equals, value = item.partition("=")
        if not key or not equals:
            parser.error("Invalid argument: --%s %s" % (option, item))
        yield key, None if value == "" else "" if value in ("''", '""') else value


def parser_():
    parser = Parser(qubes="*", description="List Qubes domains and their parameters.")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--format", "-o", choices=sorted(FORMATS), default="simple")
    shape.add_argument("--fields", "-O", metavar="FIELD,...")
    shape.add_argument("--network", "-n", action="store_const", dest="format", const="network")
    shape.add_argument("--kernel", "-k", action="store_const", dest="format", const="kernel")
    parser.add_argument("--raw-data", action="store_true")
    parser.add_argument("--raw-list", action="store_true")
    parser.add_argument("--class", dest="classes", nargs="+", metavar="CLASS")
    parser.add_argument("--label", nargs="+", metavar="LABEL")
    parser.add_argument("--tags", nargs="+", metavar="TAG")
    parser.add_argument("--exclude-tags", nargs="+", metavar="TAG")
    for state in STATES:
        parser.add_argument("--" + state, action="store_true")
    parser.add_argument("--features", nargs="+", metavar="FEATURE=VALUE")
    parser.add_argument("--prefs", nargs="+", metavar="PREFERENCE=VALUE")
    parser.add_argument("--spinner", action="store_true", default=True)
    parser.add_argument("--no-spinner", action="store_false", dest="spinner")
    return parser


def chosen(parser, args):
    names = args.qubes or list(args.known)
    if getattr(args, "all_qubes", False):
        names = [name for name in args.known if name not in args.exclude]
    if args.classes:
        names = [name for name in names if args.known[name][0] in args.classes]
    if args.tags:
        names = [name for name in names if tags(name) & set(args.tags)]
    if args.exclude_tags:
        names = [name for name in names if not tags(name) & set(args.exclude_tags)]
    for key, value in pairs(parser, "features", args.features):
        names = [name for name in names if feature_is(name, key, value)]
    rows = [Row(name, args.known) for name in sorted(names)]
    if args.label:
        rows = [row for row in rows if row.text("label") in args.label]
    for key, value in pairs(parser, "prefs", args.prefs):
        rows = [row for row in rows if (row.text(key) or None) == value]
    states = [state for state in STATES if getattr(args, state)]
    return [row for row in rows if not states or row.state.lower() in states]


def main():
    parser = parser_()
    args = parser.parse()
    raw = args.raw_data or args.raw_list
    fields = "name" if args.raw_list else args.fields or FORMATS[args.format]
    columns = [field.strip().upper() for field in fields.split(",")]
    rows = chosen(parser, args)
    table = [[row.cell(column) for column in columns] for row in rows]
    if raw:
        for row in table:
            print("|".join(row))
    else:
        if args.spinner:
            print("please wait... .....", file=sys.stderr)
        print_table([columns] + table)
    return 0
