// What is left when an apply is interrupted: by Ctrl-C, by a line that is cut or goes silent, by a killed agent, provider or engine, and
// by another run. Real engine, real plugin, as a person starts them. The host is as before or as wanted, never in between.
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { alive, type ProcessId, signal } from "../lab/twin/process.ts";
import { layout } from "../lab/twin/sandbox.ts";
import { startTwin, type TwinDump } from "../lab/twin/twin.ts";
import { bundleOf, readBundle } from "../src/host/bundle.ts";
import { AgentFailure } from "../src/host/errors.ts";
import { parseHosts } from "../src/host/inventory.ts";
import { HostPool } from "../src/host/pool.ts";
import type { Applied } from "../src/host/session.ts";
import { startRelay } from "../src/host/testing/relay.ts";
import { hostOf, scratch } from "./harness.ts";
import { Hold, until } from "./hold.ts";
import { Project, type Run } from "./project.ts";

const folder = scratch("interruption");
const twin = await startTwin({ dir: path.join(folder, "twin") });
// As on any host, the network runs; a download by qubes-dom0-update would start it otherwise.
await twin.exec("qvm-start sys-firewall");
const relay = await startRelay(twin.port);

/** The provider reaches the twin over the relay. */
const hosts = JSON.stringify({ lab: hostOf(twin, { port: relay.port }) });
const program = (qube: string) => `
const host = new Host("lab");
new GuiDomain("${qube}", { host, clients: config.requireObject("clients"), maxmem: config.requireNumber("maxmem") });
`;

async function project(name: string, qube: string, clients: string[]): Promise<Project> {
  const made = new Project(path.join(folder, name), program(qube));
  await made.run("stack", "init", name);
  await made.configure("guidomain:hosts", hosts);
  await made.configure("clients", JSON.stringify(clients));
  await made.configure("maxmem", "4000");
  return made;
}

const site = await project("site", "sys-gui", ["personal"]);
const other = await project("other", "gui-work", ["vault"]);
const pristine = await twin.dump();

const root = layout(twin.dir).root;
const JOURNAL = path.join(root, "var/lib/guidomain/journal.json");
/** Times of an apply in the ledger. */
const TIMES = { ignore: ["files./var/lib/guidomain/ledger.json"] };

const test = suite("interruption");
test.after.each(() => Hold.releaseAll());
test.after(async () => {
  await relay.stop();
  await twin.remove();
});
const say = (text: string) => process.stdout.write(`\n    ${text}\n`);
const s = (seconds: number) => `${seconds.toFixed(2)} s`;

const lockFree = () =>
  until(
    async () => (await twin.exec("test -e /run/guidomain.lock")).code !== 0,
    "the host's lock is free",
    30,
  );
const live = async (qube: string, property: string) =>
  (await twin.exec(`qvm-prefs ${qube} ${property}`)).stdout.trim();

/** The host is as it was, and nothing of the interrupted apply is left on it. */
async function asBefore(before: TwinDump): Promise<number> {
  const seconds = await lockFree();
  assert.not(existsSync(JOURNAL), "no journal is left");
  assert.equal(twin.compare(before, await twin.dump()), []);
  return seconds;
}

/** The state was saved and holds nothing that a person must clear away. */
async function stateIsWhole(of = site): Promise<void> {
  const { pending_operations: pending } = await of.deployment();
  assert.equal(pending ?? [], []);
}

/** The next `up` does it without any work by hand. */
async function nextUpConverges(maxmem: string): Promise<void> {
  const begun = performance.now();
  const output = await site.run("up", "--yes", "--skip-preview");
  say(`the next up converges: ${s((performance.now() - begun) / 1000)}`);
  assert.is(await live("sys-gui", "maxmem"), maxmem);
  assert.not.match(output, /error:|pending operation/i);
  assert.not(existsSync(JOURNAL));
  await lockFree();
  assert.match(await site.run("preview"), /\b3 unchanged/);
  assert.is((await gui())?.outputs?.["state"], "ready");
}

const gui = async () => (await site.deployment()).resources?.find(({ urn }) => urn.endsWith("::sys-gui"));

/** Starts an `up` and waits until it is held. */
async function held(
  command: ConstructorParameters<typeof Hold>[1],
  ...args: string[]
): Promise<{ hold: Hold; run: Run }> {
  const hold = new Hold(twin, command);
  const run = site.up(...args);
  await Promise.race([
    hold.reached(),
    run.ended.then(() => Promise.reject(new Error(`up ended before it was held:\n${run.output}`))),
  ]);
  return { hold, run };
}

let size = 4000;
/** What the program describes from now on; text as the host shows it. */
async function describeAnew(): Promise<string> {
  size += 10;
  await site.configure("maxmem", String(size));
  return String(size);
}

// ------------------------------------------------------------------------------------------------------ Ctrl-C

test("Ctrl-C while Salt creates the GUI domain", async () => {
  const { hold, run } = await held("qubes-policy-lint");
  assert.is((await twin.exec("qvm-check -q sys-gui")).code, 0, "it is in the middle");
  const seconds = await run.interrupt();
  hold.release();
  assert.is.not(await run.ended, 0);
  say(`engine ended ${s(seconds)} after Ctrl-C, lock free ${s(await asBefore(pristine))} later`);
  assert.ok(seconds < 5, `${seconds} s`);
  assert.match(run.output, /GUI domain sys-gui on host lab: .*cancelled/);
  assert.match(run.output, /[Cc]hanged and put back|puts back by itself/);
  assert.match(run.output, /"pulumi up" again/);
  await stateIsWhole();
  await nextUpConverges("4000");
});

test("Ctrl-C while Salt changes it", async () => {
  const before = await twin.dump();
  const maxmem = await describeAnew();
  const { hold, run } = await held("qubesctl");
  assert.is(await live("sys-gui", "maxmem"), maxmem, "Salt has changed it");
  const seconds = await run.interrupt();
  hold.release();
  say(`engine ended ${s(seconds)} after Ctrl-C, lock free ${s(await asBefore(before))} later`);
  assert.ok(seconds < 5, `${seconds} s`);
  await stateIsWhole();
  await nextUpConverges(maxmem);
});

test("Ctrl-C during a preview", async () => {
  const before = await twin.dump();
  const hold = new Hold(twin, "rpm");
  const run = site.start("preview");
  await hold.reached();
  const seconds = await run.interrupt();
  hold.release();
  say(`engine ended ${s(seconds)} after Ctrl-C`);
  assert.ok(seconds < 5, `${seconds} s`);
  assert.is.not(await run.ended, 0);
  await asBefore(before);
  assert.match(await site.run("preview"), /\b3 unchanged/);
});

test("Ctrl-C while waiting for the host's lock", async () => {
  const before = await twin.dump();
  const maxmem = await describeAnew();
  const { hold, run: first } = await held("qubesctl");
  const second = other.up();
  await until(
    () => /lock: waiting for/.test(second.output) || second.child.exitCode !== null,
    "it waits for the lock",
  );
  const seconds = await second.interrupt();
  say(`engine ended ${s(seconds)} after Ctrl-C`);
  assert.ok(seconds < 5, `${seconds} s`);
  assert.not.match(second.output, /put back: /);
  assert.match(
    (await twin.exec("cat /run/guidomain.lock")).stdout,
    /stack site/,
    "the other one's lock is left alone",
  );
  hold.release();
  assert.is(await first.ended, 0, first.output);
  assert.is(await live("sys-gui", "maxmem"), maxmem);
  const differing = twin.compare(before, await twin.dump(), TIMES);
  assert.ok(
    differing.some((line) => /sys-gui.*maxmem/.test(line)),
    differing.join("\n"),
  );
  assert.not.match(differing.join("\n"), /gui-work|vault/, "the second has changed nothing");
  await stateIsWhole(other);
});

// ---------------------------------------------------------------------------------------------------- the line

/** Cuts the line at a moment of an apply; what `up` says then. */
async function cutDuring(command: ConstructorParameters<typeof Hold>[1]): Promise<string> {
  const { hold, run } = await held(command);
  relay.cut();
  const begun = performance.now();
  assert.is.not(await run.ended, 0, run.output);
  say(`engine ended ${s((performance.now() - begun) / 1000)} after the cut`);
  const seconds = await lockFree();
  hold.release();
  say(`lock free ${s(seconds)} later`);
  return run.output;
}

function saysWhatIsKnown(output: string): void {
  assert.match(
    output,
    /GUI domain sys-gui on host lab: the line to 127\.0\.0\.1 was lost: .*, while a change was being applied/,
  );
  assert.match(
    output,
    /The host ends the change by itself: it puts back what it had changed, or keeps all of it/,
  );
  assert.match(output, /Check the network and whether the machine is still on, then run it again\./);
  assert.not.match(output, /Nothing was changed/);
}

test("the line is cut before the apply: a new one is made, and nobody notices", async () => {
  const maxmem = await describeAnew();
  const before = relay.connections();
  const { hold, run } = await held("rpm");
  relay.cut(); // in the middle of the look; it is taken again
  hold.release();
  assert.is(await run.ended, 0, run.output);
  assert.is(relay.connections() - before, 3); // the last one confirms the change
  assert.is(await live("sys-gui", "maxmem"), maxmem);
  await stateIsWhole();
});

for (const [moment, command] of [
  ["while Salt runs", "qubesctl"],
  ["while the result is checked", "qrexec-policy-exec"],
] as const)
  test(`the line is cut ${moment}`, async () => {
    const before = await twin.dump();
    const maxmem = await describeAnew();
    saysWhatIsKnown(await cutDuring(command));
    await asBefore(before);
    await stateIsWhole();
    await nextUpConverges(maxmem);
  });

test("the line is cut while things are staged", async () => {
  const before = await twin.dump();
  const maxmem = await describeAnew();
  const run = site.up();
  await until(() => existsSync(JOURNAL) || run.child.exitCode !== null, "the journal");
  relay.cut();
  assert.is.not(await run.ended, 0, run.output);
  saysWhatIsKnown(run.output);
  await asBefore(before);
  await stateIsWhole();
  await nextUpConverges(maxmem);
});

test("the line is cut between the answer's sending and its arrival: nobody confirms it, so it is undone", async () => {
  const before = await twin.dump();
  const maxmem = await describeAnew();
  const { hold, run } = await held("qrexec-policy-exec");
  relay.freeze();
  hold.release();
  await lockFree();
  relay.cut();
  relay.thaw();
  assert.is.not(await run.ended, 0, run.output);
  saysWhatIsKnown(run.output);
  await until(async () => !existsSync(JOURNAL), "the agent has undone it", 30);
  await asBefore(before);
  await stateIsWhole();
  await nextUpConverges(maxmem);
});

test("a line that goes silent is noticed, and what the host then does is found", async () => {
  const maxmem = await describeAnew();
  const { hold, run } = await held("qubesctl");
  const frozen = performance.now();
  relay.freeze();
  assert.is.not(await run.ended, 0, run.output);
  const seconds = (performance.now() - frozen) / 1000;
  say(`engine ended ${s(seconds)} after the line went silent`);
  assert.ok(seconds < 15, `${seconds} s`);
  saysWhatIsKnown(run.output);
  assert.match(run.output, /nothing was heard for/);
  relay.thaw();
  // The host has not noticed: the next run meets the apply that still goes on, and waits for it.
  const next = site.up();
  await until(
    () => /lock: waiting for .*stack site/.test(next.output) || next.child.exitCode !== null,
    "it waits",
  );
  hold.release();
  assert.is(await next.ended, 0, next.output);
  assert.is(await live("sys-gui", "maxmem"), maxmem);
  await stateIsWhole();
  await nextUpConverges(maxmem);
});

// ------------------------------------------------------------------------------------------------------- kills

/** Its command line; empty when it has ended. */
const command = (one: ProcessId) => (alive(one) ? readFileSync(`/proc/${one.pid}/cmdline`, "utf8") : "");

test("the agent is killed while Salt runs", async () => {
  const maxmem = await describeAnew();
  const { hold, run } = await held("qubesctl");
  const { pid } = JSON.parse((await twin.exec("cat /run/guidomain.lock")).stdout) as { pid: number };
  await twin.exec(`kill -9 ${pid}`);
  assert.is.not(await run.ended, 0, run.output);
  hold.release();
  assert.match(run.output, /GUI domain sys-gui on host lab: the agent was killed by SIGKILL|the agent ended/);
  assert.match(
    run.output,
    /What was changed stands in the host's journal, and the next apply puts it back first/,
  );
  await stateIsWhole();
  await nextUpConverges(maxmem);
});

test("the provider is killed while Salt runs", async () => {
  const before = await twin.dump();
  const maxmem = await describeAnew();
  const { hold, run } = await held("qubesctl");
  const provider = run.processes().find((p) => command(p).includes("provider/main.ts"));
  assert.ok(provider);
  signal(provider, "SIGKILL");
  assert.is.not(await run.ended, 0, run.output);
  hold.release();
  say(
    `the engine says: ${run.output
      .split("\n")
      .filter((l) => /error/.test(l))
      .join(" | ")
      .slice(0, 400)}`,
  );
  await asBefore(before);
  await nextUpConverges(maxmem);
});

test("the engine is killed while Salt runs: the provider ends by itself; at most `pulumi cancel` is needed", async () => {
  const before = await twin.dump();
  const maxmem = await describeAnew();
  const { hold, run } = await held("qubesctl");
  const all = run.processes();
  const provider = all.find((p) => command(p).includes("provider/main.ts"));
  assert.ok(provider);
  process.kill(run.pid, "SIGKILL");
  const orphan = await until(() => command(provider) === "", "the provider has ended", 10);
  say(`the provider ended ${s(orphan)} after its engine`);
  await run.ended;
  await asBefore(before);
  hold.release();
  const locked = await site.fails("up", "--yes", "--skip-preview");
  assert.match(locked, /currently locked by 1 lock\(s\)/);
  assert.match(locked, /pulumi cancel/);
  await site.run("cancel", "--yes");
  await nextUpConverges(maxmem);
});

// ------------------------------------------------------------------------------------------------- another run

test("a run that finds the host's lock held waits and succeeds", async () => {
  const maxmem = await describeAnew();
  const { hold, run: first } = await held("qubesctl");
  const second = other.up();
  await until(
    () => /lock: waiting for .*stack site/.test(second.output) || second.child.exitCode !== null,
    "it waits",
  );
  hold.release();
  assert.equal([await first.ended, await second.ended], [0, 0], first.output + second.output);
  assert.is(await live("sys-gui", "maxmem"), maxmem);
  assert.is(await live("personal", "guivm"), "sys-gui");
  assert.is(await live("vault", "guivm"), "gui-work");
});

test("a holder that stays is named", async () => {
  const maxmem = await describeAnew();
  const { hold, run: first } = await held("qubesctl");
  await other.configure("maxmem", "4100");
  const refused = await other.fails("up", "--yes", "--skip-preview");
  assert.match(
    refused,
    /GUI domain gui-work on host lab: \S+@\S+, stack site, process \d+ has held this host since/,
  );
  assert.match(refused, /Nothing was changed on the host\. Wait until that run has ended, then run again\./);
  hold.release();
  assert.is(await first.ended, 0, first.output);
  await other.run("up", "--yes", "--skip-preview");
  assert.is(await live("gui-work", "maxmem"), "4100");
  await nextUpConverges(maxmem);
});

test("after all that, destroy puts back what was there at first", async () => {
  await other.run("destroy", "--yes", "--skip-preview");
  await site.run("destroy", "--yes", "--skip-preview");
  assert.equal(twin.compare(pristine, await twin.dump()), []);
});

// -------------------------------------------------------------------------------------------- negative control

const APPLY: Applied = {
  holder: "control",
  wait: 0,
  owner: "urn:control",
  touch: ["property:vault:maxmem"],
  release: [],
  shutdown: [],
  formula: {
    "guidomain/control.sls": `
changed: { "qube.properties": [ {name: vault}, {set: {maxmem: "777"}} ] }
fails: { test.fail_without_changes: [ {order: last} ] }
`,
  },
  sls: "guidomain.control",
  modules: {},
  verify: [],
  restart: [],
};

test("control: with the undo switched off the comparison sees the harm; with it on it sees none", async () => {
  const { saltModules } = await import("../src/formula/modules.ts");
  const real = readBundle();
  const modules = JSON.parse(real.text) as Record<string, string>;
  modules["journal"] +=
    '\ndef undo(record, emit, run, done=lambda outcome: None):\n    outcome = {"changed": [], "undone": [], "left": {}}\n' +
    "    done(outcome)\n    end()\n    return outcome\n";
  const failing = async (bundle: typeof real) => {
    const pool = new HostPool({
      hosts: parseHosts({ lab: hostOf(twin) }, "this test"),
      packages: [],
      bundle,
    });
    const error = await pool
      .session("lab")
      .apply({ ...APPLY, modules: await saltModules() })
      .catch((reason: unknown) => reason);
    await pool.close();
    assert.instance(error, AgentFailure);
    return twin.compare(pristine, await twin.dump());
  };
  assert.equal(await failing(real), []);
  const harm = await failing(bundleOf(real.loader, modules));
  assert.ok(
    harm.some((line) => /vault.*maxmem.*777/.test(line)),
    harm.join("\n"),
  );
});

test.run();
