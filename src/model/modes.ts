/** Display modes this release can set up. Design §1 "Words". */
export const MODES = ["gpu", "xephyr", "vnc"] as const;
export type Mode = (typeof MODES)[number];

/** A step of a ladder. "dom0": the host's own screen, as before guidomain came; it is the last step of every ladder. */
export type Rung = Mode | "dom0";
