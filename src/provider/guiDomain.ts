/** The resource `guidomain:index:GuiDomain`: Pulumi's calls → plan, formula and applies on the host. Design §4, §5. */
import { settingsOf } from "../formula/settings.ts";
import { HostError } from "../host/errors.ts";
import type { Snapshot } from "../host/protocol.ts";
import { Refusal, sentence } from "../model/failure.ts";
import {
  allPackages,
  contestedBy,
  type GuiDomain,
  parseGuiDomain,
  programFaults,
} from "../model/guiDomain.ts";
import { NO_SETTINGS, type Settings } from "../model/settings.ts";
import { preflightAccess, reviewOf } from "../plan/access.ts";
import { isForGood, ownedBy, type Plan, planDelete } from "../plan/changes.ts";
import { preflightInput } from "../plan/input.ts";
import { liveSettings } from "../plan/live.ts";
import {
  inForce,
  preflight,
  preflightDelete,
  preflightRemoval,
  preflightRestore,
} from "../plan/preflight.ts";
import { decide } from "../plan/rungs.ts";
import { partsOf, sameValue } from "../plan/values.ts";
import { apply } from "./applying.ts";
import { announce, announceRights, bringUp, placed } from "./climb.ts";
import { diffByPath, formatPath, replacing, topLevel, unlessRefused } from "./diff.ts";
import {
  adopted,
  asProperties,
  asValue,
  bootNotice,
  described,
  guiOf,
  idOf,
  knownFailures,
  memoryOf,
  modeIn,
  outcomeText,
  outputsOf,
  packagesOf,
  rescuedOutputs,
  SETTLED,
  screensOf,
  stateOf,
  unfinished,
  wantedNow,
  withoutQube,
} from "./guiDomainState.ts";
import {
  type Changes,
  type Context,
  type DeleteRequest,
  type Handler,
  hasUnknown,
  knownOf,
  type Properties,
  UNKNOWN,
  unknownOf,
  type Value,
} from "./handler.ts";
import { type HostAccess, inTurn, lookOrSkip } from "./hosts.ts";
import { widerText } from "./reviewed.ts";
import { takeAwayRequest } from "./rungRequest.ts";

/** Arguments that reach the host through `settings` alone: a difference shows there, once. */
const MIRRORED = new Set([
  "apps",
  "audiovm",
  "autostart",
  "clients",
  "domain",
  "gpu",
  "hostPackages",
  "input",
  "label",
  "login",
  "maxmem",
  "memory",
  "power",
  "remote",
  "rules",
  "session",
  "sessionUser",
  "suspend",
  "template",
  "vcpus",
  "viewers",
  // Not an argument: what a read has learnt, on its way to the check of the same run.
  "remembered",
]);

/** Another host or another qube is another GUI domain. */
const REPLACING = ["host", "qube"];

export function guiDomainHandler(hosts: HostAccess): Handler {
  return inTurn(hosts, {
    async check(news, olds, context) {
      const { settings: _, remembered: __, ...args } = news;
      if (hasUnknown(args)) {
        // Whom it will show may be known all the same, and counts for the others' rights.
        const parsed = parseGuiDomain(context.name, knownOf(args));
        if ("gui" in parsed) note(parsed.gui, hasUnknown(args["clients"]), context);
        // With the defaults: an argument that is left out has not changed.
        const filled = "gui" in parsed ? { ...described(parsed.gui), ...unknownOf(args) } : args;
        return { inputs: { ...filled, settings: UNKNOWN }, failures: knownFailures(args) };
      }
      const parsed = parseGuiDomain(context.name, args);
      if ("faults" in parsed) return { inputs: news, failures: parsed.faults };
      const { gui } = parsed;
      const failures = programFaults(gui);
      if (failures.length) return { inputs: news, failures };
      note(gui, false, context);
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
      let removals: string[] = [];
      let isRefused = false;
      if (looks) {
        const gui = guiOf(news);
        const snapshot = await look(gui, context, oldOutputs["connection"]);
        const memory = memoryOf(news, gui, snapshot, context.urn);
        const announced = await unlessRefused(() => announce({ hosts, gui, context }, snapshot, memory));
        isRefused = announced === null;
        wanted = announced?.decision.wanted;
        // A package that an earlier run could not remove. What another mode does away with is that mode's change.
        if (announced?.plan && announced.decision.target === oldOutputs["mode"])
          removals = announced.plan.restores.flatMap((restore) => {
            if (isForGood(restore)) return [formatPath(["settings", "packages", partsOf(restore.key).name])];
            // What was left for another, which never came for it.
            const path = pathOfContested(restore.key, gui.qube);
            return path ? [formatPath(["settings", ...path])] : [];
          });
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
      if (isRefused) changes["settings"] = "update";
      for (const path of removals) changes[path] ??= "delete";
      return { changes, deleteBeforeReplace: true };
    },

    async create(inputs, context) {
      if (context.preview && hasUnknown(inputs)) {
        await foresee(inputs, context);
        return { id: "", outputs: inputs };
      }
      const gui = guiOf(inputs);
      if (context.preview) {
        const snapshot = await look(gui, context);
        announce({ hosts, gui, context }, snapshot, memoryOf(inputs, gui, snapshot, context.urn));
        return { id: "", outputs: inputs };
      }
      return { id: idOf(gui), outputs: await bringUp({ hosts, gui, context }, inputs, {}) };
    },

    async read({ id, outputs, inputs }, context) {
      const [host = "", qube = ""] = id.split("/");
      const imported = Object.keys(inputs).length === 0;
      const seen = await lookOrSkip(
        hosts,
        host,
        { inputs, outputs },
        context,
        imported ? [] : packagesOf(inputs),
      );
      if (!seen) return { id, outputs: { ...outputs, looked: false }, inputs };
      const gui = imported && seen.qubes[qube] ? adopted(host, qube, seen) : null;
      const snapshot = hosts.claims.seenBy(context.urn, host, qube, seen);
      const outcome = snapshot.outcome?.owner === context.urn ? snapshot.outcome : null;
      // Where only some of it could be removed, or the qube went by hand, the rest is still this resource's.
      const isOurs = outcome || withoutQube(outputs) || ownedBy(snapshot, context.urn).length > 0;
      if (!snapshot.qubes[qube] && (imported || !isOurs)) return null;
      return found(placed({ hosts, gui: gui ?? guiOf(inputs), context }, snapshot), gui !== null);

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
        const now = outputsOf(
          gui,
          snapshot,
          context.urn,
          isRescued ? "rescued" : state,
          modeIn(gui, outputs, snapshot),
          waitsFor,
        );
        const { wider = [] } = (now["rights"] ?? {}) as { wider?: string[] };
        if (wider.length) context.log(widerText(qube, wider), { severity: "warning" });
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
            ...now,
            ...(isRescued && rescuedOutputs(outcome, inForce(qube, snapshot), kept)),
            connection: hosts.connection(host),
          },
        };
      }
    },

    async update({ oldOutputs, news }, context) {
      if (oldOutputs["looked"] === false && news["unreachable"] === "skip") return { ...oldOutputs, ...news };
      if (context.preview) {
        if (hasUnknown(news)) await foresee(news, context);
        else {
          const gui = guiOf(news);
          const snapshot = await look(gui, context, oldOutputs["connection"]);
          const memory = memoryOf({ ...news, ...oldOutputs }, gui, snapshot, context.urn);
          announce({ hosts, gui, context }, snapshot, memory);
        }
        // What an apply decides anew is left out, and so unknown; the rest stays what it is for those who depend on it.
        const {
          mode: _,
          state: __,
          attempts: ___,
          evidence: ____,
          pending: _____,
          rights: ______,
          ...kept
        } = oldOutputs;
        return { ...kept, ...news };
      }
      return bringUp({ hosts, gui: guiOf(news), context }, news, oldOutputs);
    },

    delete: takeAway,

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
  });

  /** What the others of this program have to know of it. */
  function note(gui: GuiDomain, anyClients: boolean, { urn }: Context): void {
    const { host, qube } = gui;
    hosts.claims.describe(urn, gui);
    const own = [`property:${qube}:guivm`, `property:${qube}:audiovm`];
    hosts.claims.wants(urn, { host, qube, keys: anyClients ? null : [...contestedBy(gui), ...own] });
  }

  async function look(gui: GuiDomain, context: Context, stored?: Value): Promise<Snapshot> {
    const now = await hosts.snapshot(gui.host, allPackages(gui), context, stored);
    return hosts.claims.seenBy(context.urn, gui.host, gui.qube, now);
  }

  async function takeAway({ id, inputs, outputs }: DeleteRequest, context: Context): Promise<void> {
    const [host = "", qube = ""] = id.split("/");
    const resource = `GUI domain ${qube}`;
    const now = await hosts.snapshot(host, packagesOf(inputs), context, outputs["connection"]);
    const snapshot = hosts.claims.seenBy(context.urn, host, qube, now, false);
    const onDelete = outputs["onDelete"] === "keep" ? "keep" : "restore";
    const plan = planDelete(snapshot, context.urn, onDelete);
    if (plan.release.length === 0) return; // adopted and never changed: nothing of ours is there
    if (hosts.claims.isRenamed(context.urn, host, qube)) return; // it goes on under another name
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
    if (!boots) preflightRestore(resource, host, qube, plan, snapshot);
    if (removes) preflightRemoval(resource, host, qube, plan, snapshot);
    const review = reviewOf(qube, null, plan, snapshot, hosts.claims.others(host, context.urn));
    // A qube that goes has no rights to tell of.
    const gui = guiOf(inputs);
    announceRights(gui, review, context, !removes);
    if (onDelete === "restore" && plan.restores.length) {
      context.log(describeDelete(qube, plan, removes));
      if (boots) context.log(...bootNotice(snapshot));
    }
    const request = takeAwayRequest(
      qube,
      String(outputs["mode"] ?? "xephyr"),
      plan,
      snapshot,
      boots ? { seconds: gui.limits.boot, gui, lit: screensOf(outputs) } : null,
    );
    const applying = { hosts, host, resource, context, connection: outputs["connection"] };
    const claims = hosts.claims.argsOf(context.urn, plan);
    await apply(applying, { ...request, claims, owner: context.urn });
  }

  /**
   * Refuses beforehand what cannot be, as far as that is known: what only another resource's apply will tell leaves the rest to judge.
   * Only where that is who has its sound, so that no default stands for what will be given.
   */
  async function foresee(inputs: Properties, context: Context): Promise<void> {
    const { settings: _, audiovm: __, ...args } = inputs;
    if (hasUnknown(args)) return;
    const gui = guiOf(args);
    const snapshot = await look(gui, context);
    const among = placed({ hosts, gui, context }, snapshot);
    const others = hosts.claims.others(gui.host, context.urn);
    const isComing = (qube: string) => hosts.claims.has(gui.host, `qube:${qube}`);
    preflight(among, snapshot, isComing);
    preflightInput(among, snapshot);
    preflightAccess(among, snapshot, others);
  }

  /** What the description comes to on this host; which rung that is only the host can tell, unless there is no choice. */
  async function settingsFor(gui: GuiDomain, olds: Properties, context: Context): Promise<Settings> {
    const [first = "xephyr"] = gui.display;
    const before = olds["settings"] as Settings | undefined;
    const hasDisplay = Object.keys(before?.bootArguments ?? {}).length > 0;
    const alone = gui.level === null && contestedBy(gui).length === 0;
    if (gui.display.length === 1 && first !== "gpu" && !hasDisplay && alone) return settingsOf(gui, first);
    try {
      const snapshot = await look(gui, context);
      const memory = memoryOf(olds, gui, snapshot, context.urn);
      const among = placed({ hosts, gui, context }, snapshot);
      return decide(among, snapshot, context.urn, memory).wanted ?? before ?? settingsOf(among, first);
    } catch (error) {
      // Whoever needs the host is told; a description can be checked without it.
      if (error instanceof HostError) return before ?? settingsOf(gui, first);
      throw error;
    }
  }
}

/** Where the settings of `qube` have what others may want as well. */
function pathOfContested(key: string, qube: string): string[] | null {
  const { kind, of, name } = partsOf(key);
  if (kind === "global") return ["globals", name];
  return kind === "property" && name === "guivm" && of !== qube ? ["clients", of] : null;
}

function describeDelete(qube: string, plan: Plan, removes: boolean): string {
  const rest = plan.restores.length - (removes ? 1 : 0);
  return removes
    ? `qube ${qube} is removed with its private volume (it was created here); ${rest} other values go back to what they were`
    : `qube ${qube} was there before and stays; ${rest} values go back to what they were`;
}
