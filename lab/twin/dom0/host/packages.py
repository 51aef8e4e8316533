"""dom0's package database and what can be downloaded into it. The stand-ins for rpm, dnf and qubes-dom0-update use it.

The database is /var/lib/rpm/twin.json, {"packages": {name: "version-release"}}; the repository stands in world.json.
"""
import jsonfile  # beside this file

DATABASE = "/var/lib/rpm/twin.json"
WORLD = "/run/twin/world.json"
RELEASE = "1.fc41"
ARCH = "x86_64"


def world():
    return jsonfile.load(WORLD)


def installed():
    """{name: "version-release"}"""
    return {name: full(version) for name, version in jsonfile.load(DATABASE)["packages"].items()}


def full(version):
    return version if "-" in version else "%s-%s" % (version, RELEASE)


def change(install=None, remove=()):
    """Writes the database in one step, under rpm's lock. Raises OSError, the database then is as before."""
    import fcntl  # here: `rpm -q` does without
    import json
    import os

    with open("/var/lib/rpm/.rpm.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        packages = installed()
        packages.update(install or {})
        for name in remove:
            del packages[name]
        new = DATABASE + ".new"
        try:
            with open(new, "w") as file:
                json.dump({"packages": packages}, file, indent=1, sort_keys=True)
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, DATABASE)
        except OSError:
            if os.path.exists(new):
                os.unlink(new)
            raise


def transaction(title, rows):
    """dnf's words for what it does; rows: [(name, version)]."""
    lines = ["Dependencies resolved.", "%s:" % title]
    lines += [" %s  %s  %s" % (name, ARCH, version) for name, version in rows]
    return "\n".join(lines + ["", "Transaction Summary", "%s  %d Package(s)" % (title, len(rows)), "Complete!"])
