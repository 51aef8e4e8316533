"""rpm and dnf of Fedora, dpkg, dpkg-query and apt-get of Debian. The template came with INSIDE["came"]; what changed since is recorded on
the root volume (layers.py). There is to have what world.json says: distributions {ID: {name: version}}.

Known: rpm -q, -qa, --queryformat; dnf [-y] install|remove|upgrade|makecache|list|check-update; dpkg-query -W [-f]; dpkg -s;
apt-get [-y] update|install|remove|purge|upgrade. Faults: world["faults"]["packages"], see `fault`.
"""

import fcntl
import json
import os
import re
import sys
import time

from guest import base, layers

from . import INSIDE, loud, not_found, world

ESCAPES = {"\\n": "\n", "\\t": "\t", "\\\\": "\\"}


# --- the record


def database():
    return layers.DATABASES[INSIDE["os"]]


def came():
    return {name: full(version) for name, version in INSIDE["came"].items()}


def full(version):
    if INSIDE["os"] != "fedora" or "-" in version:
        return version
    return "%s-1.fc%s" % (version, INSIDE["osVersion"])


def installed():
    return {name: full(version) for name, version in layers.recorded("", INSIDE["os"], INSIDE["came"]).items()}


def change(install, remove):
    """Files first, the record last, in one step. Raises OSError."""
    before = set(installed())
    lay(base.of_packages([name for name in install if name not in before]))
    for path in sorted(base.of_packages(remove), reverse=True):
        if os.path.lexists(path):
            os.unlink(path)
    after = dict(installed(), **install)
    for name in remove:
        after.pop(name, None)
    changes = {
        "installed": {name: version for name, version in after.items() if came().get(name) != version},
        "removed": sorted(set(came()) - set(after)),
    }
    path = database()
    if not changes["installed"] and not changes["removed"]:
        if os.path.lexists(path):
            os.unlink(path)
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".new", "w") as file:
        json.dump(changes, file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".new", path)


def lay(files):
    for path, text in files.items():
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if isinstance(text, base.Link):
            if not os.path.lexists(path):  # another display manager stays what it is
                os.symlink(text, path)
        elif not os.path.lexists(path):
            with open(path, "w") as file:
                file.write(text)
            os.chmod(path, 0o755 if isinstance(text, base.Program) else 0o644)


def needed(names, has):
    """The names and what they need, in order, without what is there."""
    found = []
    for name in names:
        if name not in has and name not in found:
            found += [each for each in needed(base.REQUIRES.get(name, []), set(has) | {name}) if each not in found] + [name]
    return found


# --- what is to be had


def available(has_network_error):
    now = world()
    if not online(now):
        has_network_error()
    return {name: full(version) for name, version in (now.get("distributions") or {}).get(INSIDE["os"], {}).items()}


def online(now):
    """A template has no network but the updates proxy of the qube that has it; a qube with a network domain needs none."""
    return bool(now.get("network", True)) and not fault(now, "offline")


def fault(now, name):
    """world["faults"]["packages"] {qube: {fail: {package: text}, seconds, offline, hold}}"""
    found = (now.get("faults") or {}).get("packages") or {}
    return (found.get(INSIDE["name"], found.get("*")) or {}).get(name)


def take_time():
    """As long as the world says it takes: seconds, or until nobody holds it."""
    time.sleep(fault(world(), "seconds") or 0)
    while fault(world(), "hold"):
        time.sleep(0.02)


def locked(path, refusal):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    lock = open(path, "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        refusal()
    return lock


def root_only(text, code):
    if (os.environ.get("USER") or "root") != "root":
        print(text, file=sys.stderr)
        sys.exit(code)


# --- Fedora


def rpm(args):
    if INSIDE["os"] != "fedora":
        not_found()
    template, names, every, query = None, [], False, False
    rest = iter(args)
    for argument in rest:
        if argument in ("-q", "--query"):
            query = True
        elif argument == "-qa":
            query = every = True
        elif argument in ("-a", "--all"):
            every = True
        elif argument in ("--qf", "--queryformat"):
            template = next(rest, "")
        elif argument.startswith(("--qf=", "--queryformat=")):
            template = argument.split("=", 1)[1]
        elif argument in ("--quiet", "--nosignature", "--nodigest"):
            pass
        elif argument.startswith("-"):
            loud(argument)
        else:
            names.append(argument)
    if not query or not (every or names):
        loud(" ".join(args))
    has, missing = installed(), 0
    for name in sorted(has) if every else names:
        if name in has:
            sys.stdout.write(show(template or "%{NVRA}\\n", name, has[name]))
        else:
            print("package %s is not installed" % name)
            missing += 1
    return min(missing, 255)


def show(template, name, version):
    number, release = version.rsplit("-", 1)
    epoch, _, number = number.rpartition(":")
    values = {
        "NAME": name,
        "VERSION": number,
        "RELEASE": release,
        "ARCH": "x86_64",
        "EPOCH": epoch or "(none)",
        "EPOCHNUM": epoch or "0",
        "EVR": version,
        "NVRA": "%s-%s-%s.x86_64" % (name, number, release),
    }
    text = re.sub(r"\\[nt\\]", lambda match: ESCAPES[match.group()], template)
    return re.sub(r"%\{(\w+)\}", lambda match: values.get(match.group(1).upper(), "(none)"), text)


def dnf(args):
    if INSIDE["os"] != "fedora":
        not_found()
    yes = bool({"-y", "--assumeyes"} & set(args))
    words = []
    for argument in args:
        if not argument.startswith("-"):
            words.append(argument)
        elif argument.split("=")[0] not in (
            "-y --assumeyes -q --quiet --best --allowerasing --refresh --setopt --exclude --enablerepo --disablerepo --nogpgcheck --skip-unavailable"
        ).split():
            loud(argument)
    action, names = (words or [""])[0], words[1:]
    if action not in ("install", "remove", "erase", "upgrade", "update", "makecache", "list", "check-update"):
        loud("dnf " + " ".join(words))
    if action in ("install", "remove", "erase", "upgrade", "update"):
        root_only("Error: This command has to be run with superuser privileges (under the root user on most systems).", 1)
        lock = locked("/run/lock/dnf", lambda: sys.exit("Waiting for process with pid to finish: the twin's dnf does not wait"))  # noqa: F841
    has = installed()
    if action in ("remove", "erase"):
        gone = [name for name in names if name in has]
        for name in set(names) - set(gone):
            print("No packages to remove for argument: %s" % name)
        if not gone:
            print("Nothing to do.")
            return 0
        gone += [name for name in has if set(base.REQUIRES.get(name, [])) & set(gone) and name not in gone]
        return transaction("Removing", [(name, has[name]) for name in gone], lambda: change({}, gone), yes)
    there = available(no_network_of_fedora)
    if action == "makecache":
        print("Metadata cache created.")
        return 0
    if action in ("list", "check-update"):
        rows = {n: v for n, v in there.items() if (not names or n in names) and (n not in has or has[n] != v) and (action == "list" or n in has)}
        for name, version in sorted(rows.items()):
            print("%s.x86_64 %s updates" % (name, version))
        return 100 if action == "check-update" and rows else 1 if action == "list" and not rows else 0
    if action in ("upgrade", "update"):
        names = [name for name in names or has if name in has and there.get(name, has[name]) != has[name]]
        wanted = names
    else:
        missing = [name for name in names if name not in there and name not in has]
        if missing:
            print("Failed to resolve the transaction:", file=sys.stderr)
            for name in missing:
                print("No match for argument: %s" % name, file=sys.stderr)
            print("You can try to add to command line:\n  --skip-unavailable to skip unavailable packages", file=sys.stderr)
            return 1
        for name in names:
            if name in has:
                print('Package "%s-%s.x86_64" is already installed.' % (name, has[name]))
        wanted = needed(names, has)
        unmet = [name for name in wanted if name not in there]
        if unmet:
            print("Failed to resolve the transaction:\nProblem: nothing provides %s" % unmet[0], file=sys.stderr)
            return 1
    if not wanted:
        print("\nNothing to do.")
        return 0
    for name in wanted:
        text = (fault(world(), "fail") or {}).get(name)
        if text:
            take_time()
            print("Running transaction", file=sys.stderr)
            print("Transaction failed: %s" % text, file=sys.stderr)
            return 1
    return transaction("Installing", [(name, there[name]) for name in wanted], lambda: change({name: there[name] for name in wanted}, []), yes)


def no_network_of_fedora():
    print(
        ">>> Curl error (7): Could not connect to server for https://mirrors.fedoraproject.org/metalink?repo=fedora-%s&arch=x86_64 []\n"
        "Failed to download metadata (metalink: \"https://mirrors.fedoraproject.org/metalink?repo=fedora-%s&arch=x86_64\") for repository \"fedora\": "
        "Cannot prepare internal mirrorlist: Curl error (7): Could not connect to server" % ((INSIDE["osVersion"],) * 2),
        file=sys.stderr,
    )
    sys.exit(1)


def transaction(title, rows, work, yes):
    if not yes:
        print("Operation aborted by the user.", file=sys.stderr)
        return 1
    take_time()
    try:
        work()
    except OSError as error:
        print("Transaction failed: %s" % error.strerror, file=sys.stderr)
        return 1
    print("%s:" % title)
    for name, version in rows:
        print(" %s  x86_64  %s" % (name, version))
    print("\nTransaction Summary:\n %s: %d package(s)\n\nComplete!" % (title, len(rows)))
    return 0


# --- Debian


def dpkg_query(args):
    if INSIDE["os"] != "debian":
        not_found()
    if not args or args[0] not in ("-W", "--show"):
        loud(" ".join(args))
    template, names = "${Package}\\t${Version}\\n", []
    rest = iter(args[1:])
    for argument in rest:
        if argument in ("-f", "--showformat"):
            template = next(rest, "")
        elif argument.startswith(("-f=", "--showformat=")):
            template = argument.split("=", 1)[1]
        elif argument.startswith("-"):
            loud(argument)
        else:
            names.append(argument)
    has, code = installed(), 0
    for name in names or sorted(has):
        if name not in has:
            print("dpkg-query: no packages found matching %s" % name, file=sys.stderr)
            code = 1
            continue
        values = {"Package": name, "binary:Package": name, "Version": has[name], "Architecture": "amd64", "Status": "install ok installed", "db:Status-Status": "installed", "db:Status-Abbrev": "ii "}
        text = re.sub(r"\\[nt\\]", lambda match: ESCAPES[match.group()], template)
        sys.stdout.write(re.sub(r"\$\{([\w:-]+)\}", lambda match: values.get(match.group(1), ""), text))
    return code


def dpkg(args):
    if INSIDE["os"] != "debian":
        not_found()
    if len(args) != 2 or args[0] not in ("-s", "--status"):
        loud(" ".join(args))
    has = installed()
    if args[1] not in has:
        print("dpkg-query: package '%s' is not installed and no information is available" % args[1], file=sys.stderr)
        return 1
    print("Package: %s\nStatus: install ok installed\nVersion: %s" % (args[1], has[args[1]]))
    return 0


def apt_get(args):
    if INSIDE["os"] != "debian":
        not_found()
    yes, words, rest = False, [], iter(args)
    for argument in rest:
        if argument in ("-y", "--yes", "--assume-yes"):
            yes = True
        elif argument in ("-o", "--option"):
            next(rest, "")
        elif argument in ("-q", "-qq", "--quiet", "--no-install-recommends", "--allow-downgrades"):
            pass
        elif argument.startswith("-"):
            loud(argument)
        else:
            words.append(argument)
    action, names = (words or [""])[0], words[1:]
    if action not in ("update", "install", "remove", "purge", "upgrade"):
        loud("apt-get " + " ".join(words))
    denied = "E: Could not open lock file /var/lib/dpkg/lock-frontend - open (13: Permission denied)\nE: Unable to acquire the dpkg frontend lock (/var/lib/dpkg/lock-frontend), are you root?"
    root_only(denied, 100)
    lock = locked(  # noqa: F841
        "/run/lock/dpkg", lambda: sys.exit("E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 1 (apt-get)")
    )
    has = installed()
    if action == "update":
        if not online(world()):
            print("Err:1 https://deb.example.org/debian trixie InRelease\n  Invalid response from proxy: HTTP/1.0 500 Unable to connect", file=sys.stderr)
            print("W: Failed to fetch https://deb.example.org/debian/dists/trixie/InRelease", file=sys.stderr)
        else:
            print("Hit:1 https://deb.example.org/debian trixie InRelease\nReading package lists...")
        return 0
    if action in ("remove", "purge"):
        there_is = set(has) | set(((world().get("distributions") or {}).get("debian")) or {})
        unknown = [name for name in names if name not in there_is]
        if unknown:
            print("E: Unable to locate package %s" % unknown[0], file=sys.stderr)
            return 100
        gone = [name for name in names if name in has]
        gone += [name for name in has if set(base.REQUIRES.get(name, [])) & set(gone) and name not in gone]
        return apt_transaction("REMOVED", gone, lambda: change({}, gone), yes)
    there = (world().get("distributions") or {}).get("debian") or {}
    if action == "upgrade":
        wanted = [name for name in has if there.get(name, has[name]) != has[name]]
    else:
        missing = [name for name in names if name not in there and name not in has]
        if missing:
            print("Reading package lists...\nBuilding dependency tree...")
            for name in missing:
                print("E: Unable to locate package %s" % name, file=sys.stderr)
            return 100
        wanted = needed(names, has)
        for name in names:
            if name in has:
                print("%s is already the newest version (%s)." % (name, has[name]))
        unmet = [name for name in wanted if name not in there]
        if unmet:
            print("The following packages have unmet dependencies:\n E: Unable to correct problems, you have held broken packages.", file=sys.stderr)
            return 100
    if wanted and not online(world()):
        print("E: Failed to fetch https://deb.example.org/debian/pool/main/%s.deb  Invalid response from proxy: HTTP/1.0 500 Unable to connect" % wanted[0], file=sys.stderr)
        print("E: Unable to fetch some archives, maybe run apt-get update or try with --fix-missing?", file=sys.stderr)
        return 100
    for name in wanted:
        text = (fault(world(), "fail") or {}).get(name)
        if text:
            take_time()
            print("dpkg: error processing package %s (--configure):\n %s\nE: Sub-process /usr/bin/dpkg returned an error code (1)" % (name, text), file=sys.stderr)
            return 100
    return apt_transaction("NEW", wanted, lambda: change({name: there[name] for name in wanted}, []), yes)


def apt_transaction(title, names, work, yes):
    print("Reading package lists...\nBuilding dependency tree...\nReading state information...")
    if not names:
        print("0 upgraded, 0 newly installed, 0 to remove and 0 not upgraded.")
        return 0
    print("The following %s:\n  %s" % ("packages will be REMOVED" if title == "REMOVED" else "NEW packages will be installed", " ".join(names)))
    if not yes:
        print("Do you want to continue? [Y/n] Abort.")
        return 1
    take_time()
    try:
        work()
    except OSError as error:
        print("E: Write error - write (%d: %s)" % (error.errno, error.strerror), file=sys.stderr)
        return 100
    return 0
