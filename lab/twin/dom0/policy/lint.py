"""qubes-policy-lint: each line for itself; what a line includes is not looked at
(qubes-cli-formats.md §9).
"""

import argparse
import sys

from . import POLICY, Parser, PolicySyntaxError


def stub(name):
    """Any path below policy.d or its include folder counts as an empty file."""
    if "/" in name and (not name.startswith("include/") or name.count("/") > 1):
        raise ValueError(
            "invalid path %s, only paths inside the directories %s and %s/include are considered"
            % (name, POLICY, POLICY)
        )
    return name, ""


def lint(path, lines, as_include, show):
    """The complaints, one text a line."""
    found = []
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        parser = Parser(stub, lambda name: [], lambda place: [])
        try:
            parser.parse(path, line, (None, None) if as_include else None)
        except PolicySyntaxError as error:
            found.append(
                "%s:%d: error: %s%s" % (path, number, error.text, ": " + line if show else "")
            )
    return found


def read_lines(path):
    if path == "-":
        return sys.stdin.read().splitlines()
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().splitlines()
    except FileNotFoundError:
        print(path + ":0: error: File does not exist.")
        raise


def main():
    parser = argparse.ArgumentParser(prog="qubes-policy-lint")
    parser.add_argument(
        "-s",
        "--show-line",
        "--show",
        action="store_true",
        help="show the line that caused the error",
    )
    parser.add_argument(
        "-i", "--include-service", action="store_true", help="lint files of !include-service"
    )
    parser.add_argument("file", metavar="FILE", nargs="+")
    args = parser.parse_args()
    for path in args.file:  # the first file with an error is the last that is read
        found = lint(path, read_lines(path), args.include_service, args.show_line)
        if found:
            print("\n".join(found))
            return 1
    return 0
