/**
 * The hosts of one provider process: where they are, one session each, and what this engine operation knows of them.
 * Design §2 "How hosts are reached", §4.
 */
import { readFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { HostError } from "../host/errors.ts";
import {
  type HostConnection,
  InventoryError,
  type Hosts as Inventory,
  parseConnection,
  parseHosts,
  parseInventory,
  publicConnection,
  secretsOf,
} from "../host/inventory.ts";
import { HostPool } from "../host/pool.ts";
import type { ApplyArgs, ApplyResult, Snapshot } from "../host/protocol.ts";
import { Scrubber } from "../host/scrub.ts";
import { saltModules } from "../formula/modules.ts";
import { Refusal } from "../model/failure.ts";
import { Claims } from "./claims.ts";
import type { Context, Failure, Properties, Value } from "./handler.ts";

/** Seconds an apply waits for the host's lock before it says who holds it. */
const LOCK_WAIT = 20;

/** Packages of dom0 that descriptions name by default; asked for in every snapshot, so that one is enough. */
const USUAL_PACKAGES = ["dummy-backlight-dom0", "dummy-psu-sender"];

/** What an apply is about; the rest of its arguments is the same for all. */
export type ApplyRequest = Pick<
  ApplyArgs,
  "owner" | "touch" | "release" | "shutdown" | "formula" | "sls" | "verify" | "restart"
>;

export class Hosts {
  readonly claims = new Claims();
  readonly scrubber = new Scrubber();
  #inventory: Inventory = new Map();
  #source = "guidomain:hosts";
  #pool = new HostPool({ packages: USUAL_PACKAGES });

  /** The provider's configuration: `hosts`, or `inventory` (a YAML file), or both; the same name twice is refused. */
  async configure(args: Properties): Promise<void> {
    const { hosts, sources } = await inventoryOf(args);
    this.#inventory = hosts;
    this.#source = sources.join(" and ") || "guidomain:hosts";
    for (const secret of secretsOf(hosts.values())) this.scrubber.add(secret);
  }

  /** Why a host of this name cannot be reached, or null. */
  unknownName(name: string): string | null {
    if (this.#inventory.has(name)) return null;
    const names = [...this.#inventory.keys()];
    return names.length
      ? `${this.#source} has no host "${name}"; it has ${names.map((n) => `"${n}"`).join(", ")}`
      : `no host is configured; say how "${name}" is reached: pulumi config set --path 'guidomain:hosts.${name}.address' …, or guidomain:inventory`;
  }

  /** The host as it is: one look for all resources of an operation, until something is written. */
  async snapshot(name: string, packages: string[], context: Context, stored?: Value): Promise<Snapshot> {
    return this.#pool.session(this.#connectionOf(name, stored)).snapshot({ packages, signal: context.signal });
  }

  async apply(name: string, request: ApplyRequest, context: Context, stored?: Value): Promise<ApplyResult> {
    const session = this.#pool.session(this.#connectionOf(name, stored));
    const modules = Object.keys(request.formula).length ? await saltModules() : {};
    return session.apply(
      { ...request, modules, holder: holderOf(context.urn), wait: LOCK_WAIT },
      {
        signal: context.signal,
        onProgress: ({ stage, text }) => context.log(text ? `${stage}: ${text}` : stage, { ephemeral: true }),
      },
    );
  }

  /** The non-secret copy of how a host is reached, for the state. */
  connection(name: string): Value {
    const known = this.#inventory.get(name) ?? this.#stored.get(name);
    return known ? (JSON.parse(JSON.stringify(publicConnection(known))) as Value) : null;
  }

  readonly #stored = new Map<string, HostConnection>();

  /** The configuration decides; the copy in the state is for hosts that it no longer names (design §2). */
  #connectionOf(name: string, stored?: Value): HostConnection {
    const configured = this.#inventory.get(name);
    if (configured) return configured;
    if (stored) {
      const connection = this.#stored.get(name) ?? parseConnection(stored, `the state of host ${name}`);
      this.#stored.set(name, connection);
      return connection;
    }
    throw new Refusal({
      resource: "The provider",
      host: name,
      what: this.unknownName(name) ?? "it is not configured",
      next: "Add it to the configuration, or correct the name",
    });
  }

  /** `unreachable: "skip"`: the old state is kept, and the run says so and does not end well (design §2). */
  notLookedAt(name: string, error: HostError, context: Context): void {
    context.log(`host ${name} was not looked at: ${error.message}. The state is kept as it was. ${error.next}`, {
      severity: "error",
    });
  }

  async close(): Promise<void> {
    await this.#pool.close();
  }
}

/** Hosts from the provider's arguments; throws InventoryError. */
async function inventoryOf(args: Properties): Promise<{ hosts: Inventory; sources: string[] }> {
  const hosts: Inventory = new Map();
  const sources: string[] = [];
  const add = (found: Inventory, source: string) => {
    sources.push(source);
    for (const [name, connection] of found) {
      if (hosts.has(name))
        throw new InventoryError(source, [{ property: name, reason: `is in ${sources[0]} already; keep it in one place` }]);
      hosts.set(name, connection);
    }
  };
  if (args["hosts"] !== undefined) add(parseHosts(args["hosts"], "guidomain:hosts"), "guidomain:hosts");
  if (args["inventory"] !== undefined) {
    const file = path.resolve(String(args["inventory"]));
    let text: string;
    try {
      text = await readFile(file, "utf8");
    } catch {
      const reason = file.includes(`${path.sep}.lab${path.sep}`)
        ? 'cannot be read; start the lab host first: "npm run lab -- start"'
        : "cannot be read; guidomain:inventory names it";
      throw new InventoryError(file, [{ property: "", reason }]);
    }
    add(parseInventory(text, file).hosts, file);
  }
  return { hosts, sources };
}

/** Faults of the provider's configuration, for CheckConfig. */
export async function configFaults(args: Properties): Promise<Failure[]> {
  try {
    await inventoryOf(args);
    return [];
  } catch (error) {
    if (error instanceof InventoryError) return [{ property: "", reason: error.message }];
    throw error;
  }
}

/** Who is at work, for whoever finds the lock held. */
function holderOf(urn: string): string {
  const stack = urn.split("::")[0]?.replace("urn:pulumi:", "") ?? "";
  return `${os.userInfo().username}@${os.hostname()}, stack ${stack}, process ${process.pid}`;
}
