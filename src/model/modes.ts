/** Display modes this release can set up. Design §1 "Words". */
export const MODES = ["gpu", "xephyr", "vnc", "rdp"] as const;
export type Mode = (typeof MODES)[number];

/** TCP ports of the servers of remote screens: each listens in the GUI domain, on its loopback interface alone. */
export const PORTS = { vnc: 5900, rdp: 3389 } as const;
export type RemoteMode = keyof typeof PORTS;
export const isRemote = (rung: string): rung is RemoteMode => Object.hasOwn(PORTS, rung);

/** Where x11vnc listens in mode "rdp", for xrdp alone. */
export const SCREEN_PORT = 5901;

/** The service of a qube in mode "rdp", beside Qubes' own of mode "vnc". */
export const RDP_SERVICE = "guidomain-rdp";

/** A step of a ladder. "dom0": the host's own screen, as before guidomain came; it is the last step of every ladder. */
export type Rung = Mode | "dom0";
