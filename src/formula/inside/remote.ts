/** The servers of remote screens. */
import type { Distribution } from "../../model/template.ts";
import type { Inside } from "./inside.ts";

/** What `qubes-run-x11vnc` runs (qubes-gui-agent-linux); its unit is a drop-in of lightdm's. */
export const vncParts = (distribution: Distribution): Partial<Inside> => ({
  packages: distribution === "fedora" ? ["x11vnc"] : ["qubes-gui-vnc", "x11vnc"],
});

export const rdpParts = (_distribution: Distribution): Partial<Inside> => ({ packages: ["xrdp"] });
