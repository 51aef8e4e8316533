/** For tests: a provider of notes. A folder of JSON files stands in for the hosts. */

import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { diffByPath, replacing } from "./diff.ts";
import type { ConfigureContext, Context, Failure, Handler, Properties, ProviderPackage } from "./handler.ts";
import { PartialFailure, UNKNOWN } from "./handler.ts";

export const NOTE = "demo:index:Note";

export interface DemoPackage extends ProviderPackage {
  /** Which operations ran, oldest first: `read n1`. */
  calls: string[];
  configured: { args: Properties; secretKeys: string[] }[];
  closed: number;
}

/** Notes as they lie in the folder, by id. */
export function notesIn(folder: string): Record<string, Properties> {
  const files = readdirSync(folder).filter((file) => file.endsWith(".json"));
  return Object.fromEntries(
    files.map((file) => [
      file.slice(0, -".json".length),
      JSON.parse(readFileSync(join(folder, file), "utf8")),
    ]),
  );
}

/**
 * A note's inputs: `title` (its id, replaces), `text`, `tags`, `password`, and what it does to the caller: `delay`
 * (milliseconds), `stubborn` (does not stop when told to), `fail` ("half": made and not whole, "whole": not made),
 * `progress` (that many lines).
 */
export function demoPackage(): DemoPackage {
  let folder = "";
  const calls: string[] = [];
  const configured: DemoPackage["configured"] = [];
  const file = (id: string) => join(folder, `${id}.json`);

  function save(id: string, inputs: Properties): Properties {
    mkdirSync(folder, { recursive: true });
    const { fail: _, delay: __, stubborn: ___, ...note } = inputs;
    writeFileSync(file(id), JSON.stringify(note));
    return { ...inputs, token: `token-${id}`, length: String(inputs.text ?? "").length };
  }

  /** Does what the inputs ask for while the note is written. */
  async function perform(
    id: string,
    inputs: Properties,
    outputs: Properties,
    context: Context,
  ): Promise<void> {
    for (let line = 1; line <= Number(inputs.progress ?? 0); line++) {
      context.log(`line ${line}`, { ephemeral: true });
      await sleep(10);
    }
    const signal = inputs.stubborn ? undefined : context.signal;
    await sleep(Number(inputs.delay ?? 0), undefined, signal && { signal }).catch(() => {
      const { message } = context.signal.reason as Error;
      calls.push(`stop ${context.name}: ${message}`);
      throw new PartialFailure({ id, outputs, reasons: [`stopped while writing: ${message}`] });
    });
    if (inputs.fail === "half") {
      throw new PartialFailure({
        id,
        outputs,
        reasons: [`ink ran out at ${inputs.password ?? "no password"}`, "paper jam"],
      });
    }
  }

  const note: Handler = {
    secretOutputs: ["token"],
    refreshBeforeUpdate: true,
    async check(news) {
      const failures: Failure[] = [];
      if (news.title === "")
        failures.push({ property: "title", reason: 'Invalid value for title: "". Name the note.' });
      return { inputs: { size: "small", ...news }, failures };
    },
    async diff({ oldInputs, news }) {
      return { changes: replacing(diffByPath(oldInputs, news), ["title"]), deleteBeforeReplace: true };
    },
    async create(inputs, context) {
      calls.push(`${context.preview ? "preview create" : "create"} ${context.name}`);
      if (context.preview) return { id: "", outputs: inputs };
      if (inputs.fail === "whole") throw new Error(`no pen for ${inputs.password}`);
      const id = String(inputs.title);
      await perform(id, inputs, save(id, inputs), context);
      return { id, outputs: save(id, inputs) };
    },
    async read({ id, inputs, outputs }, context) {
      calls.push(`read ${id}`);
      const found = notesIn(folder)[id];
      if (!found) return null;
      if (found.broken) {
        throw new PartialFailure({
          id,
          outputs: { ...outputs, ...found },
          inputs: { ...inputs, ...found },
          reasons: ["torn"],
        });
      }
      if (found.complain) context.log("unreadable", { severity: "error" });
      return { id, outputs: { ...outputs, ...found }, inputs: { ...inputs, ...found } };
    },
    async update({ id, oldOutputs, news }, context) {
      calls.push(`${context.preview ? "preview update" : "update"} ${context.name}`);
      if (context.preview) return { ...oldOutputs, ...news };
      const outputs = save(id, news);
      await perform(id, news, outputs, context);
      return outputs;
    },
    async delete({ id, outputs }, context) {
      calls.push(`delete ${context.name}`);
      const { fail: _, ...rest } = outputs; // what was half-made can be deleted
      await perform(id, rest, rest, context);
      rmSync(file(id), { force: true });
    },
    abandoned(request, context) {
      const { message } = context.signal.reason as Error;
      const outputs =
        request.operation === "create" ? request.inputs : request.operation === "update" ? request.news : {};
      const id = request.operation === "create" ? String(request.inputs.title) : request.id;
      return { id, outputs, reasons: [`${message}; the pen goes on by itself`] };
    },
  };

  return {
    name: "demo",
    version: "1.2.3",
    schema: { name: "demo", version: "1.2.3", resources: { [NOTE]: {} } },
    handlers: { [NOTE]: note },
    calls,
    configured,
    closed: 0,
    checkConfig: ({ folder: where }) =>
      where === undefined || where === UNKNOWN || typeof where === "string"
        ? []
        : [
            {
              property: "folder",
              reason: `Invalid value for folder: ${JSON.stringify(where)}. It is a path.`,
            },
          ],
    async configure(args: Properties, { secretKeys }: ConfigureContext) {
      configured.push({ args, secretKeys: [...secretKeys] });
      folder = String(args.folder);
    },
    scrub: (text) => text.replaceAll("canary", "[canary]"),
    async close() {
      this.closed++;
    },
  };
}
