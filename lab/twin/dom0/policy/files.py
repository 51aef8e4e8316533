"""qubes-policy: lists, shows, replaces and removes policy files, each change tried on the whole
policy first.
"""

import argparse
import os
import re
import sys

from . import POLICY, RPC_CHARACTERS, AccessDenied, PolicySyntaxError, load


class Failed(Exception):
    pass


def path_of(name, include):
    if not re.fullmatch(r"[\w-]+", name, re.ASCII):
        raise Failed(
            "Invalid policy file name: %s\n"
            "Names must contain only alphanumeric characters, underscore and hyphen."
            % name
        )
    return (
        os.path.join(POLICY, "include", name) if include else os.path.join(POLICY, name + ".policy")
    )


def try_out(path, text):
    try:
        load((POLICY,), {path: text})
    except (PolicySyntaxError, AccessDenied) as error:
        raise Failed("Policy change validation failed: %s" % error)


def existing(path):
    if not os.path.isfile(path):
        raise Failed("Not found: %s" % path)
    return path


def list_(include):
    folder = os.path.join(POLICY, "include") if include else POLICY
    names = [name for name in os.listdir(folder) if os.path.isfile(os.path.join(folder, name))]
    if not include:
        names = [name[: -len(".policy")] for name in names if name.endswith(".policy")]
    return "\n".join(sorted(names))


def replace(path, text):
    try_out(path, text)
    new = os.path.join(os.path.dirname(path), "!" + os.path.basename(path))
    with open(new, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(new, 0o664)
    os.rename(new, path)


def act(method, name, include):
    if method == "list":
        return print(list_(include))
    path = path_of(name, include)
    if method == "get":
        with open(existing(path), encoding="utf-8") as file:
            return print(file.read().rstrip())
    if method == "replace":
        return replace(path, sys.stdin.read())
    existing(path)
    try_out(path, None)
    os.unlink(path)


def main():
    parser = argparse.ArgumentParser(
        usage="qubes-policy {[-l]|-g|-r|-d} [include/][RPCNAME[+ARGUMENT]]"
    )
    for short, method in (("-l", "list"), ("-g", "get"), ("-r", "replace"), ("-d", "remove")):
        parser.add_argument(short, "--" + method, dest="method", action="store_const", const=method)
    parser.add_argument("name", metavar="[include/][name]", nargs="?")
    parser.set_defaults(method="list", name="")
    args = parser.parse_args()
    if os.getuid() != 0:
        print("You need to run as root in dom0")
        return 1
    include = args.name == "include" or args.name.startswith("include/")
    name = args.name[len("include/") :] if include else args.name
    wrong = set(name) - RPC_CHARACTERS
    if wrong:
        parser.error("invalid character(s) in RPCNAME: %r" % "".join(sorted(wrong)))
    if args.method == "list" and name:
        parser.error("--list doesn't work with a file name")
    if args.method != "list" and not name:
        parser.error("you need to provide a file name")
    try:
        act(args.method, name, include)
    except Failed as error:
        print("Command failed", file=sys.stderr)
        print(error)
        return 1
    return 0
