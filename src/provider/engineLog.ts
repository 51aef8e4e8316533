/** Lines beneath a resource: `Engine.Log`, in order, throttled and scrubbed. */

import * as grpc from "@grpc/grpc-js";
import engineRpc from "@pulumi/pulumi/proto/engine_grpc_pb.js";
import engine from "@pulumi/pulumi/proto/engine_pb.js";
import type { LogOptions, Severity } from "./handler.ts";

/** Milliseconds between two ephemeral lines of one resource; more would only flicker. */
const EPHEMERAL_PAUSE = 100;
/** Milliseconds that an operation waits for its last lines to arrive. */
const FLUSH_LIMIT = 200;

const SEVERITY = {
  debug: engine.LogSeverity.DEBUG,
  info: engine.LogSeverity.INFO,
  warning: engine.LogSeverity.WARNING,
  error: engine.LogSeverity.ERROR,
} satisfies Record<Severity, number>;

/** The connection to the engine's log. Without an engine, lines go nowhere. */
export class EngineLog {
  #client: InstanceType<typeof engineRpc.EngineClient> | undefined;
  #sent: Promise<void> = Promise.resolve();
  readonly #scrub: (text: string) => string;

  constructor(scrub: (text: string) => string) {
    this.#scrub = scrub;
  }

  connect(address: string): void {
    this.#client?.close();
    this.#client = new engineRpc.EngineClient(address, grpc.credentials.createInsecure());
  }

  close(): void {
    this.#client?.close();
    this.#client = undefined;
  }

  /** The lines of one operation. */
  ofResource(urn: string): ResourceLog {
    return new ResourceLog((message, options) => this.#send(urn, message, options));
  }

  /** Ends when everything that was written has arrived, or after a short while. */
  async flushed(): Promise<void> {
    const limit = Promise.withResolvers<void>();
    const timer = setTimeout(limit.resolve, FLUSH_LIMIT);
    await Promise.race([this.#sent, limit.promise]);
    clearTimeout(timer);
  }

  #send(urn: string, message: string, { severity = "info", ephemeral = false }: LogOptions): void {
    const client = this.#client;
    if (!client) return;
    const request = new engine.LogRequest();
    request.setUrn(urn);
    request.setMessage(this.#scrub(message));
    request.setSeverity(SEVERITY[severity]);
    request.setEphemeral(ephemeral);
    // One after the other: the engine handles concurrent requests in any order. A lost line is no reason to fail.
    const arrived = () => new Promise<void>((done) => client.log(request, () => done()));
    this.#sent = this.#sent.then(arrived);
  }
}

export class ResourceLog {
  readonly #send: (message: string, options: LogOptions) => void;
  #last = Number.NEGATIVE_INFINITY;
  #waiting: { message: string; options: LogOptions; timer: NodeJS.Timeout } | undefined;
  #ended = false;

  constructor(send: (message: string, options: LogOptions) => void) {
    this.#send = send;
  }

  write(message: string, options: LogOptions = {}): void {
    if (this.#ended) return;
    if (!options.ephemeral) {
      this.#send(message, options);
      return;
    }
    const pause = this.#last + EPHEMERAL_PAUSE - performance.now();
    if (this.#waiting) Object.assign(this.#waiting, { message, options });
    else if (pause > 0)
      this.#waiting = { message, options, timer: setTimeout(() => this.#sendWaiting(), pause) };
    else this.#sendNow(message, options);
  }

  /** Sends the line that still waits; what is written later comes from work that was given up, and is dropped. */
  end(): void {
    this.#sendWaiting();
    this.#ended = true;
  }

  #sendWaiting(): void {
    if (!this.#waiting) return;
    const { message, options, timer } = this.#waiting;
    clearTimeout(timer);
    this.#waiting = undefined;
    this.#sendNow(message, options);
  }

  #sendNow(message: string, options: LogOptions): void {
    this.#last = performance.now();
    this.#send(message, options);
  }
}
