"""What runs inside a qube, answered from lab/twin's model of its content (dom0/guest/content.py). Formats: lab/twin/dom0/guest/guest-tool."""
import json
import re

from guest.content import content

import shell


def run(machine, qube, command, may):
    """(status, output) of a command that root runs in the running qube. `may`: whether dom0's policy allows a call."""
    world = machine.world
    view = machine.system.inside(machine.system.qube(qube))
    template = (world.get("templates") or {}).get(view["template"]) or {"packages": {}}
    template = dict(template, packages=machine.system.packages_in(machine.system.qube(qube)))
    inside = content(view, template, machine.system.world.fault("guest", qube), world.get("faults"), may)
    return shell.run(command, lambda argv, env, _: tool(inside, argv, env), shell.Tree(inside["files"]))


FOLDER = "/rw/config/guidomain/"
ACTIVATE = re.compile(re.escape(FOLDER) + "([0-9a-f]+)/activate")
HOOK = re.compile(r"test ! -x (\S+) \|\| \1")
IN_FORCE = re.compile(r'test "\$\(cat /run/guidomain/generation\)" = ([0-9a-f]+)')
IS_ENABLED = re.compile(r"systemctl is-enabled (\S+)")
SECRET = re.compile(r"^try \"\$here/secret\" '([a-z-]+)'$", re.M)


def generation(machine, qube, command, may, in_force):
    """(status, output) of what puts a generation of ours in force, or asks for it (src/formula/inside/render.ts): its files, from the
    private volume; its secrets, from dom0, where the policy allows. None for another command. At a qube's start its hook does the same.
    """
    run = machine.system.running[qube]
    key = (qube, run["started"])
    if key not in in_force:
        wanted = machine.system.qube(qube).features.get("vm-config.guidomain")
        in_force[key] = wanted if wanted and activate(machine, qube, wanted, may) == 0 else None
    found = ACTIVATE.fullmatch(command) or HOOK.fullmatch(command)
    if found:
        wanted = found.group(1) if command.startswith(FOLDER) else machine.system.qube(qube).features.get("vm-config.guidomain")
        code = activate(machine, qube, wanted, may) if wanted else 0
        in_force[key] = wanted if code == 0 else None
        return code, "" if code == 0 else "guidomain: failed\n"
    found = IS_ENABLED.fullmatch(command)
    if found:
        try:
            with open("%s/var/lib/qubes/vm-templates/%s/root-dirty.img/.units.json" % (machine.root, qube)) as file:
                units = json.load(file)
        except FileNotFoundError:
            units = {}
        state = units.get(found.group(1), "disabled")
        return int(state != "enabled"), state + "\n"
    found = IN_FORCE.fullmatch(command)
    if found:
        return (0, "") if in_force[key] == found.group(1) else (1, "")
    return None


def activate(machine, qube, wanted, may):
    image = "%s/var/lib/qubes/appvms/%s/private-dirty.img/config/guidomain/%s" % (machine.root, qube, wanted)
    try:
        with open(image + "/complete") as file:
            whole = file.read() == wanted
        with open(image + "/activate") as file:
            names = SECRET.findall(file.read())
    except FileNotFoundError:
        return 127
    for name in names:
        if not may(qube, "dom0", "guidomain.Secret+" + name):
            return 1
        try:
            with open("%s/var/lib/guidomain/secrets/%s/%s" % (machine.root, qube, name)) as file:
                whole = whole and file.read().count("\n") > 0
        except FileNotFoundError:
            return 1
    return int(not whole)


def tool(inside, argv, env):
    name, words = argv[0], argv[1:]
    if name == "rpm" and words[:2] == ["-q", "--queryformat"]:
        known = inside["packages"]
        lines = [each if each in known else "package %s is not installed" % each for each in words[3:]]
        return sum(each not in known for each in words[3:]), "".join(line + "\n" for line in lines)
    if name == "rpm" and words[:1] == ["-q"]:
        if inside["os"] != "fedora":
            return 127, "sh: rpm: command not found\n"
        return packages(words[1:], inside, "%s-%s-1.x86_64", "package %s is not installed")
    if name == "dpkg-query" and words[:1] == ["-W"]:
        if inside["os"] != "debian":
            return 127, "sh: dpkg-query: command not found\n"
        return packages(words[1:], inside, "%s\t%s", "dpkg-query: no packages found matching %s")
    if name == "systemctl" and words[:1] == ["is-active"]:
        unit = words[-1] if "." in words[-1] else words[-1] + ".service"
        active = bool(inside["units"].get(unit))
        return (0 if active else 3), "active\n" if active else "inactive\n"
    if name == "ss":
        return 0, "".join("LISTEN 0      32           0.0.0.0:%-5d      0.0.0.0:*    \n" % port for port in inside["listening"])
    if name == "pgrep" and words[:1] == ["-F"]:
        pid = inside["files"].get(words[1], "").strip()
        return (0, pid + "\n") if pid in map(str, inside["processes"].values()) else (3, "")
    if name == "pgrep" and words[0] in ("-x", "-f"):
        fits = re.fullmatch if words[0] == "-x" else re.search
        found = sorted(pid for process, pid in inside["processes"].items() if fits(words[1], process))
        return int(not found), "".join("%d\n" % pid for pid in found)
    if name == "runuser" and words[2:4] == ["--", "env"]:
        return tool(inside, words[5:], dict([words[4].split("=")]))
    if name == "pactl" and env.get("XDG_RUNTIME_DIR"):
        return 0, "".join('\t\tapplication.name = "%s"\n' % each for each in inside["playing"])
    if name == "echo":
        return 0, " ".join(words) + "\n"
    if name == "lspci" and words == ["-k"]:
        return 0, "".join(device(each) for each in inside["pci"])
    if name == "xrandr":
        if inside["x"] is None or env.get("DISPLAY") != ":0" or not env.get("XAUTHORITY", "").endswith("/run/lightdm/root/:0"):
            return 1, "Can't open display %s\n" % env.get("DISPLAY", "")
        lines = ["Screen 0: minimum 320 x 200, current 1920 x 1080, maximum 16384 x 16384"]
        for output in inside["x"]:
            lines += ["%s connected primary 1920x1080+0+0" % output["name"], "   1920x1080     60.01*+  59.93  "] if output["connected"] else []
        return 0, "".join(line + "\n" for line in lines)
    raise shell.Unknown("in a qube: %s" % argv)


def packages(names, inside, there, missing):
    known = inside["packages"]
    text = "".join((there % (name, known[name]) if name in known else missing % name) + "\n" for name in names)
    return sum(name not in known for name in names), text


def device(each):
    used = "\tKernel driver in use: %s\n" % each["driver"] if each["driver"] else ""
    return "00:06.0 Class %s: %s\n%s" % (each["class"], each["name"], used)
