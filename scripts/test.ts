/**
 * The test runner: `npm test [-- [--serial] [--limit MINUTES] [FILTER…]]`, and `npm run test:xen` (`--runner xen`).
 *
 * Every `*.test.ts` runs in a process of its own, two at a time (`--serial`: one). FILTERs are parts of file names. A file
 * that holds the line `// runner: alone` (it measures time, say) runs after the others, by itself. One with another name there, as
 * `// runner: xen`, runs only where that is asked for: by `--runner` those alone, by `--also` after the others, and it may take an hour.
 *
 * uvu alone cannot be trusted with the verdict: what `before` throws is swallowed (exit 0), and a forgotten `run()` is
 * silent. So a file passes only if it exits with 0, its counts can be read, it ran at least one test and passed all of them.
 *
 * The last line is `N passed, N failed`, counted in tests; a file that failed in another way counts as one failed test.
 */

import { spawn } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs, stripVTControlCharacters } from "node:util";

/** What uvu counted, over all suites of a file. */
export interface Counts {
  total: number;
  passed: number;
  skipped: number;
}

export interface Outcome {
  /** Relative to the project. */
  file: string;
  passed: number;
  failed: number;
  skipped: number;
  /** Why the file failed; undefined when it passed. */
  fault?: string;
  /** Standard output and error in the order they came, shortened in the middle. */
  output: string;
  milliseconds: number;
}

/** What is known about a test process when it has ended. */
export interface Ending {
  /** Exit status, or null when a signal ended it. */
  status: number | null;
  signal: NodeJS.Signals | null;
  /** It was killed because it took longer than that many milliseconds. */
  limit?: number;
  output: string;
}

/** The summary that uvu prints at the end of a file, or undefined if there is none. */
export function readCounts(output: string): Counts | undefined {
  const summary = /^ {2}Total: +(\d+)\n {2}Passed: +(\d+)\n {2}Skipped: +(\d+)\n {2}Duration: /gm;
  const last = [...stripVTControlCharacters(output).matchAll(summary)].at(-1);
  if (!last) return undefined;
  return { total: Number(last[1]), passed: Number(last[2]), skipped: Number(last[3]) };
}

/** Decides on a file. */
export function judge(ending: Ending): Pick<Outcome, "passed" | "failed" | "skipped" | "fault"> {
  const counts = readCounts(ending.output) ?? { total: 0, passed: 0, skipped: 0 };
  const fault = findFault(ending, readCounts(ending.output));
  const notPassed = counts.total - counts.passed;
  return {
    passed: counts.passed,
    failed: fault === undefined ? 0 : Math.max(notPassed, 1),
    skipped: counts.skipped,
    ...(fault !== undefined && { fault }),
  };
}

/** What a file prints that skips all of its tests, since the machine lacks what they need. */
const WHY_SKIPPED = /^skipped: .+$/m;

function findFault(ending: Ending, counts: Counts | undefined): string | undefined {
  if (ending.limit !== undefined) return `it took longer than ${ending.limit / 60_000} min and was ended`;
  if (ending.signal !== null) return `it was ended by ${ending.signal}`;
  if (counts === undefined)
    return `it printed no counts (is test.run() missing?), exit status ${ending.status}`;
  if (counts.passed < counts.total && ending.status === 0) {
    return `only ${counts.passed} of ${counts.total} tests ran to their end (uvu hides what before() and after() throw)`;
  }
  if (counts.passed < counts.total) return `${counts.total - counts.passed} of ${counts.total} tests failed`;
  if (ending.status !== 0) return `all tests passed, but its exit status is ${ending.status}`;
  if (counts.total === 0 && !(counts.skipped > 0 && WHY_SKIPPED.test(ending.output))) return "it ran no test";
  return undefined;
}

const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const outputLimit = 400_000;

/**
 * All test files below the project, relative to it: those that span modules first, since they take longest.
 * With filters, those whose name contains one of them.
 */
export function findTests(folder: string, filters: readonly string[]): string[] {
  const ignored = (name: string) => name.startsWith(".") || name === "node_modules" || name === "__pycache__";
  const walk = (relative: string): string[] =>
    fs.readdirSync(path.join(folder, relative), { withFileTypes: true }).flatMap((entry) => {
      if (ignored(entry.name)) return [];
      const name = path.join(relative, entry.name);
      if (entry.isDirectory()) return walk(name);
      return entry.isFile() && entry.name.endsWith(".test.ts") ? [name] : [];
    });
  const order = (name: string) => ["tests", "lab", "provider"].indexOf(name.split(path.sep)[0] ?? "");
  const rank = (name: string) => (order(name) === -1 ? 9 : order(name));
  return walk("")
    .filter((name) => filters.length === 0 || filters.some((filter) => name.includes(filter)))
    .sort((a, b) => rank(a) - rank(b) || a.localeCompare(b));
}

/** Process groups of test files that run now; they end with the runner. */
const running = new Set<number>();

function killGroup(pid: number): void {
  try {
    process.kill(-pid, "SIGKILL");
  } catch {
    // The group is gone already.
  }
}

/** Runs one file in a process group of its own, which is killed at the limit (in milliseconds). */
export async function runFile(folder: string, file: string, limit: number): Promise<Outcome> {
  const started = performance.now();
  const env = { ...process.env };
  delete env.FORCE_COLOR;
  const ending = await new Promise<Ending>((resolve) => {
    const child = spawn(process.execPath, [path.join(folder, file)], {
      cwd: folder,
      env,
      stdio: ["ignore", "pipe", "pipe"],
      detached: true,
    });
    const pid = child.pid;
    if (pid !== undefined) running.add(pid);
    let output = "";
    const take = (data: Buffer) => {
      output += data;
      if (output.length > outputLimit) {
        output = `${output.slice(0, outputLimit / 4)}\n… (shortened) …\n${output.slice(-outputLimit / 2)}`;
      }
    };
    child.stdout.on("data", take);
    child.stderr.on("data", take);
    let limited = false;
    const timer = setTimeout(() => {
      limited = true;
      if (pid !== undefined) killGroup(pid);
    }, limit);
    const end = (status: number | null, signal: NodeJS.Signals | null) => {
      clearTimeout(timer);
      if (pid !== undefined) running.delete(pid);
      resolve({ status, signal, output, ...(limited && { limit }) });
    };
    child.on("error", (error) => {
      output += `${error.message}\n`;
      end(127, null);
    });
    // Something that the test left behind may hold the pipes open: it is ended, and then `close` comes.
    child.on("exit", () => {
      setTimeout(() => pid !== undefined && killGroup(pid), 2000).unref();
    });
    child.on("close", end);
  });
  return { file, ...judge(ending), output: ending.output, milliseconds: performance.now() - started };
}

/** The word of its line `// runner: WORD`; "any" where it has none. */
export function runnerOf(folder: string, file: string): string {
  return /^\/\/ runner: ([a-z]+)$/m.exec(fs.readFileSync(path.join(folder, file), "utf8"))?.[1] ?? "any";
}

/** The files that a run by that runner takes: the default one those without a word and those that want to be alone. */
export function takenBy(runner: string | undefined, folder: string, files: readonly string[]): string[] {
  const words = runner === undefined ? ["any", "alone"] : [runner];
  return files.filter((file) => words.includes(runnerOf(folder, file)));
}

function report({ file, passed, skipped, fault, output, milliseconds }: Outcome): void {
  const time = `${(milliseconds / 1000).toFixed(1)} s`;
  const skips = skipped > 0 ? `, ${skipped} skipped` : "";
  if (fault === undefined) {
    const why = passed === 0 ? (WHY_SKIPPED.exec(output)?.[0] ?? "") : "";
    console.log(`ok      ${file}: ${passed} passed${skips}, ${time}${why && `; ${why}`}`);
    return;
  }
  console.log(`FAILED  ${file}: ${fault}, ${time}`);
  console.log(output.trimEnd().replace(/^/gm, "        | "));
}

/** Runs the files, `width` at a time and those marked alone at the end, and prints as they end. */
export async function runAll(
  folder: string,
  files: readonly string[],
  width: number,
  limit: number,
): Promise<Outcome[]> {
  const outcomes: Outcome[] = [];
  const drain = async (queue: string[]) => {
    for (let file = queue.shift(); file !== undefined; file = queue.shift()) {
      const outcome = await runFile(folder, file, limit);
      report(outcome);
      outcomes.push(outcome);
    }
  };
  const together = files.filter((file) => runnerOf(folder, file) !== "alone");
  await Promise.all(Array.from({ length: width }, () => drain(together)));
  await drain(files.filter((file) => runnerOf(folder, file) === "alone"));
  return outcomes;
}

/** Lines that tell why: an engine's errors and warnings, and the two sides of a comparison. */
const TELLING = /\b(error|warning):|^\s*(--|\+\+)/i;

/**
 * Why tests failed, at most `most` lines for each: its title and what tells most of its message. Whoever sees only the end
 * of a long log (CI keeps no more) has the cause.
 */
export function digest(output: string, most = 12): string[] {
  const [, ...blocks] = stripVTControlCharacters(output).split(/^ {3}FAIL {2}/m);
  return blocks.flatMap((block) => {
    const [title = "", ...rest] = (block.split(/^ {4}at /m)[0] ?? "").split("\n");
    const lines = [...new Set(rest.map((line) => line.trim()).filter(Boolean))];
    const telling = lines.filter((line) => TELLING.test(line));
    const told = (telling.length ? telling : lines)
      .slice(0, most - 1)
      .map((line) => `  ${line.slice(0, 400)}`);
    return [title.trim(), ...told];
  });
}

/** Prints which files failed and why, and the last line; returns the exit status. */
export function summarize(outcomes: readonly Outcome[]): number {
  const sum = (key: "passed" | "failed" | "skipped") =>
    outcomes.reduce((total, outcome) => total + outcome[key], 0);
  const failed = outcomes.filter(({ fault }) => fault !== undefined);
  console.log("");
  for (const { file, fault, output } of failed)
    console.log([`failed: ${file}: ${fault}`, ...digest(output)].join("\n  "));
  if (sum("skipped") > 0) console.log(`${sum("skipped")} skipped`);
  if (outcomes.length === 0) console.log("failed: no test file was found");
  const isGood = failed.length === 0 && sum("passed") > 0;
  console.log(`${sum("passed")} passed, ${outcomes.length === 0 ? 1 : sum("failed")} failed`);
  return isGood ? 0 : 1;
}

/** Milliseconds for a file of another runner. */
const LONG = 3_600_000;

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      serial: { type: "boolean", default: false },
      limit: { type: "string", default: "10" },
      runner: { type: "string" },
      also: { type: "string" },
    },
  });
  const limit = Number(values.limit) * 60_000;
  if (!(limit > 0)) throw new Error(`--limit takes a number of minutes, not ${JSON.stringify(values.limit)}`);
  process.on("exit", () => {
    for (const pid of running) killGroup(pid);
  });
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => process.exit(130));
  const started = performance.now();
  const found = findTests(root, positionals);
  const width = values.serial ? 1 : 2;
  const outcomes = await runAll(root, takenBy(values.runner, root, found), width, limit);
  if (values.also !== undefined)
    outcomes.push(...(await runAll(root, takenBy(values.also, root, found), width, LONG)));
  console.log(`\n${outcomes.length} files, ${((performance.now() - started) / 1000).toFixed(0)} s`);
  process.exitCode = summarize(outcomes);
}

if (process.argv[1] !== undefined && fs.realpathSync(process.argv[1]) === fileURLToPath(import.meta.url))
  await main();
