/** What nobody below level admin may ask, whatever else a host allows (design §7). */
import { COMMANDS, onlyReads } from "./services.ts";

/** Properties that an operator may set on qubes of his: none gives a qube another kernel, screen, sound, template, network or user. */
export const HARMLESS_PROPERTIES = [
  "autostart",
  "include_in_backups",
  "label",
  "maxmem",
  "memory",
  "qrexec_timeout",
  "shutdown_timeout",
  "vcpus",
];

/** Features that an operator may set; every other one may carry rights: services of root, another GUI domain, kernel options, what is hidden. */
export const HARMLESS_FEATURES = [
  "appmenus-dispvm",
  "default-menu-items",
  "keyboard-layout",
  "menu-favorites",
  "menu-items",
  "netvm-menu-items",
];

const RIGHTS = new Set(["kernel", "kernelopts", "guivm", "audiovm", "management_dispvm", "default_user"]);

/**
 * Why a call is an admin's, null when it need not be. `argument` null: any. Properties that are neither harmless nor carry rights
 * (netvm, say) are nobody's by level; a rule of one's own may give them.
 */
export function adminOnly(service: string | null, argument: string | null): string | null {
  if (service === null) return "every service at once";
  if (COMMANDS.includes(service) || service === "admin.vm.Console") return "any command in another qube";
  if (service.startsWith("policy.")) return service === "policy.EvalGUI" ? null : "dom0's policy";
  if (/^admin\.vm\.device\.pci\.(?!Assigned$|Attached$|Available$)/.test(service)) return "PCI devices";
  if (/^admin\.vm\.tag\.(Set|Remove)$/.test(service)) return "tags, by which rights are given";
  const name = argument?.slice(1) ?? null;
  if (/^admin\.vm\.property\.(Set|Reset)$/.test(service) && (name === null || RIGHTS.has(name)))
    return `${name === null ? "every property, with them" : name}${name === null ? " kernel, guivm and audiovm" : ", a property that carries rights"}`;
  if (
    /^admin\.vm\.feature\.(Set|Remove)$/.test(service) &&
    (name === null || !HARMLESS_FEATURES.includes(name))
  )
    return name === null ? "every feature" : `feature ${name}, which may carry rights`;
  if (/^admin\.(?!vm\.)/.test(service) && !onlyReads(service)) return "the system as a whole";
  return null;
}

/** A call that changes something through the Admin API, or the policy. */
export const changes = (service: string | null): boolean =>
  service === null ||
  (/^(admin|policy)\./.test(service) && service !== "policy.EvalGUI" && !onlyReads(service));
