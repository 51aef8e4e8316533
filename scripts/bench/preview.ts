/** A no-change preview of one host beside what the engine costs without it, in turn; the provider's start. Budgets: design §10. */
import { spawn } from "node:child_process";
import path from "node:path";
import { startTwin } from "../../lab/twin/twin.ts";
import { hostOf, ROOT, scratch, type TestStack, testStack } from "../../tests/harness.ts";
import { median, show, timed } from "./figures.ts";

/** design §10 */
const BUDGET = { preview: 0.3, start: 0.25 };

/** As a person's: run by the language host. */
const program = path.join(ROOT, "scripts/bench/program.ts");

export async function benchPreview(runs: number): Promise<void> {
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
}
