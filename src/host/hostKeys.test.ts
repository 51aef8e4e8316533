import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { algorithmsOf, knownKeys } from "./hostKeys.ts";

const key = (text: string) => Buffer.from(text).toString("base64");
const found = (text: string, address: string, port = 22) =>
  knownKeys(text, address, port).keys.map((blob) => blob.toString());

test("names, ports, lists, comments", () => {
  const text = `# a comment\n\nt14,10.0.0.5 ssh-ed25519 ${key("one")} note\n[t14]:2222 ssh-rsa ${key("two")}\n`;
  assert.equal(found(text, "t14"), ["one"]);
  assert.equal(found(text, "T14"), ["one"]);
  assert.equal(found(text, "10.0.0.5"), ["one"]);
  assert.equal(found(text, "t14", 2222), ["two"]);
  assert.equal(found(text, "t1"), []);
  assert.equal(found(text, "10.0.0.55"), []);
});

test("wildcards, negation, a dot that is a dot", () => {
  const text = `*.lan,!bad.lan ssh-ed25519 ${key("one")}\n`;
  assert.equal(found(text, "t14.lan"), ["one"]);
  assert.equal(found(text, "bad.lan"), []);
  assert.equal(found(text, "t14xlan"), []);
});

test("markers: revoked keys apart, authorities left out", () => {
  const text = `@revoked * ssh-ed25519 ${key("bad")}\n@cert-authority * ssh-ed25519 ${key("authority")}\n`;
  const known = knownKeys(text, "t14", 22);
  assert.equal(known.keys, []);
  assert.equal(known.revoked.map(String), ["bad"]);
});

test("entries that ssh-keygen has hashed", () => {
  const dir = mkdtempSync(join(tmpdir(), "guidomain-known-"));
  try {
    const file = join(dir, "known_hosts");
    execFileSync("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", join(dir, "k")]);
    const [type, blob] = readFileSync(join(dir, "k.pub"), "utf8").split(" ");
    writeFileSync(file, `t14 ${type} ${blob}\n[t15]:2222 ${type} ${blob}\n`);
    execFileSync("ssh-keygen", ["-H", "-f", file], { stdio: "ignore" });
    const text = readFileSync(file, "utf8");
    assert.match(text, /^\|1\|/);
    assert.is(knownKeys(text, "t14", 22).keys.length, 1);
    assert.is(knownKeys(text, "t15", 2222).keys.length, 1);
    assert.is(knownKeys(text, "t15", 22).keys.length, 0);
  } finally {
    rmSync(dir, { recursive: true });
  }
});

test("an RSA key signs three algorithms, others one", () => {
  assert.equal(algorithmsOf("ssh-rsa"), ["rsa-sha2-512", "rsa-sha2-256", "ssh-rsa"]);
  assert.equal(algorithmsOf("ssh-ed25519"), ["ssh-ed25519"]);
});

test.run();
