/** The resource `guidomain:index:AudioDomain`: Pulumi's calls → plan, formula and one apply on the host. Design §4, §6. */
import { audioSettingsOf, stockAudioPolicy, withoutClients } from "../formula/audioSettings.ts";
import { formulaOf } from "../formula/formula.ts";
import { AgentFailure, HostError } from "../host/errors.ts";
import type { Evidence, Snapshot } from "../host/protocol.ts";
import { type AudioDomain, audioFaults, parseAudioDomain, soundContestedBy } from "../model/audioDomain.ts";
import { Refusal, sentence } from "../model/failure.ts";
import { NO_SETTINGS, type Settings } from "../model/settings.ts";
import { reached } from "../pci/identity.ts";
import { siblings } from "../pci/siblings.ts";
import { describe, isAudio, isUsb, pciTree } from "../pci/tree.ts";
import {
  type AudioDecision,
  audioChecks,
  audioWords,
  decideAudio,
  inForce,
  isFixed,
  isOfHardware,
  isSilent,
  otherPurpose,
  pairingWaits,
  preflightSilence,
  type RememberedSound,
  type Stream,
  soundKey,
  soundOf,
  streamsNow,
  streamsOf,
  usbWaits,
  waitingForSound,
} from "../plan/audio.ts";
import { isNoted, ownedBy, type Plan, planApply, planDelete, type Restore } from "../plan/changes.ts";
import { appliedSettings, liveSettings } from "../plan/live.ts";
import { partsOf, sameValue } from "../plan/values.ts";
import { audioPolicy } from "../policy/levels.ts";
import { rulesOf } from "../policy/rules.ts";
import { applyFailure, stillThere, whatOf } from "./applyFailure.ts";
import { apply, leftOf } from "./applying.ts";
import { pendingClaims, wantedBy } from "./claims.ts";
import { diffByPath, formatPath, replacing, topLevel } from "./diff.ts";
import { asProperties, asValue } from "./guiDomainState.ts";
import {
  type Changes,
  type Context,
  type Handler,
  hasUnknown,
  knownOf,
  PartialFailure,
  type Properties,
  UNKNOWN,
  unknownOf,
  type Value,
} from "./handler.ts";
import { type ApplyRequest, type HostAccess, inTurn, lookOrSkip } from "./hosts.ts";
import { parted, platformIn } from "./rungRequest.ts";

const REPLACING = ["host", "qube"];

/** Arguments that reach the host through `settings` alone: a difference shows there, once. */
const MIRRORED = new Set([
  "autostart",
  "bluetooth",
  "clients",
  "devices",
  "domain",
  "emulated",
  "label",
  "memory",
  "microphone",
  "template",
  "usb",
  "vcpus",
  // Not an argument: what a read has learnt, on its way to the check of the same run.
  "remembered",
]);

export function audioDomainHandler(hosts: HostAccess): Handler {
  return inTurn(hosts, {
    async check(news, olds, context) {
      const { settings: _, remembered: __, ...args } = news;
      if (hasUnknown(args)) {
        const known = knownOf(args);
        const failures = audioFaults(known).filter((f) => known[topLevel(f.property)] !== undefined);
        const parsed = parseAudioDomain(context.name, known);
        // With the defaults: an argument that is left out has not changed.
        const filled = "audio" in parsed ? { ...described(parsed.audio), ...unknownOf(args) } : args;
        if ("audio" in parsed)
          note(parsed.audio, hasUnknown(args["clients"]) || hasUnknown(args["emulated"]), context);
        return { inputs: { ...filled, settings: UNKNOWN }, failures };
      }
      const parsed = parseAudioDomain(context.name, args);
      if ("faults" in parsed) return { inputs: news, failures: parsed.faults };
      const { audio } = parsed;
      note(audio, false, context);
      const { remembered } = olds;
      const learnt = remembered === undefined ? {} : { remembered };
      let settings: Settings;
      try {
        const snapshot = await look(audio, context);
        const among = placed(audio, snapshot, context);
        settings = decideAudio(among, snapshot, context.urn, memoryOf(olds), coming(audio.host)).wanted;
      } catch (error) {
        // Whoever needs the host is told: a description can be checked without it.
        if (!(error instanceof HostError || error instanceof Refusal)) throw error;
        settings = (olds["settings"] as Settings | undefined) ?? audioSettingsOf(audio, {});
      }
      return {
        inputs: { ...described(audio), settings: asProperties(settings), ...learnt },
        failures: [],
      };
    },

    async diff({ oldInputs, oldOutputs, news }, context) {
      const looks = !hasUnknown(news) && oldOutputs["looked"] !== false;
      let wanted: Settings | undefined;
      let missing: Changes = {};
      const changes: Changes = {};
      let left: string[] = [];
      if (looks) {
        const audio = audioOf(news);
        const snapshot = await look(audio, context, oldOutputs["connection"]);
        try {
          const decision = prepare(audio, snapshot, memoryOf(news), context);
          ({ wanted } = decision);
          // What was left for another, which never came for it.
          if (decision.target === "audio") left = decision.plan.restores.flatMap(pathOfContested);
          const live = liveSettings(audio.qube, wanted, snapshot);
          missing = diffByPath({ settings: asProperties(live) }, { settings: asProperties(wanted) });
        } catch (error) {
          // A refresh asks too, and it refuses nothing; the update that follows is refused, in the preview already.
          if (!(error instanceof Refusal)) throw error;
          changes["settings"] = "update";
        }
      }
      const settings = wanted ? asProperties(wanted) : looks ? oldInputs["settings"] : news["settings"];
      const now = settings === undefined ? news : { ...news, settings };
      for (const [path, kind] of Object.entries(replacing(diffByPath(oldInputs, now), REPLACING)))
        if (!MIRRORED.has(topLevel(path))) changes[path] = kind;
      // What the host has already, in the words of another description, is no change.
      if (wanted)
        for (const [path, kind] of Object.entries(changes))
          if (topLevel(path) === "settings" && kind !== "delete" && !(path in missing)) delete changes[path];
      for (const path of left) changes[path] ??= "delete";
      return { changes, deleteBeforeReplace: true };
    },

    async create(inputs, context) {
      // What only another resource's apply will tell leaves nothing to judge yet.
      if (context.preview && hasUnknown(inputs)) return { id: "", outputs: inputs };
      const audio = audioOf(inputs);
      if (!context.preview) return { id: idOf(audio), outputs: await bringUp(audio, inputs, {}, context) };
      const snapshot = await look(audio, context);
      announce(audio, snapshot, prepare(audio, snapshot, memoryOf(inputs), context), context);
      return { id: "", outputs: inputs };
    },

    async read({ id, outputs, inputs }, context) {
      const [host = "", qube = ""] = id.split("/");
      const imported = Object.keys(inputs).length === 0;
      const backends = imported ? [] : usbQubes(audioOf(inputs));
      const seen = await lookOrSkip(hosts, host, { inputs, outputs }, context, [], backends);
      if (!seen) return { id, outputs: { ...outputs, looked: false }, inputs };
      const snapshot = hosts.claims.seenBy(context.urn, host, qube, seen);
      const isThere = snapshot.qubes[qube] !== undefined;
      // Where only some of it could be removed, the rest is still this resource's.
      const isOurs = outputs["state"] === "fallback" || ownedBy(snapshot, context.urn).length > 0;
      if (!isThere && (imported || !isOurs)) return null;
      const found = imported ? adopted(host, qube, snapshot, context.urn) : audioOf(inputs);
      const audio = placed(found, snapshot, context);
      const memory = memoryOf({ ...inputs, ...outputs });
      let wanted: Settings | null = null;
      let why = "";
      try {
        wanted = wantedNow(audio, snapshot, outputs, decideAudio(audio, snapshot, context.urn, memory));
      } catch (error) {
        if (!(error instanceof Refusal)) throw error;
        // Whoever wants it is refused with that reason; until then what was made stays.
        why = error.message;
        context.log(why, { severity: "warning" });
      }
      const { remembered: _, ...rest } = imported ? described(audio) : inputs;
      const learnt = memory ? { remembered: asValue(memory) } : {};
      const { remembered: __, ...kept } = outputs;
      const live = wanted && liveSettings(qube, wanted, snapshot);
      const settings = live ? asProperties(live) : (inputs["settings"] ?? asProperties(NO_SETTINGS));
      return {
        id,
        inputs: { ...rest, ...learnt, settings },
        outputs: {
          attempts: [],
          evidence: [],
          streams: [],
          ...rest,
          ...kept,
          ...learnt,
          settings,
          ...outputsOf(
            audio,
            snapshot,
            context.urn,
            stateOf(outputs, live !== null && sameValue(live, wanted)),
            {
              streams: streamsIn(outputs),
              silent: isSilent(evidenceOf(outputs)),
              waits: pairingWaits(evidenceOf(outputs)),
            },
          ),
          connection: hosts.connection(host),
        },
      };
    },

    async update({ oldOutputs, news }, context) {
      if (oldOutputs["looked"] === false && news["unreachable"] === "skip") return { ...oldOutputs, ...news };
      if (!context.preview) return bringUp(audioOf(news), news, oldOutputs, context);
      if (!hasUnknown(news)) {
        const audio = audioOf(news);
        const snapshot = await look(audio, context, oldOutputs["connection"]);
        const memory = memoryOf({ ...news, ...oldOutputs });
        announce(audio, snapshot, prepare(audio, snapshot, memory, context), context);
      }
      const { sound: _, state: __, attempts: ___, evidence: ____, pending: _____, ...kept } = oldOutputs;
      return { ...kept, ...news };
    },

    async delete({ id, outputs }, context) {
      const [host = "", qube = ""] = id.split("/");
      const resource = audioWords({ qube });
      const connection = outputs["connection"];
      const now = await hosts.snapshot(host, [], context, connection);
      const snapshot = hosts.claims.seenBy(context.urn, host, qube, now, false);
      const onDelete = outputs["onDelete"] === "keep" ? "keep" : "restore";
      const plan = planDelete(snapshot, context.urn, onDelete);
      if (plan.release.length === 0) return; // never brought up, or adopted and never changed
      if (hosts.claims.isRenamed(context.urn, host, qube)) return; // it goes on under another name
      if (removes(qube, plan)) preflightSilence(resource, host, qube, plan, snapshot);
      if (onDelete === "restore" && plan.restores.length) context.log(describeDelete(qube, plan));
      const claims = hosts.claims.argsOf(context.urn, plan);
      await apply(
        { hosts, host, resource, context, connection },
        { ...takeAwayRequest(qube, plan, snapshot), claims, owner: context.urn },
      );
    },

    abandoned(request, { signal }) {
      const why = signal.reason instanceof Error ? signal.reason.message : "stopped";
      const id = request.operation === "create" ? idOf(audioOf(request.inputs)) : request.id;
      const [host = "", qube = ""] = id.split("/");
      const reasons = [
        sentence({
          resource: audioWords({ qube }),
          host,
          what: why,
          changed: "The host puts back by itself what was half done, and then gives its lock back",
          next: `Run "pulumi ${request.operation === "delete" ? "destroy" : "up"}" again to go on`,
        }),
      ];
      if (request.operation === "delete") return { id, outputs: request.outputs, reasons };
      const inputs = request.operation === "create" ? request.inputs : request.news;
      const before = request.operation === "update" ? request.oldOutputs : {};
      return { id, outputs: { ...before, ...inputs, ...unfinished(reasons[0] ?? "") }, reasons };
    },
  });

  /** What the others of this program have to know of it. */
  function note(audio: AudioDomain, anyClients: boolean, { urn }: Context): void {
    const { host, qube } = audio;
    hosts.claims.wants(urn, { host, qube, keys: anyClients ? null : soundContestedBy(audio) });
  }

  /** With what is plugged into the USB qubes that it names. */
  async function look(audio: AudioDomain, context: Context, stored?: Value): Promise<Snapshot> {
    const now = await hosts.snapshotWithUsb(audio.host, usbQubes(audio), context, stored);
    return hosts.claims.seenBy(context.urn, audio.host, audio.qube, now);
  }

  /** The description among the others that want what it wants. */
  function placed(audio: AudioDomain, snapshot: Snapshot, { urn }: Context, acts = false): AudioDomain {
    const behind = hosts.claims.standing(urn, audio.host, soundContestedBy(audio), snapshot, acts);
    return behind.length ? { ...audio, behind } : audio;
  }

  /** Whether this program makes that qube on that host: it is not there yet, and will be. */
  function coming(host: string): (qube: string) => boolean {
    return (qube) => hosts.claims.has(host, `qube:${qube}`);
  }

  /** What is done next, claimed before anything is touched. */
  function prepare(
    described: AudioDomain,
    snapshot: Snapshot,
    memory: RememberedSound | null,
    context: Context,
    acts = false,
  ): AudioDecision & { plan: Plan; audio: AudioDomain } {
    const audio = placed(described, snapshot, context, acts);
    const decision = decideAudio(audio, snapshot, context.urn, memory, coming(audio.host));
    const { wanted } = decision;
    const plan =
      decision.target === "before"
        ? planDelete(snapshot, context.urn, "restore")
        : planApply(audio.qube, wanted, snapshot, context.urn);
    const given = [
      ...Object.values(wanted.devices).map((device) => `given:${device.port}`),
      ...decision.places.map((place) => `given-usb:${place}`),
    ];
    // Also what waits for a start, or stayed where it was: two that want one client differ all the same.
    const contested = soundContestedBy(audio);
    const keys = [...new Set([...wantedBy(plan), ...given, ...contested])];
    if (acts || context.preview || hosts.claims.knows(context.urn))
      hosts.claims.claim(audio.host, context.urn, audioWords(audio), keys, snapshot);
    return { ...decision, plan, audio };
  }

  function announce(
    audio: AudioDomain,
    snapshot: Snapshot,
    { target, reason, notices, startsAnew, plan }: AudioDecision & { plan: Plan },
    context: Context,
  ): void {
    for (const text of hosts.claims.waitTexts(context.urn)) context.log(text, WARNING);
    if (!context.preview || plan.changes.length + plan.restores.length === 0) {
      if (context.preview && target === "before") context.log(staysText(audio, snapshot, reason), WARNING);
      return;
    }
    for (const { text, severity } of notices) context.log(text, { severity });
    if (target === "staged") context.log(`its clients wait: ${reason}`, WARNING);
    if (target === "before") context.log(staysText(audio, snapshot, reason), WARNING);
    if (startsAnew) context.log(`qube ${audio.qube} starts anew; nobody's sound goes through it now`);
  }

  async function bringUp(
    audio: AudioDomain,
    { remembered: _, ...inputs }: Properties,
    olds: Properties,
    context: Context,
  ): Promise<Properties> {
    const resource = audioWords(audio);
    const { host, qube } = audio;
    const connection = olds["connection"];
    const snapshot = await look(audio, context, connection);
    const wasUp = inForce(audio, snapshot, context.urn);
    const decision = prepare(audio, snapshot, memoryOf({ ...inputs, ...olds }), context, true);
    const { target, wanted, plan, reason, functions } = decision;
    announce(audio, snapshot, decision, context);

    const outputs = (
      now: Snapshot,
      state: string,
      verdict: string,
      evidence: readonly Evidence[],
      more: Properties = {},
    ): Properties => ({
      ...inputs,
      settings: asProperties(wanted),
      attempts: [{ mode: "audio", verdict, reason: reason ?? "", ...more }],
      evidence: asValue(evidence),
      connection: hosts.connection(host),
      ...outputsOf(audio, now, context.urn, state, {
        streams: evidence === evidenceOf(olds) ? streamsIn(olds) : streamsOf(audio, evidence, now),
        silent: isSilent(evidence),
        waits: pairingWaits(evidence),
      }),
    });
    const partial = (why: string, kept: Properties) =>
      new PartialFailure({ id: idOf(audio), outputs: kept, reasons: [why] });
    const failed = (why: string) =>
      partial(why, { ...olds, ...inputs, ...unfinished(why), connection: hosts.connection(host) });

    /** The sound stays where it was: no error, unless the program says so. */
    const stays = (now: Snapshot, why: string, learnt: RememberedSound | null, verdict: string) => {
      const kept: Properties = {
        ...outputs(now, "fallback", verdict, learnt?.evidence ?? []),
        settings: asProperties(NO_SETTINGS),
        attempts: asValue([
          { mode: "audio", verdict, reason: why, ...(learnt && { evidence: learnt.evidence }) },
          { mode: "before", verdict: "ok", reason: "" },
        ]),
        ...(learnt && { remembered: asValue(learnt) }),
      };
      if (audio.onFallback === "fail")
        throw partial(
          sentence({
            resource,
            host,
            what: `its sound stays with "${soundOf(audio, now)}", and onFallback is "fail": ${why}`,
            changed: "The host is as it was before",
            next: 'Mend that and change "retry", or set onFallback to "warn" or "accept"',
          }),
          kept,
        );
      if (audio.onFallback === "warn") context.log(staysText(audio, now, why), WARNING);
      return kept;
    };

    const waiting =
      audio.restartClients === "allowed"
        ? waitingForSound(
            audio,
            snapshot,
            streamsIn(olds).map((s) => s.client),
          )
        : [];
    const claimed = isNoted(plan, snapshot, context.urn);
    const claims = hosts.claims.argsOf(context.urn, plan);
    const seen = (now: Snapshot) => hosts.claims.seenBy(context.urn, host, qube, now);
    const isDone =
      claimed &&
      plan.changes.length + plan.release.length + waiting.length === 0 &&
      (target === "before" || (hasEvidence(olds) && olds["state"] !== "failed"));
    if (target === "before") {
      let now = snapshot;
      if (!isDone) {
        if (removes(qube, plan)) preflightSilence(resource, host, qube, plan, snapshot);
        const request = { ...takeAwayRequest(qube, plan, snapshot), claims, owner: context.urn };
        const applying = { hosts, host, resource, context, connection, partial: failed };
        now = seen((await apply(applying, request)).snapshot);
      }
      return stays(now, reason ?? "", decision.remembered, decision.remembered ? "failed" : "refused");
    }
    const state = target === "staged" ? "staged" : "ready";
    const verdict = target === "staged" ? "staged" : "ok";
    // Evidence of a staged one is not that of one in force.
    if (isDone && (target === "staged") === (olds["state"] === "staged"))
      return outputs(snapshot, state, verdict, evidenceOf(olds));

    const request = applyRequest(decision.audio, decision, snapshot, waiting);
    try {
      const made = await hosts.apply(host, { ...request, claims, owner: context.urn }, context, connection);
      const result = { ...made, snapshot: seen(made.snapshot) };
      const left = planApply(qube, wanted, result.snapshot, context.urn).changes;
      if (left.length)
        throw partial(
          sentence({
            resource,
            host,
            what: `the host does not have what was applied: ${left.map((c) => c.wish.key).join(", ")}`,
            changed: "The rest was applied and is kept",
            next: 'Look for who else changes them, then run "pulumi up" again',
          }),
          outputs(result.snapshot, "drifted", verdict, result.evidence),
        );
      const still = leftOf(request.after?.keys ?? [], context.urn, result);
      if (still.length)
        throw partial(
          stillThere(still, resource, host),
          outputs(result.snapshot, state, verdict, result.evidence),
        );
      if (target === "staged") context.log(`its clients wait: ${reason}`, WARNING);
      return outputs(result.snapshot, state, verdict, result.evidence);
    } catch (error) {
      if (error instanceof Refusal || error instanceof PartialFailure) throw error;
      const broken = wasUp || target === "staged" ? null : ofThisHardware(error);
      if (!broken) throw failed(applyFailure(error, resource, host));
      const now = await look(audio, context, connection);
      const names = [...functions.map(describe), ...decision.headsets.map((ids) => `USB ${ids}`)].join("; ");
      const why = names ? `${broken.why} (it had been given ${names})` : broken.why;
      return stays(
        now,
        why,
        { reason: why, key: soundKey(audio, snapshot), evidence: broken.evidence },
        "failed",
      );
    }
  }
}

/** Those of which a look has to say what is plugged in. */
const usbQubes = ({ usb }: AudioDomain): string[] => usb.map(({ qube }) => qube);

const WARNING = { severity: "warning" } as const;

/** Seconds that a change may wait for its confirmation. */
const LIVE = 180;

function applyRequest(
  audio: AudioDomain,
  { target, wanted, startsAnew, functions, headsets, plan }: AudioDecision & { plan: Plan },
  snapshot: Snapshot,
  waiting: string[],
): Omit<ApplyRequest, "owner"> {
  const { qube } = audio;
  const platform = platformIn(snapshot);
  const { now, touch, release, after } = parted(platform, qube, plan, "audio");
  const settings = appliedSettings(qube, wanted, snapshot);
  const formula = formulaOf({ platform, qube, part: "audio", mode: target, settings, restores: now });
  // A client that runs and cannot be told of its new audio domain.
  const fixed = soundClients(audio, plan).filter((name) => {
    const client = snapshot.qubes[name];
    return client?.state === "Running" && isFixed(client, snapshot);
  });
  return {
    touch,
    release,
    after,
    restart: audio.restartClients === "allowed" ? [...new Set([...waiting, ...fixed])].sort() : [],
    shutdown: startsAnew ? [qube] : [],
    formula: formula.files,
    sls: formula.sls,
    verify: audioChecks(
      audio,
      snapshot,
      Object.keys(settings.files),
      target === "audio" ? functions : null,
      headsets,
    ),
    trial: { seconds: LIVE, boot: null, watch: null },
  };
}

/** Clients that this change moves. */
const soundClients = (audio: AudioDomain, { changes }: Plan): string[] =>
  audio.clients === "default"
    ? []
    : audio.clients.filter((name) => changes.some(({ wish }) => wish.key === `property:${name}:audiovm`));

function takeAwayRequest(qube: string, plan: Plan, snapshot: Snapshot): Omit<ApplyRequest, "owner"> {
  const platform = platformIn(snapshot);
  const { now, touch, release, after } = parted(platform, qube, plan, "audio");
  const formula = formulaOf({ platform, qube, part: "audio", mode: "", settings: null, restores: now });
  const any = now.length > 0;
  return {
    touch,
    release,
    after,
    restart: [],
    // Whether it runs is seen when its turn comes: one that starts with the host may do so after the look.
    shutdown: removes(qube, plan) ? [qube] : [],
    formula: any ? formula.files : {},
    sls: any ? formula.sls : "",
    verify: [],
  };
}

/** Where the settings have what others may want as well. */
function pathOfContested({ key }: Restore): string[] {
  const { kind, of, name } = partsOf(key);
  if (kind === "global") return [formatPath(["settings", "globals", name])];
  return kind === "property" && name === "audiovm" ? [formatPath(["settings", "audioClients", of])] : [];
}

const removes = (qube: string, plan: Plan) =>
  plan.restores.some((r) => r.key === `qube:${qube}` && r.to === null);

function describeDelete(qube: string, plan: Plan): string {
  const gone = removes(qube, plan);
  const rest = plan.restores.length - (gone ? 1 : 0);
  return gone
    ? `qube ${qube} is removed with its private volume (it was created here); ${rest} other values go back to what they were`
    : `qube ${qube} was there before and stays; ${rest} values go back to what they were`;
}

/** What the agent has put back because this qube, with these devices, did not work; not what Salt or the line did. */
function ofThisHardware(error: unknown): { why: string; evidence: readonly Evidence[] } | null {
  if (!(error instanceof AgentFailure) || error.body.code !== "verify-failed") return null;
  const { evidence = [], left = {} } = error.body;
  if (Object.keys(left).length || !isOfHardware(evidence)) return null;
  return { why: whatOf(error.body), evidence };
}

const staysText = (audio: AudioDomain, snapshot: Snapshot, why: string | null) =>
  `the sound stays with "${soundOf(audio, snapshot)}": ${why}`;

// ------------------------------------------------------------------------------------------- state

const idOf = ({ host, qube }: AudioDomain) => `${host}/${qube}`;

/** The description as arguments: what is left to the host, or to the other owner of the qube, stays away. */
const described = (audio: AudioDomain): Properties =>
  asProperties(
    Object.fromEntries(Object.entries(audio).filter(([name, value]) => value !== null && name !== "behind")),
  );

/** Checked inputs back as a description. */
function audioOf(inputs: Properties): AudioDomain {
  const { settings: _, remembered: __, ...args } = inputs;
  const parsed = parseAudioDomain(String(args["qube"] ?? ""), args);
  if ("faults" in parsed)
    throw new Error(
      `the state does not describe an audio domain: ${parsed.faults.map((f) => `${f.property}: ${f.reason}`).join("; ")}`,
    );
  return parsed.audio;
}

const memoryOf = ({ remembered }: Properties): RememberedSound | null =>
  typeof remembered === "object" && remembered !== null ? (remembered as unknown as RememberedSound) : null;

const evidenceOf = ({ evidence }: Properties): readonly Evidence[] =>
  Array.isArray(evidence) ? (evidence as unknown as Evidence[]) : [];

const hasEvidence = (outputs: Properties): boolean => evidenceOf(outputs).length > 0;

const streamsIn = ({ streams }: Properties): Stream[] =>
  Array.isArray(streams) ? (streams as unknown as Stream[]) : [];

const unfinished = (reason: string): Properties => ({
  sound: "unknown",
  state: "failed",
  attempts: [{ mode: "audio", verdict: "failed", reason }],
  pending: [],
  evidence: [],
  streams: [],
  looked: true,
});

/** What the host should have, as the last run left it. */
function wantedNow(
  audio: AudioDomain,
  snapshot: Snapshot,
  { state }: Properties,
  decision: AudioDecision,
): Settings {
  if (state === "fallback") return NO_SETTINGS;
  const { wanted } = decision;
  if (state === "staged" && decision.target === "audio") return withoutClients(wanted);
  // It has come up, whatever would be decided for a new one.
  if (decision.target === "before" && snapshot.qubes[audio.qube])
    return audioSettingsOf(audio, wanted.devices, wanted.usb);
  return wanted;
}

/** What was claimed of it before still holds, no more: an import is not a check, and a failure stays one until an apply. */
function stateOf({ state, evidence }: Properties, asWanted: boolean): string {
  if (state === "failed") return "failed";
  if (!asWanted) return "drifted";
  if (state === "fallback" || state === "staged") return state;
  return hasEvidence({ evidence: evidence ?? [] }) ? "ready" : "unverified";
}

/** Outputs that the live host tells. `state` is what is known of it while no stream of a client is. */
function outputsOf(
  audio: AudioDomain,
  snapshot: Snapshot,
  urn: string,
  state: string,
  seen: { streams: readonly Stream[]; silent: boolean; waits: readonly string[] },
): Properties {
  const { qube } = audio;
  const tree = pciTree(snapshot.facts.pci);
  const attached = (snapshot.qubes[qube]?.pci ?? []).flatMap((one) =>
    reached(tree, one)
      .filter((fn) => isAudio(fn) || isUsb(fn))
      .map((fn) => ({
        name: describe(fn),
        sbdf: fn.sbdf,
        port: fn.port,
        options: Object.keys(one.options).filter((name) => one.options[name] !== ""),
        siblings: siblings(tree, fn).stays.map(describe),
      })),
  );
  attached.sort((a, b) => (a.sbdf < b.sbdf ? -1 : 1));
  const streams = streamsNow(audio, seen.streams, snapshot);
  const works = state === "ready" || state === "drifted";
  const clients = works
    ? waitingForSound(
        audio,
        snapshot,
        streams.map((s) => s.client),
      )
    : [];
  const created = snapshot.ledger[`qube:${qube}`];
  const isRunning = snapshot.qubes[qube]?.state === "Running";
  return {
    sound: soundOf(audio, snapshot),
    state: state === "ready" && streams.length ? "inUse" : state,
    attached: asValue(attached),
    streams: asValue(streams),
    pending: asValue([
      ...(state === "staged"
        ? [{ kind: "restart", qubes: [qube], why: "it is an audio domain from its next start on" }]
        : []),
      ...(works && isRunning && seen.silent
        ? [
            {
              kind: "session",
              qubes: [qube],
              why: "its sound daemon starts with its desktop, which its GUI domain brings up when somebody sits there",
            },
          ]
        : clients.length
          ? [
              {
                kind: "restart",
                qubes: clients,
                why: "no stream of theirs was seen: PulseAudio, and a card that is emulated, look for their audio domain only when they start",
              },
            ]
          : []),
      ...(works ? usbWaits(audio, snapshot).map((why) => ({ kind: "usb", qubes: [qube], why })) : []),
      ...(works && isRunning ? seen.waits.map((why) => ({ kind: "bluetooth", qubes: [qube], why })) : []),
      ...pendingClaims(snapshot, urn),
    ]),
    origin: created?.owner === urn && created.first === null ? "created" : "adopted",
    looked: true,
  };
}

/** The description of one that was made by hand: what the host shows of it, defaults for the rest. */
function adopted(host: string, qube: string, snapshot: Snapshot, urn: string): AudioDomain {
  const live = snapshot.qubes[qube];
  const of = (name: string) => live?.properties[name];
  const explicit = (name: string) => {
    const value = of(name);
    return value && !value.default ? { [name]: Number(value.value) } : {};
  };
  const shared = live ? otherPurpose(qube, live, snapshot, urn) !== null : false;
  const tree = pciTree(snapshot.facts.pci);
  const devices = (live?.pci ?? [])
    .flatMap((one) => reached(tree, one).filter(isAudio))
    .map((fn) => ({ vendor: fn.vendor, device: fn.device, address: fn.port ?? fn.sbdf }));
  const clients = Object.keys(snapshot.qubes).filter((name) => {
    const audiovm = snapshot.qubes[name]?.properties["audiovm"];
    return name !== qube && audiovm?.value === qube && !audiovm.default;
  });
  const rules = [audioPolicy(qube), stockAudioPolicy(qube)].flatMap((path) =>
    rulesOf(snapshot.files[path]?.content ?? ""),
  );
  const parsed = parseAudioDomain(qube, {
    host,
    shared,
    devices,
    clients: snapshot.globals["default_audiovm"]?.value === qube ? "default" : clients,
    ...(rules.some((rule) => rule.startsWith("admin.vm.device.mic.Attach ")) && { microphone: "allowed" }),
    ...(live?.features["service.blueman"] && { bluetooth: true }),
    ...(!shared && {
      template: of("template")?.value,
      label: of("label")?.value,
      autostart: of("autostart")?.value === "True",
      ...explicit("memory"),
      ...explicit("vcpus"),
    }),
  });
  if (!("faults" in parsed)) return parsed.audio;
  throw new Refusal({
    resource: audioWords({ qube }),
    host,
    what: `it cannot be imported: ${parsed.faults.map((f) => `${f.property} ${f.reason}`).join("; ")}`,
    next: "Change the qube by hand first, or describe it in the program and let pulumi up converge it",
  });
}
