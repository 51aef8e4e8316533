/**
 * `npm run view -- HOST [--stack NAME] [--qube QUBE] [--port PORT] [--cwd FOLDER]`: leads a port of this machine's loopback interface to the remote screen of
 * a GUI domain, over the SSH of its host, and says what to type into a viewer. Until Ctrl-C; exit status 0 then, 1 where it cannot be, 2
 * for a wrong command. `--cwd`: the folder of a Pulumi project of one's own, instead of this one.
 */
import { parseArgs } from "node:util";
import { configuredHosts } from "../src/host/configured.ts";
import { clean, HostError } from "../src/host/errors.ts";
import { connectSsh, type SshLine } from "../src/host/ssh.ts";
import { Tunnel, type Way, wayToHost, wayToQube } from "../src/host/tunnel.ts";
import { isRemote, PORTS, RDP_SERVICE, type RemoteMode } from "../src/model/modes.ts";
import { guiDomainNameFault } from "../src/model/names.ts";
import { GREETS, HELLO, viewingText } from "../src/report/viewing.ts";
import { ROOT, selectStack } from "./stack.ts";

const USAGE = "Usage: npm run view -- HOST [--stack NAME] [--qube QUBE] [--port PORT] [--cwd FOLDER]\n";

/** Something that ends it, with what to do next. */
class Stop extends Error {
  readonly next: string;
  constructor(message: string, next: string) {
    super(message);
    this.next = next;
  }
}

function parse() {
  try {
    const { values, positionals } = parseArgs({
      allowPositionals: true,
      options: {
        stack: { type: "string", short: "s", default: "lab" },
        qube: { type: "string", short: "q" },
        port: { type: "string", short: "p" },
        cwd: { type: "string", short: "C", default: ROOT },
      },
    });
    const [host, ...rest] = positionals;
    const port = values.port === undefined ? undefined : Number(values.port);
    const isPort = port === undefined || (Number.isInteger(port) && port > 0 && port < 65536);
    if (host && rest.length === 0 && isPort && /^[\w.-]+$/.test(values.stack))
      return { host, stack: values.stack, qube: values.qube, port, folder: values.cwd };
  } catch {
    // An option that there is not.
  }
  process.stderr.write(USAGE);
  process.exit(2);
}

interface Known {
  qube: string;
  mode: unknown;
}

/** How the stack reaches its hosts, and the GUI domains that its state knows of `host`. */
async function ask(stackName: string, folder: string, host: string) {
  process.chdir(folder); // where an inventory's path starts
  const stack = await selectStack(stackName, folder);
  if (!stack)
    throw new Stop(
      `there is no stack "${stackName}"`,
      'Name another one with --stack; "npx pulumi stack ls" lists them.',
    );
  const config = await stack.getAllConfig();
  const { hosts, sources } = await configuredHosts({
    hosts: config["guidomain:hosts"]?.value,
    inventory: config["guidomain:inventory"]?.value,
  });
  const connection = hosts.get(host);
  if (!connection)
    throw new Stop(
      `${sources.join(" and ") || `the configuration of stack ${stackName}`} has no host "${host}"${hosts.size ? `; it has ${[...hosts.keys()].join(", ")}` : ""}`,
      "Name one of these, or another stack with --stack.",
    );
  const { deployment } = await stack.exportStack();
  const resources = (
    deployment as { resources?: { type: string; outputs?: Record<string, unknown> }[] } | null
  )?.resources;
  const known = (resources ?? [])
    .filter(({ type, outputs }) => type === "guidomain:index:GuiDomain" && outputs?.["host"] === host)
    .map(({ outputs }): Known => ({ qube: String(outputs?.["qube"]), mode: outputs?.["mode"] }));
  return { connection, known };
}

/** The one that is meant where none is named. */
function choose(host: string, stack: string, known: Known[]): string {
  const remote = known.filter(({ mode }) => isRemote(String(mode)));
  const [only, ...others] = remote;
  if (only && others.length === 0) return only.qube;
  throw only
    ? new Stop(
        `host ${host} has several remote screens: ${remote.map(({ qube }) => qube).join(", ")}`,
        "Say which with --qube.",
      )
    : new Stop(
        known.length
          ? `no GUI domain of host ${host} has a remote screen: ${known.map(({ qube, mode }) => `${qube} is in mode ${mode}`).join(", ")}`
          : `stack ${stack} has no GUI domain on host ${host} yet`,
        'A remote screen comes with display: ["vnc"] or ["rdp"] and "npm run up"; --qube names one that another stack made.',
      );
}

interface Screen {
  protocol: RemoteMode;
  way: Way;
  /** A command there that says what listens. */
  listeners: string;
}

/** What the host says of the qube or, on plain Xen, the domain: whether it is there, and runs, and its screen. Nothing is started. */
async function screenOf(line: SshLine, qube: string): Promise<Screen> {
  const host = line.host.name;
  const feature = (name: string) => `$(qvm-features ${qube} service.${name} 2>/dev/null)`;
  const question = [
    // Plain Xen: what its configuration says of its framebuffer.
    `command -v qvm-check >/dev/null || { test -e /etc/xen/${qube}.cfg || { echo missing; exit; }; xl domid ${qube} >/dev/null 2>&1 || { echo off; exit; }; echo "xen [$(grep -Eo 'vncdisplay *= *"?[0-9]+' /etc/xen/${qube}.cfg | grep -Eo '[0-9]+' | head -n 1)]"; exit; }`,
    `qvm-check -q -- ${qube} >/dev/null 2>&1 || { echo missing; exit; }`,
    `qvm-check -q --running -- ${qube} >/dev/null 2>&1 || { echo off; exit; }`,
    `echo "up [${feature("guivm-vnc")}] [${feature(RDP_SERVICE)}] [$(qvm-prefs ${qube} netvm 2>/dev/null)]"`,
  ].join("; ");
  const channel = await line.exec(question);
  let said = "";
  let stderr = "";
  channel.stderr.on("data", (bytes: Buffer) => {
    stderr += String(bytes);
  });
  for await (const bytes of channel) said += String(bytes);
  const display = /^xen \[(\d*)\]$/.exec(said.trim())?.[1];
  if (display !== undefined) {
    if (display === "")
      throw new Stop(
        `${qube} on host ${host} shows its framebuffer nowhere: /etc/xen/${qube}.cfg names no vncdisplay`,
        'Give it display: ["vnc"] and run "npm run up".',
      );
    return { protocol: "vnc", way: wayToHost(PORTS.vnc + Number(display)), listeners: "ss -ltnp" };
  }
  const [, state, vnc, rdp, netvm] =
    /^(missing|off|up) ?(?:\[(.*)\] \[(.*)\] \[(.*)\])?$/.exec(said.trim()) ?? [];
  if (state === "missing")
    throw new Stop(`host ${host} has no qube "${qube}"`, "Name another one with --qube.");
  if (state === "off")
    throw new Stop(
      `${qube} on host ${host} does not run, and looking at a screen starts nothing`,
      `Start it there (qvm-start ${qube}, xl create /etc/xen/${qube}.cfg), or run "npm run up".`,
    );
  if (state !== "up")
    throw new Stop(
      `host ${host} does not answer as dom0 of Qubes or of Xen: ${clean(said + stderr, 200) || "it says nothing"}`,
      `Check that the user ${line.host.user} may use qvm-check and qvm-run there.`,
    );
  if (netvm && netvm !== "None")
    process.stderr.write(
      `Warning: ${qube} has a network (netvm ${netvm}), so others may reach its screen too. "npm run up" takes it away.\n`,
    );
  if (!vnc)
    throw new Stop(
      `${qube} on host ${host} is in no remote mode: it has no service guivm-vnc`,
      'Give it display: ["vnc"] or ["rdp"] and run "npm run up".',
    );
  const protocol = rdp ? "rdp" : "vnc";
  return {
    protocol,
    way: wayToQube(qube, PORTS[protocol]),
    listeners: `qvm-run -p ${qube} 'ss -ltnp'`,
  };
}

async function main(): Promise<void> {
  const { host, stack, port, folder, ...asked } = parse();
  const { connection, known } = await ask(stack, folder, host);
  const qube = asked.qube ?? choose(host, stack, known);
  const fault = guiDomainNameFault(qube);
  if (fault) throw new Stop(`--qube: ${fault}`, "Name a GUI domain.");
  const line = await connectSsh(connection);
  try {
    const { protocol, way, listeners } = await screenOf(line, qube);
    const tunnel = new Tunnel(line, way, (text) => process.stderr.write(`${text}\n`));
    const said = await tunnel.greet(HELLO[protocol], 15);
    if (!GREETS[protocol](said))
      throw new Stop(
        `${way.where} on host ${host} is no ${protocol.toUpperCase()} server: it says ${JSON.stringify(said.toString("latin1").slice(0, 40))}`,
        `See what listens there: ${listeners}.`,
      );
    const here = await tunnel.listen(port ?? PORTS[protocol]).catch((error: NodeJS.ErrnoException) => {
      const why = error.code === "EADDRINUSE" ? "is taken on this machine" : `cannot be had (${error.code})`;
      throw new Stop(`port ${port ?? PORTS[protocol]} ${why}`, "Give another one with --port.");
    });
    process.stdout.write(`${viewingText({ host, qube, protocol }, here)}\n`);
    await new Promise<void>((resolve, reject) => {
      for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.once(signal, () => resolve());
      line.onEnd(reject);
    }).finally(() => tunnel.close());
  } finally {
    line.close();
  }
}

try {
  await main();
} catch (error) {
  const next = error instanceof Stop || error instanceof HostError ? error.next : "";
  process.stderr.write(`Error: ${(error as Error).message}.${next ? ` ${next}` : ""}\n`);
  process.exitCode = 1;
}
