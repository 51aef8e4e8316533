/** All cases, or a sample of them, on several light hosts at once; and the negative controls. */
import { LightHost, type World } from "../../lab/light/host.ts";
import { type Case, CONTROLS, casesOf, sampleOf, standingCases, TRANSITIONS } from "./cases.ts";
import { type Goldens, makeGoldens, type Outcome, type Parts, record, runCase } from "./runner.ts";

export interface Options {
  sample?: number;
  seed: number;
  only?: (id: string) => boolean;
  hosts: number;
  /** The negative controls, too. */
  controls: boolean;
  verbose?: boolean;
  list?: boolean;
  say: (text: string) => void;
}

export interface Row {
  cases: number;
  usable: number;
  converged: number;
  /** Cases that took a hand on the power button. */
  hands: number;
  /** Virtual seconds from the fault to a usable screen. */
  seconds: { min: number; median: number; max: number };
}

export interface Summary {
  cases: number;
  usable: number;
  converged: number;
  /** Cases that exist; a sample runs fewer. */
  known: number;
  /** Steps that the product exports and no transition passes: they were never struck. */
  unreached: string[];
  byFault: Record<string, Row>;
  byTransition: Record<string, Row>;
  /** By what was off: in how many cases that was to be seen. */
  controls: Record<string, { cases: number; shown: number; counts: string }>;
  outcomes: Outcome[];
  seconds: number;
  good: boolean;
}

export async function runFaults(options: Options): Promise<Summary> {
  const begun = performance.now();
  const hosts = [new LightHost()];
  const [first] = hosts as [LightHost];
  try {
    const goldens = await makeGoldens(first);
    const { known, unreached } = await allCases(first, goldens);
    const chosen = options.only ? known.filter((one) => options.only?.(one.id)) : known;
    const cases = options.sample === undefined ? chosen : sampleOf(chosen, options.sample, options.seed);
    if (options.list) {
      for (const { id } of cases) options.say(id);
      return summaryOf([], known, unreached, {}, begun);
    }
    for (let n = 1; n < options.hosts; n++) hosts.push(await hostWith(goldens));
    const outcomes = await runAll(hosts, goldens, cases, options);
    const controls = options.controls ? await runControls(hosts, goldens, known, options) : {};
    const summary = summaryOf(outcomes, known, unreached, controls, begun);
    print(summary, options.say);
    return summary;
  } catch (error) {
    for (const { stderr } of hosts) options.say(stderr.slice(-5000));
    throw error;
  } finally {
    for (const host of hosts) host.close();
  }
}

async function allCases(host: LightHost, goldens: Goldens): Promise<{ known: Case[]; unreached: string[] }> {
  const cases: Case[] = [];
  const passed = new Set<string>();
  for (const transition of TRANSITIONS) {
    const points = await record(host, goldens, transition);
    for (const [, name] of points) passed.add(name);
    cases.push(...casesOf(transition, points));
  }
  const exported = new Set(Object.values(await host.steps()).flat());
  return {
    known: [...standingCases(await host.named()), ...cases],
    unreached: [...exported].filter((name) => !passed.has(name)),
  };
}

async function runAll(
  hosts: LightHost[],
  goldens: Goldens,
  cases: Case[],
  { say, verbose }: Pick<Options, "say" | "verbose">,
): Promise<Outcome[]> {
  const outcomes: Outcome[] = [];
  await shared(hosts, goldens, cases, { parts: [] }, (outcome, said) => {
    outcomes.push(outcome);
    const { id, problems, end, seconds, cycles, milliseconds } = outcome;
    const bad = problems.length > 0;
    if (bad || verbose)
      say(
        `${bad ? "FAILED " : "ok     "} ${id}: end ${end}, ${Math.round(seconds)} s, hands ${cycles}, took ${Math.round(milliseconds)} ms${problems.map((p) => `\n         ${p}`).join("")}`,
      );
    if (verbose && said) say(said.trimEnd().replace(/^/gm, "       | "));
  });
  return outcomes;
}

/** Every host takes the next case when it is done with one. A case that hangs costs its host, no more. */
async function shared(
  hosts: LightHost[],
  goldens: Goldens,
  cases: Case[],
  off: Parts,
  done: (outcome: Outcome, said: string) => void,
): Promise<void> {
  const queue = [...cases];
  await Promise.all(
    hosts.map(async (_, n) => {
      for (let one = queue.shift(); one; one = queue.shift()) {
        const host = hosts[n] as LightHost;
        let timer: NodeJS.Timeout | undefined;
        const hangs = new Promise<null>((resolve) => {
          timer = setTimeout(resolve, CASE_LIMIT, null);
        });
        const running = runCase(host, goldens, one, off);
        running.catch(() => {});
        const outcome = await Promise.race([running, hangs]);
        clearTimeout(timer);
        done(outcome ?? hung(one), host.stderr);
        host.stderr = "";
        if (outcome === null) {
          host.close();
          hosts[n] = await hostWith(goldens);
        }
      }
    }),
  );
}

const SHOWN: Record<(typeof CONTROLS)[number]["counts"], (outcome: Outcome) => boolean> = {
  "locked out": ({ usable }) => !usable,
  "needs a hand": ({ cycles }) => cycles > 0,
  "half done": ({ problems }) =>
    problems.some((text) => text.startsWith("neither as before nor as confirmed")),
};

/** Of each negative control. */
const CONTROL_CASES = 10;
/** Real milliseconds. */
const CASE_LIMIT = 60_000;

const hung = ({ id, kind }: Case): Outcome => ({
  id,
  kind,
  struck: true,
  usable: false,
  converged: false,
  cycles: 1,
  seconds: 0,
  end: null,
  problems: [`it has not ended in ${CASE_LIMIT / 1000} s`],
  milliseconds: CASE_LIMIT,
});

async function hostWith(goldens: Goldens): Promise<LightHost> {
  const host = new LightHost();
  for (const [name, made] of Object.entries(goldens)) await host.keep(name, made.golden);
  return host;
}

/** What must go wrong where a part is missing; else the cases above would prove nothing. */
async function runControls(
  hosts: LightHost[],
  goldens: Goldens,
  known: Case[],
  { say, verbose }: Pick<Options, "say" | "verbose">,
): Promise<Summary["controls"]> {
  const found: Summary["controls"] = {};
  for (const { name, parts, world, cases, counts } of CONTROLS) {
    const chosen = sampleOf(known.filter(cases), CONTROL_CASES, 1);
    let shown = 0;
    await shared(hosts, goldens, chosen, { parts, ...(world && { world }) }, (outcome) => {
      if (SHOWN[counts](outcome)) shown++;
      if (verbose) say(`${name}: ${outcome.id}: end ${outcome.end}: ${outcome.problems.join("; ")}`);
    });
    found[name] = { cases: chosen.length, shown, counts };
  }
  return found;
}

function rowOf(outcomes: Outcome[]): Row {
  const seconds = outcomes.map((o) => o.seconds).sort((a, b) => a - b);
  const at = (share: number) =>
    Math.round(seconds[Math.min(seconds.length - 1, Math.floor(seconds.length * share))] ?? 0);
  return {
    cases: outcomes.length,
    usable: outcomes.filter((o) => o.usable).length,
    converged: outcomes.filter((o) => o.converged && o.problems.length === 0).length,
    hands: outcomes.filter((o) => o.cycles > 0).length,
    seconds: { min: at(0), median: at(0.5), max: at(1) },
  };
}

function grouped(outcomes: Outcome[], keyOf: (outcome: Outcome) => string): Record<string, Row> {
  const groups = new Map<string, Outcome[]>();
  for (const outcome of outcomes)
    groups.set(keyOf(outcome), [...(groups.get(keyOf(outcome)) ?? []), outcome]);
  return Object.fromEntries(
    [...groups].sort(([a], [b]) => (a < b ? -1 : 1)).map(([key, all]) => [key, rowOf(all)]),
  );
}

function summaryOf(
  outcomes: Outcome[],
  known: Case[],
  unreached: string[],
  controls: Summary["controls"],
  begun: number,
): Summary {
  const { cases, usable, converged } = rowOf(outcomes);
  const silent = Object.values(controls).some((control) => control.shown === 0);
  return {
    cases,
    usable,
    converged,
    known: known.length,
    unreached,
    byFault: grouped(outcomes, (o) => o.kind),
    byTransition: grouped(outcomes, (o) => o.id.split("/")[0] ?? ""),
    controls,
    outcomes,
    seconds: Math.round((performance.now() - begun) / 1000),
    good: usable === cases && converged === cases && !silent && unreached.length === 0,
  };
}

function print(summary: Summary, say: (text: string) => void): void {
  const table = (title: string, rows: Record<string, Row>) => {
    say(`\n${title.padEnd(22)} cases usable converged hands   seconds to a usable screen: min median max`);
    for (const [name, { cases, usable, converged, hands, seconds }] of Object.entries(rows))
      say(
        `${name.padEnd(22)} ${String(cases).padStart(5)} ${String(usable).padStart(6)} ${String(converged).padStart(9)} ${String(hands).padStart(5)} ${" ".repeat(25)}${[seconds.min, seconds.median, seconds.max].map((s) => String(s).padStart(7)).join("")}`,
      );
  };
  table("fault", summary.byFault);
  table("transition", summary.byTransition);
  say("");
  for (const [name, { cases, shown, counts }] of Object.entries(summary.controls))
    say(`negative control, ${name}: ${counts} in ${shown} of ${cases} cases`);
  if (summary.unreached.length) say(`\nno transition passes the steps ${summary.unreached.join(", ")}`);
  say(`\n${summary.seconds} s for ${summary.cases} of ${summary.known} cases`);
  say(`cases ${summary.cases}, usable ${summary.usable}, converged ${summary.converged}`);
}

export type { World };
