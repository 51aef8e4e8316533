"""Who somebody is, and accounts. Everything in a qube belongs to one owner here, so being another is a matter of the environment, and a
change of owner is only checked.
"""

import os
import sys

from . import loud

PASSWD, SHADOW = "/etc/passwd", "/etc/shadow"


def rows(path):
    with open(path) as file:
        return [line.rstrip("\n").split(":") for line in file if line.strip()]


def account(name):
    return next((row for row in rows(PASSWD) if row[0] == name), None)


def me():
    return os.environ.get("USER") or "root"


def id(args):
    words = [arg for arg in args if not arg.startswith("-")]
    letters = "".join(arg[1:] for arg in args if arg.startswith("-"))
    name = words[0] if words else me()
    row = account(name)
    if row is None:
        print("id: \u2018%s\u2019: no such user" % name, file=sys.stderr)
        return 1
    if letters in ("u", "g"):
        print(row[2] if letters == "u" else row[3])
    elif letters in ("un", "nu"):
        print(name)
    elif not letters:
        print("uid=%s(%s) gid=%s(%s) groups=%s(%s)" % (row[2], name, row[3], name, row[3], name))
    else:
        loud(" ".join(args))
    return 0


def whoami(args):
    print(me())
    return 0


def become(name, argv):
    row = account(name)
    if row is None:
        print("%s: user %s does not exist" % (os.path.basename(sys.argv[0]), name), file=sys.stderr)
        return 1
    os.environ.update(USER=name, LOGNAME=name, HOME=row[5])
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        print("%s: %s: %s" % (os.path.basename(sys.argv[0]), argv[0], error.strerror), file=sys.stderr)
        return 127


def runuser(args):
    if args[:1] != ["-u"] or args[2:3] != ["--"]:
        loud(" ".join(args))
    os.environ.update(USER=args[1], LOGNAME=args[1])
    os.execvp(args[3], args[3:])


def su(args):
    args = [arg for arg in args if arg not in ("-", "-l", "--login")]
    if len(args) != 3 or args[1] != "-c":
        loud(" ".join(args))
    return become(args[0], ["/bin/sh", "-c", args[2]])


def sudo(args):
    name = "root"
    while args and args[0].startswith("-"):
        if args[0] == "-u":
            name, args = args[1], args[2:]
        elif args[0] in ("-n", "-H", "-E", "--"):
            args = args[1:]
        else:
            loud(" ".join(args))
    return become(name, args)


def set_hash(name, text):
    found = rows(SHADOW)
    if not any(row[0] == name for row in found):
        return False
    changed = "".join(":".join([row[0], text] + row[2:] if row[0] == name else row) + "\n" for row in found)
    with open(SHADOW + ".new", "w") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(changed)
    os.rename(SHADOW + ".new", SHADOW)
    return True


def refused():
    if me() != "root":
        print("%s: Permission denied.\n%s: cannot lock /etc/passwd; try again later." % ((os.path.basename(sys.argv[0]),) * 2), file=sys.stderr)
        return True
    return False


def usermod(args):
    if refused():
        return 1
    if len(args) == 3 and args[0] in ("-p", "--password"):
        text, name = args[1], args[2]
    elif len(args) == 2 and args[0] in ("-L", "--lock", "-U", "--unlock"):
        name = args[1]
        now = next((row[1] for row in rows(SHADOW) if row[0] == name), "")
        text = "!" + now.lstrip("!") if args[0] in ("-L", "--lock") else now.lstrip("!")
    else:
        loud(" ".join(args))
    if not set_hash(name, text):
        print("usermod: user '%s' does not exist" % name, file=sys.stderr)
        return 6
    return 0


def chpasswd(args):
    if refused():
        return 1
    if args != ["-e"] and args != ["--encrypted"]:
        loud("chpasswd without -e")
    for line in sys.stdin:
        name, _, text = line.rstrip("\n").partition(":")
        if not set_hash(name, text):
            print("chpasswd: line 1: user '%s' does not exist" % name, file=sys.stderr)
            return 1
    return 0


def owners(args):
    words = [arg for arg in args if not arg.startswith("-")]
    code = 0
    if not any(arg.startswith("--reference") for arg in args):
        user, _, group = words.pop(0).replace(".", ":").partition(":")
        if os.path.basename(sys.argv[0]) == "chgrp":
            user, group = "", user
        groups = [row[0] for row in rows("/etc/group")]
        if user and account(user) is None and not user.isdigit():
            print("chown: invalid user: \u2018%s\u2019" % user, file=sys.stderr)
            return 1
        if group and group not in groups and not group.isdigit():
            print("chown: invalid group: \u2018%s\u2019" % group, file=sys.stderr)
            return 1
    for path in words:
        if not os.path.lexists(path):
            print("chown: cannot access '%s': No such file or directory" % path, file=sys.stderr)
            code = 1
    return code


chown = chgrp = owners
