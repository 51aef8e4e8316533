// Secrets are where they must be and nowhere else: canaries are planted, the stack is worked on as a person does, well and badly and with
// all logs on, and then everything that was written or shown is searched, in each spelling that it could have.
import { execFileSync, spawn } from "node:child_process";
import { copyFileSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { layout } from "../lab/twin/sandbox.ts";
import { startTwin } from "../lab/twin/twin.ts";
import { saltOf, sha512crypt } from "../src/model/crypt.ts";
import { hostOf, scratch } from "./harness.ts";
import { Project } from "./project.ts";

const folder = scratch("secrets");
const twin = await startTwin({ dir: path.join(folder, "twin") });

const LOGIN = 'Kanari "51" & co/\u00e4nd+login';

/** Each with characters that JSON, URLs, YAML, a shell and base64 spell in their own way. */
const CANARIES = {
  passphrase: 'Kanari "17" & co/\u00e4nd+passphrase',
  "wrong passphrase": 'Kanari "28" & co/\u00e4nd+wrong',
  password: 'Kanari "39" & co/\u00e4nd+password',
  "secret argument": "kanari-40-argument",
  login: LOGIN,
  // What the host gets of it, which none but its root may see.
  "hash of login": sha512crypt(LOGIN, saltOf("lab", "sys-gui", "login")),
  // VNC uses no more than eight letters.
  screen: 'K"6&/+2q',
};

/** The spellings in which a text may be hidden in another one. */
function spellings(secret: string): string[] {
  const bytes = Buffer.from(secret);
  // Base64 spells a text in three ways, by what stands before it; the edges depend on the neighbours.
  const base64 = [0, 1, 2].map((before) =>
    Buffer.concat([Buffer.alloc(before), bytes])
      .toString("base64")
      .slice(4, -4),
  );
  return [
    secret,
    JSON.stringify(secret).slice(1, -1),
    JSON.stringify(JSON.stringify(secret)).slice(3, -3),
    encodeURIComponent(secret),
    new URLSearchParams({ a: secret }).toString().slice(2),
    secret.replaceAll("'", "'\\''"),
    secret
      .replaceAll(/[^ -~]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`)
      .replaceAll('"', '\\"'),
    bytes.toString("latin1"),
    bytes.toString("hex"),
    ...base64,
    ...base64.map((text) => text.replaceAll("+", "-").replaceAll("/", "_")),
  ];
}

const SPELLINGS = Object.entries(CANARIES).flatMap(([name, secret]) =>
  // Of a short one parts would be found anywhere.
  [...new Set([...spellings(secret), Buffer.from(secret).toString("base64")])]
    .filter((text) => text.length >= 8)
    .map((text) => [name, Buffer.from(text)] as const),
);

/** Names of the canaries in there. */
function canariesIn(data: Buffer | string): string[] {
  const bytes = Buffer.from(data as string);
  return [...new Set(SPELLINGS.filter(([, text]) => bytes.includes(text)).map(([name]) => name))];
}

/** "file: canary" for every file below a folder. */
function canariesBelow(top: string): string[] {
  const found: string[] = [];
  for (const entry of readdirSync(top, { withFileTypes: true, recursive: true })) {
    const file = path.join(entry.parentPath, entry.name);
    if (entry.isFile())
      for (const name of canariesIn(readFileSync(file))) found.push(`${path.relative(top, file)}: ${name}`);
  }
  return found;
}

/** "process: canary (where)" of all processes of the machine, the twin's too. */
function canariesInProcesses(): string[] {
  const found: string[] = [];
  for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    const read = (file: string) => {
      try {
        return readFileSync(`/proc/${pid}/${file}`);
      } catch {
        return Buffer.alloc(0); // it has ended
      }
    };
    const line = read("cmdline");
    const title = line.toString().replaceAll("\0", " ").slice(0, 100);
    for (const name of canariesIn(line)) found.push(`${title}: ${name} (command line)`);
    for (const variable of read("environ").toString("latin1").split("\0"))
      for (const name of canariesIn(Buffer.from(variable, "latin1")))
        found.push(`${title}: ${name} (variable ${variable.split("=")[0]})`);
  }
  return [...new Set(found)];
}

// -------------------------------------------------------------------------------------------------- the person

const keys = path.join(folder, "keys");
mkdirSync(keys);
const identityFile = path.join(keys, "encrypted");
copyFileSync(twin.identityFile, identityFile);
execFileSync("ssh-keygen", ["-q", "-p", "-P", "", "-N", CANARIES.passphrase, "-f", identityFile]);
const hosts = (passphrase: string) => JSON.stringify({ lab: hostOf(twin, { identityFile, passphrase }) });

/** Everything that Pulumi may write to, so that it can be searched. */
const written = path.join(folder, "written");
for (const name of ["site", "home", "tmp"]) mkdirSync(path.join(written, name), { recursive: true });
const site = new Project(
  path.join(written, "site"),
  `
const host = new Host("lab");
const template = config.get("badTemplate") ? config.requireSecret("badTemplate") : "fedora-43-xfce";
const remote = config.get("screen") && { display: ["vnc"], remote: { password: config.requireSecret("screen") } };
const login = config.get("login") && { login: { password: config.requireSecret("login") } };
export const mode = new GuiDomain("sys-gui", { host, clients: ["personal"], template, maxmem: config.requireNumber("maxmem"), ...login, ...remote }).mode;
export const password = config.requireSecret("password");
`,
  { TMPDIR: path.join(written, "tmp"), PULUMI_HOME: path.join(written, "home") },
);
await site.run("stack", "init", "secrets");
await site.configure("guidomain:hosts", hosts(CANARIES.passphrase), "--secret");
await site.configure("password", CANARIES.password, "--secret");
await site.configure("maxmem", "4000");

const outputs: string[] = [];
const inProcesses = new Set<string>();

/** Runs a command with all logs on, looking at all processes meanwhile; whether it ended well. */
async function watched(...args: string[]): Promise<boolean> {
  const run = site.start(...args, "--logtostderr", "-v=9");
  let ended = false;
  const looking = (async () => {
    while (!ended) {
      for (const found of canariesInProcesses()) inProcesses.add(found);
      await sleep(100);
    }
  })();
  const status = await run.ended;
  ended = true;
  await looking;
  outputs.push(run.output);
  return status === 0;
}

/**
 * The engine's own records of the values that it hands over and decides on, from -v=7 on: it writes secrets out there, whatever a provider
 * does. Everything else in its log is searched, the provider's words among it.
 */
const ENGINES_OWN =
  /^\{"time":"[^"]*","level":"INFO","msg":"(Marshaling property for RPC|Unmarshaling property for RPC|Planner decided )/;
const searched = (output: string) =>
  output
    .split("\n")
    .filter((line) => !ENGINES_OWN.test(line))
    .join("\n");

/** Everything but the processes: "place: canary". */
async function everywhere(): Promise<string[]> {
  const { stdout } = await twin.exec("find /run /tmp -xdev -type f -size -4096k -exec cat {} + 2>/dev/null"); // not on its disk
  return [
    ...outputs.flatMap((output) => canariesIn(searched(output)).map((name) => `output: ${name}`)),
    ...canariesBelow(written).map((found) => `written here: ${found}`),
    ...canariesBelow(layout(twin.dir).root).map((found) => `the host's disk: ${found}`),
    ...canariesBelow(layout(twin.dir).log).map((found) => `the host's logs: ${found}`),
    ...canariesIn(stdout).map((name) => `the host's memory file systems: ${name}`),
  ];
}

const test = suite("secrets");
test.after(() => twin.remove());

const UP = ["up", "--yes", "--skip-preview"];

test("up, preview, refresh, a failing up and a wrong passphrase show no secret anywhere", async () => {
  assert.ok(await watched("preview", "--diff"), outputs.at(-1)?.slice(-3000));
  assert.ok(await watched(...UP), outputs.at(-1)?.slice(-3000));
  assert.ok(await watched("refresh", "--yes", "--skip-preview"), outputs.at(-1)?.slice(-3000));
  await site.configure("maxmem", "3000");
  await twin.world({
    faults: { refuse: { "sys-gui": { "admin.vm.property.Set+maxmem": "Not on my watch" } } },
  });
  assert.not(await watched(...UP));
  assert.match(outputs.at(-1) ?? "", /Not on my watch/, "it fails where it was meant to");
  await twin.world({ faults: { refuse: undefined } });
  assert.ok(await watched(...UP), outputs.at(-1)?.slice(-3000));
  // An argument that the person calls secret, in an error that names it.
  await site.configure("badTemplate", CANARIES["secret argument"], "--secret");
  assert.not(await watched(...UP));
  assert.match(outputs.at(-1) ?? "", /template "\[secret\]" is not installed/);
  await site.run("config", "rm", "badTemplate");
  await site.configure("guidomain:hosts", hosts(CANARIES["wrong passphrase"]), "--secret");
  assert.not(await watched(...UP));
  assert.match(outputs.at(-1) ?? "", /lab: wrong passphrase for the identity file/);
  assert.equal(await everywhere(), []);
});

test("the password of a GUI domain is nowhere, and its hash only where root of dom0 and of that qube keep it", async () => {
  await site.configure("guidomain:hosts", hosts(CANARIES.passphrase), "--secret");
  await site.configure("login", CANARIES.login, "--secret");
  assert.ok(await watched("preview", "--diff"), outputs.at(-1)?.slice(-3000));
  assert.ok(await watched(...UP), outputs.at(-1)?.slice(-3000));
  assert.ok(await watched("refresh", "--yes", "--skip-preview"), outputs.at(-1)?.slice(-3000));
  // One that fails while it is being changed.
  await site.configure("login", "another", "--secret");
  await site.configure("maxmem", "3100");
  const refuse = { "sys-gui": { "admin.vm.property.Set+maxmem": "Not on my watch" } };
  await twin.world({ faults: { refuse } });
  assert.not(await watched(...UP));
  await twin.world({ faults: { refuse: undefined } });
  const where = (await everywhere()).sort();
  assert.ok(where.includes("the host's disk: var/lib/guidomain/secrets/sys-gui/login: hash of login"));
  const image =
    /^the host's disk: var\/lib\/qubes\/appvms\/sys-gui\/root-dirty\.img\/etc\/shadow-?: hash of login$/;
  assert.equal(
    where.filter((found) => !image.test(found)),
    ["the host's disk: var/lib/guidomain/secrets/sys-gui/login: hash of login"],
  );
  const { stdout } = await twin.exec(
    "stat -c '%a %n' /var/lib/guidomain /var/lib/guidomain/secrets/sys-gui/login",
  );
  assert.is(stdout, "700 /var/lib/guidomain\n600 /var/lib/guidomain/secrets/sys-gui/login\n");
  await site.run("config", "rm", "login");
  assert.ok(await watched(...UP), outputs.at(-1)?.slice(-3000));
  await twin.exec("qvm-shutdown --wait sys-gui");
  assert.equal(await everywhere(), []);
});

test("the password of a remote screen is nowhere but in dom0's file for it and in that qube's memory", async () => {
  await site.configure("screen", CANARIES.screen, "--secret");
  assert.ok(await watched("preview", "--diff"), outputs.at(-1)?.slice(-3000));
  assert.ok(await watched(...UP), outputs.at(-1)?.slice(-3000));
  assert.ok(await watched("refresh", "--yes", "--skip-preview"), outputs.at(-1)?.slice(-3000));
  assert.equal(await everywhere(), ["the host's disk: var/lib/guidomain/secrets/sys-gui/vnc: screen"]);
  const inside = await twin.exec(
    "qvm-run -p -u root sys-gui 'stat -c %a /run/guidomain/vnc; cat /run/guidomain/vnc'",
  );
  assert.is(inside.stdout, `600\n${CANARIES.screen}`);
  const dom0 = await twin.exec("stat -c %a /var/lib/guidomain/secrets/sys-gui/vnc");
  assert.is(dom0.stdout, "600\n");
  await site.run("config", "rm", "screen");
  assert.ok(await watched(...UP), outputs.at(-1)?.slice(-3000));
  await twin.exec("qvm-shutdown --wait sys-gui");
  assert.equal(await everywhere(), []);
});

test("the same with an inventory file, which alone holds the passphrase", async () => {
  await site.run("config", "rm", "guidomain:hosts");
  const inventory = path.join(keys, "inventory.yaml");
  await site.configure("guidomain:inventory", inventory);
  const write = (passphrase: string) => writeFileSync(inventory, `hosts: ${hosts(passphrase)}\n`);
  write(CANARIES.passphrase);
  await site.configure("maxmem", "3500");
  assert.ok(await watched("preview", "--diff"), outputs.at(-1)?.slice(-3000));
  assert.ok(await watched(...UP), outputs.at(-1)?.slice(-3000));
  write(CANARIES["wrong passphrase"]);
  assert.not(await watched("preview"));
  assert.match(outputs.at(-1) ?? "", /lab: wrong passphrase for the identity file/);
  write(CANARIES.passphrase);
  assert.ok(await watched("destroy", "--yes", "--skip-preview"), outputs.at(-1)?.slice(-3000));
  assert.equal(await everywhere(), []);
});

test("no process shows one but in the variable that the engine itself hands configuration over in", () => {
  // PULUMI_CONFIG: sdk/go/common/resource/plugin/provider_plugin.go; readable by the same user alone.
  assert.equal(
    [...inProcesses].filter((found) => !/\(variable PULUMI_CONFIG\)$/.test(found)),
    [],
  );
  assert.ok(
    [...inProcesses].every((found) => !/python|ssh|qubes/i.test(found.split(": ")[0] ?? "")),
    "nothing that works for a host has it",
  );
  assert.is(statSync(`/proc/${process.pid}/environ`).mode & 0o077, 0);
});

test("control: planted leaks are seen", async () => {
  const { root } = layout(twin.dir);
  outputs.push(`the key ${JSON.stringify({ passphrase: CANARIES.passphrase })} is wrong`);
  writeFileSync(
    path.join(written, "tmp", "pulumi.log"),
    `xy${Buffer.from(`z${CANARIES.password}z`).toString("base64")}`,
  );
  writeFileSync(path.join(root, "var", "leak"), `?p=${encodeURIComponent(CANARIES["wrong passphrase"])}`);
  await twin.exec(`printf %s '${JSON.stringify(CANARIES.password)}' >/run/leak`);
  const found = await everywhere();
  assert.equal(found, [
    "output: passphrase",
    "written here: tmp/pulumi.log: password",
    "the host's disk: var/leak: wrong passphrase",
    "the host's memory file systems: password",
  ]);
  const child = spawn("sleep", ["60", "60"], { argv0: `sleep-${CANARIES.passphrase}`, stdio: "ignore" });
  await sleep(300);
  const processes = canariesInProcesses();
  child.kill();
  assert.equal(
    processes.map((one) => one.replace(/^.*: /, "")),
    ["passphrase (command line)"],
  );
});

test.run();
