/** For tests: one program with one resource on one host, run again and again as the engine does it. */
import * as assert from "uvu/assert";
import { HostModel } from "../plan/testing/hostModel.ts";
import { guiDomainHandler } from "./guiDomain.ts";
import { type Changes, type Handler, PartialFailure, type Properties, type ReadResult } from "./handler.ts";
import type { HostAccess } from "./hosts.ts";
import { TestHosts } from "./testHosts.ts";

export class Program {
  readonly host: HostModel;
  readonly hosts: TestHosts;
  readonly name: string;
  readonly #make: (hosts: HostAccess) => Handler;
  state: ReadResult | null = null;
  /** The last create or update did not end well; the next run updates even where nothing differs. */
  unfinished = false;

  constructor(
    host = new HostModel(),
    name = "sys-gui",
    make: (hosts: HostAccess) => Handler = guiDomainHandler,
  ) {
    this.host = host;
    this.name = name;
    this.hosts = new TestHosts({ lab: host });
    this.#make = make;
  }

  get handler() {
    return this.#make(this.hosts);
  }

  /** As the engine: `olds` is what the read before it found. */
  async check(args: Properties): Promise<Properties> {
    const { inputs, failures } = await this.handler.check(
      { host: "lab", ...args },
      this.state?.inputs ?? {},
      this.hosts.context(this.name),
    );
    assert.equal(failures, []);
    return inputs;
  }

  async refresh(): Promise<void> {
    if (this.state) this.state = await this.handler.read(this.state, this.hosts.context(this.name));
  }

  async preview(args: Properties = {}): Promise<Changes> {
    await this.refresh();
    assert.ok(this.state);
    const news = await this.check(args);
    const changes = await this.#diff(news, true);
    const { id, inputs: oldInputs, outputs: oldOutputs } = this.state;
    const context = this.hosts.context(this.name, { preview: true });
    if (Object.keys(changes).length) await this.handler.update({ id, oldInputs, oldOutputs, news }, context);
    return changes;
  }

  async #diff(news: Properties, preview = false): Promise<Changes> {
    const { id, inputs: oldInputs, outputs: oldOutputs } = this.state as ReadResult;
    const request = { id, oldInputs, oldOutputs, news };
    return (await this.handler.diff(request, this.hosts.context(this.name, { preview }))).changes;
  }

  /** Returns the changes of the diff, or null for a create. */
  async up(args: Properties = {}): Promise<Changes | null> {
    this.hosts.claims = new TestHosts({}).claims; // a new operation
    await this.refresh();
    const news = await this.check(args);
    const context = this.hosts.context(this.name);
    try {
      if (!this.state) {
        const { id, outputs } = await this.handler.create(news, context);
        this.state = { id, inputs: news, outputs };
        this.unfinished = false;
        return null;
      }
      const changes = await this.#diff(news);
      const { id, inputs: oldInputs, outputs: oldOutputs } = this.state;
      const outputs =
        Object.keys(changes).length || this.unfinished
          ? await this.handler.update({ id, oldInputs, oldOutputs, news }, context)
          : oldOutputs;
      this.state = { id, inputs: news, outputs };
      this.unfinished = false;
      return changes;
    } catch (error) {
      if (error instanceof PartialFailure) {
        // A failed update keeps the old inputs.
        const { id, outputs } = error;
        this.state = { id, inputs: this.state?.inputs ?? news, outputs };
        this.unfinished = true;
      }
      throw error;
    }
  }

  async destroy(): Promise<void> {
    const { id, inputs, outputs } = this.state as ReadResult;
    await this.handler.delete({ id, inputs, outputs }, this.hosts.context(this.name));
    this.state = null;
  }

  get outputs(): Properties {
    return (this.state as ReadResult).outputs;
  }

  /** What the run has said, warnings and errors only. */
  get warnings(): string[] {
    return this.hosts.log.filter((l) => l.options?.severity === "warning").map((l) => l.message);
  }
}

export async function failing<T extends Error>(
  kind: new (...args: never[]) => T,
  promise: Promise<unknown>,
): Promise<T> {
  const error: unknown = await promise.then(
    () => new Error("it was expected to fail, and did not"),
    (e: unknown) => e,
  );
  if (error instanceof kind) return error;
  throw error;
}
