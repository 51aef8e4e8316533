#!/usr/bin/python3 -SE
"""Services of dom0 that packages bring, by the name it is called by: qubes.PowerSupply (dummy-psu-sender), qubes.SetBrightness
(dummy-backlight-dom0).
"""

import json
import os
import re
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
SUPPLIES, BACKLIGHTS = "/sys/class/power_supply", "/sys/class/backlight"


def read(path):
    with open(path) as file:
        return file.read().strip()


def power_supply():
    """Every supply, again and again, until nobody reads."""
    while True:
        for name in sorted(os.listdir(SUPPLIES)):
            found = {"NAME": name, "TYPE": "POWER_SUPPLY_TYPE_" + read("%s/%s/type" % (SUPPLIES, name)).upper()}
            uevent = "%s/%s/uevent" % (SUPPLIES, name)
            for row in read(uevent).splitlines() if os.path.exists(uevent) else []:
                key, _, value = row.partition("=")
                if key != "POWER_SUPPLY_NAME":
                    found["POWER_SUPPLY_PROP_" + key[len("POWER_SUPPLY_") :]] = value
            print(json.dumps(found), flush=True)
        time.sleep(1)


def set_brightness(value=""):
    """A percentage of the one backlight; udev lets group qubes write there."""
    from qrexec.service import as_root

    if not re.fullmatch("[0-9]+", value) or int(value) > 100:
        print("Invalid brightness value")
        return 1
    names = sorted(os.listdir(BACKLIGHTS))
    if not names:
        print("Cannot find any backlight provider")
        return 1
    folder = "%s/%s/" % (BACKLIGHTS, "\n".join(names))  # as `ls -1` says several
    as_root()
    most = int(read(folder + "max_brightness"))
    with open(folder + "brightness", "w") as file:
        file.write("%d\n" % (most * int(value) // 100))
    return 0


service = os.environ["QREXEC_SERVICE_FULL_NAME"].partition("+")[0]
try:
    sys.exit({"qubes.PowerSupply": power_supply, "qubes.SetBrightness": set_brightness}[service](*sys.argv[1:]))
except BrokenPipeError:
    os._exit(1)
except OSError as error:
    sys.exit(str(error))
