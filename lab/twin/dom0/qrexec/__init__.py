"""qrexec from a qube: its client (guest/qrexec-client-vm) reaches daemon.py over a socket that is in this one qube alone, which asks
the policy (policy/call.py) and runs the service in dom0 (service.py) or in another qube.

Facts: core-qrexec 4.3 (daemon/qrexec-daemon.c, libqrexec/exec.c, agent/qrexec-client-vm.c).
"""

import os

SOCKETS = "/run/qubes/qrexec"
CONTROL = SOCKETS + "/.control"
# libqrexec/qrexec.h
SERVICE_NOT_FOUND, REQUEST_REFUSED, PROBLEM = 127, 126, 125
MAX_SERVICE, MAX_TARGET = 65000, 31  # bytes; struct trigger_service_params4, target_domain is 64 with what ends it
IN_GUEST = "/run/qubes/qrexec-agent"


def offer(root, name):
    """Puts the socket that leads from qube `name` to its daemon at its place below `root`. For dom0's programs, before they go in."""
    from guest.room import MS_BIND, mount  # noqa: E402
    from host import control

    path = control.ask(CONTROL, {"qube": name})["socket"]
    place = root + IN_GUEST
    os.makedirs(os.path.dirname(place), exist_ok=True)
    if not os.path.lexists(place):
        open(place, "w").close()
    mount(path, place, None, MS_BIND)
