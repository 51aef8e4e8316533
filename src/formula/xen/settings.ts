/** A GUI domain's description → what each value on a plain Xen host has to be. Source: xl.cfg(5), issue 7; docs/xen.md. */
import type { AudioDomain } from "../../model/audioDomain.ts";
import { bootWords, type GpuGrant } from "../../model/gpu.ts";
import { type GuiDomain, inMode } from "../../model/guiDomain.ts";
import type { Mode } from "../../model/modes.ts";
import { NO_SETTINGS, type Settings } from "../../model/settings.ts";
import { domainProperties, type XenDomain } from "../../model/xenDomain.ts";
import { render } from "../templates.ts";

/** What the agent calls a domain of xl that has a configuration (salt/_utils/xen_domains.py). */
export const XEN_CLASS = "Domain";

/** dom0's session: a full-screen Xephyr, whose only client is a full-screen viewer of one domain's framebuffer. The same for all. */
export const SCREEN = "/usr/local/libexec/guidomain-screen";
export const sessionName = (qube: string) => `guidomain-${qube}`;
export const sessionFile = (qube: string) => `/usr/share/xsessions/${sessionName(qube)}.desktop`;
const SESSION_CHOICE = "/etc/lightdm/lightdm.conf.d/50-guidomain-session.conf";
/** Keeps dom0's greeter away in a boot whose kernel line says that the display is not dom0's, and in no other. */
const greeterFile = (qube: string) => `/etc/systemd/system/lightdm.service.d/50-guidomain-${qube}.conf`;

export function xenSettingsOf(
  gui: GuiDomain,
  domain: XenDomain,
  mode: Mode,
  { devices }: GpuGrant,
): Settings {
  const { memory, maxmem, hostPackages } = inMode(gui, mode);
  const gpu = mode === "gpu";
  const { vcpus, autostart } = gui;
  return {
    ...NO_SETTINGS,
    class: XEN_CLASS,
    properties: {
      ...domainProperties(domain, { memory, maxmem, vcpus, autostart }),
      ...(gpu ? {} : framebuffer(domain)),
    },
    files: filesOf(gui, domain, mode),
    packages: Object.fromEntries(hostPackages.map((name) => [name, "installed" as const])),
    devices: gpu ? devices : {},
    bootArguments: gpu
      ? Object.fromEntries(
          bootWords(
            "xen",
            gui.qube,
            Object.values(devices).map(({ port }) => port),
          ).map((word) => [word, "set" as const]),
        )
      : {},
  };
}

export function xenAudioSettingsOf(
  { memory, vcpus, autostart }: AudioDomain,
  domain: XenDomain,
  devices: Settings["devices"],
): Settings {
  const more = { memory, vcpus, autostart: autostart ?? true };
  return givenUp({
    ...NO_SETTINGS,
    class: XEN_CLASS,
    properties: domainProperties(domain, more),
    devices,
  });
}

/**
 * dom0 gives the devices up to pciback now, and xl takes them by itself ("seize") each time that the domain is created, also in the next
 * boot. Qubes does both at a qube's start.
 */
export function givenUp(settings: Settings): Settings {
  const devices = Object.entries(settings.devices).map(
    ([name, device]) => [name, { ...device, options: { ...device.options, seize: "True" } }] as const,
  );
  return {
    ...settings,
    devices: Object.fromEntries(devices),
    assignable: Object.fromEntries(devices.map(([, { port }]) => [port, "pciback" as const])),
  };
}

/** On dom0's loopback alone, and at that very display: a viewer must not come to another domain's. */
function framebuffer({ type, display }: XenDomain): Record<string, string> {
  if (type === "hvm")
    return { vnc: "1", vnclisten: "127.0.0.1", vncdisplay: String(display), vncunused: "0" };
  return {
    vfb: JSON.stringify([`type=vnc,vnclisten=127.0.0.1,vncdisplay=${display},vncunused=0`]),
  };
}

function filesOf(gui: GuiDomain, domain: XenDomain, mode: Mode): Record<string, string> {
  const { qube, session, sessionUser } = gui;
  switch (mode) {
    case "gpu":
      return { [greeterFile(qube)]: render("xen/greeter.conf", { qube }) };
    case "xephyr":
      return {
        [SCREEN]: render("xen/screen", {}),
        [sessionFile(qube)]: render("xen/xsession.desktop", {
          qube,
          program: SCREEN,
          display: domain.display,
        }),
        ...(session !== "choose" && {
          [SESSION_CHOICE]: render("dom0/lightdm-session.conf", {
            session: sessionName(qube),
            user: sessionUser,
          }),
        }),
      };
    default:
      return {};
  }
}
