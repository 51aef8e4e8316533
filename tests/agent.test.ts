/** The agent and our Salt states on the twin, over OpenSSH's client: real Salt, the Admin API, kills and cut lines. */
import { type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import * as v from "valibot";
import { startTwin } from "../lab/twin/twin.ts";
import { readBundle } from "../src/host/bundle.ts";
import {
  AgentError,
  type ApplyArgs,
  ApplyResult,
  Hello,
  NO_CLAIMS,
  Reply,
  Snapshot,
  type Verification,
  Waiting,
} from "../src/host/protocol.ts";

const agents = suite("agent on the twin");
const folder = mkdtempSync(join(tmpdir(), "guidomain-agent-"));
const twin = await startTwin({
  dir: join(folder, "twin"),
  world: { repository: { "dummy-psu-sender": "4.3.1" } },
});
// Installing a package starts the qubes it is downloaded through; up already, they are clients of the GUI domain.
await twin.exec("qvm-start sys-firewall");
const bundle = readBundle();
const salt = (name: string) => readFileSync(new URL(`../salt/${name}`, import.meta.url), "utf8");
const modules = {
  "_states/boot.py": salt("_states/boot.py"),
  "_states/qube.py": salt("_states/qube.py"),
  "_utils/converge.py": salt("_utils/converge.py"),
  "_utils/grub.py": salt("_utils/grub.py"),
  "_utils/qubes_admin.py": salt("_utils/qubes_admin.py"),
};

type Answer = v.InferOutput<typeof Reply>;

/** One session with the agent, as the controller starts it. */
class Session {
  readonly process: ChildProcessWithoutNullStreams;
  readonly events: string[] = [];
  readonly #lines: AsyncIterator<string>;
  #id = 0;

  private constructor() {
    const loader = `'${bundle.loader.replaceAll("'", "'\\''")}'`;
    this.process = spawn("ssh", [
      ...["-i", twin.identityFile, "-p", String(twin.port), "-F", "none", "-o", "BatchMode=yes"],
      ...["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"],
      `${twin.user}@127.0.0.1`,
      `python3 -IS -c ${loader} ${bundle.digest}`,
    ]);
    this.process.stdin.on("error", () => {});
    this.#lines = createInterface({ input: this.process.stdout })[Symbol.asyncIterator]();
  }

  static async open(): Promise<Session> {
    const session = new Session();
    if (!JSON.parse(await session.line()).stored) session.process.stdin.write(`${bundle.text}\n`);
    assert.is(v.parse(Hello, JSON.parse(await session.line())).agent, bundle.digest);
    return session;
  }

  async line(): Promise<string> {
    const { value, done } = await this.#lines.next();
    if (done) throw new Error(`the agent is gone: ${this.process.stderr.read() ?? ""}`);
    return value;
  }

  send(op: string, args: object): number {
    this.process.stdin.write(`${JSON.stringify({ id: ++this.#id, op, args })}\n`);
    return this.#id;
  }

  /** The next message that is not an event, or the next event of that stage. */
  async next(stage?: string): Promise<Answer> {
    while (true) {
      const answer = v.parse(Reply, JSON.parse(await this.line()));
      if (!("event" in answer)) return answer;
      this.events.push(`${answer.event.stage}: ${answer.event.text}`);
      if (answer.event.stage === stage) return answer;
    }
  }

  async snapshot(packages: string[] = []): Promise<Snapshot> {
    this.send("snapshot", { packages });
    return v.parse(Snapshot, ok(await this.next()));
  }

  /** A change up to where it waits. */
  async begin(args: ApplyArgs): Promise<v.InferOutput<typeof Waiting>> {
    this.send("apply", args);
    return v.parse(Waiting, ok(await this.next()));
  }

  /** The whole of a live change: this session makes it, another one confirms it. */
  async apply(args: ApplyArgs): Promise<v.InferOutput<typeof ApplyResult>> {
    const { id, states, evidence, restarted } = await this.begin(args);
    const other = await Session.open();
    try {
      other.send("confirm", { id, holder: args.holder, snapshot: { packages: [] } });
      const result = v.parse(ApplyResult, ok(await other.next()));
      return { ...result, states: [...states, ...result.states], evidence, restarted };
    } finally {
      await other.end();
    }
  }

  async failing(args: ApplyArgs): Promise<v.InferOutput<typeof AgentError>> {
    this.send("apply", args);
    return error(await this.next());
  }

  /** Ends the session and waits until the agent itself has ended. */
  async end(): Promise<void> {
    this.process.stdin.end();
    await new Promise((resolve) => {
      if (this.process.exitCode !== null || this.process.signalCode !== null) resolve(null);
      else this.process.once("close", resolve);
    });
  }
}

function ok(answer: Answer): unknown {
  if (!("ok" in answer)) throw new Error(JSON.stringify(answer));
  return answer.ok;
}

function error(answer: Answer): v.InferOutput<typeof AgentError> {
  if (!("error" in answer)) throw new Error(`no error: ${JSON.stringify(answer).slice(0, 500)}`);
  return v.parse(AgentError, answer.error);
}

const FORMULA = `
packages:
  pkg.installed: [ {pkgs: [dummy-psu-sender]} ]
sys-gui:
  qube.present: [ {class: AppVM}, {template: fedora-43-xfce}, {label: black} ]
sys-gui properties:
  qube.properties: [ {name: sys-gui}, {set: {netvm: "", maxmem: "4000", autostart: "True", guivm: "dom0"}} ]
sys-gui features:
  qube.features: [ {name: sys-gui}, {set: {gui-allow-fullscreen: "1"}} ]
sys-gui services:
  qube.services: [ {name: sys-gui}, {"on": [guivm]} ]
sys-gui tags:
  qube.tags: [ {name: sys-gui}, {add: [owner-alice]} ]
default_guivm:
  qube.global_properties: [ {set: {default_guivm: sys-gui}} ]
/etc/qubes/policy.d/50-gui-sys-gui.policy:
  file.managed: [ {contents: "* * sys-gui @adminvm deny"}, {mode: "0664"} ]
`;
const LATE_FAILURE = `
too late:
  qube.properties: [ {name: sys-gui}, {set: {memory: "much"}}, {order: last} ]
`;
const SLOW = `
slow:
  cmd.run: [ {name: "touch /tmp/mark; sleep 60"}, {order: last} ]
`;
const DESTROY = `
default_guivm:
  qube.global_properties: [ {set: {default_guivm: dom0}} ]
/etc/qubes/policy.d/50-gui-sys-gui.policy: file.absent
sys-gui: qube.absent
packages:
  pkg.removed: [ {pkgs: [dummy-psu-sender]} ]
`;
const TOUCH = [
  "qube:sys-gui",
  "property:sys-gui:netvm",
  "property:sys-gui:maxmem",
  "property:sys-gui:memory",
  "property:sys-gui:autostart",
  "property:sys-gui:guivm",
  "feature:sys-gui:gui-allow-fullscreen",
  "feature:sys-gui:service.guivm",
  "tag:sys-gui:owner-alice",
  "global:default_guivm",
  "file:/etc/qubes/policy.d/50-gui-sys-gui.policy",
  "package:dummy-psu-sender",
];

function args(formula: string, more: Partial<ApplyArgs> = {}): ApplyArgs {
  return {
    holder: "alice@desk",
    wait: 0,
    owner: "urn:pulumi:lab::guidomain::guidomain:index:GuiDomain::sys-gui",
    touch: TOUCH,
    release: [],
    shutdown: [],
    formula: { "guidomain/sys-gui.sls": formula },
    sls: "guidomain.sys-gui",
    modules,
    inside: [],
    secrets: {},
    verify: [],
    restart: [],
    trial: { seconds: 60, boot: null, watch: null },
    keep: null,
    after: null,
    claims: NO_CLAIMS,
    ...more,
  };
}

const start = { kind: "start", id: "sys-gui starts", qube: "sys-gui", timeout: 30 } as const;

/** A test that begins with a session and the host's dump. */
function check(name: string, test: (session: Session, unchanged: () => Promise<void>) => Promise<void>) {
  agents(name, async () => {
    const before = await twin.dump();
    const session = await Session.open();
    try {
      await test(session, async () => assert.equal(twin.compare(before, await twin.dump()), []));
    } finally {
      await session.end();
    }
  });
}

async function until(condition: () => Promise<boolean>, what: string, seconds = 20): Promise<void> {
  for (const deadline = Date.now() + seconds * 1000; !(await condition()); ) {
    if (Date.now() > deadline) throw new Error(`not within ${seconds} s: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

const salts = async () => (await twin.exec("pgrep -f '[s]alt-call'")).stdout.trim();

check("a snapshot says what is there and changes nothing", async (session, unchanged) => {
  const counters = twin.counters();
  const snapshot = await session.snapshot(["dummy-psu-sender", "qubes-core-dom0"]);
  assert.match(snapshot.facts.qubesRelease ?? "", /R4\.3/);
  assert.is(snapshot.facts.xen.iommu, true);
  assert.is(snapshot.facts.pci.find((f) => f.sbdf === "0000:01:00.0")?.port, "00_01.0-00_00.0");
  assert.is(snapshot.qubes["dom0"]?.class, "AdminVM");
  assert.equal(snapshot.qubes["personal"]?.properties["guivm"], { default: true, value: "dom0" });
  assert.is(snapshot.qubes["fedora-43-xfce"]?.features["os-distribution"], "fedora");
  assert.ok(snapshot.labels.includes("black"));
  assert.ok(Object.keys(snapshot.files).some((path) => path.startsWith("/etc/qubes/policy.d/")));
  assert.is(snapshot.packages["dummy-psu-sender"], null);
  assert.equal(twin.since(counters), { connections: 0, authentications: 0, execs: 0, snapshots: 1 });
  await unchanged();
  const begun = performance.now();
  for (let i = 0; i < 5; i++) await session.snapshot();
  console.log(`  snapshot: ${((performance.now() - begun) / 5).toFixed(0)} ms`);
});

check(
  "a failing state: everything is put back, and the error says what failed",
  async (session, unchanged) => {
    const failure = await session.failing(args(FORMULA + LATE_FAILURE));
    assert.is(failure.code, "salt-failed");
    assert.match(failure.message, /memory: Failed to parse property value as int/);
    assert.not.match(failure.message, /put back|changed/, "changed, undone and left say that");
    assert.equal(
      failure.failed?.map((state) => state.id),
      ["too late"],
    );
    assert.equal(failure.left, {});
    assert.ok(failure.changed?.includes("global:default_guivm"));
    assert.equal(failure.changed, failure.undone);
    await unchanged();
  },
);

check("a formula that does not compile, a check that fails, a conflict", async (session, unchanged) => {
  assert.is((await session.failing(args("x: ["))).code, "salt-compile");
  const verify: Verification[] = [start, { kind: "host", id: "no", argv: ["false"], timeout: 5 }];
  const failure = await session.failing(args(FORMULA, { verify }));
  assert.is(failure.code, "verify-failed");
  assert.equal(
    failure.evidence?.map((e) => e.ok),
    [true, false],
  );
  assert.equal(failure.left, {});
  await unchanged();
});

check("no Salt, no change; a full disk, no change", async (session, unchanged) => {
  await twin.world({ faults: { saltMissing: true } });
  assert.match((await session.failing(args(FORMULA))).message, /qubesctl is not in dom0/);
  await twin.world({ faults: { saltMissing: undefined, diskFull: true } });
  assert.is((await session.failing(args(FORMULA))).code, "disk-full");
  await twin.world({ faults: { diskFull: undefined } });
  await unchanged();
});

check("cancel: Salt ends, the host is as before", async (session, unchanged) => {
  const id = session.send("apply", args(FORMULA + SLOW));
  await until(async () => (await twin.exec("test -e /tmp/mark")).code === 0, "the slow state");
  await twin.exec("rm /tmp/mark");
  const begun = performance.now();
  session.send("cancel", { id });
  const answers = [await session.next(), await session.next()];
  const failure = error(answers.find((answer) => answer.id === id) as Answer);
  assert.is(failure.code, "cancelled");
  assert.equal(failure.left, {});
  assert.ok(performance.now() - begun < 5000);
  assert.is(await salts(), "");
  await unchanged();
});

check("the controller is gone: the agent undoes alone", async (session, unchanged) => {
  session.send("apply", args(FORMULA + SLOW));
  await until(async () => (await twin.exec("test -e /tmp/mark")).code === 0, "the slow state");
  await twin.exec("rm /tmp/mark");
  session.process.kill("SIGKILL");
  const gone = async () => (await twin.exec("test -e /run/guidomain.lock")).code !== 0;
  await until(gone, "the lock is free");
  assert.is(await salts(), "");
  await unchanged();
});

check("a killed agent: Salt ends with it, the next apply undoes first", async (session, unchanged) => {
  session.send("apply", args(FORMULA + SLOW));
  await until(async () => (await twin.exec("test -e /tmp/mark")).code === 0, "the slow state");
  await twin.exec("rm /tmp/mark");
  const other = await Session.open();
  const holder = (await other.snapshot()).lock;
  assert.is(holder?.holder, "alice@desk");
  const failure = await other.failing(args(FORMULA));
  assert.is(failure.code, "lock-held");
  assert.equal(failure.holder, holder);
  await twin.exec(`kill -9 ${holder?.pid}`);
  await until(async () => (await other.snapshot()).lock === null, "the lock is free");
  assert.is(await salts(), "");
  const left = await other.snapshot();
  assert.equal([...(left.unfinished?.keys ?? [])].sort(), [...TOUCH].sort());
  assert.ok(left.qubes["sys-gui"]);
  assert.is((await other.failing(args("x: [", { holder: "bob" }))).code, "salt-compile");
  assert.ok(other.events.includes("recover: undoing what alice@desk left unfinished"), String(other.events));
  await other.end();
  await unchanged();
});

check("nobody confirms: the guard undoes it", async (session, unchanged) => {
  const trial = { seconds: 3, boot: null, watch: null };
  const { id } = await session.begin(args(FORMULA, { trial }));
  session.send("release", { id });
  assert.equal(ok(await session.next()), {});
  assert.is((await session.snapshot()).trial?.phase, "verified");
  await until(async () => (await session.snapshot()).trial === null, "the guard has undone it");
  const { outcome } = await session.snapshot();
  assert.is(outcome?.id, id);
  assert.is(outcome?.what, "undone");
  assert.match(outcome?.why ?? "", /not confirmed in time/);
  await until(
    async () => (await twin.exec("systemctl is-active guidomain-guard.service")).stdout.trim() !== "active",
    "the guard has ended",
  );
  await twin.exec("rm -r /var/lib/guidomain");
  await unchanged();
});

check("an unconfirmed change ends with its controller", async (session, unchanged) => {
  await session.begin(args(FORMULA));
  await session.end();
  await unchanged();
});

check("create, converge, destroy: nothing of ours stays", async (session, unchanged) => {
  const guest = { kind: "guest", id: "in it", qube: "sys-gui", timeout: 20 } as const;
  const command = "test -e /run/qubes-service/guivm && id -u";
  const made = await session.apply(args(FORMULA, { verify: [start, { ...guest, command }] }));
  assert.equal([...new Set(made.states.map((state) => state.result))], [true]);
  assert.equal(made.states[2]?.changes["property:sys-gui:maxmem"], {
    old: { default: true, value: "4000" },
    new: { default: false, value: "4000" },
  });
  assert.equal(
    made.evidence.map((e) => e.output),
    ["sys-gui is running", "0"],
  );
  assert.equal(Object.keys(made.snapshot.ledger).sort(), [...TOUCH].sort());
  assert.is(made.snapshot.ledger["qube:sys-gui"]?.first, null);
  assert.equal(made.snapshot.ledger["global:default_guivm"]?.first, { default: false, value: "dom0" });
  assert.is(made.snapshot.qubes["sys-gui"]?.state, "Running");
  const between = await twin.dump();

  const conflict = await session.failing(args(FORMULA, { owner: "urn:other" }));
  assert.is(conflict.code, "conflict");
  assert.is((await session.failing(args(FORMULA + LATE_FAILURE))).code, "salt-failed");
  assert.equal(twin.compare(between, await twin.dump()), []);
  const dry = "qubesctl --dom0-only state.sls guidomain.sys-gui saltenv=user test=True --out=json";
  const trial = JSON.parse((await twin.exec(dry)).stdout).local as Record<string, { changes: object }>;
  assert.equal(
    Object.values(trial).map((state) => Object.keys(state.changes)),
    Object.values(trial).map(() => []),
  );
  const again = await session.apply(args(FORMULA));
  assert.equal(Object.assign({}, ...again.states.map((state) => state.changes)), {});

  const destroyed = await session.apply(args(DESTROY, { release: TOUCH, shutdown: ["sys-gui"] }));
  assert.equal(destroyed.snapshot.ledger, {});
  await unchanged();
});

agents.after(async () => {
  await twin.remove();
  rmSync(folder, { recursive: true, force: true });
});
agents.run();
