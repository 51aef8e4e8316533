import { spawn } from "node:child_process";
import { once } from "node:events";
import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import type { HostConnection } from "./inventory.ts";
import { connectSsh, DEFAULTS, type SshLine, type SshOptions } from "./ssh.ts";
import { refusal } from "./testing/refusal.ts";
import { startRelay } from "./testing/relay.ts";
import { freePort, keygen, startSshd } from "./testing/sshd.ts";

const test = suite("ssh");
const sshd = await startSshd({ hostKeyTypes: ["ed25519", "rsa", "ecdsa"], config: ["MaxAuthTries 3"] });
const far = await startSshd();
const noForward = await startSshd({ config: ["AllowTcpForwarding no"] });
const OTHER = "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
const PASSPHRASE = "correct horse canary";
const encrypted = join(sshd.dir, "encrypted");
copyFileSync(sshd.identityFile, encrypted);
keygen("-q", "-p", "-P", "", "-N", PASSPHRASE, "-f", encrypted);

test.after(async () => {
  for (const line of lines) line.close();
  await Promise.all([sshd.stop(), far.stop(), noForward.stop()]);
});

const lines: SshLine[] = [];

/** A line that is closed after the tests, also when one fails. */
async function open(host: HostConnection, options: SshOptions = {}): Promise<SshLine> {
  const line = await connectSsh(host, options);
  lines.push(line);
  return line;
}

async function said(line: SshLine, command: string): Promise<string> {
  const channel = await line.exec(command);
  let text = "";
  for await (const chunk of channel) text += chunk;
  return text;
}

/** Connects, runs a command, and closes again. */
async function works(host: HostConnection, options: SshOptions = {}): Promise<void> {
  const line = await open(host, options);
  try {
    assert.is(await said(line, "echo here"), "here\n");
  } finally {
    line.close();
  }
}

test("a key file and a fingerprint", () => works(sshd.host("t14")));

test("a fingerprint of any of the host's keys", async () => {
  for (const type of ["ed25519", "rsa", "ecdsa"])
    await works(sshd.host("t14", { hostKey: [sshd.hostKeys[type] ?? ""] }));
});

test("known_hosts: the kind of key that is known is asked for", async () => {
  const knownHosts = join(sshd.dir, "known");
  for (const type of ["ed25519", "rsa", "ecdsa"]) {
    writeFileSync(knownHosts, `[127.0.0.1]:${sshd.port} ${sshd.publicHostKeys[type]}\n`);
    await works(sshd.host("t14", { knownHosts }));
  }
});

test("wrong host key: nothing is sent, both keys are named", async () => {
  const before = sshd.count(/Accepted|Failed|userauth/);
  const error = await refusal(open(sshd.host("t14", { hostKey: [OTHER] })));
  assert.is(error.kind, "host-key");
  assert.match(error.message, `t14: wrong host key at 127.0.0.1 port ${sshd.port}: expected ${OTHER}`);
  for (const print of Object.values(sshd.hostKeys)) assert.match(error.message, print);
  assert.match(error.message, /Nothing was sent/);
  assert.match(error.next, /Someone may be in between, or the host was reinstalled/);
  assert.is(sshd.count(/Accepted|Failed|userauth/), before);
});

test("known_hosts: unknown, changed, revoked, not there", async () => {
  const knownHosts = join(sshd.dir, "known-bad");
  const name = `[127.0.0.1]:${sshd.port}`;
  const attempt = async (text: string) => {
    writeFileSync(knownHosts, text);
    const error = await refusal(open(sshd.host("t14", { knownHosts })));
    assert.is(error.kind, "host-key");
    return error.message;
  };
  assert.match(await attempt("elsewhere ssh-ed25519 AAAA\n"), /has no key for .*, which shows SHA256:/);
  assert.match(await attempt(`${name} ${far.publicHostKeys.ed25519}\n`), /wrong host key/);
  const own = sshd.publicHostKeys.ed25519;
  assert.match(await attempt(`${name} ${own}\n@revoked * ${own}\n`), /marks as revoked/);
  const missing = await refusal(open(sshd.host("t14", { knownHosts: join(sshd.dir, "missing") })));
  assert.is(missing.kind, "config");
  assert.match(missing.message, /known_hosts file .*missing cannot be read \(ENOENT\)/);
});

test("a key that the host refuses", async () => {
  const identityFile = join(sshd.dir, "stranger");
  keygen("-q", "-t", "ed25519", "-N", "", "-f", identityFile);
  const error = await refusal(open(sshd.host("t14", { identityFile })));
  assert.is(error.kind, "auth");
  assert.is(error.message, `t14: the host refused the key ${identityFile} for the user ${sshd.user}`);
  assert.match(error.next, /authorized_keys/);
});

test("an encrypted key: right, wrong and no passphrase; the passphrase is nowhere", async () => {
  await works(sshd.host("t14", { identityFile: encrypted, passphrase: PASSPHRASE }));
  const wrong = await refusal(
    open(sshd.host("t14", { identityFile: encrypted, passphrase: `${PASSPHRASE}x` })),
  );
  assert.is(wrong.kind, "config");
  assert.match(wrong.message, /wrong passphrase for the identity file/);
  assert.not.match(wrong.message + wrong.next + wrong.stack, PASSPHRASE);
  const none = await refusal(open(sshd.host("t14", { identityFile: encrypted })));
  assert.match(none.message, /is encrypted and no passphrase is given/);
});

test("an encrypted key in PEM form", async () => {
  const identityFile = join(sshd.dir, "pem");
  keygen("-q", "-t", "rsa", "-m", "PEM", "-N", PASSPHRASE, "-f", identityFile);
  const attempt = async (passphrase?: string) =>
    refusal(open(sshd.host("t14", { identityFile, ...(passphrase && { passphrase }) })));
  assert.is((await attempt(PASSPHRASE)).kind, "auth"); // it was read; the host does not know it
  assert.match((await attempt("other words")).message, /wrong passphrase/);
  assert.match((await attempt()).message, /no passphrase is given/);
});

test("identity files that are none", async () => {
  const text = join(sshd.dir, "text");
  writeFileSync(text, "not a key");
  for (const [identityFile, message] of [
    [join(sshd.dir, "nothing"), /does not exist/],
    [sshd.dir, /cannot be read \(EISDIR\)/],
    [text, /is not a private key that can be read here/],
    [`${sshd.identityFile}.pub`, /holds a public key/],
  ] as const) {
    const error = await refusal(open(sshd.host("t14", { identityFile })));
    assert.is(error.kind, "config");
    assert.match(error.message, message);
    assert.match(error.message, /nothing was connected/);
  }
});

test("an SSH agent: its keys, no key that fits, too many keys, no agent", async () => {
  const socket = join(sshd.dir, "agent.sock");
  const agent = spawn("ssh-agent", ["-D", "-a", socket], { stdio: ["ignore", "pipe", "ignore"] });
  try {
    await once(agent.stdout, "data");
    const add = async (file: string) => {
      const child = spawn("ssh-add", ["-q", file], {
        env: { ...process.env, SSH_AUTH_SOCK: socket },
        stdio: "ignore",
      });
      assert.is((await once(child, "exit"))[0], 0);
    };
    const none = await refusal(open(sshd.host("t14", { agent: socket })));
    assert.is(none.kind, "auth");
    assert.match(none.message, `the host refused the keys of the SSH agent at ${socket}`);

    await add(sshd.identityFile);
    await works(sshd.host("t14", { agent: socket }));

    const before = process.env.SSH_AUTH_SOCK;
    process.env.SSH_AUTH_SOCK = socket;
    try {
      await works(sshd.host("t14", { agent: true }));
    } finally {
      if (before === undefined) delete process.env.SSH_AUTH_SOCK;
      else process.env.SSH_AUTH_SOCK = before;
    }

    await once(
      spawn("ssh-add", ["-q", "-D"], { env: { ...process.env, SSH_AUTH_SOCK: socket }, stdio: "ignore" }),
      "exit",
    );
    for (let i = 0; i < 4; i++) {
      const file = join(sshd.dir, `many${i}`);
      keygen("-q", "-t", "ed25519", "-N", "", "-f", file);
      await add(file);
    }
    const many = await refusal(open(sshd.host("t14", { agent: socket })));
    assert.is(many.kind, "auth");
    assert.match(many.message, /too many keys/);
  } finally {
    agent.kill();
  }
  const gone = await refusal(open(sshd.host("t14", { agent: join(sshd.dir, "no.sock") })));
  assert.is(gone.kind, "auth");
  assert.match(gone.message, /no.sock did not help: Failed to connect to agent/);
});

test("agent: true without SSH_AUTH_SOCK", async () => {
  const before = process.env.SSH_AUTH_SOCK;
  delete process.env.SSH_AUTH_SOCK;
  try {
    const error = await refusal(open(sshd.host("t14", { agent: true })));
    assert.is(error.kind, "config");
    assert.match(error.message, /SSH_AUTH_SOCK is not set/);
  } finally {
    if (before !== undefined) process.env.SSH_AUTH_SOCK = before;
  }
});

test("a chain of jump hosts", async () => {
  const before = sshd.count(/Accepted publickey/);
  const outer = sshd.host("gate");
  const inner = sshd.host("inner", { via: outer });
  await works(far.host("t14", { via: inner }));
  assert.is(sshd.count(/Accepted publickey/) - before, 2);
});

test("a jump host that does not forward, one that reaches nothing, one with a wrong key", async () => {
  const closed = await freePort();
  for (const [host, kind, message] of [
    [
      far.host("t14", { via: noForward.host("gate") }),
      "unreachable",
      /t14: the jump host gate cannot reach 127.0.0.1 port \d+: forbidden by the server/,
    ],
    [
      far.host("t14", { port: closed, via: sshd.host("gate") }),
      "unreachable",
      /the jump host gate cannot reach .*Connection refused/,
    ],
    [far.host("t14", { via: sshd.host("gate", { hostKey: [OTHER] }) }), "host-key", /^gate: wrong host key/],
    [far.host("t14", { hostKey: [OTHER], via: sshd.host("gate") }), "host-key", /^t14: wrong host key/],
  ] as const) {
    const error = await refusal(open(host));
    assert.is(error.kind, kind);
    assert.match(error.message, message);
  }
});

const pipe =
  "const s=require('net').connect(process.argv[2],process.argv[1]);process.stdin.pipe(s).pipe(process.stdout)";

test("a proxy command", async () => {
  await works(sshd.host("t14", { proxyCommand: [process.execPath, "-e", pipe, "%h", "%p"] }));
  const ssh = ["ssh", "-F", "none", "-p", String(sshd.port), "-i", sshd.identityFile];
  const options = [
    "-o",
    "StrictHostKeyChecking=no",
    "-o",
    "UserKnownHostsFile=/dev/null",
    "-o",
    "LogLevel=ERROR",
  ];
  await works(
    far.host("t14", { proxyCommand: [...ssh, ...options, "-W", "%h:%p", `${sshd.user}@127.0.0.1`] }),
  );
});

test("a proxy command that fails says why", async () => {
  for (const [proxyCommand, message] of [
    [["/no/such/program"], /the proxy command \/no\/such\/program is not installed here/],
    [
      ["sh", "-c", "echo no route to %h >&2; exit 3"],
      /the proxy command sh ended with exit status 3: no route to 127.0.0.1/,
    ],
    [["sh", "-c", "kill -9 $$"], /the proxy command sh was ended by SIGKILL/],
  ] as const) {
    const error = await refusal(open(sshd.host("t14", { proxyCommand: [...proxyCommand] })));
    assert.is(error.kind, "unreachable");
    assert.match(error.message, message);
  }
});

test("a proxy command ends with its line", async () => {
  const record = join(sshd.dir, "proxy.pid");
  const script = `require('fs').writeFileSync('${record}',String(process.pid));${pipe}`;
  const line = await open(sshd.host("t14", { proxyCommand: [process.execPath, "-e", script, "%h", "%p"] }));
  const pid = Number(readFileSync(record, "utf8"));
  assert.ok(process.kill(pid, 0));
  line.close();
  await gone(pid);
});

async function gone(pid: number): Promise<void> {
  for (let i = 0; i < 200; i++) {
    try {
      process.kill(pid, 0);
    } catch {
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`process ${pid} still runs`);
}

test("no server, a name that is none, a server that never speaks, one that is not SSH", async () => {
  const refused = await refusal(open(sshd.host("t14", { port: await freePort() })));
  assert.is(refused.kind, "unreachable");
  assert.match(refused.message, /^t14: no connection to 127.0.0.1 port \d+: connection refused$/);

  const unknown = await refusal(open(sshd.host("t14", { address: "no-such-host.invalid" })));
  assert.is(unknown.kind, "unreachable");
  assert.match(unknown.message, /the name (is not known|cannot be looked up now)/);

  const silent = createServer(() => undefined).listen(0, "127.0.0.1");
  const web = createServer((socket) => socket.end("HTTP/1.1 400 Bad Request\r\n\r\n")).listen(0, "127.0.0.1");
  await Promise.all([once(silent, "listening"), once(web, "listening")]);
  const portOf = (server: typeof silent) => (server.address() as { port: number }).port;
  try {
    const slow = await refusal(open(sshd.host("t14", { port: portOf(silent) }), { handshakeTimeout: 200 }));
    assert.is(slow.kind, "unreachable");
    assert.match(slow.message, /did not finish the SSH handshake in 0.2 s/);
    const wrong = await refusal(open(sshd.host("t14", { port: portOf(web) })));
    assert.is(wrong.kind, "unreachable");
    assert.match(wrong.next, /Check that this is an SSH server/);
  } finally {
    silent.close();
    web.close();
  }
});

const quick = { keepalive: { interval: 50, misses: 3 } };

test("a dead line is noticed, in the middle of a command", async () => {
  const relay = await startRelay(sshd.port);
  try {
    const line = await open(sshd.host("t14", { port: relay.port }), quick);
    const channel = await line.exec("cat");
    channel.write("x");
    await once(channel, "data");
    relay.freeze();
    const error = await new Promise<Error>((resolve) => line.onEnd(resolve));
    assert.is(line.ended?.kind, "lost");
    assert.match(error.message, /t14: the line to 127.0.0.1 was lost: nothing was heard for 0.15 s/);
    assert.is(await refusal(line.exec("true")), line.ended);
  } finally {
    await relay.stop();
  }
});

test("a dead line to a jump host ends the lines behind it", async () => {
  const relay = await startRelay(sshd.port);
  try {
    const line = await open(far.host("t14", { via: sshd.host("gate", { port: relay.port }) }), quick);
    relay.freeze();
    await new Promise((resolve) => line.onEnd(resolve));
    assert.is(line.ended?.kind, "lost");
  } finally {
    await relay.stop();
  }
});

test("by default a dead line is noticed within 10 s", () => {
  // The watch counts whole intervals; the first may hold the last sign of life.
  const { interval, misses } = DEFAULTS.keepalive;
  assert.ok(interval * (misses + 1) <= 10_000);
});

test("an idle line, and one on which only the host speaks, is not taken for dead", async () => {
  const line = await open(sshd.host("t14"), { keepalive: { interval: 100, misses: 3 } });
  await new Promise((resolve) => setTimeout(resolve, 1000));
  assert.is(line.ended, null);
  assert.is(await said(line, "echo still"), "still\n");
  line.close();
});

test("a line that is cut", async () => {
  const relay = await startRelay(sshd.port);
  const line = await open(sshd.host("t14", { port: relay.port }));
  relay.cut();
  await new Promise((resolve) => line.onEnd(resolve));
  assert.is(line.ended?.kind, "lost");
  await relay.stop();
});

test("cancellation: before, during TCP, the handshake, a jump, a proxy command", async () => {
  const silent = createServer(() => undefined).listen(0, "127.0.0.1");
  await once(silent, "listening");
  const { port } = silent.address() as { port: number };
  try {
    for (const host of [
      sshd.host("t14", { address: "192.0.2.1", port }), // TEST-NET-1: nobody answers, or no route
      sshd.host("t14", { port }),
      far.host("t14", { port, via: sshd.host("gate") }),
      far.host("t14", { via: sshd.host("gate", { port }) }),
      sshd.host("t14", { proxyCommand: ["sleep", "60"] }),
    ]) {
      const abort = new AbortController();
      const attempt = refusal(open(host, { signal: abort.signal }));
      setTimeout(() => abort.abort(), 150);
      const error = await attempt;
      if (host.address !== "192.0.2.1") assert.is(error.kind, "cancelled", error.message);
    }
    assert.is((await refusal(open(sshd.host("t14"), { signal: AbortSignal.abort() }))).kind, "cancelled");
  } finally {
    silent.close();
  }
});

test("closing ends what runs on the host", async () => {
  const line = await open(sshd.host("t14"));
  const channel = await line.exec("echo $$; exec cat");
  const [pid] = (await once(channel, "data")) as [Buffer];
  line.close();
  await gone(Number(pid));
});

test.run();
