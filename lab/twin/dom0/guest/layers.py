"""The root of a qube as dom0 sees it on its disk, without entering it: the layer of base.py and what is written above that."""

import json
import os
import stat

from machine import units

OPAQUE = ("user.overlay.opaque", "trusted.overlay.opaque")
DATABASES = {"fedora": "/var/lib/rpm/twin.json", "debian": "/var/lib/dpkg/twin.json"}


def whiteout(info):
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def opaque(path):
    for name in OPAQUE:
        try:
            if os.getxattr(path, name) == b"y":
                return True
        except OSError:
            pass
    return False


def recorded(upper, distribution, packages):
    """{name: version} of what is installed: what the template came with, and what dnf or apt changed, see guest-tool."""
    if upper is None or distribution not in DATABASES:
        return dict(packages)
    try:
        with open(upper + DATABASES[distribution]) as file:
            changes = json.load(file)
    except (OSError, ValueError):
        return dict(packages)
    found = {name: version for name, version in packages.items() if name not in changes["removed"]}
    found.update(changes["installed"])
    return found


class Root(units.Manager):
    """Units of a qube that need not run. `base`: the folder of the lower layer; `upper`: that of the volume; `services`: what is in
    /run/qubes-service.
    """

    def __init__(self, base, upper, services):
        super().__init__("", "")
        self.base, self.upper, self.services = base, upper, set(services)

    def resolve(self, path):
        """(where the path lies in the upper layer or None, whether the lower one shows through)"""
        here = self.upper
        for part in [part for part in path.split("/") if part]:
            here = os.path.join(here, part)
            try:
                info = os.lstat(here)
            except OSError:
                return None, True
            if whiteout(info):
                return None, False
            if stat.S_ISDIR(info.st_mode) and opaque(here):
                return self._inside(path), False
        return here, True

    def _inside(self, path):
        real = self.upper + path
        return real if os.path.lexists(real) and not whiteout(os.lstat(real)) else None

    def path(self, *parts):
        path = os.path.join(*parts)
        above, through = self.resolve(path) if self.upper else (None, True)
        return above or (self.base + path if through else "/nonexistent")

    def entries(self, *parts):
        path = os.path.join(*parts)
        above, through = self.resolve(path) if self.upper else (None, True)
        names = set(os.listdir(self.base + path)) if through and os.path.isdir(self.base + path) else set()
        for entry in os.scandir(above) if above and os.path.isdir(above) else ():
            names.discard(entry.name) if whiteout(entry.stat(follow_symlinks=False)) else names.add(entry.name)
        return names

    def exists(self, path):
        for folder in ("/run/qubes-service/", "/var/run/qubes-service/"):
            if path.startswith(folder):
                return path[len(folder) :] in self.services
        return os.path.exists(self.path(path))

    def begins(self, name):
        """Whether the boot starts this unit, as far as files say."""
        return self.is_enabled(name) == "enabled" and self.conditions(self.unit(name)) is None
