/** All hosts of one process: one line and one agent a host, opened at first use, shared by all resources. */
import { type Agent, startAgent } from "./agent.ts";
import { type Bundle, readBundle } from "./bundle.ts";
import { HostError, ignore } from "./errors.ts";
import { type HostConnection, type Hosts, publicConnection, secretsOf } from "./inventory.ts";
import { Scrubber } from "./scrub.ts";
import { HostSession } from "./session.ts";
import { connectSsh, type SshLine, type SshOptions } from "./ssh.ts";

export interface PoolOptions {
  hosts: Hosts;
  /** The packages that every snapshot tells of. */
  packages: string[];
  /** The USB qubes whose devices every snapshot tells of. */
  usb?: string[];
  ssh?: Omit<SshOptions, "signal" | "jump">;
  /** Milliseconds for the agent to start. */
  startTimeout?: number;
  /** Milliseconds for one snapshot. */
  snapshotTimeout?: number;
  /** Gets the secrets of the connections; errors and progress of sessions go through it. */
  scrubber?: Scrubber;
  /** The agent that is shipped; that of `salt/` unless given. */
  bundle?: Bundle;
}

export class HostPool {
  readonly hosts: Hosts;
  readonly scrubber: Scrubber;
  readonly #options: PoolOptions;
  readonly #sessions = new Map<string, HostSession>();
  readonly #lines = new Map<string, Promise<SshLine>>();
  /** Lines that a fresh one took the place of; nobody asks for them any more. */
  readonly #former = new Set<Promise<SshLine>>();
  /** Hosts that others are reached through. */
  readonly #jumps = new Set<string>();
  readonly #closing = new AbortController();
  #bundle: Bundle | undefined;

  constructor(options: PoolOptions) {
    this.#options = options;
    this.hosts = options.hosts;
    this.scrubber = options.scrubber ?? new Scrubber();
    for (const secret of secretsOf(options.hosts.values())) this.scrubber.add(secret);
  }

  /**
   * The session of a host; no connection is made yet. `former` is how the host was reached when it was last in the
   * configuration (a resource's state has it); it counts only where the configuration no longer names the host.
   */
  session(name: string, former?: HostConnection): HostSession {
    const host = this.hosts.get(name) ?? former;
    if (!host)
      throw new HostError(
        "config",
        name,
        `${name}: no such host in the configuration${this.hosts.size > 0 ? `; hosts are ${[...this.hosts.keys()].join(", ")}` : ", which names none"}`,
        `Add ${name} to guidomain:hosts or to the inventory file.`,
      );
    const key = keyOf(host);
    let session = this.#sessions.get(key);
    if (!session) {
      const { packages, usb = [], snapshotTimeout, startTimeout } = this.#options;
      const open = async (fresh: boolean) => {
        const line = this.#line(host, fresh);
        this.#bundle ??= this.#options.bundle ?? readBundle(); // the host is already answering
        return startAgent(await line, this.#bundle, {
          signal: this.#closing.signal,
          ...(startTimeout && { startTimeout }),
        });
      };
      const retire = (agent: Agent) => {
        agent.close();
        // As a jump host it may carry the lines to others; it goes with the pool then.
        if (!this.#jumps.has(key)) agent.line.close();
      };
      session = new HostSession(
        name,
        { open, retire },
        {
          packages,
          usb,
          scrub: (text) => this.scrubber.scrub(text),
          ...(snapshotTimeout && { snapshotTimeout }),
        },
      );
      this.#sessions.set(key, session);
    }
    return session;
  }

  /** Ends all lines; what still waits is told so. An agent that is at work stops and undoes. */
  async close(): Promise<void> {
    this.#closing.abort();
    const lines = [...this.#lines.values(), ...this.#former];
    await Promise.all([...this.#sessions.values()].map((session) => session.close()));
    for (const line of lines) await line.then((open) => open.close()).catch(ignore);
    this.#lines.clear();
    this.#sessions.clear();
  }

  /** The line to a host, as itself or as a jump host on the way to others; a `fresh` one is opened now, in any case. */
  async #line(host: HostConnection, fresh = false): Promise<SshLine> {
    const key = keyOf(host);
    const current = fresh ? undefined : this.#lines.get(key);
    if (current) {
      const line = await current;
      if (!line.ended) return line;
      if (this.#lines.get(key) === current) this.#lines.delete(key);
    }
    let opening = fresh ? undefined : this.#lines.get(key);
    if (!opening) {
      const former = this.#lines.get(key);
      if (former) this.#former.add(former);
      opening = connectSsh(host, {
        ...this.#options.ssh,
        signal: this.#closing.signal,
        jump: (via) => {
          this.#jumps.add(keyOf(via));
          return this.#line(via);
        },
      });
      const mine = opening;
      opening.catch(() => {
        if (this.#lines.get(key) === mine) this.#lines.delete(key);
      });
      this.#lines.set(key, opening);
    }
    return opening;
  }
}

function keyOf(host: HostConnection): string {
  return JSON.stringify(publicConnection(host));
}
