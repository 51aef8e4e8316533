import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { failureOf, TestClient, urnOf } from "./testClient.ts";
import { NOTE } from "./testPackage.ts";

const folder = mkdtempSync(join(tmpdir(), "guidomain-process-"));
const program = fileURLToPath(new URL("testProvider.ts", import.meta.url));

/** Starts a command and waits until it has printed so many lines. */
async function start(count: number, command: string, ...args: string[]) {
  // uvu sets FORCE_COLOR: what would colour the number is part of the test.
  const child = spawn(command, args, {
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, FORCE_COLOR: "1" },
  });
  let errors = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    errors += text;
  });
  const lines: string[] = [];
  await new Promise<void>((resolve, reject) => {
    createInterface(child.stdout).on("line", (line) => {
      if (lines.push(line) === count) resolve();
    });
    child.once("close", () => reject(new Error(`${command} ended after ${lines.length} lines: ${errors}`)));
  });
  return { child, lines, errors: () => errors };
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

const test = suite("provider process");
test.after(() => rmSync(folder, { recursive: true }));

test("says its port and nothing else, and ends at once on SIGINT", async () => {
  const { child, lines, errors } = await start(1, process.execPath, program);
  assert.match(lines.join("\n"), /^\d+$/);
  const told = performance.now();
  child.kill("SIGINT");
  assert.equal(await once(child, "exit"), [0, null]);
  assert.ok(performance.now() - told < 500);
  assert.is(errors(), "");
});

test("ends on SIGINT though an operation does not stop", async () => {
  const { child, lines } = await start(1, process.execPath, program);
  const client = new TestClient(Number(lines[0]));
  await client.configure({ folder });
  const running = failureOf(client.create(urnOf(NOTE, "n"), { title: "n", delay: 60_000, stubborn: true }));
  await sleep(50);
  const told = performance.now();
  child.kill("SIGINT");
  await once(child, "exit");
  assert.ok(performance.now() - told < 1500);
  await running;
  client.close();
});

test("ends when its engine was killed", async () => {
  // In the engine's place a shell, which says whom it has started.
  const script = `"$0" "$1" & echo "$!"; wait`;
  const { child: engine, lines } = await start(2, "/bin/sh", "-c", script, process.execPath, program);
  const provider = Number(lines[0]);
  engine.kill("SIGKILL");
  const killed = performance.now();
  while (isAlive(provider) && performance.now() - killed < 5000) await sleep(50);
  const alive = isAlive(provider);
  if (alive) process.kill(provider);
  assert.not(alive);
});

test("the plugin's executable starts a Node that runs TypeScript", async () => {
  const executable = fileURLToPath(new URL("../../provider/pulumi-resource-guidomain", import.meta.url));
  const { child, lines } = await start(1, executable);
  assert.match(lines.join("\n"), /^\d+$/);
  child.kill("SIGINT");
  assert.equal(await once(child, "exit"), [0, null], "the signal reaches Node, not a shell");
});

test.run();
