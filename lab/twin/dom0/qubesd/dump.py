"""The state of the Qubes model as one document, for comparing a twin before and after."""

from .errors import Refused
from .model import System
from .server import BOOT_ID, read_state, read_text
from .world import World


def dump():
    """{labels, globals: {name: {default, value}}, qubes: {name: {class, uuid, state, properties:
    {name: {default, value}}, features, tags, pci, attached}}}. Left out: what changes by itself
    while a qube runs (start time).
    """
    system = System(read_state(), World(), read_text(BOOT_ID).strip())

    def value(holder, name):
        try:
            return holder.value(name)
        except Refused:
            return "(qubesd gives no answer)"

    def properties(holder):
        return {
            name: {"default": holder.is_default(name), "value": value(holder, name)}
            for name in holder.definitions
            if name != "start_time"
        }

    return {
        "labels": system.labels,
        "globals": properties(system),
        "qubes": {
            name: {
                "class": qube.klass,
                "uuid": qube.uuid,
                "state": qube.state(),
                "properties": properties(qube),
                "features": qube.features,
                "tags": sorted(qube.tags),
                "pci": qube.pci,
                **({"usb": qube.usb} if qube.usb else {}),
                "attached": (qube.run or {}).get("attached", []),
            }
            for name, qube in system.qubes.items()
        },
    }
