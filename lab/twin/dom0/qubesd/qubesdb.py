"""What a qube reads of dom0's words by qubesdb-read (core-admin 4.3, vm/qubesvm.py create_qdb_entries, ext/services.py,
ext/vm_config.py). Features of the qube itself count here, not those of its template.
"""

from .errors import Refused


def entries(qube):
    """{path: text} while it runs."""
    template = qube.set_values.get("template")
    updateable = qube.klass in ("TemplateVM", "StandaloneVM")
    network = qube.has("provides_network") and qube.value("provides_network")
    found = {
        "/name": qube.name,
        "/type": qube.klass,
        "/default-user": qube.value("default_user") if qube.has("default_user") else "user",
        "/qubes-vm-updateable": str(updateable),
        "/qubes-vm-persistence": "full" if updateable else "rw-only",
        "/qubes-debug-mode": str(int(bool(qube.value("debug")))) if qube.has("debug") else "0",
        "/qubes-base-template": template or "",
        "/qubes-vm-type": "TemplateVM" if qube.klass == "TemplateVM" else ("NetVM" if not qube.netvm else "ProxyVM") if network else "AppVM",
        "/qubes-timezone": "UTC",
        "/qubes-block-devices": "",
        "/qubes-usb-devices": "",
    }
    for name, value in qube.features.items():
        if name.startswith("service.") and 0 < len(name) - 8 <= 48:
            found["/qubes-service/" + name[8:]] = str(int(bool(value)))
        elif name.startswith("vm-config."):
            found["/vm-config/" + name[10:]] = value
    guivm = qube.value("guivm") if qube.has("guivm") else None
    if guivm and guivm != qube.name:
        try:
            found["/keyboard-layout"] = qube.value("keyboard_layout")
        except Refused:
            pass  # of a GUI domain that is a circle of two
    if qube.has("maxmem"):
        found["/qubes-service/meminfo-writer"] = "1" if int(qube.value("maxmem") or 0) > 0 else "0"
    return found
