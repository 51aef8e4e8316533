/** A change through its whole conversation, with an agent that plays a host which restarts, forgets and fails. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { AgentFailure } from "./errors.ts";
import { HostPool } from "./pool.ts";
import { MESSAGES, type Progress } from "./protocol.ts";
import type { HostSession } from "./session.ts";
import { agentOf, applyArgs } from "./testing/fakeAgent.ts";
import { refusal } from "./testing/refusal.ts";
import { startRelay } from "./testing/relay.ts";
import { startSshd } from "./testing/sshd.ts";

const test = suite("conversation");
const sshd = await startSshd();
const folder = mkdtempSync(join(tmpdir(), "guidomain-conversation-"));
const pools: HostPool[] = [];
test.after.each(async () => {
  await Promise.all(pools.splice(0).map((pool) => pool.close()));
});
test.after(async () => {
  rmSync(folder, { recursive: true });
  await sshd.stop();
});

/**
 * What the host does at each request, from `plan` (op → list of behaviours, one a time, the last for ever): "ok", an error
 * code, "die" (the agent is gone before its answer), "hang". Every request is logged with the agent that got it.
 */
const SOURCE = (dir: string) => `
import json, os, sys, time
DIR = ${JSON.stringify(dir)}

def send(message):
    os.write(1, json.dumps(message).encode() + b"\\n")

def behaviour(op):
    with open(DIR + "/plan") as file:
        plan = json.load(file)
    steps = plan.get(op, ["ok"])
    found = steps[0]
    plan[op] = steps[1:] or steps
    with open(DIR + "/plan", "w") as file:
        json.dump(plan, file)
    return found, plan

def empty(plan):
    return {
        "facts": {"qubesRelease": None, "kernel": "6", "bootId": "b", "cmdline": plan.get("cmdline", ""), "now": 1,
                  "freeBytes": 1, "xen": {"version": "4", "virtCaps": [], "totalMemory": 1, "freeMemory": 1, "iommu": None,
                                          "interruptRemapping": None}, "pci": [],
                  "boot": {"oneShot": None, "oneShotWhy": "", "unattended": None, "unattendedWhy": "", "hidePaths": None,
                           "args": [], "watchdog": None, "rescue": False},
                  "firmware": {"vendor": None, "product": None, "bios": None}, "cpu": None, "keyboards": None,
                  "lightdm": None},
        "qubes": {}, "globals": {}, "labels": [], "files": {}, "packages": {}, "ledger": {}, "lock": None,
        "unfinished": None, "trial": None, "outcome": plan.get("outcome"), "watch": None}

def main(digest, bundle, rest):
    with open(DIR + "/agents", "a") as file:
        file.write("x")
    me = os.path.getsize(DIR + "/agents")
    def log(text):
        with open(DIR + "/log", "a") as file:
            file.write("%d %s\\n" % (me, text))
    send({"agent": digest, "protocol": 1, "python": "3", "user": "root"})
    for line in sys.stdin.buffer:
        request = json.loads(line)
        number, op, args = request["id"], request["op"], request["args"]
        log(op)
        if op == "cancel":
            send({"id": number, "ok": {}})
            send({"id": args["id"], "error": {"code": "cancelled", "message": "cancelled", "undone": [], "left": {}}})
            continue
        found, plan = behaviour(op)
        boot = plan.get("boot")
        evidence = [{"id": op, "ok": True, "seconds": 0, "output": ""}]
        state = {"id": op, "function": "x", "result": True, "comment": "", "changes": {}}
        answers = {
            "snapshot": lambda: empty(plan),
            "apply": lambda: {"phase": "staged" if args["trial"]["boot"] else "verified", "id": "t1", "states": [state],
                              "evidence": evidence, "restarted": ["r"], "watchdog": None},
            "reboot": lambda: {"boot": "b", "watchdog": True},
            "resume": lambda: {"phase": "verified", "id": args["id"], "evidence": evidence},
            "confirm": lambda: {"states": [state], "evidence": [], "restarted": [], "left": {}, "snapshot": empty(plan)},
            "abort": lambda: {"changed": ["k"], "undone": ["k"], "left": {}, "rebooting": False},
            "release": lambda: {},
            "check": lambda: {"evidence": evidence},
        }
        if found == "hang":
            send({"id": number, "event": {"stage": op, "text": "at work"}})
            continue
        if found == "die":
            os._exit(3)
        if found == "ok":
            send({"id": number, "ok": answers[op]()})
        else:
            code, _, more = found.partition(" ")
            send({"id": number, "error": dict({"code": code, "message": "it is " + code}, **json.loads(more or "{}"))})
        if op == "reboot" and found == "ok":
            os._exit(0)
    log("end")
    os._exit(0)
`;

const BOOT = {
  trial: { seconds: 900, boot: { add: ["a=1"], remove: [] }, watch: null },
  start: "sys-gui",
  verifyBoot: [{ kind: "host" as const, id: "v", argv: ["true"], timeout: 1 }],
};
const QUICK = { retryEvery: 20, bootTimeout: 20_000 };

/** A session with a host that behaves as `plan` says, and what was asked of which agent. */
function host(
  plan: object = {},
  port = sshd.port,
): { session: HostSession; log: () => string[]; dir: string } {
  const dir = mkdtempSync(join(folder, "host-"));
  writeFileSync(join(dir, "plan"), JSON.stringify(plan));
  writeFileSync(join(dir, "log"), "");
  const pool = new HostPool({
    hosts: new Map([["t14", sshd.host("t14", { port })]]),
    packages: [],
    bundle: agentOf(SOURCE(dir)),
  });
  pools.push(pool);
  const log = () =>
    readFileSync(join(dir, "log"), "utf8")
      .split("\n")
      .filter((line) => line && !line.endsWith("end"));
  return { session: pool.session("t14"), log, dir };
}

async function failure(promise: Promise<unknown>): Promise<AgentFailure> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof AgentFailure) return error;
    throw error;
  }
  throw new Error("it was expected to fail, and did not");
}

test("a live change: apply, confirm over a new connection, release", async () => {
  const { session, log } = host();
  const result = await session.apply(applyArgs("x"));
  assert.equal(
    log(),
    MESSAGES.live.map(({ agent, op }) => `${agent} ${op}`),
  );
  assert.equal(
    result.states.map(({ id }) => id),
    ["apply", "confirm"],
  );
  assert.equal(result.restarted, ["r"]);
  await session.snapshot(); // the confirmation brought it
  assert.is(log().length, 3);
});

test("a change with a boot of its own", async () => {
  const { session, log } = host({ resume: ["not-yet", "lock-held", "ok"] });
  const seen: Progress[] = [];
  const result = await session.apply(applyArgs("x", BOOT), {
    ...QUICK,
    onProgress: (progress) => seen.push(progress),
  });
  assert.equal(log(), ["1 apply", "1 reboot", "2 resume", "3 resume", "4 resume", "5 confirm"]);
  assert.equal(
    result.evidence.map(({ id, output }) => [id, output]),
    [
      ["apply", ""],
      ["watchdog", "armed"],
      ["resume", ""],
    ],
  );
  assert.ok(seen.some(({ text }) => /^waiting for the host, \d+ s$/.test(text)));
});

test("a new connection that does not come: the host puts it back, and the error says so", async () => {
  const relay = await startRelay(sshd.port);
  const { session, log } = host({}, relay.port);
  await session.snapshot();
  await relay.refuse();
  const error = await refusal(session.apply(applyArgs("x")));
  await relay.stop();
  assert.is(error.kind, "unreachable");
  assert.match(error.message, /that was the new connection which a change must be confirmed over/);
  assert.is(error.changed, "The host has put back what had been changed");
  assert.equal(log(), ["1 snapshot", "1 apply", "1 abort"]);
});

test("a confirmation whose answer is lost is asked for again", async () => {
  const { session, log } = host({ confirm: ["die", "ok"] });
  await session.apply(applyArgs("x"));
  assert.equal(log(), ["1 apply", "2 confirm", "3 confirm", "1 release"]);
  const boot = host({ confirm: ["die", "die", "ok"], resume: ["die", 'trial-over {"phase": "verified"}'] });
  await boot.session.apply(applyArgs("x", BOOT), QUICK);
  assert.equal(boot.log().slice(2), ["2 resume", "3 resume", "4 confirm", "5 confirm", "6 confirm"]);
});

test("a confirmation whose ledger is gone with its last entry counts", async () => {
  const { session, log } = host({ confirm: ["die", "trial-over"] });
  await session.apply(applyArgs("x", BOOT), QUICK);
  assert.equal(log().slice(2), ["2 resume", "3 confirm", "4 confirm", "4 snapshot"]);
});

test("a trial that the host undid itself ends with its outcome, when the host is back", async () => {
  const outcome = {
    id: "t1",
    owner: "urn",
    what: "undone",
    why: "the trial entry did not boot",
    phase: "rebooting",
    at: 1,
    bootId: "b2",
    left: {},
  };
  const { session, log } = host({ resume: ["trial-over"], outcome });
  const error = await failure(session.apply(applyArgs("x", BOOT), QUICK));
  assert.is(error.body.code, "trial-over");
  assert.equal(error.body.outcome, outcome);
  assert.equal(log(), ["1 apply", "1 reboot", "2 resume", "3 snapshot"]);
});

test("checks that fail in the trial's boot: waits until the host is back", async () => {
  const evidence = [{ id: "screen", ok: false, seconds: 1, output: "black" }];
  const { session, log, dir } = host({
    resume: [`verify-failed ${JSON.stringify({ evidence, rebooting: true, changed: ["k"], undone: ["k"] })}`],
    cmdline: "quiet guidomain.trial=t1",
  });
  const applied = failure(
    session.apply(applyArgs("x", BOOT), {
      ...QUICK,
      onProgress: () => {
        const seen = log().filter((line) => line.endsWith("snapshot")).length;
        if (seen === 2) writeFileSync(join(dir, "plan"), JSON.stringify({ cmdline: "quiet" })); // the normal entry
      },
    }),
  );
  const error = await applied;
  assert.is(error.body.code, "verify-failed");
  assert.equal(error.body.evidence, evidence);
  assert.is(error.body.rebooting, true);
  assert.ok(log().filter((line) => line.endsWith("snapshot")).length >= 3);
});

test("a host that does not come back: when, and what it does by itself", async () => {
  const { session } = host({ resume: ["not-yet"] });
  const error = await refusal(session.apply(applyArgs("x", BOOT), { retryEvery: 20, bootTimeout: 300 }));
  assert.is(error.kind, "unreachable");
  assert.match(error.message, /^t14: it did not come back within 0 s of its reboot/);
  assert.match(error.changed ?? "", /^The host undoes the change by itself, at the latest 900 s after/);
  assert.match(error.changed ?? "", /its watchdog or a power cycle leads back to the normal one$/);
});

test("stopping: before the reboot the agent undoes, after it the host does", async () => {
  const before = new AbortController();
  const one = host({ reboot: ["hang"] });
  const stopped = failure(
    one.session.apply(applyArgs("x", BOOT), {
      ...QUICK,
      signal: before.signal,
      onProgress: ({ stage }) => stage === "reboot" && before.abort(),
    }),
  );
  assert.is((await stopped).body.code, "cancelled");
  assert.equal(one.log(), ["1 apply", "1 reboot", "1 cancel"]);

  for (const plan of [{ resume: ["not-yet"] }, { resume: ["hang"] }]) {
    const after = new AbortController();
    const other = host(plan);
    let at = 0;
    const error = await refusal(
      other.session.apply(applyArgs("x", BOOT), {
        ...QUICK,
        signal: after.signal,
        onProgress: ({ stage }) => {
          if (stage === "resume" || (plan.resume[0] === "not-yet" && other.log().length > 3)) {
            at ||= Date.now();
            after.abort();
          }
        },
      }),
    );
    assert.ok(Date.now() - at < 1000);
    assert.is(error.kind, "cancelled");
    assert.match(error.changed ?? "", /The host undoes the change by itself/);
  }

  const live = new AbortController();
  const third = host();
  const waits = await refusal(
    third.session.apply(applyArgs("x"), {
      signal: live.signal,
      onProgress: ({ stage }) => stage === "confirm" && live.abort(),
    }),
  );
  assert.is(waits.kind, "cancelled");
  assert.is(waits.changed, "The host has put back what had been changed");
  assert.equal(third.log().slice(0, 2), ["1 apply", "1 abort"]);
});

test("the queue is held through the reboot", async () => {
  const { session, log } = host({ resume: ["not-yet", "ok"] });
  const first = session.apply(applyArgs("x", BOOT), QUICK);
  const [, , evidence] = await Promise.all([
    first,
    session.apply(applyArgs("y")),
    session.check(BOOT.verifyBoot),
  ]);
  assert.is(evidence.length, 1);
  assert.equal(
    log().map((line) => line.split(" ")[1]),
    ["apply", "reboot", "resume", "resume", "confirm", "apply", "confirm", "release", "check"],
  );
});

test.run();
