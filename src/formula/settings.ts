/** A GUI domain's description → what each value on a Qubes host has to be. Source: qubes-host.md (b), columns Xephyr, GPU and VNC; (f), (g). */
import { bootWords, type GpuGrant, NOT_THIS_BOOT } from "../model/gpu.ts";
import { type GuiDomain, inMode, principalOf } from "../model/guiDomain.ts";
import { type InputRule, inputRules, withFound } from "../model/input.ts";
import { isRemote, type Mode, PORTS, RDP_SERVICE, type Rung } from "../model/modes.ts";
import { policyFile } from "../model/names.ts";
import { NO_SLEEP_FILE, POWER_FILE, powerIn } from "../model/power.ts";
import { marksOf } from "../model/secrets.ts";
import { NO_SETTINGS, PROHIBIT_START, type Settings, standBehind } from "../model/settings.ts";
import { grantOf } from "../policy/levels.ts";
import { qubeInside } from "./inside/qube.ts";
import { GENERATION, type Generation, generationOf, secretScript } from "./inside/render.ts";
import { prepare, render } from "./templates.ts";
import { xenSettingsOf } from "./xen/settings.ts";

const FEATURES: Record<Mode, Record<string, string>> = {
  gpu: { "video-model": "none", [PROHIBIT_START]: NOT_THIS_BOOT },
  xephyr: {
    "gui-allow-fullscreen": "1",
    // dom0 leaves these keys to the GUI domain, whose own daemons see them
    "gui-secure-copy-sequence": "none",
    "gui-secure-paste-sequence": "none",
  },
  vnc: {},
  rdp: {},
};

const SERVICES: Record<Mode, string[]> = {
  gpu: ["guivm", "lightdm"],
  xephyr: ["guivm", "guivm-gui-agent"],
  vnc: ["guivm", "guivm-vnc", "lightdm"],
  // guivm-vnc: the greeter's X server gets a screen that is in memory alone, which xrdp shows.
  rdp: ["guivm", "guivm-vnc", RDP_SERVICE, "lightdm"],
};

/** What the GUI domain's program says of input devices. */
export const inputFile = (qube: string) => policyFile(45, "gui", qube);

/** Where dom0's own input devices go. */
export const INPUT_TARGET = "/etc/qubes/input-proxy-target";

/** A qube that has it gets dom0's own input devices when it starts. */
const TAKES_INPUT = "input-dom0-proxy";

/** "True" and "False", as the Admin API spells booleans. */
const bool = (value: boolean) => (value ? "True" : "False");

const NO_GRANT: GpuGrant = { devices: {}, inputs: [], kernelOptions: null };

/** `grant`: what the host gives away in mode "gpu"; without a host to ask nothing is. */
export function settingsOf(gui: GuiDomain, rung: Rung, grant: GpuGrant = NO_GRANT): Settings {
  if (rung === "dom0") return NO_SETTINGS;
  if (gui.domain) return xenSettingsOf(gui, gui.domain, rung, grant);
  const { qube } = gui;
  const gpu = rung === "gpu";
  const { memory, maxmem, audiovm, hostPackages } = inMode(gui, rung);
  const ports = Object.values(grant.devices).map((d) => d.port);
  const principal = principalOf(gui, rung);
  const rights = principal && grantOf(principal);
  const inside = insideOf(gui, rung);
  const marks = inside ? marksOf(gui, rung) : {};
  const settings: Settings = {
    class: "AppVM",
    template: gui.template,
    label: gui.label,
    properties: {
      netvm: "",
      guivm: gpu ? "" : "dom0",
      audiovm,
      virt_mode: gpu ? "hvm" : "pvh",
      autostart: bool(gui.autostart),
      maxmem: String(maxmem),
      ...(memory === null ? {} : { memory: String(memory) }),
      ...(gpu && grant.kernelOptions !== null && { kernelopts: grant.kernelOptions }),
      ...(gui.vcpus === null ? {} : { vcpus: String(gui.vcpus) }),
    },
    features: {
      ...FEATURES[rung],
      ...(takesInput(gui, rung) && { [TAKES_INPUT]: "true" }),
      ...rights?.features,
      ...(inside && { [GENERATION]: inside.digest }),
    },
    services: Object.fromEntries(SERVICES[rung].map((name) => [name, "on" as const])),
    globals: gui.clients === "default" ? { default_guivm: qube } : {},
    clients: gui.clients === "default" ? {} : Object.fromEntries(gui.clients.map((client) => [client, qube])),
    // The level first: what the others allow is wider.
    policyLines: Object.fromEntries(
      Object.entries(rights?.lines ?? {}).flatMap(([path, lines]) =>
        lines.map((line) => [`${path}:${line}`, "set" as const]),
      ),
    ),
    files: {
      ...rights?.files,
      ...filesOf(gui, rung, hostPackages, grant),
      ...(inside && secretFiles(gui, Object.keys(marks), inside.digest)),
    },
    packages: Object.fromEntries(hostPackages.map((name) => [name, "installed" as const])),
    devices: gpu ? grant.devices : {},
    ...(Object.keys(marks).length && { secrets: marks }),
    bootArguments: gpu
      ? Object.fromEntries(bootWords("qubes", qube, ports).map((word) => [word, "set" as const]))
      : {},
  };
  return standBehind(settings, gui.behind ?? []);
}

/** What a GUI domain puts in place inside itself in that rung; null: nothing. `former`: the generation that dom0 names now. */
export function insideOf(gui: GuiDomain, rung: Rung, former: string | null = null): Generation | null {
  const inside = qubeInside(gui, rung);
  return inside && generationOf(gui.qube, inside, former);
}

/** Before what a level denies. */
export const secretsFile = (qube: string) => policyFile(45, "secrets", qube);

/** What lets it fetch its secrets, and tells it of a password of dom0 that changes. */
function secretFiles({ qube, login }: GuiDomain, names: string[], digest: string): Record<string, string> {
  if (names.length === 0) return {};
  const files = {
    [secretsFile(qube)]: render("qubes/gui-secrets.policy", { qube, names: names.map((name) => `+${name}`) }),
  };
  if (!login?.follow) return files;
  const unit = `/etc/systemd/system/guidomain-login-${qube}`;
  const { user } = login;
  return {
    ...files,
    [`${unit}.path`]: render("qubes/login.path", { qube, user }),
    [`${unit}.service`]: render("qubes/login.service", { qube, secret: secretScript(digest) }),
    [`/etc/systemd/system/multi-user.target.d/50-guidomain-login-${qube}.conf`]: render(
      "qubes/login-wants.conf",
      {
        qube,
      },
    ),
  };
}

/** Compiles the templates that most descriptions need. */
export function prepareFiles(): void {
  for (const name of ["gui.policy", "gui-tools.policy", "xsession.desktop"]) prepare(`qubes/${name}`);
}

const takesInput = ({ input }: GuiDomain, mode: Mode) => mode === "gpu" && input?.dom0 !== "deny";

/** What is said of input devices of USB qubes in that mode: by the program; with the screen also what dom0 took until then. */
export const inputRulesOf = (gui: GuiDomain, mode: Mode, grant: GpuGrant = NO_GRANT): InputRule[] =>
  withFound(gui.input ? inputRules(gui.input) : [], mode === "gpu" ? grant.inputs : []);

/**
 * As lines. A USB qube asks for dom0, unless its own input-proxy-target says otherwise. Input devices are made by root, or in dom0 by
 * whoever is logged in.
 */
function inputLines(rules: readonly InputRule[], mode: Mode, qube: string) {
  const gpu = mode === "gpu";
  return rules.flatMap((rule) =>
    (gpu ? ["dom0", qube] : ["dom0"]).map((target) => ({
      ...rule,
      target,
      root: gpu && rule.answer !== "deny",
      redirect: gpu && rule.answer !== "deny" && (target === "dom0" || rule.answer === "ask") ? qube : "",
      suggested: rule.answer === "ask" ? (gpu ? qube : "dom0") : "",
    })),
  );
}

function filesOf(
  gui: GuiDomain,
  mode: Mode,
  hostPackages: string[],
  grant: GpuGrant,
): Record<string, string> {
  const { qube } = gui;
  const power = powerIn(gui, mode);
  const files: Record<string, string> = {
    [policyFile(50, "gui", qube)]: render("qubes/gui.policy", {
      qube,
      battery: hostPackages.includes("dummy-psu-sender"),
      brightness: hostPackages.includes("dummy-backlight-dom0"),
      viewers: isRemote(mode) ? gui.viewers : [],
      port: isRemote(mode) ? PORTS[mode] : "",
      // Where it has a level these stand there, before the denial of all else.
      power: gui.level === null ? power.map((one) => `+${one}`) : [],
    }),
  };
  files[policyFile(51, "gui", qube)] = render("qubes/gui-tools.policy", {
    qube,
    destinations: [`@tag:guivm-${qube}`, qube],
  });
  if (power.length) files[POWER_FILE] = render("qubes/power/service", {});
  if (gui.suspend === "blocked") files[NO_SLEEP_FILE] = render("qubes/power/sleep.conf", {});
  if (mode === "gpu") {
    if (takesInput(gui, mode)) files[INPUT_TARGET] = render("qubes/input-proxy-target", { qube });
    files[`/etc/systemd/system/qubes-vm@${qube}.service.d/50-guidomain.conf`] = render(
      "qubes/gpu-boot.conf",
      {
        qube,
      },
    );
  }
  // Below 50, where Qubes' own answers for input devices stand: the first that fits counts.
  const lines = inputLines(inputRulesOf(gui, mode, grant), mode, qube);
  if (lines.length)
    files[inputFile(qube)] = render("qubes/gui-input.policy", { qube, gpu: mode === "gpu", lines });
  if (mode === "xephyr") {
    files[`/usr/share/xsessions/${qube}.desktop`] = render("qubes/xsession.desktop", { qube });
    if (gui.session !== "choose")
      files["/etc/lightdm/lightdm.conf.d/50-guidomain-session.conf"] = render("dom0/lightdm-session.conf", {
        session: qube,
        user: gui.sessionUser,
      });
  }
  return files;
}
