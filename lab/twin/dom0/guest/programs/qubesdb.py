"""qubesdb-read, qubesdb-list and qubesdb-multiread: what dom0 tells this qube, as qubesd last wrote it (core-qubesdb, client)."""

import json
import sys

from . import loud

STORE = "/.guest/model/qubesdb.json"


def entries():
    with open(STORE) as file:
        return json.load(file)


def paths(args):
    for arg in args:
        if arg.startswith("-"):
            loud(arg)
    return args


def qubesdb_read(args):
    default = None
    if args[:1] == ["--default"] or args[:1] == ["-d"]:
        default, args = args[1], args[2:]
    known, code = entries(), 0
    for path in paths(args):
        if path in known:
            print(known[path])
        elif default is not None:
            print(default)
        else:
            print("Failed to read %s" % path, file=sys.stderr)
            code = 2
    return code


def below(path):
    return [(name, text) for name, text in sorted(entries().items()) if name.startswith(path)]


def qubesdb_list(args):
    for path in paths(args):
        for name, _ in below(path):
            print(name[len(path) :])
    return 0


def qubesdb_multiread(args):
    for path in paths(args):
        for name, text in below(path):
            print("%s = %s" % (name[len(path) :], text))
    return 0
