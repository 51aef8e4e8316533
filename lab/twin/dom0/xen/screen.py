"""What the screens of a plain Xen host show, whose they are, and whether a person can work there. As machine/screen.py for Qubes, and

shows     what is on it: "greeter", "session NAME", "Xephyr with the framebuffer of DOMAIN", "Xephyr, black", "text console", "DOMAIN", "nothing"
domain    the domain whose picture that is, None where it is dom0's own
token     what that domain has drawn there (data/lab/draw), None where nothing
displays  {sbdf: the same three of every display with a monitor}; the others above are those of one where a person can work, else of one with a picture
"""
from machine import hardware


def nothing(why, way_in=False):
    return dict(picture("nothing"), drivenBy=None, keyboards=[], usable=False, why=why, wayIn=way_in, displays={})


def picture(shows, domain=None, token=None):
    return {"shows": shows, "domain": domain, "token": token}


def screen(world, drivers, shown, domains):
    """`drivers` {sbdf: driver}; `shown`: display.shown(), None where lightdm does not run; `domains`: of server.state()."""
    machine = hardware.Hardware(world)
    own = [hardware.place(each) for each in machine.in_dom0(drivers) if each["kind"] == "keyboard"]
    outputs, lit = machine.outputs(), machine.boot_display()
    found = []
    for function in sorted(machine.displays(), key=lambda each: (each.sbdf != lit, each.sbdf)):
        if any(output["connected"] for output in outputs.get(function.sbdf, [])):
            holder = next((each for each in domains if function.sbdf in each["pci"]), None)
            one = of_guest(holder, function, machine) if holder else of_dom0(function, drivers.get(function.sbdf), shown, own, domains)
            found.append((function.sbdf, one))
    if not found:
        return nothing("no display has a monitor", True)
    ranked = sorted((one for _, one in found), key=lambda one: (not one["usable"], one["shows"] in ("text console", "nothing")))
    chosen = ranked[0]
    displays = {sbdf: {name: one[name] for name in ("shows", "domain", "token")} for sbdf, one in found}
    return dict(chosen, wayIn=True, displays=displays)


def of_dom0(function, driver, shown, keyboards, domains):
    console = dict(picture("text console"), drivenBy="dom0 (console)", keyboards=keyboards, usable=False)
    if driver not in hardware.DRM:
        held = "on pciback" if driver == hardware.PCIBACK else "without a driver"
        if driver == hardware.PCIBACK:
            console.update(picture("nothing"), drivenBy=None)
        return dict(console, why="the display %s is %s" % (function.sbdf, held))
    if shown is None:
        return dict(console, why="dom0's lightdm does not run: there is only a text login")
    found = dict(of_session(shown, domains), drivenBy="dom0 (lightdm)", keyboards=keyboards)
    usable = bool(keyboards) and found["shows"] != "Xephyr, black"
    why = found["shows"] if usable else "nobody's picture is in dom0's Xephyr" if keyboards else "no keyboard reaches dom0"
    return dict(found, usable=usable, why=why)


def of_session(shown, domains):
    if shown["session"] is None:
        return picture("greeter")
    viewed = next((each for each in domains if each["vnc"] is not None and each["vnc"] == shown["viewer"]), None)
    if viewed:
        frame = "Xephyr" if shown["xephyr"] else "session %s" % shown["session"]
        return picture("%s with the framebuffer of %s" % (frame, viewed["name"]), viewed["name"], viewed["drawn"])
    return picture("Xephyr, black" if shown["xephyr"] else "session %s" % shown["session"])


def of_guest(domain, function, machine):
    name = domain["name"]
    keyboards = [hardware.place(each) for each in machine.inputs() if each["kind"] == "keyboard" and each["at"] in domain["pci"]]
    found = dict(picture("nothing"), drivenBy=name, keyboards=keyboards, usable=False)
    if not domain["up"]:
        return dict(found, why="%s is starting" % name)
    if domain["hangs"]:
        return dict(found, why="%s hangs" % name)
    if not domain["drivers"].get(function.sbdf):
        return dict(found, drivenBy=None, why="%s has the display %s, and no driver for it: black" % (name, function.sbdf))
    found.update(picture(name, name, domain["drawn"]))
    return dict(found, usable=bool(keyboards), why="%s is on it" % name if keyboards else "no keyboard reaches %s" % name)
