/**
 * One change on one host, from the request to its confirmation (MESSAGES of protocol.ts): the line may go, the host may
 * restart, the caller may give up. Whatever happens, the host either has the change for good or undoes it by itself, and
 * the error says which, and when.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Agent, RequestOptions } from "./agent.ts";
import { AgentFailure, cancelled, HostError, ignore } from "./errors.ts";
import {
  Aborted,
  type ApplyArgs,
  ApplyResult,
  type Evidence,
  type Progress,
  Rebooting,
  Released,
  Resumed,
  Snapshot,
  type SnapshotArgs,
  Waiting,
} from "./protocol.ts";

export interface ConversationOptions extends RequestOptions {
  /** Milliseconds for the host to come back from a reboot. */
  bootTimeout?: number;
  /** Milliseconds between attempts to reach it meanwhile. */
  retryEvery?: number;
}

/** What a session lends to it. */
export interface Talk {
  host: string;
  snapshot: SnapshotArgs;
  /** The agent of the line that is open, or of a new one. */
  connected(): Promise<Agent>;
  /** One over a connection that is opened now; from then on the session's. */
  fresh(): Promise<Agent>;
  /** Ends an agent that is no longer the session's, with its line. */
  retire(agent: Agent): void;
  /** What to say where the line was lost while a request was under way. */
  lost(error: HostError, agent: Agent, last: Progress | undefined): HostError;
  /** From here on, only the host's word ends it. */
  sent(): void;
}

export interface Extras {
  /** What is started in the boot of a trial, before its checks. */
  start: string | null;
  /** What is written there inside qubes after that. */
  insideBoot: ApplyArgs["inside"];
  /** The checks of that boot; those of `verify` come before the reboot. */
  verifyBoot: ApplyArgs["verify"];
}

export async function converse(
  args: ApplyArgs,
  { start, insideBoot, verifyBoot }: Extras,
  talk: Talk,
  { onProgress, signal, bootTimeout = 900_000, retryEvery = 5_000 }: ConversationOptions,
): Promise<ApplyResult> {
  const { host } = talk;
  const { holder } = args;
  let last: Progress | undefined;
  const told = (progress: Progress) => {
    last = progress;
    onProgress?.(progress);
  };
  const say = (stage: string, text: string) => told({ stage, text });
  const heard: RequestOptions = { signal, onProgress: told };

  const first = await patient(talk.connected(), signal, host, "connecting");
  if (signal?.aborted) throw cancelled(host, "waiting for its turn");
  talk.sent();
  const ask = async <T>(agent: Agent, promise: Promise<T>): Promise<T> => {
    try {
      return await promise;
    } catch (error) {
      // "config": it was too large to be sent.
      if (error instanceof HostError && error.kind !== "config") throw talk.lost(error, agent, last);
      throw error;
    }
  };
  const waiting = await ask(first, first.request("apply", args, Waiting, heard));
  const { id } = waiting;
  const joined = (evidence: Evidence[], result: ApplyResult): ApplyResult => ({
    states: [...waiting.states, ...result.states],
    evidence: [...waiting.evidence, ...evidence, ...result.evidence],
    restarted: [...waiting.restarted, ...result.restarted],
    left: result.left,
    snapshot: result.snapshot,
  });
  const confirm = (agent: Agent) =>
    agent.request("confirm", { id, holder, snapshot: talk.snapshot }, ApplyResult, heard);

  /** Nothing was confirmed: the first agent is still there and undoes it. */
  const giveUp = async (error: HostError): Promise<HostError> => {
    const after = await first.request("abort", { id, holder, why: error.message }, Aborted).then(
      ({ left }) =>
        Object.keys(left).length === 0
          ? "The host has put back what had been changed"
          : `The host could not put back everything: ${Object.entries(left)
              .map(([key, why]) => `${key} (${why})`)
              .join(", ")}`,
      (failed: unknown) =>
        failed instanceof AgentFailure
          ? `The host says: ${failed.body.message}`
          : `The host puts back what had been changed within ${args.trial.seconds} s`,
    );
    return new HostError(error.kind, host, error.message, error.next, after);
  };

  if (waiting.phase === "verified") {
    if (signal?.aborted) throw await giveUp(cancelled(host, "a change waited for its confirmation"));
    say("confirm", "over a new connection");
    let second: Agent;
    try {
      second = await patient(talk.fresh(), signal, host, "opening a new connection to confirm a change");
    } catch (error) {
      throw await giveUp(
        error instanceof HostError && error.kind !== "cancelled"
          ? new HostError(
              error.kind,
              host,
              `${error.message}; that was the new connection which a change must be confirmed over`,
              error.next,
            )
          : (error as HostError),
      );
    }
    try {
      return joined([], await ask(second, confirm(second)));
    } catch (error) {
      if (!(error instanceof HostError) || error.kind !== "lost" || signal?.aborted) throw error;
      // It may have got there. To ask again harms nobody: what is confirmed stays so.
      const third = await patient(talk.fresh(), signal, host, "confirming").catch(() => null);
      const again = third && (await confirm(third).catch(() => null));
      if (!again) throw error;
      return joined([], again);
    } finally {
      await first.request("release", { id }, Released).catch(ignore);
      talk.retire(first);
    }
  }

  // A trial with a boot of its own.
  if (signal?.aborted) throw await giveUp(cancelled(host, "a change waited for the reboot"));
  const { watchdog } = await ask(first, first.request("reboot", { id, holder }, Rebooting, heard));
  const bootEvidence: Evidence[] = [
    {
      id: "watchdog",
      ok: true,
      seconds: 0,
      output: watchdog ? "armed" : "none: a hang needs a hand on the power button",
    },
  ];
  talk.retire(first);
  let confirming = false;
  const byItself = () =>
    `${confirming ? "Unless it was confirmed just then: " : ""}The host undoes the change by itself, at the latest ${args.trial.seconds} s after the trial's boot has begun, and ` +
    `restarts; where that boot does not come up, ${watchdog ? "its watchdog or " : ""}a power cycle leads back to the normal one`;
  const gone = (kind: HostError["kind"], what: string, next: string) =>
    new HostError(kind, host, `${host}: ${what}`, next, byItself());
  const begun = Date.now();
  const overdue = () => Date.now() - begun > bootTimeout;

  /** Tries until `use` has an answer: each time over a connection of its own. */
  const persist = async <T>(use: (agent: Agent) => Promise<T | undefined>): Promise<T> => {
    for (let why = "no answer yet"; ; ) {
      const stopped = () =>
        gone(
          "cancelled",
          "stopped while the host restarts for a trial",
          "Run it again when you want to go on.",
        );
      if (signal?.aborted) throw stopped();
      if (overdue())
        throw gone(
          "unreachable",
          `it did not come back within ${Math.round(bootTimeout / 1000)} s of its reboot (${why})`,
          "Look at the machine's own screen; it is usable again at the latest after one power cycle. Then run it again.",
        );
      say("boot", `waiting for the host, ${Math.round((Date.now() - begun) / 1000)} s`);
      let agent: Agent | undefined;
      try {
        agent = await interrupted(talk.fresh(), signal, talk);
        const answer = await interrupted(use(agent), signal);
        if (answer !== undefined) return answer;
        why = "it answers, but is not there yet";
      } catch (error) {
        if (error === STOPPED) {
          // The end of its line tells the agent.
          if (agent) talk.retire(agent);
          throw stopped();
        }
        if (!(error instanceof HostError) || error.kind === "host-key" || error.kind === "config")
          throw error;
        why = error.message;
      }
      if (agent) talk.retire(agent);
      await sleep(retryEvery, undefined, signal && { signal }).catch(ignore);
    }
  };

  /** The trial ended badly: waits until the host is back as it was, so that something else can be tried on it. */
  const back = async (failure: AgentFailure): Promise<never> => {
    say("boot", `${failure.body.message}; waiting until the host is back as before`);
    const now = await persist(async (agent) => {
      const seen = await agent.request("snapshot", talk.snapshot, Snapshot);
      const inTrial = seen.facts.cmdline.split(/\s+/).includes(`guidomain.trial=${id}`);
      // What could not be put back is told at once; the host goes on trying.
      const told = seen.outcome?.id === id && seen.outcome.what === "left";
      return inTrial || (seen.trial && !told) ? undefined : seen;
    });
    const outcome = now.outcome?.id === id ? now.outcome : (failure.body.outcome ?? null);
    throw new AgentFailure(host, { ...failure.body, outcome });
  };

  const evidence = await persist(async (agent) => {
    try {
      const resume = { id, holder, start, inside: insideBoot, verify: verifyBoot };
      const resumed = await agent.request("resume", resume, Resumed, { onProgress: told });
      return resumed.evidence;
    } catch (error) {
      if (!(error instanceof AgentFailure)) throw error;
      const { code, phase } = error.body;
      if (code === "not-yet" || code === "lock-held") return undefined;
      // An earlier request whose answer was lost.
      if (code === "trial-over" && (phase === "rebooting" || phase === "trial")) return undefined;
      if (code === "trial-over" && phase === "verified") return [];
      return error;
    }
  });
  if (evidence instanceof AgentFailure) return await back(evidence);
  say("confirm", "over a new connection");
  confirming = true;
  const result = await persist(async (agent) => {
    try {
      return await confirm(agent);
    } catch (error) {
      // A lost line: asked again, what is confirmed stays so.
      if (!(error instanceof AgentFailure)) throw error;
      const { code, outcome, phase } = error.body;
      if (code === "lock-held") return undefined;
      // Whoever undoes a trial with a boot of its own tells it. So it counts, though its ledger went with its last entry.
      if (code === "trial-over" && !outcome && !phase)
        return {
          states: [],
          evidence: [],
          restarted: [],
          left: {},
          snapshot: await agent.request("snapshot", talk.snapshot, Snapshot),
        };
      return error;
    }
  });
  if (result instanceof AgentFailure) return await back(result);
  return joined([...bootEvidence, ...evidence], result);
}

const STOPPED = Symbol("stopped");

/** The promise, or STOPPED as soon as the signal is aborted; an agent that comes too late is ended. */
function interrupted<T>(promise: Promise<T>, signal: AbortSignal | undefined, talk?: Talk): Promise<T> {
  if (!signal) return promise;
  return new Promise((resolve, reject) => {
    const onAbort = () => {
      reject(STOPPED);
      if (talk) promise.then((agent) => talk.retire(agent as Agent)).catch(ignore);
    };
    if (signal.aborted) return onAbort();
    signal.addEventListener("abort", onAbort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", onAbort));
  });
}

/** The agent, or the HostError `cancelled` as soon as the signal is aborted. */
async function patient(
  agent: Promise<Agent>,
  signal: AbortSignal | undefined,
  host: string,
  doing: string,
): Promise<Agent> {
  try {
    return await interrupted(agent, signal);
  } catch (error) {
    throw error === STOPPED ? cancelled(host, doing) : error;
  }
}
