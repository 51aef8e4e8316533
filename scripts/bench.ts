/**
 * `npm run bench [-- --runs N]`: what guidomain costs beside what the engine costs without it, from the same run, in turn.
 * Budgets: design §10. Figures are seconds on this machine now; the difference and the counts are what matters.
 */
import { spawn } from "node:child_process";
import path from "node:path";
import { parseArgs } from "node:util";
import { startTwin } from "../lab/twin/twin.ts";
import { hostOf, ROOT, scratch, type TestStack, testStack } from "../tests/harness.ts";

const { values } = parseArgs({ options: { runs: { type: "string", default: "7" } } });
const runs = Number(values.runs);
if (!Number.isInteger(runs) || runs < 1)
  throw new Error(`--runs ${values.runs} is not a positive whole number`);

/** design §10 */
const BUDGET = { preview: 0.3, start: 0.25 };

const median = (figures: number[]) => [...figures].sort((a, b) => a - b)[figures.length >> 1] ?? Number.NaN;
const show = (figures: number[]) =>
  `${median(figures).toFixed(2)} s (${Math.min(...figures).toFixed(2)}–${Math.max(...figures).toFixed(2)})`;

async function timed(work: () => Promise<unknown>): Promise<number> {
  const begun = performance.now();
  await work();
  return (performance.now() - begun) / 1000;
}

/** As a person's: run by the language host. */
const program = path.join(ROOT, "scripts/bench/program.ts");

const twin = await startTwin({ dir: path.join(scratch("bench-twin"), "twin") });
const ours = await testStack("ours", scratch("bench-ours"), { lab: hostOf(twin) }, program);
const engine = await testStack(
  "engine",
  scratch("bench-engine"),
  {},
  program,
  path.join(ROOT, "scripts/bench/null-provider"),
);
const must = async (stack: TestStack, command: "up" | "preview") => {
  const outcome = await stack[command]();
  if (!outcome.ok) throw new Error(outcome.output);
  if (command === "preview" && (outcome.changes["same"] ?? 0) !== 3)
    throw new Error(`changes in a no-change preview:\n${outcome.output}`);
};
for (const stack of [ours, engine]) {
  await must(stack, "up");
  await must(stack, "preview"); // warm
}

const times = { ours: [] as number[], engine: [] as number[] };
const before = twin.counters();
for (let i = 0; i < runs; i++) {
  times.engine.push(await timed(() => must(engine, "preview")));
  times.ours.push(await timed(() => must(ours, "preview")));
}
const after = twin.counters();

/** From start to the port on standard output. */
const providerStart = () =>
  timed(
    () =>
      new Promise<void>((resolve, reject) => {
        const child = spawn(path.join(ROOT, "provider/pulumi-resource-guidomain"), {
          stdio: ["ignore", "pipe", "inherit"],
        });
        child.once("error", reject);
        child.stdout.once("data", () => {
          child.kill("SIGINT");
          resolve();
        });
      }),
  );
await providerStart(); // warm
const starts: number[] = [];
for (let i = 0; i < runs; i++) starts.push(await providerStart());

const above = times.ours.map((t, i) => t - (times.engine[i] ?? 0));
const verdict = (figure: number, budget: number) =>
  `${figure <= budget ? "within" : "OVER"} the budget of ${budget} s`;
process.stdout.write(`No-change preview of one host, 3 resources, ${runs} runs in turn; median (least–most)
  engine, provider without a host   ${show(times.engine)}
  guidomain                         ${show(times.ours)}
  above the engine, pair by pair    ${show(above)}  ${verdict(median(above), BUDGET.preview)}
Provider, start to port             ${show(starts)}  ${verdict(median(starts), BUDGET.start)}
A preview's traffic, counted by the host:
`);
for (const [what, count] of Object.entries(after))
  process.stdout.write(`  ${what.padEnd(16)} ${(count - before[what as keyof typeof before]) / runs}\n`);
await twin.stop();
