/** What the provider does with one host: one snapshot for everybody, one apply after the other. */
import type { Agent, RequestOptions } from "./agent.ts";
import { type ConversationOptions, converse, type Extras } from "./conversation.ts";
import { AgentFailure, cancelled, HostError, ignore } from "./errors.ts";
import {
  type ApplyArgs,
  type ApplyResult,
  Checked,
  type Evidence,
  NO_CLAIMS,
  type Progress,
  Snapshot,
  type SnapshotArgs,
  type Verification,
} from "./protocol.ts";
import { mapTexts } from "./scrub.ts";

export interface SessionOptions {
  /** The packages that every snapshot tells of. */
  packages: string[];
  /** The USB qubes whose devices every snapshot tells of. */
  usb?: string[];
  /** Milliseconds for one snapshot. */
  snapshotTimeout?: number;
  /** Takes secrets out of a text that leaves. */
  scrub?: (text: string) => string;
}

type Defaulted = Pick<ApplyArgs, "inside" | "secrets" | "trial" | "keep" | "after" | "claims"> & Extras;
/** A change: without more, one that needs no reboot and waits `seconds` for its confirmation. */
export type Applied = Omit<ApplyArgs, keyof Defaulted> & Partial<Defaulted>;
const DEFAULTS: Defaulted = {
  inside: [],
  secrets: {},
  trial: { seconds: 180, boot: null, watch: null },
  keep: null,
  after: null,
  claims: NO_CLAIMS,
  start: null,
  insideBoot: [],
  verifyBoot: [],
};

/**
 * How a session gets its agents: over the line that all share, or over a `fresh` connection, which is shared from then on.
 * `retire` ends an agent that is no longer in use, with its line where nobody else needs that.
 */
export interface Door {
  open(fresh: boolean): Promise<Agent>;
  retire(agent: Agent): void;
}

export class HostSession {
  readonly host: string;
  readonly #door: Door;
  /** Its lists may grow meanwhile. */
  readonly #asked: SnapshotArgs;
  readonly #snapshotTimeout: number;
  readonly #scrub: (text: string) => string;
  #agent: Promise<Agent> | null = null;
  #snapshot: Promise<Snapshot> | null = null;
  /** Ends when the last request that was put into the queue has. */
  #queue: Promise<unknown> = Promise.resolve();

  /** `door` is asked at first use, again after a line was lost, and for the connection that confirms a change. */
  constructor(
    host: string,
    door: Door,
    { packages, usb = [], snapshotTimeout = 60_000, scrub = (text) => text }: SessionOptions,
  ) {
    this.host = host;
    this.#door = door;
    this.#asked = { packages, usb };
    this.#snapshotTimeout = snapshotTimeout;
    this.#scrub = scrub;
  }

  /**
   * The host as it is: one request, shared by all who ask until an apply or `forget`. Aborting ends this caller's
   * waiting only.
   */
  snapshot(signal?: AbortSignal): Promise<Snapshot> {
    if (!this.#snapshot) {
      const asked = this.#next(() => this.#take());
      asked.catch(() => {
        if (this.#snapshot === asked) this.#snapshot = null;
      });
      this.#snapshot = asked;
    }
    return this.#told(abortable(this.#snapshot, signal, () => cancelled(this.host, "reading the host")));
  }

  /** Ends when the agent is at work, or cannot be: whoever uses it is told why. */
  async opened(): Promise<void> {
    await this.#connected().catch(ignore);
  }

  /** The next snapshot asks the host anew. */
  forget(): void {
    this.#snapshot = null;
  }

  /**
   * Makes a change and confirms it, through a reboot where it needs one, after every earlier request to this host and
   * before every later one. Never sent twice: when an answer does not come, the error is `lost` and says what the host
   * makes of it. Aborting before its turn ends it at once, aborting while it runs asks the agent to stop and waits for its
   * word on what was undone; once the host restarts it ends at once, and the host undoes it by itself.
   */
  apply(args: Applied, options: ConversationOptions = {}): Promise<ApplyResult> {
    const { onProgress, signal } = options;
    const waiting = () => cancelled(this.host, "waiting for its turn");
    let sent = false;
    const { start, insideBoot, verifyBoot, ...change } = { ...DEFAULTS, ...args };
    const applied = this.#next(async () => {
      if (signal?.aborted) throw waiting();
      const talk = {
        host: this.host,
        snapshot: this.#asked,
        connected: () => this.#connected(),
        fresh: () => {
          this.#agent = this.#door.open(true);
          return this.#agent;
        },
        retire: (agent: Agent) => this.#door.retire(agent),
        lost: (error: HostError, agent: Agent, last: Progress | undefined) => this.#lost(error, agent, last),
        sent: () => {
          sent = true;
          this.#snapshot = null;
        },
      };
      try {
        const result = await converse(change, { start, insideBoot, verifyBoot }, talk, {
          ...options,
          onProgress: (progress) => onProgress?.(mapTexts(progress, this.#scrub)),
        });
        this.#snapshot = Promise.resolve(result.snapshot);
        return result;
      } catch (error) {
        this.#snapshot = null;
        throw error;
      }
    });
    // Once sent, only the host's word counts.
    return this.#told(abortable(applied, signal, () => (sent ? null : waiting())));
  }

  /** Checks alone, nothing is started or changed; one that does not pass is evidence, no error. */
  check(verify: Verification[], { onProgress, signal }: RequestOptions = {}): Promise<Evidence[]> {
    const checked = this.#next(async () => {
      const agent = await this.#connected();
      return (
        await agent.request("check", { verify }, Checked, {
          signal,
          onProgress: (progress) => onProgress?.(mapTexts(progress, this.#scrub)),
        })
      ).evidence;
    });
    return this.#told(abortable(checked, signal, () => cancelled(this.host, "checking")));
  }

  async close(): Promise<void> {
    const agent = this.#agent;
    this.#agent = null;
    this.#snapshot = null;
    await agent?.then((open) => open.close()).catch(ignore);
  }

  async #take(): Promise<Snapshot> {
    for (let again = false; ; again = true) {
      const agent = await this.#connected();
      let timer: NodeJS.Timeout | undefined;
      try {
        const late = new Promise<never>((_, reject) => {
          timer = setTimeout(() => {
            reject(
              new HostError(
                "protocol",
                this.host,
                `${this.host}: the host did not describe itself in ${this.#snapshotTimeout / 1000} s`,
                "Check whether the machine is overloaded or qubesd hangs, then run it again.",
              ),
            );
            agent.close(); // whatever it still says, nobody waits for it
          }, this.#snapshotTimeout);
        });
        return await Promise.race([agent.request("snapshot", this.#asked, Snapshot), late]);
      } catch (error) {
        // Reading twice harms nobody.
        if (again || !(error instanceof HostError) || error.kind !== "lost") throw error;
      } finally {
        clearTimeout(timer);
      }
    }
  }

  /** The agent, opened once for all who ask at the same time, and anew where it has ended. */
  async #connected(): Promise<Agent> {
    const current = this.#agent;
    if (current) {
      const agent = await current;
      if (!agent.ended) return agent;
      if (this.#agent === current) this.#agent = null;
    }
    if (!this.#agent) {
      const opening = this.#door.open(false);
      opening.catch(() => {
        if (this.#agent === opening) this.#agent = null;
      });
      this.#agent = opening;
    }
    return this.#agent;
  }

  #next<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#queue.then(work);
    this.#queue = result.catch(ignore);
    return result;
  }

  #lost(error: HostError, agent: Agent, last: Progress | undefined): HostError {
    const stage = last
      ? `the last that was heard of it: ${last.stage}: ${last.text}`
      : "it is not known whether it had begun";
    const after = !agent.ended
      ? "The change has ended; what it did is not known here"
      : agent.line.ended || error.kind !== "lost"
        ? // The end of the agent's stdin is its sign. A line that only went silent does not end it, so it may get done.
          "The host ends the change by itself: it puts back what it had changed, or keeps all of it where it gets done"
        : "What was changed stands in the host's journal, and the next apply puts it back first; without one, the host does so by itself";
    return new HostError(
      "lost",
      this.host,
      `${error.message}, while a change was being applied (${stage})`,
      error.next,
      after,
    );
  }

  /** Takes secrets out of what the caller is told in an error. */
  #told<T>(promise: Promise<T>): Promise<T> {
    return promise.catch((error: unknown) => {
      if (error instanceof AgentFailure) throw new AgentFailure(this.host, mapTexts(error.body, this.#scrub));
      if (error instanceof HostError)
        throw new HostError(
          error.kind,
          error.host,
          this.#scrub(error.message),
          this.#scrub(error.next),
          error.changed,
        );
      throw error;
    });
  }
}

/** `promise`, or `reason()` as soon as the signal is aborted; a `reason` of null goes on waiting. */
export function abortable<T>(
  promise: Promise<T>,
  signal: AbortSignal | undefined,
  reason: () => Error | null,
): Promise<T> {
  if (!signal) return promise;
  return new Promise((resolve, reject) => {
    const onAbort = () => {
      const error = reason();
      if (error) reject(error);
    };
    if (signal.aborted) onAbort();
    signal.addEventListener("abort", onAbort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", onAbort));
  });
}
