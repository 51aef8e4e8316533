/**
 * dom0's disk, built from Debian's packages by mmdebstrap, and kept by the digest of what it is built from.
 *
 * `.lab/xen-cache/image-DIGEST/`: `disk.raw`, `id_ed25519` (the way in), `host_key.pub`. The mirror is that of this machine's apt.
 */
import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join, relative, resolve } from "node:path";
import { once } from "./once.ts";

const ROOT = resolve(import.meta.dirname, "../..");
const RECIPE = join(import.meta.dirname, "image");
const REQUIREMENTS = join(ROOT, "lab/requirements.txt");
export const CACHE = join(ROOT, ".lab/xen-cache");

const SUITE = "bookworm";
/** Of Python in that suite: which wheels fit. */
const PYTHON = "3.11";
const DISK_MB = 6144;
const APT = [
  "--variant=minbase",
  '--aptopt=APT::Install-Recommends "false"',
  '--aptopt=Acquire::Languages "none"',
  ...["doc", "man", "locale", "info", "lintian"].map((name) => `--dpkgopt=path-exclude=/usr/share/${name}/*`),
  "--dpkgopt=path-include=/usr/share/locale/locale.alias",
];

export interface Image {
  digest: string;
  disk: string;
  identityFile: string;
  /** "SHA256:…", as ssh-keygen -l prints it. */
  hostKey: string;
}

/** Of everything that makes the image; the packages' versions are those of the day it is built. */
export function imageDigest(): string {
  const hash = createHash("sha256");
  const take = (name: string, text: string | Buffer) =>
    hash.update(name).update("\0").update(text).update("\0");
  for (const name of (readdirSync(RECIPE, { recursive: true, withFileTypes: true }) ?? [])
    .filter((entry) => entry.isFile())
    .map((entry) => relative(RECIPE, join(entry.parentPath, entry.name)))
    .sort())
    take(name, readFileSync(join(RECIPE, name)));
  take("requirements", readFileSync(REQUIREMENTS));
  take("arguments", JSON.stringify([APT, SUITE, PYTHON, DISK_MB]));
  return hash.digest("hex").slice(0, 16);
}

/** The image of the present recipe, null when it is not built. */
export function findImage(): Image | null {
  const digest = imageDigest();
  const folder = join(CACHE, `image-${digest}`);
  return existsSync(folder) ? imageIn(folder, digest) : null;
}

function imageIn(folder: string, digest: string): Image {
  const key = spawnSync("ssh-keygen", ["-l", "-E", "sha256", "-f", join(folder, "host_key.pub")], {
    encoding: "utf8",
  });
  const hostKey = /SHA256:\S+/.exec(key.stdout ?? "")?.[0];
  if (!hostKey) throw new Error(`ssh-keygen gives no fingerprint of ${join(folder, "host_key.pub")}.`);
  return { digest, disk: join(folder, "disk.raw"), identityFile: join(folder, "id_ed25519"), hostKey };
}

/** The image of the present recipe, built where it is not there: one to three minutes and 2 GB. `say` gets progress, a line each. */
export function buildImage(say: (line: string) => void): Promise<Image> {
  return once(join(CACHE, `image-${imageDigest()}.lock`), findImage, () => makeImage(say));
}

async function makeImage(say: (line: string) => void): Promise<Image> {
  const digest = imageDigest();
  mkdirSync(CACHE, { recursive: true });
  const making = mkdtempSync(join(CACHE, "making-"));
  const log = join(making, "build.log");
  const removeMaking = () => rmSync(making, { recursive: true, force: true });
  const timed = async (what: string, work: () => Promise<void>) => {
    const start = performance.now();
    await work();
    say(`${what}: ${((performance.now() - start) / 1000).toFixed(0)} s`);
  };
  try {
    const out = join(making, "out");
    mkdirSync(out);
    for (const name of ["id_ed25519", "host_key"])
      await must(log, "ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", join(out, name)]);
    const wheels = join(making, "wheels");
    await timed("Salt and what it needs, as wheels", () => fetchWheels(wheels, log));
    const env = { LAB_OUT: out, LAB_WHEELS: wheels, LAB_DISK_MB: String(DISK_MB), TMPDIR: making };
    await timed("dom0 from Debian's packages, with its disk", () =>
      must(log, ...apart("mmdebstrap", mmdebstrapArguments()), env),
    );
    rmSync(join(out, "host_key")); // the disk has it
    try {
      renameSync(out, join(CACHE, `image-${digest}`));
    } catch (error) {
      if (!findImage()) throw error; // somebody else was faster
    }
  } catch (error) {
    if (existsSync(log)) {
      const kept = join(CACHE, "failed-build.log");
      renameSync(log, kept);
      throw new Error(`${(error as Error).message} All it said: ${relative(process.cwd(), kept)}`);
    }
    throw error;
  } finally {
    removeMaking();
  }
  return imageIn(join(CACHE, `image-${digest}`), digest);
}

/**
 * In namespaces of its own where we may, for mounts and for processes: root's mmdebstrap binds the machine's /dev/shm and mounts /proc below our
 * folder, and whoever removed that folder after a killed build would empty them. For anybody else mmdebstrap makes its own.
 */
function apart(program: string, args: string[]): [string, string[]] {
  const options = ["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
  const may = process.getuid?.() === 0 && spawnSync("unshare", [...options, "true"]).status === 0;
  return may ? ["unshare", [...options, program, ...args]] : [program, args];
}

function mmdebstrapArguments(): string[] {
  const packages = readFileSync(join(RECIPE, "packages.txt"), "utf8")
    .split("\n")
    .filter((line) => line && !line.startsWith("#"));
  const hook = join(RECIPE, "build.sh");
  return [
    "--quiet",
    ...APT,
    ...aptOptions(),
    `--include=${packages.join(",")}`,
    `--essential-hook='${hook}' early "$1"`,
    `--customize-hook='${hook}' late "$1"`,
    SUITE,
    "/dev/null", // nothing is packed: the last hook makes the disk
    ...mirrors(),
  ];
}

/** Where this machine's apt takes Debian's packages from, as sources of our suite; none where it is no Debian: mmdebstrap's default. */
function mirrors(): string[] {
  const { stdout, status } = spawnSync(
    "apt-get",
    ["indextargets", "--format", "$(LABEL)|$(COMPONENT)|$(REPO_URI)", "Created-By: Packages"],
    { encoding: "utf8" },
  );
  const of = (label: string) =>
    (status === 0 ? stdout : "")
      .split("\n")
      .find((line) => line.startsWith(`${label}|main|`))
      ?.split("|")[2];
  const [debian, security] = [of("Debian"), of("Debian-Security")];
  if (!debian || !security) return [];
  return [
    `deb ${debian} ${SUITE} main`,
    `deb ${debian} ${SUITE}-updates main`,
    `deb ${security} ${SUITE}-security main`,
  ];
}

/** How this machine's apt reaches its mirror: proxies, checks, retries. */
function aptOptions(): string[] {
  const { stdout, status } = spawnSync("apt-config", ["dump", "--no-empty"], { encoding: "utf8" });
  if (status !== 0) return [];
  return stdout
    .split("\n")
    .filter((line) => /^Acquire::(https?|ftp|Check-[A-Za-z-]+|Retries)\b[^ ]* "/.test(line))
    .map((line) => `--aptopt=${line.replace(/;$/, "")}`);
}

/** Salt comes as source and is the same for every Python; the rest as wheels for dom0's Python, whatever this machine's is. */
async function fetchWheels(folder: string, log: string): Promise<void> {
  mkdirSync(folder);
  const pip = findPip();
  const pinned = readFileSync(REQUIREMENTS, "utf8")
    .split("# What Salt's source package is built with.")[0]
    ?.split("\n")
    .filter((line) => line && !line.startsWith("#")) as string[];
  const isSalt = (line: string) => line.startsWith("salt==");
  const rest = join(folder, "requirements.txt");
  writeFileSync(rest, pinned.filter((line) => !isSalt(line)).join("\n"));
  const env = { PIP_CONSTRAINT: REQUIREMENTS, PIP_BUILD_CONSTRAINT: REQUIREMENTS };
  const quiet = ["-q", "--no-deps"];
  await must(
    log,
    pip[0] as string,
    [...pip.slice(1), "wheel", ...quiet, "-w", folder, ...pinned.filter(isSalt)],
    env,
  );
  const platforms = ["manylinux2014", "manylinux_2_17", "manylinux_2_28", "manylinux_2_34"].flatMap(
    (name) => ["--platform", `${name}_x86_64`],
  );
  const fits = ["--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp", ...platforms];
  const download = [...pip.slice(1), "download", ...quiet, ...fits, "-d", folder, "-r", rest];
  await must(log, pip[0] as string, download);
  writeFileSync(rest, pinned.join("\n"));
}

/** The lab's own Python where it has pip, else the machine's. */
function findPip(): string[] {
  for (const python of [join(ROOT, ".venv/bin/python3"), "python3"])
    if (spawnSync(python, ["-m", "pip", "--version"]).status === 0) return [python, "-m", "pip"];
  throw new Error("The Xen lab's image needs pip: install the package python3-pip.");
}

/** Runs a program with its words in the log; throws with the last of them. It ends with us. */
function must(log: string, program: string, args: string[], env: Record<string, string> = {}): Promise<void> {
  return new Promise((done, fail) => {
    // The kernel sends the signal, also where we are killed.
    const child = spawn("setpriv", ["--pdeathsig", "KILL", program, ...args], {
      env: { ...process.env, ...env },
      stdio: ["ignore", "pipe", "pipe"],
    });
    let last = "";
    const take = (data: Buffer) => {
      appendFileSync(log, data);
      last = `${last}${data}`.slice(-2000);
    };
    child.stdout.on("data", take);
    child.stderr.on("data", take);
    child.on("error", (error) => fail(new Error(`${program} cannot be started: ${error.message}.`)));
    child.on("close", (code) => {
      if (code === 0) done();
      else
        fail(new Error(`${program} ended with ${code}:\n${last.trim().split("\n").slice(-8).join("\n")}\n`));
    });
  });
}
