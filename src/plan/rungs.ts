/**
 * What a run is going to do on this host, as far as facts alone tell: which rung it tries, and what the host will have then. The same
 * for the preview and for the apply. Pure. Design §5.
 */
import { createHash } from "node:crypto";
import { INPUT_TARGET, inputFile, settingsOf } from "../formula/settings.ts";
import type { Snapshot } from "../host/protocol.ts";
import { type GuiDomain, inMode } from "../model/guiDomain.ts";
import type { Mode, Rung } from "../model/modes.ts";
import type { Settings } from "../model/settings.ts";
import { planApply } from "./changes.ts";
import { hardwareKey } from "./fingerprint.ts";
import { type Judgement, judgeGpu, NO_GRANT } from "./gpu.ts";
import { inputRefusals } from "./input.ts";
import { beginLadder, type Ladder, type Remembered, type RungKey, step } from "./ladder.ts";
import { inForce, modeFault } from "./preflight.ts";
import { partsOf } from "./values.ts";

export interface Decision {
  /** At the rung that is tried next, or at its end. */
  ladder: Ladder;
  /** The rung that is tried next; null at the ladder's end. */
  target: Rung | null;
  /** What the host is to have; null: it keeps what it has. */
  wanted: Settings | null;
  /** Of rung `target`; of the display in force where that is "gpu". */
  gpu: Judgement | null;
  /** The target is proved in a boot of its own. */
  needsBoot: boolean;
  /** What helps against the first "no". */
  next: string | null;
}

/** What was learnt about rungs is told anew with each look at the host: facts may have changed since. */
export function decide(
  gui: GuiDomain,
  snapshot: Snapshot,
  owner: string,
  remembered: readonly Remembered[],
  done?: Ladder,
): Decision {
  const before = done?.before ?? inForce(gui.qube, snapshot);
  let ladder =
    done ??
    beginLadder({
      rungs: gui.display,
      before,
      reboot: gui.reboot,
      keys: Object.fromEntries(gui.display.map((rung) => [rung, rungKey(gui, rung, snapshot)])),
      remembered,
    });
  const now = inForce(gui.qube, snapshot);
  let helps: string | null = null;
  while (ladder.doing === "judge") {
    const [rung] = ladder.left as [Rung];
    const { judgement, next, settings } = judge(gui, rung, now, snapshot, owner);
    const needsReboot = needsBoot(gui, rung, now, settings, snapshot, owner);
    if (judgement.verdict === "no") helps ??= next;
    ladder = step(ladder, {
      is: "judged",
      verdict: judgement.verdict,
      reasons: judgement.reasons,
      needsReboot,
    });
    const gpu = rung === "gpu" ? judgement : null;
    if (ladder.doing === "try")
      return { ladder, target: rung, wanted: settings, gpu, needsBoot: needsReboot, next: helps };
    if (ladder.end?.kind === "staged")
      return {
        ladder,
        target: null,
        wanted: stagedSettings(gui, rung, now, judgement),
        gpu,
        needsBoot: true,
        next: helps,
      };
  }
  return { ladder, target: null, wanted: null, gpu: null, needsBoot: false, next: helps };
}

function judge(gui: GuiDomain, rung: Rung, now: Rung, snapshot: Snapshot, owner: string) {
  if (rung === "gpu") {
    const judgement = judgeGpu(gui, snapshot, now === "gpu");
    return { judgement, next: judgement.next, settings: settingsOf(gui, "gpu", judgement.grant) };
  }
  const fault = rung === "dom0" ? null : modeFault(gui, rung, snapshot, owner);
  const input = rung === "dom0" ? [] : inputRefusals(gui, rung, NO_GRANT, snapshot);
  const reasons = [...(fault ? [fault.what] : []), ...input];
  const judgement: Judgement = {
    verdict: reasons.length ? "no" : "go",
    reasons,
    next: fault?.next ?? (input.length ? 'Change it in "input"' : null),
    grant: NO_GRANT,
    inside: null,
    lit: [],
    sbdfs: [],
  };
  return { judgement, next: judgement.next, settings: settingsOf(gui, rung) };
}

/** A display never changes hands in a running dom0 (design §5): whoever gets or loses it is proved in a boot of its own. */
function needsBoot(
  gui: GuiDomain,
  rung: Rung,
  now: Rung,
  settings: Settings,
  snapshot: Snapshot,
  owner: string,
): boolean {
  if (rung !== "gpu") return now === "gpu";
  if (now !== "gpu") return true;
  const plan = planApply(gui.qube, settings, snapshot, owner);
  return [...plan.changes.map((c) => c.wish.key as string), ...plan.restores.map((r) => r.key)].some(
    (key) => {
      const { kind, of, name } = partsOf(key);
      return (
        kind === "bootarg" ||
        (of === gui.qube && (kind === "device" || name === "virt_mode" || name === "kernelopts"))
      );
    },
  );
}

/**
 * What can be there before the boot without anybody noticing: nothing where the qube is in use in another mode, but for packages of
 * dom0; else the whole qube, which then waits, but not what would send windows, mice or keyboards to it.
 */
function stagedSettings(gui: GuiDomain, rung: Rung, now: Rung, { grant }: Judgement): Settings | null {
  if (rung !== "gpu" || now === "gpu") return null;
  const gpu = settingsOf(gui, "gpu", grant);
  if (now !== "dom0") {
    if (!gui.display.includes(now)) return null;
    const kept = settingsOf(gui, now);
    return { ...kept, packages: { ...kept.packages, ...gpu.packages } };
  }
  const { [INPUT_TARGET]: _, [inputFile(gui.qube)]: __, ...files } = gpu.files;
  const { waiting: ___, ...qube } = gpu;
  return {
    ...qube,
    properties: { ...gpu.properties, autostart: "False" },
    files,
    globals: {},
    clients: {},
    bootArguments: {},
  };
}

/** What is staged for a trial boot, and what is added when it has been confirmed: boot arguments and the start with the host. */
export function inTwoParts(settings: Settings): {
  staged: Settings;
  kept: Pick<Settings, "bootArguments" | "properties">;
} {
  const { autostart = "False", ...properties } = settings.properties;
  return {
    staged: { ...settings, properties: { ...properties, autostart: "False" }, bootArguments: {} },
    kept: { bootArguments: settings.bootArguments, properties: { autostart } },
  };
}

export function rungKey(gui: GuiDomain, rung: Rung, snapshot: Snapshot): RungKey {
  const { template, label, vcpus, clients, viewers, session, sessionUser, limits, autostart, gpu } = gui;
  const asked = [
    rung === "dom0" ? null : inMode(gui, rung as Mode),
    rung === "gpu" ? gpu : null,
    { template, label, vcpus, clients, viewers, session, sessionUser, limits, autostart },
    // What a release before these arguments has remembered stays known.
    ...(gui.input === null ? [] : [gui.input]),
    ...(gui.domain === null ? [] : [gui.domain]),
    ...(gui.level === null ? [] : [{ level: gui.level, apps: gui.apps, rules: gui.rules }]),
  ];
  return {
    hardware: hardwareKey(gui.template, snapshot),
    inputs: createHash("sha256").update(JSON.stringify(asked)).digest("hex").slice(0, 16),
    retry: gui.retry,
  };
}
