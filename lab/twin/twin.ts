/**
 * A twin: a simulated dom0, of Qubes or of plain Xen, in a sandbox, reached by SSH. See README.md for what it is made of.
 * One folder a twin; everything it has lies there, and it belongs to whoever started it.
 */
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { basename, join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type CompareOptions, compare, dump, type TwinDump } from "./dump.ts";
import { applyFault } from "./faults.ts";
import { type PlatformName, platforms } from "./platform.ts";
import { alive, end, type ProcessId, signal, tree } from "./process.ts";
import {
  ask,
  installRoot,
  layout,
  type MachineState,
  machineState,
  powerOn,
  type Result,
  removeRoot,
  run,
} from "./sandbox.ts";
import { type Sshd, sshdProcess, startSshd } from "./sshd.ts";
import {
  defaultWorld,
  fixture,
  type Install,
  type Machine,
  type Patch,
  patched,
  type Trigger,
  type World,
} from "./world.ts";

export type { TwinDump } from "./dump.ts";
export type { MachineState } from "./sandbox.ts";
export type { Faults, Install, Machine, Trigger, World } from "./world.ts";

export interface StartOptions {
  /** The twin's folder; it is made. A disk left there by an earlier start with the same options is booted again. */
  dir: string;
  /** "qubes" unless given; "xen" is a Debian host of plain Xen. The installation may say so too. */
  platform?: PlatformName;
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

/** dom0/machine/screen.py. */
export interface Screen {
  /** "dom0 (lightdm)", "dom0 (console)", a qube, or null: nobody. */
  drivenBy: string | null;
  /** "ps2", "usb:0000:00:14.0": keyboards that reach who drives the screen. */
  keyboards: string[];
  /** A person can work there. */
  usable: boolean;
  why: string;
  /** dom0 can be reached by SSH. */
  wayIn: boolean;
  /** Plain Xen: what the screen that dom0 drives shows, "Xephyr with the framebuffer of sys-gui". */
  shows?: string;
  /** Plain Xen: what each display shows, by its address. */
  displays?: Record<string, { shows: string; domain: string | null }>;
}

/** dom0/xen/screen.py: what a plain Xen host's screens show. */
export type XenScreen = Screen &
  Picture & {
    /** sbdf → of every display with a monitor. */
    displays: Record<string, Picture>;
  };

export interface Picture {
  /** "greeter", "session NAME", "Xephyr with the framebuffer of NAME", "Xephyr, black", "text console", a domain, "nothing". */
  shows: string;
  /** The domain whose picture it is; null where it is dom0's own. */
  domain: string | null;
  /** What that domain has drawn (data/lab/draw). */
  token: string | null;
}

/** How a twin is reached and what runs it; .lab/<name>/twin.json. */
interface Running {
  /** dom0/host/power.py; everything else ends with it, but sshd. */
  power: ProcessId;
  sshd: Sshd;
  /** Snapshots counted before the last reset, which clears dom0's logs. */
  snapshots: number;
}

/** What it starts from, for a reset; .lab/<name>/start.json. */
interface Start {
  install: Install;
  world: World;
}

export async function startTwin(options: StartOptions): Promise<Twin> {
  const dir = resolve(options.dir);
  if (await attachTwin(dir)) throw new Error(`The twin in ${dir} is already running; stop it first.`);
  const start = startOf(options);
  const paths = layout(dir);
  mkdirSync(join(paths.world, "bin"), { recursive: true });
  const text = JSON.stringify(start, null, 1);
  if (!existsSync(paths.root) || !existsSync(paths.start) || readFileSync(paths.start, "utf8") !== text) {
    installRoot(dir, start.install, start.world);
    writeFileSync(paths.start, text);
  }
  rmSync(join(dir, "world.json"), { force: true });
  symlinkSync("world/world.json", join(dir, "world.json"));
  const [power, sshd] = await both(dir, switchOn(dir, start), startSshd(dir));
  const twin = new Twin(dir, { power, sshd, snapshots: 0 });
  if (twin.machine().state !== "running") await ask(dir, { do: "sshd" });
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
  if (alive(running.power) && (sshdProcess(dir) || machineState(dir).state !== "running"))
    return new Twin(dir, running);
  // Half of it is gone (a crash, a kill): the other half is of no use to anyone.
  await end([running.power]);
  await endSshd(dir);
  rmSync(record);
  return null;
}

function startOf({ platform = "qubes", machine, install, world }: Partial<StartOptions>): Start {
  const installed = part<Install>("installs", install ?? platforms[platform].install);
  const hardware = part<Machine>(
    "machines",
    machine ?? platforms[installed.world?.platform ?? platform].machine,
  );
  return {
    install: installed,
    world: patched(patched(defaultWorld(hardware), installed.world ?? {}), world ?? {}),
  };
}

/** What the twin of a folder was started with, to start it so again; null where there was none. */
export function lastStart(
  folder: string,
): Required<Pick<StartOptions, "machine" | "install" | "world">> | null {
  const { start } = layout(resolve(folder));
  if (!existsSync(start)) return null;
  const { install, world } = JSON.parse(readFileSync(start, "utf8")) as Start;
  return { machine: world.machine, install, world };
}

function part<T>(folder: "machines" | "installs", given: string | T): T {
  return typeof given === "string" ? fixture<T>(folder, given) : given;
}

/** Both, or neither: when one fails, the other is ended. */
async function both(dir: string, power: Promise<ProcessId>, sshd: Promise<Sshd>): Promise<[ProcessId, Sshd]> {
  const [first, second] = await Promise.allSettled([power, sshd]);
  if (first.status === "fulfilled" && second.status === "fulfilled") return [first.value, second.value];
  if (first.status === "fulfilled") await end([first.value]);
  if (second.status === "fulfilled") await endSshd(dir);
  throw first.status === "rejected" ? first.reason : (second as PromiseRejectedResult).reason;
}

async function endSshd(dir: string): Promise<void> {
  const process = sshdProcess(dir);
  if (process) await end(tree(process));
}

async function switchOn(dir: string, start: Start): Promise<ProcessId> {
  writeWorld(dir, start.world);
  writeFileSync(join(layout(dir).world, "install.json"), JSON.stringify(start.install, null, 1));
  const power = await powerOn(dir, start.world);
  if (start.world.faults.diskFull) await setDisk(dir, "fill");
  return power;
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

/** world.json, and which commands a session finds: not those that a fault takes away, and a wrapper where one waits for a command. What stays as it was is not touched: something may be running. */
function writeWorld(dir: string, world: World): void {
  const folder = layout(dir).world;
  const file = join(folder, "world.json");
  writeFileSync(`${file}.new`, JSON.stringify(world, null, 1));
  renameSync(`${file}.new`, file);
  const bin = join(folder, "bin");
  const wanted = commands(world);
  for (const name of readdirSync(bin)) if (!wanted.has(name)) rmSync(join(bin, name));
  for (const [name, { link, text = "" }] of wanted) {
    const path = join(bin, name);
    const there = lstatSync(path, { throwIfNoEntry: false });
    if (there && (link ? there.isSymbolicLink() : there.isFile() && readFileSync(path, "utf8") === text))
      continue;
    rmSync(path, { force: true });
    if (link) symlinkSync(link, path);
    else writeFileSync(path, text, { mode: 0o755 });
  }
}

/** Commands that a session finds before all others: Salt's, and those that a fault takes away or waits for. */
function commands({ faults, clockOffset, platform }: World): Map<string, { link?: string; text?: string }> {
  const found = new Map<string, { link?: string; text?: string }>();
  for (const name of platform === "xen" ? ["salt-call"] : ["qubesctl", "salt-call"])
    if (!faults.saltMissing) found.set(name, { link: `/usr/lib/twin/salt/bin/${name}` });
  for (const { at } of faults.triggers ?? []) {
    const name = /^command (\S+)/.exec(at)?.[1];
    if (name) found.set(name, { text: waitedFor(name, found.get(name)?.link ?? name) });
  }
  if (clockOffset !== undefined) {
    found.set("python3", { text: '#!/bin/sh\nexec /usr/bin/python3 -I /usr/lib/twin/bin/twin-clock "$@"\n' });
    found.set("date", { text: DATE });
  }
  if (faults.noPython) found.set("python3", { text: NO_PYTHON });
  return found;
}

/** Tells that the command begins and that it has ended; some fault waits for it. */
const waitedFor = (name: string, program: string) => `#!/bin/sh
/usr/lib/twin/bin/twin-fault trigger before ${name} "$@" || exit 1
PATH=\${PATH#/run/twin/bin:} ${program} "$@"
code=$?
/usr/lib/twin/bin/twin-fault trigger after ${name} "$@"
exit $code
`;

const DATE = `#!/bin/sh
offset=$(/usr/bin/python3 -I -c 'import json; print(json.load(open("/run/twin/world.json")).get("clockOffset", 0))')
exec /usr/bin/date -d "@$(($(/usr/bin/date +%s) + offset))" "$@"
`;

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

  /** Runs a command line in dom0 as root, past SSH; `input` comes on its stdin. */
  exec(command: string, input?: string): Promise<Result> {
    return run(layout(this.dir).enter, [command], input);
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
    const shown = ({ machine, faults }: World) => JSON.stringify([machine, faults.noReset]);
    if (shown(after) !== shown(before)) await this.#must("twin-replug");
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

  /** What the machine below dom0 is now. */
  machine(): MachineState {
    return machineState(this.dir);
  }

  /** Who drives the screen, which keyboards reach that, whether a person can work there; of a plain Xen host a XenScreen. */
  async screen(): Promise<Screen> {
    const { state, why } = this.machine();
    if (state !== "running") {
      const dark: XenScreen = {
        ...{ drivenBy: null, keyboards: [], usable: false, why: why || state, wayIn: false },
        ...{ shows: "nothing", domain: null, token: null, displays: {} },
      };
      return dark;
    }
    return JSON.parse(await this.#must("twin-screen")) as Screen;
  }

  /** Off and on by hand. Resolves when dom0 is up again, or when the boot has stopped. */
  async powerCycle(): Promise<MachineState> {
    await ask(this.dir, { do: "power-cycle" });
    return this.machine();
  }

  /** As `systemctl reboot` in dom0. Resolves when dom0 is up again, or when the boot has stopped. */
  async reboot(): Promise<MachineState> {
    const { number } = this.machine();
    await this.exec("systemctl reboot"); // it may be ended by what it asks for
    return this.waitForBoot({ after: number });
  }

  /** The machine once no boot is under way and there was one after boot number `after` (default: none need be). */
  async waitForBoot({
    after = 0,
    timeout = 20_000,
  }: {
    after?: number;
    timeout?: number;
  } = {}): Promise<MachineState> {
    for (const limit = Date.now() + timeout; Date.now() < limit; await sleep(5)) {
      const machine = this.machine();
      if (machine.number > after && machine.state !== "booting") return machine;
    }
    throw new Error(
      `The twin ${this.name} did not boot within ${timeout} ms: it is ${this.machine().state}.`,
    );
  }

  /** Resolves when the machine is in that state. */
  async until(state: MachineState["state"], timeout = 20_000): Promise<MachineState> {
    for (const limit = Date.now() + timeout; Date.now() < limit; await sleep(5)) {
      const machine = this.machine();
      if (machine.state === state) return machine;
    }
    throw new Error(
      `The twin ${this.name} was not ${state} within ${timeout} ms: it is ${this.machine().state}.`,
    );
  }

  /** Makes the host hang, reset, lose power, or only cuts its line, now. */
  async strike(what: Trigger["do"], why = "by hand"): Promise<void> {
    await ask(this.dir, { do: what, why });
  }

  /** A fault by name (faults.ts), or one that waits for something. */
  async fault(fault: string | Trigger): Promise<void> {
    await applyFault(this, fault);
  }

  /** All faults go; the hardware and what is installed stay as they are. */
  async clearFaults(): Promise<void> {
    const { world } = JSON.parse(readFileSync(layout(this.dir).start, "utf8")) as Start;
    const faults = Object.fromEntries(
      Object.keys(this.surroundings().faults).map((name) => [name, undefined]),
    );
    const { iommu, watchdog, person } = world;
    await this.world({ faults, iommu, watchdog, person, nextMachine: undefined, clockOffset: undefined });
    rmSync(join(layout(this.dir).state, "fired.json"), { force: true });
  }

  /** The world as it is now. */
  surroundings(): World {
    return readWorld(this.dir);
  }

  async #must(command: string): Promise<string> {
    const { code, stdout, stderr } = await this.exec(command);
    if (code !== 0)
      throw new Error(`${command} in the twin ${this.name} ended with ${code}: ${stderr.trim()}`);
    return stdout;
  }

  /** A fresh installation and a new boot, in its first world or another one; address and keys stay. */
  async reset(options?: Pick<StartOptions, "platform" | "machine" | "install">): Promise<void> {
    const file = layout(this.dir).start;
    const start = options ? startOf(options) : (JSON.parse(readFileSync(file, "utf8")) as Start);
    this.#running.snapshots = this.counters().snapshots;
    await end([this.#running.power]);
    installRoot(this.dir, start.install, start.world);
    writeFileSync(file, JSON.stringify(start, null, 1));
    this.#running.power = await switchOn(this.dir, start);
    await ask(this.dir, { do: "sshd" });
    this.record();
  }

  async stop(): Promise<void> {
    // Process 1 first: what came by SSH then ends by itself and is collected by its own parents.
    await end([this.#running.power], 4000);
    await endSshd(this.dir);
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
    const sshd = sshdProcess(this.dir);
    for (const process of [this.#running.power, ...(sshd ? tree(sshd) : [])]) signal(process, "SIGKILL");
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
    // Before any other listener: one of them may remove the folder that says what is to be ended.
    process.prependListener("exit", () => {
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
