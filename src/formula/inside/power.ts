/** Power in the GUI domain: what a person clicks, and the battery and the backlight of the host as its desktop sees them. docs/power.md */
import { type GuiDomain, inMode } from "../../model/guiDomain.ts";
import type { Mode } from "../../model/modes.ts";
import { PARTS, POWER_SERVICE, type PowerAction, powerIn } from "../../model/power.ts";
import type { Distribution } from "../../model/template.ts";
import { render } from "../templates.ts";
import { file, type Inside, type QubeInside } from "./inside.ts";

/** Debian has no such packages (qubes-host.md (b) "Template packages"). */
export const powerParts = (distribution: Distribution): Partial<Inside> => ({
  packages: distribution === "fedora" ? ["dummy-backlight-vm", "dummy-psu-module", "dummy-psu-receiver"] : [],
});

const MENU: Record<PowerAction, { name: string; icon: string; question: string }> = {
  shutdown: {
    name: "Shut Down the Computer",
    icon: "system-shutdown",
    question: "Shut down the computer, with every qube?",
  },
  reboot: {
    name: "Restart the Computer",
    icon: "system-reboot",
    question: "Restart the computer, with every qube?",
  },
  suspend: { name: "Suspend the Computer", icon: "system-suspend", question: "" },
};

const PROGRAM = "/usr/lib/guidomain/power";

/** Its units wait for this flag, which dom0 cannot set: a feature's name takes no "@" (core-admin, api/admin.py vm_feature_set). */
const BATTERY_FLAG = "/run/qubes-service/dummy-psu@default";
const BACKLIGHT_FLAG = "/run/qubes-service/dummy-backlight";

/** Where the template has the part: its flag, and its units. Without it nothing is missed. */
const begin = (program: string, flag: string, ...units: string[]) =>
  `{ test ! -e ${program} || { mkdir -p /run/qubes-service && touch ${flag} && systemctl --no-block start ${units.join(" ")}; }; } || true`;

/** What its level, or its program, lets it do to the machine as entries of its menu, and what its machine has. */
export const powerInside =
  (mode: Mode) =>
  (gui: GuiDomain): Partial<QubeInside> => {
    const actions = powerIn(gui, mode);
    const { hostPackages } = inMode(gui, mode);
    const entries = actions.map((action) => [
      `/usr/share/applications/guidomain-${action}.desktop`,
      file(render("qubes/inside/power.desktop", { ...MENU[action], program: PROGRAM, action })),
    ]);
    const questions = actions.map((action) => ({ action, question: MENU[action].question }));
    return {
      files: actions.length
        ? {
            ...Object.fromEntries(entries),
            [PROGRAM]: file(render("qubes/inside/power", { service: POWER_SERVICE, questions }), "0755"),
          }
        : {},
      commands: [
        ...(hostPackages.includes(PARTS.battery)
          ? [
              begin(
                "/usr/bin/qubes-psu-client",
                BATTERY_FLAG,
                "module-load-dummy-psu.service",
                "qubes-psu-client@default.service",
              ),
            ]
          : []),
        ...(hostPackages.includes(PARTS.backlight)
          ? [
              begin(
                "/usr/lib/qubes/qubes-set-backlight.sh",
                BACKLIGHT_FLAG,
                "module-load-dummy-backlight.service",
              ),
            ]
          : []),
      ],
    };
  };

/** Where the program names what may be done to the machine, were it nothing, its inside is needed for that alone. */
export const powerAsked =
  (mode: Mode) =>
  (gui: GuiDomain): Partial<QubeInside> =>
    gui.power === null ? {} : powerInside(mode)(gui);
