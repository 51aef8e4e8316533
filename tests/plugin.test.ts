// runner: alone
// The provider as the plugin that the real engine starts: Ctrl-C, and configuration that the state does not know yet.
import { spawn } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { pulumiRoot } from "../scripts/pulumi.ts";
import type { Properties } from "../src/provider/handler.ts";
import { NOTE, notesIn } from "../src/provider/testPackage.ts";

const PROJECT = join(import.meta.dirname, "..");
const scratch = mkdtempSync(join(tmpdir(), "guidomain-plugin-"));
process.on("exit", () => rmSync(scratch, { recursive: true, force: true }));

const folder = (name: string): string => {
  const path = join(scratch, name);
  mkdirSync(path, { recursive: true });
  return path;
};

interface StoredResource {
  urn: string;
  initErrors?: string[];
}

const project = folder("project");
const cli = join(pulumiRoot(), "bin", "pulumi");
const environment = {
  ...process.env,
  PATH: [join(pulumiRoot(), "bin"), join(PROJECT, "node_modules", ".bin"), process.env.PATH].join(delimiter),
  PULUMI_BACKEND_URL: `file://${folder("state")}`,
  PULUMI_CONFIG_PASSPHRASE: "passphrase",
  PULUMI_SKIP_UPDATE_CHECK: "true",
};

function write(path: string, text: string): void {
  const file = join(project, path);
  mkdirSync(join(file, ".."), { recursive: true });
  writeFileSync(file, text);
}

symlinkSync(join(PROJECT, "node_modules"), join(project, "node_modules"));
write("package.json", JSON.stringify({ type: "module" }));
write(
  "Pulumi.yaml",
  `name: notes
runtime: { name: nodejs, options: { typescript: false } }
main: index.ts
plugins: { providers: [{ name: demo, path: provider }] }
`,
);
write(
  "index.ts",
  `import * as pulumi from "@pulumi/pulumi";
const { delay, stubborn } = new pulumi.Config().requireObject<{ delay: number; stubborn: boolean }>("note");
class Note extends pulumi.CustomResource {}
new Note("${NOTE}", "n", { title: "n", delay, stubborn });
`,
);
write(
  "provider/pulumi-resource-demo",
  `#!/bin/sh
exec "${process.execPath}" "${join(PROJECT, "src/provider/testProvider.ts")}" "$@"
`,
);
chmodSync(join(project, "provider/pulumi-resource-demo"), 0o755);

function start(...args: string[]) {
  // A group of its own, so that a signal to the group is a Ctrl-C on a terminal.
  const child = spawn(cli, args, {
    cwd: project,
    env: environment,
    detached: true,
    stdio: ["ignore", "pipe", "pipe"],
  });
  const output = { text: "" };
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding("utf8").on("data", (text: string) => {
      output.text += text;
    });
  const ended = once(child, "close").then(([code]) => code as number | null);
  return { child, output, ended };
}

async function succeeds(...args: string[]): Promise<string> {
  const { output, ended } = start(...args);
  assert.is(await ended, 0, output.text);
  return output.text;
}

const configureNote = (note: Properties) => succeeds("config", "set", "note", JSON.stringify(note));

await succeeds("stack", "init", "dev");
await succeeds("config", "set", "demo:folder", folder("notes"));

const test = suite("a project on the engine");

for (const stubborn of [false, true]) {
  test(`Ctrl-C ends within a second, ${stubborn ? "though the handler goes on" : "the handler being told"}`, async () => {
    await configureNote({ delay: 60_000, stubborn });
    const { child, output, ended } = start("up", "--yes", "--skip-preview", "--non-interactive");
    assert.ok(child.pid);
    while (!existsSync(join(folder("notes"), "n.json"))) await sleep(20);
    const pressed = performance.now();
    process.kill(-child.pid, "SIGINT");
    await once(child, "exit");
    const took = performance.now() - pressed;
    assert.is.not(await ended, 0);
    assert.ok(took < 1000, `${took} ms`);
    assert.match(
      output.text,
      stubborn ? "cancelled; the pen goes on by itself" : "stopped while writing: cancelled",
    );

    const state = JSON.parse(await succeeds("stack", "export")) as {
      deployment: { resources: StoredResource[] };
    };
    const note = state.deployment.resources.find(({ urn }) => urn.endsWith("::n"));
    assert.is(note?.initErrors?.length, 1, "the state is saved");
    await configureNote({ delay: 0, stubborn: false });
    await succeeds("up", "--yes", "--skip-preview"); // no lock is left
    assert.match(await succeeds("preview"), "2 unchanged");
    await succeeds("destroy", "--yes", "--skip-preview");
  });
}

test("where the host moved to counts at once, also for what reads the state alone", async () => {
  await configureNote({ delay: 0, stubborn: false });
  await succeeds("up", "--yes", "--skip-preview");
  renameSync(folder("notes"), join(scratch, "moved"));
  await succeeds("config", "set", "demo:folder", join(scratch, "moved"));
  assert.match(await succeeds("preview"), "2 unchanged");
  assert.match(await succeeds("refresh", "--yes", "--skip-preview"), "2 unchanged");
  await succeeds("destroy", "--yes", "--skip-preview");
  assert.equal(notesIn(join(scratch, "moved")), {});
});

test.run();
