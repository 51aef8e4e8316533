/**
 * The package guidomain: from type token to handler. What does the work (ssh2, valibot, Handlebars …) is loaded once
 * this process is configured, and not at all in one that never is: starting has to cost at most 0.25 s (design §10).
 */
import { readFileSync } from "node:fs";
import { Scrubber } from "../host/scrub.ts";
import type { Handler, ProviderPackage } from "./handler.ts";
import type { Hosts } from "./hosts.ts";
import { schemaOf } from "./schema.ts";

const { version } = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as {
  version: string;
};

export function guidomain(): ProviderPackage {
  const scrubber = new Scrubber();
  let opened: Hosts | undefined;
  // What reaches a host comes first: the host answers while the rest is loaded.
  const hosts = once(async () => (opened = new (await import("./hosts.ts")).Hosts(scrubber)));
  const handlers = once(async () => {
    const open = await hosts();
    await open.reached; // loading takes the one thread that also brings the host to its work
    return (await import("./handlers.ts")).handlersOf(open);
  });
  return {
    name: "guidomain",
    version,
    schema: schemaOf(version),
    handlers: {
      "guidomain:index:Host": later(async () => (await handlers()).host, { refreshBeforeUpdate: true }),
      "guidomain:index:GuiDomain": later(async () => (await handlers()).guiDomain, {
        refreshBeforeUpdate: true,
        // A ladder may take two boots of a machine that checks its memory, and somebody's way to its keyboard.
        defaultTimeout: 90 * 60,
      }),
      "guidomain:index:AudioDomain": later(async () => (await handlers()).audioDomain, {
        refreshBeforeUpdate: true,
        defaultTimeout: 30 * 60,
      }),
      "guidomain:index:Access": later(async () => (await handlers()).access, {
        refreshBeforeUpdate: true,
        defaultTimeout: 30 * 60,
      }),
      "guidomain:index:PciAttachment": later(async () => (await handlers()).pciAttachment, {
        refreshBeforeUpdate: true,
        defaultTimeout: 30 * 60,
      }),
      "guidomain:index:Template": later(async () => (await handlers()).template, {
        refreshBeforeUpdate: true,
        // Its own time limit comes first: this one is for the host's lock, which another template may hold.
        defaultTimeout: 12 * 60 * 60,
      }),
    },
    // The engine starts a second process of us in each run, and asks it this alone. Loading what knows the answer would take
    // longer than all else it does; the first process finds the same faults when it is configured, before any resource.
    checkConfig: () => [],
    configure: async (args) => {
      await (await hosts()).configure(args);
      handlers().catch(() => {}); // the first operation is told
    },
    scrub: (text) => scrubber.scrub(text),
    close: async () => opened?.close(), // a process that was never configured has not even loaded what closes
  };
}

/** Calls `make` at first use, and gives everybody what came of it. */
function once<T>(make: () => Promise<T>): () => Promise<T> {
  let made: Promise<T> | undefined;
  return () => (made ??= make());
}

/** A handler that is loaded at first use; what the engine asks of it at once stands in `known`. */
function later(
  load: () => Promise<Handler>,
  known: Pick<Handler, "refreshBeforeUpdate" | "defaultTimeout">,
): Handler {
  let loaded: Handler | undefined;
  const ready = once(async () => (loaded = await load()));
  return {
    ...known,
    check: async (news, olds, context) => (await ready()).check(news, olds, context),
    diff: async (request, context) => (await ready()).diff(request, context),
    create: async (inputs, context) => (await ready()).create(inputs, context),
    read: async (request, context) => (await ready()).read(request, context),
    update: async (request, context) => (await ready()).update(request, context),
    delete: async (request, context) => (await ready()).delete(request, context),
    // Only what runs can be abandoned, and only a loaded handler runs.
    abandoned: (request, context) =>
      loaded?.abandoned?.(request, context) ?? { id: "", outputs: {}, reasons: ["stopped before it began"] },
  };
}
