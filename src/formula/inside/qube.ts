/** A GUI domain's description → what it puts in place inside itself at each start. */
import type { GuiDomain } from "../../model/guiDomain.ts";
import type { Rung } from "../../model/modes.ts";
import { desktopInside, greeterInside } from "./desktop.ts";
import { type QubeInside, qubeTogether } from "./inside.ts";
import { rdpInside, vncInside } from "./remote.ts";

type Parts = (gui: GuiDomain) => Partial<QubeInside>;

const MODE_PARTS: Record<Exclude<Rung, "dom0">, Parts[]> = {
  gpu: [desktopInside, greeterInside],
  xephyr: [desktopInside],
  vnc: [desktopInside, greeterInside, vncInside],
  rdp: [desktopInside, greeterInside, rdpInside],
};

/** null: in this rung there is no GUI domain. */
export function qubeInside(gui: GuiDomain, rung: Rung): QubeInside | null {
  if (rung === "dom0") return null;
  return qubeTogether(...MODE_PARTS[rung].map((part) => part(gui)));
}
