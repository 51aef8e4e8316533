import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import * as v from "valibot";
import { type Agent, startAgent } from "./agent.ts";
import { type Bundle, readBundle } from "./bundle.ts";
import { AgentFailure } from "./errors.ts";
import { MAX_LINE, type Progress, Snapshot } from "./protocol.ts";
import { connectSsh } from "./ssh.ts";
import { agentOf, fakeAgent } from "./testing/fakeAgent.ts";
import { refusal } from "./testing/refusal.ts";
import { startSshd, type TestSshd } from "./testing/sshd.ts";

const test = suite("agent");
const sshd = await startSshd();
/** Servers whose login shell is not quiet, not there, or has no Python. */
const shells: Record<string, TestSshd> = {};
for (const [name, script] of Object.entries({
  greeting: 'printf "Welcome to t14\\nlast login: today"; exec sh -c "$SSH_ORIGINAL_COMMAND"',
  noisy: "while :; do echo The quick brown fox jumps over the lazy dog; done",
  binary: "exec cat /dev/zero",
  pythonless: 'PATH=/nonexistent; export PATH; exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"',
  nologin: "echo This account is currently not available.; exit 1",
})) {
  const file = join(sshd.dir, name);
  writeFileSync(file, `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  shells[name] = await startSshd({ config: [`ForceCommand ${file}`] });
}

test.after(async () => {
  await Promise.all([sshd, ...Object.values(shells)].map((server) => server.stop()));
});

async function withAgent(
  run: (agent: Agent) => Promise<void>,
  bundle: Bundle = fakeAgent,
  server = sshd,
): Promise<void> {
  const line = await connectSsh(server.host("t14"));
  try {
    await run(await startAgent(line, bundle));
  } finally {
    line.close();
  }
}

const starting = (server: TestSshd | undefined, bundle = fakeAgent, startTimeout = 20_000) => {
  if (!server) throw new Error("no such server");
  return refusal(
    connectSsh(server.host("t14")).then(async (line) => {
      try {
        await startAgent(line, bundle, { startTimeout });
      } finally {
        line.close();
      }
    }),
  );
};

test("starts with one exec, asks and is answered", () =>
  withAgent(async (agent) => {
    const args = { text: "Grüße 'quoted' \u0000\n", list: [1, null] };
    assert.equal(await agent.request("echo", args, v.unknown()), args);
    assert.is(sshd.count(/Starting session: command/), 1);
  }));

test("answers come in any order, lines in any pieces", () =>
  withAgent(async (agent) => {
    const events: Progress[] = [];
    const [big, twice] = await Promise.all([
      agent.request("big", { size: 3_000_000 }, v.string()),
      agent.request("twice", {}, v.number(), { onProgress: (progress) => events.push(progress) }),
    ]);
    assert.is(big.length, 3_000_000);
    assert.is(twice, 1);
    assert.equal(events, [
      { stage: "a", text: "1" },
      { stage: "b", text: "2" },
    ]);
  }));

test("a refusal is an AgentFailure, its text cleaned", () =>
  withAgent(async (agent) => {
    try {
      await agent.request("apply", { sls: "bad", holder: "x" }, v.unknown());
      assert.unreachable();
    } catch (error) {
      assert.instance(error, AgentFailure);
      assert.is((error as AgentFailure).message, "t14: no: x");
      assert.equal((error as AgentFailure).body.undone, ["a"]);
    }
  }));

test("aborting asks the agent to stop and waits for its word", () =>
  withAgent(async (agent) => {
    const abort = new AbortController();
    const request = agent.request("long", {}, v.unknown(), {
      signal: abort.signal,
      onProgress: () => abort.abort(),
    });
    try {
      await request;
      assert.unreachable();
    } catch (error) {
      assert.is((error as AgentFailure).body.code, "cancelled");
    }
    assert.equal(await agent.request("echo", {}, v.unknown()), {}); // and it goes on
  }));

test("a shell's greeting is skipped, also one without a line end", () =>
  withAgent(
    async (agent) => assert.equal(await agent.request("echo", {}, v.unknown()), {}),
    fakeAgent,
    shells.greeting,
  ));

test("a shell that does not stop talking", async () => {
  const noisy = await starting(shells.noisy);
  assert.is(noisy.kind, "protocol");
  assert.match(
    noisy.message,
    /t14: the login shell of \w+ prints text where the agent should speak: "The quick brown fox/,
  );
  assert.match(noisy.next, /start-up files silent/);
  assert.is((await starting(shells.binary)).kind, "protocol");
});

test("no Python, no shell", async () => {
  const pythonless = await starting(shells.pythonless);
  assert.is(pythonless.kind, "protocol");
  assert.match(
    pythonless.message,
    /^t14: there is no python3 for \w+ on the host; its last words: .*python3.*not found/,
  );
  const nologin = await starting(shells.nologin);
  assert.match(nologin.message, /did not start.*This account is currently not available/s);
});

test("an agent that cannot start", async () => {
  const broken = await starting(sshd, agentOf("def main(*_):\n    raise RuntimeError('no\\x1b[2J way')\n"));
  assert.match(
    broken.message,
    /the agent did not start \(exit status 1\); its last words: Traceback[^\u001b]*no way/s,
  );
  const mute = await starting(sshd, agentOf("import time\ndef main(*_):\n    time.sleep(60)\n"), 500);
  assert.is(mute.kind, "protocol");
  assert.match(mute.message, /t14: the agent did not start in 0.5 s/);
  const other = await starting(
    sshd,
    agentOf(
      'def main(d, *_):\n    print(\'{"agent": "x", "protocol": 1, "python": "3", "user": "r"}\', flush=True)\n',
    ),
  );
  assert.match(other.message, /the agent that runs is x, not the one that was sent/);
  const later = await starting(
    sshd,
    agentOf(
      'def main(d, *_):\n    print(\'{"agent": "%s", "protocol": 2, "python": "3", "user": "r"}\' % d, flush=True)\n',
    ),
  );
  assert.is(later.kind, "protocol");
  assert.match(later.message, /"protocol": 2/);
});

test("aborting ends the start", async () => {
  const line = await connectSsh(sshd.host("t14"));
  const abort = new AbortController();
  const start = refusal(
    startAgent(line, agentOf("import time\ndef main(*_):\n    time.sleep(60)\n"), { signal: abort.signal }),
  );
  setTimeout(() => abort.abort(), 100);
  assert.is((await start).kind, "cancelled");
  line.close();
});

test("an agent that dies: exit status or signal, and its last words, cleaned", async () => {
  await withAgent(async (agent) => {
    const [died, beside] = await Promise.all([
      refusal(agent.request("die", { holder: "why" }, v.unknown())),
      refusal(agent.request("long", {}, v.unknown())),
    ]);
    assert.is(died.kind, "lost");
    assert.is(died.message, "t14: the agent ended with exit status 3; its last words: traceback: why");
    assert.is(beside, died);
    assert.is(agent.ended, died);
    assert.is(await refusal(agent.request("echo", {}, v.unknown())), died);
  });
  await withAgent(async (agent) => {
    const error = await refusal(agent.request("killed", {}, v.unknown()));
    assert.is(error.message, "t14: the agent was killed by SIGKILL");
  });
});

test("what is not the protocol ends the agent", async () => {
  for (const [op, message] of [
    ["text", /a line of the agent is not an answer: Welcome!/],
    ["stranger", /answers a request that was not made \(id 99\)/],
  ] as const)
    await withAgent(async (agent) => {
      const error = await refusal(agent.request(op, {}, v.unknown()));
      assert.is(error.kind, "protocol");
      assert.match(error.message, message);
      assert.is(agent.ended, error);
    });
});

test("an answer of another shape says where", () =>
  withAgent(async (agent) => {
    const error = await refusal(agent.request("wrong", {}, Snapshot));
    assert.is(error.kind, "protocol");
    assert.match(error.message, /t14: the agent's answer to wrong is not what was agreed: facts: /);
  }));

test("a line has a limit, in both directions", async () => {
  await withAgent(async (agent) => {
    const large = await refusal(agent.request("echo", { text: "x".repeat(MAX_LINE) }, v.unknown()));
    assert.is(large.kind, "config");
    assert.match(large.message, /nothing was sent/);
    assert.is((await agent.request("big", { size: MAX_LINE - 50 }, v.string())).length, MAX_LINE - 50);
    const endless = await refusal(agent.request("endless", {}, v.unknown()));
    assert.is(endless.kind, "protocol");
    assert.match(endless.message, /sent a line of more than 16777216 bytes/);
  });
});

test("the real agent says hello and describes this machine", async () => {
  await withAgent(async (agent) => {
    const snapshot = await agent.request("snapshot", { packages: ["qubes-core-dom0"] }, Snapshot);
    assert.is(snapshot.facts.qubesRelease, null); // tests do not run in dom0
    assert.equal(snapshot.qubes, {});
    assert.equal(Object.keys(snapshot.packages), ["qubes-core-dom0"]);
    try {
      await agent.request("nonsense", {}, v.unknown());
      assert.unreachable();
    } catch (error) {
      assert.is((error as AgentFailure).body.code, "bad-request");
    }
  }, readBundle());
});

test.run();
