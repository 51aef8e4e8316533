/** One program with one resource on a light host, run as the engine runs it, by the provider's own handler. */
import type { Controller, LightHost } from "../../lab/light/host.ts";
import { saltModules } from "../../src/formula/modules.ts";
import { startAgent } from "../../src/host/agent.ts";
import { type Bundle, readBundle } from "../../src/host/bundle.ts";
import { ignore } from "../../src/host/errors.ts";
import type { ApplyResult, Snapshot } from "../../src/host/protocol.ts";
import { HostSession } from "../../src/host/session.ts";
import { audioDomainHandler } from "../../src/provider/audioDomain.ts";
import { Claims } from "../../src/provider/claims.ts";
import { guiDomainHandler } from "../../src/provider/guiDomain.ts";
import {
  type Context,
  PartialFailure,
  type Properties,
  type ReadResult,
} from "../../src/provider/handler.ts";
import { type ApplyRequest, type HostAccess, hasFormula, turns } from "../../src/provider/hosts.ts";
import { pciAttachmentHandler } from "../../src/provider/pciAttachment.ts";
import { templateHandler } from "../../src/provider/template.ts";

/** What a program has in it. */
export type Resource = "GuiDomain" | "AudioDomain" | "PciAttachment" | "Template";
const HANDLERS = {
  GuiDomain: guiDomainHandler,
  AudioDomain: audioDomainHandler,
  PciAttachment: pciAttachmentHandler,
  Template: templateHandler,
};
const NAMES = {
  GuiDomain: "sys-gui",
  AudioDomain: "sys-audio",
  PciAttachment: "dock",
  Template: "fedora-43-xfce",
};
const PACKAGES = ["dummy-backlight-dom0", "dummy-psu-sender", "qubes-input-proxy-sender"];
/** Real milliseconds: a host that stays away says so itself, and its own time is virtual. */
const TALK = { bootTimeout: 20_000, retryEvery: 1 };
const LOCK_WAIT = 20;

let bundle: Bundle | undefined;
let modules: Promise<Record<string, string>> | undefined;

/** What the state file holds. */
export interface Stored {
  state: ReadResult | null;
  /** The last create or update did not end well; the next run updates even where nothing differs. */
  unfinished: boolean;
}

export const nothing: Stored = { state: null, unfinished: false };

/** One engine operation of one controller. What it stores counts only while the controller lives. */
export class Run {
  readonly said: string[] = [];
  readonly #controller: Controller;
  readonly #name: string;
  readonly #resource: Resource;
  stored: Stored;

  constructor(host: LightHost, stored: Stored, resource: Resource = "GuiDomain", name = "one") {
    this.#controller = host.controller();
    this.#name = name;
    this.#resource = resource;
    this.stored = structuredClone(stored);
  }

  get isDead(): boolean {
    return this.#controller.dead;
  }

  /** As a killed process: what it had under way never ends. */
  die(): void {
    this.#controller.die();
  }

  async up(args: Properties): Promise<Properties> {
    return this.#operation(async (hosts) => {
      const handler = HANDLERS[this.#resource](hosts);
      const context = this.#context();
      let { state } = this.stored;
      if (state) state = await handler.read(state, context);
      const { inputs: news, failures } = await handler.check(
        { host: "light", ...args },
        state?.inputs ?? {},
        context,
      );
      if (failures.length) throw new Error(JSON.stringify(failures));
      try {
        if (!state) {
          const { id, outputs } = await handler.create(news, context);
          this.#keep({ state: { id, inputs: news, outputs }, unfinished: false });
          return outputs;
        }
        const request = { id: state.id, oldInputs: state.inputs, oldOutputs: state.outputs, news };
        const { changes } = await handler.diff(request, context);
        const outputs =
          Object.keys(changes).length || this.stored.unfinished
            ? await handler.update(request, context)
            : state.outputs;
        this.#keep({ state: { id: state.id, inputs: news, outputs }, unfinished: false });
        return outputs;
      } catch (error) {
        if (error instanceof PartialFailure)
          // A failed update keeps the old inputs.
          this.#keep({
            state: { id: error.id, outputs: error.outputs, inputs: state?.inputs ?? news },
            unfinished: true,
          });
        throw error;
      }
    });
  }

  /** Paths that a preview shows. */
  async preview(args: Properties): Promise<string[]> {
    return this.#operation(async (hosts) => {
      const handler = HANDLERS[this.#resource](hosts);
      const context = this.#context(true);
      const state = this.stored.state && (await handler.read(this.stored.state, context));
      if (!state) return ["it would be created"];
      const { inputs: news } = await handler.check({ host: "light", ...args }, state.inputs, context);
      const request = { id: state.id, oldInputs: state.inputs, oldOutputs: state.outputs, news };
      return Object.keys((await handler.diff(request, context)).changes);
    });
  }

  async destroy(): Promise<void> {
    return this.#operation(async (hosts) => {
      const handler = HANDLERS[this.#resource](hosts);
      const context = this.#context();
      const state = this.stored.state && (await handler.read(this.stored.state, context));
      if (state) await handler.delete(state, context);
      this.#keep(nothing);
    });
  }

  #keep(stored: Stored): void {
    if (!this.isDead) this.stored = stored;
  }

  async #operation<T>(work: (hosts: HostAccess) => Promise<T>): Promise<T> {
    const hosts = new Hosts(this.#controller, this.#name);
    try {
      return await work(hosts);
    } finally {
      await hosts.close();
    }
  }

  #context(preview = false): Context {
    return {
      urn: `urn:pulumi:lab::site::guidomain:index:${this.#resource}::${NAMES[this.#resource]}`,
      name: NAMES[this.#resource],
      preview,
      signal: new AbortController().signal,
      log: (message, options) => {
        if (!options?.ephemeral) this.said.push(message);
      },
    };
  }
}

/** The provider's hosts, with lines that lead to the light host. */
class Hosts implements HostAccess {
  claims = new Claims();
  readonly inTurn = turns();
  readonly #session: HostSession;
  readonly #holder: string;

  constructor(controller: Controller, name: string) {
    this.#holder = `controller ${name}`;
    this.#session = new HostSession(
      "light",
      {
        open: async () => {
          bundle ??= readBundle();
          return startAgent(await controller.connect(), bundle);
        },
        retire: (agent) => {
          agent.close();
          agent.line.close();
        },
      },
      { packages: PACKAGES },
    );
  }

  unknownName(): null {
    return null;
  }

  snapshot(_name: string, _packages: string[], context: Context): Promise<Snapshot> {
    return this.#session.snapshot(context.signal);
  }

  snapshotWithUsb(name: string, _usb: string[], context: Context): Promise<Snapshot> {
    return this.snapshot(name, [], context);
  }

  async apply(_name: string, request: ApplyRequest, context: Context): Promise<ApplyResult> {
    modules ??= saltModules();
    return this.#session.apply(
      {
        ...request,
        modules: hasFormula(request) ? await modules : {},
        holder: this.#holder,
        wait: LOCK_WAIT,
      },
      { signal: context.signal, ...TALK },
    );
  }

  connection() {
    return { address: "light" };
  }

  notLookedAt(): void {}

  close(): Promise<void> {
    return this.#session.close().catch(ignore);
  }
}
