/**
 * The set-up: brings everything the project runs on, and nothing twice.
 *
 * Plain JavaScript for Node ≥ 20 without node_modules: it is what runs before there are any. What it provides:
 *
 * | part     | what                                                                     | where            |
 * | -------- | ------------------------------------------------------------------------ | ---------------- |
 * | `node`   | the npm packages of package-lock.json, Node ≥ 22.18 (the `node` package)  | `node_modules/`  |
 * | `pulumi` | Pulumi's CLI and its language host for Node                              | Pulumi's own versions folder, linked from `.setup/pulumi/bin/` |
 * | `lab`    | Salt in a Python virtual environment; OpenSSH's server, unshare, nsenter  | `.venv/`         |
 * | `xen`    | QEMU and what builds a Debian disk; where they cannot be had, a sentence says so and the tests are skipped | the machine |
 * | `extras` | programs that some tests look with; where they cannot be had, a sentence says so and these tests are skipped | the machine |
 *
 * A run that finds everything says nothing. All progress goes to standard error, since commands with `--json` own
 * standard output. What cannot be had ends in one sentence that says what to install, and status 1.
 */

import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { fileURLToPath } from "node:url";

export const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));

/** The version of the Pulumi CLI that is installed where there is none new enough. */
export const pulumiVersion = "3.250.0";
/** The first Node that runs TypeScript by type stripping without a flag. */
export const nodeVersion = "22.18.0";

const seconds = 1000;
const minutes = 60 * seconds;

/** Something that the set-up cannot provide. The message is one sentence that says what to do. */
export class SetupError extends Error {}

// ---------------------------------------------------------------------------------------------------------- pure

/** Whether `version` ("v3.250.0", "24.1.0-rc.1") is `minimum` or later within the same major, or a later major if `anyMajor`. */
export function isAtLeast(version, minimum, { anyMajor = false } = {}) {
  const numbers = (text) => /^v?(\d+)\.(\d+)\.(\d+)/.exec(text.trim())?.slice(1).map(Number);
  const have = numbers(version);
  const want = numbers(minimum);
  if (!have || !want) return false;
  if (!anyMajor && have[0] !== want[0]) return false;
  const differing = have.findIndex((n, i) => n !== want[i]);
  return differing === -1 || have[differing] > want[differing];
}

/**
 * Whether what npm wrote about node_modules (`node_modules/.package-lock.json`, written last, so an interrupted
 * install has none) is what package-lock.json asks for. Packages for other platforms may be missing.
 */
export function isInstalled(lock, installed) {
  if (!lock?.packages || !installed?.packages) return false;
  for (const [where, wanted] of Object.entries(lock.packages)) {
    if (where === "") continue;
    const found = installed.packages[where];
    if (!found) {
      if (wanted.optional || wanted.devOptional || wanted.peer) continue;
      return false;
    }
    if (found.version !== wanted.version || found.integrity !== wanted.integrity) return false;
  }
  return true;
}

/** How a missing program is installed: [command, ...arguments] by Debian's or Fedora's package, or null where we may not. */
export function packageInstall(packages, { uid, has }) {
  if (uid !== 0) return null;
  if (has("apt-get"))
    return ["apt-get", "install", "-y", "-q", "--no-install-recommends", ...packages.debian];
  if (has("dnf")) return ["dnf", "install", "-y", "-q", ...packages.fedora];
  return null;
}

/** The parts that a command with these arguments needs: the lab's only where it works on the lab. */
export function partsFor(need, args) {
  if (need !== "stack") return need.split(",");
  const at = args.findIndex((arg) => arg === "--stack" || arg === "-s" || arg.startsWith("--stack="));
  const stack = at === -1 ? "lab" : args[at].startsWith("--stack=") ? args[at].slice(8) : args[at + 1];
  return stack === "lab" ? ["pulumi", "lab"] : ["pulumi"];
}

/** "4 min 5 s" */
export function duration(milliseconds) {
  const total = Math.round(milliseconds / 1000);
  return total < 60 ? `${total} s` : `${Math.floor(total / 60)} min ${total % 60} s`;
}

// ------------------------------------------------------------------------------------------------------- helpers

const say = (text) => process.stderr.write(`set-up: ${text}\n`);
const inRoot = (...parts) => path.join(root, ...parts);
const bins = inRoot("node_modules", ".bin");

function isExecutable(file) {
  try {
    fs.accessSync(file, fs.constants.X_OK);
    return fs.statSync(file).isFile();
  } catch {
    return false;
  }
}

function readJson(file) {
  try {
    return JSON.parse(fs.readFileSync(file, "utf8"));
  } catch {
    return null;
  }
}

/** Folders searched for programs. Daemons lie in sbin, which is not on every user's PATH. Our own node_modules are left out. */
function searchPath() {
  const own = (process.env.PATH ?? "")
    .split(path.delimiter)
    .filter((dir) => dir && path.resolve(dir) !== bins);
  return [...new Set([...own, "/usr/sbin", "/usr/local/sbin", "/sbin"])];
}

/** Every program of that name on the search path, first match first. */
function findAll(name) {
  return searchPath()
    .map((dir) => path.join(dir, name))
    .filter(isExecutable);
}
const find = (name) => findAll(name)[0];

/** The environment for programs of the machine: without our node_modules, whose `node` may be replaced under them. */
const machineEnv = () => ({ ...process.env, PATH: searchPath().join(path.delimiter) });

/**
 * Runs a program with its output in `.setup/log/<log>.log`, and says every half minute that it still runs.
 * Its whole process group is killed at the time limit. Resolves with its exit status (null: limit) and output.
 */
function run(command, args, { log, what, cwd = root, env = machineEnv(), limit = 10 * minutes }) {
  fs.mkdirSync(inRoot(".setup", "log"), { recursive: true });
  const logFile = inRoot(".setup", "log", `${log}.log`);
  const out = fs.openSync(logFile, "w");
  const started = Date.now();
  return new Promise((resolve) => {
    const child = spawn(command, args, { cwd, env, stdio: ["ignore", out, out], detached: true });
    let limited = false;
    const kill = (signal) => {
      try {
        process.kill(-child.pid, signal);
      } catch {
        // already gone
      }
    };
    const heartbeat = setInterval(
      () => say(`${what}: still at it after ${duration(Date.now() - started)}`),
      30 * seconds,
    );
    const deadline = setTimeout(() => {
      limited = true;
      kill("SIGKILL");
    }, limit);
    // In a process group of its own the program does not get the terminal's Ctrl-C: it must not outlive us.
    const onExit = () => kill("SIGKILL");
    process.on("exit", onExit);
    const done = (status) => {
      clearInterval(heartbeat);
      clearTimeout(deadline);
      process.off("exit", onExit);
      fs.closeSync(out);
      resolve({ status: limited ? null : status, output: fs.readFileSync(logFile, "utf8"), logFile });
    };
    child.on("error", () => done(127));
    child.on("exit", (code, signal) => done(signal ? 128 : code));
  });
}

/** The last lines of a failed program's output, indented, with where all of it is. */
function tail({ output, logFile }) {
  const lines = output.trimEnd().split("\n").slice(-12);
  return `${lines.map((line) => `    ${line}`).join("\n")}\n    (all of it: ${path.relative(process.cwd(), logFile)})`;
}

/** The standard output of a short question to a program, or null if it failed or took over 20 s. */
function ask(command, args, options = {}) {
  return new Promise((resolve) => {
    const child = spawn(command, args, {
      cwd: root,
      env: machineEnv(),
      timeout: 20 * seconds,
      stdio: ["ignore", "pipe", "ignore"],
      ...options,
    });
    let text = "";
    child.stdout.on("data", (data) => {
      text += data;
    });
    child.on("error", () => resolve(null));
    child.on("close", (code) => resolve(code === 0 ? text.trim() : null));
  });
}

/** Says what starts and how long it took. */
async function step(what, work) {
  const started = Date.now();
  say(what);
  const result = await work();
  say(`${what.split(" (")[0]}: done, ${duration(Date.now() - started)}`);
  return result;
}

/**
 * Does `work` while no other set-up does work under the same lock file. The lock is the kernel's (flock, held by a small
 * Python process whose standard input we hold), so it cannot be left behind by a set-up that was killed.
 */
async function locked(file, python, work) {
  fs.mkdirSync(path.dirname(file), { recursive: true });
  const program = [
    "import fcntl, sys",
    "lock = open(sys.argv[1], 'a')",
    "try:",
    "    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)",
    "except OSError:",
    "    print('waiting', flush=True)",
    "    fcntl.flock(lock, fcntl.LOCK_EX)",
    "print('locked', flush=True)",
    "sys.stdin.read()",
  ].join("\n");
  const holder = spawn(python, ["-I", "-c", program, file], {
    stdio: ["pipe", "pipe", "inherit"],
    detached: true,
  });
  try {
    await new Promise((resolve, reject) => {
      let text = "";
      holder.stdout.on("data", (data) => {
        if (!text && String(data).startsWith("waiting")) say("waiting for another set-up to end");
        text += data;
        if (text.includes("locked")) resolve();
      });
      holder.on("error", reject);
      holder.on("exit", () =>
        reject(new SetupError(`The lock file ${file} cannot be written; make its folder writable.`)),
      );
    });
    return await work();
  } finally {
    holder.stdin.end();
  }
}

// ------------------------------------------------------------------------------------------- node: packages, Node

function packagesReady() {
  const lock = readJson(inRoot("package-lock.json"));
  return isInstalled(lock, readJson(inRoot("node_modules", ".package-lock.json")));
}

/** The Node that runs everything: the `node` package's, else the machine's where it is new enough; undefined if neither. */
export function findNode() {
  const own = path.join(bins, "node");
  const version = readJson(inRoot("node_modules", "node", "package.json"))?.version ?? "";
  if (isExecutable(own) && isAtLeast(version, nodeVersion, { anyMajor: true })) return own;
  if (isAtLeast(process.version, nodeVersion, { anyMajor: true })) return process.execPath;
  return undefined;
}

async function installPackages() {
  const npm = find("npm");
  if (!npm) throw new SetupError("npm was not found: install Node.js 20 or newer together with npm.");
  await step("npm packages (npm ci, about a minute)", async () => {
    // No package needs its install script (ssh2's optional addons would be compiled), except `node`: see installNode.
    const result = await run(npm, ["ci", "--ignore-scripts", "--no-audit", "--no-fund"], {
      log: "npm",
      what: "npm ci",
    });
    if (result.status !== 0) {
      throw new SetupError(
        `npm ci failed; see to it that npm reaches its registry and run this again.\n${tail(result)}`,
      );
    }
  });
}

/**
 * The `node` package brings its binary by an install script (`npm install node-<platform>-<arch>` inside its own folder, then a
 * hard link), which npm may have refused to run. So it is run here, unless the binary is there already.
 */
async function installNode() {
  const folder = inRoot("node_modules", "node");
  await step(`Node.js ${readJson(path.join(folder, "package.json"))?.version ?? ""}`, async () => {
    const script = "installArchSpecificPackage.js";
    const env = machineEnv();
    // npm's own variables of an `npm run` around us would steer the inner npm.
    for (const name of Object.keys(env)) {
      if (/^npm_(package|lifecycle|config_(local_)?prefix|command|execpath)/.test(name)) delete env[name];
    }
    const result = await run(process.execPath, [script], { log: "node", what: "Node.js", cwd: folder, env });
    const link = path.join(bins, "node");
    if (isExecutable(path.join(folder, "bin", "node")) && !isExecutable(link)) {
      fs.rmSync(link, { force: true });
      fs.symlinkSync("../node/bin/node", link);
    }
    if (!findNode()) {
      throw new SetupError(
        `Node.js ${nodeVersion} or newer is needed and the npm package "node" could not bring it: install it by hand.\n${tail(result)}`,
      );
    }
  });
}

// ------------------------------------------------------------------------------------------------- pulumi: the CLI

/** `PulumiCommand.get({ root: pulumiRoot })` of the Automation API finds the CLI here. */
export const pulumiRoot = inRoot(".setup", "pulumi");
const programs = ["pulumi", "pulumi-language-nodejs"];
const hasPulumi = (bin) => programs.every((name) => isExecutable(path.join(bin, name)));
const versionsFolder = () =>
  path.join(process.env.PULUMI_HOME || path.join(os.homedir(), ".pulumi"), "versions");
const pulumiReady = () => hasPulumi(path.join(pulumiRoot, "bin"));

async function isPulumi(bin) {
  if (!hasPulumi(bin)) return false;
  const env = { ...machineEnv(), PULUMI_SKIP_UPDATE_CHECK: "true" };
  return isAtLeast((await ask(path.join(bin, "pulumi"), ["version"], { env })) ?? "", pulumiVersion);
}

async function installPulumi(python) {
  const versions = versionsFolder();
  const target = path.join(versions, pulumiVersion, "bin");
  // Several clones share Pulumi's versions folder, hence a lock beside it.
  await locked(path.join(versions, `.guidomain-${pulumiVersion}.lock`), python, async () => {
    let bin = target;
    if (!(await isPulumi(bin))) bin = await pulumiOnPath();
    if (!bin) {
      bin = target;
      await makePulumi(versions, target);
    }
    const links = path.join(pulumiRoot, "bin");
    fs.rmSync(links, { recursive: true, force: true });
    fs.mkdirSync(links, { recursive: true });
    for (const name of programs) fs.symlinkSync(path.join(bin, name), path.join(links, name));
  });
}

/** The folder of a CLI of the user's own that is new enough and has its language host beside it. */
async function pulumiOnPath() {
  for (const file of findAll("pulumi")) {
    const bin = path.dirname(fs.realpathSync(file));
    if (await isPulumi(bin)) return bin;
  }
  return undefined;
}

/** By the official installer, else from source. Into a folder beside the target first: half an install is never found. */
async function makePulumi(versions, target) {
  const scratch = fs.mkdtempSync(path.join(versions, ".making-"));
  try {
    const made = path.join(scratch, "bin");
    const why =
      (await downloadPulumi(scratch)) ?? ((await isPulumi(made)) ? null : "what it installed does not run");
    if (why) {
      say(`Pulumi CLI: ${why}; building it from its Go modules instead`);
      fs.rmSync(made, { recursive: true, force: true });
      await buildPulumi(made, why);
    }
    fs.mkdirSync(target, { recursive: true });
    for (const name of fs.readdirSync(made)) fs.renameSync(path.join(made, name), path.join(target, name));
  } finally {
    fs.rmSync(scratch, { recursive: true, force: true });
  }
}

/** Null when the official installer (as the Automation API runs it) has put the CLI into `folder`/bin, else why not. */
async function downloadPulumi(folder) {
  const host = "get.pulumi.com";
  try {
    await fetch(`https://${host}/install.sh`, { method: "HEAD", signal: AbortSignal.timeout(10 * seconds) });
  } catch {
    return `${host} cannot be reached`;
  }
  const program = `
    import automation from "@pulumi/pulumi/automation/index.js";
    import semver from "semver";
    await automation.PulumiCommand.install({ version: new semver.SemVer("${pulumiVersion}"), root: process.argv[1] });`;
  const limit = 5 * minutes;
  const what = `Pulumi CLI ${pulumiVersion} by its official installer`;
  const result = await step(`${what} (downloads about 100 MB, at most ${duration(limit)})`, () =>
    run(findNode(), ["--input-type=module", "-e", program, folder], { log: "pulumi-install", what, limit }),
  );
  if (result.status === 0) return null;
  return `the official installer ${result.status === null ? `took over ${duration(limit)}` : "failed"}`;
}

/** Builds the CLI and the language host; the modules are pinned in tools/ (why these versions: tools/README.md). */
async function buildPulumi(bin, why) {
  const go = find("go");
  const or = `let this machine reach the official installer, or install Pulumi ${pulumiVersion} or newer`;
  if (!go) {
    throw new SetupError(
      `The Pulumi CLI is missing (${why}) and there is no Go to build it: install Go 1.25 or newer, ${or}.`,
    );
  }
  // Asked in the module's folder, an older Go fetches the toolchain that go.mod names, where it may.
  const toolchain = await ask(go, ["version"], { cwd: inRoot("tools", "pulumi"), timeout: 5 * minutes });
  if (!toolchain) {
    throw new SetupError(
      `The Pulumi CLI is missing (${why}) and Go at ${go} is older than 1.25: install Go 1.25 or newer, ${or}.`,
    );
  }
  fs.mkdirSync(bin, { recursive: true });
  const version = `-X github.com/pulumi/pulumi/sdk/v3/go/common/version.Version=v${pulumiVersion}`;
  const builds = [
    [
      "pulumi",
      "pulumi",
      `-s -w ${version}`,
      "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi",
      "3 to 8 minutes, 5 GB of Go caches",
    ],
    [
      "language-nodejs",
      "pulumi-language-nodejs",
      "-s -w",
      "github.com/pulumi/pulumi/sdk/v3/nodejs/cmd/pulumi-language-nodejs",
      "half a minute",
    ],
  ];
  const limit = 30 * minutes;
  for (const [folder, name, flags, source, time] of builds) {
    await step(`building ${name} from its Go module (once per user; about ${time})`, async () => {
      const args = [
        "build",
        "-C",
        inRoot("tools", folder),
        "-trimpath",
        "-ldflags",
        flags,
        "-o",
        path.join(bin, name),
        source,
      ];
      const result = await run(go, args, { log: `build-${name}`, what: `building ${name}`, limit });
      if (result.status !== 0) {
        const how = result.status === null ? `took over ${duration(limit)}` : "failed";
        throw new SetupError(
          `Building ${name} with Go ${how}: see to it that Go reaches its module proxy, or ${or}.\n${tail(result)}`,
        );
      }
    });
  }
}

// --------------------------------------------------------------------------- lab: Salt, OpenSSH's server, util-linux

/** Programs of the machine that the lab starts, and the packages that bring them. */
const machinePrograms = [
  { name: "sshd", debian: ["openssh-server"], fedora: ["openssh-server"], title: "OpenSSH's server (sshd)" },
  { name: "ssh-keygen", debian: ["openssh-client"], fedora: ["openssh"], title: "OpenSSH's ssh-keygen" },
  { name: "unshare", debian: ["util-linux"], fedora: ["util-linux"], title: "unshare of util-linux" },
  { name: "nsenter", debian: ["util-linux"], fedora: ["util-linux"], title: "nsenter of util-linux" },
];
/** Programs that single tests need. */
const extraPrograms = [
  { name: "chromium", debian: ["chromium"], fedora: ["chromium"], title: "Chromium" }, // looks at `npm run picture`
];
/** Servers and a client of remote screens, and the X server that stands for a screen (tests/remoteServers.test.ts). */
const screenPrograms = [
  { name: "x11vnc", debian: ["x11vnc"], fedora: ["x11vnc"], title: "x11vnc" },
  { name: "xrdp", debian: ["xrdp"], fedora: ["xrdp"], title: "xrdp" },
  { name: "xfreerdp", debian: ["freerdp2-x11"], fedora: ["freerdp"], title: "FreeRDP's client" },
  { name: "Xvfb", debian: ["xvfb"], fedora: ["xorg-x11-server-Xvfb"], title: "Xvfb" },
  { name: "xsetroot", debian: ["x11-xserver-utils"], fedora: ["xsetroot", "xset"], title: "xsetroot" },
];
/** Units that Debian starts, open to every network, as soon as a package is there. Nothing of the machine must appear because of us. */
const SERVERS = {
  "openssh-server": ["ssh.service", "ssh.socket"],
  xrdp: ["xrdp.service", "xrdp-sesman.service"],
};
/** Programs of the Xen lab, which is started by `npm run lab:xen` and `npm run test:xen` alone. */
const xenPrograms = [
  {
    name: "qemu-system-x86_64",
    debian: ["qemu-system-x86"],
    fedora: ["qemu-system-x86-core"],
    title: "QEMU",
  },
  { name: "qemu-img", debian: ["qemu-utils"], fedora: ["qemu-img"], title: "qemu-img" },
  { name: "mmdebstrap", debian: ["mmdebstrap"], fedora: ["mmdebstrap"], title: "mmdebstrap" },
  { name: "mke2fs", debian: ["e2fsprogs"], fedora: ["e2fsprogs"], title: "mke2fs" },
  { name: "cpio", debian: ["cpio"], fedora: ["cpio"], title: "cpio" },
  { name: "zstd", debian: ["zstd"], fedora: ["zstd"], title: "zstd" },
  { name: "setpriv", debian: ["util-linux"], fedora: ["util-linux"], title: "setpriv of util-linux" },
  { name: "ssh", debian: ["openssh-client"], fedora: ["openssh-clients"], title: "OpenSSH's client" },
];
const missingOf = (programs) => programs.filter(({ name }) => !find(name));
const missingPrograms = () => missingOf(machinePrograms);
const extrasReady = () => missingOf([...extraPrograms, ...screenPrograms]).length === 0;
const xenReady = () => missingOf(xenPrograms).length === 0;

/** Installs packages of the machine as root, or throws `otherwise`. */
async function installOnMachine(packages, otherwise) {
  const command = packageInstall(packages, {
    uid: process.getuid?.() ?? -1,
    has: (name) => Boolean(find(name)),
  });
  if (!command) throw new SetupError(otherwise);
  const names = packages.debian.join(" ");
  const env = { ...machineEnv(), DEBIAN_FRONTEND: "noninteractive" };
  const units = fs.existsSync("/run/systemd/system")
    ? packages.debian.flatMap((name) => SERVERS[name] ?? [])
    : [];
  await step(`${names} (${command[0]}, as root)`, async () => {
    if (units.length) await ask("systemctl", ["mask", "--runtime", ...units]);
    if (command[0] === "apt-get")
      await run("apt-get", ["update", "-q"], { log: "apt-update", what: "apt-get update", env });
    const result = await run(command[0], command.slice(1), { log: "packages", what: names, env });
    if (units.length) {
      await ask("systemctl", ["disable", ...units]);
      await ask("systemctl", ["unmask", "--runtime", ...units]);
    }
    if (result.status !== 0) throw new SetupError(`${otherwise}\n${tail(result)}`);
  });
}

async function installPrograms(who, programs) {
  const missing = missingOf(programs);
  if (missing.length === 0) return;
  const debian = [...new Set(missing.flatMap((program) => program.debian))];
  const fedora = [...new Set(missing.flatMap((program) => program.fedora))];
  const otherwise = `${who} ${missing.map(({ title }) => title).join(", ")}: install the package ${debian.join(", ")} (as root), then run this again.`;
  await installOnMachine({ debian, fedora }, otherwise);
  if (missingOf(programs).length > 0) throw new SetupError(otherwise);
}

/** Without them everything else works. */
async function installIfPossible(who, programs) {
  try {
    await installPrograms(who, programs);
  } catch (error) {
    if (!(error instanceof SetupError)) throw error;
    say(error.message);
  }
}

const venv = (...parts) => inRoot(".venv", ...parts);

/** What the virtual environment was made from. It holds its own absolute path, so a moved clone makes a new one. */
function venvStamp() {
  const hash = createHash("sha256");
  for (const part of [fs.readFileSync(inRoot("lab", "requirements.txt")), venv()])
    hash.update(part).update("\0");
  return hash.digest("hex");
}

function saltReady() {
  if (!isExecutable(venv("bin", "python3")) || !isExecutable(venv("bin", "salt-call"))) return false;
  try {
    return fs.readFileSync(venv(".stamp"), "utf8") === venvStamp();
  } catch {
    return false;
  }
}

/** Whether a script of the virtual environment names this clone's own Python, and not that of where it was copied from. */
function isMadeHere(script) {
  try {
    return fs.readFileSync(script, "utf8").startsWith(`#!${venv("bin")}/`);
  } catch {
    return false;
  }
}

const labReady = () => saltReady() && missingPrograms().length === 0;

/** A Python 3 that can do what pip needs: a hand-built one without TLS may come first on PATH. */
async function findPython(minor, modules) {
  for (const file of findAll("python3")) {
    const program = `import sys, ${modules}; assert sys.version_info >= (3, ${minor})`;
    if ((await ask(file, ["-I", "-c", program])) !== null) return file;
  }
  return undefined;
}

async function installSalt() {
  const python = await findPython(10, "ssl, venv, zlib");
  if (!python) {
    const otherwise =
      "The lab needs Python 3.10 or newer with its ssl and venv modules: install the packages python3 and python3-venv.";
    await installOnMachine({ debian: ["python3", "python3-venv"], fedora: ["python3"] }, otherwise);
    return installSalt();
  }
  await step("Salt for the lab in .venv (pip, about half a minute)", async () => {
    const pip = await makeVenv(python);
    // Salt comes as source: what builds it is pinned in the same file (two names of one setting: pip before and after 25.3).
    const requirements = inRoot("lab", "requirements.txt");
    const env = {
      ...machineEnv(),
      PIP_DISABLE_PIP_VERSION_CHECK: "1",
      PIP_CONSTRAINT: requirements,
      PIP_BUILD_CONSTRAINT: requirements,
    };
    const result = await run(pip[0], [...pip.slice(1), "install", "-r", requirements], {
      log: "pip",
      what: "Salt",
      env,
    });
    if (result.status !== 0) {
      const compiler =
        /python\.h|command '?\S*(gcc|cc|clang)'? failed|no such file or directory: '\S*cc'/i.test(
          result.output,
        );
      throw new SetupError(
        compiler
          ? `A part of Salt has no ready-made package for this machine: install a C compiler and Python's headers (gcc, python3-dev).\n${tail(result)}`
          : `pip could not install Salt: see to it that pip reaches its package index.\n${tail(result)}`,
      );
    }
    // Salt loads its modules by file name; compiling them now saves the first run 10 s.
    await run(venv("bin", "python3"), ["-m", "compileall", "-q", "-j", "0", venv("lib")], {
      log: "compileall",
      what: "Salt",
    });
    if ((await ask(venv("bin", "salt-call"), ["--version"])) === null) {
      throw new SetupError(
        `Salt does not start with ${python}: install another Python 3 (3.10 to 3.13) and put it first on PATH.`,
      );
    }
    fs.writeFileSync(venv(".stamp"), venvStamp());
  });
}

/**
 * Makes the virtual environment, unless it only lacks packages (a twin may be running from it), and returns the pip command
 * for it. Debian splits ensurepip off into python3-venv.
 */
async function makeVenv(python) {
  const make = (...flags) =>
    run(python, ["-m", "venv", ...flags, venv()], { log: "venv", what: "the virtual environment" });
  const own = [venv("bin", "python3"), "-m", "pip"];
  if (isMadeHere(venv("bin", "pip")) && (await ask(own[0], [...own.slice(1), "--version"])) !== null)
    return own;
  fs.rmSync(venv(), { recursive: true, force: true });
  if ((await make()).status === 0) return own;
  fs.rmSync(venv(), { recursive: true, force: true });
  // A pip of the machine (22.3 or newer) can install into another environment.
  if (
    (await ask(python, ["-m", "pip", "--python", python, "--version"])) !== null &&
    (await make("--without-pip")).status === 0
  ) {
    return [python, "-m", "pip", "--python", venv("bin", "python3")];
  }
  const otherwise = `Python at ${python} cannot make virtual environments with pip: install the package python3-venv.`;
  fs.rmSync(venv(), { recursive: true, force: true });
  await installOnMachine({ debian: ["python3-venv"], fedora: ["python3"] }, otherwise);
  if ((await make()).status === 0) return own;
  throw new SetupError(otherwise);
}

// ------------------------------------------------------------------------------------------------------ the set-up

/** True when nothing is to be done for these parts. Takes some milliseconds and starts no program. */
export function isReady(parts) {
  return (
    packagesReady() &&
    findNode() !== undefined &&
    (!parts.includes("pulumi") || pulumiReady()) &&
    (!parts.includes("lab") || labReady()) &&
    (!parts.includes("extras") || extrasReady()) &&
    (!parts.includes("xen") || xenReady())
  );
}

/**
 * Provides the parts (`node` always; `pulumi`, `lab`, `extras`, `xen`).
 * @throws {SetupError} when a part cannot be had
 */
export async function setUp(parts) {
  // The file backend of Pulumi.yaml wants its folder to exist.
  if (parts.includes("pulumi")) fs.mkdirSync(inRoot(".state"), { recursive: true });
  if (isReady(parts)) return;
  if (!isAtLeast(process.version, "20.0.0", { anyMajor: true })) {
    throw new SetupError(
      `Node.js 20 or newer is needed to start with, this is ${process.version}: install a newer one.`,
    );
  }
  const python = await findPython(8, "fcntl");
  if (!python) throw new SetupError("Python 3.8 or newer was not found: install the package python3.");
  await locked(inRoot(".setup", "lock"), python, async () => {
    const started = Date.now();
    // What the machine lacks is said before anything long starts.
    if (parts.includes("lab")) await installPrograms("The lab needs", machinePrograms);
    if (parts.includes("extras"))
      for (const programs of [extraPrograms, screenPrograms])
        await installIfPossible("Tests that are skipped here need", programs);
    if (parts.includes("xen")) await installIfPossible("The Xen lab needs", xenPrograms);
    if (!packagesReady()) await installPackages();
    if (!findNode()?.startsWith(bins)) await installNode();
    // Both to their end: a failing one must not leave the other at work behind our back.
    const results = await Promise.allSettled([
      parts.includes("pulumi") && !pulumiReady() ? installPulumi(python) : null,
      parts.includes("lab") && !saltReady() ? installSalt() : null,
    ]);
    const failed = results.find(({ status }) => status === "rejected");
    if (failed) throw failed.reason;
    say(`ready after ${duration(Date.now() - started)}`);
  });
}

/** Sets up and turns what cannot be had into its sentence and status 1. */
export async function setUpOrExit(parts) {
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.once(signal, interrupted);
  try {
    await setUp(parts);
  } catch (error) {
    say(sentence(error));
    process.exit(1);
  } finally {
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.off(signal, interrupted);
  }
}

/** What a person reads of an error; one that is a defect of ours shows where it comes from. */
export function sentence(error) {
  if (error instanceof SetupError) return error.message;
  if (error?.code === "ENOSPC")
    return `There is no space left for ${error.path ?? "its files"}: free some and run this again.`;
  if (["EACCES", "EPERM", "EROFS"].includes(error?.code)) {
    return `${error.path ?? "A file"} cannot be written (${error.code}): make it writable for this user and run this again.`;
  }
  return error?.stack ?? String(error);
}

function interrupted() {
  say("interrupted; run it again to go on");
  process.exit(130); // the exit handlers of `run` end what it started
}

if (process.argv[1] && fs.realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const started = Date.now();
  const parts = process.argv.length > 2 ? process.argv.slice(2) : ["pulumi", "lab"];
  await setUpOrExit(parts);
  say(`everything is there (${((Date.now() - started) / 1000).toFixed(1)} s)`);
}
