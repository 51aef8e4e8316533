/** The resource `guidomain:index:GuiDomain`: Pulumi's calls → plan, formula and applies on the host. Design §4, §5. */
import { settingsOf } from "../formula/settings.ts";
import { AgentFailure, HostError } from "../host/errors.ts";
import type { ApplyResult, Evidence, Snapshot } from "../host/protocol.ts";
import { Refusal, sentence } from "../model/failure.ts";
import { allPackages, argumentFaults, type GuiDomain, inMode, parseGuiDomain } from "../model/guiDomain.ts";
import type { Rung } from "../model/modes.ts";
import { policyFile } from "../model/names.ts";
import { NO_SETTINGS, type Settings } from "../model/settings.ts";
import type { Selector } from "../pci/selector.ts";
import { functionAt, isDisplay, pciTree } from "../pci/tree.ts";
import { GPU_MEMORY } from "../pci/verdict.ts";
import { owns, type Plan, planDelete, planRung } from "../plan/changes.ts";
import { judgeGpu } from "../plan/gpu.ts";
import {
  fallbackOf,
  type Ladder,
  type LadderEvent,
  type Remembered,
  screenOf,
  step,
} from "../plan/ladder.ts";
import { liveSettings } from "../plan/live.ts";
import {
  inForce,
  modeOf,
  preflight,
  preflightDelete,
  startsAnew,
  waitingForRestart,
} from "../plan/preflight.ts";
import { type Decision, decide, rungKey } from "../plan/rungs.ts";
import { clientsOf, sameValue, valueOf } from "../plan/values.ts";
import { rulesOf } from "../policy/rules.ts";
import { applyFailure, whatOf } from "./applyFailure.ts";
import { diffByPath, replacing, topLevel } from "./diff.ts";
import {
  type Changes,
  type Context,
  type Handler,
  hasUnknown,
  PartialFailure,
  type Properties,
  UNKNOWN,
  type Value,
} from "./handler.ts";
import type { ApplyRequest, HostAccess } from "./hosts.ts";
import { rungRequest, stagedRequest, takeAwayRequest } from "./rungRequest.ts";

/** Arguments that reach the host through `settings` alone: a difference shows there, once. */
const MIRRORED = new Set([
  "audiovm",
  "autostart",
  "clients",
  "gpu",
  "hostPackages",
  "label",
  "maxmem",
  "memory",
  "session",
  "sessionUser",
  "template",
  "vcpus",
  "viewers",
  // Not an argument: what a read has learnt, on its way to the check of the same run.
  "remembered",
]);

/** The last thing that the host did by itself which a run has taken into account; names with two underscores are not displayed. */
const SETTLED = "__outcome";

/** Another host or another qube is another GUI domain. */
const REPLACING = ["host", "qube"];

const asProperties = (value: object): Properties => JSON.parse(JSON.stringify(value)) as Properties;

export function guiDomainHandler(hosts: HostAccess): Handler {
  return {
    async check(news, olds, context) {
      const { settings: _, remembered: __, ...args } = news;
      if (hasUnknown(args)) return { inputs: { ...args, settings: UNKNOWN }, failures: knownFailures(args) };
      const parsed = parseGuiDomain(context.name, args);
      if ("faults" in parsed) return { inputs: news, failures: parsed.faults };
      const { gui } = parsed;
      const settings = await settingsFor(gui, olds, context);
      return {
        inputs: {
          ...described(gui),
          settings: asProperties(settings),
          ...(olds["remembered"] !== undefined && { remembered: olds["remembered"] }),
        },
        failures: [],
      };
    },

    async diff({ oldInputs, oldOutputs, news }, context) {
      const looks = !hasUnknown(news) && oldOutputs["looked"] !== false;
      let wanted: Settings | null | undefined;
      let missing: Changes = {};
      if (looks) {
        const gui = guiOf(news);
        const snapshot = await hosts.snapshot(gui.host, allPackages(gui), context, oldOutputs["connection"]);
        ({ wanted } = announce(gui, snapshot, memoryOf(news, gui, snapshot, context.urn), context).decision);
        // What the description names anew and the host has already (after an import, say) is no change.
        if (wanted) {
          const live = liveSettings(gui.qube, wanted, snapshot);
          missing = diffByPath({ settings: asProperties(live) }, { settings: asProperties(wanted) });
        }
      }
      // The state's own settings may be those of a rung that did not come up.
      const settings = wanted ? asProperties(wanted) : looks ? oldInputs["settings"] : news["settings"];
      const now = settings === undefined ? news : { ...news, settings };
      const changes: Changes = {};
      // What the host went back to by itself has not been checked since.
      if (oldOutputs["state"] === "rescued") changes["remembered"] = "update";
      for (const [path, kind] of Object.entries(replacing(diffByPath(oldInputs, now), REPLACING)))
        if (!MIRRORED.has(topLevel(path))) changes[path] = kind;
      if (looks)
        for (const [path, kind] of Object.entries(changes))
          if (topLevel(path) === "settings" && kind !== "delete" && !(path in missing)) delete changes[path];
      return { changes, deleteBeforeReplace: true };
    },

    async create(inputs, context) {
      const gui = guiOf(inputs);
      if (context.preview) {
        const snapshot = await hosts.snapshot(gui.host, allPackages(gui), context);
        announce(gui, snapshot, memoryOf(inputs, gui, snapshot, context.urn), context);
        return { id: "", outputs: inputs };
      }
      return { id: idOf(gui), outputs: await bringUp(gui, inputs, {}, context) };
    },

    async read({ id, outputs, inputs }, context) {
      const [host = "", qube = ""] = id.split("/");
      const imported = Object.keys(inputs).length === 0;
      const skip = inputs["unreachable"] === "skip";
      let snapshot: Snapshot;
      try {
        snapshot = await hosts.snapshot(
          host,
          imported ? [] : packagesOf(inputs),
          context,
          outputs["connection"],
        );
      } catch (error) {
        if (!skip || !(error instanceof HostError) || error.kind !== "unreachable") throw error;
        hosts.notLookedAt(host, error, context);
        return { id, outputs: { ...outputs, looked: false }, inputs };
      }
      const gui = imported && snapshot.qubes[qube] ? adopted(host, qube, snapshot) : null;
      const outcome = snapshot.outcome?.owner === context.urn ? snapshot.outcome : null;
      if (!snapshot.qubes[qube] && (imported || !(outcome || withoutQube(outputs)))) return null;
      return found(gui ?? guiOf(inputs), gui !== null);

      function found(gui: GuiDomain, isImport: boolean) {
        const isRescued = outcome !== null && outcome.what !== "undone" && outcome.id !== outputs[SETTLED];
        const memory = memoryOf({ ...inputs, ...outputs }, gui, snapshot, context.urn);
        const { wanted, waitsFor } = wantedNow(
          gui,
          snapshot,
          // After the host went back by itself the mode that the state names is not in force.
          isImport ? null : isRescued ? {} : outputs,
          context.urn,
          memory,
        );
        const live = wanted && liveSettings(qube, wanted, snapshot);
        const { remembered: _, ...rest } = isImport ? described(gui) : inputs;
        const learnt = memory.length ? { remembered: asValue(memory) } : {};
        const { remembered: __, ...kept } = outputs;
        // A trial that this state knows to have failed has been told.
        if (outcome && (isRescued || outputs["remembered"] === undefined))
          context.log(outcomeText(qube, outcome), { severity: "warning" });
        const settings = live ? asProperties(live) : (inputs["settings"] ?? asProperties(NO_SETTINGS));
        const state = stateOf(outputs, live === null || sameValue(live, wanted));
        return {
          id,
          inputs: { ...rest, ...learnt, settings },
          outputs: {
            attempts: [],
            evidence: [],
            ...rest,
            ...kept,
            ...learnt,
            settings,
            ...outputsOf(
              gui,
              snapshot,
              context.urn,
              isRescued ? "rescued" : state,
              modeIn(gui, outputs, snapshot),
              waitsFor,
            ),
            ...(isRescued && rescuedOutputs(outcome, inForce(qube, snapshot), kept)),
            connection: hosts.connection(host),
          },
        };
      }
    },

    async update({ oldOutputs, news }, context) {
      const gui = guiOf(news);
      if (oldOutputs["looked"] === false && gui.unreachable === "skip") return { ...oldOutputs, ...news };
      const snapshot = await hosts.snapshot(gui.host, allPackages(gui), context, oldOutputs["connection"]);
      if (context.preview) {
        announce(gui, snapshot, memoryOf({ ...news, ...oldOutputs }, gui, snapshot, context.urn), context);
        // What an apply decides anew is left out, and so unknown; the rest stays what it is for those who depend on it.
        const { mode: _, state: __, attempts: ___, evidence: ____, pending: _____, ...kept } = oldOutputs;
        return { ...kept, ...news };
      }
      return bringUp(gui, news, oldOutputs, context);
    },

    async delete({ id, inputs, outputs }, context) {
      const [host = "", qube = ""] = id.split("/");
      const resource = `GUI domain ${qube}`;
      const snapshot = await hosts.snapshot(host, packagesOf(inputs), context, outputs["connection"]);
      const onDelete = outputs["onDelete"] === "keep" ? "keep" : "restore";
      const plan = planDelete(snapshot, context.urn, onDelete);
      if (plan.release.length === 0) return; // adopted and never changed: nothing of ours is there
      const removes = plan.restores.some((r) => r.key === `qube:${qube}` && r.to === null);
      const boots = onDelete === "restore" && inForce(qube, snapshot) === "gpu";
      if (boots && outputs["reboot"] !== "allowed")
        throw new Refusal({
          resource,
          host,
          what: `it drives the screen, which goes back to dom0 in a boot of its own, and reboot is "never"`,
          next: 'Set reboot to "allowed" and run "pulumi up", then destroy it; or set onDelete to "keep" to leave it as it is',
        });
      if (removes && !boots) preflightDelete(resource, host, qube, snapshot);
      if (onDelete === "restore" && plan.restores.length) {
        context.log(describeDelete(qube, plan, removes));
        if (boots) context.log(...bootNotice(snapshot));
      }
      const gui = guiOf(inputs);
      const request = takeAwayRequest(
        qube,
        String(outputs["mode"] ?? "xephyr"),
        plan,
        snapshot,
        boots ? { seconds: gui.limits.boot, gui, lit: screensOf(outputs) } : null,
      );
      await apply(host, { ...request, owner: context.urn }, resource, context, outputs["connection"]);
    },

    abandoned(request, { signal }) {
      const why = signal.reason instanceof Error ? signal.reason.message : "stopped";
      const [host = "", qube = ""] = (
        request.operation === "create" ? idOf(guiOf(request.inputs)) : request.id
      ).split("/");
      const reasons = [
        sentence({
          resource: `GUI domain ${qube}`,
          host,
          what: why,
          changed: "The host puts back by itself what was half done, and then gives its lock back",
          next: `Run "pulumi ${request.operation === "delete" ? "destroy" : "up"}" again to go on`,
        }),
      ];
      if (request.operation === "delete") return { id: request.id, outputs: request.outputs, reasons };
      const inputs = request.operation === "create" ? request.inputs : request.news;
      const before = request.operation === "update" ? request.oldOutputs : {};
      const id = request.operation === "create" ? idOf(guiOf(inputs)) : request.id;
      const gui = guiOf(inputs);
      const attempts = [{ mode: gui.display[0] ?? "xephyr", verdict: "failed", reason: reasons[0] ?? "" }];
      return { id, outputs: { ...before, ...inputs, ...unfinished(attempts) }, reasons };
    },
  };

  /** What the run is going to do there, said and claimed before anything is touched; a refusal where nothing can work. */
  function announce(
    gui: GuiDomain,
    snapshot: Snapshot,
    remembered: readonly Remembered[],
    context: Context,
    done?: Ladder,
  ): { decision: Decision; plan: Plan | null } {
    const notices = preflight(gui, snapshot);
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
    const given = Object.values(wanted.devices).map((device) => `given:${device.port}`);
    hosts.claims.claim(gui.host, context.urn, `GUI domain ${gui.qube}`, [...plan.touch, ...given], snapshot);
    if (context.preview && (plan.changes.length || !snapshot.ledger[`qube:${gui.qube}`])) {
      for (const notice of notices) context.log(notice.text, { severity: notice.severity });
      if (needsBoot && target) context.log(...bootNotice(snapshot));
      for (const { mode, verdict, reason } of ladder.attempts)
        if (verdict !== "ok" && verdict !== "skipped")
          context.log(`mode "${mode}": ${verdict}: ${reason}`, { severity: "warning" });
    }
    return { decision, plan };
  }

  /** Climbs the ladder until a rung is up. Returns the outputs. */
  async function bringUp(
    gui: GuiDomain,
    inputs: Properties,
    olds: Properties,
    context: Context,
  ): Promise<Properties> {
    const look = () => hosts.snapshot(gui.host, allPackages(gui), context, olds["connection"]);
    const resource = `GUI domain ${gui.qube}`;
    let snapshot = await look();
    const memory = memoryOf({ ...inputs, ...olds }, gui, snapshot, context.urn);
    const { remembered: _, ...asked } = inputs;
    let evidence: readonly Evidence[] | undefined;
    let screens = screensOf(olds);
    let settings = asked["settings"] ?? null;

    const outputs = (ladder: Ladder, more: Properties): Properties => ({
      ...asked,
      ...(ladder.remembered.length && { remembered: asValue(ladder.remembered) }),
      settings,
      ...(screens.length && { screens }),
      attempts: asValue(ladder.attempts),
      evidence: evidence ? asValue(evidence) : (olds["evidence"] ?? []),
      connection: hosts.connection(gui.host),
      // It stays on the host until something is applied again.
      ...(snapshot.outcome && { [SETTLED]: snapshot.outcome.id }),
      ...more,
    });
    const partial = (ladder: Ladder, reason: string) =>
      new PartialFailure({
        id: idOf(gui),
        outputs: {
          ...olds,
          ...outputs(ladder, {}),
          ...unfinished(asValue(ladder.attempts)),
        },
        reasons: [reason],
      });

    let failure: unknown;
    let step0 = announce(gui, snapshot, memory, context);
    for (;;) {
      const { decision, plan } = step0;
      const { target, wanted } = decision;
      if (target === null || !wanted || !plan) break;
      if (wanted) settings = asProperties(wanted);
      let event: LadderEvent;
      try {
        const result = await bringUpRung(gui, decision, plan, snapshot, olds, context);
        if (result) {
          ({ snapshot, evidence } = result);
          // What Salt was asked for and did not do is a failure, whatever Salt said (design §1 promise 5).
          const left = planRung(gui.qube, wanted, snapshot, context.urn).changes;
          if (left.length) {
            const ladder = step(decision.ladder, { is: "cameUp" });
            const reason = sentence({
              resource,
              host: gui.host,
              what: `the host does not have what was applied: ${left.map((c) => c.wish.key).join(", ")}`,
              changed: "The rest was applied and is kept",
              next: 'Look for who else changes them, then run "pulumi up" again',
            });
            throw new PartialFailure({
              id: idOf(gui),
              outputs: outputs(ladder, outputsOf(gui, snapshot, context.urn, "ready", target)),
              reasons: [reason],
            });
          }
        }
        if (target === "gpu" && decision.gpu?.lit.length) screens = decision.gpu.lit;
        event = { is: "cameUp" };
      } catch (error) {
        if (error instanceof Refusal || error instanceof PartialFailure) throw error;
        failure = error;
        const failed = failedRung(error);
        if (!failed) {
          const reason = applyFailure(error, resource, gui.host);
          throw partial(step(decision.ladder, { is: "cut", why: reason }), reason);
        }
        context.log(`mode "${target}" did not come up: ${failed.why}`, { severity: "warning" });
        event = failed;
      }
      const ladder = step(decision.ladder, event);
      if (ladder.doing === "end" && event.is !== "cameUp") {
        step0 = { decision: { ...decision, ladder, target: null, wanted: null }, plan: null };
        break;
      }
      if (event.is === "cameUp") {
        step0 = { decision: { ...decision, ladder, target: null }, plan };
        break;
      }
      snapshot = await look();
      step0 = announce(gui, snapshot, ladder.remembered, context, ladder);
    }

    const { decision, plan } = step0;
    const { ladder } = decision;
    switch (ladder.end?.kind) {
      case "up": {
        const fallback = fallbackOf(ladder);
        const made = outputs(ladder, outputsOf(gui, snapshot, context.urn, "ready", ladder.end.mode));
        if (fallback === null || gui.onFallback === "accept") return made;
        const text = `GUI domain ${gui.qube} is in mode "${ladder.end.mode}", not "${gui.display[0]}": ${fallback}`;
        if (gui.onFallback === "fail")
          throw new PartialFailure({
            id: idOf(gui),
            outputs: made,
            reasons: [
              sentence({
                resource,
                host: gui.host,
                what: `it is in mode "${ladder.end.mode}", and onFallback is "fail": ${fallback}`,
                changed: `Mode "${ladder.end.mode}" is in force, and checked`,
                next: 'Mend that and change "retry", or take the mode out of "display"',
              }),
            ],
          });
        context.log(text, { severity: "warning" });
        return made;
      }
      case "staged": {
        const { wanted } = decision;
        if (wanted && plan) {
          settings = asProperties(wanted);
          const claimed = plan.touch.every((key) => owns(snapshot.ledger[key], context.urn));
          if (!claimed || plan.changes.length || plan.release.length) {
            const request = stagedRequest(gui, wanted, plan, snapshot);
            const result = await apply(
              gui.host,
              { ...request, owner: context.urn },
              resource,
              context,
              olds["connection"],
              (reason) => partial(ladder, reason),
            );
            ({ snapshot, evidence } = result);
          }
        }
        const now = screenOf(ladder);
        const state = now === "dom0" ? "staged" : verified(olds) ? "ready" : "unverified";
        context.log(
          `mode "${ladder.end.mode}" waits: ${rebootWhy(ladder.end.mode)}. Until then mode "${now}" stays in force`,
          { severity: "warning" },
        );
        return outputs(ladder, outputsOf(gui, snapshot, context.urn, state, now, ladder.end.mode));
      }
      default: {
        const reason =
          gui.display.length === 1 || ladder.end?.kind === "stuck"
            ? applyFailure(failure, resource, gui.host)
            : sentence({
                resource,
                host: gui.host,
                what: `no mode came up: ${ladder.attempts.map((a) => `"${a.mode}" ${a.verdict}: ${a.reason}`).join("; ")}`,
                changed: "What was tried was put back, and the host is as it was before",
                next: 'Mend what is named there, then run "pulumi up" again; a mode that cost a boot is tried again when "retry" changes',
              });
        throw partial(ladder, reason);
      }
    }
  }

  /** One rung by at most one apply; null where there is nothing to do. */
  async function bringUpRung(
    gui: GuiDomain,
    decision: Decision,
    plan: Plan,
    snapshot: Snapshot,
    olds: Properties,
    context: Context,
  ): Promise<ApplyResult | null> {
    const { target, wanted, needsBoot } = decision;
    if (target === null || wanted === null) return null;
    const claimed = plan.touch.every((key) => owns(snapshot.ledger[key], context.urn));
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
      restart: gui.restartClients === "allowed" ? runningClients(gui, snapshot) : [],
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
    return hosts.apply(gui.host, { ...request, owner: context.urn }, context, olds["connection"]);
  }

  async function apply(
    host: string,
    what: ApplyRequest,
    resource: string,
    context: Context,
    connection: Value | undefined,
    partial?: (reason: string) => PartialFailure,
  ): Promise<ApplyResult> {
    try {
      return await hosts.apply(host, what, context, connection);
    } catch (error) {
      if (error instanceof Refusal) throw error;
      const reason = applyFailure(error, resource, host);
      throw partial ? partial(reason) : new Error(reason, { cause: error });
    }
  }

  /** What the description comes to on this host; which rung that is only the host can tell, unless there is no choice. */
  async function settingsFor(gui: GuiDomain, olds: Properties, context: Context): Promise<Settings> {
    const [first = "xephyr"] = gui.display;
    const before = olds["settings"] as Settings | undefined;
    const hasDisplay = Object.keys(before?.bootArguments ?? {}).length > 0;
    if (gui.display.length === 1 && first !== "gpu" && !hasDisplay) return settingsOf(gui, first);
    try {
      const snapshot = await hosts.snapshot(gui.host, allPackages(gui), context);
      const memory = memoryOf(olds, gui, snapshot, context.urn);
      return decide(gui, snapshot, context.urn, memory).wanted ?? before ?? settingsOf(gui, first);
    } catch (error) {
      // Whoever needs the host is told; a description can be checked without it.
      if (error instanceof HostError) return before ?? settingsOf(gui, first);
      throw error;
    }
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
  "verify-failed",
  "trial-over",
  "no-one-shot",
  "admin-api",
  "shutdown-refused",
]);

function failedRung(error: unknown): Extract<LadderEvent, { is: "failed" }> | null {
  if (!(error instanceof AgentFailure) || !OF_THE_RUNG.has(error.body.code)) return null;
  const { evidence = [], left = {}, rebooting = false, outcome = null } = error.body;
  return {
    is: "failed",
    why: whatOf(error.body),
    evidence,
    undone: Object.keys(left).length === 0,
    boot: rebooting || outcome !== null,
    reset: outcome !== null && isReset(outcome),
  };
}

/** The machine did not come through the trial's boot, as the guard found when it was up again; it may have hung, or reset. */
const isReset = ({ phase, why }: NonNullable<Snapshot["outcome"]>): boolean =>
  phase === "rebooting" || (/\brestarted\b/.test(why) && ["trial", "verified"].includes(phase));

const rebootWhy = (mode: Rung) =>
  `mode "${mode}" is proved in a boot of its own; set reboot to "allowed" and run "pulumi up" when the machine may restart`;

function bootNotice({ facts }: Snapshot): [string, { severity: "info" | "warning" }] {
  const { unattended, unattendedWhy } = facts.boot;
  return unattended === true
    ? [
        "the machine restarts once, and by itself goes back to what it was if that does not work out",
        { severity: "info" },
      ]
    : [
        `the machine restarts, and somebody must be there: ${unattendedWhy}. The run waits for it`,
        { severity: "warning" },
      ];
}

function outcomeText(qube: string, { what, why, left }: NonNullable<Snapshot["outcome"]>): string {
  const rest = Object.keys(left);
  return what === "rescued"
    ? `the GUI domain ${qube} did not come up in a boot, and the host went back by itself: ${why}`
    : `a trial of the GUI domain ${qube} was put back by the host itself: ${why}${rest.length ? `; not put back: ${rest.join(", ")}` : ""}`;
}

/** After the host went back by itself: what is true now, and why. */
function rescuedOutputs(
  { what, why }: NonNullable<Snapshot["outcome"]>,
  now: Rung,
  { attempts }: Properties,
): Properties {
  const failed = { mode: "gpu", verdict: "failed", reason: why };
  const others = Array.isArray(attempts) ? attempts.filter((a) => (a as Properties)["mode"] !== "gpu") : [];
  return {
    mode: now,
    ...(what === "rescued" && { attempts: [failed, ...others] }),
  };
}

const asValue = (value: unknown): Value => JSON.parse(JSON.stringify(value)) as Value;

/** Connectors that mode "gpu" is known to light. */
const screensOf = ({ screens }: Properties): string[] => (Array.isArray(screens) ? screens.map(String) : []);

/** A GUI domain whose qube is not there, and need not be; or of which is known what did not work. */
const withoutQube = ({ mode, state, remembered }: Properties): boolean =>
  remembered !== undefined ||
  (mode === "dom0" && (state === "ready" || state === "staged" || state === "rescued"));

/** What is known of rungs that failed: by the state, and by what the host did last without anybody asking. */
function memoryOf(known: Properties, gui: GuiDomain, snapshot: Snapshot, urn: string): Remembered[] {
  const memory = Array.isArray(known["remembered"]) ? (known["remembered"] as unknown as Remembered[]) : [];
  const { outcome } = snapshot;
  if (!outcome || outcome.owner !== urn || !gui.display.includes("gpu")) return memory;
  if (memory.some((r) => r.mode === "gpu") || inForce(gui.qube, snapshot) === "gpu") return memory;
  // A trial that nobody confirmed in time had perhaps no fault but that nobody was there any more.
  const reset = outcome.what !== "rescued" && isReset(outcome);
  if (outcome.what !== "rescued" && !reset) return memory;
  return [
    ...memory,
    { mode: "gpu", reason: outcome.why, key: rungKey(gui, "gpu", snapshot), reset, boot: true },
  ];
}

/**
 * What the host should have, as the last run left it: that rung's settings, or those of what was staged. null: what it has.
 * `outputs` null: an import, which is described as it is found.
 */
function wantedNow(
  gui: GuiDomain,
  snapshot: Snapshot,
  outputs: Properties | null,
  urn: string,
  memory: readonly Remembered[],
): { wanted: Settings | null; waitsFor: Rung | null } {
  const { ladder, wanted, target } = decide(gui, snapshot, urn, memory);
  const waitsFor = ladder.end?.kind === "staged" ? ladder.end.mode : null;
  if (outputs === null) {
    const [mode = "xephyr"] = gui.display;
    const grant = mode === "gpu" ? judgeGpu(gui, snapshot, true).grant : undefined;
    return { wanted: settingsOf(gui, mode, grant), waitsFor: null };
  }
  const { mode } = outputs;
  if (waitsFor) return { wanted, waitsFor };
  if (target === mode || mode === undefined || mode === "none") return { wanted, waitsFor };
  // Another rung would be tried now; until then the one in force counts.
  const isHosts = mode === "xephyr" || mode === "vnc" || mode === "dom0";
  return { wanted: isHosts ? settingsOf(gui, mode) : null, waitsFor };
}

const idOf = (gui: GuiDomain) => `${gui.host}/${gui.qube}`;

/** The mode that the state, or else the host, says is in force. */
const modeIn = (gui: GuiDomain, { mode }: Properties, snapshot: Snapshot): Rung =>
  typeof mode === "string" && mode !== "none"
    ? (mode as Rung)
    : snapshot.qubes[gui.qube]
      ? modeOf(gui.qube, snapshot)
      : "dom0";

/** The description as arguments: what is left to the mode stays away. */
const described = (gui: GuiDomain): Properties =>
  asProperties(Object.fromEntries(Object.entries(gui).filter(([, value]) => value !== null)));

/** Checked inputs back as a description. */
function guiOf(inputs: Properties): GuiDomain {
  const { settings: _, remembered: __, ...args } = inputs;
  const parsed = parseGuiDomain(String(args["qube"] ?? ""), args);
  if ("faults" in parsed)
    throw new Error(
      `the state does not describe a GUI domain: ${parsed.faults.map((f) => `${f.property}: ${f.reason}`).join("; ")}`,
    );
  return parsed.gui;
}

const packagesOf = (inputs: Properties): string[] => allPackages(guiOf(inputs));

/** With unknowns in it only the known arguments can be judged, each for itself. */
function knownFailures(args: Properties) {
  const known = Object.fromEntries(Object.entries(args).filter(([, value]) => !hasUnknown(value)));
  return argumentFaults(known).filter((f) => known[topLevel(f.property)] !== undefined);
}

/** The description of a qube that was made by hand: what the host shows of it, defaults for the rest. */
function adopted(host: string, qube: string, snapshot: Snapshot): GuiDomain {
  const live = snapshot.qubes[qube];
  const of = (name: string) => live?.properties[name];
  const explicit = (name: string) => (of(name) && !of(name)?.default ? Number(of(name)?.value) : undefined);
  const mode = modeOf(qube, snapshot);
  const byDefault = snapshot.globals["default_guivm"]?.value === qube;
  const listed = clientsOf(snapshot, qube).filter((c) => !snapshot.qubes[c]?.properties["guivm"]?.default);
  const memory = explicit("memory");
  const parsed = parseGuiDomain(qube, {
    host,
    display: [mode],
    ...(mode === "gpu" && { gpu: displayOf(qube, snapshot) }),
    clients: byDefault ? "default" : listed,
    template: of("template")?.value,
    label: of("label")?.value,
    autostart: of("autostart")?.value === "True",
    ...(mode !== "gpu" && { maxmem: Number(of("maxmem")?.value ?? 0) }),
    // The stock formula gives a GPU domain too little (qubes-host.md (b)); the first preview shows what it gets instead.
    ...(memory === undefined || (mode === "gpu" && memory < GPU_MEMORY) ? {} : { memory }),
    ...(explicit("vcpus") === undefined ? {} : { vcpus: explicit("vcpus") }),
    audiovm: of("audiovm")?.value ?? "",
    viewers: mode === "vnc" ? viewersOf(qube, snapshot) : [],
  });
  if ("faults" in parsed)
    throw new Refusal({
      resource: `GUI domain ${qube}`,
      host,
      what: `it cannot be imported: ${parsed.faults.map((f) => `${f.property} ${f.reason}`).join("; ")}`,
      next: "Change the qube by hand first, or describe it in the program and let pulumi up converge it",
    });
  const hostPackages = allPackages(parsed.gui).filter(
    (name) => valueOf(snapshot, `package:${name}`) !== null,
  );
  return { ...parsed.gui, hostPackages };
}

/** The display that a qube was given by hand, by what it is. */
function displayOf(qube: string, snapshot: Snapshot): Selector | undefined {
  const tree = pciTree(snapshot.facts.pci);
  const ports = snapshot.qubes[qube]?.pci.map((device) => functionAt(tree, device.port)) ?? [];
  const display = ports.find((fn) => fn !== undefined && isDisplay(fn));
  return display && { class: "display", vendor: display.vendor, device: display.device };
}

/** Qubes that the policy lets reach the remote display. */
function viewersOf(qube: string, snapshot: Snapshot): string[] {
  const rules = rulesOf(snapshot.files[policyFile(50, "gui", qube)]?.content ?? "");
  return rules.flatMap((rule) => {
    const [service, port, viewer = "", destination, action, ...options] = rule.split(" ");
    const is = [service, port, destination, action, ...options].join(" ");
    return is === `qubes.ConnectTCP +5900 @default allow target=${qube}` ? [viewer] : [];
  });
}

/** What was claimed of it before still holds, no more: an import is not a check, and a failure stays one until an apply. */
function stateOf({ state, evidence, mode }: Properties, asWanted: boolean): string {
  if (state === "failed") return "failed";
  if (!asWanted) return "drifted";
  if (mode === "dom0") return state === "staged" ? "staged" : "ready";
  return verified({ evidence: evidence ?? [] }) ? "ready" : "unverified";
}

/** Whether the last apply has checked the result; without evidence nothing is called ready. */
const verified = ({ evidence }: Properties): boolean => Array.isArray(evidence) && evidence.length > 0;

/** Outputs that the live host tells. `state` is what is known of it while nobody is in its session. */
function outputsOf(
  gui: GuiDomain,
  snapshot: Snapshot,
  urn: string,
  state: string,
  mode: Rung,
  waitsFor: Rung | null = null,
): Properties {
  const qube = snapshot.qubes[gui.qube];
  const restart = waitingForRestart(gui.qube, snapshot);
  const created = snapshot.ledger[`qube:${gui.qube}`];
  return {
    mode: state === "failed" ? "none" : mode,
    state: state === "ready" && mode === "xephyr" && qube?.session && qube.guidRunning ? "inUse" : state,
    pending: [
      ...(waitsFor ? [{ kind: "reboot", why: rebootWhy(waitsFor) }] : []),
      ...(restart.length
        ? [
            {
              kind: "restart",
              qubes: restart,
              why: `their windows stay with the former GUI domain until they restart`,
            },
          ]
        : []),
    ],
    // What the mode has decided for what the program leaves to it.
    ...(mode !== "dom0" && asProperties(inMode(gui, mode))),
    origin: created?.owner === urn && created.first === null ? "created" : "adopted",
    looked: true,
  };
}

/** Outputs of a GUI domain whose apply did not end well: never a claim that it works. */
const unfinished = (attempts: Value): Properties => ({
  mode: "none",
  state: "failed",
  attempts,
  pending: [],
  evidence: [],
  looked: true,
});

/** Clients that run now and whose GUI domain this apply changes. */
function runningClients(gui: GuiDomain, snapshot: Snapshot): string[] {
  const named = gui.clients === "default" ? null : new Set(gui.clients);
  const changed = Object.keys(snapshot.qubes).filter((name) => {
    const qube = snapshot.qubes[name];
    if (!qube || name === gui.qube || qube.class === "AdminVM" || qube.state !== "Running") return false;
    const guivm = qube.properties["guivm"];
    return (named ? named.has(name) : guivm?.default === true) && guivm?.value !== gui.qube;
  });
  return [...new Set([...changed, ...waitingForRestart(gui.qube, snapshot)])].sort();
}

function describeDelete(qube: string, plan: Plan, removes: boolean): string {
  const rest = plan.restores.length - (removes ? 1 : 0);
  return removes
    ? `qube ${qube} is removed with its private volume (it was created here); ${rest} other values go back to what they were`
    : `qube ${qube} was there before and stays; ${rest} values go back to what they were`;
}
