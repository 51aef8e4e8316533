"""dpkg-query, dpkg, apt-get, apt-cache and apt-mark of Debian 12, as far as Salt's `pkg` and a person need them.

What is installed is /var/lib/dpkg/status (deb-control(5)); what can be had stands in world.json ("repository"). Faults:
world.faults.packages {"dom0" or "*": {"fail": {PACKAGE: words}, "offline"}}, and `network: false`.
"""
import fcntl
import os
import re
import sys

from qubesd.world import World

STATUS, LOCK = "/var/lib/dpkg/status", "/var/lib/dpkg/lock-frontend"


def read():
    """{name: {field: value}}, also of packages that were removed but whose configuration stays."""
    found = {}
    with open(STATUS, encoding="utf-8") as file:
        for part in file.read().split("\n\n"):
            fields = dict(line.split(": ", 1) for line in part.split("\n") if ": " in line and not line.startswith(" "))
            if "Package" in fields:
                found[fields["Package"]] = fields
    return found


def write(packages):
    """In one step. Raises OSError; the database is then as before."""
    text = "\n".join("".join("%s: %s\n" % field for field in packages[name].items()) for name in sorted(packages))
    new = STATUS + "-new"
    try:
        with open(new, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, STATUS)
    except OSError:
        if os.path.exists(new):
            os.unlink(new)
        raise


def there(fields):
    return bool(fields) and fields["Status"].endswith(" installed")


def installed():
    return {name: fields["Version"] for name, fields in read().items() if there(fields)}


def main(name, words):
    return {"dpkg-query": query, "dpkg": dpkg, "apt-get": apt, "apt-cache": cache, "apt-mark": mark}[name](words)


def show(template, fields):
    values = dict(fields, **{"binary:Package": fields["Package"], "db:Status-Abbrev": "ii " if there(fields) else "rc "})
    values["Status"] = fields["Status"]
    values["db:Status-Status"] = fields["Status"].split()[-1]
    text = re.sub(r"\$\{([^};]+)(?:;-?\d+)?\}", lambda found: values.get(found.group(1), ""), template)
    return text.replace("\\n", "\n").replace("\\t", "\t")


def query(words):
    """dpkg-query -W [-f FORMAT] [NAME…], -s NAME…, -l"""
    template, names, verb, rest = "${Package}\t${Version}\n", [], None, iter(words)
    for word in rest:
        if word in ("-W", "--show", "-s", "--status", "-l", "--list"):
            verb = word.lstrip("-")[0].lower()
        elif word == "-f":
            template = next(rest, "")
        elif word.startswith(("-f", "--showformat=")):
            template = word.split("=", 1)[1] if "=" in word[:14] else word[2:]
        elif word == "--showformat":
            template = next(rest, "")
        elif word.startswith("-"):
            sys.exit("dpkg-query: error: unknown option %s" % word)
        else:
            names.append(word.partition(":")[0])
    known, code = read(), 0
    for name in names or sorted(known):
        fields = known.get(name)
        if fields is None:
            print("dpkg-query: no packages found matching %s" % name if verb != "s" else "dpkg-query: package '%s' is not installed and no information is available" % name, file=sys.stderr)
            code = 1
        elif verb == "s":
            print("".join("%s: %s\n" % field for field in fields.items()))
        elif verb == "l":
            print("%s  %s  %s  %s" % ("ii" if there(fields) else "rc", name, fields["Version"], fields["Architecture"]))
        else:
            sys.stdout.write(show(template, fields))
    return code


def dpkg(words):
    if words[:1] == ["--print-architecture"]:
        print("amd64")
        return 0
    if words[:1] == ["--print-foreign-architectures"]:
        return 0
    if words[:1] == ["--get-selections"]:
        for name, fields in sorted(read().items()):
            if len(words) == 1 or name in words[1:]:
                print("%s\t\t%s" % (name, "install" if there(fields) else "deinstall"))
        return 0
    if words[:1] == ["--compare-versions"] and len(words) == 4:
        return 0 if compared(words[1], words[2], words[3]) else 1
    if words and words[0] in ("-s", "--status", "-l", "--list"):
        return query(words)
    sys.exit("dpkg: error: the twin does not know: dpkg %s" % " ".join(words))


def compared(left, operator, right):
    """Versions of deb-version(7)."""

    def order(char):
        return -1 if char == "~" else ord(char) if char.isalpha() else ord(char) + 256

    def key(text):
        parts = re.findall(r"(\D*)(\d*)", text)
        return [([order(char) for char in letters] + [0], int(digits or "0")) for letters, digits in parts]

    def whole(version):
        epoch, _, rest = version.rpartition(":")
        upstream, _, revision = rest.rpartition("-") if "-" in rest else (rest, "", "0")
        return int(epoch or "0"), key(upstream), key(revision)

    a, b = whole(left), whole(right)
    return {"lt": a < b, "le": a <= b, "eq": a == b, "ne": a != b, "ge": a >= b, "gt": a > b, "<<": a < b, ">>": a > b}.get(operator, False)


def candidates(world):
    return dict(world.get("repository") or {})


def cache(words):
    words = [word for word in words if not word.startswith("-")]
    if words[:1] != ["policy"]:
        sys.exit("E: Invalid operation %s" % " ".join(words[:1]))
    now, offered = installed(), candidates(World())
    for name in words[1:]:
        if name in now or name in offered:
            version = now.get(name, "(none)")
            print("%s:\n  Installed: %s\n  Candidate: %s\n  Version table:" % (name, version, offered.get(name, version)))
    return 0


def mark(words):
    if words[:1] in (["showhold"], ["showmanual"], ["showauto"]):
        return 0
    print("%s set to manually installed." % words[-1])
    return 0


OPTIONS = "-q -qq -y --yes --assume-yes --allow-unauthenticated --force-yes --no-install-recommends --purge -qy --auto-remove".split()


def apt(words):
    """apt-get [OPTION…] update | install | remove | purge NAME…"""
    rest, given = [], iter(words)
    simulate = False
    for word in given:
        if word in ("-o", "-t", "-c"):
            next(given, None)
        elif word in ("-s", "--just-print", "--simulate"):
            simulate = True
        elif word in OPTIONS or word.startswith(("-o", "--allow-")):
            pass
        elif word.startswith("-"):
            sys.exit("E: Command line option '%s' is not understood in combination with the other options." % word)
        else:
            rest.append(word)
    verb, names = (rest or [""])[0], rest[1:]
    if verb not in ("update", "install", "remove", "purge", "autoremove"):
        sys.exit("E: Invalid operation %s" % verb)
    world = World()
    faults = (world.get("faults") or {}).get("packages") or {}
    fault = faults.get("dom0", faults.get("*")) or {}
    offline = not world.get("network", True) or fault.get("offline")
    if verb == "update":
        if offline:
            print("W: Failed to fetch http://debian.invalid/debian/dists/bookworm/InRelease  Temporary failure resolving 'debian.invalid'", file=sys.stderr)
            print("W: Some index files failed to download. They have been ignored, or old ones used instead.", file=sys.stderr)
        print("Reading package lists...")
        return 0
    with open(LOCK, "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print("E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process %d (apt-get)" % os.getppid(), file=sys.stderr)
            return 100
        return transaction(world, verb, names, offline, fault.get("fail") or {}, simulate)


def transaction(world, verb, names, offline, failing, simulate):
    print("Reading package lists...\nBuilding dependency tree...\nReading state information...")
    known, offered = read(), candidates(world)
    rows = []
    for each in names:
        name, _, version = each.partition("=")
        name = name.partition(":")[0]
        if verb == "install":
            if name not in offered and not there(known.get(name)):
                print("E: Unable to locate package %s" % name, file=sys.stderr)
                return 100
            if version and offered.get(name) != version and (known.get(name) or {}).get("Version") != version:
                print("E: Version '%s' for '%s' was not found" % (version, name), file=sys.stderr)
                return 100
            wanted = offered.get(name) or known[name]["Version"]
            if there(known.get(name)) and known[name]["Version"] == wanted:
                print("%s is already the newest version (%s)." % (name, wanted))
            else:
                rows.append((name, wanted))
        elif there(known.get(name)):
            rows.append((name, known[name]["Version"]))
        elif verb != "autoremove":
            print("Package '%s' is not installed, so not removed" % name)
    print("%d upgraded, %d newly installed, %d to remove and 0 not upgraded." % (0, len(rows) if verb == "install" else 0, len(rows) if verb != "install" else 0))
    if simulate or not rows:
        return 0
    if verb == "install" and offline:
        name, version = rows[0]
        path = "http://debian.invalid/debian/pool/main/%s/%s/%s_%s_amd64.deb" % (name[0], name, name, version.partition(":")[2] or version)
        print("E: Failed to fetch %s  Temporary failure resolving 'debian.invalid'" % path, file=sys.stderr)
        print("E: Unable to fetch some archives, maybe run apt-get update or try with --fix-missing?", file=sys.stderr)
        return 100
    for name, _ in rows:
        if name in failing:
            print("dpkg: error processing package %s (--configure):\n %s" % (name, failing[name]), file=sys.stderr)
            print("E: Sub-process /usr/bin/dpkg returned an error code (1)", file=sys.stderr)
            return 100
    for name, version in rows:
        if verb == "install":
            known[name] = {"Package": name, "Status": "install ok installed", "Architecture": "amd64", "Version": version}
            print("Setting up %s (%s) ..." % (name, version))
        else:
            known.pop(name)
            print("Removing %s (%s) ..." % (name, version))
    try:
        write(known)
    except OSError as error:
        print("E: Write error - write (%d: %s)" % (error.errno, error.strerror), file=sys.stderr)
        return 100
    return 0
