/** The resource `guidomain:index:Access`: rules of one's own on top of a GUI domain's level, in a file of their own. Design §2, §7. */
import { policyFormulaOf } from "../formula/formula.ts";
import type { Snapshot } from "../host/protocol.ts";
import { type Access, accessFaults, accessFile, parseAccess } from "../model/access.ts";
import { Refusal, sentence } from "../model/failure.ts";
import type { Fault, GuiDomain } from "../model/guiDomain.ts";
import { standingOf } from "../plan/access.ts";
import { isNoted, type Plan, planApply, planDelete } from "../plan/changes.ts";
import { liveSettings } from "../plan/live.ts";
import { accessSettings, answersOf, reviewRules, rulesChecks } from "../plan/ownRules.ts";
import { requireQubes } from "../plan/preflight.ts";
import { sameValue } from "../plan/values.ts";
import { parseFile, renderRule } from "../policy/parse.ts";
import { ownRuleFaults } from "../policy/principal.ts";
import type { Review } from "../policy/review.ts";
import { apply } from "./applying.ts";
import { diffByPath, replacing, topLevel } from "./diff.ts";
import {
  type Context,
  type Handler,
  hasUnknown,
  knownOf,
  PartialFailure,
  type Properties,
  UNKNOWN,
  type Value,
} from "./handler.ts";
import { type ApplyRequest, type HostAccess, inTurn, lookOrSkip } from "./hosts.ts";
import { announceReview, type Reviewed } from "./reviewed.ts";

const REPLACING = ["host", "guiDomain"];
const plain = (value: object): Properties => JSON.parse(JSON.stringify(value)) as Properties;
const words = (name: string) => `Access ${name}`;
const reviewed = (name: string, host: string, qube: string | null): Reviewed => ({
  resource: words(name),
  host,
  qube,
  mend: '"rules"',
});

export function accessHandler(hosts: HostAccess): Handler {
  return inTurn(hosts, {
    async check(news, _olds, { name, urn }) {
      const { settings: _, ...args } = news;
      if (hasUnknown(args)) {
        const known = knownOf(args);
        const failures = accessFaults(known).filter((f) => known[topLevel(f.property)] !== undefined);
        return { inputs: { ...args, settings: UNKNOWN }, failures };
      }
      const parsed = parseAccess(name, args);
      if ("faults" in parsed) return { inputs: news, failures: parsed.faults };
      const { access } = parsed;
      hosts.claims.wants(urn, { host: access.host, qube: accessFile(access), keys: [] });
      const gui = hosts.claims.others(access.host, urn).find(({ qube }) => qube === access.guiDomain);
      return { inputs: described(access), failures: gui ? faultsUnder(gui, access) : [] };
    },

    async diff({ id, oldInputs, news }, { name }) {
      // A rule that is spelled otherwise says the same, and shows no difference on the host.
      const changes = replacing(diffByPath(oldInputs, news), REPLACING);
      const shown = Object.entries(changes).filter(([path]) => topLevel(path) !== "rules");
      // Of another name by now (an alias): the file of the former one goes.
      const all =
        fileOf(id) === fileOf(id, name) ? shown : [...shown, ["settings", "update-replace"] as const];
      return { changes: Object.fromEntries(all), deleteBeforeReplace: true };
    },

    async create(inputs, context) {
      // What only another resource's apply will tell leaves nothing to judge yet.
      if (context.preview && hasUnknown(inputs)) return { id: "", outputs: inputs };
      if (!context.preview) return { id: idOf(inputs, context), outputs: await bringUp(inputs, {}, context) };
      announce(await prepare(inputs, {}, context), context);
      return { id: "", outputs: inputs };
    },

    async read({ id, outputs, inputs }, context) {
      const [host = "", guiDomain = "", name = ""] = id.split("/");
      const snapshot = await lookOrSkip(hosts, host, { inputs, outputs }, context);
      if (!snapshot) return { id, outputs: { ...outputs, looked: false }, inputs };
      const imported = Object.keys(inputs).length === 0;
      const made = imported ? importedFrom(host, guiDomain, name, snapshot) : inputs;
      if (!made) return null;
      if (imported && fileOf(id) !== fileOf(id, context.name))
        throw new Refusal({
          resource: words(context.name),
          host,
          what: `its file would have another name than that of "${name}", whose rules would stay in force beside it`,
          next: `Import it under the name "${name}"`,
        });
      const access = accessOf(made, name);
      const live = liveSettings(guiDomain, accessSettings(access), snapshot);
      const asWanted = sameValue(live, accessSettings(access));
      const last = imported ? "unverified" : outputs["state"];
      const state = last === "failed" ? last : asWanted ? (last === "drifted" ? "ready" : last) : "drifted";
      return {
        id,
        inputs: { ...made, settings: { files: plain(live.files) } },
        outputs: {
          evidence: [],
          ...made,
          ...outputs,
          ...shown(access, snapshot),
          settings: { files: plain(live.files) },
          state: state ?? "unverified",
          looked: true,
          connection: hosts.connection(host),
        },
      };
    },

    async update({ oldOutputs, news }, context) {
      if (oldOutputs["looked"] === false && news["unreachable"] === "skip") return { ...oldOutputs, ...news };
      if (!context.preview) return bringUp(news, oldOutputs, context);
      const { state: _, evidence: __, policy: ___, allowed: ____, denied: _____, ...kept } = oldOutputs;
      if (!hasUnknown(news)) announce(await prepare(news, oldOutputs, context), context);
      return { ...kept, ...news };
    },

    async delete({ id, outputs }, context) {
      const [host = "", guiDomain = "", name = ""] = id.split("/");
      const { connection } = outputs;
      const snapshot = await look(host, fileOf(id), context, connection);
      const plan = planDelete(snapshot, context.urn, outputs["onDelete"] === "keep" ? "keep" : "restore");
      if (plan.release.length === 0) return; // adopted and never changed: nothing of ours is there
      const guis = hosts.claims.others(host, context.urn);
      const principal = standingOf(guiDomain, snapshot, guis);
      const review = reviewRules({ guiDomain }, principal, plan, snapshot, guis);
      announceReview(reviewed(name, host, null), review, context, true);
      await apply(
        { hosts, host, resource: words(name), context, connection },
        {
          ...requestOf({ guiDomain, name }, {}, plan),
          claims: hosts.claims.argsOf(context.urn, plan),
          owner: context.urn,
        },
      );
    },

    abandoned(request, { name, signal }) {
      const why = signal.reason instanceof Error ? signal.reason.message : "stopped";
      const inputs = request.operation === "update" ? request.news : request.inputs;
      const before =
        request.operation === "create" ? {} : "oldOutputs" in request ? request.oldOutputs : request.outputs;
      const reason = sentence({
        resource: words(name),
        host: String(inputs["host"]),
        what: why,
        changed: "The host puts back by itself what was half done, and then gives its lock back",
        next: `Run "pulumi ${request.operation === "delete" ? "destroy" : "up"}" again to go on`,
      });
      const id =
        request.operation === "create" ? `${inputs["host"]}/${inputs["guiDomain"]}/${name}` : request.id;
      return { id, outputs: { ...before, ...inputs, state: "failed", evidence: [] }, reasons: [reason] };
    },
  });

  /** The host as this access has to see it: what it had under another name is its own. */
  async function look(host: string, file: string, context: Context, stored?: Value): Promise<Snapshot> {
    const now = await hosts.snapshot(host, [], context, stored);
    return hosts.claims.seenBy(context.urn, host, file, now, false);
  }

  /** What the description means there now, and what that takes; refused where it cannot stand. */
  async function prepare(inputs: Properties, olds: Properties, context: Context) {
    const access = accessOf(inputs, context.name);
    const { host, guiDomain } = access;
    const resource = words(context.name);
    const snapshot = await look(host, accessFile(access), context, olds["connection"]);
    requireQubes(resource, host, snapshot);
    const guis = hosts.claims.others(host, context.urn);
    const principal = standingOf(guiDomain, snapshot, guis);
    const refuse = (what: string, next: string) => new Refusal({ resource, host, what, next });
    if (!principal)
      throw refuse(
        `GUI domain "${guiDomain}" has no level there, which rules of one's own stand on top of`,
        'Give that GuiDomain a "level", and the Access its qube: { guiDomain: gui.qube }',
      );
    const [fault] = ownRuleFaults(access.rules, principal);
    if (fault) throw refuse(`${fault.property}: ${fault.reason}`, 'Correct it in "rules"');
    const settings = accessSettings(access);
    const plan = planApply(guiDomain, settings, snapshot, context.urn);
    hosts.claims.claim(host, context.urn, resource, plan.touch, snapshot);
    const review = reviewRules(access, principal, plan, snapshot, guis);
    return { access, snapshot, settings, plan, review };
  }

  function announce({ access, review }: { access: Access; review: Review | null }, context: Context): void {
    announceReview(reviewed(context.name, access.host, access.guiDomain), review, context);
  }

  async function bringUp(inputs: Properties, olds: Properties, context: Context): Promise<Properties> {
    const prepared = await prepare(inputs, olds, context);
    const { access, snapshot, settings, plan } = prepared;
    const { host } = access;
    announce(prepared, context);
    const outputs = (now: Snapshot, more: Properties): Properties => ({
      ...inputs,
      ...shown(access, now),
      state: "ready",
      evidence: olds["evidence"] ?? [],
      looked: true,
      connection: hosts.connection(host),
      ...more,
    });
    const claimed = isNoted(plan, snapshot, context.urn);
    const isDone = plan.changes.length + plan.release.length === 0;
    if (claimed && isDone && olds["state"] === "ready") return outputs(snapshot, {});
    const applying = {
      hosts,
      host,
      resource: words(context.name),
      context,
      connection: olds["connection"],
      partial: (reason: string) =>
        new PartialFailure({
          id: idOf(inputs, context),
          outputs: {
            ...olds,
            ...inputs,
            ...shown(access, snapshot),
            state: "failed",
            evidence: [],
            looked: true,
          },
          reasons: [reason],
        }),
    };
    const result = await apply(applying, {
      ...requestOf(access, settings.files, plan),
      claims: hosts.claims.argsOf(context.urn, plan),
      owner: context.urn,
      verify: rulesChecks(access, settings, snapshot),
    });
    return outputs(result.snapshot, { evidence: result.evidence.map(plain) });
  }
}

function requestOf(
  { guiDomain, name }: Pick<Access, "guiDomain" | "name">,
  texts: Record<string, string>,
  { restores, touch, release, changes }: Plan,
): Omit<ApplyRequest, "owner"> {
  const title = `rules of ${guiDomain} on top of its level (${name})`;
  const formula = policyFormulaOf({ qube: guiDomain, name, title, texts, restores });
  const isNothing = changes.length + restores.length === 0;
  return {
    touch,
    release,
    shutdown: [],
    formula: isNothing ? {} : formula.files,
    sls: isNothing ? "" : formula.sls,
    verify: [],
    restart: [],
  };
}

/** Also of one that is there already and that nothing else is changed of: its level may have gone, or become a lower one. */
const faultsUnder = ({ qube, level }: GuiDomain, { rules }: Access): Fault[] =>
  level === null
    ? [
        {
          property: "guiDomain",
          reason: `"${qube}" has no "level", which rules of one's own stand on top of`,
        },
      ]
    : ownRuleFaults(rules, { qube, level });

/** The file of the access with that id, or of the same under another name. */
function fileOf(id: string, as?: string): string {
  const [, guiDomain = "", name = ""] = id.split("/");
  return accessFile({ guiDomain, name: as ?? name });
}

const idOf = (inputs: Properties, { name }: Context) => `${inputs["host"]}/${inputs["guiDomain"]}/${name}`;

function described(access: Access): Properties {
  const { host, guiDomain, rules, onDelete, unreachable } = access;
  const { files } = accessSettings(access);
  return { host, guiDomain, rules, onDelete, unreachable, settings: { files: plain(files) } };
}

function accessOf(inputs: Properties, name: string): Access {
  const { settings: _, ...args } = inputs;
  const parsed = parseAccess(name, args);
  if ("access" in parsed) return parsed.access;
  throw new Error(
    `the state does not describe an access: ${parsed.faults.map((f) => `${f.property}: ${f.reason}`).join("; ")}`,
  );
}

/** What its file says, where it is there. */
function importedFrom(host: string, guiDomain: string, name: string, snapshot: Snapshot): Properties | null {
  const file = snapshot.files[accessFile({ guiDomain, name })];
  if (!file) return null;
  const rules = parseFile("", file.content).lines.flatMap((line) =>
    line.kind === "rule" ? [renderRule(line.rule)] : [],
  );
  return { host, guiDomain, rules, onDelete: "restore", unreachable: "fail" };
}

/** Outputs that the live host tells. */
function shown(access: Access, snapshot: Snapshot): Properties {
  return { policy: snapshot.files[accessFile(access)]?.content ?? "", ...plain(answersOf(access, snapshot)) };
}
