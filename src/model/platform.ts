/** What a host is, which decides what can be described there and how it is spelled. Pure. Design §4 "Platforms". */

/** "qubes": Qubes OS 4.3. "xen": plain Xen with `xl`, such as a Debian dom0. */
export type Platform = "qubes" | "xen";

/** null: neither. An agent of before plain Xen does not say it. */
export function platformOf(facts: {
  platform?: "qubes" | "xen" | "none" | undefined;
  qubesRelease: string | null;
}): Platform | null {
  const { platform = facts.qubesRelease === null ? "none" : "qubes" } = facts;
  return platform === "none" ? null : platform;
}
