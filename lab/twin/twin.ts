/**
 * A twin: a simulated Qubes dom0 in a sandbox, reached by SSH. See README.md for what it is made of.
 * One folder a twin; everything it has lies there, and it belongs to whoever started it.
 */
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { basename, join, resolve } from "node:path";
import { type CompareOptions, compare, dump, type TwinDump } from "./dump.ts";
import { alive, end, signal, tree } from "./process.ts";
import {
  boot,
  installRoot,
  layout,
  powerOff,
  type Result,
  removeRoot,
  run,
  type Sandbox,
} from "./sandbox.ts";
import { type Sshd, startSshd } from "./sshd.ts";
import { writeSysfs } from "./sysfs.ts";
import {
  defaultWorld,
  fixture,
  type Install,
  type Machine,
  type Patch,
  patched,
  type World,
} from "./world.ts";

export type { TwinDump } from "./dump.ts";
export type { Faults, Install, Machine, World } from "./world.ts";

export interface StartOptions {
  /** The twin's folder; it is made. A disk left there by an earlier start with the same options is booted again. */
  dir: string;
  /** A profile of lab/twin/machines by name, a path, or the machine itself. */
  machine?: string | Machine;
  /** A fixture of lab/twin/installs by name, a path, or the installation itself. */
  install?: string | Install;
  /** What differs from the default world. */
  world?: Patch<World>;
  /** Goes on when this process ends; otherwise the twin ends with it. */
  detached?: boolean;
}

export interface Counters {
  /** TCP connections that sshd took. */
  connections: number;
  authentications: number;
  /** Commands and shells started by SSH. */
  execs: number;
  /** admin.vm.List calls that qubesd answered. */
  snapshots: number;
}

/** How a twin is reached and what runs it; .lab/<name>/twin.json. */
interface Running {
  sandbox: Sandbox;
  sshd: Sshd;
  /** Snapshots counted before the last reset, which clears dom0's logs. */
  snapshots: number;
}

/** What it starts from, for a reset; .lab/<name>/start.json. */
interface Start {
  install: Install;
  world: World;
}

const DEFAULT_MACHINE = "recorded-laptop";
const DEFAULT_INSTALL = "qubes-4.3";

export async function startTwin(options: StartOptions): Promise<Twin> {
  const dir = resolve(options.dir);
  if (await attachTwin(dir)) throw new Error(`The twin in ${dir} is already running; stop it first.`);
  const machine = part<Machine>("machines", options.machine ?? DEFAULT_MACHINE);
  const install = part<Install>("installs", options.install ?? DEFAULT_INSTALL);
  const start: Start = {
    install,
    world: patched(patched(defaultWorld(machine), install.world ?? {}), options.world ?? {}),
  };

  const paths = layout(dir);
  mkdirSync(join(paths.world, "bin"), { recursive: true });
  const text = JSON.stringify(start, null, 1);
  if (!existsSync(paths.root) || !existsSync(paths.start) || readFileSync(paths.start, "utf8") !== text) {
    installRoot(dir, start.install, start.world);
    writeFileSync(paths.start, text);
  }
  rmSync(join(dir, "world.json"), { force: true });
  symlinkSync("world/world.json", join(dir, "world.json"));
  const [sandbox, sshd] = await both(powerOn(dir, start), startSshd(dir));
  const twin = new Twin(dir, { sandbox, sshd, snapshots: 0 });
  twin.record();
  if (!options.detached) endWithThisProcess(twin);
  return twin;
}

/** The running twin of a folder, null when none runs there. */
export async function attachTwin(folder: string): Promise<Twin | null> {
  const dir = resolve(folder);
  const { record } = layout(dir);
  if (!existsSync(record)) return null;
  const running = JSON.parse(readFileSync(record, "utf8")) as Running;
  if (alive(running.sandbox.init) && alive(running.sshd.process)) return new Twin(dir, running);
  // Half of it is gone (a crash, a kill): the other half is of no use to anyone.
  await powerOff(running.sandbox);
  await end(tree(running.sshd.process));
  rmSync(record);
  return null;
}

function part<T>(folder: "machines" | "installs", given: string | T): T {
  return typeof given === "string" ? fixture<T>(folder, given) : given;
}

/** Both, or neither: when one fails, the other is ended. */
async function both(sandbox: Promise<Sandbox>, sshd: Promise<Sshd>): Promise<[Sandbox, Sshd]> {
  const [first, second] = await Promise.allSettled([sandbox, sshd]);
  if (first.status === "fulfilled" && second.status === "fulfilled") return [first.value, second.value];
  if (first.status === "fulfilled") await powerOff(first.value);
  if (second.status === "fulfilled") await end([second.value.process]);
  throw first.status === "rejected" ? first.reason : (second as PromiseRejectedResult).reason;
}

async function powerOn(dir: string, start: Start): Promise<Sandbox> {
  const paths = layout(dir);
  mkdirSync(paths.sys, { recursive: true });
  writeWorld(dir, start.world);
  writeSysfs(paths.sys, start.world);
  writeFileSync(join(paths.world, "install.json"), JSON.stringify(start.install, null, 1));
  const sandbox = await boot(dir, start.world);
  if (start.world.faults.diskFull) await setDisk(dir, "fill");
  return sandbox;
}

async function setDisk(dir: string, how: "fill" | "free"): Promise<void> {
  const { code, stderr } = await run(layout(dir).enter, [`/usr/lib/twin/host/disk.py ${how}`]);
  if (code !== 0)
    throw new Error(
      `The disk of the twin in ${dir} cannot be made ${how === "fill" ? "full" : "free"}: ${stderr.trim()}`,
    );
}

function readWorld(dir: string): World {
  return JSON.parse(readFileSync(join(layout(dir).world, "world.json"), "utf8")) as World;
}

/** world.json, and which commands a session finds. What stays as it was is not touched: something may be running. */
function writeWorld(dir: string, world: World): void {
  const folder = layout(dir).world;
  const file = join(folder, "world.json");
  writeFileSync(`${file}.new`, JSON.stringify(world, null, 1));
  renameSync(`${file}.new`, file);
  const { saltMissing, noPython } = world.faults;
  const bin = join(folder, "bin");
  for (const name of ["qubesctl", "salt-call"])
    if (saltMissing) rmSync(join(bin, name), { force: true });
    else if (!readdirSync(bin).includes(name)) symlinkSync(`/usr/lib/twin/salt/bin/${name}`, join(bin, name));
  const python = join(bin, "python3");
  if (noPython) writeFileSync(python, NO_PYTHON, { mode: 0o755 });
  else rmSync(python, { force: true });
}

const NO_PYTHON = '#!/bin/sh\necho "sh: python3: command not found" >&2\nexit 127\n';

export class Twin {
  readonly dir: string;
  readonly name: string;
  readonly port: number;
  readonly user: string;
  readonly identityFile: string;
  /** "SHA256:…" */
  readonly hostKey: string;
  #running: Running;

  constructor(dir: string, running: Running) {
    this.dir = dir;
    this.name = basename(dir);
    this.port = running.sshd.port;
    this.user = running.sshd.user;
    this.identityFile = running.sshd.identityFile;
    this.hostKey = running.sshd.hostKey;
    this.#running = running;
  }

  /** Runs a command line in dom0 as root, past SSH. */
  exec(command: string): Promise<Result> {
    return run(layout(this.dir).enter, [command]);
  }

  dump(): Promise<TwinDump> {
    return dump(this);
  }

  compare(before: TwinDump, after: TwinDump, options?: CompareOptions): string[] {
    return compare(before, after, options);
  }

  /** Changes the surroundings; it takes effect at once. A part that is `undefined` in the patch goes. */
  async world(patch: Patch<World>): Promise<void> {
    const before = readWorld(this.dir);
    const after = patched(before, patch);
    writeWorld(this.dir, after);
    if (JSON.stringify(after.machine) !== JSON.stringify(before.machine))
      writeSysfs(layout(this.dir).sys, after);
    const full = Boolean(after.faults.diskFull);
    if (full !== Boolean(before.faults.diskFull)) await setDisk(this.dir, full ? "fill" : "free");
  }

  /** Since the twin's folder was made. Differences: see `since`. */
  counters(): Counters {
    const { log, root } = layout(this.dir);
    const sshd = read(join(log, "sshd.log"));
    return {
      connections: count(sshd, /^Connection from /gm),
      authentications: count(sshd, /^Accepted publickey for /gm),
      execs: count(sshd, /^Starting session: /gm),
      snapshots:
        this.#running.snapshots +
        count(read(join(root, "var/log/qubes/qubesd-calls.log")), /\badmin\.vm\.List\b/g),
    };
  }

  /** What was counted since an earlier reading. */
  since(before: Counters): Counters {
    const now = this.counters();
    return {
      connections: now.connections - before.connections,
      authentications: now.authentications - before.authentications,
      execs: now.execs - before.execs,
      snapshots: now.snapshots - before.snapshots,
    };
  }

  /** A fresh installation in its first world and a new boot; address and keys stay. */
  async reset(): Promise<void> {
    this.#running.snapshots = this.counters().snapshots;
    await powerOff(this.#running.sandbox);
    const start = JSON.parse(readFileSync(layout(this.dir).start, "utf8")) as Start;
    installRoot(this.dir, start.install, start.world);
    this.#running.sandbox = await powerOn(this.dir, start);
    this.record();
  }

  async stop(): Promise<void> {
    // Process 1 first: what came by SSH then ends by itself and is collected by its own parents.
    await powerOff(this.#running.sandbox);
    await end(tree(this.#running.sshd.process));
    rmSync(layout(this.dir).record, { force: true });
  }

  /** Stops the twin and removes all it had. */
  async remove(): Promise<void> {
    await this.stop();
    removeRoot(this.dir);
    rmSync(this.dir, { recursive: true, force: true });
  }

  /** Ends it without waiting, for a process that is ending itself. */
  kill(): void {
    for (const process of [this.#running.sandbox.init, ...tree(this.#running.sshd.process)])
      signal(process, "SIGKILL");
    rmSync(layout(this.dir).record, { force: true });
  }

  record(): void {
    const { record } = layout(this.dir);
    writeFileSync(`${record}.new`, JSON.stringify(this.#running, null, 1));
    renameSync(`${record}.new`, record);
  }
}

const read = (path: string) => (existsSync(path) ? readFileSync(path, "utf8") : "");
const count = (text: string, pattern: RegExp) => text.match(pattern)?.length ?? 0;

const ours = new Set<Twin>();

function endWithThisProcess(twin: Twin): void {
  if (ours.size === 0) {
    process.on("exit", () => {
      for (const each of ours) each.kill();
    });
    for (const [name, number] of [
      ["SIGINT", 2],
      ["SIGTERM", 15],
      ["SIGHUP", 1],
    ] as const)
      process.once(name, () => process.exit(128 + number));
  }
  ours.add(twin);
}
