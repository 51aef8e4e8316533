/** The resource `guidomain:index:GuiDomain`: Pulumi's calls → plan, formula and one apply on the host. Design §4. */
import { formulaOf } from "../formula/formula.ts";
import { settingsOf } from "../formula/settings.ts";
import { HostError } from "../host/errors.ts";
import type { ApplyArgs, ApplyResult, Evidence, Snapshot } from "../host/protocol.ts";
import { Refusal, sentence } from "../model/failure.ts";
import { argumentFaults, type GuiDomain, parseGuiDomain } from "../model/guiDomain.ts";
import type { Mode } from "../model/modes.ts";
import { policyFile } from "../model/names.ts";
import { owns, type Plan, planApply, planDelete } from "../plan/changes.ts";
import { appliedSettings, liveSettings } from "../plan/live.ts";
import { modeOf, preflight, preflightDelete, startsAnew, waitingForRestart } from "../plan/preflight.ts";
import { clientsOf, sameValue, valueOf } from "../plan/values.ts";
import { verificationsOf } from "../plan/verify.ts";
import { rulesOf } from "../policy/rules.ts";
import { applyFailure } from "./applyFailure.ts";
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
import type { HostAccess } from "./hosts.ts";

/** Arguments that reach the host through `settings` alone: a difference shows there, once. */
const MIRRORED = new Set([
  "audiovm",
  "autostart",
  "clients",
  "hostPackages",
  "label",
  "maxmem",
  "memory",
  "session",
  "sessionUser",
  "template",
  "vcpus",
  "viewers",
]);

/** Another host or another qube is another GUI domain. */
const REPLACING = ["host", "qube"];

const asProperties = (value: object): Properties => JSON.parse(JSON.stringify(value)) as Properties;

export function guiDomainHandler(hosts: HostAccess): Handler {
  return {
    async check(news, _olds, { name }) {
      const { settings: _, ...args } = news;
      if (hasUnknown(args)) return { inputs: { ...args, settings: UNKNOWN }, failures: knownFailures(args) };
      const parsed = parseGuiDomain(name, args);
      if ("faults" in parsed) return { inputs: news, failures: parsed.faults };
      return { inputs: inputsOf(parsed.gui), failures: [] };
    },

    async diff({ oldInputs, oldOutputs, news }, context) {
      const changes: Changes = {};
      for (const [path, kind] of Object.entries(replacing(diffByPath(oldInputs, news), REPLACING)))
        if (!MIRRORED.has(topLevel(path))) changes[path] = kind;
      if (!hasUnknown(news) && oldOutputs["looked"] !== false) {
        const gui = guiOf(news);
        const snapshot = await hosts.snapshot(gui.host, gui.hostPackages, context, oldOutputs["connection"]);
        announce(gui, snapshot, context);
        // What the description names anew and the host has already (after an import, say) is no change.
        const wanted = settingsOf(gui, modeIn(gui));
        const live = liveSettings(gui.qube, wanted, snapshot);
        const missing = diffByPath({ settings: asProperties(live) }, { settings: asProperties(wanted) });
        for (const [path, kind] of Object.entries(changes))
          if (topLevel(path) === "settings" && kind !== "delete" && !(path in missing)) delete changes[path];
      }
      return { changes, deleteBeforeReplace: true };
    },

    async create(inputs, context) {
      const gui = guiOf(inputs);
      if (context.preview) {
        const snapshot = await hosts.snapshot(gui.host, gui.hostPackages, context);
        announce(gui, snapshot, context);
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
      if (!snapshot.qubes[qube]) return null;
      const gui = imported ? adopted(host, qube, snapshot) : guiOf(inputs);
      const described = imported ? inputsOf(gui) : inputs;
      const wanted = settingsOf(gui, modeIn(gui));
      const live = liveSettings(qube, wanted, snapshot);
      const state = stateOf(outputs, sameValue(live, wanted));
      return {
        id,
        inputs: { ...described, settings: asProperties(live) },
        outputs: {
          attempts: [],
          evidence: [],
          ...described,
          ...outputs,
          settings: asProperties(live),
          ...outputsOf(gui, snapshot, context.urn, state),
          connection: hosts.connection(host),
        },
      };
    },

    async update({ oldOutputs, news }, context) {
      const gui = guiOf(news);
      if (oldOutputs["looked"] === false && gui.unreachable === "skip") return { ...oldOutputs, ...news };
      const snapshot = await hosts.snapshot(gui.host, gui.hostPackages, context, oldOutputs["connection"]);
      if (context.preview) {
        announce(gui, snapshot, context);
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
      if (removes) preflightDelete(resource, host, qube, snapshot);
      if (onDelete === "restore" && plan.restores.length) {
        context.log(describeDelete(qube, plan, removes));
      }
      const mode = String(outputs["mode"] ?? "xephyr");
      const formula = formulaOf({ qube, mode, settings: null, restores: plan.restores });
      await apply(
        host,
        {
          owner: context.urn,
          touch: plan.touch,
          release: plan.release,
          shutdown: removes && snapshot.qubes[qube]?.state !== "Halted" ? [qube] : [],
          formula: plan.restores.length ? formula.files : {},
          sls: plan.restores.length ? formula.sls : "",
          verify: [],
          restart: [],
        },
        resource,
        context,
        outputs["connection"],
      );
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
      return {
        id,
        outputs: { ...before, ...inputs, ...unfinished(guiOf(inputs), reasons[0] ?? "") },
        reasons,
      };
    },
  };

  /** Warnings and refusals that a preview can know; claims what this resource wants. Returns what is to be done. */
  function announce(gui: GuiDomain, snapshot: Snapshot, context: Context): Plan {
    const notices = preflight(gui, snapshot);
    const settings = settingsOf(gui, modeIn(gui));
    const plan = planApply(gui.qube, settings, snapshot, context.urn);
    if (startsAnew(gui, plan, snapshot) && context.preview)
      context.log(
        `qube ${gui.qube} starts anew, since its services are read at its start; it shows no windows now`,
      );
    hosts.claims.claim(gui.host, context.urn, `GUI domain ${gui.qube}`, plan.touch, snapshot);
    if (context.preview && (plan.changes.length || !snapshot.ledger[`qube:${gui.qube}`]))
      for (const notice of notices) context.log(notice.text, { severity: notice.severity });
    return plan;
  }

  /** Converges the host to the description: at most one apply. Returns the outputs. */
  async function bringUp(
    gui: GuiDomain,
    inputs: Properties,
    olds: Properties,
    context: Context,
  ): Promise<Properties> {
    const mode = modeIn(gui);
    const before = await hosts.snapshot(gui.host, gui.hostPackages, context, olds["connection"]);
    const plan = announce(gui, before, context);
    const claimed = plan.touch.every((key) => owns(before.ledger[key], context.urn));
    const outputs = (snapshot: Snapshot, evidence: Evidence[] | undefined): Properties => ({
      ...inputs,
      ...outputsOf(gui, snapshot, context.urn, "ready"),
      attempts: [{ mode, verdict: "ok", reason: "" }],
      evidence: (evidence ? evidence.map(asProperties) : olds["evidence"]) ?? [],
      connection: hosts.connection(gui.host),
    });
    const waiting = gui.restartClients === "allowed" ? waitingForRestart(gui.qube, before) : [];
    if (
      claimed &&
      verified(olds) &&
      plan.changes.length === 0 &&
      plan.release.length === 0 &&
      waiting.length === 0
    )
      return outputs(before, undefined);

    const settings = appliedSettings(gui.qube, settingsOf(gui, mode), before);
    const formula = formulaOf({ qube: gui.qube, mode, settings, restores: plan.restores });
    const result = await apply(
      gui.host,
      {
        owner: context.urn,
        touch: plan.touch,
        release: plan.release,
        shutdown: startsAnew(gui, plan, before) ? [gui.qube] : [],
        formula: formula.files,
        sls: formula.sls,
        verify: verificationsOf(gui, mode, before, Object.keys(settings.files)),
        restart: gui.restartClients === "allowed" ? runningClients(gui, before) : [],
      },
      `GUI domain ${gui.qube}`,
      context,
      olds["connection"],
      (reason) => ({
        id: idOf(gui),
        outputs: { ...olds, ...inputs, ...unfinished(gui, reason), connection: hosts.connection(gui.host) },
        reasons: [reason],
      }),
    );
    // What Salt was asked for and did not do is a failure, whatever Salt said (design §1 promise 5).
    const left = planApply(gui.qube, settingsOf(gui, mode), result.snapshot, context.urn).changes;
    if (left.length) {
      const what = `the host does not have what was applied: ${left.map((c) => c.wish.key).join(", ")}`;
      const reason = sentence({
        resource: `GUI domain ${gui.qube}`,
        host: gui.host,
        what,
        changed: "The rest was applied and is kept",
        next: 'Look for who else changes them, then run "pulumi up" again',
      });
      throw new PartialFailure({
        id: idOf(gui),
        outputs: outputs(result.snapshot, result.evidence),
        reasons: [reason],
      });
    }
    return outputs(result.snapshot, result.evidence);
  }

  async function apply(
    host: string,
    what: Pick<
      ApplyArgs,
      "owner" | "touch" | "release" | "shutdown" | "formula" | "sls" | "verify" | "restart"
    >,
    resource: string,
    context: Context,
    connection: Value | undefined,
    partial?: (reason: string) => { id: string; outputs: Properties; reasons: string[] },
  ): Promise<ApplyResult> {
    try {
      return await hosts.apply(host, what, context, connection);
    } catch (error) {
      if (error instanceof Refusal) throw error;
      const reason = applyFailure(error, resource, host);
      if (partial) throw new PartialFailure(partial(reason));
      throw new Error(reason, { cause: error });
    }
  }
}

const idOf = (gui: GuiDomain) => `${gui.host}/${gui.qube}`;
const modeIn = (gui: GuiDomain): Mode => gui.display[0] ?? "xephyr";

/** The checked inputs: every argument with its default, and the settings that follow from them. */
function inputsOf(gui: GuiDomain): Properties {
  const { sessionUser, memory, vcpus, ...rest } = gui;
  const optional = Object.fromEntries(
    Object.entries({ sessionUser, memory, vcpus }).filter(([, v]) => v !== null),
  );
  return asProperties({ ...rest, ...optional, settings: settingsOf(gui, modeIn(gui)) });
}

/** Checked inputs back as a description. */
function guiOf(inputs: Properties): GuiDomain {
  const { settings: _, ...args } = inputs;
  const parsed = parseGuiDomain(String(args["qube"] ?? ""), args);
  if ("faults" in parsed)
    throw new Error(
      `the state does not describe a GUI domain: ${parsed.faults.map((f) => `${f.property}: ${f.reason}`).join("; ")}`,
    );
  return parsed.gui;
}

const packagesOf = (inputs: Properties): string[] => {
  const packages = inputs["hostPackages"];
  return Array.isArray(packages) ? packages.map(String) : [];
};

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
  const parsed = parseGuiDomain(qube, {
    host,
    display: [mode],
    clients: byDefault ? "default" : listed,
    template: of("template")?.value,
    label: of("label")?.value,
    autostart: of("autostart")?.value === "True",
    maxmem: Number(of("maxmem")?.value ?? 0),
    ...(explicit("memory") === undefined ? {} : { memory: explicit("memory") }),
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
  const hostPackages = parsed.gui.hostPackages.filter(
    (name) => valueOf(snapshot, `package:${name}`) !== null,
  );
  return { ...parsed.gui, hostPackages };
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
function stateOf({ state, evidence }: Properties, asWanted: boolean): string {
  if (state === "failed") return "failed";
  if (!asWanted) return "drifted";
  return verified({ evidence: evidence ?? [] }) ? "ready" : "unverified";
}

/** Whether the last apply has checked the result; without evidence nothing is called ready. */
const verified = ({ evidence }: Properties): boolean => Array.isArray(evidence) && evidence.length > 0;

/** Outputs that the live host tells. `state` is what is known of it while nobody is in its session. */
function outputsOf(gui: GuiDomain, snapshot: Snapshot, urn: string, state: string): Properties {
  const mode = modeIn(gui);
  const qube = snapshot.qubes[gui.qube];
  const restart = waitingForRestart(gui.qube, snapshot);
  const created = snapshot.ledger[`qube:${gui.qube}`];
  return {
    mode: state === "failed" ? "none" : mode,
    state: state === "ready" && mode === "xephyr" && qube?.session && qube.guidRunning ? "inUse" : state,
    pending: restart.length
      ? [
          {
            kind: "restart",
            qubes: restart,
            why: `their windows stay with the former GUI domain until they restart`,
          },
        ]
      : [],
    origin: created?.owner === urn && created.first === null ? "created" : "adopted",
    looked: true,
  };
}

/** Outputs of a GUI domain whose apply did not end well: never a claim that it works. */
const unfinished = (gui: GuiDomain, reason: string): Properties => ({
  mode: "none",
  state: "failed",
  attempts: [{ mode: modeIn(gui), verdict: "failed", reason }],
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
