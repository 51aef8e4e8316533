/**
 * `npm run up|preview|refresh|destroy [-- --stack NAME] [--json] [--config KEY=VALUE]…`: the engine's own command through the Automation API, and a
 * closing summary. The stack `lab` gets its embedded host started. Exit status 0 only when all is well.
 */
import path from "node:path";
import { parseArgs } from "node:util";
import type { EngineEvent, Stack } from "@pulumi/pulumi/automation/index.js";
import { execa } from "execa";
import { changesOf, hostsOf, type RunReport, soundsOf, summaryText } from "../src/report/summary.ts";
import { openStack, ROOT } from "./stack.ts";

const COMMANDS = ["up", "preview", "refresh", "destroy"] as const;
type Command = (typeof COMMANDS)[number];

function usage(message: string): never {
  process.stderr.write(
    `${message}\nUsage: npm run ${COMMANDS.join("|")} [-- [--stack NAME] [--json] [--config KEY=VALUE]]\n`,
  );
  process.exit(2);
}

function parse(argv: string[]) {
  try {
    const { values, positionals } = parseArgs({
      args: argv,
      allowPositionals: true,
      options: {
        stack: { type: "string", short: "s", default: "lab" },
        json: { type: "boolean", default: false },
        config: { type: "string", short: "c", multiple: true, default: [] },
      },
    });
    const command =
      COMMANDS.find((c) => c === positionals[0]) ?? usage(`"${positionals[0]}" is not a command`);
    if (positionals.length > 1) usage(`"${positionals[1]}" is one word too many`);
    return { command, ...values };
  } catch (error) {
    usage(error instanceof Error ? error.message : String(error));
  }
}

const { command, stack: stackName, json, config } = parse(process.argv.slice(2));
const errors: string[] = [];
let counts: Record<string, number | undefined> = {};

function onEvent(event: EngineEvent): void {
  if (event.summaryEvent) counts = event.summaryEvent.resourceChanges ?? {};
  const diagnostic = event.diagnosticEvent;
  if (diagnostic?.severity === "error" && !diagnostic.ephemeral) errors.push(plain(diagnostic.message));
}

/** The engine marks colours as <{%fg 1%}>. */
const plain = (text: string) => text.replace(/<\{%[^%]*%\}>/g, "").trim();

const write = (text: string) => process.stderr.write(text);

async function open(): Promise<Stack> {
  const stack = await openStack(stackName);
  for (const pair of config) {
    const at = pair.indexOf("=");
    if (at < 1) usage(`--config ${pair} is not KEY=VALUE`);
    await stack.setConfig(pair.slice(0, at), { value: pair.slice(at + 1) }, true);
  }
  return stack;
}

async function run(stack: Stack): Promise<void> {
  const options = {
    onEvent,
    color: process.stderr.isTTY ? "always" : "never",
    ...(json ? {} : { onOutput: write, onError: write }),
  } as const;
  const operations: Record<Command, () => Promise<unknown>> = {
    up: () => stack.up(options),
    preview: () => stack.preview({ ...options, diff: true }),
    refresh: () => stack.refresh(options),
    destroy: () => stack.destroy(options),
  };
  await operations[command]();
}

const needsLab = async (stack: Stack) =>
  ((await stack.getAllConfig())["gui-domains:program"]?.value ?? stackName) === "lab";

try {
  const stack = await open();
  if (await needsLab(stack)) {
    // Idempotent: a host that runs stays as it is.
    await execa(process.execPath, [path.join(ROOT, "lab/twin/cli.ts"), "start"], {
      stdout: "ignore",
      stderr: "inherit",
    });
  }
  // Ctrl-C reaches the engine, which is in our process group; we wait for its state and its summary.
  process.on("SIGINT", () => {});
  await run(stack).catch((error: unknown) => {
    if (errors.length === 0) errors.push(plain(error instanceof Error ? error.message : String(error)));
  });
  const state = (await stack.exportStack()).deployment as { resources?: object[] } | null;
  const resources = state?.resources ?? [];
  const report: RunReport = {
    changes: changesOf(counts),
    hosts: hostsOf(resources),
    sounds: soundsOf(resources),
    errors,
  };
  if (json) process.stdout.write(`${JSON.stringify(report, null, 2)}\n`);
  else write(`\n${summaryText(command, report)}\n`);
} catch (error) {
  const message = error instanceof Error ? error.message : String(error);
  if (json)
    process.stdout.write(
      `${JSON.stringify({ changes: changesOf({}), hosts: [], errors: [message] }, null, 2)}\n`,
    );
  else write(`Error: ${message}\n`);
  process.exitCode = 1;
}
if (errors.length) process.exitCode = 1;
