import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import {
  duration,
  isAtLeast,
  isInstalled,
  isReady,
  packageInstall,
  partsFor,
  root,
  SetupError,
  sentence,
} from "./setup.mjs";

const pure = suite("set-up: decisions");

pure("a version is new enough from the minimum on, within its major unless any will do", () => {
  assert.ok(isAtLeast("v3.250.0", "3.250.0"));
  assert.ok(isAtLeast("v3.250.1\n", "3.250.0"));
  assert.ok(isAtLeast("3.251.0-alpha.1", "3.250.0"));
  assert.not(isAtLeast("v3.249.9", "3.250.0"));
  assert.not(isAtLeast("v4.0.0", "3.250.0"));
  assert.ok(isAtLeast("v24.0.0", "22.18.0", { anyMajor: true }));
  assert.not(isAtLeast("v22.17.9", "22.18.0", { anyMajor: true }));
  assert.not(isAtLeast("v20.20.2", "22.18.0", { anyMajor: true }));
  for (const unreadable of ["", "v", "dev", "3.250"])
    assert.not(isAtLeast(unreadable, "3.250.0"), unreadable);
});

pure("node_modules matches the lock only if every package has its version and digest", () => {
  const lock = {
    packages: {
      "": { version: "0.1.0" },
      "node_modules/a": { version: "1.0.0", integrity: "sha512-a" },
      "node_modules/b-darwin": { version: "1.0.0", integrity: "sha512-b", optional: true },
    },
  };
  const installed = (a: object) => ({ packages: { "node_modules/a": a } });
  assert.ok(isInstalled(lock, installed({ version: "1.0.0", integrity: "sha512-a" })));
  assert.not(isInstalled(lock, installed({ version: "1.0.1", integrity: "sha512-a" })));
  assert.not(isInstalled(lock, installed({ version: "1.0.0", integrity: "sha512-x" })));
  assert.not(isInstalled(lock, { packages: {} }), "a package is missing");
  assert.not(isInstalled(lock, null), "an interrupted npm ci has not written its list");
  assert.not(isInstalled(null, null));
});

pure("packages of the machine are installed as root only, by apt-get or dnf", () => {
  const packages = { debian: ["openssh-server"], fedora: ["openssh-server"] };
  const has = (...programs: string[]) => ({ has: (name: string) => programs.includes(name) });
  assert.is(packageInstall(packages, { uid: 1000, ...has("apt-get", "dnf") }), null);
  assert.is(packageInstall(packages, { uid: 0, ...has("pacman") }), null);
  assert.is(packageInstall(packages, { uid: 0, ...has("apt-get") })?.[0], "apt-get");
  assert.is(packageInstall(packages, { uid: 0, ...has("dnf") })?.[0], "dnf");
});

pure("the lab's parts are needed only where the stack is the lab", () => {
  assert.equal(partsFor("stack", ["up"]), ["pulumi", "lab"]);
  assert.equal(partsFor("stack", ["up", "--stack", "lab", "--json"]), ["pulumi", "lab"]);
  assert.equal(partsFor("stack", ["up", "--stack", "workstation"]), ["pulumi"]);
  assert.equal(partsFor("stack", ["up", "--json", "--stack=workstation"]), ["pulumi"]);
  assert.equal(partsFor("stack", ["up", "-s", "workstation"]), ["pulumi"]);
  assert.equal(partsFor("pulumi,lab", []), ["pulumi", "lab"]);
});

pure("durations are told in minutes and seconds", () => {
  assert.is(duration(400), "0 s");
  assert.is(duration(59_400), "59 s");
  assert.is(duration(125_000), "2 min 5 s");
});

pure("errors of the file system are sentences, defects of ours keep their stack", () => {
  const error = (code: string) => Object.assign(new Error(code), { code, path: "x/y" });
  assert.is(sentence(new SetupError("Install it.")), "Install it.");
  assert.match(sentence(error("ENOSPC")), /^There is no space left for x\/y: /);
  assert.match(sentence(error("EACCES")), /^x\/y cannot be written \(EACCES\): /);
  assert.match(sentence(new TypeError("oops")), /TypeError: oops\n +at /);
});

pure.run();

/**
 * A clone in which the packages and Node are there (linked) but nothing else, run with a chosen PATH. What is missing shows as
 * the one sentence that a person reads.
 */
const clones: string[] = [];
function clone(): string {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "guidomain-setup-"));
  clones.push(folder);
  for (const name of ["scripts", "tools", "lab"]) fs.mkdirSync(path.join(folder, name));
  for (const name of ["setup.mjs", "with-node.mjs"])
    fs.copyFileSync(path.join(root, "scripts", name), path.join(folder, "scripts", name));
  fs.copyFileSync(path.join(root, "package-lock.json"), path.join(folder, "package-lock.json"));
  fs.copyFileSync(path.join(root, "lab", "requirements.txt"), path.join(folder, "lab", "requirements.txt"));
  fs.symlinkSync(path.join(root, "node_modules"), path.join(folder, "node_modules"));
  for (const name of ["pulumi", "language-nodejs"]) fs.mkdirSync(path.join(folder, "tools", name));
  return folder;
}

/** A folder for PATH with shell scripts under these names. */
function pathOf(folder: string, programs: Record<string, string>): string {
  const bin = path.join(folder, "bin");
  fs.mkdirSync(bin);
  for (const [name, body] of Object.entries(programs)) {
    fs.writeFileSync(path.join(bin, name), `#!/bin/sh\n${body}\n`, { mode: 0o755 });
  }
  return bin;
}

/** The machine's Python, also where `python3` on PATH is a shim that needs the rest of PATH. */
const python = spawnSync("python3", ["-c", "import sys; print(sys.executable)"], {
  encoding: "utf8",
}).stdout.trim();
const python3 = `exec ${python} "$@"`;

function runSetUp(folder: string, bin: string, part: string, env: Record<string, string> = {}) {
  const result = spawnSync(process.execPath, [path.join(folder, "scripts", "setup.mjs"), part], {
    encoding: "utf8",
    env: { HOME: folder, PULUMI_HOME: path.join(folder, "pulumi-home"), PATH: bin, ...env },
    timeout: 60_000,
  });
  return { status: result.status, text: result.stderr };
}

const machine = suite("set-up: what a machine lacks");
// No test here may fetch anything: the installer's host is made unreachable for the set-up's own fetch.
const offline = {
  NODE_OPTIONS: "--import data:text/javascript,globalThis.fetch=()=>Promise.reject(new(Error)(0))",
};

machine("no Python 3 is one sentence and status 1", () => {
  const folder = clone();
  const { status, text } = runSetUp(folder, pathOf(folder, {}), "pulumi");
  assert.is(status, 1);
  assert.is(text, "set-up: Python 3.8 or newer was not found: install the package python3.\n");
});

machine("no Go and no way to the installer is one sentence that names both ways", () => {
  const folder = clone();
  const { status, text } = runSetUp(folder, pathOf(folder, { python3 }), "pulumi", offline);
  assert.is(status, 1);
  assert.match(
    text,
    /there is no Go to build it: install Go 1\.25 or newer, .*official installer, or install Pulumi/,
  );
});

machine("an old Go is told apart from none", () => {
  const folder = clone();
  const { status, text } = runSetUp(folder, pathOf(folder, { python3, go: "exit 1" }), "pulumi", offline);
  assert.is(status, 1);
  assert.match(text, /bin\/go is older than 1\.25: install Go 1\.25/);
});

machine("a build that fails shows the end of its output and leaves no half CLI behind", () => {
  const folder = clone();
  const go =
    'test "$1" = version || { echo "dial tcp: no route to the proxy"; exit 1; }; echo go version go1.26';
  const { status, text } = runSetUp(folder, pathOf(folder, { python3, go }), "pulumi", offline);
  assert.is(status, 1);
  assert.match(text, /Building pulumi with Go failed: see to it that Go reaches its module proxy/);
  assert.match(text, / {4}dial tcp: no route to the proxy/);
  const left = fs
    .readdirSync(path.join(folder, "pulumi-home", "versions"))
    .filter((name) => !name.endsWith(".lock"));
  assert.equal(left, []);
});

machine("a CLI of the user's own is taken when it is new enough and has its language host beside it", () => {
  const folder = clone();
  const bin = pathOf(folder, { python3, pulumi: "echo v3.999.0", "pulumi-language-nodejs": "exit 0" });
  assert.equal(runSetUp(folder, bin, "pulumi", offline).status, 0);
  const linked = path.join(folder, ".setup", "pulumi", "bin", "pulumi");
  assert.is(fs.realpathSync(linked), fs.realpathSync(path.join(bin, "pulumi")));
  for (const lacking of [
    { pulumi: "echo v3.249.0", "pulumi-language-nodejs": "exit 0" },
    { pulumi: "echo v3.999.0" },
  ]) {
    const other = clone();
    const { status, text } = runSetUp(other, pathOf(other, { python3, ...lacking }), "pulumi", offline);
    assert.is(status, 1);
    assert.match(text, /The Pulumi CLI is missing/);
  }
});

machine("a second run does nothing, says so, and takes less than two seconds", () => {
  const folder = clone();
  const bin = pathOf(folder, { python3, pulumi: "echo v3.999.0", "pulumi-language-nodejs": "exit 0" });
  runSetUp(folder, bin, "pulumi", offline);
  const started = performance.now();
  const { status, text } = runSetUp(folder, bin, "pulumi", offline);
  assert.is(status, 0);
  assert.match(text, /^set-up: everything is there \([\d.]+ s\)\n$/);
  assert.ok(performance.now() - started < 2000);
});

machine("two set-ups at once: one works, the other waits for it", async () => {
  const folder = clone();
  // Both look for the CLI under the lock; each look takes a moment.
  const bin = pathOf(folder, {
    python3,
    pulumi: "/bin/sleep 1; echo v3.999.0",
    "pulumi-language-nodejs": "exit 0",
  });
  const { spawn } = await import("node:child_process");
  const start = () =>
    new Promise<string>((resolve) => {
      const child = spawn(process.execPath, [path.join(folder, "scripts", "setup.mjs"), "pulumi"], {
        env: { HOME: folder, PULUMI_HOME: path.join(folder, "pulumi-home"), PATH: bin, ...offline },
      });
      let text = "";
      child.stderr.on("data", (data) => {
        text += data;
      });
      child.on("close", (code) => resolve(`${code} ${text}`));
    });
  const texts = await Promise.all([start(), start()]);
  assert.is(texts.filter((text) => text.startsWith("0 ")).length, 2, texts.join("\n"));
  assert.is(texts.filter((text) => text.includes("waiting for another set-up")).length, 1, texts.join("\n"));
});

machine("with-node hands over arguments, PATH and the exit status", () => {
  const folder = clone();
  const bin = pathOf(folder, { python3 });
  const script = path.join(folder, "script.ts");
  fs.writeFileSync(
    script,
    "const args: string[] = process.argv.slice(2); console.log(JSON.stringify(args), process.env.PATH); process.exitCode = 7;",
  );
  const result = spawnSync(
    process.execPath,
    [path.join(folder, "scripts", "with-node.mjs"), "--need=node", "script.ts", "up", "--stack", "x y"],
    {
      encoding: "utf8",
      env: { HOME: folder, PATH: bin },
    },
  );
  assert.is(result.status, 7, result.stderr);
  assert.ok(result.stdout.startsWith('["up","--stack","x y"] '), result.stdout);
  const dirs = result.stdout.trim().split(" ").at(-1)?.split(path.delimiter);
  assert.equal(dirs, [path.join(folder, ".setup/pulumi/bin"), path.join(folder, "node_modules/.bin"), bin]);
});

machine("this clone is set up", () => {
  assert.ok(isReady(["node", "pulumi", "lab"]), "run `npm run setup`");
});

machine.after(() => {
  for (const folder of clones) fs.rmSync(folder, { recursive: true, force: true });
});

machine.run();
