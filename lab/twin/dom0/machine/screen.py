"""Who drives the screen now, which keyboards reach that, and whether a person can work there: computed from what holds the
displays and the input devices, what runs in dom0 and what runs in the qubes.

{"drivenBy": "dom0 (lightdm)" | "dom0 (console)" | "dom0 (prompt)" | QUBE | None, "keyboards": ["ps2", "usb:SBDF"], "usable", "why", "wayIn"}
"""
import os

from . import hardware


def nothing(why, way_in=False):
    return {"drivenBy": None, "keyboards": [], "usable": False, "why": why, "wayIn": way_in}


def screen(world, drivers, lightdm, guests, passed=()):
    """Of a machine whose dom0 runs. `drivers` {sbdf: driver}; `lightdm`: dom0's runs; `guests`: what guest_view gives; `passed`: input
    devices that USB qubes pass on to dom0.
    """
    machine = hardware.Hardware(world)
    outputs = machine.outputs()
    grabbed = any(guest["proxied"] for guest in guests)
    own = [] if grabbed else [hardware.place(each) for each in machine.in_dom0(drivers) if each["kind"] == "keyboard"]
    own += [hardware.place(each) for each in passed if each["kind"] == "keyboard"]
    boot_display = machine.boot_display()
    candidates = []
    for function in sorted(machine.displays(), key=lambda each: each.sbdf != boot_display):
        if not any(output["connected"] for output in outputs.get(function.sbdf, [])):
            continue
        holder = next((guest for guest in guests if function.sbdf in guest["devices"]), None)
        candidates.append(of_guest(holder, function) if holder else of_dom0(function, drivers.get(function.sbdf), lightdm, own, grabbed))
    if not candidates:
        return nothing("no display has a monitor", True)
    chosen = next((each for each in candidates if each["usable"]), candidates[0])
    return dict(chosen, wayIn=True)


def of_dom0(function, driver, lightdm, keyboards, grabbed):
    found = {"drivenBy": "dom0 (lightdm)", "keyboards": keyboards, "usable": True, "why": "dom0's greeter or desktop is on it"}
    if driver not in hardware.DRM:
        held = "on pciback" if driver == hardware.PCIBACK else "without a driver"
        why = "the display %s is %s: what is left is text on the firmware's framebuffer" % (function.sbdf, held)
        return dict(found, drivenBy="dom0 (console)", usable=False, why=why)
    if not lightdm:
        return dict(found, drivenBy="dom0 (console)", usable=False, why="dom0's lightdm does not run: there is only a text login")
    if not keyboards:
        why = "dom0's input devices are given to a qube" if grabbed else "no keyboard reaches dom0"
        return dict(found, usable=False, why=why)
    return found


def of_guest(guest, function):
    name = guest["name"]
    found = {"drivenBy": name, "keyboards": guest["keyboards"], "usable": False, "why": ""}
    if not guest["ready"]:
        return dict(found, why="%s is starting" % name)
    if not guest["drm"].get(function.sbdf):
        return dict(found, drivenBy=None, why="%s has the display %s, and no driver for it: black" % (name, function.sbdf))
    if not guest["lightdm"]:
        return dict(found, why="lightdm does not run in %s: black" % name)
    if not found["keyboards"]:
        return dict(found, why="no keyboard reaches %s" % name)
    return dict(found, usable=True, why="lightdm in %s is on it" % name)


def root_of(system, qube, view, template):
    """What is written in a running qube, for content(); None where its disk is not seen from here."""
    if not os.path.isdir("/run/twin/guests"):
        return None
    from guest import base, layers, room

    upper = "%s/%s-dirty.img" % (system.host.images, view["volumes"]["root"])
    files = base.root(view["os"], view["osVersion"], template, template.get("packages", {}))
    root = layers.Root(room.base_layer(files), upper, view["services"])
    return {"packages": system.packages_in(qube), "begins": root.begins}


def guest_view(system, machine_root=None):
    """What `screen` asks about each running qube that holds devices. `system`: qubesd.model.System."""
    from guest.content import content  # here: the sandbox's outside does without

    found = []
    for qube in system.qubes.values():
        if not qube.run or not qube.run["attached"]:
            continue
        view = system.inside(qube)
        template = (system.world.get("templates") or {}).get(view["template"]) or {"packages": {}}
        root = root_of(system, qube, view, template)
        inside = content(view, template, system.world.fault("guest", qube.name), system.world.get("faults"), root=root)
        found.append(
            {
                "name": qube.name,
                "devices": qube.run["attached"],
                "ready": qube.state() == "Running",
                "drm": {each["sbdf"]: each["driver"] for each in inside["pci"] if each["class"].startswith("03")},
                "lightdm": bool(inside["units"].get("lightdm.service")),
                "keyboards": [hardware.place(each) for each in inside["inputs"] if each["kind"] == "keyboard"],
                "proxied": bool(qube.run.get("proxied")),
            }
        )
    return found
