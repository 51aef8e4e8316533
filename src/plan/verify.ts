/** The checks that a mode must pass on the host before it counts. Pure. Source: qubes-host.md (d), design §5 "Xephyr". */
import type { Snapshot, Verification } from "../host/protocol.ts";
import type { GuiDomain } from "../model/guiDomain.ts";
import type { Mode } from "../model/modes.ts";
import { followersOf } from "./preflight.ts";

const POLICY = /^\/etc\/qubes\/policy\.d\/[^/]+\.policy$/;

/** Seconds. */
const START = 120;
const LOOK = 30;

/** Packages without which the mode cannot work, installed in the template (qubes-host.md (b) "Template packages"). */
const TEMPLATE_PACKAGES: Record<Mode, string[]> = {
  xephyr: ["qubes-vm-guivm"],
  vnc: ["qubes-vm-guivm", "lightdm"],
};

/** `files`: the paths that the apply writes or keeps. */
export function verificationsOf(
  gui: GuiDomain,
  mode: Mode,
  snapshot: Snapshot,
  files: string[],
): Verification[] {
  const { qube } = gui;
  const guest = (id: string, command: string): Verification => ({
    kind: "guest",
    id,
    qube,
    command,
    timeout: LOOK,
  });
  const packages = TEMPLATE_PACKAGES[mode].join(" ");
  const debian = snapshot.qubes[gui.template]?.features["os-distribution"] === "debian";
  const policies = new Set([...Object.keys(snapshot.files), ...files].filter((f) => POLICY.test(f)));
  const [client] = gui.clients === "default" ? followersOf(qube, snapshot) : gui.clients;
  const may = (target: string, service: string): Verification => ({
    kind: "host",
    id: `policy: ${qube} may ask ${target} for ${service}`,
    argv: ["qrexec-policy-exec", "--just-evaluate", qube, target, service],
    timeout: LOOK,
  });
  return [
    // All of them: one bad line in any file stops every qrexec call, and only the linter says which.
    {
      kind: "host",
      id: "policies lint",
      argv: ["qubes-policy-lint", ...[...policies].sort()],
      timeout: LOOK,
    },
    may("dom0", "policy.EvalGUI+qubes.ClipboardPaste"),
    // Without these its tools take every client for nobody's, and no window appears.
    may(qube, "admin.vm.feature.CheckWithTemplate+gui"),
    ...(client === undefined ? [] : [may(client, "admin.vm.property.Get+xid")]),
    { kind: "start", id: "GUI domain starts", qube, timeout: START },
    guest(
      `packages of template ${gui.template}`,
      debian ? `dpkg-query -W ${packages}` : `rpm -q ${packages}`,
    ),
    ...(mode === "xephyr"
      ? [guest("session service exists", "test -e /etc/qubes-rpc/qubes.GuiVMSession")]
      : [
          guest("greeter runs", "systemctl is-active lightdm"),
          guest("VNC listens", "ss -ltn | grep -q ':5900 '"),
        ]),
  ];
}
