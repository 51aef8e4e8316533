"""What a template's root volume holds as its distribution and Qubes ship it: the layer below all that was ever written there.

Names of files and units: qubes-host.md (b) "Template packages" and (d) 3. Units of packages lie in /usr/lib/systemd/system as anywhere;
what they run is played (content.py), so their [Service] says little.
"""

import os
import re

from .programs import BROUGHT, TOOL

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
    "qubes-mgmt-salt-vm-connector": ["/etc/qubes-rpc/qubes.SaltLinuxVM"],
    "qubes-manager": ["/usr/bin/qubes-qube-manager"],
    "qubes-input-proxy-receiver": ["/usr/bin/input-proxy-receiver"],
    "lightdm": ["/usr/sbin/lightdm", "/etc/lightdm/lightdm.conf"],
    "x11vnc": ["/usr/bin/x11vnc"],
    "qubes-gui-vnc": ["/usr/bin/qubes-run-x11vnc"],
    "xrdp": ["/usr/sbin/xrdp", "/usr/sbin/xrdp-sesman", "/etc/pam.d/xrdp-sesman"],
    "openssl": ["/usr/bin/openssl"],
    "dummy-psu-receiver": ["/usr/bin/qubes-psu-client", "/usr/sbin/modprobe"],
    "dummy-backlight-vm": ["/usr/lib/qubes/qubes-set-backlight.sh", "/usr/sbin/modprobe"],
    "xorg-x11-server-Xorg": ["/usr/bin/Xorg"],
    "xorg-x11-server-Xephyr": ["/usr/bin/Xephyr"],
    "xfce4-session": ["/usr/bin/startxfce4", "/usr/bin/xfce4-session"],
}
# Units that a package brings: {package: {unit: text}}. Those of ENABLED are so once it is installed (presets of Fedora, 90-default.preset;
# of Debian, deb-systemd-helper; of Qubes, 75-qubes-vm.preset).
UNITS = {
    "lightdm": {"lightdm.service": "[Unit]\nDescription=Light Display Manager\n\n[Service]\nExecStart=/usr/sbin/lightdm\n\n[Install]\nAlias=display-manager.service\n"},
    "qubes-gui-agent": {"qubes-gui-agent.service": "[Unit]\nDescription=Qubes GUI Agent\n\n[Service]\nExecStart=/usr/bin/qubes-gui\n\n[Install]\nWantedBy=multi-user.target\n"},
    "qubes-core-agent": {
        "qubes-misc-post.service": "[Unit]\nDescription=Qubes misc post-boot actions\n\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/usr/lib/qubes/init/misc-post.sh\n\n[Install]\nWantedBy=multi-user.target\n",
        "qubes-qrexec-agent.service": "[Unit]\nDescription=Qubes remote exec agent\n\n[Service]\nExecStart=/usr/lib/qubes/qrexec-agent\n\n[Install]\nWantedBy=multi-user.target\n",
    },
    "systemd": {"systemd-journald.service": "[Unit]\nDescription=Journal Service\n\n[Service]\nExecStart=/usr/lib/systemd/systemd-journald\n"},
    # qubes-dummy-psu 1.0.0, qubes-dummy-backlight 1.0.1
    "dummy-psu-receiver": {
        "qubes-psu-client@.service": "[Unit]\nDescription=Dummy power supply client service\nConditionPathExists=/var/run/qubes-service/dummy-psu@%i\nAfter=qubes-qrexec-agent.service module-load-dummy-psu.service\n\n[Service]\nExecStart=/usr/bin/qubes-psu-client %i\n\n[Install]\nWantedBy=multi-user.target\n\n[X-Twin]\n",
        "module-load-dummy-psu.service": "[Unit]\nDescription=Dummy psu module loader service\nConditionPathExistsGlob=/var/run/qubes-service/dummy-psu@*\n\n[Service]\nType=oneshot\nRemainAfterExit=true\nExecStart=/sbin/modprobe dummy-psu\nExecStop=/sbin/rmmod dummy-psu\n\n[Install]\nWantedBy=multi-user.target\n\n[X-Twin]\n",
    },
    "dummy-backlight-vm": {
        "module-load-dummy-backlight.service": "[Unit]\nDescription=Dummy backlight module loader service\nConditionPathExists=/var/run/qubes-service/dummy-backlight\nAfter=default.target\n\n[Service]\nType=oneshot\nRemainAfterExit=true\nExecStart=/sbin/modprobe dummy-backlight\nExecStop=/sbin/rmmod dummy-backlight\n\n[Install]\nWantedBy=multi-user.target\n\n[X-Twin]\n"
    },
    "bluez": {
        "bluetooth.service": "[Unit]\nDescription=Bluetooth service\nConditionPathIsDirectory=/sys/class/bluetooth\n\n[Service]\nExecStart=/usr/libexec/bluetooth/bluetoothd\n\n[Install]\nWantedBy=bluetooth.target\n"
    },
}
ENABLED = {
    "lightdm.service": "display-manager.service",
    "qubes-gui-agent.service": "multi-user.target.wants/qubes-gui-agent.service",
    "qubes-misc-post.service": "multi-user.target.wants/qubes-misc-post.service",
    "qubes-qrexec-agent.service": "multi-user.target.wants/qubes-qrexec-agent.service",
    "bluetooth.service": "bluetooth.target.wants/bluetooth.service",
}
# What a package needs beside itself, as far as it matters here (rpm_spec and debian/control of the Qubes packages).
REQUIRES = {
    "qubes-vm-guivm": [
        "qubes-gui-daemon",
        "qubes-core-admin-client",
        "qubes-input-proxy-receiver",
        "xorg-x11-server-Xorg",
        "xorg-x11-server-Xephyr",
        "x11vnc",
        "qubes-gui-vnc",
    ],
    "qubes-gui-vnc": ["x11vnc"],
    "xrdp": ["openssl"],
    "lightdm": ["xorg-x11-server-Xorg"],
    "blueman": ["bluez"],
}
OS_RELEASE = {
    "fedora": 'NAME="Fedora Linux"\nID=fedora\nVERSION_ID={version}\n'
    'PRETTY_NAME="Fedora Linux {version}"\n',
    "debian": 'PRETTY_NAME="Debian GNU/Linux {version}"\nNAME="Debian GNU/Linux"\n'
    'VERSION_ID="{version}"\nID=debian\n',
}
VENDOR, ADMIN = "/usr/lib/systemd/system/", "/etc/systemd/system/"
# Accounts as the core agent's packages leave them: both are locked (rpm_spec/core-agent.spec.in, debian/qubes-core-agent.preinst).
ACCOUNTS = {
    "/etc/passwd": "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\nuser:x:1000:1000::/home/user:/bin/bash\n",
    "/etc/group": "root:x:0:\nqubes:x:98:user\nnogroup:x:65534:\nuser:x:1000:\n",
    "/etc/shadow": "root:!*:20000:0:99999:7:::\nnobody:*:20000:0:99999:7:::\nuser:!!:20000:0:99999:7:::\n",
    "/etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "/etc/shells": "/bin/sh\n/bin/bash\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files\n",
}
RC_LOCAL = (
    "#!/bin/sh\n\n# This script will be executed at every VM startup, you can place your own\n"
    "# custom commands here. This includes overriding some configuration in /etc,\n# starting services etc.\n"
)


PROGRAM = re.compile(r"/s?bin/|^/etc/qubes-rpc/")


class Link(str):
    """A symbolic link, by its target."""


class Program(str):
    """An executable file."""


def brought(path):
    """What a package's file is here: a program that the laboratory plays, an empty one, or an empty file."""
    if os.path.basename(path) in BROUGHT:
        return Link(TOOL)
    return Program("") if PROGRAM.search(path) else ""


def of_packages(packages, state=None):
    """{path: text, Link or Program} that these packages bring, enabled as they are when they come. `state`: {unit: "enabled" | "disabled"}
    where it is not that.
    """
    files, state = {}, state or {}
    for package in packages:
        files.update({path: brought(path) for path in FILES.get(package, [])})
        for unit, text in UNITS.get(package, {}).items():
            files[VENDOR + unit] = text
            if unit in ENABLED and state.get(unit, "enabled") == "enabled":
                files[ADMIN + ENABLED[unit]] = Link(VENDOR + unit)
    return files


def root(distribution, version, template, packages):
    """{path: text, Link or Program} of a template's root volume. `template`: its entry in world.json, {packages, files, units, bare}; one
    that is not `bare` is a template as GUI domains need it: lightdm waits for its service.
    """
    files = dict(ACCOUNTS)
    release = OS_RELEASE.get(distribution, "ID={os}\n").format(os=distribution, version=version)
    files["/etc/os-release"] = release
    if distribution in ("fedora", "debian"):
        files["/etc/fedora-release" if distribution == "fedora" else "/etc/debian_version"] = "%s\n" % version
    files.update(of_packages(packages, template.get("units")))
    if "lightdm" in packages and not template.get("bare"):
        files[ADMIN + "lightdm.service.d/30_qubes.conf"] = "[Unit]\nConditionPathExists=/run/qubes-service/lightdm\n"
    files.update({path: "" for path in template.get("files", [])})
    return files


PRIVATE = {"/config/rc.local": Program(RC_LOCAL)}
PRIVATE_FOLDERS = ("/config", "/home/user", "/usrlocal/bin", "/usrlocal/lib", "/usrlocal/sbin", "/usrlocal/share", "/bind-dirs")
