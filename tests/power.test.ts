// The machine's power from inside a GUI domain, on real parts: engine, plugin, OpenSSH, agent, Salt; a twin whose qubes call dom0 by qrexec, and that goes
// down, restarts and sleeps.

import { GuiDomain, type GuiDomainArgs, Host } from "guidomain";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { startTwin } from "../lab/twin/twin.ts";
import { hostOf, mustIn, scratch, testStack } from "./harness.ts";

const folder = scratch("power");
const twin = await startTwin({ dir: `${folder}/twin` });
const must = mustIn(twin);
await must("qvm-start sys-firewall", "qvm-create --label red untrusted");
const pristine = await twin.dump();
/** Domains are numbered as they start. */
const XIDS = {
  ignore: ["sys-firewall", "sys-net"].flatMap((name) =>
    ["xid", "stubdom_xid"].map((id) => `qubes.qubes.${name}.properties.${id}.value`),
  ),
};
const SERVICE = "/etc/qubes-rpc/guidomain.Power";
const NO_SLEEP = "/etc/systemd/sleep.conf.d/50-guidomain.conf";

type Args = Omit<GuiDomainArgs, "host">;
let guis: Record<string, Args> = {
  "gui-ann": { display: ["vnc"], clients: ["personal"], level: "operator" },
  "gui-bob": { clients: ["untrusted"], level: "user" },
};
const stack = await testStack("power", folder, { lab: hostOf(twin) }, async () => {
  const host = new Host("lab");
  const made = Object.entries(guis).map(([name, args]) => new GuiDomain(name, { ...args, host }));
  return { states: made.map((one) => one.state) };
});
async function up(more: Record<string, Args> = {}): Promise<void> {
  guis = { ...guis, ...more };
  const outcome = await stack.up();
  assert.ok(outcome.ok, outcome.output);
  assert.equal(
    outcome.outputs["states"],
    Object.keys(guis).map(() => "ready"),
    outcome.output,
  );
}

const quote = (text: string) => `'${text.replaceAll("'", "'\\''")}'`;
const asks = (qube: string, call: string) =>
  `qvm-run -p --no-gui ${qube} ${quote(`qrexec-client-vm dom0 ${quote(call)} </dev/null`)}`;
/** Exit status and what the caller is told. */
async function ask(qube: string, call: string): Promise<[number, string]> {
  const { code, stdout } = await twin.exec(asks(qube, call));
  return [code, stdout.trim()];
}
/** How often the machine did that. */
const count = (what: string) => twin.machine().log.filter((each) => each.what === what).length;
/** It has woken from each of its sleeps, and no other follows at once. */
async function awake(): Promise<void> {
  for (let same = 0, i = 0; same < 10 && i < 200; i++) {
    same = count("suspend") === count("wake") ? same + 1 : 0;
    await new Promise((done) => setTimeout(done, 50));
  }
  assert.is(count("wake"), count("suspend"));
}
/** Past the time in which nothing else is done. */
const forget = () => must("rm -f /run/guidomain.power");
const journal = async () => (await twin.exec("journalctl -t guidomain")).stdout;

test("up: who may what, as dom0's policy answers to real calls", async () => {
  await up();
  assert.match((await twin.exec(`stat -c %a ${SERVICE}`)).stdout, /^755/);
  const before = twin.machine().log.length;
  for (const call of ["shutdown", "reboot", "suspend"]) {
    assert.equal(await ask("gui-bob", `guidomain.Power+${call}`), [126, ""], "a user");
    assert.equal(await ask("personal", `guidomain.Power+${call}`), [126, ""], "a client");
  }
  for (const call of [
    "guidomain.Power",
    "guidomain.Power+",
    "guidomain.Power+halt",
    "guidomain.Power+SHUTDOWN",
    "guidomain.Power+shutdown+",
    "guidomain.Power+shutdown+now",
    "guidomain.Power+shutdown now",
    "guidomain.Power+shutdown;reboot",
    "guidomain.Power+$(reboot)",
    "guidomain.Power+../shutdown",
    "guidomain.Power+-f",
    "guidomain.Power+shutdown\nreboot",
    `guidomain.Power+${"shutdown".repeat(500)}`,
    "guidomain.power+shutdown",
    "guidomain.Power-root+shutdown",
  ])
    assert.equal(await ask("gui-ann", call), [126, ""], call);
  assert.is(twin.machine().log.length, before, "and nothing happened");
});

test("the service takes one of three words and nothing else, whatever policy lets through", async () => {
  const wide = "/etc/qubes/policy.d/30-wide.policy";
  await must(`printf 'guidomain.Power * personal dom0 allow\\n' >${wide}`);
  const before = twin.machine().log.length;
  for (const call of ["", "+", "+halt", "+shutdown+now", "+--help", "+suspend_"])
    assert.is((await ask("personal", `guidomain.Power${call}`))[0], 2, call);
  assert.is(twin.machine().log.length, before);
  await must(`rm ${wide}`);
});

test("suspend: the machine sleeps once and wakes, and dom0's journal has who asked", async () => {
  const before = count("suspend");
  assert.equal(await ask("gui-ann", "guidomain.Power+suspend"), [0, "suspend"]);
  await awake();
  assert.match(await journal(), /guidomain\[\d+\]: power: suspend, asked by gui-ann\n$/);
  // Asked again, while the first is not long over.
  assert.equal(await ask("gui-ann", "guidomain.Power+suspend"), [0, "under way"]);
  assert.is(count("suspend"), before + 1);
});

/** Many at once, from inside one qube; how often each of the answers came. */
async function flood(call: string, times: number): Promise<Record<string, number>> {
  const one = `qrexec-client-vm dom0 guidomain.Power+${call} </dev/null`;
  const script = `for i in $(seq ${times}); do { ${one} || echo "status $?"; } & done; wait`;
  const { stdout } = await twin.exec(`qvm-run -p --no-gui gui-ann ${quote(script)}`);
  const said: Record<string, number> = {};
  for (const line of stdout.trim().split("\n")) said[line] = (said[line] ?? 0) + 1;
  return said;
}

test("a flood does no more than one", async () => {
  await forget();
  const before = count("suspend");
  assert.equal(await flood("suspend", 40), { suspend: 1, "under way": 39 });
  await awake();
  assert.equal(await flood("suspend", 10), { "under way": 10 });
  assert.is(count("suspend"), before + 1);
});

test("negative control: without what keeps it from that, it sleeps again and again", async () => {
  await must(`cp -p ${SERVICE} /tmp/kept`, `sed -i 's/^QUIET = .*/QUIET = {}/' ${SERVICE}`);
  await forget();
  const before = count("suspend");
  for (let i = 0; i < 3; i++) {
    await flood("suspend", 3);
    await awake();
  }
  assert.ok(count("suspend") >= before + 3);
  await must(`cp -p /tmp/kept ${SERVICE}`);
});

test("while a change of the host is under way nothing is done; it ends well", async () => {
  await forget();
  const before = twin.machine().log.length;
  await twin.world({ faults: { startSeconds: { "gui-carl": 4 } } });
  const going = up({ "gui-carl": { clients: [], level: "guest" } });
  for (let i = 0; i < 200 && (await twin.exec("qvm-check -q gui-carl")).code; i++)
    await new Promise((done) => setTimeout(done, 50));
  for (const call of ["shutdown", "reboot", "suspend"])
    assert.equal(await ask("gui-ann", `guidomain.Power+${call}`), [
      3,
      "a change of this host is under way; try again in some minutes",
    ]);
  await going;
  await twin.world({ faults: {} });
  assert.is(twin.machine().log.length, before);
  assert.match(
    await journal(),
    /power: reboot, asked by gui-ann: refused, a change of this host is under way\n/,
  );
});

test("reboot: a flood restarts it once, all is as it was", async () => {
  const number = twin.machine().number;
  await flood("reboot", 20);
  for (let i = 0; i < 300 && twin.machine().number === number; i++)
    await new Promise((done) => setTimeout(done, 100));
  assert.is((await twin.waitForBoot()).state, "running");
  await new Promise((done) => setTimeout(done, 1000));
  assert.is(twin.machine().number, number + 1);
  const preview = await stack.preview();
  assert.ok(preview.ok, preview.output);
});

test("shutdown: the machine is off", async () => {
  await must("qvm-start --skip-if-running gui-ann");
  await ask("gui-ann", "guidomain.Power+shutdown");
  await twin.until("off");
  assert.match(twin.machine().why, /poweroff/);
  assert.is((await twin.powerCycle()).state, "running");
});

test("drift of the service is told and repaired", async () => {
  await must(`chmod 644 ${SERVICE}`);
  const preview = await stack.preview();
  assert.equal(preview.diffs["gui-ann"], [`settings.files["${SERVICE}"]`], preview.output);
  await up();
  assert.match((await twin.exec(`stat -c %a ${SERVICE}`)).stdout, /^755/);
});

test("suspend blocked: dom0 itself does not sleep, and who has the rest still has it", async () => {
  await up({ "gui-ann": { ...guis["gui-ann"], suspend: "blocked" } });
  await must("qvm-start --skip-if-running gui-ann");
  const before = count("suspend");
  assert.equal(await ask("gui-ann", "guidomain.Power+suspend"), [126, ""]);
  const { code, stderr } = await twin.exec("systemctl suspend");
  assert.equal(
    [code, stderr.trim()],
    [1, "Call to Suspend failed: Sleep verb 'suspend' is disabled by config"],
  );
  assert.is(count("suspend"), before);
  await up({ "gui-ann": { display: ["vnc"], clients: ["personal"], level: "operator" } });
  assert.is((await twin.exec(`test -e ${NO_SLEEP}`)).code, 1);
});

test("without a level: what the program names; a user what it names", async () => {
  await up({
    "gui-bob": { clients: ["untrusted"], power: ["reboot"] },
    "gui-carl": { clients: [], level: "user", power: ["shutdown"] },
  });
  const may = async (qube: string, call: string) =>
    (await twin.exec(`qrexec-policy-exec --just-evaluate ${qube} dom0 guidomain.Power+${call}`)).code === 0;
  for (const [qube, allowed] of [
    ["gui-ann", "shutdown reboot suspend"],
    ["gui-bob", "reboot"],
    ["gui-carl", "shutdown"],
  ] as const)
    for (const call of ["shutdown", "reboot", "suspend"])
      assert.is(await may(qube, call), allowed.split(" ").includes(call), `${qube} ${call}`);
});

test("the service goes with the last who has it; destroy gives all back", async () => {
  await up({ "gui-ann": { display: ["vnc"], clients: ["personal"], level: "user" } });
  assert.is((await twin.exec(`test -x ${SERVICE}`)).code, 0, "the others have it");
  const gone = await stack.destroy();
  assert.ok(gone.ok, gone.output);
  await must("qvm-start --skip-if-running sys-firewall");
  assert.equal(twin.compare(pristine, await twin.dump(), XIDS), []);
});

test.after(() => twin.remove());
test.run();
