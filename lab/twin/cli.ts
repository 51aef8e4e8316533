/**
 * npm run lab -- COMMAND [NAME] …: twins to work against by hand and by the stack `lab`. NAME is `lab` unless given; a twin
 * lives in .lab/NAME, and .lab/inventory.yaml tells the stacks how to reach it.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join, relative, resolve } from "node:path";
import { parseArgs } from "node:util";
import { stringify } from "yaml";
import { faults } from "./faults.ts";
import { type PlatformName, platforms } from "./platform.ts";
import { layout } from "./sandbox.ts";
import { attachTwin, lastStart, startTwin, type Trigger, type Twin } from "./twin.ts";
import type { Patch, World } from "./world.ts";

const LAB = resolve(import.meta.dirname, "../../.lab");
const USAGE = `npm run lab -- start [NAME] [--platform qubes|xen] [--machine PROFILE] [--install FIXTURE]
               reset [NAME] [--platform qubes|xen] [--machine PROFILE] [--install FIXTURE]   a fresh installation, on that machine
               stop [NAME]
               status [NAME]                who drives the screen, what was booted, what is under way
               power-cycle [NAME]           off and on by hand
               reboot [NAME]
               fault [--name NAME] list|clear|set FAULT…
                                            FAULT: a name of the list, or '{"at": "admin.vm.Start sys-gui", "do": "hang"}'
               shell [NAME]                 a shell in dom0
               exec [--name NAME] COMMAND   runs COMMAND in dom0, exits with its status
               log [NAME]                   what sshd, the sandbox and qubesd wrote, and the commands that came by SSH
               world [NAME] JSON            changes the surroundings: '{"network": false}', '{"faults": {"diskFull": true}}'`;

async function main(words: string[]): Promise<number> {
  if (words[0] === "exec") return exec(words.slice(1));
  if (words[0] === "fault") return fault(words.slice(1));
  const { values, positionals } = parseArgs({
    args: words,
    allowPositionals: true,
    options: { platform: { type: "string" }, machine: { type: "string" }, install: { type: "string" } },
  });
  const [command, ...rest] = positionals;
  const json = command === "world" ? rest.pop() : undefined;
  const name = rest[0] ?? "lab";
  const dir = join(LAB, name);
  const { platform: given, machine, install } = values;
  if (given !== undefined && !(given in platforms))
    throw new Error(`There is no platform "${given}"; there are ${Object.keys(platforms).join(", ")}.`);
  const platform = given as PlatformName | undefined;
  const chosen =
    platform || machine || install
      ? { ...(platform && { platform }), ...(machine && { machine }), ...(install && { install }) }
      : undefined;
  switch (command) {
    case "start": {
      const running = await attachTwin(dir);
      if (running && chosen)
        throw new Error(
          `${name} runs already; another machine is a fresh installation: npm run lab -- reset ${name} --machine PROFILE`,
        );
      const twin = running ?? (await startTwin({ ...(chosen ?? lastStart(dir)), dir, detached: true }));
      writeInventory(twin);
      console.log(`${running ? "already running" : "started"}: ${address(twin)}`);
      return 0;
    }
    case "stop": {
      const twin = await attachTwin(dir);
      await twin?.stop();
      console.log(twin ? `stopped: ${name}` : `not running: ${name}`);
      return 0;
    }
    case "reset": {
      const twin = (await attachTwin(dir)) ?? (await startTwin({ ...lastStart(dir), dir, detached: true }));
      await twin.reset(chosen);
      writeInventory(twin);
      console.log(`reset: ${name} is a fresh installation of ${twin.surroundings().machine.machine}`);
      return 0;
    }
    case "status": {
      const twin = await attachTwin(dir);
      console.log(twin ? await status(twin) : `not running: ${name}`);
      return twin ? 0 : 3;
    }
    case "power-cycle":
    case "reboot": {
      const twin = await running(dir);
      const { state, why } = await (command === "reboot" ? twin.reboot() : twin.powerCycle());
      console.log(`${name} is ${state}${why ? `: ${why}` : ""}`);
      return 0;
    }
    case "shell":
      return spawnSync(layout((await running(dir)).dir).enter, [""], { stdio: "inherit" }).status ?? 1;
    case "log":
      for (const [title, file] of Object.entries(logs(dir)))
        if (existsSync(file))
          console.log(
            `== ${title}: ${relative(process.cwd(), file)}\n${readFileSync(file, "utf8").trimEnd()}`,
          );
      return 0;
    case "world":
      await (await running(dir)).world(JSON.parse(json ?? "{}") as Patch<World>);
      return 0;
    default:
      console.error(USAGE);
      return 2;
  }
}

/** One fact a line: what a person at the machine would see, and what the guard has written down. */
async function status(twin: Twin): Promise<string> {
  const { state, why, boot, number } = twin.machine();
  const screen = await twin.screen();
  const lines = [
    `running: ${address(twin)}`,
    `machine: ${twin.surroundings().machine.machine}, ${state}${why ? `: ${why}` : ""}`,
    `screen: ${screen.usable ? "usable" : "not usable"}, driven by ${screen.drivenBy ?? "nobody"} (${screen.why})`,
    `keyboards that reach it: ${screen.keyboards.join(", ") || "none"}`,
    `way in by SSH: ${screen.wayIn ? "yes" : "no"}`,
  ];
  if (boot) {
    lines.push(`boot ${number}: ${boot.entry ?? "no entry"}${boot.oneShot ? ", once" : ""}, ${boot.id}`);
    lines.push(`kernel line: ${boot.cmdline || "none"}`);
  }
  for (const file of ["trial", "watch", "outcome"]) {
    const path = join(layout(twin.dir).root, `var/lib/guidomain/${file}.json`);
    if (existsSync(path))
      lines.push(`${file}: ${JSON.stringify(brief(JSON.parse(readFileSync(path, "utf8"))))}`);
  }
  const faults = twin.surroundings().faults;
  if (Object.keys(faults).length > 0) lines.push(`faults: ${JSON.stringify(faults)}`);
  lines.push(`counted: ${JSON.stringify(twin.counters())}`);
  return lines.join("\n");
}

/** The plain values of a file of the guard's: its records are long. */
function brief(value: unknown): unknown {
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).filter(([, part]) => typeof part !== "object" || part === null),
  );
}

/** `fault [--name NAME] list | clear | set FAULT…` */
async function fault(words: string[]): Promise<number> {
  const name = words[0] === "--name" ? (words.splice(0, 2)[1] ?? "") : "lab";
  const [what, ...given] = words;
  if (what === "list") {
    for (const [fault, { what, patch }] of Object.entries(faults()))
      console.log(`${fault.padEnd(22)} ${patch ? "" : "(once) "}${what}`);
    return 0;
  }
  if (what !== "clear" && (what !== "set" || given.length === 0)) {
    console.error(USAGE);
    return 2;
  }
  const twin = await running(join(LAB, name));
  if (what === "clear") await twin.clearFaults();
  for (const each of given) await twin.fault(each.startsWith("{") ? (JSON.parse(each) as Trigger) : each);
  return 0;
}

/** `exec [--name NAME] [--] COMMAND…`: what follows is dom0's, options too. */
async function exec(words: string[]): Promise<number> {
  const name = words[0] === "--name" ? (words.splice(0, 2)[1] ?? "") : "lab";
  if (words[0] === "--") words.shift();
  const twin = await running(join(LAB, name));
  return spawnSync(layout(twin.dir).enter, [words.join(" ")], { stdio: "inherit" }).status ?? 1;
}

async function running(dir: string): Promise<Twin> {
  const twin = await attachTwin(dir);
  if (!twin) throw new Error(`No twin runs in ${relative(process.cwd(), dir)}: npm run lab -- start`);
  return twin;
}

const address = (twin: Twin) =>
  `${twin.name}, dom0 at ssh -p ${twin.port} -i ${relative(process.cwd(), twin.identityFile)} ${twin.user}@127.0.0.1 (${twin.hostKey})`;

const logs = (dir: string) => ({
  commands: join(layout(dir).log, "commands.log"),
  sshd: join(layout(dir).log, "sshd.log"),
  sandbox: join(layout(dir).log, "sandbox.log"),
  qubesd: join(layout(dir).root, "var/log/qubes/qubesd.log"),
  xen: join(layout(dir).root, "var/log/xen/twin.log"),
});

/** Every twin of the lab that was ever started; those that are stopped keep their last address. */
function writeInventory(started: Twin): void {
  const hosts: Record<string, unknown> = {};
  for (const name of readdirSync(LAB).sort()) {
    const { record } = layout(join(LAB, name));
    if (!existsSync(record)) continue;
    const { sshd } = JSON.parse(readFileSync(record, "utf8")) as { sshd: Twin };
    const { port, user, identityFile, hostKey } = name === started.name ? started : sshd;
    hosts[name] = { address: "127.0.0.1", port, user, identityFile, hostKey };
  }
  mkdirSync(LAB, { recursive: true });
  const file = join(LAB, "inventory.yaml");
  writeFileSync(`${file}.new`, `# Written by npm run lab -- start.\n${stringify({ hosts })}`);
  renameSync(`${file}.new`, file);
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  console.error(error instanceof Error ? error.message : String(error));
  process.exitCode = 1;
}
