/** Display modes this release can set up. Design §1 "Words". */
export const MODES = ["xephyr", "vnc"] as const;
export type Mode = (typeof MODES)[number];
