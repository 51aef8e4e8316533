/** Names as Qubes allows them. Source: qubes.vm.validate_name; qubes-cli-formats.md §1; qubes-host.md (f) for policies. */

const RESERVED = new Set(["none", "default", "Domain-0", "dom0"]);

/**
 * Why `name` cannot be the name of a qube, or null when it can.
 * A letter first, then letters, digits, `_`, `.`, `-`; at most 31 characters; not `-dm` at the end (Xen's stubdomains).
 */
export function qubeNameFault(name: string): string | null {
  const shown = JSON.stringify(name.length > 40 ? `${name.slice(0, 40)}…` : name);
  if (RESERVED.has(name)) return `${shown} is reserved by Qubes; choose another name`;
  if (name.length > 31) return `${shown} has ${name.length} characters; a qube's name has at most 31`;
  if (!/^[a-zA-Z][a-zA-Z0-9_.-]*$/.test(name))
    return `${shown} is not a qube's name; allowed are a letter first, then letters, digits, "_", "." and "-"`;
  if (name.endsWith("-dm")) return `${shown} ends in "-dm", which Xen keeps for stubdomains`;
  return null;
}

/** The tag that Qubes gives to the qubes which a GUI domain shows: exactly one of them on each. */
export const tagOf = (guiDomain: string) => `guivm-${guiDomain}`;

/** Why a qube cannot be a GUI domain by its name. Qubes takes fewer letters in a tag than in a name (core-admin 4.3.50, vm/__init__.py: Tags.add). */
export function guiDomainNameFault(name: string): string | null {
  if (qubeNameFault(name) !== null || !name.includes(".")) return qubeNameFault(name);
  return `${JSON.stringify(name)} cannot be a GUI domain: Qubes marks the qubes that it shows with the tag "${tagOf(name)}", and a tag takes no "."; choose a name without one`;
}

/** The base name of a policy file for a qube: lower case, because other letters stop every qrexec call (qubes-host.md (f)). */
export function policyFile(order: number, kind: string, qube: string): string {
  return `/etc/qubes/policy.d/${order}-${kind}-${qube.toLowerCase()}.policy`;
}

/** A host's name in the configuration: short, and safe in ids such as `host/qube`. */
export function hostNameFault(name: string): string | null {
  if (/^[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}$/.test(name)) return null;
  return `${JSON.stringify(name.slice(0, 40))} is not a host's name; allowed are letters, digits, ".", "_" and "-", at most 63 characters`;
}
