/** What several processes want is made by one of them, and a lock that a dead one left holds nobody up. */
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { once } from "./once.ts";

const folder = mkdtempSync(join(tmpdir(), "guidomain-once-"));

/** A process that wants `name`, makes it slowly, and says how often it made it. */
const PROGRAM = `
  import { appendFileSync, existsSync, renameSync, writeFileSync } from "node:fs";
  import { setTimeout as sleep } from "node:timers/promises";
  const { once } = await import(${JSON.stringify(join(import.meta.dirname, "once.ts"))});
  const file = process.argv[1];
  await once(file + ".lock", () => existsSync(file) ? file : null, async () => {
    appendFileSync(file + ".made", process.pid + "\\n");
    await sleep(300);
    writeFileSync(file + ".new", "");
    renameSync(file + ".new", file);
    return file;
  });`;

function wanting(file: string): Promise<number | null> {
  const child = spawn(process.execPath, ["--input-type=module", "-e", PROGRAM, file], { stdio: "inherit" });
  return new Promise((done) => child.on("exit", done));
}

test("of six processes one makes it, and all have it", async () => {
  const file = join(folder, "thing");
  assert.equal(await Promise.all(Array.from({ length: 6 }, () => wanting(file))), [0, 0, 0, 0, 0, 0]);
  assert.is(readFileSync(`${file}.made`, "utf8").trim().split("\n").length, 1);
  assert.equal(readdirSync(folder).sort(), ["thing", "thing.made"]);
});

test("a lock of a process that has ended is nobody's, one of a failed attempt is gone", async () => {
  const file = join(folder, "other");
  const dead = spawnSync(process.execPath, ["-e", "console.log(process.pid)"], { encoding: "utf8" });
  writeFileSync(`${file}.lock`, JSON.stringify({ pid: Number(dead.stdout), start: "1" }));
  let failure = "";
  await once(
    `${file}.lock`,
    () => null,
    () => Promise.reject(new Error("no disk")),
  ).catch((error: Error) => {
    failure = error.message;
  });
  assert.is(failure, "no disk");
  assert.not.ok(existsSync(`${file}.lock`));
  const made = await once(
    `${file}.lock`,
    () => null,
    async () => "made",
  );
  assert.is(made, "made");
});

test.after(() => rmSync(folder, { recursive: true, force: true }));
test.run();
