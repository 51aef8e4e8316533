"""What is inside a running qube: computed from its packages, its services, its features, and which units are enabled (layers.py).

Names of files and units: qubes-host.md (b) "Template packages" and (d) 3.
"""

from . import base

VNC_PORT = 5900


def driver(device, faults):
    """What the qube's kernel binds a device of its to. guestNoDrm: true, or sbdf of displays that it cannot light; guestNoSound: true."""
    without = faults.get("guestNoDrm")
    if device["class"].startswith("03") and (without is True or device["sbdf"] in (without or [])):
        return None
    if is_sound(device) and faults.get("guestNoSound"):
        return None
    return device["module"]


def is_sound(device):
    return device["class"][:4] in ("0401", "0403")


def cards(devices, headsets):
    """/proc/asound: a card for each sound function that has a driver, and for each USB device with an audio interface; of the latter
    a file has the ids (Linux, sound/usb/proc.c).
    """
    rows = [
        " %d [PCH            ]: HDA-Intel - HDA Intel PCH\n                      %s\n" % (number, each["name"])
        for number, each in enumerate(devices)
    ]
    files = {}
    for number, each in enumerate(headsets, len(rows)):
        rows.append(" %d [Device         ]: USB-Audio - USB Audio Device\n                      at usb-vhci_hcd.0-1\n" % number)
        files["/proc/asound/card%d/usbid" % number] = "%s:%s\n" % (each["vendor"], each["product"])
    files["/proc/asound/cards"] = "".join(rows) or "--- no soundcards ---\n"
    return files


# What qvm-start-daemon must learn before it serves anybody, and of each client (qubes-host.md (f) "Audio domain"; (e) "no sound": a
# denied admin.Events). In R4.3 one whose domain ids it may not read is passed over, without a word.
DAEMON_ASKS = [("admin.Events", ""), ("admin.vm.List", "")]
CLIENT_ASKS = [
    ("admin.vm.CurrentState", ""),
    ("admin.vm.property.Get", "xid"),
    ("admin.vm.property.Get", "stubdom_xid"),
    ("admin.vm.property.Get", "audiovm"),
    ("admin.vm.feature.CheckWithTemplate", "audio"),
    ("admin.vm.feature.CheckWithTemplate", "audio-model"),
]


def sound(qube, packages, has_desktop, may):
    """(processes, files, names whose streams play) of an audio domain: qvm-start-daemon belongs to the desktop, starts only where a
    service asks for it, and starts one pacat-simple-vchan a client, whose pid is in /run/qubes/pacat.XID (qubes-host.md (d) 5).
    """
    name, on = qube["name"], set(qube["services"])

    def allowed(target, asks):
        return all(may(name, target, "%s+%s" % ask) for ask in asks)

    if not (has_desktop and "qubes-core-admin-client" in packages and on & {"audiovm", "guivm"}):
        return {}, {}, []
    if not allowed("dom0", DAEMON_ASKS):
        return {}, {}, []
    processes, files, playing = {"qvm-start-daemon": 800}, {}, []
    if "audiovm" not in on or "qubes-audio-daemon" not in packages:
        return processes, files, playing
    for number, client in enumerate(qube.get("clients", [])):
        if not allowed(client["name"], CLIENT_ASKS):
            continue
        processes["pacat-simple-vchan -l %d %s" % (client["xid"], client["name"])] = 810 + number
        files["/run/qubes/pacat.%d" % client["xid"]] = "%d\n" % (810 + number)
        if client["connects"]:
            playing.append(client["name"])
    return processes, files, playing


def connectors(displays):
    """/sys/class/drm: connectors of the displays that have a driver."""
    found = {}
    for number, device in enumerate(displays):
        for output in device["outputs"]:
            folder = "/sys/class/drm/card%d-%s/" % (number, output["name"])
            found[folder + "status"] = "connected\n" if output["connected"] else "disconnected\n"
            found[folder + "enabled"] = "enabled\n" if output["connected"] else "disabled\n"
            found[folder + "modes"] = "1920x1080\n" if output["connected"] else ""
    return found


def input_devices(inputs):
    """/proc/bus/input/devices; what dom0's proxy brings is named after where it comes from."""
    parts = []
    for number, each in enumerate(inputs):
        handlers, events = {"keyboard": ("sysrq kbd", "120013")}.get(each["kind"], ("mouse%d" % number, "17"))
        parts.append(
            'I: Bus=0006 Vendor=0001 Product=0001 Version=0001\nN: Name="%s"\nP: Phys=\n'
            "S: Sysfs=/devices/virtual/input/input%d\nU: Uniq=\nH: Handlers=%s event%d \nB: PROP=0\nB: EV=%s\n\n"
            % (each["name"], number, handlers, number, events)
        )
    return "".join(parts)


def content(qube, template, fault=None, faults=None, may=lambda source, target, call: True, root=None):
    """What room.py builds and the stand-ins answer from.

    `qube`: internal.GetQube of qubesd; `template`: its entry in world.json {"packages", "files"};
    `fault`: the same keys as the result, which then replace (units: add to) what follows from the
    rest; `faults`: all of the world's, of which guestNoDrm and guestNoSound are about this; `may`: whether the policy of
    dom0 allows a call; `root`: what is written in the qube, {"packages": {name: version}, "begins": unit -> bool, "covered": whether the template
    covers the drop-in that starts Qubes' own x11vnc}; without it, all is as
    the template came, its units enabled.
    """
    packages = root["packages"] if root else template.get("packages", {})
    on = set(qube["services"])
    pci = [dict(each, driver=driver(each, faults or {})) for each in qube.get("devices", [])]
    displays = [each for each in pci if each["class"].startswith("03")]
    drm = [each for each in displays if each["driver"]]
    # A login with a display of its own is one with a driver for it, else X finds no screen (qubes-host.md (e)).
    wanted = root["begins"]("lightdm.service") if root else "lightdm" in on
    login = "lightdm" in packages and wanted and bool(drm or not displays)
    agent = "qubes-gui-agent" in packages and not login
    # qubes-run-x11vnc, which Qubes' own drop-in of lightdm calls: it listens on every address.
    vnc = login and "guivm-vnc" in on and {"x11vnc", "qubes-vm-guivm"} <= set(packages) and not (root and root["covered"])
    units = {"qubes-qrexec-agent.service": True, "systemd-journald.service": True}
    processes = {"systemd": 1, "qrexec-agent": 320}
    if "lightdm" in packages:
        units["lightdm.service"] = login
    inputs = qube.get("inputs", []) if {"qubes-input-proxy-receiver", "qubes-vm-guivm"} & set(packages) else []
    inputs = inputs + qube.get("ownInputs", [])
    if "qubes-gui-agent" in packages:
        units["qubes-gui-agent.service"] = agent
    if login:
        processes.update({"lightdm": 610, "Xorg": 640})
    if agent:
        processes["qubes-gui"] = 540
        if qube.get("shown"):
            processes["Xorg"] = 560
    if vnc:
        processes["x11vnc"] = 700
    files = base.root(qube["os"], qube["osVersion"], template, packages)
    files.update({"/run/qubes-service/" + name: "" for name in on})
    files.update({"/sys/class/bluetooth/hci%d/address" % each: "" for each in range(qube.get("radios", 0))})
    if "bluez" in packages:
        # Its unit has ConditionPathIsDirectory=/sys/class/bluetooth, and of Qubes !minimal-usbvm (qubes-core-agent-linux, bluetooth.service.d).
        units["bluetooth.service"] = qube.get("radios", 0) > 0 and "minimal-usbvm" not in on
    files["/etc/hostname"] = qube["name"] + "\n"
    files["/proc/bus/input/devices"] = input_devices(inputs)
    files.update(connectors(drm))
    # A desktop comes up when somebody shows it: dom0's GUI daemon, another GUI domain, or the qube's own greeter.
    desktop = "Xorg" in processes
    daemons, pids, playing = sound(qube, packages, desktop, may)
    processes.update(daemons)
    files.update(pids)
    headsets = [
        each
        for each in qube.get("usb", [])
        if any(code.startswith("01") for code in each["interfaces"]) and not (faults or {}).get("guestNoSound")
    ]
    files.update(cards([each for each in pci if is_sound(each) and each["driver"]], headsets))
    if login:
        files["/var/run/lightdm/root/:0"] = files["/run/lightdm/root/:0"] = ""
    inside = {
        "name": qube["name"],
        "os": qube["os"],
        "osVersion": qube["osVersion"],
        "packages": packages,
        "files": files,
        "units": units,
        "processes": processes,
        "listening": [VNC_PORT] if vnc else [],
        "pci": pci,
        "inputs": inputs,
        "playing": playing,
        "mounts": ["/", "/rw"] + (qube.get("persists", []) if "custom-persist" in on else ["/home", "/usr/local"]),
        "x": [output for each in drm for output in each["outputs"]] if login else None,
        "system": "running",
    }
    for key, value in (fault or {}).items():
        inside[key] = dict(inside[key], **value) if isinstance(value, dict) else value
    return inside
