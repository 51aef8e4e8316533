"""Programs that answer from the model: INSIDE, what content.py says of this qube."""

import json
import os
import re
import socket
import sys

from . import INSIDE, loud
from .remote import ENDED


def pgrep(args):
    if args[:1] == ["-F"] and len(args) == 2:
        try:
            with open(args[1]) as file:
                pid = int(file.read())
        except OSError:
            print("pgrep: pidfile not valid", file=sys.stderr)
            return 3
        if pid in INSIDE["processes"].values():
            print(pid)
            return 0
        return 1
    names = []
    for arg in args:
        if not arg.startswith("-"):
            names.append(arg)
        elif set(arg[1:]) - set("fxlan"):
            loud(arg)
    if len(names) != 1:
        loud("pgrep without one pattern")
    exact = any("x" in arg for arg in args if arg.startswith("-"))
    found = [
        (pid, name)
        for name, pid in INSIDE["processes"].items()
        if (re.fullmatch if exact else re.search)(names[0], name)
    ]
    for pid, name in sorted(found):
        print(
            "%d %s" % (pid, name)
            if any("l" in arg or "a" in arg for arg in args if arg.startswith("-"))
            else pid
        )
    return 0 if found else 1


def ss(args):
    letters = "".join(arg[1:] for arg in args if arg.startswith("-"))
    if (
        len("".join(args)) != len(letters) + len(args)
        or set(letters) - set("ltnH")
        or "l" not in letters
    ):
        loud(" ".join(args))
    if "H" not in letters:
        print("State  Recv-Q Send-Q Local Address:Port Peer Address:Port")
    said = [] if os.path.exists(ENDED + "x11vnc") else ["0.0.0.0:%d" % port for port in INSIDE["listening"]]
    for place in said + listening():
        print("LISTEN 0      32    %16s      0.0.0.0:*    " % place)
    return 0


def listening():
    """What really listens in the qube, as ADDRESS:PORT (Linux, proc(5), /proc/net/tcp)."""
    places = []
    for file, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        try:
            with open("/.proc/self/net/" + file) as rows:
                fields = [row.split() for row in rows][1:]
        except OSError:
            continue
        for row in fields:
            if row[3] != "0A":
                continue
            address, _, port = row[1].partition(":")
            words = b"".join(bytes.fromhex(address[i : i + 8])[::-1] for i in range(0, len(address), 8))
            text = socket.inet_ntop(family, words)
            places.append("%s:%d" % ("[%s]" % text if family == socket.AF_INET6 else text, int(port, 16)))
    return places


CLASSES = {"0300": "VGA compatible controller", "0302": "3D controller", "0380": "Display controller", "0403": "Audio device", "0c03": "USB controller"}


def lspci(args):
    letters = "".join(arg[1:] for arg in args if arg.startswith("-"))
    if len("".join(args)) != len(letters) + len(args) or set(letters) - set("nkD"):
        loud(" ".join(args))
    for number, device in enumerate(INSIDE["pci"]):
        slot = "%s00:%02x.0" % ("0000:" if "D" in letters else "", number + 6)
        ids = "%s:%s" % (device["vendor"], device["device"])
        kind = CLASSES.get(device["class"][:4], "Class")
        if "nn" in letters:
            print("%s %s [%s]: %s [%s]" % (slot, kind, device["class"][:4], device["name"], ids))
        elif "n" in letters:
            print("%s %s: %s" % (slot, device["class"][:4], ids))
        else:
            print("%s %s: %s" % (slot, kind, device["name"]))
        if "k" in letters:
            if device["driver"]:
                print("\tKernel driver in use: " + device["driver"])
            if device["module"]:
                print("\tKernel modules: " + device["module"])
    return 0


XRANDR = "/run/twin-xrandr.json"
ROTATIONS = ("normal", "left", "right", "inverted")


def xrandr(args):
    asked = args not in ([], ["--query"], ["-q"], ["--current"])
    if INSIDE["x"] is None or os.environ.get("DISPLAY", "") not in (":0", ":0.0"):
        print("Can't open display %s" % os.environ.get("DISPLAY", ""), file=sys.stderr)
        return 1
    if not os.environ.get("XAUTHORITY", "").endswith("/run/lightdm/root/:0"):
        print("Authorization required, but no authorization protocol specified\n", file=sys.stderr)
        print("Can't open display :0", file=sys.stderr)
        return 1
    state = screens()
    if asked:
        status = lay_out(state, list(args))
        if status == 0:
            with open(XRANDR, "w") as file:
                json.dump(state, file)
        return status
    right, low = 0, 0
    for each in state.values():
        width, height = extent(each)
        right, low = max(right, each["x"] + width), max(low, each["y"] + height)
    print("Screen 0: minimum 320 x 200, current %d x %d, maximum 16384 x 16384" % (right, low))
    for output in INSIDE["x"]:
        if output["connected"]:
            each = state[output["name"]]
            rotation = "" if each["rotate"] == "normal" else each["rotate"] + " "
            print(
                "%s connected %s%dx%d+%d+%d %s(normal left inverted right x axis y axis) 309mm x 173mm"
                % ((output["name"], "primary " if each["primary"] else "") + extent(each) + (each["x"], each["y"], rotation))
            )
            for mode in modes(output):
                print("   %-13s 60.01%s%s  59.93  " % (mode, "*" if mode == each["mode"] else " ", "+" if mode == modes(output)[0] else " "))
        else:
            print("%s disconnected (normal left inverted right x axis y axis)" % output["name"])
    return 0


def modes(output):
    return output.get("modes", ["1920x1080", "1280x720"])


def screens():
    """{connected output: how it lies}: at first all show the same, the first is the primary one."""
    try:
        with open(XRANDR) as file:
            known = json.load(file)
    except (OSError, ValueError):
        known = {}
    there = [each for each in INSIDE["x"] if each["connected"]]
    return {
        each["name"]: known.get(each["name"], {"mode": modes(each)[0], "x": 0, "y": 0, "rotate": "normal", "primary": number == 0})
        for number, each in enumerate(there)
    }


def extent(each):
    width, height = (int(part) for part in each["mode"].split("x"))
    return (width, height) if each["rotate"] in ("normal", "inverted") else (height, width)


def lay_out(state, args):
    """--output NAME {--mode M | --auto | --rate R | --pos XxY | --rotate R | --primary}…"""
    found = {each["name"]: each for each in INSIDE["x"]}
    name = None
    while args:
        word = args.pop(0)
        if word == "--output":
            name = args.pop(0)
            if name not in found:
                print("warning: output %s not found; ignoring" % name, file=sys.stderr)
        elif word in ("--auto", "--primary"):
            if word == "--primary":
                for each in state.values():
                    each["primary"] = False
                state.get(name, {})["primary"] = True
        elif word in ("--mode", "--rate", "--pos", "--rotate"):
            value = args.pop(0)
            if name not in state:
                if word == "--mode" and name in found:
                    print("xrandr: cannot find mode %s" % value, file=sys.stderr)
                    return 1
                continue
            if word == "--mode":
                if value not in modes(found[name]):
                    print("xrandr: cannot find mode %s" % value, file=sys.stderr)
                    return 1
                state[name]["mode"] = value
            elif word == "--pos":
                state[name]["x"], state[name]["y"] = (int(part) for part in value.split("x"))
            elif word == "--rotate":
                if value not in ROTATIONS:
                    print("xrandr: invalid argument '%s' for option --rotate" % value, file=sys.stderr)
                    return 1
                state[name]["rotate"] = value
        else:
            loud(word)
    return 0


def pactl(args):
    if args != ["list", "sink-inputs"]:
        loud(" ".join(args))
    # PulseAudio's server is the user's, found by the folder of the user's session.
    if os.environ["USER"] == "root" or os.environ.get("XDG_RUNTIME_DIR") != "/run/user/1000":
        print("Connection failure: Connection refused", file=sys.stderr)
        return 1
    for number, name in enumerate(INSIDE["playing"]):
        print(
            'Sink Input #%d\n\tDriver: PipeWire\n\tProperties:\n\t\tapplication.name = "%s"\n\t\tmedia.name = "playback"\n'
            % (number, name)
        )
    return 0


def hostname(args):
    print(INSIDE["name"])
    return 0


def mountpoint(args):
    if len(args) != 2 or args[0] != "-q":
        loud(" ".join(args))
    return 0 if args[1] in INSIDE["mounts"] else 32
