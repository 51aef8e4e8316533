/** Battery and backlight of the host, as the desktop sees them. */
import type { Distribution } from "../../model/template.ts";
import type { Inside } from "./inside.ts";

/** Debian has no such packages (qubes-host.md (b) "Template packages"). */
export const powerParts = (distribution: Distribution): Partial<Inside> => ({
  packages: distribution === "fedora" ? ["dummy-backlight-vm", "dummy-psu-module", "dummy-psu-receiver"] : [],
});
