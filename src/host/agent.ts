/** The controller's end of the agent's protocol (protocol.ts): start, requests, progress, cancellation, end. */
import type { ClientChannel } from "ssh2";
import * as v from "valibot";
import { pathOf } from "../model/fields.ts";
import type { Bundle } from "./bundle.ts";
import { AgentFailure, cancelled, clean, HostError, ignore } from "./errors.ts";
import { Hello, MAX_LINE, type Progress, Reply } from "./protocol.ts";
import { mapTexts } from "./scrub.ts";
import type { SshLine } from "./ssh.ts";

/** What a login shell may print before the agent's first line, bytes. */
const NOISE = 64 * 1024;
const STDERR = 4096;
const MALFORMED = "The agent on the host and this program do not understand each other; please report it.";

export interface StartOptions {
  /** Milliseconds until the agent must have said hello. */
  startTimeout?: number;
  signal?: AbortSignal | undefined;
}

export interface RequestOptions {
  onProgress?: ((progress: Progress) => void) | undefined;
  /** Aborting asks the agent to stop; the request ends with the agent's answer to that, or with the line. */
  signal?: AbortSignal | undefined;
}

/** Starts the agent by one exec. Throws HostError. */
export async function startAgent(line: SshLine, bundle: Bundle, options: StartOptions = {}): Promise<Agent> {
  const { signal, startTimeout = 20_000 } = options;
  const { name } = line.host;
  const channel = await line.exec(`exec python3 -IS -c ${quoted(bundle.loader)} ${bundle.digest}`, signal);
  const agent = new Agent(line, channel);
  const slow = new HostError(
    "protocol",
    name,
    `${name}: the agent did not start in ${startTimeout / 1000} s`,
    `Check that \`python3 --version\` answers over SSH on ${name}, and whether the machine is overloaded.`,
  );
  const timer = setTimeout(() => agent.fail(slow), startTimeout);
  const onAbort = () => agent.fail(cancelled(name, "starting the agent"));
  if (signal?.aborted) onAbort();
  signal?.addEventListener("abort", onAbort, { once: true });
  try {
    await agent.start(bundle);
    return agent;
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", onAbort);
  }
}

interface Pending {
  op: string;
  onProgress: ((progress: Progress) => void) | undefined;
  resolve: (value: unknown) => void;
  reject: (error: Error) => void;
}

export class Agent {
  readonly line: SshLine;
  readonly #channel: ClientChannel;
  readonly #pending = new Map<number, Pending>();
  #lastId = 0;
  #ended: Error | null = null;
  #stderr = "";
  #exit: { code: number | null; signal?: string | undefined } | null = null;
  /** Gets each line; replaced as the conversation goes on. */
  #onLine: (line: string) => void = ignore;
  #onEnd: (error: Error) => void = ignore;
  /** Largest line that is accepted now, bytes: until it has said hello, what a shell may print. */
  #cap = NOISE;
  #noise = "";

  constructor(line: SshLine, channel: ClientChannel) {
    this.line = line;
    this.#channel = channel;
    this.#readLines();
    channel.stderr.on("data", (chunk: Buffer) => {
      this.#stderr = (this.#stderr + chunk.toString("utf8")).slice(-STDERR);
    });
    channel.on("exit", (code: number | null, signal?: string) => {
      this.#exit = { code, signal };
    });
    channel.on("error", ignore); // its end is told by "close"
    channel.on("close", () => this.fail(line.ended ?? this.#diedError()));
    line.onEnd((error) => this.fail(error));
  }

  /** Why it can take no more requests, or null. */
  get ended(): Error | null {
    return this.#ended;
  }

  /** Ends when the agent has said hello. */
  start(bundle: Bundle): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.#ended) return reject(this.#ended);
      this.#onEnd = reject;
      const skip = (line: string) => {
        this.#noise += `${line}\n`;
        if (this.#noise.length > NOISE) this.#tooNoisy(this.#noise);
      };
      const hello = (line: string) => {
        const parsed = v.safeParse(Hello, json(line));
        if (!parsed.success) return skip(line);
        if (parsed.output.agent !== bundle.digest)
          return this.#break(`the agent that runs is ${parsed.output.agent}, not the one that was sent`);
        this.#onLine = (text) => this.#onReply(text);
        this.#cap = MAX_LINE;
        resolve();
      };
      this.#onLine = (line) => {
        // A shell's greeting may stand before it without a line end.
        const found = /\{"stored": (true|false)\}\s*$/.exec(line);
        if (!found) return skip(line);
        this.#onLine = hello;
        if (found[1] === "false") this.#channel.write(`${bundle.text}\n`);
      };
    });
  }

  /**
   * One request, answered by `reply`'s shape. Throws AgentFailure when the agent refuses or fails, HostError when the
   * line or the agent ends before its answer.
   */
  request<T>(
    op: string,
    args: object,
    reply: v.GenericSchema<unknown, T>,
    { onProgress, signal }: RequestOptions = {},
  ): Promise<T> {
    const { name } = this.line.host;
    return new Promise<unknown>((resolve, reject) => {
      if (this.#ended) return reject(this.#ended);
      if (signal?.aborted) return reject(cancelled(name, `${op} was about to be sent; nothing was`));
      const id = ++this.#lastId;
      const message = `${JSON.stringify({ id, op, args })}\n`;
      const size = Buffer.byteLength(message);
      if (size > MAX_LINE)
        return reject(
          new HostError(
            "config",
            name,
            `${name}: the request ${op} has ${size} bytes, the agent takes ${MAX_LINE}; nothing was sent`,
            "Describe less at once.",
          ),
        );
      const onAbort = () => this.#cancel(id);
      const done = () => signal?.removeEventListener("abort", onAbort);
      this.#pending.set(id, {
        op,
        onProgress,
        resolve: (value) => {
          done();
          resolve(value);
        },
        reject: (error) => {
          done();
          reject(error);
        },
      });
      signal?.addEventListener("abort", onAbort, { once: true });
      this.#channel.write(message);
    }).then((value) => {
      const parsed = v.safeParse(reply, value);
      if (parsed.success) return parsed.output;
      const [issue] = parsed.issues;
      throw new HostError(
        "protocol",
        name,
        `${name}: the agent's answer to ${op} is not what was agreed: ${pathOf(issue)}: ${clean(issue.message, 300)}`,
        MALFORMED,
      );
    });
  }

  /** Ends the agent: the end of its stdin is its sign to stop and undo. */
  close(): void {
    this.fail(
      new HostError(
        "cancelled",
        this.line.host.name,
        `${this.line.host.name}: the agent was closed`,
        "Run it again.",
      ),
    );
  }

  /** Ends everything that waits with this error. */
  fail(error: Error): void {
    if (this.#ended) return;
    this.#ended = error;
    this.#onLine = ignore;
    this.#channel.end();
    this.#channel.close();
    this.#onEnd(error);
    for (const { reject } of this.#pending.values()) reject(error);
    this.#pending.clear();
  }

  #cancel(id: number): void {
    const cancel = ++this.#lastId;
    this.#pending.set(cancel, { op: "cancel", onProgress: undefined, resolve: ignore, reject: ignore });
    this.#channel.write(`${JSON.stringify({ id: cancel, op: "cancel", args: { id } })}\n`);
  }

  #onReply(line: string): void {
    const parsed = v.safeParse(Reply, json(line));
    const reply = parsed.success ? parsed.output : undefined;
    const pending = reply && this.#pending.get(reply.id);
    if (!reply) this.#break(`a line of the agent is not an answer: ${clean(line.slice(0, 200))}`);
    else if (!pending) this.#break(`the agent answers a request that was not made (id ${reply.id})`);
    else if ("event" in reply) pending.onProgress?.(mapTexts(reply.event, (text) => clean(text, 1024)));
    else {
      this.#pending.delete(reply.id);
      if ("ok" in reply) pending.resolve(reply.ok);
      else
        pending.reject(
          new AgentFailure(
            this.line.host.name,
            mapTexts(reply.error, (text) => clean(text)),
          ),
        );
    }
  }

  #readLines(): void {
    let parts: Buffer[] = [];
    let size = 0;
    this.#channel.on("data", (chunk: Buffer) => {
      let start = 0;
      while (!this.#ended) {
        const end = chunk.indexOf(10, start);
        const part = chunk.subarray(start, end < 0 ? chunk.length : end);
        size += part.length;
        if (size > this.#cap) {
          if (this.#cap === NOISE) this.#tooNoisy(Buffer.concat([...parts, part]).toString("utf8"));
          else this.#break(`the agent sent a line of more than ${MAX_LINE} bytes`);
          return;
        }
        parts.push(part);
        if (end < 0) return;
        const line = Buffer.concat(parts, size).toString("utf8");
        parts = [];
        size = 0;
        start = end + 1;
        this.#onLine(line);
      }
    });
  }

  #break(what: string): void {
    this.fail(
      new HostError(
        "protocol",
        this.line.host.name,
        `${this.line.host.name}: ${what}${this.#said()}`,
        MALFORMED,
      ),
    );
  }

  #tooNoisy(noise: string): void {
    const { name, user } = this.line.host;
    this.fail(
      new HostError(
        "protocol",
        name,
        `${name}: the login shell of ${user} prints text where the agent should speak: "${clean(noise.slice(0, 200))}…"`,
        `Make the shell's start-up files silent where nobody is at a terminal; \`ssh ${name} true\` must print nothing.`,
      ),
    );
  }

  #diedError(): HostError {
    const { name, user } = this.line.host;
    const { code = null, signal } = this.#exit ?? {};
    if (code === 127 || (code === 1 && /python3.*not found/i.test(this.#stderr)))
      return new HostError(
        "protocol",
        name,
        `${name}: there is no python3 for ${user} on the host${this.#said()}`,
        "The agent needs Python 3.8 or later there; dom0 of Qubes OS has it. Install python3, or correct the PATH of that user.",
      );
    if (this.#cap === NOISE)
      return new HostError(
        "protocol",
        name,
        `${name}: the agent did not start (exit status ${code ?? signal ?? "unknown"})${this.#said(this.#noise)}`,
        `Check that \`ssh ${user}@${this.line.host.address} python3 --version\` works: the account needs a login shell and Python 3.8 or later.`,
      );
    const how = signal
      ? `was killed by ${signal}`
      : code === null
        ? "ended without a word"
        : `ended with exit status ${code}`;
    return new HostError(
      "lost",
      name,
      `${name}: the agent ${how}${this.#said()}`,
      `See what stopped it on ${name}, then run it again.`,
    );
  }

  #said(noise = ""): string {
    const said = clean(`${noise}\n${this.#stderr}`, STDERR);
    return said ? `; its last words: ${said}` : "";
  }
}

/** A word for the login shell of the host, whatever it holds. */
function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function json(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
