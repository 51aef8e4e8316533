/** A Xen host that runs in QEMU: how it is reached, its switch, its screen, its faults. README.md tells what it is made of. */
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { basename, dirname, join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { alive, end, type ProcessId, signal } from "../twin/process.ts";
import type { Image } from "./image.ts";
import { type Picture, readPng, readToken, showsDesktop } from "./png.ts";
import { command, type Machine, startQemu } from "./qemu.ts";
import { Line, type Result } from "./ssh.ts";

export interface Running {
  qemu: ProcessId;
  port: number;
  machine: Machine;
  image: Image;
  detached: boolean;
}

/** up: answers by SSH. off: no power. */
export type HostState = "up" | "off";

const RECORD = "host.json";

export class XenHost {
  readonly dir: string;
  readonly name: string;
  readonly port: number;
  readonly user = "root";
  readonly identityFile: string;
  /** "SHA256:…" */
  readonly hostKey: string;
  readonly machine: Machine;
  #running: Running;
  #line: Line;

  constructor(dir: string, running: Running) {
    this.dir = dir;
    this.name = basename(dir);
    this.port = running.port;
    this.identityFile = running.image.identityFile;
    this.hostKey = running.image.hostKey;
    this.machine = running.machine;
    this.#running = running;
    this.#line = new Line(this);
  }

  /** Runs a command line in dom0 as root. Throws when dom0 does not answer, or has not ended it after `timeout` ms. */
  exec(command: string, options: { timeout?: number; input?: string } = {}): Promise<Result> {
    return this.#line.exec(command, { timeout: 180_000, ...options });
  }

  /** The same; its output, or an error with what it said where its status is not 0. */
  async must(command: string, options: { timeout?: number; input?: string } = {}): Promise<string> {
    const { code, stdout, stderr } = await this.exec(command, options);
    if (code !== 0)
      throw new Error(
        `${command.slice(0, 200)} on ${this.name} ended with ${code}: ${(stderr || stdout).trim()}`,
      );
    return stdout;
  }

  /** QEMU's own words for what it does: "running", "paused"; "off" where it has ended. */
  async power(): Promise<string> {
    if (!alive(this.#running.qemu)) return "off";
    return (await command<{ status: string }>(this.#running.qemu, "query-status")).status;
  }

  /** The id of the present boot, null when nothing answers within `timeout` ms. */
  async bootId(timeout = 60_000): Promise<string | null> {
    if (!alive(this.#running.qemu)) return null;
    const { stdout } = await this.exec("cat /proc/sys/kernel/random/boot_id", { timeout }).catch(() => {
      this.#line.close();
      return { stdout: "" };
    });
    return stdout.trim() || null;
  }

  /** Resolves with the boot id when the host is up, in another boot than `after`; or with null when it is off. Throws after `timeout` ms. */
  async until(
    state: HostState,
    { after, timeout = 600_000 }: { after?: string | undefined; timeout?: number } = {},
  ): Promise<string | null> {
    const limit = Date.now() + timeout;
    for (; Date.now() < limit; await sleep(1000)) {
      const off = !alive(this.#running.qemu);
      if (off && state === "off") return null;
      if (off) throw new Error(`${this.name} is off: its QEMU has ended (${join(this.dir, "qemu.log")}).`);
      if (state === "off") continue;
      const id = await this.bootId(60_000); // of a busy machine the first handshake alone takes half a minute
      if (id !== null && id !== after) return id;
    }
    const last = this.console().trimEnd().split("\n").slice(-3).join(" | ");
    throw new Error(
      `${this.name} was not ${state} within ${timeout / 1000} s; its console ended with: ${last}`,
    );
  }

  /** What Xen, dom0's kernel and GRUB wrote to the serial line since QEMU was started. */
  console(): string {
    const file = join(this.dir, "console.log");
    return existsSync(file) ? readFileSync(file, "utf8").replaceAll("\r", "") : "";
  }

  /** Resolves when the serial line has shown that, from character `from` on. */
  async untilConsole(pattern: RegExp, { from = 0, timeout = 600_000 } = {}): Promise<string> {
    for (const limit = Date.now() + timeout; Date.now() < limit; await sleep(1000)) {
      const found = pattern.exec(this.console().slice(from))?.[0];
      if (found !== undefined) return found;
      if (!alive(this.#running.qemu)) throw new Error(`${this.name} is off: its QEMU has ended.`);
    }
    throw new Error(`The console of ${this.name} did not show ${pattern} within ${timeout / 1000} s.`);
  }

  /** What the machine's screen shows, from outside; also as a PNG file where one is named. */
  async screenshot(file?: string): Promise<Picture> {
    const path = resolve(file ?? join(this.dir, "screen.png"));
    await this.command("screendump", { filename: path, format: "png", device: "screen", head: 0 });
    return readPng(readFileSync(path));
  }

  /** Resolves when the machine's screen shows dom0's own session, as after each boot. Throws after `timeout` ms. */
  async untilDesktop(timeout = 600_000): Promise<void> {
    for (const limit = Date.now() + timeout; Date.now() < limit; await sleep(1000))
      if (showsDesktop(await this.screenshot())) return;
    throw new Error(`The screen of ${this.name} did not show dom0's session within ${timeout / 1000} s.`);
  }

  /** The token that the machine's screen shows: that one as soon as it does, after `timeout` ms whatever it is. */
  async untilToken(token: string, timeout = 600_000): Promise<string | null> {
    for (const limit = Date.now() + timeout; ; await sleep(2000)) {
      const shown = readToken(await this.screenshot());
      if (shown === token || Date.now() > limit) return shown;
    }
  }

  /** A command of QEMU's machine protocol. */
  command<T = unknown>(name: string, args?: Record<string, unknown>): Promise<T> {
    return command<T>(this.#running.qemu, name, args);
  }

  /** Off and on by hand: what dom0 had not written is lost. The boot is under way when this resolves. */
  async powerCycle(): Promise<void> {
    this.#line.close();
    if (!alive(this.#running.qemu)) return this.powerOn();
    await this.command("system_reset");
    await this.command("cont"); // of a machine that hung
  }

  /** Takes the power away, as a cable that is pulled. */
  async powerOff(): Promise<void> {
    this.#line.close();
    await end([this.#running.qemu], 0);
  }

  /** Starts the machine that is off, with its disk as it was. */
  async powerOn(): Promise<void> {
    if (alive(this.#running.qemu)) return;
    const { machine, port, detached } = this.#running;
    const qemu = await startQemu({ machine, dir: this.dir, port, detached });
    this.#running = { ...this.#running, qemu };
    this.record();
  }

  /** Ends QEMU, and only that. The disk stays. */
  async stop(): Promise<void> {
    await this.powerOff();
    rmSync(join(this.dir, RECORD), { force: true });
  }

  /** The same without waiting. */
  kill(): void {
    signal(this.#running.qemu, "SIGKILL");
  }

  /** dom0's host key as a line of known_hosts has it: type and key. */
  publicKey(): string {
    const text = readFileSync(join(dirname(this.identityFile), "host_key.pub"), "utf8");
    return text.split(" ").slice(0, 2).join(" ");
  }

  /** Writes down how the host is found again by another process. */
  record(): void {
    writeFileSync(join(this.dir, RECORD), JSON.stringify(this.#running, null, 1));
  }
}

/** The host of a folder, running or off; null where none was started or it was stopped. */
export function attachXenHost(dir: string): XenHost | null {
  const file = join(resolve(dir), RECORD);
  return existsSync(file)
    ? new XenHost(resolve(dir), JSON.parse(readFileSync(file, "utf8")) as Running)
    : null;
}

/** Writes the disk of a host anew, as one that differs from `base` in what the host will write. */
export function layDisk(dir: string, base: string, format: "raw" | "qcow2"): void {
  const disk = join(dir, "disk.qcow2");
  rmSync(disk, { force: true });
  const made = spawnSync("qemu-img", ["create", "-q", "-f", "qcow2", "-b", base, "-F", format, disk], {
    encoding: "utf8",
  });
  if (made.status !== 0)
    throw new Error(`qemu-img cannot make ${disk}: ${made.stderr?.trim() ?? made.error}`);
}

/** Starts QEMU for a folder that has its disk. */
export async function startMachine(
  dir: string,
  image: Image,
  machine: Machine,
  { detached, state }: { detached: boolean; state?: string },
): Promise<XenHost> {
  const port = await freePort();
  const qemu = await startQemu({ machine, dir, port, detached, ...(state && { state }) });
  const host = new XenHost(dir, { qemu, port, machine, image, detached });
  host.record();
  return host;
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
