/** Is this the host that was meant? Fingerprints and known_hosts (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT"). */
import { createHash, createHmac } from "node:crypto";
import { readFile } from "node:fs/promises";
import type { ServerHostKeyAlgorithm } from "ssh2";
import { HostError } from "./errors.ts";
import type { HostConnection } from "./inventory.ts";
import { expandHome } from "./paths.ts";

/** What a host must show, and in which order its kinds of keys are asked for. */
export interface Trust {
  /** Where it stands, for messages. */
  source: string;
  /** Fingerprints; empty where known_hosts does not know the host. */
  expected: string[];
  /** `@revoked` in known_hosts. */
  revoked: string[];
  /** Asked for in this order: the kinds that can be checked first. */
  algorithms: ServerHostKeyAlgorithm[];
}

const KINDS: ServerHostKeyAlgorithm[] = [
  "ssh-ed25519",
  "ecdsa-sha2-nistp256",
  "ecdsa-sha2-nistp384",
  "ecdsa-sha2-nistp521",
  "rsa-sha2-512",
  "rsa-sha2-256",
  "ssh-rsa",
];

/** The algorithms that are signed with a key of this type: an `ssh-rsa` key signs `rsa-sha2-512` too. */
export function algorithmsOf(type: string): ServerHostKeyAlgorithm[] {
  return KINDS.filter((algorithm) => (type === "ssh-rsa" ? /rsa/.test(algorithm) : algorithm === type));
}

export function fingerprintOf(key: Buffer): string {
  return `SHA256:${createHash("sha256").update(key).digest("base64").replace(/=+$/, "")}`;
}

/** The type a public key blob starts with (RFC 4253 §6.6: a string of 4 bytes of length and the text). */
export function keyType(key: Buffer): string {
  return key.length > 4 ? key.toString("latin1", 4, 4 + Math.min(key.readUInt32BE(0), 64)) : "unknown";
}

/** What is to be trusted for this host. Throws HostError `config` where the known_hosts file cannot be read. */
export async function trustOf(host: HostConnection): Promise<Trust> {
  if (host.hostKey)
    return { source: "the configured hostKey", expected: host.hostKey, revoked: [], algorithms: KINDS };
  const path = host.knownHosts ?? "~/.ssh/known_hosts";
  let text: string;
  try {
    text = await readFile(expandHome(path), "utf8");
  } catch (error) {
    throw new HostError(
      "config",
      host.name,
      `${host.name}: the known_hosts file ${path} cannot be read (${(error as NodeJS.ErrnoException).code}); nothing was connected`,
      `Give hostKey: "SHA256:…" for ${host.name}, as \`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub\` prints it on the host itself.`,
    );
  }
  const known = knownKeys(text, host.address, host.port);
  const first = known.keys.flatMap((key) => algorithmsOf(keyType(key)));
  return {
    source: path,
    expected: known.keys.map(fingerprintOf),
    revoked: known.revoked.map(fingerprintOf),
    algorithms: [...new Set([...first, ...KINDS])],
  };
}

/** The keys that a known_hosts text holds for an address. Certificate authorities are not supported: left out. */
export function knownKeys(
  text: string,
  address: string,
  port: number,
): { keys: Buffer[]; revoked: Buffer[] } {
  const name = (port === 22 ? address : `[${address}]:${port}`).toLowerCase();
  const found: { keys: Buffer[]; revoked: Buffer[] } = { keys: [], revoked: [] };
  for (const line of text.split("\n")) {
    const words = line.trim().split(/\s+/);
    if (!words[0] || words[0].startsWith("#")) continue;
    const marker = words[0].startsWith("@") ? words.shift() : undefined;
    const [patterns = "", , blob = ""] = words;
    if (marker === "@cert-authority" || !matches(patterns, name)) continue;
    (marker === "@revoked" ? found.revoked : found.keys).push(Buffer.from(blob, "base64"));
  }
  return found;
}

function matches(patterns: string, name: string): boolean {
  if (patterns.startsWith("|1|")) {
    const [, , salt = "", hash = ""] = patterns.split("|");
    return createHmac("sha1", Buffer.from(salt, "base64")).update(name).digest("base64") === hash;
  }
  let matched = false;
  for (const pattern of patterns.toLowerCase().split(",")) {
    const negated = pattern.startsWith("!");
    const glob = pattern
      .slice(negated ? 1 : 0)
      .replace(/[\\^$.+()[\]{}|]/g, "\\$&")
      .replaceAll("*", ".*")
      .replaceAll("?", ".");
    if (!new RegExp(`^${glob}$`).test(name)) continue;
    if (negated) return false;
    matched = true;
  }
  return matched;
}
