/** Where a formula's files lie below /srv/user_salt. */

/**
 * A qube's name as part of an SLS name, where a dot would mean a folder: "_" becomes "__", "." becomes "_d".
 * No two qubes share one.
 */
export const slsName = (qube: string): string => qube.replaceAll("_", "__").replaceAll(".", "_d");
