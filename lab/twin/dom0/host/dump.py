#!/usr/lib/dom0-python/bin/python3
"""dom0 as one JSON document: {qubes, packages, files, volumes}. Arguments: paths that are left out with everything below."""
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
    return dict(found, type="other")  # pipes


def files(root, skipped):
    for entry_ in sorted(os.scandir(root), key=lambda item: item.name):
        if entry_.path in skipped:
            continue
        try:
            if stat.S_ISSOCK(entry_.stat(follow_symlinks=False).st_mode):
                continue  # of a program that runs: qrexec has one for each qube
            yield entry_.path, entry(entry_.path)
        except FileNotFoundError:
            continue  # gone since the folder was read
        if entry_.is_dir(follow_symlinks=False):
            yield from files(entry_.path, skipped)


PASSING = ("/var/log", "/var/cache", "/var/tmp", "/tmp")


def within(folder, top=""):
    """{path: entry} of what an image holds above the layer below; folders say nothing: writing a file copies those above it."""
    found = {}
    for item in sorted(os.scandir(folder + top), key=lambda each: each.name):
        path = "%s/%s" % (top, item.name)
        info = item.stat(follow_symlinks=False)
        if path in PASSING:
            continue
        if stat.S_ISDIR(info.st_mode):
            found.update(within(folder, path))
        elif stat.S_ISCHR(info.st_mode):
            found[path] = {"type": "gone", "mode": "0000"}
        else:
            found[path] = entry(item.path)
    return found


def volumes(qubes):
    """What stays in each qube if it is stopped now."""
    found = {}
    for name, qube in qubes.items():
        if qube["class"] in ("AdminVM", "RemoteVM", "DispVM"):
            continue
        own = qube["class"] in ("TemplateVM", "StandaloneVM")
        folder = "/var/lib/qubes/%s/%s/" % ("vm-templates" if qube["class"] == "TemplateVM" else "appvms", name)
        for volume in ("root", "private") if own else ("private",):
            image = next((path for path in (folder + volume + "-dirty.img", folder + volume + ".img") if os.path.isdir(path)), None)
            if image and within(image):
                found.setdefault(name, {})[volume] = within(image)
    return found


def main():
    skipped = set(sys.argv[1:]) | lent_folders()
    qubes = json.loads(subprocess.run(["twin-dump"], check=True, stdout=subprocess.PIPE).stdout.decode())
    if "domains" in qubes:  # a plain Xen host; its packages are a file like any other
        json.dump(dict(qubes, packages={}, volumes={}, files=dict(files("/", skipped))), sys.stdout)
        return
    document = {
        "qubes": qubes,
        "packages": packages.installed(),
        "files": dict(files("/", skipped)),
        "volumes": volumes(qubes["qubes"]),
    }
    json.dump(document, sys.stdout)


if __name__ == "__main__":
    main()
