/** A GUI domain's description → what each value on a Qubes host has to be. Source: qubes-host.md (b), columns Xephyr and VNC; (f). */
import type { GuiDomain } from "../model/guiDomain.ts";
import type { Mode } from "../model/modes.ts";
import { policyFile } from "../model/names.ts";
import type { Settings } from "../model/settings.ts";
import { render } from "./templates.ts";

const FEATURES: Record<Mode, Record<string, string>> = {
  xephyr: {
    "gui-allow-fullscreen": "1",
    // dom0 leaves these keys to the GUI domain, whose own daemons see them
    "gui-secure-copy-sequence": "none",
    "gui-secure-paste-sequence": "none",
  },
  vnc: {},
};

const SERVICES: Record<Mode, string[]> = {
  xephyr: ["guivm", "guivm-gui-agent"],
  vnc: ["guivm", "guivm-vnc", "lightdm"],
};

/** "True" and "False", as the Admin API spells booleans. */
const bool = (value: boolean) => (value ? "True" : "False");

export function settingsOf(gui: GuiDomain, mode: Mode): Settings {
  const { qube } = gui;
  return {
    class: "AppVM",
    template: gui.template,
    label: gui.label,
    properties: {
      netvm: "",
      guivm: "dom0",
      audiovm: gui.audiovm,
      virt_mode: "pvh",
      autostart: bool(gui.autostart),
      maxmem: String(gui.maxmem),
      ...(gui.memory === null ? {} : { memory: String(gui.memory) }),
      ...(gui.vcpus === null ? {} : { vcpus: String(gui.vcpus) }),
    },
    features: { ...FEATURES[mode] },
    services: Object.fromEntries(SERVICES[mode].map((name) => [name, "on" as const])),
    globals: gui.clients === "default" ? { default_guivm: qube } : {},
    clients: gui.clients === "default" ? {} : Object.fromEntries(gui.clients.map((client) => [client, qube])),
    files: filesOf(gui, mode),
    packages: Object.fromEntries(gui.hostPackages.map((name) => [name, "installed" as const])),
  };
}

function filesOf(gui: GuiDomain, mode: Mode): Record<string, string> {
  const { qube } = gui;
  const files: Record<string, string> = {
    [policyFile(50, "gui", qube)]: render("qubes/gui.policy", {
      qube,
      battery: gui.hostPackages.includes("dummy-psu-sender"),
      brightness: gui.hostPackages.includes("dummy-backlight-dom0"),
      viewers: gui.viewers,
    }),
  };
  files[policyFile(51, "gui", qube)] = render("qubes/gui-tools.policy", {
    qube,
    destinations: [`@tag:guivm-${qube}`, qube],
  });
  if (mode === "xephyr") {
    files[`/usr/share/xsessions/${qube}.desktop`] = render("qubes/xsession.desktop", { qube });
    if (gui.session !== "choose")
      files["/etc/lightdm/lightdm.conf.d/50-guidomain-session.conf"] = render("qubes/lightdm-session.conf", {
        qube,
        user: gui.sessionUser,
      });
  }
  return files;
}
