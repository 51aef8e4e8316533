"""What surrounds dom0: /run/twin/world.json, read again whenever it changed (see lab/twin/world.ts).

Faults of the model, each {qube: value} under its name in "faults":

    start         text of the error that its start ends in, as the client prints it after "Error: "
    startSeconds  how long it is Transient before its agent answers
    agent         true: the agent never answers, so the start fails after all
    shutdown      seconds until it is gone, or "never"
    refuse        calls that fail with a QubesValueError: {"admin.vm.property.Set+maxmem": "text"}
    guest         what is different inside, see guest/content.py: {"units": {"lightdm.service": false}}
"""

import json
import os


class World:
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

    def get(self, name, default=None):
        return self.read().get(name, default)

    def fault(self, name, qube):
        """The fault of that name for one qube: {"faults": {name: {qube: value}}}; None when there
        is none.
        """
        faults = self.get("faults") or {}
        return (faults.get(name) or {}).get(qube)
