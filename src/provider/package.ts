/**
 * The package guidomain: from type token to handler. What does the work (ssh2, zod, Handlebars …) is loaded once the port is out, while the
 * engine is busy with the program: starting has to cost at most 0.25 s (design §10).
 */
import { readFileSync } from "node:fs";
import { setImmediate } from "node:timers/promises";
import { Scrubber } from "../host/scrub.ts";
import type { Handler, ProviderPackage } from "./handler.ts";
import { schemaOf } from "./schema.ts";

const { version } = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as { version: string };

export function guidomain(): ProviderPackage {
  const scrubber = new Scrubber();
  // What reaches a host comes first: the host answers while the rest is loaded.
  const reaching = setImmediate().then(() => import("./hosts.ts"));
  const hosts = reaching.then(({ Hosts }) => new Hosts(scrubber));
  const loading = hosts.then(async (reached) => (await import("./handlers.ts")).handlersOf(reached));
  for (const promise of [hosts, loading]) promise.catch(() => {}); // whoever calls first is told
  return {
    name: "guidomain",
    version,
    schema: schemaOf(version),
    handlers: {
      "guidomain:index:Host": later(
        loading.then(({ host }) => host),
        { refreshBeforeUpdate: true },
      ),
      "guidomain:index:GuiDomain": later(
        loading.then(({ guiDomain }) => guiDomain),
        { refreshBeforeUpdate: true, defaultTimeout: 30 * 60 },
      ),
    },
    checkConfig: async (news) => (await reaching).configFaults(news),
    configure: async (args) => (await hosts).configure(args),
    scrub: (text) => scrubber.scrub(text),
    close: async () => (await hosts).close(),
  };
}

/** A handler that is still being loaded; what the engine asks of it at once stands in `known`. */
function later(loading: Promise<Handler>, known: Pick<Handler, "refreshBeforeUpdate" | "defaultTimeout">): Handler {
  let loaded: Handler | undefined;
  const ready = loading.then((handler) => {
    loaded = handler;
    return handler;
  });
  ready.catch(() => {});
  return {
    ...known,
    check: async (news, olds, context) => (await ready).check(news, olds, context),
    diff: async (request, context) => (await ready).diff(request, context),
    create: async (inputs, context) => (await ready).create(inputs, context),
    read: async (request, context) => (await ready).read(request, context),
    update: async (request, context) => (await ready).update(request, context),
    delete: async (request, context) => (await ready).delete(request, context),
    // Only what runs can be abandoned, and only a loaded handler runs.
    abandoned: (request, context) =>
      loaded?.abandoned?.(request, context) ?? { id: "", outputs: {}, reasons: ["stopped before it began"] },
  };
}
