/**
 * The hosts of one provider process: where they are, one session each, and what this engine operation knows of them.
 * Design §2 "How hosts are reached", §4.
 */
import os from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { saltModules } from "../formula/modules.ts";
import { configuredHosts } from "../host/configured.ts";
import { cancelled, HostError, ignore } from "../host/errors.ts";
import {
  type HostConnection,
  type Hosts as Inventory,
  parseConnection,
  publicConnection,
} from "../host/inventory.ts";
import { HostPool } from "../host/pool.ts";
import type {
  AfterArgs,
  ApplyArgs,
  ApplyResult,
  ClaimArgs,
  InsideArgs,
  KeepArgs,
  Snapshot,
  TrialArgs,
  Verification,
} from "../host/protocol.ts";
import type { Scrubber } from "../host/scrub.ts";
import { abortable, type HostSession } from "../host/session.ts";
import { Claims } from "./claims.ts";
import type { Context, Handler, Properties, ReadRequest, Value } from "./handler.ts";

/** Seconds an apply waits for the host's lock before it says who holds it. */
const LOCK_WAIT = 20;

/** Packages of dom0 that descriptions name by default; asked for in every snapshot, so that one is enough. */
const USUAL_PACKAGES = ["dummy-backlight-dom0", "dummy-psu-sender", "qubes-input-proxy-sender"];

/** Milliseconds more that a boot may take where somebody has to come and type a passphrase. */
const PASSPHRASE_WAIT = 30 * 60_000;

/** How it is proved; a live trial of the usual length unless given. */
export interface TrialRequest {
  trial?: TrialArgs;
  keep?: KeepArgs | null;
  after?: AfterArgs | null;
  claims?: ClaimArgs;
  /** What Salt does inside qubes: at once, or in the trial's own boot. */
  inside?: InsideArgs[];
  insideBoot?: InsideArgs[];
  secrets?: ApplyArgs["secrets"];
  /** The checks of the trial's own boot; those of `verify` come before it. */
  verifyBoot?: Verification[];
}

/** Milliseconds that work which can wait leaves to opening a line. */
const HEAD_START = 200;

/** What an apply is about; the rest of its arguments is the same for all. */
export type ApplyRequest = Pick<
  ApplyArgs,
  "owner" | "touch" | "release" | "shutdown" | "formula" | "sls" | "verify" | "restart"
> &
  TrialRequest;

/** What handlers need of the hosts. */
export type HostAccess = Pick<
  Hosts,
  | "claims"
  | "inTurn"
  | "unknownName"
  | "snapshot"
  | "snapshotWithUsb"
  | "apply"
  | "connection"
  | "notLookedAt"
>;

export class Hosts {
  /** Of this engine operation. */
  claims = new Claims();
  /** Ends when the host is at work, or has not answered for a while. Work of ours that can wait comes after it. */
  reached: Promise<void> = Promise.resolve();
  readonly inTurn = turns();
  readonly #scrubber: Scrubber;
  /** Grows with what descriptions name; the pool asks for these at each look. */
  readonly #packages = [...USUAL_PACKAGES];
  /** USB qubes that descriptions name. */
  readonly #usb: string[] = [];
  readonly #stored = new Map<string, HostConnection>();
  #source = "guidomain:hosts";
  #pool: HostPool;

  constructor(scrubber: Scrubber) {
    this.#scrubber = scrubber;
    this.#pool = this.#poolOf(new Map());
  }

  /** The provider's configuration: `hosts`, or `inventory` (a YAML file), or both; the same name twice is refused. */
  async configure(args: Properties): Promise<void> {
    const { hosts, sources } = await configuredHosts(args);
    this.#source = sources.join(" and ") || "guidomain:hosts";
    this.claims = new Claims();
    await this.#pool.close();
    this.#pool = this.#poolOf(hosts);
    // A single host is what the run is about: it is looked at while the engine still starts the program. Whoever asks
    // for it shares this look, and gets its error.
    const [only, ...others] = hosts.keys();
    if (only === undefined || others.length > 0) return;
    const session = this.#pool.session(only);
    session.snapshot().catch(() => {});
    this.reached = Promise.race([session.opened(), sleep(HEAD_START, undefined, { ref: false })]);
  }

  #poolOf(hosts: Inventory): HostPool {
    return new HostPool({ hosts, packages: this.#packages, usb: this.#usb, scrubber: this.#scrubber });
  }

  /** Why a host of this name cannot be reached, or null. */
  unknownName(name: string): string | null {
    const names = [...this.#pool.hosts.keys()];
    if (names.includes(name)) return null;
    return names.length
      ? `${this.#source} has no host "${name}"; it has ${names.map((n) => `"${n}"`).join(", ")}`
      : `no host is configured; say how "${name}" is reached: pulumi config set --path 'guidomain:hosts.${name}.address' …, or guidomain:inventory`;
  }

  /** The host as it is: one look for all resources of an operation, until something is written. */
  async snapshot(name: string, packages: string[], context: Context, stored?: Value): Promise<Snapshot> {
    const session = this.#session(name, stored);
    const asked = this.#packages.length;
    for (const one of packages) if (!this.#packages.includes(one)) this.#packages.push(one);
    if (this.#packages.length > asked) session.forget();
    return session.snapshot(context.signal);
  }

  /** The same, with what is plugged into these USB qubes; those of the ledger are in every look already. */
  async snapshotWithUsb(name: string, usb: string[], context: Context, stored?: Value): Promise<Snapshot> {
    const snapshot = await this.snapshot(name, [], context, stored);
    if (usb.every((qube) => snapshot.usb && qube in snapshot.usb)) return snapshot;
    for (const qube of usb) if (!this.#usb.includes(qube)) this.#usb.push(qube);
    this.#session(name, stored).forget();
    return this.snapshot(name, [], context, stored);
  }

  async apply(name: string, request: ApplyRequest, context: Context, stored?: Value): Promise<ApplyResult> {
    const session = this.#session(name, stored);
    const bootTimeout = await this.#bootTimeout(session, request, context);
    return session.apply(
      {
        ...request,
        modules: hasFormula(request) ? await saltModules() : {},
        holder: holderOf(context.urn),
        wait: LOCK_WAIT,
      },
      {
        signal: context.signal,
        ...(bootTimeout && { bootTimeout }),
        onProgress: ({ stage, text }) => context.log(text ? `${stage}: ${text}` : stage, { ephemeral: true }),
      },
    );
  }

  /** Milliseconds that the host may take to come back; 0 where it does not restart. */
  async #bootTimeout(session: HostSession, { trial }: ApplyRequest, { signal }: Context): Promise<number> {
    if (!trial?.boot) return 0;
    const { boot } = (await session.snapshot(signal)).facts;
    return trial.seconds * 1000 + (boot.unattended === true ? 0 : PASSPHRASE_WAIT);
  }

  /** The non-secret copy of how a host is reached, for the state. */
  connection(name: string): Value {
    const known = this.#pool.hosts.get(name) ?? this.#stored.get(name);
    return known ? (JSON.parse(JSON.stringify(publicConnection(known))) as Value) : null;
  }

  /** The configuration decides; the copy in the state is for hosts that it no longer names (design §2). */
  #session(name: string, stored: Value | undefined): HostSession {
    if (this.#pool.hosts.has(name) || !stored) return this.#pool.session(name);
    const former = this.#stored.get(name) ?? parseConnection(stored, `the state of host ${name}`);
    this.#stored.set(name, former);
    return this.#pool.session(name, former);
  }

  /** `unreachable: "skip"`: the old state is kept, and the run says so and does not end well (design §2). */
  notLookedAt(name: string, error: HostError, context: Context): void {
    context.log(
      `host ${name} was not looked at: ${error.message}. The state is kept as it was. ${error.next}`,
      {
        severity: "error",
      },
    );
  }

  async close(): Promise<void> {
    await this.#pool.close();
  }
}

/**
 * Work on one host, one after the other: whoever comes looks at what the one before has left. Two who take away what they share (a package)
 * would else each find the other still wanting it, and leave it; and a check would ask after a client that another GUI domain has by then.
 * Aborting ends the waiting at once.
 */
export function turns(): <T>(host: string, work: () => Promise<T>, signal: AbortSignal) => Promise<T> {
  const last = new Map<string, Promise<unknown>>();
  return (host, work, signal) => {
    let begun = false;
    const waiting = () => cancelled(host, "waiting for its turn");
    const mine = (last.get(host) ?? Promise.resolve()).then(() => {
      if (signal.aborted) throw waiting();
      begun = true;
      return work();
    });
    last.set(host, mine.catch(ignore));
    return abortable(mine, signal, () => (begun ? null : waiting()));
  };
}

/** `handler`, whose changes of one host come one after the other. Its resources have the argument `host`, and ids that begin with it. */
export function inTurn(hosts: HostAccess, handler: Handler): Handler {
  return {
    ...handler,
    create: (inputs, context) =>
      context.preview
        ? handler.create(inputs, context)
        : hosts.inTurn(String(inputs["host"]), () => handler.create(inputs, context), context.signal),
    update: (request, context) =>
      context.preview
        ? handler.update(request, context)
        : hosts.inTurn(String(request.news["host"]), () => handler.update(request, context), context.signal),
    delete: (request, context) =>
      hosts.inTurn(request.id.split("/")[0] ?? "", () => handler.delete(request, context), context.signal),
  };
}

/** The host as a read sees it; null where it does not answer and is to be skipped, which the run is told. */
export async function lookOrSkip(
  hosts: HostAccess,
  host: string,
  { inputs, outputs }: Pick<ReadRequest, "inputs" | "outputs">,
  context: Context,
  packages: string[] = [],
  usb: string[] = [],
): Promise<Snapshot | null> {
  try {
    return usb.length
      ? await hosts.snapshotWithUsb(host, usb, context, outputs["connection"])
      : await hosts.snapshot(host, packages, context, outputs["connection"]);
  } catch (error) {
    const skip = inputs["unreachable"] === "skip";
    if (!skip || !(error instanceof HostError) || error.kind !== "unreachable") throw error;
    hosts.notLookedAt(host, error, context);
    return null;
  }
}

/** Whether Salt runs at all: at once, with the confirmation or, with what no undo could bring back, only after it. */
export const hasFormula = ({ formula, keep, after }: ApplyRequest) =>
  [formula, keep?.formula ?? {}, after?.formula ?? {}].some((files) => Object.keys(files).length > 0);

/** Who is at work, for whoever finds the lock held. */
function holderOf(urn: string): string {
  const stack = urn.split("::")[0]?.replace("urn:pulumi:", "") ?? "";
  return `${os.userInfo().username}@${os.hostname()}, stack ${stack}, process ${process.pid}`;
}
