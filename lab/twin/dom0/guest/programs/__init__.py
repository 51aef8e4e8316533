"""Programs of a qube that the laboratory plays: PLAYED says in which module of this package each is, as a function of its name ("-"
and "." as "_") that takes the arguments and returns the exit status. To add one: a line there, a function here.
"""

import json
import os
import sys

MODEL = "/.guest/model/inside.json"
TOOL = "/.guest/code/guest/guest-tool"
PLAYED = {
    name: module
    for module, names in {
        "accounts": "id whoami runuser su sudo usermod chpasswd chown chgrp",
        "management": "qubes.SaltLinuxVM",
        "packages": "rpm dnf dpkg dpkg-query apt-get",
        "played": "pgrep ss hostname lspci xrandr pactl mountpoint",
        "power": "modprobe qubes-psu-client",
        "qubesdb": "qubesdb-read qubesdb-list qubesdb-multiread",
        "remote": "openssl pkill systemd-sysusers x11vnc xrdp xrdp-sesman",
        "systemctl": "systemctl",
    }.items()
    for name in names.split()
}


# Those that are there where a package brings them, and not in every qube.
BROUGHT = {"modprobe", "openssl", "qubes-psu-client", "qubes.SaltLinuxVM", "x11vnc", "xrdp", "xrdp-sesman"}


class Model(dict):
    """inside.json, read when first asked."""

    def __missing__(self, key):
        with open(MODEL) as file:
            self.update(json.load(file))
        if key not in self:
            raise KeyError(key)
        return self[key]


INSIDE = Model()


def world():
    """What surrounds the host, now: network, repositories, faults."""
    with open("/.guest/twin/world.json") as file:
        return json.load(file)


def loud(text):
    sys.exit("%s: the twin does not simulate %s" % (os.path.basename(sys.argv[0]), text))


def not_found():
    """A program of another distribution."""
    print("sh: %s: command not found" % os.path.basename(sys.argv[0]), file=sys.stderr)
    sys.exit(127)
