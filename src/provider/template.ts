/** The resource `guidomain:index:Template`: what is inside a template, brought once and left alone as long as it is as wanted. */
import { templateNotesOf } from "../formula/formula.ts";
import { templateFormula } from "../formula/inside/render.ts";
import { HostError } from "../host/errors.ts";
import type { Snapshot } from "../host/protocol.ts";
import { Refusal, sentence } from "../model/failure.ts";
import { NO_SETTINGS } from "../model/settings.ts";
import { parseTemplate, TEMPLATE_MODES, type Template, templateFaults } from "../model/template.ts";
import { isNoted, type Plan, planApply, planDelete } from "../plan/changes.ts";
import {
  broughtInto,
  featuresOf,
  goneOf,
  INSIDE,
  insideArgs,
  isGiven,
  liveTemplate,
  notRestarted,
  preflightTaking,
  preflightTemplate,
  resourceOf,
  type TemplateSettings,
  type TemplateWanted,
  wantedOf,
} from "../plan/template.ts";
import { apply } from "./applying.ts";
import { diffByPath, replacing, topLevel, unlessRefused } from "./diff.ts";
import {
  type Context,
  type Handler,
  hasUnknown,
  knownOf,
  PartialFailure,
  type Properties,
  UNKNOWN,
} from "./handler.ts";
import { type ApplyRequest, type HostAccess, inTurn, lookOrSkip } from "./hosts.ts";

const REPLACING = ["host", "qube"];
/** They reach the host through `settings` alone. */
const MIRRORED = new Set(["modes", "audio", "packages"]);

const plain = (value: object): Properties => JSON.parse(JSON.stringify(value)) as Properties;

export function templateHandler(hosts: HostAccess): Handler {
  return inTurn(hosts, {
    async check(news, olds, context) {
      const { settings: _, ...args } = news;
      if (hasUnknown(args)) {
        const known = knownOf(args);
        const failures = templateFaults(known).filter((f) => known[topLevel(f.property)] !== undefined);
        return { inputs: { ...args, settings: UNKNOWN }, failures };
      }
      const parsed = parseTemplate(context.name, args);
      if ("faults" in parsed) return { inputs: news, failures: parsed.faults };
      const { template } = parsed;
      try {
        const { settings } = wantedOf(template, await hosts.snapshot(template.host, [], context));
        return { inputs: { ...plain(template), settings: plain(settings) }, failures: [] };
      } catch (error) {
        // Whoever needs the host is told: a description can be checked without it.
        if (!(error instanceof HostError || error instanceof Refusal)) throw error;
        return { inputs: { ...plain(template), settings: olds["settings"] ?? {} }, failures: [] };
      }
    },

    async diff({ oldInputs, oldOutputs, news }, context) {
      const changes = Object.fromEntries(
        Object.entries(replacing(diffByPath(oldInputs, news), REPLACING)).filter(
          ([path]) => !MIRRORED.has(topLevel(path)),
        ),
      );
      if (oldOutputs["looked"] !== false && !hasUnknown(news))
        if ((await unlessRefused(() => prepare(news, oldOutputs, context))) === null)
          changes["settings"] = "update";
      return { changes, deleteBeforeReplace: true };
    },

    async create(inputs, context) {
      if (context.preview && hasUnknown(inputs)) return { id: "", outputs: inputs };
      const ready = await prepare(inputs, {}, context);
      if (context.preview) {
        announce(ready, context);
        return { id: "", outputs: { ...inputs, settings: plain(ready.wanted.settings) } };
      }
      return { id: idOf(ready.template), outputs: await bringUp(inputs, {}, context) };
    },

    async read({ id, outputs, inputs }, context) {
      const [host = "", qube = ""] = id.split("/");
      const imported = Object.keys(inputs).length === 0;
      const snapshot = await lookOrSkip(hosts, host, { inputs, outputs }, context);
      if (!snapshot) return { id, outputs: { ...outputs, looked: false }, inputs };
      if (snapshot.qubes[qube]?.class !== "TemplateVM") return null;
      const template = imported ? importedFrom(host, qube, snapshot) : templateOf(inputs, context.name);
      let wanted: TemplateWanted;
      try {
        wanted = wantedOf(template, snapshot);
      } catch (error) {
        if (!(error instanceof Refusal)) throw error;
        context.log(error.message, { severity: "warning" });
        return { id, inputs, outputs: { ...outputs, state: "drifted", looked: true } };
      }
      const live = liveTemplate(qube, wanted.settings, lastOf(outputs), snapshot);
      const asWanted = live.digest === wanted.settings.digest;
      const { state: last } = outputs;
      const known = last === "drifted" ? "ready" : (last ?? "unverified");
      const state = last === "failed" ? "failed" : asWanted ? known : imported ? "unverified" : "drifted";
      return {
        id,
        inputs: { ...(imported ? plain(template) : inputs), settings: plain(live) },
        outputs: {
          evidence: [],
          ...plain(template),
          ...outputs,
          ...shown(template, snapshot),
          settings: plain(live),
          state,
          looked: true,
          connection: hosts.connection(host),
        },
      };
    },

    async update({ oldOutputs, news }, context) {
      if (oldOutputs["looked"] === false && news["unreachable"] === "skip") return { ...oldOutputs, ...news };
      if (!context.preview) return bringUp(news, oldOutputs, context);
      const { state: _, evidence: __, pending: ___, brought: ____, ...kept } = oldOutputs;
      if (hasUnknown(news)) return { ...kept, ...news };
      const ready = await prepare(news, oldOutputs, context);
      announce(ready, context);
      return { ...kept, ...news, settings: plain(ready.wanted.settings) };
    },

    async delete({ id, inputs, outputs }, context) {
      const [host = "", qube = ""] = id.split("/");
      const connection = outputs["connection"];
      const snapshot = await hosts.snapshot(host, [], context, connection);
      const keeps = outputs["onDelete"] === "keep";
      const plan = planDelete(snapshot, context.urn, keeps ? "keep" : "restore");
      if (plan.release.length === 0) return; // nothing of ours is there
      const { timeout } = templateOf(inputs, context.name);
      const gone = goneOf(qube, null, lastOf(outputs), snapshot);
      const any = gone.packages.length + gone.files.length + gone.units.length > 0;
      const resource = resourceOf({ qube });
      const applying = { hosts, host, resource, context, connection };
      // A template that is gone takes all of it along.
      if (keeps || !snapshot.qubes[qube] || !any) {
        await apply(applying, requestOf(context, plan, templateNotesOf(qube, null, plan.restores)));
        return;
      }
      preflightTemplate({ qube, host }, snapshot);
      preflightTaking({ qube, host }, snapshot);
      context.log(
        `template ${qube} is started, ${gone.packages.length} packages that guidomain brought are removed, and it is shut down again`,
      );
      const formula = templateFormula(qube, { packages: [], files: {}, units: {} }, gone);
      await apply(applying, {
        ...requestOf(context, plan, templateNotesOf(qube, null, plan.restores), formula),
        inside: [insideArgs({ qube, timeout }, formula.sls, null)],
      });
    },

    abandoned(request, { signal, name }) {
      const why = signal.reason instanceof Error ? signal.reason.message : "stopped";
      const inputs = request.operation === "update" ? request.news : request.inputs;
      const host = String(inputs["host"]);
      const qube = String(inputs["qube"]);
      const reason = sentence({
        resource: `Template ${name}`,
        host,
        what: why,
        changed: "The host puts back by itself what was half done, and then gives its lock back",
        next: 'Run "pulumi up" again to go on',
      });
      const before =
        request.operation === "create" ? {} : "oldOutputs" in request ? request.oldOutputs : request.outputs;
      const id = request.operation === "create" ? `${host}/${qube}` : request.id;
      return { id, outputs: { ...before, ...inputs, ...FAILED }, reasons: [reason] };
    },
  });

  /** What is wanted there, and what that takes; refused where it cannot work. */
  async function prepare(inputs: Properties, olds: Properties, context: Context) {
    const template = templateOf(inputs, context.name);
    const { host, qube } = template;
    const snapshot = await hosts.snapshot(host, [], context, olds["connection"]);
    const wanted = wantedOf(template, snapshot);
    const { digest } = wanted.settings;
    const plan = planApply(qube, featuresOf(qube, digest, snapshot), snapshot, context.urn);
    hosts.claims.claim(host, context.urn, resourceOf(template), plan.touch, snapshot);
    const isThere = isGiven(qube, digest, snapshot);
    const isDone = isThere && isNoted(plan, snapshot, context.urn);
    if (!isThere) preflightTemplate(template, snapshot);
    const gone = goneOf(qube, wanted.settings, lastOf(olds), snapshot);
    return { template, snapshot, wanted, plan, gone, isThere, isDone };
  }

  function announce({ template, wanted, gone, isThere }: Prepared, context: Context): void {
    if (isThere) return;
    const { packages, files } = wanted.inside;
    context.log(
      `template ${template.qube} is started for it and shut down again: ${packages.length} packages that are not there yet are installed, ` +
        `${Object.keys(files).length} files written${gone.packages.length ? `, and removed: ${gone.packages.join(", ")}` : ""}`,
    );
  }

  async function bringUp(inputs: Properties, olds: Properties, context: Context): Promise<Properties> {
    const ready = await prepare(inputs, olds, context);
    const { template, wanted, plan, snapshot, gone, isThere, isDone } = ready;
    const { host, qube } = template;
    announce(ready, context);
    const outputs = (now: Snapshot, more: Properties): Properties => ({
      ...inputs,
      settings: plain(wanted.settings),
      ...shown(template, now),
      state: "ready",
      evidence: olds["evidence"] ?? [],
      looked: true,
      connection: hosts.connection(host),
      ...more,
    });
    if (isDone) return outputs(snapshot, {});
    const partial = (reason: string) =>
      new PartialFailure({
        id: idOf(template),
        outputs: {
          ...olds,
          ...inputs,
          // What was put back is what was there.
          settings: olds["settings"] ?? plain(liveTemplate(qube, wanted.settings, lastOf(olds), snapshot)),
          ...FAILED,
          looked: true,
          connection: hosts.connection(host),
        },
        reasons: [reason],
      });
    // What is brought only the agent sees, once the template runs.
    const settings = { ...NO_SETTINGS, features: { [INSIDE]: wanted.settings.digest } };
    const formula = templateFormula(qube, wanted.inside, gone);
    const request = requestOf(context, plan, templateNotesOf(qube, settings, plan.restores), formula);
    const result = await apply(
      { hosts, host, resource: resourceOf(template), context, connection: olds["connection"], partial },
      // What is there already, and was only not noted, needs no run.
      isThere ? request : { ...request, inside: [insideArgs(template, formula.sls, wanted)] },
    );
    return outputs(result.snapshot, { evidence: result.evidence.map(plain) });
  }
}

type Prepared = {
  template: Template;
  wanted: TemplateWanted;
  gone: { packages: string[] };
  isThere: boolean;
};

const FAILED: Properties = { state: "failed", brought: [], pending: [], evidence: [] };

type Formula = { sls: string; files: Record<string, string> };

function requestOf(context: Context, plan: Plan, notes: Formula, inside?: Formula): ApplyRequest {
  const isNothing = plan.touch.length === 0;
  return {
    owner: context.urn,
    touch: plan.touch,
    release: plan.release,
    shutdown: [],
    formula: isNothing ? {} : { ...notes.files, ...inside?.files },
    sls: isNothing ? "" : notes.sls,
    verify: [],
    restart: [],
  };
}

const idOf = ({ host, qube }: Template) => `${host}/${qube}`;

function templateOf(inputs: Properties, name: string): Template {
  const { settings: _, ...args } = inputs;
  const parsed = parseTemplate(name, args);
  if ("faults" in parsed)
    throw new Error(
      `the state does not describe a template: ${parsed.faults.map((f) => `${f.property}: ${f.reason}`).join("; ")}`,
    );
  return parsed.template;
}

/** What the state says that it was last given. */
function lastOf({ settings }: Properties): TemplateSettings | null {
  if (typeof settings !== "object" || settings === null || Array.isArray(settings)) return null;
  const { files, packages, units } = settings;
  return files && packages && units ? (settings as unknown as TemplateSettings) : null;
}

/** Outputs that the live host tells. */
function shown({ qube }: Template, snapshot: Snapshot): Properties {
  const waiting = notRestarted(qube, snapshot);
  const why = `they have the template as it was when they started`;
  return {
    brought: broughtInto(qube, snapshot),
    pending: waiting.length ? [{ kind: "restart", qubes: waiting, why }] : [],
  };
}

/** The description whose inside is the one that was noted, where one without more packages is. */
function importedFrom(host: string, qube: string, snapshot: Snapshot): Template {
  const noted = snapshot.qubes[qube]?.features[INSIDE];
  const sets = TEMPLATE_MODES.reduce<string[][]>(
    (all, mode) => all.flatMap((modes) => [modes, [...modes, mode]]),
    [[]],
  );
  const asked = (modes: string[], audio: boolean) => parseTemplate(qube, { host, qube, modes, audio });
  for (const modes of sets)
    for (const audio of [false, true]) {
      const parsed = asked(modes, audio);
      if ("faults" in parsed) continue;
      if (noted !== undefined && wantedOf(parsed.template, snapshot).settings.digest === noted)
        return parsed.template;
    }
  const parsed = asked(["xephyr"], false);
  if ("faults" in parsed) throw new Error(parsed.faults.map((fault) => fault.reason).join("; "));
  return parsed.template;
}
