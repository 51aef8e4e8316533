/**
 * npm run lab:xen -- COMMAND [NAME] …: Xen hosts to work against by hand. NAME is `xen` unless given; a host lives in .lab/xen/NAME, and
 * .lab/xen/inventory.yaml tells how all are reached.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, renameSync, writeFileSync } from "node:fs";
import { join, relative, resolve } from "node:path";
import { parseArgs } from "node:util";
import { stringify } from "yaml";
import { clearFaults, FAULTS, setFault } from "./faults.ts";
import { makeGolden } from "./golden.ts";
import { buildImage } from "./image.ts";
import { attachXenHost, startXenHost, type XenHost } from "./xenHost.ts";

const LAB = resolve(import.meta.dirname, "../../.lab/xen");
const USAGE = `npm run lab:xen -- build [--no-iommu]           the image and the state that hosts start from; minutes, once
                   start [NAME] [--no-iommu] [--boot]     --boot: through GRUB, not from the saved state
                   stop [NAME]                            its disk goes with the next start
                   status [NAME]
                   shell [NAME]                           a shell in dom0
                   exec [--name NAME] COMMAND             runs COMMAND in dom0, exits with its status
                   screenshot [NAME] [--file PNG]         what the machine's screen shows
                   power-cycle [NAME]                     off and on by hand; resolves when dom0 answers
                   fault [--name NAME] list|clear|set FAULT…`;

const say = (line: string) => console.error(line);

async function main(words: string[]): Promise<number> {
  if (words[0] === "exec") return exec(words.slice(1));
  if (words[0] === "fault") return fault(words.slice(1));
  const { values, positionals } = parseArgs({
    args: words,
    allowPositionals: true,
    options: { "no-iommu": { type: "boolean" }, boot: { type: "boolean" }, file: { type: "string" } },
  });
  const [command, name = "xen"] = positionals;
  const dir = join(LAB, name);
  const machine = { iommu: !values["no-iommu"] };
  switch (command) {
    case "build": {
      const image = await buildImage(say);
      const golden = await makeGolden(image, machine, say);
      console.log(`image: ${relative(process.cwd(), image.disk)}`);
      console.log(`state: ${relative(process.cwd(), golden.state)}`);
      return 0;
    }
    case "start": {
      const there = attachXenHost(dir);
      if (there && (await there.power()) !== "off") {
        console.log(`already running: ${address(there)}`);
        return 0;
      }
      const start = performance.now();
      const from = values.boot ? "boot" : "golden";
      const host = await startXenHost({ dir, machine, from, detached: true, say });
      writeInventory();
      console.log(`started after ${((performance.now() - start) / 1000).toFixed(1)} s: ${address(host)}`);
      return 0;
    }
    case "stop": {
      const host = attachXenHost(dir);
      await host?.stop();
      writeInventory();
      console.log(host ? `stopped: ${name}` : `not running: ${name}`);
      return 0;
    }
    case "status":
      return status(dir, name);
    case "shell":
      return ssh(running(dir), []);
    case "screenshot": {
      const file = values.file ?? join(dir, "screen.png");
      const { width, height } = await running(dir).screenshot(file);
      console.log(`${relative(process.cwd(), file)}, ${width}x${height}`);
      return 0;
    }
    case "power-cycle": {
      const host = running(dir);
      const before = (await host.bootId(5_000)) ?? undefined;
      const start = performance.now();
      await host.powerCycle();
      const id = await host.until("up", { after: before });
      console.log(`${name} is up after ${((performance.now() - start) / 1000).toFixed(0)} s, boot ${id}`);
      return 0;
    }
    default:
      console.error(USAGE);
      return 2;
  }
}

async function status(dir: string, name: string): Promise<number> {
  const host = attachXenHost(dir);
  if (!host) {
    console.log(`not running: ${name}`);
    return 3;
  }
  const power = await host.power();
  console.log(`${name}: ${power}${host.machine.iommu ? "" : ", without IOMMU"}, ${address(host)}`);
  const id = power === "running" ? await host.bootId() : null;
  if (id === null) {
    console.log(
      `dom0 does not answer; the console ends with:\n${host.console().trimEnd().split("\n").slice(-5).join("\n")}`,
    );
    return 1;
  }
  console.log(`boot ${id}, kernel line: ${(await host.must("cat /proc/cmdline")).trim()}`);
  console.log((await host.must("xl list; xl pci-assignable-list")).trimEnd());
  return 0;
}

/** `fault [--name NAME] list | clear | set FAULT…` */
async function fault(words: string[]): Promise<number> {
  const name = words[0] === "--name" ? (words.splice(0, 2)[1] ?? "") : "xen";
  const [what, ...given] = words;
  if (what === "list") {
    for (const [fault, { what, clear }] of Object.entries(FAULTS))
      console.log(`${fault.padEnd(12)} ${clear ? "" : "(once) "}${what}`);
    return 0;
  }
  if (what !== "clear" && (what !== "set" || given.length === 0)) {
    console.error(USAGE);
    return 2;
  }
  const host = running(join(LAB, name));
  if (what === "clear") await clearFaults(host);
  for (const each of given) await setFault(host, each);
  return 0;
}

/** `exec [--name NAME] [--] COMMAND…`: what follows is dom0's, options too. */
async function exec(words: string[]): Promise<number> {
  const name = words[0] === "--name" ? (words.splice(0, 2)[1] ?? "") : "xen";
  if (words[0] === "--") words.shift();
  return ssh(running(join(LAB, name)), [words.join(" ")]);
}

function running(dir: string): XenHost {
  const host = attachXenHost(dir);
  if (!host) throw new Error(`No Xen host runs in ${relative(process.cwd(), dir)}: npm run lab:xen -- start`);
  return host;
}

/** By OpenSSH's client, for its terminal. */
function ssh(host: XenHost, words: string[]): number {
  // The key is that of this host's image; the client wants it in a file of known hosts.
  const known = join(host.dir, "known_hosts");
  writeFileSync(known, `[127.0.0.1]:${host.port} ${host.publicKey()}\n`);
  const options = ["-o", `UserKnownHostsFile=${known}`, "-o", "IdentitiesOnly=yes", "-o", "LogLevel=ERROR"];
  const way = ["-p", String(host.port), "-i", host.identityFile, `${host.user}@127.0.0.1`];
  return spawnSync("ssh", [...options, ...way, ...words], { stdio: "inherit" }).status ?? 1;
}

const address = (host: XenHost) =>
  `${host.name}, dom0 at ssh -p ${host.port} -i ${relative(process.cwd(), host.identityFile)} ${host.user}@127.0.0.1 (${host.hostKey})`;

function writeInventory(): void {
  mkdirSync(LAB, { recursive: true });
  const hosts: Record<string, unknown> = {};
  for (const name of readdirSync(LAB).sort()) {
    const host = existsSync(join(LAB, name)) ? attachXenHost(join(LAB, name)) : null;
    if (!host) continue;
    const { port, user, identityFile, hostKey } = host;
    hosts[name] = { address: "127.0.0.1", port, user, identityFile, hostKey };
  }
  const file = join(LAB, "inventory.yaml");
  writeFileSync(`${file}.new`, `# Written by npm run lab:xen -- start.\n${stringify({ hosts })}`);
  renameSync(`${file}.new`, file);
}

try {
  process.exitCode = await main(process.argv.slice(2));
  process.exit(); // an open line to dom0 would keep us
} catch (error) {
  console.error(error instanceof Error ? error.message : String(error));
  process.exit(1);
}
