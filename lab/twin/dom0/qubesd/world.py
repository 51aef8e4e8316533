"""What surrounds dom0: /run/twin/world.json, read again whenever it changed (see lab/twin/world.ts).

Faults of the model, each {qube: value} under its name in "faults":

    start         text of the error that its start ends in, as the client prints it after "Error: "
    startSeconds  how long it is Transient before its agent answers
    agent         true: the agent never answers, so the start fails after all
    startPci      text, as `start`, for starts with PCI devices; {qube} and {sbdf} stand for what is started
    shutdown      seconds until it is gone, or "never"
    refuse        calls that fail with a QubesValueError: {"admin.vm.property.Set+maxmem": "text"}
    guest         what is different inside, see guest/content.py: {"units": {"lightdm.service": false}}
"""

import json
import os


class Fixed:
    """The world of a machine that is simulated in this process: a dict, which its owner changes."""

    def __init__(self, data):
        self.data = data

    def read(self):
        return self.data

    def get(self, name, default=None):
        return self.read().get(name, default)

    def fault(self, name, qube):
        """The fault of that name for one qube: {"faults": {name: {qube: value}}}, where "*" is every
        other qube; None when there is none.
        """
        found = (self.get("faults") or {}).get(name) or {}
        return found.get(qube, found.get("*"))


class World(Fixed):
    def __init__(self, path="/run/twin/world.json"):
        self._path = path
        self._seen = None
        self._data = {}

    def read(self):
        info = os.stat(self._path)
        seen = (info.st_mtime_ns, info.st_size, info.st_ino)
        if seen != self._seen:
            with open(self._path) as file:
                self._data = json.load(file)
            self._seen = seen
        return self._data
