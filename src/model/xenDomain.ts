/** What a domain of `xl` is made of, on plain Xen. Pure. Source: xl.cfg(5) of Xen 4.17, xl-pci-configuration(5). */
import * as v from "valibot";
import { integer, listOf, oneOf, only, text, wrong } from "./fields.ts";

/** What a domain may tell of itself: the devices that its kernel sees, that it draws on its screen. */
export const REPORTS = ["pci", "screen"] as const;

/** Every one but `type` is left as it is in the configuration of a domain that is there, unless given. */
export const XEN_DOMAIN = only(
  {
    type: oneOf("pv", "hvm", "pvh"),
    kernel: v.optional(text),
    ramdisk: v.optional(text),
    cmdline: v.optional(text),
    disks: v.optional(listOf(text)),
    networks: v.optional(listOf(text)),
    display: v.optional(integer(0, 99, "the number of a VNC display")),
    reports: v.optional(listOf(oneOf(...REPORTS))),
  },
  wrong(
    'what the domain is made of: { type: "pv" } with kernel, ramdisk, cmdline, disks, networks, display, reports',
  ),
  "there is no such part; allowed are type, kernel, ramdisk, cmdline, disks, networks, display, reports",
);

export interface XenDomain {
  type: "pv" | "hvm" | "pvh";
  /** Paths in dom0, as xl.cfg has them; what is left out, here and below, is as the configuration has it. */
  kernel?: string;
  ramdisk?: string;
  cmdline?: string;
  /** Each as xl-disk-configuration(5) spells it: "phy:/dev/vg/gui,xvda,w". */
  disks?: string[];
  /** Each as xl-network-configuration(5) spells it. */
  networks?: string[];
  /** VNC display on dom0's loopback that its framebuffer is shown at, in modes "xephyr" and "vnc". */
  display: number;
  /** What it tells of itself, in its own folder of xenstore (docs/xen.md). */
  reports: readonly (typeof REPORTS)[number][];
}

/** The VNC display unless given: away from those that somebody else's domains take first. */
export const DISPLAY = 5;

export function xenDomainOf(given: v.InferOutput<typeof XEN_DOMAIN>): XenDomain {
  const { type, display = DISPLAY, reports = [], ...rest } = given;
  const said = Object.entries(rest).filter(([, value]) => value !== undefined);
  return { type, ...Object.fromEntries(said), display, reports };
}

/** TCP port of a VNC display (RFB 3.8). */
export const vncPort = ({ display }: Pick<XenDomain, "display">): number => 5900 + display;

/**
 * What plain Xen does not have is not said. `reasons`: why, by the property; `defaults`: what a description has where the program says
 * nothing, if that is not nothing.
 */
export function onlyQubesFaults(
  described: object,
  reasons: Partial<Record<string, string>>,
  defaults: Partial<Record<string, unknown>>,
  add: (property: string, reason: string) => void,
): void {
  const values = new Map<string, unknown>(Object.entries(described));
  for (const [property, why] of Object.entries(reasons)) {
    const value = values.get(property);
    const isNothing = value === null || (Array.isArray(value) && value.length === 0);
    if (!isNothing && value !== defaults[property])
      add(property, `it has no meaning on plain Xen: ${why}; leave it out`);
  }
}

/** xl's own words (libxl_pci.c of Xen 4.17; xen-lab.md "Devices and passthrough"). */
export const PVH_WORDS = "passthrough not yet supported for x86 PVH guests";

/**
 * The properties that are the domain itself, as its configuration spells them; a list is JSON, whose texts xl reads as its own. `more`: what the
 * resource says beside it.
 */
export function domainProperties(
  { type, kernel, ramdisk, cmdline, disks, networks }: XenDomain,
  more: { memory: number | null; maxmem?: number | null; vcpus: number | null; autostart: boolean },
): Record<string, string> {
  return {
    type,
    ...(kernel !== undefined && { kernel }),
    ...(ramdisk !== undefined && { ramdisk }),
    ...(cmdline !== undefined && { cmdline }),
    ...(disks && { disk: JSON.stringify(disks) }),
    ...(networks && { vif: JSON.stringify(networks) }),
    ...(more.memory !== null && { memory: String(more.memory) }),
    ...(more.maxmem ? { maxmem: String(more.maxmem) } : {}),
    ...(more.vcpus !== null && { vcpus: String(more.vcpus) }),
    autostart: more.autostart ? "True" : "False",
  };
}
