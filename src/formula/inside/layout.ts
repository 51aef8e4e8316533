/** How the screens of a GUI domain lie that drives them itself: for its greeter, and for the session after it. docs/gpu.md */
import type { GuiDomain } from "../../model/guiDomain.ts";
import { render } from "../templates.ts";
import { file, type QubeInside } from "./inside.ts";

const PROGRAM = "/usr/lib/guidomain/layout";

/** lightdm ends a display whose set-up script fails, so that one never does (lightdm, display-setup-script). */
export const layoutInside = ({ layout }: GuiDomain): Partial<QubeInside> =>
  layout === null || layout.length === 0
    ? {}
    : {
        files: {
          [PROGRAM]: file(render("qubes/inside/layout", { screens: layout.map(argumentsOf) }), "0755"),
          "/etc/lightdm/lightdm.conf.d/50-guidomain-layout.conf": file(
            render("qubes/inside/layout-greeter.conf", { program: PROGRAM }),
          ),
          "/etc/xdg/autostart/guidomain-layout.desktop": file(
            render("qubes/inside/layout.desktop", { program: PROGRAM }),
          ),
        },
        // Where X is up already.
        commands: [`XAUTHORITY=/var/run/lightdm/root/:0 DISPLAY=:0 ${PROGRAM} || true`],
      };

function argumentsOf({ output, mode, position, primary, rotate }: NonNullable<GuiDomain["layout"]>[number]) {
  const [size, rate] = mode?.split("@") ?? [];
  return {
    output,
    words: [
      "--output",
      output,
      ...(size ? ["--mode", size] : ["--auto"]),
      ...(rate ? ["--rate", rate] : []),
      ...(position ? ["--pos", position] : []),
      "--rotate",
      rotate,
      ...(primary ? ["--primary"] : []),
    ],
  };
}
