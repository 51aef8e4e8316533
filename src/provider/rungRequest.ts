/** A rung as one apply on the host: what is asked for at once, and what waits until a boot has proved it. Pure. Design §5. */
import { formulaOf, keepFormulaOf, type Part } from "../formula/formula.ts";
import type { Snapshot } from "../host/protocol.ts";
import { NOT_THIS_BOOT } from "../model/gpu.ts";
import type { GuiDomain } from "../model/guiDomain.ts";
import { deviceId, PROHIBIT_START, type Settings } from "../model/settings.ts";
import type { Plan, Restore } from "../plan/changes.ts";
import { appliedSettings } from "../plan/live.ts";
import { startsAnew } from "../plan/preflight.ts";
import { type Decision, inTwoParts } from "../plan/rungs.ts";
import { partsOf, valueOf } from "../plan/values.ts";
import { hostScreenChecks, screenChecks, verificationsOf } from "../plan/verify.ts";
import type { ApplyRequest } from "./hosts.ts";

type Request = Omit<ApplyRequest, "owner">;

export const NOTHING = { bootArguments: {}, properties: {} };

/** Seconds that a change without a boot may wait for its confirmation. */
const LIVE = 180;

/** What brings the host to `decision`'s target. `lit`: the connectors that mode "gpu" is known to light. */
export function rungRequest(
  gui: GuiDomain,
  decision: Decision & { wanted: Settings },
  plan: Plan,
  snapshot: Snapshot,
  known: { lit: string[]; restart: string[] },
): Request {
  const { target, wanted, gpu, needsBoot, ladder } = decision;
  const rung = target ?? ladder.before;
  const applied = appliedSettings(gui.qube, wanted, snapshot);
  const lit = gpu?.lit.length ? gpu.lit : known.lit;
  const given = { lit: rung === "gpu" ? lit : [], sbdfs: gpu?.sbdfs ?? [] };
  const files = Object.keys(applied.files);
  const checks = verificationsOf(gui, rung, snapshot, files, given);
  const watch =
    rung === "gpu"
      ? {
          qube: gui.qube,
          ports: Object.values(wanted.devices).map((device) => device.port),
          ids: Object.keys(wanted.devices).map(deviceId),
          seconds: gui.limits.boot,
          checks: screenChecks(gui, snapshot, lit),
        }
      : null;
  const common = { touch: plan.touch, release: plan.release, restart: known.restart };
  const { now, later } = parted(plan.restores);
  if (!needsBoot) {
    // The words of the kernel's line are those of this boot already.
    const words = later.filter((r) => partsOf(r.key).kind === "bootarg");
    const formula = formulaOf({
      qube: gui.qube,
      mode: rung,
      settings: applied,
      restores: [...now, ...words],
    });
    return {
      ...common,
      shutdown: startsAnew(gui, plan, snapshot, rung) ? [gui.qube] : [],
      formula: formula.files,
      sls: formula.sls,
      verify: checks,
      trial: { seconds: LIVE, boot: null, watch },
      keep: keepOf(
        gui.qube,
        NOTHING,
        later.filter((r) => !words.includes(r)),
      ),
    };
  }
  const { staged, kept } = rung === "gpu" ? inTwoParts(applied) : { staged: applied, kept: NOTHING };
  // Until the guard has seen that the display is kept from dom0 nothing and nobody starts it.
  if (rung === "gpu") staged.features = { ...staged.features, [PROHIBIT_START]: NOT_THIS_BOOT };
  const formula = formulaOf({ qube: gui.qube, mode: rung, settings: staged, restores: now });
  return {
    ...common,
    restart: [], // the boot restarts them all
    shutdown: [],
    formula: formula.files,
    sls: formula.sls,
    // Before the boot only what does not need it.
    verify: checks.filter((check) => check.kind === "host" && /^polic(y|ies)\b/.test(check.id)),
    trial: { seconds: gui.limits.boot, boot: bootOf(wanted, later, snapshot), watch },
    keep: keepOf(gui.qube, kept, later),
    verifyBoot: [
      ...checks.filter((check) => !/^polic(y|ies)\b/.test(check.id)),
      ...(rung === "gpu" ? [] : hostScreenChecks(gui, known.lit)),
    ],
  };
}

/** What is there while the boot is waited for: inert, and checked as far as that goes. */
export function stagedRequest(gui: GuiDomain, wanted: Settings, plan: Plan, snapshot: Snapshot): Request {
  const applied = appliedSettings(gui.qube, wanted, snapshot);
  if (PROHIBIT_START in wanted.features)
    applied.features = { ...applied.features, [PROHIBIT_START]: NOT_THIS_BOOT };
  const { now, later } = parted(plan.restores);
  const formula = formulaOf({ qube: gui.qube, mode: "staged", settings: applied, restores: now });
  const checks = verificationsOf(gui, "gpu", snapshot, Object.keys(applied.files));
  return {
    touch: plan.touch,
    release: plan.release,
    restart: [],
    shutdown: [],
    formula: formula.files,
    sls: formula.sls,
    verify: checks.filter((check) => check.id === "policies lint"),
    keep: keepOf(gui.qube, NOTHING, later),
  };
}

/** What takes away all that is ours. `boots`: the qube drives the screen, and a boot without it has to prove that dom0 does again. */
export function takeAwayRequest(
  qube: string,
  mode: string,
  plan: Plan,
  snapshot: Snapshot,
  boots: { seconds: number; gui: GuiDomain; lit: string[] } | null,
): Request {
  const removes = plan.restores.some((r) => r.key === `qube:${qube}` && r.to === null);
  const common = { touch: plan.touch, release: plan.release, restart: [] };
  const { now, later } = parted(plan.restores);
  if (!boots) {
    const formula = formulaOf({ qube, mode, settings: null, restores: now });
    const any = now.length > 0;
    return {
      ...common,
      shutdown: removes && snapshot.qubes[qube]?.state !== "Halted" ? [qube] : [],
      formula: any ? formula.files : {},
      sls: any ? formula.sls : "",
      verify: [],
      keep: keepOf(qube, NOTHING, later),
    };
  }
  const quiet = plan.touch
    .filter(
      (key) => partsOf(key).kind === "device" && partsOf(key).of === qube && valueOf(snapshot, key) !== null,
    )
    .map((key) => partsOf(key).name);
  const formula = formulaOf({ qube, mode, settings: null, restores: now, ...(removes && { quiet }) });
  return {
    ...common,
    touch: [
      ...new Set([
        ...plan.touch,
        ...(removes ? [`property:${qube}:autostart`, `feature:${qube}:${PROHIBIT_START}`] : []),
      ]),
    ],
    shutdown: [],
    formula: formula.files,
    sls: formula.sls,
    verify: [],
    trial: { seconds: boots.seconds, boot: bootOf(null, later, snapshot), watch: null },
    keep: keepOf(qube, NOTHING, later),
    verifyBoot: hostScreenChecks(boots.gui, boots.lit),
  };
}

/**
 * What an undo could not bring back waits until the change is confirmed: a qube that is removed takes its data along, a package needs
 * the network to come again. Boot arguments wait because they decide the next boot.
 */
export function parted(restores: Restore[]): { now: Restore[]; later: Restore[] } {
  const waits = ({ key, to }: Restore) =>
    partsOf(key).kind === "bootarg" || (to === null && ["qube", "package"].includes(partsOf(key).kind));
  return { now: restores.filter((r) => !waits(r)), later: restores.filter(waits) };
}

/** Words that the trial's kernel line has more, and less, than that of every boot. */
function bootOf(wanted: Settings | null, later: Restore[], snapshot: Snapshot) {
  const { args } = snapshot.facts.boot;
  const words = later.filter((r) => partsOf(r.key).kind === "bootarg");
  return {
    add: [
      ...Object.keys(wanted?.bootArguments ?? {}).filter((word) => !args.includes(word)),
      ...words.filter((r) => r.to !== null).map((r) => partsOf(r.key).name),
    ],
    remove: words.filter((r) => r.to === null).map((r) => partsOf(r.key).name),
  };
}

export function keepOf(
  qube: string,
  settings: Pick<Settings, "bootArguments" | "properties">,
  restores: Restore[],
  part: Part = "gui",
) {
  const touch = [
    ...Object.keys(settings.bootArguments).map((word) => `bootarg:${word}`),
    ...Object.keys(settings.properties).map((name) => `property:${qube}:${name}`),
    ...restores.map((r) => r.key),
  ];
  if (touch.length === 0) return null;
  const formula = keepFormulaOf({ qube, part, settings, restores });
  return { formula: formula.files, sls: formula.sls, touch };
}
