/** `npm run policy`: the exit status, and where the answer goes. */
import { spawnSync } from "node:child_process";
import path from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";

const policy = (...args: string[]) => {
  const script = path.join(import.meta.dirname, "policy.ts");
  const { status, stdout, stderr } = spawnSync(process.execPath, [script, ...args], { encoding: "utf8" });
  return { status, stdout, stderr };
};

test("a level: allowed, denied, not a question", () => {
  const allowed = policy("may", "guest", "qubes.StartApp+firefox", "@dispvm");
  assert.is(allowed.status, 0, allowed.stderr);
  assert.match(allowed.stdout, /^allowed: /);
  const denied = policy("may", "guest", "admin.vm.Create.AppVM+fedora-43-xfce", "dom0");
  assert.is(denied.status, 1);
  assert.match(denied.stdout, /^denied: /);
  const none = policy("may", "guest", "qubes.StartApp+firefox", "nobody");
  assert.equal([none.status, none.stdout], [2, ""]);
  assert.match(none.stderr, /^not a question: target: "nobody" is not on this host/);
});

test("a GUI domain of a stack, by the policy that the stack renders", () => {
  const { status, stdout, stderr } = policy("explain", "sys-gui", "--stack", "lab");
  assert.is(status, 0, stderr);
  assert.match(stdout, /^sys-gui may:\n/);
  assert.match(stdout, /^ {4}admin\.vm\.\{Shutdown, Start\}: its qubes$/m);
  const denied = policy("may", "sys-gui", "admin.vm.Kill", "client-of-sys-gui");
  assert.is(denied.status, 1, denied.stderr);
});

test("who is neither, and a command that is none", () => {
  for (const args of [
    ["explain", "nobody"],
    ["explain"],
    ["may", "user", "qubes.Filecopy"],
    ["explain", "user", "x"],
    ["drink", "user"],
    ["explain", "user", "--bogus"],
  ]) {
    const { status, stdout } = policy(...args);
    assert.equal([status, stdout], [2, ""], args.join(" "));
  }
});

test.run();
