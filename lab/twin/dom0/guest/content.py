"""What is inside a running qube: computed from its template's packages (world.json), its services
and its features.

Names of files and units: qubes-host.md (b) "Template packages" and (d) 3.
"""

# Files that a package brings, as far as anybody asks for them.
FILES = {
    "qubes-vm-guivm": ["/etc/qubes-rpc/qubes.GuiVMSession", "/usr/bin/qubes-guivm-session"],
    "qubes-core-agent": [
        "/etc/qubes-rpc/qubes.VMShell",
        "/etc/qubes-rpc/qubes.StartApp",
        "/etc/qubes-rpc/qubes.GetDate",
    ],
    "qubes-gui-agent": [
        "/usr/bin/qubes-gui",
        "/etc/qubes-rpc/qubes.SetMonitorLayout",
        "/etc/qubes-rpc/qubes.WaitForSession",
    ],
    "qubes-gui-daemon": ["/usr/bin/qubes-guid", "/etc/qubes/guid.conf"],
    "qubes-core-admin-client": ["/usr/bin/qvm-ls", "/usr/bin/qvm-start-daemon"],
    "qubes-audio-daemon": ["/usr/bin/pacat-simple-vchan"],
    "qubes-manager": ["/usr/bin/qubes-qube-manager"],
    "qubes-input-proxy-receiver": ["/usr/bin/input-proxy-receiver"],
    "lightdm": ["/usr/sbin/lightdm", "/etc/lightdm/lightdm.conf"],
    "x11vnc": ["/usr/bin/x11vnc"],
    "xorg-x11-server-Xorg": ["/usr/bin/Xorg"],
    "xorg-x11-server-Xephyr": ["/usr/bin/Xephyr"],
    "xfce4-session": ["/usr/bin/startxfce4", "/usr/bin/xfce4-session"],
}
OS_RELEASE = {
    "fedora": 'NAME="Fedora Linux"\nID=fedora\nVERSION_ID={version}\n'
    'PRETTY_NAME="Fedora Linux {version}"\n',
    "debian": 'PRETTY_NAME="Debian GNU/Linux {version}"\nNAME="Debian GNU/Linux"\n'
    'VERSION_ID="{version}"\nID=debian\n',
}
VNC_PORT = 5900


def content(qube, template, fault=None):
    """What room.py builds and the stand-ins answer from.

    `qube`: internal.GetQube of qubesd; `template`: its entry in world.json {"packages", "files"};
    `fault`: the same keys as the result, which then replace (units: add to) what follows from the
    rest.
    """
    packages = template.get("packages", {})
    on = set(qube["services"])
    login = "lightdm" in packages and "lightdm" in on
    agent = "qubes-gui-agent" in packages and not login
    vnc = login and "guivm-vnc" in on and {"x11vnc", "qubes-vm-guivm"} <= set(packages)
    units = {"qubes-qrexec-agent.service": True, "systemd-journald.service": True}
    processes = {"systemd": 1, "qrexec-agent": 320}
    if "lightdm" in packages:
        units["lightdm.service"] = login
    if "qubes-gui-agent" in packages:
        units["qubes-gui-agent.service"] = agent
    if login:
        processes.update({"lightdm": 610, "Xorg": 640})
    if agent:
        processes.update({"qubes-gui": 540, "Xorg": 560})
    if vnc:
        processes["x11vnc"] = 700
    files = {path: "" for package in packages for path in FILES.get(package, [])}
    files.update({path: "" for path in template.get("files", [])})
    files.update({"/run/qubes-service/" + name: "" for name in on})
    files["/etc/os-release"] = OS_RELEASE.get(qube["os"], "ID={os}\n").format(
        os=qube["os"], version=qube["osVersion"]
    )
    files["/etc/hostname"] = qube["name"] + "\n"
    inside = {
        "name": qube["name"],
        "os": qube["os"],
        "osVersion": qube["osVersion"],
        "packages": packages,
        "files": files,
        "units": units,
        "processes": processes,
        "listening": [VNC_PORT] if vnc else [],
        "system": "running",
    }
    for key, value in (fault or {}).items():
        inside[key] = dict(inside[key], **value) if isinstance(value, dict) else value
    return inside
