/** The desktop and the greeter of a GUI domain. Source: qubes-host.md (b) "Template packages"; Qubes' sys-gui-template formula. */
import type { GuiDomain } from "../../model/guiDomain.ts";
import type { Distribution } from "../../model/template.ts";
import { render } from "../templates.ts";
import { file, type Inside, type QubeInside } from "./inside.ts";

/** Where a package is called otherwise, or is there in one of the two alone. */
const DESKTOP: Record<Distribution, string[]> = {
  fedora: ["greybird-xfce4-notifyd-theme", "xfce4-screenshooter-plugin", "xfdesktop"],
  debian: ["greybird-gtk-theme", "xfce4-screenshooter", "xfdesktop4"],
};

/** What every GUI domain needs to show windows and to let a person work. */
export const desktopParts = (distribution: Distribution): Partial<Inside> => ({
  packages: [
    "qubes-vm-guivm",
    "qubes-manager",
    "qubes-desktop-linux-manager",
    "xfce4-panel",
    "xfce4-power-manager",
    "xfce4-screensaver",
    "xfce4-session",
    "xfce4-settings",
    "xfce4-settings-qubes",
    "xfce4-terminal",
    "xfconf",
    "xfwm4",
    ...DESKTOP[distribution],
  ],
});

const GREETER: Record<Distribution, string[]> = {
  fedora: ["lightdm", "lightdm-gtk"],
  debian: ["lightdm", "lightdm-gtk-greeter"],
};

/** A greeter that runs only in qubes with the service "lightdm": the template serves others too. */
export const greeterParts = (distribution: Distribution): Partial<Inside> => ({
  packages: GREETER[distribution],
  files: {
    "/etc/systemd/system/lightdm.service.d/50-guidomain.conf": file(render("qubes/inside/lightdm.conf", {})),
  },
  units: { "lightdm.service": "enabled" },
});

/** A card's own firmware; Debian has it in a section that a template need not know, so there it is the program's to ask for. */
export const cardParts = (distribution: Distribution): Partial<Inside> => ({
  packages:
    distribution === "fedora"
      ? ["amd-gpu-firmware", "intel-gpu-firmware", "nvidia-gpu-firmware"]
      : // On Fedora qubes-vm-guivm brings it along.
        ["qubes-input-proxy-receiver"],
});

/** An audio domain's (qubes-host.md (b) "Audio template"). */
export const audioParts = (): Partial<Inside> => ({
  packages: ["qubes-core-admin-client", "qubes-audio-daemon", "volumeicon"],
});

/** In the GUI domain: whose windows it shows is served from the start of its desktop on; there is no network to speak of. */
export const desktopInside = (): Partial<QubeInside> => ({
  files: {
    // Under the name of the package's own, which it covers: there is to be one of it.
    "/etc/xdg/autostart/qvm-start-daemon.desktop": file(render("qubes/inside/qvm-start-daemon.desktop", {})),
    "/etc/xdg/autostart/nm-applet.desktop": file(render("qubes/inside/hidden.desktop", {})),
  },
});

/** The password of a user, as dom0 has it; in Qubes' templates nobody has one. Its screen locks only where there is one. */
export const loginInside = ({ login }: GuiDomain): Partial<QubeInside> =>
  login
    ? {
        secrets: {
          login: `{ printf %s: ${login.follow ? "user" : login.user} && cat && echo; } | chpasswd --encrypted`,
        },
      }
    : {};

/** Where there is a greeter nobody may log in as root at it, who has no password in Qubes' templates. */
export const greeterInside = (): Partial<QubeInside> => ({ before: ["usermod --lock root"] });
