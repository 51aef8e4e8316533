/** For tests: hosts in memory behind the interface that handlers see. */
import { AgentFailure, HostError } from "../host/errors.ts";
import type { ApplyResult, Snapshot } from "../host/protocol.ts";
import { CheckFailed, type HostModel, StateFailed, TrialOver } from "../plan/testing/hostModel.ts";
import { InsideFailed } from "../plan/testing/insideModel.ts";
import { Claims } from "./claims.ts";
import type { Context, LogOptions, Value } from "./handler.ts";
import { type ApplyRequest, type HostAccess, turns } from "./hosts.ts";

export const urnOf = (name: string, type = "GuiDomain", stack = "lab") =>
  `urn:pulumi:${stack}::site::guidomain:index:${type}::${name}`;

export class TestHosts implements HostAccess {
  claims = new Claims();
  readonly inTurn = turns();
  readonly models: Record<string, HostModel>;
  readonly applied: ApplyRequest[] = [];
  readonly log: { message: string; options: LogOptions | undefined }[] = [];
  unreachable = false;
  /** The resources whose calls come here, and their stack. */
  type = "GuiDomain";
  stack = "lab";
  /** Thrown by the next apply, before it does anything. */
  failure: Error | null = null;

  constructor(models: Record<string, HostModel>) {
    this.models = models;
  }

  unknownName(name: string): string | null {
    return this.models[name] ? null : `there is no host "${name}"`;
  }

  async snapshot(name: string): Promise<Snapshot> {
    return this.#model(name).snapshot();
  }

  async snapshotWithUsb(name: string): Promise<Snapshot> {
    return this.#model(name).snapshot();
  }

  async apply(name: string, request: ApplyRequest): Promise<ApplyResult> {
    const model = this.#model(name);
    this.applied.push(request);
    const failure = this.failure;
    this.failure = null;
    if (failure) throw failure;
    try {
      const evidence = model.apply(request);
      const { left } = model;
      return { states: [], evidence, restarted: request.restart, left, snapshot: model.snapshot() };
    } catch (error) {
      const undone = { changed: [], undone: [], left: {} };
      if (error instanceof CheckFailed) {
        const { message, evidence, rebooting } = error;
        throw new AgentFailure(name, {
          code: "verify-failed",
          message,
          evidence,
          ...undone,
          ...{ rebooting },
        });
      }
      if (error instanceof TrialOver) {
        const { message, outcome } = error;
        throw new AgentFailure(name, { code: "trial-over", message, ...undone, ...{ outcome } });
      }
      if (error instanceof InsideFailed)
        throw new AgentFailure(name, { code: "inside-failed", message: error.message, ...undone });
      if (!(error instanceof StateFailed)) throw error;
      const { message } = error;
      throw new AgentFailure(name, { code: "salt-failed", message, changed: [], undone: [], left: {} });
    }
  }

  connection(name: string): Value {
    return { address: `${name}.example` };
  }

  notLookedAt(name: string, error: HostError, context: Context): void {
    context.log(`host ${name} was not looked at: ${error.message}`, { severity: "error" });
  }

  context(name: string, more: Partial<Context> = {}): Context {
    return {
      urn: urnOf(name, this.type, this.stack),
      name,
      preview: false,
      signal: new AbortController().signal,
      log: (message, options) => this.log.push({ message, options }),
      ...more,
    };
  }

  #model(name: string): HostModel {
    const model = this.models[name];
    if (this.unreachable || !model)
      throw new HostError(
        "unreachable",
        name,
        `${name}: no answer from ${name}.example`,
        "See that it runs.",
      );
    return model;
  }
}
