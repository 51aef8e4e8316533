/**
 * The servers of remote screens. Both show the one screen that the GUI domain has, that of its greeter: windows of clients come to one
 * X server, and a session of its own for each viewer would have none. By VNC x11vnc shows it; by RDP xrdp does, in front of that x11vnc.
 * Each listens on the loopback interface alone. docs/remote.md says why these.
 */
import type { GuiDomain } from "../../model/guiDomain.ts";
import { PORTS, RDP_SERVICE, SCREEN_PORT } from "../../model/modes.ts";
import type { Distribution } from "../../model/template.ts";
import { render } from "../templates.ts";
import { file, type Inside, type InsideFile, type QubeInside } from "./inside.ts";

const UNITS = "/etc/systemd/system";
const PROGRAMS = "/usr/libexec/guidomain";

/** Who xrdp runs as, and so whom x11vnc lets in. */
const RDP_USER = "guidomain-rdp";

const part = (name: string, data: object = {}): InsideFile => file(render(`qubes/inside/${name}`, data));
const program = (name: string, data: object): InsideFile =>
  file(render(`qubes/inside/${name}`, data), "0755");

/** In the template as well as in the qube: what the packages would otherwise start, open to every network, before the qube's own is in force. */
const closed = {
  vnc: { [`${UNITS}/lightdm.service.d/qubes-guivm-vnc.conf`]: () => part("lightdm-vnc.conf") },
  rdp: {
    [`${UNITS}/xrdp.service.d/50-guidomain.conf`]: () => part("not-xrdp.conf"),
    [`${UNITS}/xrdp-sesman.service.d/50-guidomain.conf`]: () => part("not-xrdp.conf"),
  },
};
const made = (files: Record<string, () => InsideFile>) =>
  Object.fromEntries(Object.entries(files).map(([path, make]) => [path, make()]));

/** `qubes-gui-vnc` brings the greeter its screen in memory (qubes-gui-agent-linux). */
export const vncParts = (_distribution: Distribution): Partial<Inside> => ({
  packages: ["qubes-gui-vnc", "x11vnc"],
  files: made(closed.vnc),
});

export const rdpParts = (_distribution: Distribution): Partial<Inside> => ({
  packages: ["openssl", "qubes-gui-vnc", "x11vnc", "xrdp"],
  files: made({ ...closed.vnc, ...closed.rdp }),
});

/** What x11vnc asks of who connects; "xrdp": nothing, but nobody other than xrdp may. */
const screen = (asks: "password" | "nothing" | "xrdp"): Record<string, InsideFile> => ({
  ...made(closed.vnc),
  [`${UNITS}/guidomain-vnc.service`]: part("vnc.service"),
  [`${PROGRAMS}/x11vnc`]: program("x11vnc", {
    port: asks === "xrdp" ? SCREEN_PORT : PORTS.vnc,
    xrdp: asks === "xrdp",
    password: asks === "password",
  }),
});

export const vncInside = ({ remote }: GuiDomain): Partial<QubeInside> =>
  remote
    ? {
        files: screen("password"),
        secrets: {
          vnc: "umask 077 && cat >/run/guidomain/vnc && systemctl --no-block restart guidomain-vnc.service",
        },
      }
    : { files: screen("nothing"), start: ["guidomain-vnc.service"] };

export const rdpInside = ({ qube }: GuiDomain): Partial<QubeInside> => ({
  files: {
    ...screen("xrdp"),
    ...made(closed.rdp),
    [`${PROGRAMS}/only-xrdp`]: program("only-xrdp", { user: RDP_USER }),
    [`${PROGRAMS}/rdp-key`]: program("rdp-key", { user: RDP_USER, subject: `/CN=${qube}` }),
    "/etc/sysusers.d/guidomain-rdp.conf": part("rdp-user.conf", { user: RDP_USER }),
    "/etc/guidomain/xrdp.ini": part("xrdp.ini", { qube, port: PORTS.rdp, screen: SCREEN_PORT }),
    "/etc/guidomain/sesman.ini": part("sesman.ini"),
    [`${UNITS}/guidomain-rdp-login.service`]: part("rdp-login.service", { service: RDP_SERVICE }),
    [`${UNITS}/guidomain-rdp.service`]: part("rdp.service", { service: RDP_SERVICE, user: RDP_USER }),
  },
  start: ["guidomain-vnc.service", "guidomain-rdp-login.service", "guidomain-rdp.service"],
});
