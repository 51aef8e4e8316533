/** A GUI domain's description → what it puts in place inside itself at each start. */
import type { GuiDomain } from "../../model/guiDomain.ts";
import type { Mode, Rung } from "../../model/modes.ts";
import { desktopInside, greeterInside, loginInside } from "./desktop.ts";
import { type QubeInside, qubeTogether } from "./inside.ts";
import { layoutInside } from "./layout.ts";
import { powerAsked, powerInside } from "./power.ts";
import { rdpInside, vncInside } from "./remote.ts";

type Parts = (gui: GuiDomain) => Partial<QubeInside>;

/** What makes it necessary to be inside it at all: where none of these has anything to say, nothing is done there. */
const REQUIRING: Record<Mode, Parts[]> = {
  gpu: [loginInside, powerAsked("gpu"), layoutInside],
  xephyr: [loginInside, powerAsked("xephyr")],
  vnc: [loginInside, vncInside, powerAsked("vnc")],
  rdp: [loginInside, rdpInside, powerAsked("rdp")],
};

/** What then comes along. */
const ALONG: Record<Mode, Parts[]> = {
  gpu: [desktopInside, greeterInside, powerInside("gpu")],
  xephyr: [desktopInside, powerInside("xephyr")],
  vnc: [desktopInside, greeterInside, powerInside("vnc")],
  rdp: [desktopInside, greeterInside, powerInside("rdp")],
};

/** null: nothing is put in place. */
export function qubeInside(gui: GuiDomain, rung: Rung): QubeInside | null {
  if (gui.domain) return null; // guidomain puts nothing inside a domain of plain Xen
  if (rung === "dom0") return null;
  const of = (parts: Parts[]) => parts.map((part) => part(gui));
  const { files, start, secrets, commands } = qubeTogether(...of(REQUIRING[rung]));
  const parts = [...Object.keys(files), ...start, ...Object.keys(secrets), ...commands];
  return parts.length ? qubeTogether(...of(ALONG[rung]), ...of(REQUIRING[rung])) : null;
}
