/**
 * The sandbox of a twin, from outside: its root file system on disk, and the machine that boots dom0 on it again and again
 * (dom0/host/power.py). What happens inside the namespaces is dom0/host/sandbox.py and init.py.
 */
import { spawn, spawnSync } from "node:child_process";
import {
  chmodSync,
  closeSync,
  cpSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { connect } from "node:net";
import { dirname, join, resolve } from "node:path";
import { type Platform, platformOf } from "./platform.ts";
import { identify, type ProcessId } from "./process.ts";
import type { Install, World } from "./world.ts";

const HERE = import.meta.dirname;
const REPOSITORY = resolve(HERE, "../..");

/** Paths below a twin's folder. */
export const layout = (dir: string) => ({
  root: join(dir, "root"),
  world: join(dir, "world"),
  ssh: join(dir, "ssh"),
  /** What the sshd is that answers while dom0 runs; dom0/host/power.py stops and starts it. */
  sshd: join(dir, "ssh/sshd.json"),
  /** What dom0 may write there: which faults have bitten. */
  state: join(dir, "world/state"),
  /** What the machine is now, see MachineState. */
  machine: join(dir, "world/boot/machine.json"),
  log: join(dir, "log"),
  enter: join(dir, "enter"),
  record: join(dir, "twin.json"),
  start: join(dir, "start.json"),
});

/** dom0's disk as a fresh installation leaves it. */
export function installRoot(dir: string, install: Install, world: World): void {
  const { root } = layout(dir);
  const platform = platformOf(world);
  removeRoot(dir);
  cpSync(join(HERE, platform.skel), root, { recursive: true, verbatimSymlinks: true });
  for (const folder of platform.folders) mkdirSync(join(root, folder), { recursive: true });
  chmodSync(join(root, "root"), 0o700);
  chmodSync(join(root, "var/tmp"), 0o1777);
  const files: NonNullable<Install["files"]> = {
    ...platform.files(install, world),
    ...install.files,
  };
  symlinkSync("../run", join(root, "var/run"));
  symlinkSync("../usr/share/zoneinfo/UTC", join(root, "etc/localtime"));
  // The machine's own choice of awk, editor and the like, which its /usr/bin refers to, and where its libraries are.
  for (const path of ["/etc/alternatives", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d"])
    if (existsSync(path)) cpSync(path, join(root, path), { recursive: true, verbatimSymlinks: true });
  for (const [path, file] of Object.entries(files)) {
    const { content, mode } = typeof file === "string" ? { content: file, mode: "0644" } : file;
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), content);
    chmodSync(join(root, path), Number.parseInt(mode, 8));
  }
}

export function removeRoot(dir: string): void {
  const { root } = layout(dir);
  try {
    rmSync(root, { recursive: true, force: true });
  } catch {
    // A folder that its owner may not enter, left by dom0's root.
    spawnSync("chmod", ["-R", "u+rwX", root]);
    rmSync(root, { recursive: true, force: true });
  }
}

/** What dom0/host/power.py says of the machine; world/boot/machine.json. */
export interface MachineState {
  /** "booting": on its way from one state to another; "stopped": the boot did not get to dom0 (GRUB, initramfs, passphrase prompt); "hung": it stands still. */
  state: "off" | "booting" | "running" | "stopped" | "hung";
  why: string;
  /** Of this boot; null before the first. */
  boot: {
    id: string;
    entry: string | null;
    title: string | null;
    cmdline: string;
    kernel: string | null;
    stage: "grub" | "initramfs" | "prompt" | "system";
    status: "running" | "waiting" | "stopped";
    why: string;
    /** sbdf → driver, as the initramfs and udev left it. */
    drivers: Record<string, string | null>;
    /** next_entry chose the entry. */
    oneShot: boolean;
    /** GRUB could write grubenv; null where it had nothing to write. */
    cleared: boolean | null;
    warnings: string[];
  } | null;
  log: { at: number; wall: number; what: string; why: string }[];
  /** Boots since the twin was started. */
  number: number;
}

export function machineState(dir: string): MachineState {
  return JSON.parse(readFileSync(layout(dir).machine, "utf8")) as MachineState;
}

/** Switches the machine on: a boot on its disk. Throws with one sentence when this machine cannot do it. */
export async function powerOn(dir: string, world: World): Promise<ProcessId> {
  if (process.platform !== "linux")
    throw new Error("The twin needs Linux: it is made of namespaces. Run it in a Linux virtual machine.");
  const paths = layout(dir);
  mkdirSync(paths.log, { recursive: true });
  mkdirSync(join(paths.world, "boot"), { recursive: true });
  rmSync(paths.state, { recursive: true, force: true });
  mkdirSync(paths.state);
  mkdirSync(join(paths.world, "guests"), { recursive: true });

  const venv = salt();
  const platform = platformOf(world);
  const reasons: string[] = [];
  // A user namespace keeps the twin's root from being the machine's; without one it takes the machine's root.
  for (const userNamespace of process.getuid?.() === 0 ? [true, false] : [true]) {
    const config = join(dir, "sandbox.json");
    writeFileSync(
      config,
      JSON.stringify({
        root: paths.root,
        world: paths.world,
        tools: join(HERE, "dom0"),
        venv: venv.path,
        interpreters: venv.interpreters,
        python3: venv.python3,
        log: join(paths.log, "sandbox.log"),
        hostname: "dom0",
        userNamespace,
        platform: world.platform ?? "qubes",
        path: searchPath(platform),
        daemons: platform.daemons,
        sshd: paths.sshd,
      }),
    );
    writeEnter(dir, userNamespace, searchPath(platform));
    const launched = await launch(join(venv.path, "bin/python3"), config);
    if (launched.power) return launched.power;
    if (launched.code === 2)
      throw new Error(`The twin's dom0 does not come up: ${launched.stderr} (below ${paths.root}).`);
    reasons.push(launched.stderr || `python3 ended with status ${launched.code}`);
  }
  throw new Error(
    `The twin's sandbox cannot be made on this machine (${reasons.join("; ")}). It needs user namespaces with mounts ` +
      "(sysctl kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0) or root with CAP_SYS_ADMIN.",
  );
}

type Launched = { power: ProcessId } | { power: null; code: number | null; stderr: string };

/** Runs power.py until the first boot is up or has stopped, or it has ended. */
function launch(python: string, config: string): Promise<Launched> {
  return new Promise((done, fail) => {
    const launcher = spawn(python, ["-I", join(HERE, "dom0/host/power.py"), config], {
      detached: true,
      stdio: ["ignore", "pipe", "pipe"],
    });
    let stderr = "";
    launcher.stderr.setEncoding("utf8").on("data", (text: string) => {
      stderr += text;
    });
    launcher.stdout.once("data", () => {
      launcher.unref();
      launcher.stdout.destroy();
      launcher.stderr.destroy();
      done({ power: identify(launcher.pid ?? 0) });
    });
    launcher.on("error", fail);
    launcher.on("close", (code) => done({ power: null, code, stderr: stderr.trim() }));
  });
}

/** Asks power.py for something to happen to the machine; resolves when it has answered. */
export function ask(dir: string, request: { do: string; why?: string }): Promise<Record<string, unknown>> {
  const folder = openSync(layout(dir).world, "r");
  return new Promise<Record<string, unknown>>((done, fail) => {
    // By way of the folder: a socket's path has at most 107 bytes.
    const client = connect(`/proc/self/fd/${folder}/power`, () =>
      client.write(`${JSON.stringify(request)}\n`),
    );
    let text = "";
    client.setEncoding("utf8").on("data", (part: string) => {
      text += part;
    });
    client.on("error", fail);
    client.on("close", () => {
      if (text) done(JSON.parse(text) as Record<string, unknown>);
      else fail(new Error("The twin's machine gave no answer."));
    });
  }).finally(() => closeSync(folder));
}

/** The virtual environment with Salt, and the folders of its interpreter that lie outside what the sandbox lends of /usr. */
function salt(): { path: string; python3: string; interpreters: string[] } {
  const path = join(REPOSITORY, ".venv");
  if (!existsSync(join(path, "bin/python3")))
    throw new Error(
      "The twin has no Salt yet: run `npm run setup`, which makes .venv from lab/requirements.txt.",
    );
  const home = /^home = (.*)$/m.exec(readFileSync(join(path, "pyvenv.cfg"), "utf8"))?.[1] ?? "/usr/bin";
  const python3 = realpathSync(join(path, "bin/python3"));
  const prefixes = [dirname(home), dirname(dirname(python3))];
  const lent = (prefix: string) => prefix === "/usr" || prefix === "/";
  return { path, python3, interpreters: [...new Set(prefixes)].filter((prefix) => !lent(prefix)) };
}

/**
 * `enter COMMAND` runs a command in dom0, as a login by SSH would; without an argument it is sshd's ForceCommand.
 * It checks that process 1 is still the one it was: a reused id would lead to somewhere else.
 */
function writeEnter(dir: string, userNamespace: boolean, path: string): void {
  const { enter, log, world } = layout(dir);
  const user = userNamespace ? "--user --preserve-credentials " : "";
  const text = `#!/bin/sh
# Written by lab/twin/sandbox.ts at each start of the twin.
given=$# command=\${1-}
{ read -r pid start <${quote(join(world, "boot/init"))}; } 2>/dev/null
stat=$(cat "/proc/$pid/stat" 2>/dev/null)
set -- \${stat##*) }
if [ -z "$pid" ] || [ "\${20-}" != "$start" ]; then
  echo "the twin is not running" >&2
  exit 255
fi
if [ "$given" = 0 ]; then
  command=\${SSH_ORIGINAL_COMMAND-}
  printf '%s\\n' "\${command:-(login shell)}" >>${quote(join(log, "commands.log"))}
fi
[ -n "$command" ] || command='exec /bin/bash -l 2>/dev/null || exec /bin/sh -l'
exec nsenter --target "$pid" ${user}--mount --pid --uts --ipc --net -- /usr/bin/env -i -C /root PATH=${path} ${ENVIRONMENT} TERM="\${TERM:-dumb}" /bin/sh -c "$command"
`;
  writeFileSync(`${enter}.new`, text, { mode: 0o755 });
  renameSync(`${enter}.new`, enter);
}

const ENVIRONMENT = "HOME=/root USER=root LOGNAME=root SHELL=/bin/sh LANG=C.UTF-8";

/** PATH of sessions and of units. */
const searchPath = ({ bin }: Platform) =>
  `/run/twin/bin:${bin}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin`;

export const quote = (text: string) => `'${text.replaceAll("'", "'\\''")}'`;

export interface Result {
  code: number;
  stdout: string;
  stderr: string;
}

/** Runs a program and waits for it, with `input` alone on its stdin; a signal counts as 128 + its number, as in a shell. */
export function run(file: string, args: string[], input = ""): Promise<Result> {
  return new Promise((done, fail) => {
    const child = spawn(file, args, { stdio: ["pipe", "pipe", "pipe"] });
    child.stdin.on("error", () => {}); // it has ended without reading all of it
    child.stdin.end(input);
    let stdout = "";
    let stderr = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      stdout += text;
    });
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      stderr += text;
    });
    child.on("error", fail);
    child.on("close", (code, signal) =>
      done({ code: code ?? 128 + (signal === "SIGKILL" ? 9 : 15), stdout, stderr }),
    );
  });
}
