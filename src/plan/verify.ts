/** The checks that a mode must pass on the host before it counts. Pure. Source: qubes-host.md (d), design §5. */
import { qubeInside } from "../formula/inside/qube.ts";
import type { Snapshot, Verification } from "../host/protocol.ts";
import { clientsNow, type GuiDomain, inMode } from "../model/guiDomain.ts";
import { inputRules } from "../model/input.ts";
import { type Mode, PORTS, type Rung, SCREEN_PORT } from "../model/modes.ts";
import { PARTS, POWER_SERVICE, powerIn } from "../model/power.ts";
import { GLOBAL_RWX, LOCAL_RWX } from "../policy/levels.ts";
import { POLICY_FILE } from "../policy/load.ts";
import { levelQuestions } from "./access.ts";
import { litOutputs } from "./gpu.ts";
import { followersOf } from "./preflight.ts";
import { xenScreenChecks, xenVerifications } from "./xen/verify.ts";

/** Packages without which the mode cannot work, installed in the template (qubes-host.md (b) "Template packages"). */
const TEMPLATE_PACKAGES: Record<Mode, string[]> = {
  gpu: ["qubes-vm-guivm", "lightdm"],
  xephyr: ["qubes-vm-guivm"],
  vnc: ["qubes-vm-guivm", "lightdm", "x11vnc"],
  rdp: ["qubes-vm-guivm", "lightdm", "x11vnc", "xrdp"],
};

/** What asks dom0's policy; it exits 0 where a call is allowed, 1 where it is denied or a person would be asked. */
export const JUST_EVALUATE = ["qrexec-policy-exec", "--just-evaluate"];
const DENIES = ["sh", "-c", `${JUST_EVALUATE.join(" ")} "$@"; test $? -eq 1`, "sh"];

/** dom0's own answer to a question; where a person would be asked it counts as denied. `timeout` in seconds. */
export const policyCheck = (
  [source, target, call]: readonly [source: string, target: string, call: string],
  allowed: boolean,
  timeout: number,
): Verification => ({
  kind: "host",
  id: `policy: ${source} may ${allowed ? "" : "not "}ask ${target} for ${call}`,
  argv: [...(allowed ? JUST_EVALUATE : DENIES), source, target, call],
  timeout,
});

/**
 * Every policy that there is and the apply writes: one bad line in any file stops every qrexec call, and only the linter says which. `timeout`
 * in seconds.
 */
export function lintCheck(snapshot: Snapshot, files: readonly string[], timeout: number): Verification {
  const policies = new Set([...Object.keys(snapshot.files), ...files].filter((f) => POLICY_FILE.test(f)));
  return { kind: "host", id: "policies lint", argv: ["qubes-policy-lint", ...[...policies].sort()], timeout };
}

/** What the checks of mode "gpu" rest on beside the description. */
export interface Given {
  /** Addresses of what was given away, in this boot. */
  sbdfs?: string[];
  /** Connectors that were lit before, "eDP-1"; they must be lit after. */
  lit?: string[];
}

/** `files`: the paths that the apply writes or keeps. Each check has an id that stays the same from run to run. */
export function verificationsOf(
  gui: GuiDomain,
  mode: Rung,
  snapshot: Snapshot,
  files: string[],
  given: Given = {},
): Verification[] {
  if (mode === "dom0") return [];
  if (gui.domain) return xenVerifications(gui, gui.domain, mode, snapshot, given.sbdfs ?? []);
  const { qube, limits } = gui;
  const { guest, host } = checksOf(gui);
  const debian = snapshot.qubes[gui.template]?.features["os-distribution"] === "debian";
  const packages = [
    ...TEMPLATE_PACKAGES[mode],
    // On Fedora qubes-vm-guivm brings it along (qubes-host.md (b) "Template packages").
    ...(mode === "gpu" && debian ? ["qubes-input-proxy-receiver"] : []),
  ].join(" ");
  const clients = clientsNow(gui);
  const [client] = clients === "default" ? followersOf(qube, snapshot) : clients;
  const may = (target: string, service: string) => policyCheck([qube, target, service], true, limits.checks);
  const mayNot = (target: string, service: string) =>
    policyCheck([qube, target, service], false, limits.checks);
  return [
    lintCheck(snapshot, files, limits.checks),
    ...(gui.level === "admin"
      ? [
          host("policies lint: what they include", [
            "qubes-policy-lint",
            "--include-service",
            GLOBAL_RWX,
            LOCAL_RWX,
          ]),
        ]
      : []),
    ...(gui.level === null ? [may("dom0", "policy.EvalGUI+qubes.ClipboardPaste")] : []),
    ...levelQuestions(gui, snapshot, client).map(({ target, call, allowed }) =>
      (allowed ? may : mayNot)(target, call),
    ),
    ...powerIn(gui, mode).map((one) => may("dom0", `${POWER_SERVICE}+${one}`)),
    // Without these its tools take every client for nobody's, and no window appears.
    may(qube, "admin.vm.feature.CheckWithTemplate+gui"),
    ...(client === undefined ? [] : [may(client, "admin.vm.property.Get+xid")]),
    ...(gui.input ? inputRules(gui.input) : []).map((rule) => {
      const call = rule.service + (rule.argument === "*" ? "" : rule.argument);
      return rule.answer === "allow"
        ? host(`input: ${call} of ${rule.qube} is let in`, [...JUST_EVALUATE, rule.qube, "dom0", call])
        : host(`input: ${call} of ${rule.qube} is not let in unasked`, [...DENIES, rule.qube, "dom0", call]);
    }),
    // Before the start: a display that a driver of dom0 has hangs the machine when it is pulled.
    ...(mode === "gpu"
      ? (given.sbdfs ?? []).map((sbdf) =>
          host(`${sbdf} is kept from dom0`, ["test", "-e", `/sys/bus/pci/drivers/pciback/${sbdf}`]),
        )
      : []),
    { kind: "start", id: "GUI domain starts", qube, timeout: limits.start },
    guest(
      `packages of template ${gui.template}`,
      debian ? `dpkg-query -W ${packages}` : `rpm -q ${packages}`,
    ),
    ...MODE_CHECKS[mode](gui, snapshot, given),
    ...(mode === "gpu" ? [] : litOutputs(snapshot.facts.pci)).map((name) =>
      // Somebody may pull a cable meanwhile.
      host(`dom0's screen ${name} is lit as before`, ["sh", "-c", isLitOrGone(name)]),
    ),
    ...(qubeInside(gui, mode) ? powerEvidence(gui, mode) : []),
  ];
}

/**
 * What X says of each screen that the program lays out, for whoever reads the evidence: a mode that a screen does not have is no reason to
 * give up the display.
 */
function layoutEvidence(gui: GuiDomain): Verification[] {
  return (gui.layout ?? []).map(({ output }) =>
    checksOf(gui).guest(
      `screen ${output} lies so`,
      `XAUTHORITY=/var/run/lightdm/root/:0 DISPLAY=:0 xrandr --query | grep -E '^${output} (dis)?connected' || echo "X has no ${output}"`,
    ),
  );
}

/** What its desktop sees of the machine's battery and backlight: told, but no condition, for its template may lack the parts; nothing then. */
function powerEvidence(gui: GuiDomain, mode: Mode): Verification[] {
  const { hostPackages } = inMode(gui, mode);
  const { guest } = checksOf(gui);
  return [
    ...(hostPackages.includes(PARTS.battery)
      ? [guest("battery in the qube", "grep -s . /sys/class/power_supply/*/capacity || true")]
      : []),
    ...(hostPackages.includes(PARTS.backlight)
      ? [guest("backlight in the qube", "grep -s . /sys/class/backlight/*/brightness || true")]
      : []),
  ];
}

const MODE_CHECKS: Record<Mode, (gui: GuiDomain, snapshot: Snapshot, given: Given) => Verification[]> = {
  gpu: (gui, snapshot, given) => [
    ...(given.sbdfs ?? []).map((sbdf) =>
      checksOf(gui).host(`${sbdf} is with the qube`, [
        "sh",
        "-c",
        `xl pci-list ${gui.qube} | grep -qF ${sbdf}`,
      ]),
    ),
    ...screenChecks(gui, snapshot, given),
    ...layoutEvidence(gui),
  ],
  xephyr: (gui) => [
    checksOf(gui).guest("session service exists", "test -e /etc/qubes-rpc/qubes.GuiVMSession"),
  ],
  vnc: (gui) => [
    checksOf(gui).guest("greeter runs", "systemctl is-active lightdm"),
    checksOf(gui).guest("VNC listens, for the qube alone", listensAlone(PORTS.vnc, gui.limits.checks)),
  ],
  rdp: (gui) => [
    checksOf(gui).guest("greeter runs", "systemctl is-active lightdm"),
    checksOf(gui).guest("RDP listens, for the qube alone", listensAlone(PORTS.rdp, gui.limits.checks)),
    checksOf(gui).guest("nothing but RDP leads to the screen", `! ${openTo([PORTS.vnc, SCREEN_PORT])}`),
  ],
};

/** ADDRESS:PORT of each. */
const LISTENING = "ss -Hltn | tr -s ' ' | cut -d ' ' -f 4";

/**
 * A command that passes where something listens on `port` of the loopback interface, and nothing on that port of another address; it waits
 * for the first up to ten seconds less than `seconds`. What it sees of the second it says, at once.
 */
export function listensAlone(port: number, seconds: number): string {
  const seen = `${LISTENING} | grep -Eq '^(127[.][0-9.]+|\\[::1\\]):${port}$'`;
  return [
    `end=$(($(date +%s) + ${Math.max(0, seconds - 10)}))`,
    "while :; do",
    `if ${openTo([port])}; then exit 1; fi`,
    `if ${seen}; then exit 0; fi`,
    'if [ "$(date +%s)" -ge "$end" ]; then break; fi',
    "sleep 1",
    "done",
    `echo 'nothing listens on port ${port}: is the server installed in the template?'; exit 1`,
  ].join("\n");
}

/** A command that passes where something listens on one of `ports` of an address that a network could reach, and says where. */
const openTo = (ports: readonly number[]) =>
  `${LISTENING} | grep -E ':(${ports.join("|")})$' | grep -vE '^(127[.]|\\[::1\\]:)' | sed 's/.*/it listens on &, which a network could reach/' | grep .`;

/**
 * What shows that a person sees and steers the GUI domain. Each boot asks these again (the boot watch), so they name nothing that may
 * be called otherwise in the next boot.
 */
export function screenChecks(
  gui: GuiDomain,
  snapshot: Snapshot,
  { lit = [], sbdfs = [] }: Given = {},
): Verification[] {
  if (gui.domain) return xenScreenChecks(gui, gui.domain, snapshot, sbdfs);
  const { guest, host } = checksOf(gui);
  return [
    guest(
      "display has a driver in the qube",
      "lspci -k | grep -Eq 'Kernel driver in use: (i915|xe|amdgpu|radeon|nouveau|nvidia)'",
    ),
    guest("a screen is connected in the qube", "grep -qx connected /sys/class/drm/card*-*/status"),
    ...lit.map((name) => guest(`screen ${name} is lit as before`, isConnected(name))),
    guest("greeter runs", "systemctl is-active lightdm"),
    guest(
      "X shows a picture",
      "XAUTHORITY=/var/run/lightdm/root/:0 DISPLAY=:0 xrandr | grep -Eq '^ +[0-9]+x[0-9]+'",
    ),
    ...(snapshot.facts.keyboards?.length && gui.input?.dom0 !== "deny"
      ? [
          host("dom0's input devices are passed on", [
            "sh",
            "-c",
            "systemctl list-units --no-legend --state=active 'qubes-input-sender-*' | grep -q .",
          ]),
        ]
      : []),
    // Devices of the input proxy are made by uinput, which puts them there; the keyboard that every HVM has is not.
    guest(
      "input devices reach the qube",
      "grep -q '^S: Sysfs=/devices/virtual/input/' /proc/bus/input/devices",
    ),
  ];
}

/** dom0 has its screen and its greeter back. */
export const hostScreenChecks = (gui: GuiDomain, lit: string[]): Verification[] => {
  const { host } = checksOf(gui);
  return [
    // In a boot that has just begun it may come after the way in.
    { ...host("dom0's greeter runs", ["systemctl", "is-active", "lightdm"]), until: true },
    ...lit.map((name) => host(`dom0 shows a picture on ${name}`, ["sh", "-c", isConnected(name)])),
  ];
};

/** `name` is a connector's name of letters, digits and "-". */
const isConnected = (name: string) => `grep -qx connected /sys/class/drm/card*-${name}/status`;

const isLitOrGone = (name: string) =>
  `! ${isConnected(name)} || grep -qx enabled /sys/class/drm/card*-${name}/enabled`;

function checksOf({ qube, limits }: GuiDomain) {
  return {
    guest: (id: string, command: string): Verification => ({
      kind: "guest",
      id,
      qube,
      command,
      timeout: limits.checks,
    }),
    host: (id: string, argv: string[]) => ({ kind: "host" as const, id, argv, timeout: limits.checks }),
  };
}
