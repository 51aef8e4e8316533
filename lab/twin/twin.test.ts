import { spawn } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { run } from "./sandbox.ts";
import { attachTwin, lastStart, startTwin } from "./twin.ts";

const dir = mkdtempSync(join(tmpdir(), "twin-"));
const twin = await startTwin({ dir, world: { repository: { "dummy-psu-sender": "4.3.1" } } });
const fresh = await twin.dump();

/** Its host key, as a known_hosts file: the client is as strict as ours. */
const knownHosts = join(dir, "known_hosts");
writeFileSync(knownHosts, `[127.0.0.1]:${twin.port} ${readFileSync(join(dir, "ssh/host_key.pub"), "utf8")}`);
const options = [
  ...["-F", "/dev/null", "-p", String(twin.port), "-o", `UserKnownHostsFile=${knownHosts}`],
  ...[
    "-o",
    "StrictHostKeyChecking=yes",
    "-o",
    "IdentitiesOnly=yes",
    "-o",
    "IdentityAgent=none",
    "-o",
    "BatchMode=yes",
  ],
];
const at = `${twin.user}@127.0.0.1`;
const ssh = (command: string) => run("ssh", [...options, "-i", twin.identityFile, at, command]);

async function eventually(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  for (const end = Date.now() + 5000; Date.now() < end; await sleep(20)) if (await holds()) return;
  assert.unreachable(`${what} did not come true in 5 s`);
}

interface SaltRun {
  local:
    | Record<string, { result: boolean | null; comment: string; changes: Record<string, unknown> }>
    | string[];
}

async function salt(sls: string) {
  const write = `mkdir -p /srv/user_salt/t; cat > /srv/user_salt/t/x.sls <<'END'\n${sls}\nEND\n`;
  const result = await twin.exec(`${write}qubesctl --dom0-only state.sls t.x saltenv=user --out=json`);
  const { local } = JSON.parse(result.stdout) as SaltRun;
  return { ...result, states: Array.isArray(local) ? [] : Object.values(local) };
}

test("a command runs as dom0's root, and its status and both streams come back", async () => {
  const { code, stdout, stderr } = await twin.exec(
    "id -u; hostname; cat /etc/qubes-release; echo oops >&2; exit 3",
  );
  assert.is(code, 3);
  assert.is(stdout, "0\ndom0\nQubes release 4.3 (R4.3)\n");
  assert.is(stderr, "oops\n");
});

test("nothing of the machine but its programs is seen, and those cannot be changed", async () => {
  const marker = join(dir, "marker");
  writeFileSync(marker, "");
  const seen = await twin.exec(`ls ${marker} ${import.meta.filename}`);
  assert.is.not(seen.code, 0);
  assert.is(seen.stdout, "");
  assert.match((await twin.exec("touch /usr/bin/planted")).stderr, "Read-only file system");
  assert.is((await twin.exec("pgrep -c sshd")).stdout, "0\n");
  assert.is(
    (await twin.exec("ls /sys/class/net /proc/1/root/work 2>/dev/null")).stdout.includes("eth"),
    false,
  );
});

test("SSH reaches it with its key and counts one connection, one authentication, one exec", async () => {
  const before = twin.counters();
  const { code, stdout } = await ssh("echo $PATH; exit 7");
  assert.is(code, 7);
  assert.match(stdout, "/usr/lib/twin/bin");
  assert.equal(twin.since(before), { connections: 1, authentications: 1, execs: 1, snapshots: 0 });
});

test("SSH takes no password, no other key", async () => {
  const other = join(dir, "other_key");
  await run("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", other]);
  const before = twin.counters();
  const denied = await run("ssh", [...options, "-i", other, at, "true"]);
  assert.is(denied.code, 255);
  assert.match(denied.stderr, "Permission denied (publickey)");
  assert.is(twin.since(before).authentications, 0);
  assert.is(twin.since(before).execs, 0);
});

test("a client that is killed leaves no process behind in dom0", async () => {
  const client = spawn("ssh", [...options, "-i", twin.identityFile, at, "echo there; exec cat"], {
    stdio: ["pipe", "pipe", "ignore"],
  });
  await new Promise((there) => client.stdout.once("data", there));
  await eventually("cat", async () => (await twin.exec("pgrep -c cat")).stdout === "1\n");
  client.kill("SIGKILL");
  await eventually("the end of cat", async () => (await twin.exec("pgrep -c cat")).stdout === "0\n");
});

test("admin.vm.List calls are counted as snapshots", async () => {
  const before = twin.counters();
  const { code } = await twin.exec("qvm-ls --raw-list");
  assert.is(code, 0);
  assert.ok(twin.since(before).snapshots >= 1);
});

test("reading changes nothing that a dump sees; one write, one mode, one property, one package do", async () => {
  const before = await twin.dump();
  await twin.exec("qvm-ls; xl info; lspci; cat /etc/hosts");
  assert.equal(twin.compare(before, await twin.dump()), []);
  await twin.exec(
    "touch /srv/planted; chmod 600 /etc/hosts; qvm-prefs personal maxmem 1234; dnf -y remove dummy-backlight-dom0 qubes-core-dom0",
  );
  const found = twin.compare(before, await twin.dump());
  for (const part of [
    "files./srv/planted: new",
    'files./etc/hosts.mode: "0644" → "0600"',
    "maxmem",
    "packages.qubes-core-dom0: gone",
  ])
    assert.ok(
      found.some((line) => line.includes(part)),
      `${part} in\n${found.join("\n")}`,
    );
  assert.is(found.filter((line) => line.startsWith("packages.")).length, 1);
  const rest = twin.compare(before, await twin.dump(), {
    ignore: ["files./srv/planted", "files./etc/hosts", "packages", "qubes"],
  });
  assert.equal(rest, []);
});

test("Salt runs states, tells what it changed, and fails as Salt does", async () => {
  const state = (path: string) => `${path}:\n  file.managed:\n    - contents: hello`;
  const { code, stderr, states } = await salt(`${state("/root/x")}\n${state("/root/nodir/x")}`);
  assert.is(code, 2);
  assert.equal(
    states.map((each) => [each.result, each.changes]),
    [
      [true, { diff: "New file" }],
      [false, {}],
    ],
  );
  assert.is(stderr, "[ERROR   ] Parent directory not present\n");
  assert.is((await twin.exec("cat /root/x")).stdout, "hello\n");
});

test("pkg.installed gets packages through the UpdateVM; it says what it cannot get and why", async () => {
  const state = (name: string) => `${name}:\n  pkg.installed:\n    - pkgs: [${name}]`;
  const first = await salt(`${state("dummy-psu-sender")}\n${state("nosuch")}`);
  assert.is(first.code, 2);
  assert.equal(first.states[0]?.changes, { "dummy-psu-sender": { old: "", new: "4.3.1-1.fc41" } });
  assert.is((await twin.exec("rpm -q --qf '%{VERSION}\\n' dummy-psu-sender")).stdout, "4.3.1\n");
  assert.is(first.states[1]?.result, false);
  assert.match(first.states[1]?.comment ?? "", "Unable to find a match: nosuch");

  await twin.exec("dnf -y remove dummy-psu-sender");
  await twin.world({ network: false });
  const offline = await salt(`${state("dummy-psu-sender")}\nnosuch:\n  pkg.removed`);
  await twin.world({ network: true });
  assert.equal(
    offline.states.map((each) => each.result),
    [false, true],
  );
  assert.match(offline.states[0]?.comment ?? "", "Could not resolve host");
  assert.is((await twin.exec("rpm -q dummy-psu-sender")).code, 1);
});

test("a changed world is seen at once", async () => {
  assert.match((await twin.exec("xl info")).stdout, "hvm_directio");
  await twin.world({ iommu: false, faults: { saltMissing: true, noPython: true } });
  assert.not.match((await twin.exec("xl info")).stdout, "hvm_directio");
  for (const command of ["qubesctl --dom0-only test.ping", "salt-call --local test.ping", "python3 -I -c 1"])
    assert.is((await twin.exec(command)).code, 127, command);
  await twin.world({ iommu: true, faults: { saltMissing: undefined, noPython: undefined } });
  assert.is((await twin.exec("which qubesctl && python3 -I -c 1")).code, 0);
});

test("a full disk refuses writes and lets go of them again", async () => {
  const before = await twin.dump();
  await twin.world({ faults: { diskFull: true } });
  for (const command of [
    "echo x > /srv/x",
    "mkdir /var/lib/guidomain",
    "echo x > /etc/qubes/policy.d/x.policy",
  ])
    assert.match((await twin.exec(command)).stderr, "No space left on device", command);
  assert.is((await twin.exec("cat /etc/hosts")).code, 0);
  await twin.world({ faults: { diskFull: undefined } });
  assert.is((await twin.exec("echo x > /srv/x && rm /srv/x")).code, 0);
  assert.equal(twin.compare(before, await twin.dump()), []);
});

test("units: what is enabled, what runs", async () => {
  const { stdout } = await twin.exec(
    "systemctl is-active lightdm; systemctl disable lightdm 2>/dev/null; systemctl is-enabled lightdm; systemctl is-active lightdm; systemctl stop lightdm; systemctl is-active lightdm; echo $?",
  );
  assert.is(stdout, "active\ndisabled\nactive\ninactive\n3\n");
});

test("a reset brings back the start under the same address, as a new boot", async () => {
  const bootId = (await twin.exec("cat /proc/sys/kernel/random/boot_id")).stdout;
  const before = twin.counters();
  await twin.reset();
  assert.equal(twin.compare(fresh, await twin.dump()), []);
  assert.is.not((await twin.exec("cat /proc/sys/kernel/random/boot_id")).stdout, bootId);
  assert.is((await ssh("true")).code, 0);
  assert.ok(twin.since(before).snapshots >= 0, "a reset clears dom0's logs, not the count");
});

test("a reset on another machine stays that machine", async () => {
  const machine = () => twin.surroundings().machine.machine;
  await twin.reset({ machine: "thinkpad-t400s" });
  assert.match(machine(), /T400s/);
  // It has no IOMMU, and its network works nevertheless.
  assert.is((await twin.exec("qvm-start sys-firewall && qvm-check -q --running sys-net")).code, 0);
  await twin.reset();
  assert.match(machine(), /T400s/);
  await twin.reset({});
  assert.match(machine(), /Laptop/);
  assert.equal(twin.compare(fresh, await twin.dump()), []);
  const names = /There is no "nonsense" in lab\/twin\/machines, .*there are laptop, /;
  assert.match(String(await twin.reset({ machine: "nonsense" }).catch(String)), names);
  assert.is((await ssh("true")).code, 0, "nothing was touched");
});

test("a start as the last one was boots the disk that is there", async () => {
  const other = mkdtempSync(join(tmpdir(), "twin-"));
  const first = await startTwin({ dir: other, machine: "server" });
  await first.exec("touch /etc/mark");
  await first.stop();
  const again = await startTwin({ ...lastStart(other), dir: other });
  assert.is((await again.exec("test -e /etc/mark")).code, 0);
  assert.match(again.surroundings().machine.machine, /PowerEdge/);
  await again.remove();
});

test("a dom0 that does not come up is an error that says where to look", async () => {
  const broken = mkdtempSync(join(tmpdir(), "twin-"));
  try {
    await startTwin({ dir: broken, install: { packages: {} } });
    assert.unreachable("it started without an installation");
  } catch (error) {
    assert.match(String(error), "qubesd does not serve /run/qubesd.sock; see /var/log/qubes/qubesd.log");
  }
  assert.equal(processesOf(broken), []);
  rmSync(broken, { recursive: true });
});

test("a stop leaves no process, and nothing to attach to", async () => {
  assert.is((await attachTwin(dir))?.port, twin.port);
  const session = spawn("ssh", [...options, "-i", twin.identityFile, at, "echo there; sleep 60"], {
    stdio: ["ignore", "pipe", "ignore"],
  });
  const closed = new Promise((done) => session.once("close", done));
  await new Promise((there) => session.stdout.once("data", there));
  const namespace = (await twin.exec("readlink /proc/self/ns/pid")).stdout.trim();
  assert.ok(processesOf(dir, namespace).some((line) => line.startsWith("sleep 60")));
  await twin.stop();
  await closed;
  assert.equal(processesOf(dir, namespace), []);
  assert.is(await attachTwin(dir), null);
});

test.after(async () => {
  await twin.remove();
});

test.run();

/** Command lines of the processes that are in one pid namespace, or name a folder. */
function processesOf(folder: string, namespace?: string): string[] {
  const lines: string[] = [];
  for (const entry of readdirSync("/proc")) {
    if (!/^\d+$/.test(entry) || Number(entry) === process.pid) continue;
    try {
      const line = readFileSync(`/proc/${entry}/cmdline`, "utf8").replaceAll("\0", " ");
      if (line.includes(folder) || readlinkSync(`/proc/${entry}/ns/pid`) === namespace) lines.push(line);
    } catch {
      // ended meanwhile
    }
  }
  return lines;
}
