// The password of a GUI domain on real parts: what its /etc/shadow has after its start and at once when it changes, and whose password it follows.

import { secret } from "@pulumi/pulumi";
import { GuiDomain, type GuiDomainArgs } from "guidomain";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { startTwin } from "../lab/twin/twin.ts";
import { hostOf, scratch, testStack } from "./harness.ts";

const folder = scratch("login");
const twin = await startTwin({ dir: `${folder}/twin` });
await twin.exec("qvm-start sys-firewall");
const pristine = await twin.dump();

let args: Partial<GuiDomainArgs> = { login: { password: secret("correct horse") } };
const stack = await testStack("login", folder, { lab: hostOf(twin) }, async () => {
  return { state: new GuiDomain("sys-gui", { host: "lab", clients: ["personal"], ...args }).state };
});
const up = async () => {
  const done = await stack.up();
  assert.ok(done.ok, done.output);
  return done;
};

/** The hash of a user inside the GUI domain, which runs. */
async function hashOf(user = "user"): Promise<string> {
  const { stdout, code, stderr } = await twin.exec(
    `qvm-run -p -u root --no-gui sys-gui 'grep ^${user}: /etc/shadow'`,
  );
  assert.is(code, 0, stderr);
  return stdout.split(":")[1] ?? "";
}

/** Whether that is the hash of this password, by the C library of the machine. */
async function isOf(hash: string, password: string): Promise<boolean> {
  const { spawnSync } = await import("node:child_process");
  const [, , rounds = "", salt = ""] = /^\$6\$(?:rounds=\d+\$)?/.test(hash) ? hash.split("$") : [];
  const script = "import crypt, sys; print(crypt.crypt(sys.argv[1], sys.argv[2]) == sys.argv[2])";
  const { stdout } = spawnSync("python3", ["-W", "ignore", "-c", script, password, hash], {
    encoding: "utf8",
  });
  assert.ok(rounds && salt, hash);
  return stdout.trim() === "True";
}

test("after its start the GUI domain has the password, and nothing of it lies on the host for others", async () => {
  const done = await up();
  assert.is(done.outputs["state"], "ready");
  const hash = await hashOf();
  assert.is(await isOf(hash, "correct horse"), true);
  assert.is(await isOf(hash, "wrong"), false);
  const found = await twin.exec(
    `grep -rlF '${hash}' /srv /etc /var/lib/qubes /run /tmp /var/log; ls -l /var/lib/guidomain/secrets/sys-gui`,
  );
  // Its own root volume, which is new at each start, and what the laboratory has of its memory.
  const own = /^\/(var\/lib\/qubes\/appvms\/sys-gui\/root|run\/twin)/;
  assert.equal(
    found.stdout.split("\n").filter((line) => line.startsWith("/") && !own.test(line)),
    [],
  );
  assert.match(found.stdout, /-rw------- .* login$/m);
});

test("it comes back after a restart, as the root file system is the template's again", async () => {
  const hash = await hashOf();
  await twin.exec(
    "qvm-shutdown --wait sys-gui && qvm-start sys-gui && qvm-run -p --no-gui sys-gui 'systemctl is-system-running --wait'",
  );
  assert.is(await hashOf(), hash);
});

test("another password is in force at once in the qube that runs, and nothing else is done", async () => {
  const started = await twin.exec("qvm-prefs sys-gui start_time");
  args = { login: { password: secret("another one") } };
  const done = await up();
  assert.is(await isOf(await hashOf(), "another one"), true);
  assert.is((await twin.exec("qvm-prefs sys-gui start_time")).stdout, started.stdout);
  assert.equal(done.changes, { same: 1, update: 1 });
  assert.equal((await stack.preview()).changes, { same: 2 });
});

test("a run that fails leaves the former password in force", async () => {
  const hash = await hashOf();
  args = { login: { password: secret("a third") }, hostPackages: ["nosuch"] };
  const done = await stack.up();
  assert.is(done.ok, false);
  assert.is(await hashOf(), hash);
});

test("it follows dom0: the password of that user at its start, and again when it changes", async () => {
  const set = (password: string) =>
    twin.exec(
      `useradd alice 2>/dev/null; grep -q ^alice: /etc/shadow || echo 'alice:!!:20000:0:99999:7:::' >>/etc/shadow; H=$(python3 -W ignore -c "import crypt; print(crypt.crypt('${password}', '\\$6\\$abcdefgh'))") && sed -i "s|^alice:[^:]*|alice:$H|" /etc/shadow && cut -d: -f1,2 /etc/shadow | grep ^alice:`,
    );
  const first = await set("dom0 one");
  assert.is(first.code, 0, first.stderr);
  args = { login: { follow: "dom0", user: "alice" } };
  await up();
  assert.is(`alice:${await hashOf()}`, first.stdout.trim());
  const second = await set("dom0 two");
  for (let n = 0; n < 60 && `alice:${await hashOf()}` !== second.stdout.trim(); n++)
    await new Promise((resolve) => setTimeout(resolve, 500));
  assert.is(`alice:${await hashOf()}`, second.stdout.trim());
});

test("destroyed: nothing of it is left", async () => {
  const destroy = await stack.destroy();
  assert.ok(destroy.ok, destroy.output);
  const left = twin
    .compare(pristine, await twin.dump())
    .filter((line) => !/\/etc\/(shadow|passwd|\.pwd\.lock)/.test(line));
  assert.equal(left, []);
});

test.run();
