// The provider server under the real engine, which attaches to it in this process; notes in place of guidomain's resources.
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import automation, { type EngineEvent } from "@pulumi/pulumi/automation/index.js";
import pulumi from "@pulumi/pulumi/index.js";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { pulumiRoot } from "../scripts/pulumi.ts";
import type { Properties } from "../src/provider/handler.ts";
import { serve } from "../src/provider/server.ts";
import { demoPackage, NOTE, notesIn } from "../src/provider/testPackage.ts";

const scratch = mkdtempSync(join(tmpdir(), "guidomain-engine-"));
process.on("exit", () => rmSync(scratch, { recursive: true, force: true }));

const folder = (name: string): string => {
  const path = join(scratch, name);
  mkdirSync(path, { recursive: true });
  return path;
};

class Note extends pulumi.CustomResource {
  declare readonly length: pulumi.Output<number>;

  constructor(name: string, args: pulumi.Inputs, options?: pulumi.CustomResourceOptions) {
    super(NOTE, name, { length: undefined, token: undefined, ...args }, options);
  }
}

const notes = folder("notes");
const pkg = demoPackage();
const served = await serve(pkg);
let program: () => object | undefined = () => undefined;
const stack = await automation.LocalWorkspace.createOrSelectStack(
  { stackName: "notes", projectName: "notes", program: async () => program() },
  {
    pulumiCommand: await automation.PulumiCommand.get({ root: pulumiRoot() }),
    envVars: {
      PULUMI_BACKEND_URL: `file://${folder("state")}`,
      PULUMI_CONFIG_PASSPHRASE: "passphrase",
      PULUMI_SKIP_UPDATE_CHECK: "true",
      PULUMI_DEBUG_PROVIDERS: `demo:${served.port}`,
    },
  },
);
await stack.setConfig("demo:folder", { value: notes });

interface Run {
  ok: boolean;
  output: string;
  changes: Record<string, number>;
  /** Paths of the detailed diffs. */
  paths: string[];
}

async function run(operation: "up" | "preview" | "destroy"): Promise<Run> {
  pkg.calls.length = 0;
  const result: Run = { ok: true, output: "", changes: {}, paths: [] };
  const onOutput = (text: string) => {
    result.output += text;
  };
  const onEvent = ({ resourcePreEvent, summaryEvent }: EngineEvent) => {
    if (summaryEvent) result.changes = { ...summaryEvent.resourceChanges };
    result.paths.push(...Object.keys(resourcePreEvent?.metadata.detailedDiff ?? {}));
  };
  try {
    if (operation === "preview") await stack.preview({ diff: true, onOutput, onError: onOutput, onEvent });
    else await stack[operation]({ onOutput, onError: onOutput, onEvent });
  } catch (error) {
    if (!(error instanceof automation.CommandError)) throw error;
    result.ok = false;
  }
  return result;
}

interface StoredResource {
  urn: string;
  inputs: Properties;
  outputs: Properties;
  initErrors?: string[];
}

async function stored(name: string): Promise<StoredResource> {
  const { resources } = (await stack.exportStack()).deployment as { resources: StoredResource[] };
  const found = resources.find(({ urn }) => urn.endsWith(`::${name}`));
  assert.ok(found, `${name} is in the state`);
  return found;
}

/** A change by hand, behind the engine's back. */
function scribble(id: string, change: Properties): void {
  writeFileSync(join(notes, `${id}.json`), JSON.stringify({ ...notesIn(notes)[id], ...change }));
}

const test = suite("a stack on the engine");
test.after(async () => {
  await stack.destroy();
  await served.stop();
});

test("up creates, and secrets are encrypted in the state", async () => {
  program = () => ({
    length: new Note("a", {
      title: "a",
      text: "hello",
      tags: ["x", "y"],
      password: pulumi.secret("hunter22"),
    }).length,
  });
  const { ok, changes } = await run("up");
  assert.ok(ok);
  assert.equal(changes, { create: 2 });
  assert.equal(pkg.calls, ["create a"]);
  assert.is((await stack.outputs()).length?.value, 5);

  const state = readdirSync(scratch, { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith("notes.json"))
    .map((file) => readFileSync(join(scratch, file), "utf8"));
  assert.is(state.length, 1);
  assert.match(state[0] ?? "", '"text":"hello"');
  assert.not.match(state[0] ?? "", "hunter22");
  assert.not.match(state[0] ?? "", "token-a", "a declared secret output");
});

test("up again changes nothing", async () => {
  const { ok, changes } = await run("up");
  assert.ok(ok);
  assert.equal(changes, { same: 2 });
  assert.equal(pkg.calls, ["read a"]);
});

test("a difference is named by its path, old and new", async () => {
  program = () =>
    void new Note("a", { title: "a", text: "hello", tags: ["x", "z"], password: pulumi.secret("hunter22") });
  const preview = await run("preview");
  assert.equal(preview.paths, ["tags[1]"]);
  assert.match(preview.output, /~ \[1\]: "y" => "z"/);
  assert.equal(notesIn(notes).a?.tags, ["x", "y"], "a preview writes nothing");
  assert.equal((await run("up")).changes, { update: 1, same: 1 });
  assert.equal(notesIn(notes).a?.tags, ["x", "z"]);
});

test("a change by hand shows in a plain preview as that property, and up repairs it", async () => {
  scribble("a", { text: "by hand" });
  const preview = await run("preview");
  assert.ok(preview.ok);
  assert.equal(preview.paths, ["text"]);
  assert.match(preview.output, '~ text: "by hand" => "hello"');
  assert.equal(pkg.calls, ["read a", "preview update a"]);
  await run("up");
  assert.is(notesIn(notes).a?.text, "hello");
  assert.equal((await run("preview")).changes, { same: 2 });
});

test("a half-made resource is kept with its reasons, and retried until it is whole", async () => {
  const withHalf = (more: object) => () => [
    new Note("a", { title: "a", text: "second" }),
    new Note("half", { title: "half", text: "torn", ...more }),
  ];
  program = withHalf({ fail: "half" });
  const failed = await run("up");
  assert.not(failed.ok);
  assert.match(failed.output, "* paper jam");
  assert.equal((await stored("half")).initErrors, ["ink ran out at no password", "paper jam"]);

  const preview = await run("preview");
  assert.equal(preview.changes, { update: 1, same: 2 });
  assert.equal(preview.paths, [], "though nothing differs");
  assert.match(preview.output, "paper jam");
  assert.not((await run("up")).ok, "retried, and failed again");
  assert.ok(pkg.calls.includes("update half"));

  program = withHalf({});
  assert.ok((await run("up")).ok);
  assert.is((await stored("half")).initErrors, undefined);
  assert.equal((await run("preview")).changes, { same: 3 });
});

test("a half-made resource may have outputs of a megabyte", async () => {
  const text = "x".repeat(1_000_000);
  program = () => [
    new Note("a", { title: "a", text: "second" }),
    new Note("big", { title: "big", text, fail: "half" }),
  ];
  assert.not((await run("up")).ok);
  assert.is((await stored("big")).outputs.text, text);
  program = () => void new Note("a", { title: "a", text: "second" });
  assert.ok((await run("up")).ok);
});

test("what is gone is made again", async () => {
  rmSync(join(notes, "a.json"));
  const { ok, changes } = await run("up");
  assert.ok(ok);
  assert.is(changes.create, 1);
  assert.is(notesIn(notes).a?.text, "second");
});

test("an import reads with nothing but the id, and a matching program has nothing to change", async () => {
  scribble("found", { title: "found", text: "by hand", size: "small" });
  const found = (text: string) => () => [
    new Note("a", { title: "a", text: "second" }),
    new Note("found", { title: "found", text }, { import: "found" }),
  ];
  program = found("something else");
  assert.equal((await run("preview")).paths, ["text"]);
  program = found("by hand");
  const imported = await run("up");
  assert.equal(imported.changes, { import: 1, same: 2 });
  assert.equal(pkg.calls, ["read a", "read found"]);
  assert.equal((await run("preview")).changes, { same: 3 });
});

test("an error without a state keeps none, and is said without secrets", async () => {
  program = () => [
    new Note("a", { title: "a", text: "second" }),
    new Note("found", { title: "found", text: "by hand" }),
    new Note("none", { title: "none", fail: "whole", password: pulumi.secret("deep secret") }),
  ];
  const { ok, output } = await run("up");
  assert.not(ok);
  assert.match(output, "no pen for [secret]");
  assert.not.match(output, "deep secret");
  assert.not.match(output, /\bat .*testPackage/);
  assert.not(existsSync(join(notes, "none.json")));
});

test("progress shows beneath the resource", async () => {
  program = () => void new Note("a", { title: "a", text: "third", progress: 30 });
  const { output } = await run("up");
  assert.match(output, /Note a updating .*line \d+/);
});

test.run();
