"""Battery and backlight of the host in a qube: what qubes-dummy-psu and qubes-dummy-backlight do there. The modules come with Qubes' kernel."""

import json
import os
import subprocess
import sys

SUPPLIES = "/sys/class/power_supply"


def modprobe(args):
    names = [arg.replace("_", "-") for arg in args if not arg.startswith("-")]
    for name in names:
        if name == "dummy-psu":
            os.makedirs(SUPPLIES, exist_ok=True)
            write("/dev/dummy_psu", "")
        elif name == "dummy-backlight":
            write("/sys/class/backlight/dummy_backlight/max_brightness", "100\n")
            write("/sys/class/backlight/dummy_backlight/brightness", "100\n")
        else:
            print("modprobe: FATAL: Module %s not found in directory /lib/modules" % name, file=sys.stderr)
            return 1
    return 0


def qubes_psu_client(args):
    """Asks TARGET ("default": whom the policy names) for qubes.PowerSupply and shows what comes, a JSON line a supply."""
    if not os.path.exists("/dev/dummy_psu"):
        print("ERROR: failed to open file descriptor", file=sys.stderr)
        return 255
    target = "@default" if args in ([], ["default"]) else args[0]
    client = subprocess.Popen(["qrexec-client-vm", target, "qubes.PowerSupply"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    for line in client.stdout:
        said = json.loads(line.decode())
        folder = "%s/%s/" % (SUPPLIES, said["NAME"])
        write(folder + "type", said["TYPE"].rpartition("_")[2].capitalize() + "\n")
        for key, value in said.items():
            if key.startswith("POWER_SUPPLY_PROP_"):
                write(folder + key[len("POWER_SUPPLY_PROP_") :].lower(), value + "\n")
    return client.wait()


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)
