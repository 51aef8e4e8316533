/** A real OpenSSH server on 127.0.0.1 for one test, with keys of its own in a temporary folder. */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir, userInfo } from "node:os";
import { join } from "node:path";
import type { Writable } from "node:stream";
import type { HostConnection } from "../inventory.ts";

export interface TestSshd {
  dir: string;
  port: number;
  user: string;
  /** Private key that the server lets in. */
  identityFile: string;
  /** Fingerprints by type of key. */
  hostKeys: Record<string, string>;
  /** Public host keys as known_hosts has them: type and blob. */
  publicHostKeys: Record<string, string>;
  /** A connection that works, with `over` on top. */
  host(name: string, over?: Partial<HostConnection>): HostConnection;
  /** The server's log so far. */
  log(): string;
  /** How often a line of the log matches. */
  count(pattern: RegExp): number;
  stop(): Promise<void>;
}

export interface TestSshdOptions {
  /** Lines of sshd_config on top. */
  config?: string[];
  hostKeyTypes?: string[];
}

export const SSHD = "/usr/sbin/sshd";

export function keygen(...args: string[]): string {
  return execFileSync("ssh-keygen", args, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
}

export async function startSshd({
  config = [],
  hostKeyTypes = ["ed25519"],
}: TestSshdOptions = {}): Promise<TestSshd> {
  const dir = mkdtempSync(join(tmpdir(), "guidomain-sshd-"));
  const { username: user, uid } = userInfo();
  if (uid === 0) mkdirSync("/run/sshd", { recursive: true }); // sshd insists on it as root
  const identityFile = join(dir, "id");
  keygen("-q", "-t", "ed25519", "-N", "", "-f", identityFile);
  writeFileSync(join(dir, "authorized_keys"), readFileSync(`${identityFile}.pub`));
  const hostKeys: Record<string, string> = {};
  const publicHostKeys: Record<string, string> = {};
  for (const type of hostKeyTypes) {
    const file = join(dir, `host_${type}`);
    keygen("-q", "-t", type, "-N", "", "-f", file);
    hostKeys[type] = keygen("-lf", file).split(" ")[1] ?? "";
    publicHostKeys[type] = readFileSync(`${file}.pub`, "utf8").split(" ").slice(0, 2).join(" ");
  }
  const port = await freePort();
  const file = join(dir, "sshd_config");
  writeFileSync(
    file,
    [
      ...config, // the first value counts
      `Port ${port}`,
      "ListenAddress 127.0.0.1",
      ...hostKeyTypes.map((type) => `HostKey ${join(dir, `host_${type}`)}`),
      `AuthorizedKeysFile ${join(dir, "authorized_keys")}`,
      "PasswordAuthentication no",
      "KbdInteractiveAuthentication no",
      "UsePAM no",
      "StrictModes no",
      "PermitRootLogin yes",
      "PidFile none",
      "MaxStartups 100",
      "LogLevel VERBOSE",
      "",
    ].join("\n"),
  );
  // The end of descriptor 3, and so of this process however it ends, ends the server and its folder.
  const guard = `(read _ <&3; kill $$; rm -rf "$0") 2>/dev/null & exec "$@" 3<&-`;
  const child = spawn("/bin/sh", ["-c", guard, dir, SSHD, "-D", "-e", "-f", file], {
    stdio: ["ignore", "ignore", "pipe", "pipe"],
  });
  let log = "";
  await new Promise<void>((resolve, reject) => {
    child.stderr?.on("data", (chunk: Buffer) => {
      log += chunk;
      if (log.includes("Server listening")) resolve();
    });
    child.once("error", reject);
    child.once("exit", () => reject(new Error(`sshd did not start: ${log}`)));
  });
  return {
    dir,
    port,
    user,
    identityFile,
    hostKeys,
    publicHostKeys,
    host: (name, over = {}) => ({
      name,
      address: "127.0.0.1",
      port,
      user,
      ...("agent" in over ? {} : { identityFile }),
      ...("knownHosts" in over ? {} : { hostKey: Object.values(hostKeys) }),
      ...over,
    }),
    log: () => log,
    count: (pattern) => log.split("\n").filter((line) => pattern.test(line)).length,
    async stop() {
      await ended(child);
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

async function ended(child: ChildProcess): Promise<void> {
  const exit = once(child, "exit");
  (child.stdio[3] as Writable).end();
  if (child.exitCode === null && child.signalCode === null) await exit;
  child.stderr?.destroy(); // a session that still runs holds its other end
}

export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const address = server.address();
      server.close(() =>
        typeof address === "object" && address ? resolve(address.port) : reject(new Error("no port")),
      );
    });
  });
}
