/**
 * What a trial costs: a change that is confirmed over a new connection, beside the same formula run by hand through plain `ssh`; and the
 * way into mode "gpu" and out of it, with the twin's own boots apart. Issue 4.
 */
import { spawn } from "node:child_process";
import path from "node:path";
import type { Twin } from "../../lab/twin/twin.ts";
import { startTwin } from "../../lab/twin/twin.ts";
import { GuiDomain, type GuiDomainArgs, Host } from "../../src/resources/index.ts";
import { hostOf, scratch, testStack } from "../../tests/harness.ts";
import { print, show, timed } from "./figures.ts";

/** The formula that the last apply has left on the host, run once more. */
const BY_HAND = "qubesctl --dom0-only state.sls guidomain.sys-gui saltenv=user --out=json";

function ssh(twin: Twin, command: string): Promise<void> {
  const options = ["-p", String(twin.port), "-i", twin.identityFile, "-o", "BatchMode=yes"];
  const trust = [
    "-o",
    "StrictHostKeyChecking=no",
    "-o",
    "UserKnownHostsFile=/dev/null",
    "-o",
    "LogLevel=ERROR",
  ];
  return new Promise((done, fail) => {
    const child = spawn("ssh", [...options, ...trust, `${twin.user}@127.0.0.1`, command], {
      stdio: ["ignore", "ignore", "inherit"],
    });
    child.once("error", fail);
    child.once("exit", (code) =>
      code === 0 ? done() : fail(new Error(`ssh ${command}: exit status ${code}`)),
    );
  });
}

export async function benchTrials(runs: number): Promise<void> {
  const folder = scratch("bench-trial");
  const twin = await startTwin({ dir: path.join(folder, "twin"), machine: "laptop" });
  let args: Partial<GuiDomainArgs> = {};
  const stack = await testStack("trial", folder, { lab: hostOf(twin) }, async () => {
    const gui = new GuiDomain("sys-gui", { host: new Host("lab"), clients: "default", ...args });
    return { mode: gui.mode };
  });
  const up = async (more: Partial<GuiDomainArgs>, mode = "xephyr") => {
    args = more;
    const done = await stack.up();
    if (!done.ok || done.outputs["mode"] !== mode) throw new Error(done.output);
  };
  await up({});
  const times = { engine: [] as number[], change: [] as number[], hand: [] as number[] };
  const counted = { connections: 0, authentications: 0, execs: 0, snapshots: 0 };
  for (let run = 0; run < runs; run++) {
    times.engine.push(await timed(() => up(args)));
    const before = twin.counters();
    times.change.push(await timed(() => up({ maxmem: 3000 + run })));
    for (const [what, count] of Object.entries(twin.since(before)))
      counted[what as keyof typeof counted] += count;
    times.hand.push(await timed(() => ssh(twin, BY_HAND)));
  }
  const cost = times.change.map((seconds, run) => seconds - (times.engine[run] ?? 0));
  print(`A change of one property, a live trial on one host, ${runs} runs in turn; median (least–most)
  pulumi up without a change         ${show(times.engine)}
  pulumi up with it                  ${show(times.change)}
  the trial, pair by pair            ${show(cost)}
  the same formula by ssh, by hand   ${show(times.hand)}   (no journal, no guard, no checks)`);
  for (const [what, count] of Object.entries(counted)) print(`  ${what.padEnd(16)} ${count / runs}`);

  const boots: [string, string, Partial<GuiDomainArgs>][] = [
    ["into mode gpu", "gpu", { display: ["gpu", "xephyr"], reboot: "allowed" }],
    ["back to xephyr", "xephyr", { display: ["xephyr"], reboot: "allowed" }],
  ];
  const bare = await timed(() => twin.reboot());
  print(`A trial with a boot of its own, once each; the twin itself takes ${bare.toFixed(1)} s to reboot`);
  for (const [what, mode, more] of boots) {
    const before = twin.counters();
    const seconds = await timed(() => up(more, mode));
    const { connections, execs } = twin.since(before);
    print(`  ${what.padEnd(16)} ${seconds.toFixed(1)} s, ${connections} connections, ${execs} execs`);
  }
  await twin.remove();
}
