/**
 * A rung as one apply on the host: what is asked for at once, what waits until a boot has proved it, and what goes for good once the
 * change counts. Pure. Design §5.
 */

import { afterFormulaOf, formulaOf, keepFormulaOf, type Part } from "../formula/formula.ts";
import { GENERATION } from "../formula/inside/render.ts";
import { insideOf } from "../formula/settings.ts";
import type { InsideArgs, Snapshot, Verification } from "../host/protocol.ts";
import { NOT_THIS_BOOT } from "../model/gpu.ts";
import type { GuiDomain } from "../model/guiDomain.ts";
import type { Rung } from "../model/modes.ts";
import { type Platform, platformOf } from "../model/platform.ts";
import { onMachine } from "../model/power.ts";
import { secretsOf } from "../model/secrets.ts";
import { deviceId, PROHIBIT_START, type Settings } from "../model/settings.ts";
import { isForGood, type Plan, type Restore } from "../plan/changes.ts";
import { appliedSettings } from "../plan/live.ts";
import { startsAnew } from "../plan/preflight.ts";
import { type Decision, inTwoParts } from "../plan/rungs.ts";
import { secretsRequest } from "../plan/secrets.ts";
import { partsOf, valueOf } from "../plan/values.ts";
import { hostScreenChecks, screenChecks, verificationsOf } from "../plan/verify.ts";
import type { ApplyRequest } from "./hosts.ts";

type Request = Omit<ApplyRequest, "owner">;

const NOTHING = { bootArguments: {}, properties: {} };

/** Seconds that a change without a boot may wait for its confirmation. */
const LIVE = 180;

/** What brings the host to `decision`'s target. `lit`: the connectors that mode "gpu" is known to light. */
export function rungRequest(
  described: GuiDomain,
  decision: Decision & { wanted: Settings },
  plan: Plan,
  snapshot: Snapshot,
  known: {
    lit: string[];
    restart: string[];
    /** What the last run has put inside the qube is known to be there. */
    inside: boolean;
  },
): Request {
  const { target, wanted, gpu, needsBoot, ladder } = decision;
  const gui = onMachine(described, snapshot.facts);
  const rung = target ?? ladder.before;
  const applied = appliedSettings(gui.qube, wanted, snapshot);
  const lit = gpu?.lit.length ? gpu.lit : known.lit;
  const given = { lit: rung === "gpu" ? lit : [], sbdfs: gpu?.sbdfs ?? [] };
  const files = Object.keys(applied.files);
  const shows = { ...gui, behind: Object.keys(wanted.waiting ?? {}) };
  const checks = verificationsOf(shows, rung, withoutGone(snapshot, plan), files, given);
  const watch =
    rung === "gpu"
      ? {
          qube: gui.qube,
          ports: Object.values(wanted.devices).map((device) => device.port),
          ids: Object.keys(wanted.devices).map(deviceId),
          seconds: gui.limits.boot,
          checks: screenChecks(gui, snapshot, given),
        }
      : null;
  const platform = platformIn(snapshot);
  const { now, words, ...parts } = parted(platform, gui.qube, plan);
  const within = insideRequest(gui, rung, plan, snapshot, known.inside);
  const common = { ...parts, restart: known.restart, secrets: within.secrets };
  checks.splice(afterStart(checks), 0, ...within.checks);
  if (!needsBoot) {
    // The words of the kernel's line are those of this boot already.
    const restores = [...now, ...words];
    const formula = formulaOf({ platform, qube: gui.qube, mode: rung, settings: applied, restores });
    return {
      ...common,
      shutdown: startsAnew(gui, plan, snapshot, rung) ? [gui.qube] : [],
      formula: { ...formula.files, ...within.formula },
      inside: within.inside,
      sls: formula.sls,
      verify: checks,
      trial: { seconds: LIVE, boot: null, watch },
    };
  }
  const { staged, kept } = rung === "gpu" ? inTwoParts(applied) : { staged: applied, kept: NOTHING };
  // Until the guard has seen that the display is kept from dom0 nothing and nobody starts it; xl itself starts none with it.
  if (rung === "gpu" && platform === "qubes")
    staged.features = { ...staged.features, [PROHIBIT_START]: NOT_THIS_BOOT };
  const formula = formulaOf({ platform, qube: gui.qube, mode: rung, settings: staged, restores: now });
  return {
    ...common,
    restart: [], // the boot restarts them all
    shutdown: [],
    formula: { ...formula.files, ...within.formula },
    insideBoot: within.inside,
    sls: formula.sls,
    // Before the boot only what does not need it.
    verify: checks.filter((check) => check.kind === "host" && /^polic(y|ies)\b/.test(check.id)),
    trial: { seconds: gui.limits.boot, boot: bootOf(wanted, words, snapshot), watch },
    keep: keepOf(platform, gui.qube, kept, words),
    verifyBoot: [
      ...checks.filter((check) => !/^polic(y|ies)\b/.test(check.id)),
      ...(rung === "gpu" ? [] : hostScreenChecks(gui, known.lit)),
    ],
  };
}

/** Where the checks of what runs in the qube begin. */
const afterStart = (checks: Verification[]) => checks.findIndex((check) => check.kind === "start") + 1;

/** Seconds that Salt may take in a GUI domain; it brings no packages there. */
const INSIDE = 900;

/** What is put in place inside the GUI domain, and what dom0 hands to it. */
function insideRequest(gui: GuiDomain, rung: Rung, plan: Plan, snapshot: Snapshot, isThere: boolean) {
  const { qube, limits } = gui;
  const live = snapshot.qubes[qube]?.features[GENERATION] ?? null;
  const generation = insideOf(gui, rung, live);
  const secrets = secretsRequest(qube, plan, generation ? secretsOf(gui, rung) : {});
  if (!generation) return { formula: {}, inside: [], secrets, checks: [] };
  const { digest, formula, activate, check } = generation;
  // While another run is at it, the feature is there already, and what it names perhaps not.
  const counts = snapshot.ledger[`feature:${qube}:${GENERATION}`]?.ours === digest;
  const isNew = !isThere || live !== digest || !counts;
  const inside: InsideArgs = {
    qube,
    sls: isNew ? formula.sls : null,
    timeout: INSIDE,
    volume: null,
    brought: null,
    activate,
  };
  return {
    formula: formula.files,
    inside: [inside],
    secrets,
    checks: [
      {
        kind: "guest" as const,
        id: "what is put in place inside is in force",
        qube,
        command: check,
        timeout: limits.checks,
      },
      ...(gui.login?.follow ? [followCheck(qube, limits.checks)] : []),
    ],
  };
}

/** Also starts it: from the next boot on that does itself. */
const followCheck = (qube: string, timeout: number): Verification => ({
  kind: "host",
  id: "a password of dom0 is followed",
  argv: ["sh", "-c", `systemctl daemon-reload && systemctl restart guidomain-login-${qube}.path`],
  timeout,
});

/** When it is checked, the files that it takes away are not there any more. */
export function withoutGone(snapshot: Snapshot, { restores }: Plan): Snapshot {
  const gone = restores.filter(({ to }) => to === null).map(({ key }) => key);
  const files = Object.entries(snapshot.files).filter(([path]) => !gone.includes(`file:${path}`));
  return { ...snapshot, files: Object.fromEntries(files) };
}

/** What is there while the boot is waited for: inert, and checked as far as that goes. */
export function stagedRequest(
  gui: GuiDomain,
  wanted: Settings,
  plan: Plan,
  snapshot: Snapshot,
  /** The mode in force, which `wanted` speaks of; "dom0": the one that is staged. */
  screen: Rung,
  isThere: boolean,
): Request {
  const applied = appliedSettings(gui.qube, wanted, snapshot);
  if (PROHIBIT_START in wanted.features)
    applied.features = { ...applied.features, [PROHIBIT_START]: NOT_THIS_BOOT };
  const within = insideRequest(gui, screen === "dom0" ? "gpu" : screen, plan, snapshot, isThere);
  const platform = platformIn(snapshot);
  const { now, words, ...parts } = parted(platform, gui.qube, plan);
  const formula = formulaOf({ platform, qube: gui.qube, mode: "staged", settings: applied, restores: now });
  const checks = verificationsOf(gui, "gpu", withoutGone(snapshot, plan), Object.keys(applied.files));
  return {
    ...parts,
    secrets: within.secrets,
    // Of one that does not run before the boot nothing is in force before it either.
    inside: screen === "dom0" ? [] : within.inside,
    restart: [],
    shutdown: [],
    formula: { ...formula.files, ...within.formula },
    sls: formula.sls,
    verify: checks.filter((check) => check.id.startsWith("policies lint")),
    keep: keepOf(platform, gui.qube, NOTHING, words),
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
  const platform = platformIn(snapshot);
  const { now, words, ...parts } = parted(platform, qube, plan);
  const common = { ...parts, restart: [], secrets: secretsRequest(qube, plan, {}) };
  if (!boots) {
    const formula = formulaOf({ platform, qube, mode, settings: null, restores: now });
    const any = now.length > 0;
    return {
      ...common,
      // Whether it runs is seen when its turn comes: one that starts with the host may do so after the look.
      shutdown: removes ? [qube] : [],
      formula: any ? formula.files : {},
      sls: any ? formula.sls : "",
      verify: [],
      keep: keepOf(platform, qube, NOTHING, words),
    };
  }
  const quiet = plan.touch
    .filter(
      (key) => partsOf(key).kind === "device" && partsOf(key).of === qube && valueOf(snapshot, key) !== null,
    )
    .map((key) => partsOf(key).name);
  // Without its devices a domain of xl is any other, and goes with the rest.
  const isQuiet = removes && platform === "qubes";
  const formula = formulaOf({
    platform,
    qube,
    mode,
    settings: null,
    restores: now,
    ...(isQuiet && { quiet }),
  });
  return {
    ...common,
    touch: [
      ...new Set([
        ...parts.touch,
        ...(isQuiet ? [`property:${qube}:autostart`, `feature:${qube}:${PROHIBIT_START}`] : []),
      ]),
    ],
    shutdown: [],
    formula: formula.files,
    sls: formula.sls,
    verify: [],
    trial: { seconds: boots.seconds, boot: bootOf(null, words, snapshot), watch: null },
    keep: keepOf(platform, qube, NOTHING, words),
    verifyBoot: hostScreenChecks(boots.gui, boots.lit),
  };
}

/**
 * What no undo could bring back goes after all that can be put back: a qube that is removed takes its data along, a package needs the
 * network to come again. Words of the kernel's line wait for the confirmation because they decide the next boot.
 */
export function parted(
  platform: Platform,
  qube: string,
  { restores, touch, release }: Plan,
  part: Part = "gui",
) {
  const goes = restores.filter(isForGood);
  const gone = new Set<string>(goes.map((r) => r.key));
  const others = restores.filter((r) => !gone.has(r.key));
  const isWord = ({ key }: Restore) => partsOf(key).kind === "bootarg";
  const formula = goes.length ? afterFormulaOf(platform, qube, part, goes) : null;
  return {
    now: others.filter((r) => !isWord(r)),
    words: others.filter(isWord),
    touch: touch.filter((key) => !gone.has(key)),
    release: release.filter((key) => !gone.has(key)),
    after: formula && { formula: formula.files, sls: formula.sls, keys: [...gone] },
  };
}

/** Whoever gets here has been told what the host is. */
export const platformIn = ({ facts }: Snapshot): Platform => platformOf(facts) ?? "qubes";

/** Words that the trial's kernel line has more, and less, than that of every boot. */
function bootOf(wanted: Settings | null, words: Restore[], snapshot: Snapshot) {
  const { args } = snapshot.facts.boot;
  return {
    add: [
      ...Object.keys(wanted?.bootArguments ?? {}).filter((word) => !args.includes(word)),
      ...words.filter((r) => r.to !== null).map((r) => partsOf(r.key).name),
    ],
    remove: words.filter((r) => r.to === null).map((r) => partsOf(r.key).name),
  };
}

function keepOf(
  platform: Platform,
  qube: string,
  settings: Pick<Settings, "bootArguments" | "properties">,
  restores: Restore[],
) {
  const touch = [
    ...Object.keys(settings.bootArguments).map((word) => `bootarg:${word}`),
    ...Object.keys(settings.properties).map((name) => `property:${qube}:${name}`),
    ...restores.map((r) => r.key),
  ];
  if (touch.length === 0) return null;
  const formula = keepFormulaOf({ platform, qube, settings, restores });
  return { formula: formula.files, sls: formula.sls, touch };
}
