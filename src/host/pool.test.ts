import { setTimeout as sleep } from "node:timers/promises";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { AgentFailure, type HostError } from "./errors.ts";
import type { HostConnection } from "./inventory.ts";
import { HostPool, type PoolOptions } from "./pool.ts";
import type { Progress } from "./protocol.ts";
import type { HostSession } from "./session.ts";
import { agentOf, applyArgs, fakeAgent } from "./testing/fakeAgent.ts";
import { refusal } from "./testing/refusal.ts";
import { type Relay, startRelay } from "./testing/relay.ts";
import { freePort, startSshd } from "./testing/sshd.ts";

const test = suite("pool");
const sshd = await startSshd();
const relays: Relay[] = [];
const pools: HostPool[] = [];
const CANARY = "canary-pass-1f";

test.after.each(async () => {
  await Promise.all(pools.splice(0).map((pool) => pool.close()));
  await Promise.all(relays.splice(0).map((relay) => relay.stop()));
});
test.after(() => sshd.stop());

async function relay(): Promise<Relay> {
  const made = await startRelay(sshd.port);
  relays.push(made);
  return made;
}

function pool(hosts: HostConnection[], options: Partial<PoolOptions> = {}): HostPool {
  const made = new HostPool({
    hosts: new Map(hosts.map((host) => [host.name, host])),
    packages: ["xorg"],
    bundle: fakeAgent,
    ...options,
  });
  pools.push(made);
  return made;
}

const counts = () => ({
  connections: sshd.count(/^Connection from/),
  logins: sshd.count(/Accepted publickey/),
  execs: sshd.count(/Starting session: command/),
});

function since(before: ReturnType<typeof counts>) {
  const now = counts();
  return [now.connections - before.connections, now.logins - before.logins, now.execs - before.execs];
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

/** An apply that has begun on the host; `end` is how it ended. */
async function begun(session: HostSession, signal?: AbortSignal): Promise<{ end: Promise<unknown> }> {
  return new Promise((resolve) => {
    const end: Promise<unknown> = session.apply(applyArgs("long"), {
      signal,
      onProgress: () => resolve({ end }),
    });
    end.catch(() => resolve({ end }));
  });
}

test("many first uses at once: one connection, one login, one exec, one snapshot", async () => {
  const before = counts();
  const hosts = pool([sshd.host("t14")]);
  const all = await Promise.all(Array.from({ length: 50 }, () => hosts.session("t14").snapshot()));
  assert.ok(all.every((snapshot) => snapshot === all[0]));
  assert.is(all[0]?.facts.now, 1);
  assert.equal(all[0]?.packages, { xorg: null });
  assert.is(await hosts.session("t14").snapshot(), all[0]);
  assert.equal(since(before), [1, 1, 1]);
});

test("no connection before the first use", async () => {
  const before = counts();
  pool([sshd.host("t14")]).session("t14");
  await sleep(50);
  assert.equal(since(before), [0, 0, 0]);
});

test("an apply makes the snapshot stale and brings the next one", async () => {
  const session = pool([sshd.host("t14")]).session("t14");
  assert.is((await session.snapshot()).facts.now, 1);
  const { snapshot } = await session.apply(applyArgs("good"));
  assert.is(snapshot.facts.now, 1); // the first look of another agent
  assert.is(await session.snapshot(), snapshot);
  await failure(session.apply(applyArgs("bad")));
  assert.is((await session.snapshot()).facts.now, 2); // asked again: a failed apply may have left something
  session.forget();
  assert.is((await session.snapshot()).facts.now, 3);
});

test("applies go one after the other, a snapshot asked meanwhile comes after", async () => {
  const session = pool([sshd.host("t14")]).session("t14");
  const events: string[] = [];
  const run = (name: string) =>
    session
      .apply(applyArgs("good", { holder: name }), {
        onProgress: ({ stage }) => stage === "salt" && events.push(`${name} works`),
      })
      .then(() => events.push(`${name} done`));
  const failed = failure(session.apply(applyArgs("bad"))).then(() => events.push("failed"));
  const all = [failed, run("a"), run("b"), session.snapshot().then(() => events.push("snapshot")), run("c")];
  await Promise.all(all);
  assert.equal(events, ["failed", "a works", "a done", "b works", "b done", "snapshot", "c works", "c done"]);
});

test("hosts do not wait for each other", async () => {
  const hosts = pool([sshd.host("a"), sshd.host("b")]);
  const abort = new AbortController();
  const { end } = await begun(hosts.session("a"), abort.signal);
  await hosts.session("b").apply(applyArgs("good"));
  abort.abort();
  assert.is((await failure(end)).body.code, "cancelled");
});

test("cancelling an apply: while it waits, nothing is sent; while it runs, the agent's word counts", async () => {
  const session = pool([sshd.host("t14")]).session("t14");
  const [first, second] = [new AbortController(), new AbortController()];
  const { end } = await begun(session, first.signal);
  const waiting = refusal(session.apply(applyArgs("die"), { signal: second.signal }));
  second.abort();
  const stopped = await waiting;
  assert.is(stopped.kind, "cancelled");
  assert.match(stopped.message, /t14: stopped while waiting for its turn$/);
  first.abort();
  assert.equal((await failure(end)).body.undone, []);
  await session.apply(applyArgs("good")); // "die" was not sent
});

test("cancelling one who waits for the snapshot leaves it to the others", async () => {
  const session = pool([sshd.host("t14")]).session("t14");
  const abort = new AbortController();
  const [one, other] = [refusal(session.snapshot(abort.signal)), session.snapshot()];
  abort.abort();
  assert.is((await one).kind, "cancelled");
  assert.is((await other).facts.now, 1);
});

test("a line lost between requests: the next one connects again", async () => {
  const via = await relay();
  const session = pool([sshd.host("t14", { port: via.port })]).session("t14");
  await session.snapshot();
  via.cut();
  await sleep(300);
  await session.apply(applyArgs("good"));
  assert.is(via.connections(), 3); // the last one confirms the change
});

test("a change is confirmed over a connection of its own, which stays; the other goes", async () => {
  const before = counts();
  const session = pool([sshd.host("t14")]).session("t14");
  await session.snapshot();
  await session.apply(applyArgs("good"));
  assert.equal(since(before), [2, 2, 2]);
  session.forget();
  await session.snapshot();
  assert.equal(since(before), [2, 2, 2]);
  assert.is(sshd.count(/^Disconnected from|Received disconnect|Connection closed by/) > 0, true);
});

test("a jump host's change leaves the lines through it alone", async () => {
  const gate = sshd.host("gate");
  const hosts = pool([gate, sshd.host("a", { via: gate })]);
  await hosts.session("a").snapshot();
  await hosts.session("gate").apply(applyArgs("good"));
  const before = counts();
  hosts.session("a").forget();
  await hosts.session("a").snapshot();
  assert.equal(since(before), [0, 0, 0]);
});

test("a line lost in the middle of a snapshot: asked again, once", async () => {
  const via = await relay();
  const session = pool([sshd.host("t14", { port: via.port })]).session("t14");
  await session.apply(applyArgs("good"));
  session.forget();
  const asked = session.snapshot();
  await sleep(20);
  via.cut();
  assert.is((await asked).facts.now, 1); // of another agent
  assert.is(via.connections(), 3);

  session.forget();
  const again = session.snapshot();
  await sleep(20);
  await via.stop();
  assert.is((await refusal(again)).kind, "unreachable");
});

test("a host that is lost at each snapshot: two attempts, no more", async () => {
  const before = counts();
  const hello = `import json, os
def main(digest, *_):
    print(json.dumps({"agent": digest, "protocol": 1, "python": "3", "user": "r"}), flush=True)
    os.read(0, 100)
    os._exit(4)
`;
  const error = await refusal(
    pool([sshd.host("t14")], { bundle: agentOf(hello) })
      .session("t14")
      .snapshot(),
  );
  assert.is(error.message, "t14: the agent ended with exit status 4");
  assert.equal(since(before), [1, 1, 2]);
});

test("a line lost in the middle of an apply: never sent again, and said so", async () => {
  const via = await relay();
  const session = pool([sshd.host("t14", { port: via.port })]).session("t14");
  const error = await refusal(session.apply(applyArgs("long"), { onProgress: () => via.cut() }));
  assert.is(error.kind, "lost");
  assert.match(
    error.message,
    /^t14: the line to 127.0.0.1 was lost: .*, while a change was being applied \(the last that was heard of it: salt: at work\)$/,
  );
  assert.match(error.changed ?? "", /^The host ends the change by itself/);
  assert.is(via.connections(), 1);
  await session.apply(applyArgs("good"));
  assert.is(via.connections(), 3);
});

test("a line that goes dead in the middle of an apply is noticed", async () => {
  const via = await relay();
  const hosts = pool([sshd.host("t14", { port: via.port })], {
    ssh: { keepalive: { interval: 50, misses: 3 } },
  });
  const error = await refusal(
    hosts.session("t14").apply(applyArgs("long"), { onProgress: () => via.freeze() }),
  );
  assert.is(error.kind, "lost");
  assert.match(error.message, /nothing was heard for/);
});

test("an agent killed in the middle of an apply: the line stays, a new agent is started", async () => {
  const before = counts();
  const session = pool([sshd.host("t14")]).session("t14");
  const error = await refusal(session.apply(applyArgs("killed")));
  assert.is(error.kind, "lost");
  assert.match(error.message, /t14: the agent was killed by SIGKILL, while a change was being applied/);
  assert.match(error.message, /salt: 2 of 5/);
  assert.match(error.changed ?? "", /host's journal, and the next apply puts it back first/);
  session.forget();
  await session.snapshot();
  assert.equal(since(before), [1, 1, 2]);
});

test("an apply whose answer cannot be understood is not called harmless", async () => {
  for (const [behaviour, message, changed] of [
    ["stranger", /request that was not made/, /The host ends the change by itself/],
    ["wrong", /is not what was agreed: phase: /, /The change has ended; what it did is not known here/],
  ] as const) {
    const error = await refusal(
      pool([sshd.host("t14")])
        .session("t14")
        .apply(applyArgs(behaviour)),
    );
    assert.is(error.kind, "lost");
    assert.match(error.message, message);
    assert.match(error.changed ?? "", changed);
  }
});

test("a host that does not describe itself in time", async () => {
  const session = pool([sshd.host("t14")], { snapshotTimeout: 10 }).session("t14");
  const error = await refusal(session.snapshot());
  assert.is(error.kind, "protocol");
  assert.match(error.message, /t14: the host did not describe itself in 0.01 s/);
});

test("a failed connect is not remembered", async () => {
  const port = await freePort();
  const session = pool([sshd.host("t14", { port })]).session("t14");
  const errors = await Promise.all([refusal(session.snapshot()), refusal(session.snapshot())]);
  assert.ok(errors.every((error) => error.kind === "unreachable"));
  const { createServer, connect } = await import("node:net");
  const server = createServer((near) => {
    const far = connect(sshd.port, "127.0.0.1");
    near.pipe(far).pipe(near);
    near.on("error", () => far.destroy());
    far.on("error", () => near.destroy());
  });
  await new Promise<void>((resolve) => server.listen(port, "127.0.0.1", resolve));
  assert.is((await session.snapshot()).facts.now, 1);
  server.close();
});

test("one line to a jump host for all behind it, and for itself", async () => {
  const before = counts();
  const gate = sshd.host("gate");
  const hosts = pool([gate, ...["a", "b", "c"].map((name) => sshd.host(name, { via: gate }))]);
  await Promise.all(["gate", "a", "b", "c"].map((name) => hosts.session(name).snapshot()));
  assert.equal(since(before), [4, 4, 4]);
});

test("a host that the configuration no longer names is reached as before", async () => {
  const hosts = pool([sshd.host("other")]);
  assert.throws(
    () => hosts.session("t14"),
    (error: HostError) =>
      error.kind === "config" &&
      /t14: no such host in the configuration; hosts are other/.test(error.message),
  );
  const former = sshd.host("t14");
  assert.is((await hosts.session("t14", former).snapshot()).facts.now, 1);
  assert.is(hosts.session("t14", former), hosts.session("t14", former));
  assert.is(hosts.session("other", former), hosts.session("other"));
});

test("secrets do not leave in errors or progress", async () => {
  const hosts = pool([sshd.host("t14", { passphrase: CANARY })]);
  const session = hosts.session("t14");
  const seen: Progress[] = [];
  await session.apply(applyArgs("good", { holder: CANARY }), {
    onProgress: (progress) => seen.push(progress),
  });
  assert.equal(seen, [
    { stage: "salt", text: "1 state [secret]" },
    { stage: "confirm", text: "over a new connection" },
  ]);
  const bad = await failure(session.apply(applyArgs("bad", { holder: CANARY })));
  assert.is(bad.message, "t14: no: [secret]");
  const died = await refusal(session.apply(applyArgs("die", { holder: CANARY })));
  assert.match(died.message, /traceback: \[secret\]/);
  assert.not.match(String(died.stack), CANARY);
});

test("closing ends what waits, and nothing connects afterwards", async () => {
  const before = counts();
  const hosts = pool([sshd.host("t14"), sshd.host("b", { proxyCommand: ["sleep", "60"] })]);
  const connecting = refusal(hosts.session("b").snapshot());
  const { end } = await begun(hosts.session("t14"));
  await hosts.close();
  assert.is((await refusal(end)).kind, "lost"); // it was sent: whether anything was changed is not known
  assert.is((await connecting).kind, "cancelled");
  assert.is((await refusal(hosts.session("t14").snapshot())).kind, "cancelled");
  assert.is(since(before)[0], 1);
});

test.run();
