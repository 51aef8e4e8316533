"""qvm-tags (qubes-cli-formats.md §4)."""

import argparse

from .admin import Parser, QubesException, call


def make_parser():
    parser = Parser(qubes=1, description="manage domain's tags")
    commands = parser.add_subparsers(
        title="commands", dest="command", parser_class=argparse.ArgumentParser
    )
    commands.add_parser("list", aliases=("ls", "l")).add_argument("tag", nargs="?")
    commands.add_parser("add", aliases=("a", "set")).add_argument("tags", nargs="+")
    commands.add_parser("del", aliases=("d", "unset", "u")).add_argument("tags", nargs=1)
    return parser


def main():
    parser = make_parser()
    args = parser.parse()
    name = args.qubes[0]
    try:
        if args.command in ("add", "a", "set"):
            for tag in args.tags:
                call("admin.vm.tag.Set", name, tag)
        elif args.command in ("del", "d", "unset", "u"):
            for tag in args.tags:
                remove(name, tag)
        else:
            wanted = getattr(args, "tag", None)
            tags = call("admin.vm.tag.List", name).splitlines()
            if wanted is not None and wanted not in tags:
                return 1
            for tag in tags if wanted is None else [wanted]:
                print(tag)
    except QubesException as error:
        parser.fail(error)
    return 0


def remove(name, tag):
    """Removing what is not there is fine."""
    try:
        call("admin.vm.tag.Remove", name, tag)
    except QubesException as error:
        if error.kind != "QubesTagNotFoundError":
            raise
