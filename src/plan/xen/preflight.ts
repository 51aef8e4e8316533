/** What must hold on a plain Xen host before a domain is made a GUI domain or an audio domain there. Pure. Issue 7. */
import { SCREEN, sessionFile, XEN_CLASS } from "../../formula/xen/settings.ts";
import type { Snapshot } from "../../host/protocol.ts";
import { Refusal } from "../../model/failure.ts";
import { type GuiDomain, modesOf } from "../../model/guiDomain.ts";
import type { Mode, Rung } from "../../model/modes.ts";
import { PVH_WORDS, type XenDomain } from "../../model/xenDomain.ts";
import type { Plan } from "../changes.ts";
import { partsOf } from "../values.ts";

export interface OnXen {
  resource: string;
  host: string;
  qube: string;
}

/** The domain itself: is there with a configuration, or can be made. */
export function preflightDomain(
  { resource, host, qube }: OnXen,
  domain: XenDomain,
  snapshot: Snapshot,
  devices: boolean,
): void {
  const refuse = (what: string, next: string) => new Refusal({ resource, host, what, next });
  const live = snapshot.qubes[qube];
  if (live && Object.keys(live.properties).length === 0)
    throw refuse(
      `domain "${qube}" runs there without a configuration in /etc/xen`,
      `Keep its configuration as /etc/xen/${qube}.cfg, or choose another name with "qube"`,
    );
  if (!live && domain.kernel === undefined && domain.disks === undefined)
    throw refuse(
      `domain "${qube}" is not there, and "domain" does not say what it is to boot`,
      'Give "kernel" (with "ramdisk"), or "disks" to boot from, or make the domain first',
    );
  if (devices && domain.type === "pvh")
    throw refuse(
      `domain "${qube}" is of type pvh: xl gives it no devices ("${PVH_WORDS}")`,
      'Set domain.type to "hvm" or "pv"',
    );
  if (
    live &&
    live.state !== "Halted" &&
    live.properties["type"]?.value &&
    live.properties["type"].value !== domain.type
  )
    throw refuse(
      `its type cannot be changed from "${live.properties["type"].value}" to "${domain.type}" while the domain is ${live.state.toLowerCase()}`,
      `Shut it down first (xl shutdown ${qube})`,
    );
}

export function preflightXen(gui: GuiDomain, domain: XenDomain, snapshot: Snapshot): void {
  const resource = `GUI domain ${gui.qube}`;
  preflightDomain(
    { resource, host: gui.host, qube: gui.qube },
    domain,
    snapshot,
    gui.display.includes("gpu"),
  );
  if (!modesOf(gui).some((mode) => mode !== "gpu")) return;
  const other = Object.keys(snapshot.qubes).find(
    (name) => name !== gui.qube && displaysOf(name, snapshot).includes(String(domain.display)),
  );
  if (other)
    throw new Refusal({
      resource,
      host: gui.host,
      what: `VNC display ${domain.display} of dom0 is that of domain "${other}"`,
      next: "Set domain.display to a number that is free",
    });
}

/** VNC displays that a domain's configuration names, as text; its own first, then that of its list `vfb`. */
export function displaysOf(name: string, { qubes }: Snapshot): string[] {
  const { properties = {} } = qubes[name] ?? {};
  const own = properties["vncdisplay"]?.value;
  const listed = /\bvncdisplay=(\d+)/.exec(properties["vfb"]?.value ?? "")?.[1];
  return [own, listed].filter((one): one is string => Boolean(one));
}

/** The mode that a domain is set up for, where no display is given to it. */
export function xenModeOf(qube: string, snapshot: Snapshot): Mode | null {
  if (!snapshot.ledger[`qube:${qube}`]) return null; // any other domain may have a framebuffer
  if (snapshot.files[sessionFile(qube)] && snapshot.files[SCREEN]) return "xephyr";
  const { properties = {} } = snapshot.qubes[qube] ?? {};
  return properties["vfb"]?.value || properties["vnc"]?.value === "1" ? "vnc" : null;
}

/** What xl reads when it creates the domain, and what makes the mode. */
const OF_ITS_START = new Set([
  "type",
  "kernel",
  "ramdisk",
  "cmdline",
  "vfb",
  "vnc",
  "vnclisten",
  "vncdisplay",
  "vncunused",
]);

/**
 * Whether an apply of `plan` starts the domain anew: what makes its mode is read when xl creates it. A domain that was there before, or in whose
 * session somebody is, is never stopped for anybody.
 */
export function xenStartsAnew(gui: GuiDomain, plan: Plan, snapshot: Snapshot, to: Rung | undefined): boolean {
  const live = snapshot.qubes[gui.qube];
  if (live?.class !== XEN_CLASS || live.state === "Halted") return false;
  const keys = [...plan.changes.map((c) => c.wish.key as string), ...plan.restores.map((r) => r.key)];
  const isOfStart = keys.some((key) => {
    const { kind, of, name } = partsOf(key);
    return of === gui.qube && (kind === "device" || (kind === "property" && OF_ITS_START.has(name)));
  });
  if (!isOfStart) return false;
  const isOurs = snapshot.ledger[`qube:${gui.qube}`]?.first === null;
  if (isOurs && !live.session) return true;
  throw new Refusal({
    resource: `GUI domain ${gui.qube}`,
    host: gui.host,
    what: `domain "${gui.qube}" is ${live.state.toLowerCase()}, and ${live.session ? "somebody is in its session" : "was there before guidomain"}: mode "${to}" begins when it starts anew`,
    next: `Shut it down (xl shutdown ${gui.qube}), then run again. Nothing is ever stopped for you`,
  });
}
