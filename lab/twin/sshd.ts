/** The OpenSSH server that a twin is reached through. It runs outside the sandbox, as the current user, on loopback. */
import { spawn, spawnSync } from "node:child_process";
import {
  chmodSync,
  closeSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:net";
import { userInfo } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { alive, identify, type ProcessId } from "./process.ts";
import { layout, quote } from "./sandbox.ts";

export interface Sshd {
  port: number;
  user: string;
  identityFile: string;
  /** "SHA256:…", as ssh-keygen -l prints it. */
  hostKey: string;
}

/** The sshd of a twin's folder that runs now, null when none does: power.py ends it while dom0 is down. */
export function sshdProcess(dir: string): ProcessId | null {
  const { sshd } = layout(dir);
  if (!existsSync(sshd)) return null;
  const { pid, start } = JSON.parse(readFileSync(sshd, "utf8")) as ProcessId;
  return alive({ pid, start }) ? { pid, start } : null;
}

/** Keys and, where it is still free, the port are those of the twin's first start: a host keeps its identity and address. */
export async function startSshd(dir: string): Promise<Sshd> {
  const program = ["/usr/sbin/sshd", "/usr/local/sbin/sshd", "/usr/bin/sshd"].find(existsSync);
  if (!program)
    throw new Error("The twin needs OpenSSH's server: install it (apt-get install openssh-server).");
  const { ssh, log, enter } = layout(dir);
  mkdirSync(ssh, { recursive: true, mode: 0o700 });
  mkdirSync(log, { recursive: true });
  const hostKeyFile = join(ssh, "host_key");
  const identityFile = join(ssh, "id_ed25519");
  for (const file of [hostKeyFile, identityFile]) if (!existsSync(file)) makeKey(file);
  copyFileSync(`${identityFile}.pub`, join(ssh, "authorized_keys"));
  const user = userInfo();
  if (user.uid === 0) privilegeSeparation();

  const penalties = version(program) >= 9.8;
  const logFile = join(log, "sshd.log");
  const config = join(ssh, "sshd_config");
  const last = existsSync(config) ? Number(/127\.0\.0\.1:(\d+)/.exec(readFileSync(config, "utf8"))?.[1]) : 0;
  for (let attempt = 0; attempt < 5; attempt++) {
    const port = attempt === 0 && last ? last : await freePort();
    writeFileSync(config, configuration({ port, hostKeyFile, ssh, enter, penalties }));
    const before = existsSync(logFile) ? readFileSync(logFile, "utf8").length : 0;
    const out = openSync(logFile, "a");
    const child = spawn(program, ["-D", "-f", config, "-E", logFile], {
      detached: true,
      stdio: ["ignore", out, out],
    });
    closeSync(out);
    child.unref();
    if (child.pid === undefined) throw new Error(`${program} cannot be started`);
    const sshd = identify(child.pid);
    for (;;) {
      const said = readFileSync(logFile, "utf8").slice(before);
      if (said.includes("Server listening on")) {
        const argv = [program, "-D", "-f", config, "-E", logFile];
        const { pid, start } = sshd;
        writeFileSync(layout(dir).sshd, JSON.stringify({ argv, pid, start, log: logFile }));
        return { port, user: user.username, identityFile, hostKey: fingerprint(hostKeyFile) };
      }
      if (!alive(sshd)) {
        if (/Address already in use/.test(said)) break;
        throw new Error(
          `The twin's sshd does not start: ${said.trim().split("\n").at(-1) ?? "no reason given"}`,
        );
      }
      await sleep(5);
    }
  }
  throw new Error("The twin's sshd found no free port on 127.0.0.1.");
}

const configuration = (at: {
  port: number;
  hostKeyFile: string;
  ssh: string;
  enter: string;
  penalties: boolean;
}) => `# Written by lab/twin/sshd.ts
ListenAddress 127.0.0.1:${at.port}
HostKey "${at.hostKeyFile}"
AuthorizedKeysFile "${join(at.ssh, "authorized_keys")}"
PidFile none
LogLevel VERBOSE
AuthenticationMethods publickey
PubkeyAuthentication yes
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UsePAM no
StrictModes no
UseDNS no
${at.penalties ? "PerSourcePenalties no\n" : ""}MaxSessions 10
MaxStartups 200
PermitUserRC no
X11Forwarding no
PrintMotd no
PrintLastLog no
# A bash that is the user's shell reads ~/.bashrc for a session of sshd's, unless it is not the outermost shell.
SetEnv SHLVL=1
ForceCommand exec ${quote(at.enter)}
`;

/** OpenSSH's version, such as 9.2. From 9.8 on a server shuts out addresses whose logins failed; tests do that on purpose. */
function version(program: string): number {
  const { stdout, stderr } = spawnSync(program, ["-V"]);
  return Number(/OpenSSH_(\d+\.\d+)/.exec(`${stdout}${stderr}`)?.[1] ?? 0);
}

function makeKey(file: string): void {
  const { status, stderr, error } = spawnSync("ssh-keygen", [
    "-q",
    "-t",
    "ed25519",
    "-N",
    "",
    "-C",
    "twin",
    "-f",
    file,
  ]);
  if (error)
    throw new Error("The twin needs OpenSSH's ssh-keygen: install it (apt-get install openssh-client).");
  if (status !== 0) throw new Error(`ssh-keygen cannot make ${file}: ${stderr.toString().trim()}`);
  chmodSync(file, 0o600);
}

function fingerprint(file: string): string {
  const { stdout } = spawnSync("ssh-keygen", ["-l", "-E", "sha256", "-f", `${file}.pub`]);
  const found = /SHA256:\S+/.exec(stdout.toString());
  if (!found) throw new Error(`ssh-keygen gives no fingerprint of ${file}.pub`);
  return found[0];
}

/** As root, sshd refuses to start without its empty folder, which a boot or a service script otherwise makes. */
function privilegeSeparation(): void {
  mkdirSync("/run/sshd", { recursive: true, mode: 0o755 });
}

function freePort(): Promise<number> {
  return new Promise((done, fail) => {
    const probe = createServer();
    probe.on("error", fail);
    probe.listen(0, "127.0.0.1", () => {
      const address = probe.address();
      probe.close(() => done(typeof address === "object" && address ? address.port : 0));
    });
  });
}
