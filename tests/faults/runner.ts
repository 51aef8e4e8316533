/** Runs cases on light hosts: the fault, then nobody but the machine and at most one hand on its switch, then the next `up`. */
import type { Golden, LightHost, Passed, Settled, State, World } from "../../lab/light/host.ts";
import type { Properties } from "../../src/provider/handler.ts";
import { type Case, MAKINGS, type Transition } from "./cases.ts";
import { nothing, Run, type Stored } from "./deployment.ts";

export interface Made {
  golden: Golden;
  stored: Stored;
  state: State;
}
export type Goldens = Record<string, Made>;

export interface Outcome {
  id: string;
  kind: string;
  struck: boolean;
  usable: boolean;
  converged: boolean;
  /** Hands on the power button: 0 or 1. */
  cycles: number;
  /** Virtual seconds from the fault to a usable screen. */
  seconds: number;
  /** The golden state that the host ended in; null for none of them. */
  end: string | null;
  /** What is wrong, in order of finding. */
  problems: string[];
  milliseconds: number;
}

/** The golden states, each made by a run without a fault, and what a rescue leaves. */
export async function makeGoldens(host: LightHost): Promise<Goldens> {
  const made: Goldens = {};
  for (const { name, from, args, world = {}, happens = [], resource } of MAKINGS) {
    if (from === null) await host.install("laptop", world);
    else await host.restore(from, world);
    for (const event of happens) await host.happens(event);
    const run = new Run(host, from === null ? nothing : (made[from] as Made).stored, resource);
    if (args) await run.up(args);
    await finish(host, name);
    // The machine is whole again for whoever starts from here.
    await host.mend();
    made[name] = await take(host, name, run.stored);
  }
  const { stored } = made["gpu"] as Made;
  await host.restore("gpu", { faults: { guestNoDrm: true } });
  await finish(host, "rescued");
  await host.mend();
  made["rescued"] = await take(host, "rescued", stored);
  const odd = differences(made["rescued"].state.keys, (made["fresh"] as Made).state.keys).filter(
    (key) => !key.split(":")[1]?.startsWith("sys-gui"),
  );
  if (odd.length) throw new Error(`a rescue leaves more than the qube that was made: ${odd.join(", ")}`);
  return made;
}

async function take(host: LightHost, name: string, stored: Stored): Promise<Made> {
  const golden = await host.save();
  await host.keep(name, golden);
  return { golden, stored, state: await host.state() };
}

async function finish(host: LightHost, name: string): Promise<void> {
  const end = await host.settle();
  if (!end.usable || !end.settled || host.unknown.length)
    throw new Error(`${name}: ${JSON.stringify(end)} ${host.unknown.join("; ")} ${host.stderr}`);
}

export const differences = (one: Record<string, unknown>, other: Record<string, unknown>): string[] =>
  [...new Set([...Object.keys(one), ...Object.keys(other)])]
    .filter((key) => JSON.stringify(one[key]) !== JSON.stringify(other[key]))
    .sort();

export interface Parts {
  /** Of lab/light/controls.py: what is switched off. */
  parts: string[];
  world?: World;
}

/** The machine as the transition finds it. A mode that works came up before anything was wrong: that is so from now on. */
async function prepare(host: LightHost, transition: Transition, off: Parts = { parts: [] }): Promise<void> {
  await host.restore(transition.from, {}, off.parts);
  await host.settle();
  for (const patch of [transition.world, off.world]) if (patch) await host.world(patch);
  for (const event of transition.happens ?? []) await host.happens(event);
}

/** What a run without a fault passes. */
export async function record(host: LightHost, goldens: Goldens, transition: Transition): Promise<Passed[]> {
  await prepare(host, transition);
  await host.arm(null);
  const { stored } = goldens[transition.from] as Made;
  await operate(host, new Run(host, stored, transition.resource), transition).catch(() => {});
  await host.settle();
  return host.trace();
}

async function operate(
  host: LightHost,
  run: Run,
  { operation, args }: Transition,
): Promise<Properties | null> {
  if (operation === "up") return run.up(args);
  if (operation === "destroy") await run.destroy();
  else await host.power("reboot");
  return null;
}

export async function runCase(
  host: LightHost,
  goldens: Goldens,
  { id, transition, fault, kind }: Case,
  controls: Parts = { parts: [] },
): Promise<Outcome> {
  const begun = performance.now();
  const problems: string[] = [];
  const from = goldens[transition.from] as Made;
  await prepare(host, transition, controls);
  await host.arm(fault);
  if (!fault) await host.strike();

  // The run, and what strikes it.
  const run = new Run(host, from.stored, transition.resource);
  const dies = new Promise<null>((resolve) => {
    host.events.onControllerDies = () => {
      run.die();
      resolve(null);
    };
  });
  let second: Promise<unknown> = Promise.resolve();
  host.events.onSecond = () => {
    second = attempt(operate(host, new Run(host, run.stored, transition.resource, "two"), transition));
  };
  const said = await Promise.race([attempt(operate(host, run, transition)), dies]);
  await second;
  host.events = {};

  // Nobody is there any more but the machine; then one hand at most.
  let end = await rest(host);
  let cycles = 0;
  const seen = (settled: Settled) => settled.usable && settled.keyboards.length > 0 && settled.wayIn;
  if (!seen(end)) {
    cycles = 1;
    await host.power("cycle");
    end = await rest(host);
  }
  const { struck, seconds } = end;
  const usable = seen(end);
  if (!end.settled) problems.push("it never comes to rest");
  if (!usable) problems.push(`no usable screen: ${end.why} (${end.state}, entry ${end.entry})`);
  if (fault && !struck) problems.push("the fault has not struck");
  let where: string | null = null;
  if (end.state === "running") {
    const state = await host.state();
    if (state.policy) problems.push(`policy: ${state.policy}`);
    where = transition.ends.find((name) => isSame(state, goldens[name] as Made)) ?? null;
    if (where === null)
      problems.push(`neither as before nor as confirmed: ${nearest(state, transition.ends, goldens)}`);
    else if (said?.mode && transition.operation === "up" && !isMode(said.mode, where) && kind !== "second")
      problems.push(`the run said "${said.mode}", the host is "${where}"`);
  }

  // The next run, with whatever was broken mended.
  await host.mend();
  for (const event of transition.mended ?? []) await host.happens(event);
  await host.world({ person: true });
  await host.arm(null);
  const converged = usable && (await converges(host, goldens, run.stored, transition, problems));
  if (host.unknown.length)
    problems.push(`the laboratory does not know: ${host.unknown.splice(0).join("; ")}`);
  return {
    id,
    kind,
    struck,
    usable,
    converged,
    cycles,
    seconds,
    end: where,
    problems,
    milliseconds: performance.now() - begun,
  };
}

/** Until nothing more happens; who is asked for a passphrase comes and types it. */
async function rest(host: LightHost): Promise<Settled> {
  for (;;) {
    const end = await host.settle();
    if (end.state !== "stopped" || end.stopped !== "waiting") return end;
    await host.power("passphrase");
  }
}

interface Said {
  mode: string | null;
  error: string | null;
}

const attempt = (running: Promise<Properties | null>): Promise<Said> =>
  running.then(
    // An audio domain says where the sound goes.
    (outputs) => ({ mode: outputs ? String(outputs["mode"] ?? outputs["sound"]) : null, error: null }),
    (error: unknown) => ({ mode: null, error: error instanceof Error ? error.message : String(error) }),
  );

const isMode = (mode: string, end: string): boolean =>
  mode === "sys-audio"
    ? end === "sound"
    : mode === "gpu"
      ? /^(luks-)?gpu/.test(end)
      : mode === "xephyr"
        ? /^(xephyr|operator|admin|login)|fallback$/.test(end)
        : true;

const isSame = (state: State, golden: Made): boolean =>
  differences(state.keys, golden.state.keys).length === 0 &&
  differences(state.ledger, golden.state.ledger).length === 0;

function nearest(state: State, ends: string[], goldens: Goldens): string {
  const found = ends.map((name) => {
    const { keys, ledger } = (goldens[name] as Made).state;
    const keyed = differences(state.keys, keys).map(
      (key) => `${key} is ${show(state.keys[key])}, not ${show(keys[key])}`,
    );
    const owned = differences(state.ledger, ledger).map((key) => `ledger ${key}`);
    return { name, all: [...keyed, ...owned] };
  });
  const best = found.sort((a, b) => a.all.length - b.all.length)[0];
  return `nearest is "${best?.name}", but ${best?.all.slice(0, 6).join("; ")} (${best?.all.length})`;
}

const show = (value: unknown) => (value === undefined ? "nothing" : JSON.stringify(value).slice(0, 60));

/** The next run ends well, leaves nothing to do, and the host is what it says. */
async function converges(
  host: LightHost,
  goldens: Goldens,
  stored: Stored,
  transition: Transition,
  problems: string[],
): Promise<boolean> {
  const run = new Run(host, stored, transition.resource);
  const before = problems.length;
  if (transition.operation === "destroy" && stored.state === null) return true;
  const said = await attempt(
    transition.operation === "destroy" ? run.destroy().then(() => null) : run.up(transition.args),
  );
  if (said.error) problems.push(`the next run fails: ${said.error}`);
  else {
    const end = await host.settle();
    if (!end.usable) problems.push(`after the next run: ${end.why}`);
    const state = await host.state();
    const wanted = transition.operation === "destroy" ? ["fresh"] : finals(transition, said.mode ?? "");
    const reached = wanted.some(
      (name) => differences(state.keys, (goldens[name] as Made).state.keys).length === 0,
    );
    if (!reached) problems.push(`after the next run (mode ${said.mode}): ${nearest(state, wanted, goldens)}`);
    const litter = state.ours.filter((name) => /trial\.json|journal\.json|scratch|grubenv/.test(name));
    if (litter.length) problems.push(`after the next run there is still ${litter.join(", ")}`);
    if (transition.operation !== "destroy") {
      const paths = await run.preview(transition.args);
      if (paths.length) problems.push(`the preview after it shows ${paths.join(", ")}`);
    }
  }
  return problems.length === before;
}

/** Golden states that a run of this transition may end in, in that mode. */
const finals = ({ from, args, resource, ends }: Transition, mode: string): string[] => {
  if (resource === "PciAttachment") return ["attached"];
  if (resource === "Template") return [args["packages"] ? "inside-more" : "inside"];
  if (args["login"]) return ends.slice(-1);
  // Where it did not come up this is remembered: the sound stays with dom0.
  if (resource === "AudioDomain") return mode === "sys-audio" ? ["sound"] : ["fresh"];
  if (from.startsWith("luks")) return mode === "gpu" ? ["luks-gpu"] : ["luks-fallback"];
  if (from === "reached") return ["reached-user"];
  if (from === "operator" || from === "admin") return ends.slice(-1);
  const more = Array.isArray(args["clients"]) && args["clients"].length > 1;
  if (mode === "gpu") return more ? ["gpu-more"] : ["gpu", "gpu-from-xephyr"];
  return more ? ["xephyr-more", "xephyr-more-from-gpu"] : ["xephyr", "fallback", "xephyr-from-gpu"];
};

export type { World };
