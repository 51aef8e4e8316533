/** Climbing a ladder on a host: what is decided by facts, one apply a rung, and how it ends. Design §5. */

import { inputRulesOf } from "../formula/settings.ts";
import { AgentFailure } from "../host/errors.ts";
import type { ApplyResult, Evidence, Snapshot } from "../host/protocol.ts";
import { Refusal, sentence } from "../model/failure.ts";
import { allPackages, contestedBy, type GuiDomain } from "../model/guiDomain.ts";
import type { Rung } from "../model/modes.ts";
import { onMachine } from "../model/power.ts";
import type { Settings } from "../model/settings.ts";
import { inCompany, preflightAccess, reviewOf } from "../plan/access.ts";
import { isNoted, type Plan, planRung } from "../plan/changes.ts";
import { inputTaken, preflightInput } from "../plan/input.ts";
import {
  fallbackOf,
  type Ladder,
  type LadderEvent,
  type Remembered,
  screenOf,
  step,
} from "../plan/ladder.ts";
import { preflight, startsAnew, waitingForRestart } from "../plan/preflight.ts";
import { type Decision, decide } from "../plan/rungs.ts";
import type { Review } from "../policy/review.ts";
import { applyFailure, stillThere, whatOf } from "./applyFailure.ts";
import { apply, leftOf } from "./applying.ts";
import { adviceFor, ownerName, wantedBy } from "./claims.ts";
import {
  asProperties,
  asValue,
  bootNotice,
  idOf,
  isReset,
  memoryOf,
  outputsOf,
  rebootWhy,
  SETTLED,
  screensOf,
  unfinished,
  verified,
} from "./guiDomainState.ts";
import { type Context, PartialFailure, type Properties, type Value } from "./handler.ts";
import type { ApplyRequest, HostAccess } from "./hosts.ts";
import { announceReview } from "./reviewed.ts";
import { rungRequest, stagedRequest, takeAwayRequest } from "./rungRequest.ts";

/** What is done next, and what that takes; no plan where the host keeps what it has. */
export interface Announced {
  decision: Decision;
  plan: Plan | null;
}

/** Of one resource, in one run. */
export interface Task {
  hosts: HostAccess;
  gui: GuiDomain;
  context: Context;
  /** It is this resource's turn, and what is decided is done; else it is only asked. */
  acts?: boolean;
}

/** What the run is going to do there, said and claimed before anything is touched; a refusal where nothing can work. */
export function announce(
  task: Task,
  snapshot: Snapshot,
  remembered: readonly Remembered[],
  done?: Ladder,
): Announced {
  const { hosts, context } = task;
  const gui = placed(task, snapshot);
  const others = hosts.claims.others(gui.host, context.urn);
  const notices = [
    ...preflight(gui, snapshot, (qube) => hosts.claims.has(gui.host, `qube:${qube}`)),
    ...preflightInput(gui, snapshot),
  ];
  preflightAccess(gui, snapshot, others);
  const decision = decide(gui, snapshot, context.urn, remembered, done);
  const { ladder, wanted, target, needsBoot } = decision;
  if (ladder.end?.kind === "below" && !done) throw refusalOf(gui, decision);
  if (!wanted) return { decision, plan: null };
  const plan = planRung(gui.qube, wanted, snapshot, context.urn);
  const anew = target !== null && !needsBoot && startsAnew(gui, plan, snapshot, target);
  if (anew && context.preview)
    context.log(
      `qube ${gui.qube} starts anew, since its services are read at its start; it shows no windows now`,
    );
  // Where nothing but the host's own screen is left there is nobody to have rights.
  announceRights(gui, reviewOf(gui.qube, wanted.class === "" ? null : gui, plan, snapshot, others), context);
  const given = Object.values(wanted.devices).map((device) => `given:${device.port}`);
  // Of two GUI domains that speak of one qube's input, the one whose file comes first would win.
  const rules = target === null || target === "dom0" ? [] : inputRulesOf(gui, target, decision.gpu?.grant);
  const taken = inputTaken(rules, gui.qube, snapshot, context.urn);
  if (taken)
    throw new Refusal({
      resource: `GUI domain ${gui.qube}`,
      host: gui.host,
      what: `${taken.what}, the file of ${ownerName(taken.owner)}`,
      next: adviceFor(taken.key),
    });
  const inputs = [...new Set(rules.map(({ qube }) => `input:${qube}`))];
  const keys = [...wantedBy(plan), ...given, ...inputs];
  if (task.acts || context.preview || hosts.claims.knows(context.urn))
    hosts.claims.claim(gui.host, context.urn, `GUI domain ${gui.qube}`, keys, snapshot);
  if (context.preview || (task.acts && !done))
    for (const text of hosts.claims.waitTexts(context.urn)) context.log(text, { severity: "warning" });
  if (context.preview && (plan.changes.length || !snapshot.ledger[`qube:${gui.qube}`])) {
    for (const notice of notices) context.log(notice.text, { severity: notice.severity });
    if (decision.gpu?.inside) context.log(decision.gpu.inside, { severity: "warning" });
    if (needsBoot && target) context.log(...bootNotice(snapshot));
    for (const { mode, verdict, reason } of ladder.attempts)
      if (verdict !== "ok" && verdict !== "skipped")
        context.log(`mode "${mode}": ${verdict}: ${reason}`, { severity: "warning" });
  }
  return { decision, plan };
}

/** The description in the company of the others of its host: who is kept apart from whom, and who came first. */
export function placed({ hosts, gui, context, acts = false }: Task, snapshot: Snapshot): GuiDomain {
  const { host } = gui;
  const { urn } = context;
  const among = inCompany(gui, snapshot, hosts.claims.others(host, urn));
  const behind = hosts.claims.standing(urn, host, contestedBy(gui), snapshot, acts);
  return { ...onMachine(among, snapshot.facts), behind };
}

export const announceRights = (
  { qube, host }: GuiDomain,
  review: Review | null,
  context: Context,
  tells = context.preview,
): void =>
  announceReview(
    { resource: `GUI domain ${qube}`, host, qube, mend: '"level", "apps", "rules" or "clients"' },
    review,
    context,
    tells,
  );

/** Climbs until a rung is up. Returns the outputs. */
export const bringUp = (task: Task, inputs: Properties, olds: Properties): Promise<Properties> =>
  new Climb({ ...task, acts: true }, inputs, olds).run();

class Climb {
  readonly #task: Task;
  readonly #inputs: Properties;
  readonly #olds: Properties;
  readonly #resource: string;
  #evidence: readonly Evidence[] | undefined;
  /** Connectors that mode "gpu" is known to light. */
  #screens: string[];
  #settings: Value;
  #snapshot: Snapshot | null = null;
  #failure: unknown;

  constructor(task: Task, { remembered: _, ...inputs }: Properties, olds: Properties) {
    this.#task = task;
    this.#inputs = inputs;
    this.#olds = olds;
    this.#resource = `GUI domain ${task.gui.qube}`;
    this.#screens = screensOf(olds);
    this.#settings = inputs["settings"] ?? null;
  }

  async run(): Promise<Properties> {
    const { gui, context } = this.#task;
    let snapshot = await this.#look();
    let next = announce(this.#task, snapshot, memoryOf(this.#olds, gui, snapshot, context.urn));
    for (;;) {
      const { decision, plan } = next;
      const { target, wanted } = decision;
      if (target === null || !wanted || !plan) return this.#end(snapshot, next);
      this.#settings = asProperties(wanted);
      const event = await this.#try(snapshot, target, wanted, decision, plan);
      const ladder = step(decision.ladder, event);
      snapshot = await this.#look();
      if (ladder.doing === "end") {
        return this.#end(snapshot, { decision: { ...decision, ladder }, plan: null });
      }
      try {
        next = announce(this.#task, snapshot, ladder.remembered, ladder);
      } catch (error) {
        // What was learnt from the rung that failed is kept.
        throw error instanceof Refusal ? this.#partial(ladder, error.message) : error;
      }
    }
  }

  async #look(): Promise<Snapshot> {
    const { hosts, gui, context } = this.#task;
    const now = await hosts.snapshot(gui.host, allPackages(gui), context, this.#olds["connection"]);
    return this.#see(now);
  }

  #see(now: Snapshot): Snapshot {
    const { hosts, gui, context } = this.#task;
    this.#snapshot = hosts.claims.seenBy(context.urn, gui.host, gui.qube, now);
    return this.#snapshot;
  }

  /** Tries a rung, and says how it went; an error where that is not for the ladder to know. */
  async #try(
    snapshot: Snapshot,
    target: Rung,
    wanted: Settings,
    decision: Decision,
    plan: Plan,
  ): Promise<LadderEvent> {
    const { gui, context } = this.#task;
    try {
      const result = await this.#rung(snapshot, target, wanted, decision, plan);
      if (result) this.#convinced(result, target, wanted, decision);
      if (target === "gpu" && decision.gpu?.lit.length) this.#screens = decision.gpu.lit;
      return { is: "cameUp" };
    } catch (error) {
      if (error instanceof Refusal || error instanceof PartialFailure) throw error;
      this.#failure = error;
      const failed = failedRung(error, target);
      if (failed) {
        context.log(`mode "${target}" did not come up: ${failed.why}`, { severity: "warning" });
        return failed;
      }
      const why = applyFailure(error, this.#resource, gui.host);
      const ladder = step(decision.ladder, { is: "cut", why });
      throw changedNothing(error) && this.#olds["mode"] !== undefined
        ? this.#asBefore(ladder, why)
        : this.#partial(ladder, why);
    }
  }

  /** One rung by at most one apply; null where there is nothing to do. */
  async #rung(
    snapshot: Snapshot,
    target: Rung,
    wanted: Settings,
    decision: Decision,
    plan: Plan,
  ): Promise<ApplyResult | null> {
    const { hosts, gui, context } = this.#task;
    const { needsBoot } = decision;
    const olds = this.#olds;
    const claimed = isNoted(plan, snapshot, context.urn);
    const waiting = gui.restartClients === "allowed" ? waitingForRestart(gui.qube, snapshot) : [];
    const isUp =
      claimed &&
      !needsBoot &&
      olds["state"] !== "rescued" &&
      (verified(olds) || target === "dom0") &&
      (olds["mode"] === target || olds["mode"] === undefined) &&
      plan.changes.length === 0 &&
      plan.release.length === 0 &&
      waiting.length === 0;
    if (isUp) return null;
    const known = {
      lit: screensOf(olds),
      restart: gui.restartClients === "allowed" ? runningClients(gui, plan, snapshot) : [],
      inside: verified(olds) && olds["mode"] === target,
    };
    if (needsBoot) context.log(...bootNotice(snapshot));
    const request =
      target === "dom0"
        ? takeAwayRequest(
            gui.qube,
            target,
            plan,
            snapshot,
            needsBoot ? { seconds: gui.limits.boot, gui, lit: known.lit } : null,
          )
        : rungRequest(gui, { ...decision, wanted }, plan, snapshot, known);
    const claims = hosts.claims.argsOf(context.urn, plan);
    return hosts.apply(gui.host, { ...request, claims, owner: context.urn }, context, olds["connection"]);
  }

  /** What Salt was asked for and did not do is a failure, whatever Salt said (design §1 promise 5). */
  #convinced(result: ApplyResult, target: Rung, wanted: Settings, { ladder }: Decision): void {
    const { gui, context } = this.#task;
    const snapshot = this.#see(result.snapshot);
    const { evidence } = result;
    this.#evidence = evidence;
    const { changes, release } = planRung(gui.qube, wanted, snapshot, context.urn);
    const left = leftOf(release, context.urn, result);
    if (changes.length + left.length === 0) return;
    const reason = changes.length
      ? sentence({
          resource: this.#resource,
          host: gui.host,
          what: `the host does not have what was applied: ${changes.map((c) => c.wish.key).join(", ")}`,
          changed: "The rest was applied and is kept",
          next: 'Look for who else changes them, then run "pulumi up" again',
        })
      : stillThere(left, this.#resource, gui.host);
    const up = step(ladder, { is: "cameUp" });
    throw this.#partial(up, reason, outputsOf(gui, snapshot, context.urn, "ready", target));
  }

  #end(snapshot: Snapshot, { decision, plan }: Announced): Promise<Properties> | Properties {
    const { ladder } = decision;
    switch (ladder.end?.kind) {
      case "up":
        return this.#up(snapshot, ladder, ladder.end.mode);
      case "staged":
        return this.#staged(snapshot, ladder, ladder.end.mode, decision.wanted, plan);
      default:
        throw this.#partial(ladder, this.#noneCameUp(ladder));
    }
  }

  #up(snapshot: Snapshot, ladder: Ladder, mode: Rung): Properties {
    const { gui, context } = this.#task;
    const made = outputsOf(gui, snapshot, context.urn, "ready", mode);
    const fallback = fallbackOf(ladder);
    if (fallback !== null && gui.onFallback === "fail") {
      const reason = sentence({
        resource: this.#resource,
        host: gui.host,
        what: `it is in mode "${mode}", and onFallback is "fail": ${fallback}`,
        changed: `Mode "${mode}" is in force, and checked`,
        next: 'Mend that and change "retry", or take the mode out of "display"',
      });
      throw this.#partial(ladder, reason, made);
    }
    if (fallback !== null && gui.onFallback === "warn")
      context.log(`${this.#resource} is in mode "${mode}", not "${gui.display[0]}": ${fallback}`, {
        severity: "warning",
      });
    return this.#outputs(ladder, made);
  }

  /** What can be there before the boot is put there; the mode in force stays. */
  async #staged(
    snapshot: Snapshot,
    ladder: Ladder,
    mode: Rung,
    wanted: Settings | null,
    plan: Plan | null,
  ): Promise<Properties> {
    const { hosts, gui, context } = this.#task;
    const screen = screenOf(ladder);
    const state = screen === "dom0" ? "staged" : verified(this.#olds) ? "ready" : "unverified";
    let now = snapshot;
    if (wanted && plan) {
      this.#settings = asProperties(wanted);
      const claimed = isNoted(plan, snapshot, context.urn);
      if (!claimed || plan.changes.length || plan.release.length) {
        const applying = {
          hosts,
          host: gui.host,
          resource: this.#resource,
          context,
          connection: this.#olds["connection"],
          partial: (reason: string, made?: ApplyResult) =>
            this.#partial(
              ladder,
              reason,
              made && outputsOf(gui, made.snapshot, context.urn, state, screen, mode),
            ),
        };
        const request: ApplyRequest = {
          ...stagedRequest(gui, wanted, plan, snapshot, screen, verified(this.#olds)),
          claims: hosts.claims.argsOf(context.urn, plan),
          owner: context.urn,
        };
        const result = await apply(applying, request);
        now = this.#see(result.snapshot);
        this.#evidence = result.evidence;
      }
    }
    context.log(`mode "${mode}" waits: ${rebootWhy(mode)}. Until then mode "${screen}" stays in force`, {
      severity: "warning",
    });
    return this.#outputs(ladder, outputsOf(gui, now, context.urn, state, screen, mode));
  }

  #noneCameUp(ladder: Ladder): string {
    const { gui } = this.#task;
    if (gui.display.length === 1 || ladder.end?.kind === "stuck")
      return applyFailure(this.#failure, this.#resource, gui.host);
    const each = ladder.attempts.map(({ mode, verdict, reason }) => `"${mode}" ${verdict}: ${reason}`);
    return sentence({
      resource: this.#resource,
      host: gui.host,
      what: `no mode came up: ${each.join("; ")}`,
      changed: "What was tried was put back, and the host is as it was before",
      next: 'Mend what is named there, then run "pulumi up" again; a mode that cost a boot is tried again when "retry" changes',
    });
  }

  #outputs(ladder: Ladder, more: Properties): Properties {
    const { hosts, gui } = this.#task;
    const outcome = this.#snapshot?.outcome;
    return {
      ...this.#inputs,
      ...(ladder.remembered.length && { remembered: asValue(ladder.remembered) }),
      settings: this.#settings,
      ...(this.#screens.length && { screens: this.#screens }),
      attempts: asValue(ladder.attempts),
      evidence: this.#evidence ? asValue(this.#evidence) : (this.#olds["evidence"] ?? []),
      connection: hosts.connection(gui.host),
      // It stays on the host until something is applied again.
      ...(outcome && { [SETTLED]: outcome.id }),
      ...more,
    };
  }

  /** What was in force still is. */
  #asBefore({ remembered }: Ladder, reason: string): PartialFailure {
    const learnt = remembered.length ? { remembered: asValue(remembered) } : {};
    return new PartialFailure({
      id: idOf(this.#task.gui),
      outputs: { ...this.#olds, ...learnt },
      reasons: [reason],
    });
  }

  /** `made`: what is in force although the run fails. */
  #partial(ladder: Ladder, reason: string, made?: Properties): PartialFailure {
    const outputs = made
      ? this.#outputs(ladder, made)
      : { ...this.#olds, ...this.#outputs(ladder, unfinished(asValue(ladder.attempts))) };
    return new PartialFailure({ id: idOf(this.#task.gui), outputs, reasons: [reason] });
  }
}

/** Nothing that the ladder may do brings a screen up, and that is known beforehand. */
function refusalOf(gui: GuiDomain, { ladder, next }: Decision): Refusal {
  const why = ladder.attempts.map(({ mode, reason }) =>
    gui.display.length === 1 && mode !== "gpu" ? reason : `mode "${mode}": ${reason}`,
  );
  return new Refusal({
    resource: `GUI domain ${gui.qube}`,
    host: gui.host,
    what: why.join("; "),
    next: next ?? 'Add a mode that this host can bring up to "display", such as "xephyr"',
  });
}

/** Failures of what was tried, in contrast to those of reaching and locking the host: the next rung may well work. */
const OF_THE_RUNG = new Set([
  "salt-failed",
  "inside-failed",
  "verify-failed",
  "trial-over",
  "no-one-shot",
  "admin-api",
  "shutdown-refused",
]);

function failedRung(error: unknown, mode: Rung): Extract<LadderEvent, { is: "failed" }> | null {
  if (!(error instanceof AgentFailure) || !OF_THE_RUNG.has(error.body.code)) return null;
  const { evidence = [], left = {}, rebooting = false, outcome = null, code } = error.body;
  // Nobody reached the trial's boot, where the guard waited: with the mode the way in is lost.
  const isLost =
    code === "trial-over" && outcome?.phase === "trial" && /not confirmed in time/.test(outcome.why);
  return {
    is: "failed",
    why: whatOf(error.body),
    evidence,
    undone: Object.keys(left).length === 0,
    shown: (code === "verify-failed" && (rebooting || mode !== "gpu")) || isLost,
    reset: outcome !== null && isReset(outcome),
  };
}

/** A host that is held by somebody else, or that refused before it began. */
const changedNothing = (error: unknown): boolean =>
  error instanceof AgentFailure &&
  (error.body.changed ?? []).length === 0 &&
  Object.keys(error.body.left ?? {}).length === 0;

/** Clients that run now and whose GUI domain this apply changes. */
function runningClients(gui: GuiDomain, { waits }: Plan, snapshot: Snapshot): string[] {
  const named = gui.clients === "default" ? null : new Set(gui.clients);
  const changed = Object.keys(snapshot.qubes).filter((name) => {
    const qube = snapshot.qubes[name];
    if (!qube || name === gui.qube || qube.class === "AdminVM" || qube.state !== "Running") return false;
    const guivm = qube.properties["guivm"];
    if ((named ? `property:${name}:guivm` : "global:default_guivm") in waits) return false;
    return (named ? named.has(name) : guivm?.default === true) && guivm?.value !== gui.qube;
  });
  return [...new Set([...changed, ...waitingForRestart(gui.qube, snapshot)])].sort();
}
