#!/usr/lib/dom0-python/bin/python3
"""dom0 as one JSON document: {qubes, packages, files}. Arguments: paths that are left out with everything below."""
import hashlib
import json
import os
import stat
import subprocess
import sys

import packages  # beside this file


def lent_folders():
    """Mount points that are read-only: what the machine lends, no part of dom0's own file system."""
    with open("/proc/self/mountinfo") as file:
        rows = [line.split() for line in file]
    return {row[4].encode().decode("unicode_escape") for row in rows if "ro" in row[5].split(",")}


def entry(path):
    info = os.lstat(path)
    found = {"mode": "%04o" % stat.S_IMODE(info.st_mode)}
    if stat.S_ISLNK(info.st_mode):
        return {"type": "link", "mode": "0777", "target": os.readlink(path)}
    if stat.S_ISDIR(info.st_mode):
        return dict(found, type="folder")
    if stat.S_ISREG(info.st_mode):
        with open(path, "rb") as file:
            return dict(found, type="file", sha256=hashlib.sha256(file.read()).hexdigest())
    return dict(found, type="other")  # sockets, pipes


def files(root, skipped):
    for entry_ in sorted(os.scandir(root), key=lambda item: item.name):
        if entry_.path in skipped:
            continue
        try:
            yield entry_.path, entry(entry_.path)
        except FileNotFoundError:
            continue  # gone since the folder was read
        if entry_.is_dir(follow_symlinks=False):
            yield from files(entry_.path, skipped)


def main():
    skipped = set(sys.argv[1:]) | lent_folders()
    qubes = subprocess.run(["/usr/lib/twin/bin/twin-dump"], check=True, stdout=subprocess.PIPE).stdout
    document = {
        "qubes": json.loads(qubes.decode()),
        "packages": packages.installed(),
        "files": dict(files("/", skipped)),
    }
    json.dump(document, sys.stdout)


if __name__ == "__main__":
    main()
