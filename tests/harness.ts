/** A stack of one test, on the real engine with the real plugin: inline program, file backend in a folder of its own. */
import { mkdtempSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import automation, {
  type EngineEvent,
  type ProjectSettings,
  type Stack,
} from "@pulumi/pulumi/automation/index.js";
import * as assert from "uvu/assert";
import type { Twin } from "../lab/twin/twin.ts";
import { pulumiRoot } from "../scripts/pulumi.ts";

export const ROOT = path.resolve(import.meta.dirname, "..");

/** A folder for one test file, gone when the process ends. */
export function scratch(name: string): string {
  const folder = mkdtempSync(path.join(os.tmpdir(), `guidomain-${name}-`));
  process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** How the configuration names a twin. */
export function hostOf(twin: Twin, extra: Record<string, unknown> = {}): Record<string, unknown> {
  return {
    address: "127.0.0.1",
    port: twin.port,
    user: twin.user,
    identityFile: twin.identityFile,
    hostKey: twin.hostKey,
    ...extra,
  };
}

/** Runs commands in a twin's dom0, each of which has to end well. */
export const mustIn =
  (twin: Twin) =>
  async (...commands: string[]): Promise<void> => {
    for (const command of commands) {
      const { code, stderr } = await twin.exec(command);
      assert.is(code, 0, `${command}: ${stderr}`);
    }
  };

export interface Outcome {
  /** The engine's word on success. */
  ok: boolean;
  /** All output, uncoloured. */
  output: string;
  changes: Record<string, number>;
  /** Property paths of the detailed diffs, by resource name. */
  diffs: Record<string, string[]>;
  /** Diagnostics of severity error. */
  errors: string[];
  outputs: Record<string, unknown>;
}

export class TestStack {
  readonly stack: Stack;
  constructor(stack: Stack) {
    this.stack = stack;
  }

  up = () => this.#run("up");
  preview = () => this.#run("preview");
  refresh = () => this.#run("refresh");
  destroy = () => this.#run("destroy");

  async hosts(hosts: Record<string, unknown>): Promise<void> {
    await this.stack.setConfig("guidomain:hosts", { value: JSON.stringify(hosts) });
  }

  /** Outputs of a resource in the state, by its name. */
  async resource(name: string): Promise<{
    id?: string;
    inputs: Record<string, unknown>;
    outputs: Record<string, unknown>;
    initErrors?: string[];
  }> {
    const state = (await this.stack.exportStack()).deployment as { resources?: { urn: string }[] };
    const found = state.resources?.find((r) => r.urn.endsWith(`::${name}`));
    if (!found) throw new Error(`the state has no resource ${name}`);
    return { inputs: {}, outputs: {}, ...found };
  }

  async #run(command: "up" | "preview" | "refresh" | "destroy"): Promise<Outcome> {
    const outcome: Outcome = { ok: true, output: "", changes: {}, diffs: {}, errors: [], outputs: {} };
    const note = (text: string) => {
      outcome.output += text;
    };
    const options = {
      color: "never" as const,
      onOutput: note,
      // With a detailed diff the engine writes diagnostics there.
      onError: note,
      onEvent: (event: EngineEvent) => this.#note(event, outcome),
    };
    try {
      if (command === "up") {
        const result = await this.stack.up(options);
        outcome.outputs = Object.fromEntries(Object.entries(result.outputs).map(([k, v]) => [k, v.value]));
      } else if (command === "preview") await this.stack.preview({ ...options, diff: true });
      else await this.stack[command](options);
    } catch (error) {
      outcome.ok = false;
      if (outcome.output === "") outcome.output = String(error);
    }
    return outcome;
  }

  #note(event: EngineEvent, outcome: Outcome): void {
    if (event.summaryEvent)
      outcome.changes = { ...event.summaryEvent.resourceChanges } as Record<string, number>;
    const { diagnosticEvent: diagnostic, resourcePreEvent: step } = event;
    if (diagnostic?.severity === "error")
      outcome.errors.push(diagnostic.message.replace(/<\{%[^%]*%\}>/g, "").trim());
    if (step?.metadata.detailedDiff)
      outcome.diffs[step.metadata.urn.split("::").at(-1) ?? ""] = Object.keys(
        step.metadata.detailedDiff,
      ).sort();
  }
}

export async function testStack(
  name: string,
  folder: string,
  hosts: Record<string, unknown>,
  /** Run in this process, or the path of a program that the engine's language host runs as for a person. */
  program: string | (() => Promise<Record<string, unknown> | undefined>),
  plugin = path.join(ROOT, "provider"),
): Promise<TestStack> {
  // The engine reads `plugins`; the SDK's type does not name it.
  const projectSettings: ProjectSettings & { plugins: object } = {
    name: "guidomain-tests",
    runtime: { name: "nodejs", options: { typescript: false } },
    ...(typeof program === "string" ? { main: path.relative(folder, program) } : {}),
    backend: { url: `file://${folder}` },
    plugins: { providers: [{ name: "guidomain", path: plugin }] },
  };
  const options = {
    workDir: folder,
    pulumiCommand: await automation.PulumiCommand.get({ root: pulumiRoot() }),
    envVars: { PULUMI_CONFIG_PASSPHRASE: "test", PULUMI_BACKEND_URL: `file://${folder}` },
    projectSettings,
  };
  const stack =
    typeof program === "string"
      ? await automation.LocalWorkspace.createOrSelectStack({ stackName: name, workDir: folder }, options)
      : await automation.LocalWorkspace.createOrSelectStack(
          { stackName: name, projectName: "guidomain-tests", program: async () => (await program()) ?? {} },
          options,
        );
  const wrapped = new TestStack(stack);
  await wrapped.hosts(hosts);
  return wrapped;
}
