/** One SSH line to a host: its way there (TCP, jump hosts, a proxy command), its host key, its user, its end. */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { connect as connectTcp } from "node:net";
import type { Duplex } from "node:stream";
import ssh2, {
  type AnyAuthMethod,
  type ClientChannel,
  type ParsedKey,
  type ServerHostKeyAlgorithm,
} from "ssh2";
import { cancelled, clean, HostError, ignore } from "./errors.ts";
import { algorithmsOf, fingerprintOf, keyType, type Trust, trustOf } from "./hostKeys.ts";
import { type HostConnection, proxyArguments } from "./inventory.ts";
import { expandHome } from "./paths.ts";

export interface SshOptions {
  /** Milliseconds until TCP must stand. */
  connectTimeout?: number;
  /** Milliseconds for key exchange and authentication. */
  handshakeTimeout?: number;
  /**
   * Every `interval` milliseconds the host is asked for a sign of life; after `misses` intervals without a single
   * byte from it the line is dead. So a cut is noticed after (misses + 1) × interval at the latest: 8 s.
   */
  keepalive?: { interval: number; misses: number };
  signal?: AbortSignal | undefined;
  /** Gives the line to a jump host. Without it each line opens jump lines of its own, and closes them. */
  jump?: (via: HostConnection, signal?: AbortSignal) => Promise<SshLine>;
}

export const DEFAULTS = {
  connectTimeout: 10_000,
  handshakeTimeout: 15_000,
  keepalive: { interval: 2_000, misses: 3 },
};

/** A stream to the host's SSH port. */
interface Transport {
  stream: Duplex;
  /** What the transport itself has to say about a failure, or "". */
  fault(): Promise<string>;
  close(): void;
}

/** Connects, checks the host's key and logs in. Throws HostError. */
export async function connectSsh(host: HostConnection, options: SshOptions = {}): Promise<SshLine> {
  const { signal } = options;
  if (signal?.aborted) throw cancelled(host.name, "connecting");
  const trust = await trustOf(host);
  const login = await loginOf(host);

  // A server shows one key, of a kind both sides like best. A fingerprint does not say its kind: where another one is
  // shown, ask for the other kinds before calling the host an impostor.
  const seen: Buffer[] = [];
  let algorithms = trust.algorithms;
  for (;;) {
    const attempt = await open(host, trust, login, algorithms, options).catch((error: unknown) => {
      if (error instanceof RefusedKey) return error.key;
      if (seen.length > 0 && !signal?.aborted) return undefined;
      throw error;
    });
    if (attempt instanceof SshLine) return attempt;
    if (attempt) {
      seen.push(attempt);
      const tried = algorithmsOf(keyType(attempt));
      algorithms = algorithms.filter((algorithm) => !tried.includes(algorithm));
    }
    if (!attempt || algorithms.length === 0 || !host.hostKey) throw hostKeyError(host, trust, seen);
  }
}

class RefusedKey extends Error {
  readonly key: Buffer;
  constructor(key: Buffer) {
    super("host key refused");
    this.key = key;
  }
}

function hostKeyError(host: HostConnection, trust: Trust, seen: Buffer[]): HostError {
  const shown = seen.map((key) => `${fingerprintOf(key)} (${keyType(key)})`).join(", ");
  const place = `${host.address} port ${host.port}`;
  if (seen.some((key) => trust.revoked.includes(fingerprintOf(key))))
    return new HostError(
      "host-key",
      host.name,
      `${host.name}: ${place} shows a host key that ${trust.source} marks as revoked: ${shown}. Nothing was sent`,
      "Do not connect until the host has a new key.",
    );
  if (trust.expected.length === 0)
    return new HostError(
      "host-key",
      host.name,
      `${host.name}: ${trust.source} has no key for ${place}, which shows ${shown}. Nothing was sent`,
      `Compare it with what \`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub\` prints on the host itself, and give it as hostKey of ${host.name}.`,
    );
  return new HostError(
    "host-key",
    host.name,
    `${host.name}: wrong host key at ${place}: expected ${trust.expected.join(" or ")} (${trust.source}), got ${shown}. Nothing was sent`,
    `Someone may be in between, or the host was reinstalled. If it was, compare with \`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub\` on the host itself and correct ${trust.source}.`,
  );
}

type Login = { method: AnyAuthMethod; with: string };

// Decrypting takes about a second of pure JavaScript (bcrypt), and 200 hosts often share one key.
const keys = new Map<string, ParsedKey>();

async function loginOf(host: HostConnection): Promise<Login> {
  const fault = (message: string, next: string) =>
    new HostError("config", host.name, `${host.name}: ${message}; nothing was connected`, next);
  if (host.agent) {
    const socket = host.agent === true ? process.env.SSH_AUTH_SOCK : expandHome(host.agent);
    if (!socket)
      throw fault(
        "agent: true, but SSH_AUTH_SOCK is not set",
        "Start an SSH agent, or give its socket's path or an identityFile.",
      );
    return {
      method: { type: "agent", username: host.user, agent: socket },
      with: `the keys of the SSH agent at ${socket}`,
    };
  }
  const path = host.identityFile;
  if (!path) throw fault("neither identityFile nor agent is given", "Give one of them.");
  const content = await readFile(expandHome(path)).catch((error: NodeJS.ErrnoException) => {
    throw error.code === "ENOENT"
      ? fault(
          `the identity file ${path} does not exist`,
          "Correct identityFile, or create the key with ssh-keygen.",
        )
      : fault(
          `the identity file ${path} cannot be read (${error.code})`,
          "Correct identityFile or the file's permissions.",
        );
  });
  const id = createHash("sha256")
    .update(content)
    .update("\0")
    .update(host.passphrase ?? "")
    .digest("hex");
  const known = keys.get(id);
  const method = (key: ParsedKey): Login => ({
    method: { type: "publickey", username: host.user, key },
    with: `the key ${path}`,
  });
  if (known) return method(known);
  const parsed = ssh2.utils.parseKey(content, host.passphrase);
  const key = Array.isArray(parsed) ? parsed[0] : parsed;
  if (!key || key instanceof Error) {
    const why = key?.message ?? "it is empty";
    if (/no passphrase given/i.test(why))
      throw fault(
        `the identity file ${path} is encrypted and no passphrase is given`,
        `Give it as passphrase of ${host.name} (secret configuration), or load the key into an SSH agent and write agent: true.`,
      );
    if (/passphrase|integrity/i.test(why))
      throw fault(
        `wrong passphrase for the identity file ${path}`,
        `Correct the passphrase of ${host.name}.`,
      );
    throw fault(
      `the identity file ${path} is not a private key that can be read here (${why})`,
      "Give a private key as ssh-keygen makes it: ed25519, ECDSA or RSA. Keys on hardware tokens work through an SSH agent.",
    );
  }
  if (!key.isPrivateKey())
    throw fault(
      `the identity file ${path} holds a public key`,
      "Give the private one, usually the same path without .pub.",
    );
  keys.set(id, key);
  return method(key);
}

async function open(
  host: HostConnection,
  trust: Trust,
  login: Login,
  algorithms: ServerHostKeyAlgorithm[],
  options: SshOptions,
): Promise<SshLine> {
  const transport = host.proxyCommand
    ? await throughProxy(host)
    : host.via
      ? await throughJump(host, host.via, options)
      : await throughTcp(host, options);
  try {
    return await handshake(host, transport, trust, login, algorithms, options);
  } catch (error) {
    transport.close();
    throw error;
  }
}

function throughTcp(host: HostConnection, options: SshOptions): Promise<Transport> {
  const { connectTimeout = DEFAULTS.connectTimeout, signal } = options;
  const place = `${host.address} port ${host.port}`;
  return new Promise((resolve, reject) => {
    const socket = connectTcp({
      host: host.address,
      port: host.port,
      noDelay: true,
      autoSelectFamilyAttemptTimeout: Math.max(10, Math.floor(connectTimeout / 4)), // Node's 250 ms is too short for far hosts
    });
    const settle = (error?: HostError) => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
      socket.removeAllListeners("error").on("error", ignore); // never without a listener
      if (!error)
        return resolve({
          stream: socket,
          fault: async () => "",
          close: () => socket.destroy(),
        });
      socket.destroy();
      reject(error);
    };
    const unreachable = (why: string) =>
      settle(
        new HostError(
          "unreachable",
          host.name,
          `${host.name}: no connection to ${place}: ${why}`,
          "Check that the machine is on, that its address and port are right, and that its SSH server runs.",
        ),
      );
    const timer = setTimeout(() => unreachable(`no answer in ${connectTimeout / 1000} s`), connectTimeout);
    const onAbort = () => settle(cancelled(host.name, "connecting"));
    signal?.addEventListener("abort", onAbort, { once: true });
    socket.once("connect", () => settle());
    socket.once("error", (error: NodeJS.ErrnoException) => unreachable(networkReason(error)));
  });
}

function networkReason(error: NodeJS.ErrnoException): string {
  const reasons: Record<string, string> = {
    ECONNREFUSED: "connection refused",
    ENOTFOUND: "the name is not known",
    EAI_AGAIN: "the name cannot be looked up now",
    EHOSTUNREACH: "no route to the host",
    ENETUNREACH: "no route to the network",
    ETIMEDOUT: "no answer",
    ECONNRESET: "the connection was reset",
  };
  return reasons[error.code ?? ""] ?? error.code ?? error.message;
}

async function throughJump(
  host: HostConnection,
  via: HostConnection,
  options: SshOptions,
): Promise<Transport> {
  const { jump, signal } = options;
  const line = jump ? await jump(via, signal) : await connectSsh(via, options);
  const close = () => {
    if (!jump) line.close();
  };
  try {
    const stream = await line.forward(host.address, host.port, signal);
    return {
      stream,
      fault: async () => (line.ended ? line.ended.message : ""),
      close() {
        stream.destroy();
        close();
      },
    };
  } catch (error) {
    close();
    if (error instanceof HostError && error.kind === "cancelled") throw error;
    throw new HostError(
      "unreachable",
      host.name,
      `${host.name}: the jump host ${via.name} cannot reach ${host.address} port ${host.port}: ${clean((error as Error).message, 300)}`,
      `Check that ${host.name} is on and reachable from ${via.name}, and that ${via.name} allows forwarding (AllowTcpForwarding).`,
    );
  }
}

async function throughProxy(host: HostConnection): Promise<Transport> {
  const { execa } = await import("execa"); // 60 ms that few need
  const [file = "", ...args] = proxyArguments(host);
  const child = execa(file, args, {
    buffer: false,
    reject: false,
    stdin: "pipe",
    stdout: "pipe",
    stderr: "pipe",
    forceKillAfterDelay: 1000,
  });
  let said = "";
  child.stderr.on("data", (chunk: Buffer) => {
    said = (said + chunk.toString("latin1")).slice(-4096);
  });
  const stream = child.duplex();
  stream.on("error", ignore); // also after the handshake's own listeners are gone
  return {
    stream,
    async fault() {
      // What ended the line is often the command's end: give it a moment to say why.
      const result = await Promise.race([
        child,
        new Promise<null>((resolve) => setTimeout(resolve, 300, null)),
      ]);
      const stderr = clean(said, 500);
      if (!result) return stderr ? `the proxy command ${file} says: ${stderr}` : "";
      const how =
        result.code === "ENOENT"
          ? "is not installed here"
          : result.signal
            ? `was ended by ${result.signal}`
            : `ended with exit status ${result.exitCode}`;
      return `the proxy command ${file} ${how}${stderr ? `: ${stderr}` : ""}`;
    },
    close() {
      stream.destroy();
      child.kill();
    },
  };
}

type SshError = Error & { level?: string; code?: string | number };

function handshake(
  host: HostConnection,
  transport: Transport,
  trust: Trust,
  login: Login,
  algorithms: ServerHostKeyAlgorithm[],
  options: SshOptions,
): Promise<SshLine> {
  const { signal, handshakeTimeout = DEFAULTS.handshakeTimeout, keepalive = DEFAULTS.keepalive } = options;
  return new Promise((resolve, reject) => {
    const client = new ssh2.Client();
    let refused: Buffer | undefined;
    let agentFault = "";
    let settled = false;
    const settle = (act: () => void) => {
      if (settled) return;
      settled = true;
      signal?.removeEventListener("abort", onAbort);
      act();
    };
    const fail = (error: Error) =>
      settle(() => {
        client.on("error", ignore);
        client.destroy();
        reject(error);
      });
    const failed = (error: SshError) => {
      if (error.level === "agent") {
        agentFault = error.message; // not the end: the next key may do
        return;
      }
      if (refused) return fail(new RefusedKey(refused));
      // Asked now, told later: the transport's own word is the better explanation.
      void transport
        .fault()
        .then((fault) => fail(translate(host, login, error, agentFault, fault, handshakeTimeout)));
    };
    const onAbort = () => fail(cancelled(host.name, "connecting"));
    client.on("error", failed);
    client.on("close", () => failed(new Error("the connection was closed")));
    client.on("ready", () =>
      settle(() => {
        client.removeAllListeners("close").removeAllListeners("error");
        resolve(new SshLine(host, client, transport, keepalive));
      }),
    );
    if (signal?.aborted) return onAbort();
    signal?.addEventListener("abort", onAbort, { once: true });
    let tried = false;
    client.connect({
      sock: transport.stream,
      username: host.user,
      authHandler: () => {
        if (tried) return false;
        tried = true;
        return login.method;
      },
      algorithms: { serverHostKey: algorithms },
      hostVerifier: (key: Buffer) => {
        const print = fingerprintOf(key);
        const good = trust.expected.includes(print) && !trust.revoked.includes(print);
        if (!good) refused = key;
        return good;
      },
      readyTimeout: handshakeTimeout,
      // These only make the host talk; SshLine listens, since any byte is a sign of life.
      keepaliveInterval: keepalive.interval,
      keepaliveCountMax: Number.MAX_SAFE_INTEGER,
    });
  });
}

function translate(
  host: HostConnection,
  login: Login,
  error: SshError,
  agentFault: string,
  fault: string,
  timeout: number,
): HostError {
  const place = `${host.address} port ${host.port}`;
  const because = fault || clean(error.message, 300);
  if (error.level === "client-authentication" || /too many authentication/i.test(error.message)) {
    if (agentFault)
      return new HostError(
        "auth",
        host.name,
        `${host.name}: ${login.with} did not help: ${clean(agentFault, 300)}`,
        "Check that the agent runs and holds the key (ssh-add -l), or give an identityFile.",
      );
    const many = /too many/i.test(error.message);
    return new HostError(
      "auth",
      host.name,
      many
        ? `${host.name}: the host gave up after too many keys of ${login.with}`
        : `${host.name}: the host refused ${login.with} for the user ${host.user}`,
      many
        ? "Give the one key as identityFile, or remove keys from the agent."
        : `Check the user, and that the public key stands in the authorized_keys of ${host.user} on the host.`,
    );
  }
  if (error.level === "client-timeout")
    return new HostError(
      "unreachable",
      host.name,
      `${host.name}: ${place} took the connection but did not finish the SSH handshake in ${timeout / 1000} s${fault ? ` (${fault})` : ""}`,
      "Check that this is an SSH server, and whether the machine is overloaded.",
    );
  if (error.level === "handshake" && !/lost|closed/i.test(error.message))
    return new HostError(
      "protocol",
      host.name,
      `${host.name}: no SSH handshake with ${place}: ${because}`,
      "The server may be too old: ask its administrator for current algorithms.",
    );
  return new HostError(
    "unreachable",
    host.name,
    `${host.name}: ${place} ended the connection before the login was done: ${because}`,
    "Check that this is an SSH server, and its log; a busy one refuses connections (MaxStartups).",
  );
}

/** RFC 4254 §5.1: the reason is a number; the text beside it is the server's own and may say nothing. */
function channelReason(error: Error & { reason?: unknown }): string {
  const reasons = [
    "",
    "forbidden by the server (administratively prohibited)",
    "connect failed",
    "not known",
    "resource shortage",
  ];
  const text = clean(error.message, 300).replace("(SSH) Channel open failure: ", "");
  const reason = reasons[Number(error.reason ?? 0)] ?? "";
  return reason && !text.toLowerCase().includes(reason) ? `${reason}: ${text}` : text;
}

/** A line that stands. When it ends, `ended` says why, and everybody who listens is told once. */
export class SshLine {
  readonly host: HostConnection;
  #ended: HostError | null = null;
  readonly #listeners = new Set<(error: HostError) => void>();
  readonly #client: ssh2.Client;
  readonly #transport: Transport;
  readonly #watch: NodeJS.Timeout;

  constructor(
    host: HostConnection,
    client: ssh2.Client,
    transport: Transport,
    keepalive: { interval: number; misses: number },
  ) {
    this.host = host;
    this.#client = client;
    this.#transport = transport;
    let heard = true;
    let misses = 0;
    transport.stream.on("data", () => {
      heard = true;
    });
    // Counted in intervals, not in time: a laptop that slept an hour has missed one.
    this.#watch = setInterval(() => {
      misses = heard ? 0 : misses + 1;
      heard = false;
      if (misses >= keepalive.misses)
        this.#lose(`nothing was heard for ${(misses * keepalive.interval) / 1000} s`);
    }, keepalive.interval);
    client.on("error", (error) => this.#lose(clean(error.message, 300)));
    client.on("close", () => this.#lose("the host closed it"));
  }

  get ended(): HostError | null {
    return this.#ended;
  }

  /** Calls `listener` when the line ends; at once if it has. */
  onEnd(listener: (error: HostError) => void): void {
    if (this.#ended) listener(this.#ended);
    else this.#listeners.add(listener);
  }

  /** Runs a command; the channel's stdin, stdout and stderr are the caller's. */
  exec(command: string, signal?: AbortSignal): Promise<ClientChannel> {
    return this.#open(signal, (done) => this.#client.exec(command, done)).catch((error: Error) => {
      if (error instanceof HostError) throw error;
      throw new HostError(
        "protocol",
        this.host.name,
        `${this.host.name}: the SSH server does not run commands for ${this.host.user}: ${error.message}`,
        "Check its log, and that neither MaxSessions nor a restriction of the key or of the account forbids it.",
      );
    });
  }

  /** A TCP connection that the host opens. Throws a plain Error with the server's reason where it does not. */
  forward(address: string, port: number, signal?: AbortSignal): Promise<ClientChannel> {
    return this.#open(signal, (done) => this.#client.forwardOut("127.0.0.1", 0, address, port, done));
  }

  close(): void {
    this.#end(
      new HostError("cancelled", this.host.name, `${this.host.name}: the line was closed`, "Run it again."),
    );
  }

  #open(
    signal: AbortSignal | undefined,
    ask: (done: (error: Error | undefined, channel: ClientChannel) => void) => void,
  ): Promise<ClientChannel> {
    return new Promise((resolve, reject) => {
      if (this.#ended) return reject(this.#ended);
      const onEnd = (error: HostError) => reject(error);
      const onAbort = () => reject(cancelled(this.host.name, "opening a channel"));
      if (signal?.aborted) return onAbort();
      signal?.addEventListener("abort", onAbort, { once: true });
      this.#listeners.add(onEnd);
      ask((error, channel) => {
        signal?.removeEventListener("abort", onAbort);
        this.#listeners.delete(onEnd);
        if (error) return reject(this.#ended ?? new Error(channelReason(error)));
        if (signal?.aborted) channel.destroy();
        resolve(channel);
      });
    });
  }

  #lose(why: string): void {
    this.#end(
      new HostError(
        "lost",
        this.host.name,
        `${this.host.name}: the line to ${this.host.address} was lost: ${why}`,
        "Check the network and whether the machine is still on, then run it again.",
      ),
    );
  }

  #end(error: HostError): void {
    if (this.#ended) return;
    this.#ended = error;
    clearInterval(this.#watch);
    this.#client.on("error", ignore);
    this.#client.end(); // says goodbye where somebody listens
    this.#transport.close();
    for (const listener of this.#listeners) listener(error);
    this.#listeners.clear();
  }
}
