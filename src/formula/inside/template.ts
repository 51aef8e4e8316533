/** A template's description → what is to be inside it. */
import type { Distribution, Template, TemplateMode } from "../../model/template.ts";
import { audioParts, cardParts, desktopParts, greeterParts } from "./desktop.ts";
import { type Inside, together } from "./inside.ts";
import { powerParts } from "./power.ts";
import { rdpParts, vncParts } from "./remote.ts";

type Parts = (distribution: Distribution) => Partial<Inside>;

const MODE_PARTS: Record<TemplateMode, Parts[]> = {
  gpu: [desktopParts, powerParts, greeterParts, cardParts],
  xephyr: [desktopParts, powerParts],
  vnc: [desktopParts, powerParts, greeterParts, vncParts],
  rdp: [desktopParts, powerParts, greeterParts, rdpParts],
};

export function templateInside(
  { modes, audio, packages }: Pick<Template, "modes" | "audio" | "packages">,
  distribution: Distribution,
): Inside {
  const parts = modes.flatMap((mode) => MODE_PARTS[mode]).map((part) => part(distribution));
  return together(...parts, audio ? audioParts() : {}, { packages });
}
