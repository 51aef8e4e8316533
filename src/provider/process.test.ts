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

/** Starts a command whose first line is a port; the rest of its output is collected. */
async function start(command: string, ...args: string[]) {
  // uvu sets FORCE_COLOR: what would colour the number is part of the test.
  const child = spawn(command, args, {
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, FORCE_COLOR: "1" },
  });
  let errors = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    errors += text;
  });
  const first = await new Promise<string>((resolve, reject) => {
    createInterface(child.stdout).once("line", resolve);
    child.once("close", () => reject(new Error(`${command} ended without a port: ${errors}`)));
  });
  return { child, first, errors: () => errors };
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
  const { child, first, errors } = await start(process.execPath, program);
  assert.match(first, /^\d+$/);
  const told = performance.now();
  child.kill("SIGINT");
  assert.equal(await once(child, "exit"), [0, null]);
  assert.ok(performance.now() - told < 500);
  assert.is(errors(), "");
});

test("ends on SIGINT though an operation does not stop", async () => {
  const { child, first } = await start(process.execPath, program);
  const client = new TestClient(Number(first));
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
  const { child: engine, first } = await start(
    "/bin/sh",
    "-c",
    `"$0" "$1" & echo $!; wait`,
    process.execPath,
    program,
  );
  const provider = Number(first);
  await sleep(500); // it has to have seen its parent
  engine.kill("SIGKILL");
  await once(engine, "exit");
  const limit = performance.now() + 3000;
  while (isAlive(provider) && performance.now() < limit) await sleep(50);
  assert.not(isAlive(provider));
});

test("the plugin's executable starts a Node that runs TypeScript", async () => {
  const executable = fileURLToPath(new URL("../../provider/pulumi-resource-guidomain", import.meta.url));
  const { child, first } = await start(executable);
  assert.match(first, /^\d+$/);
  child.kill("SIGINT");
  assert.equal(await once(child, "exit"), [0, null], "the signal reaches Node, not a shell");
});

test.run();
