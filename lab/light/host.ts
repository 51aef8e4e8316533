/** A light host (light.py) as a test sees it: what it does to the machine, and the SSH sessions that the product opens. */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PassThrough, Readable } from "node:stream";
import { fileURLToPath } from "node:url";
import type { ClientChannel } from "ssh2";
import { HostError, ignore } from "../../src/host/errors.ts";
import type { SshLine } from "../../src/host/ssh.ts";
import type { Screen as TwinScreen } from "../twin/twin.ts";

const PYTHON = fileURLToPath(new URL("../../.venv/bin/python", import.meta.url));
const PROGRAM = fileURLToPath(new URL("light.py", import.meta.url));

/** What a person in front of the machine sees. */
export interface Screen extends TwinScreen {
  state: "off" | "running" | "stopped" | "hung";
  /** How the last boot ended: "running", "waiting" (for a passphrase), "stopped". */
  stopped: string | null;
  entry: string;
}

export interface Settled extends Screen {
  /** Nothing more happens by itself. */
  settled: boolean;
  /** The fault that was armed has struck. */
  struck: boolean;
  /** Virtual seconds from the fault until the screen was usable for good. */
  seconds: number;
  boots: number;
}

/** What the host is, by keys (state.py). */
export interface State {
  keys: Record<string, unknown>;
  ours: string[];
  policy: string | null;
  ledger: Record<string, unknown>;
}

export interface Fault {
  /** [step, or "before request apply"; nth time] */
  at: [string, number];
  do: string;
}

/** kind ("step" or "message"), name, nth time, whose process ("agent", "guard", "boot" or null). */
export type Passed = [string, string, number, string | null];

/** A disk with a world; opaque. */
export type Golden = object;
export type World = Record<string, unknown>;

export interface HostEvents {
  onStruck?: (fault: string) => void;
  onSecond?: () => void;
  onControllerDies?: () => void;
}

export class LightHost {
  readonly folder: string;
  events: HostEvents = {};
  /** What the laboratory does not know and was asked; a case with one proves nothing. */
  readonly unknown: string[] = [];
  stderr = "";
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, { resolve: (value: never) => void; reject: (error: Error) => void }>();
  #lastId = 0;
  #ended = false;
  #buffer = "";
  #controllers = 0;

  constructor() {
    this.folder = mkdtempSync(join(tmpdir(), "light-"));
    this.#child = spawn(PYTHON, ["-B", PROGRAM, this.folder], { stdio: ["pipe", "pipe", "pipe"] });
    this.#child.stdout?.on("data", (chunk: Buffer) => this.#read(chunk.toString("utf8")));
    this.#child.stderr?.on("data", (chunk: Buffer) => {
      this.stderr = (this.stderr + chunk.toString("utf8")).slice(-100_000);
    });
    this.#child.stdin?.on("error", ignore); // its end is told by "close"
    this.#child.on("close", () => {
      this.#ended = true;
      for (const { reject } of this.#waiting.values())
        reject(new Error(`the light host ended: ${this.stderr}`));
      this.#waiting.clear();
    });
  }

  install = (machine: string, world: World = {}, controls: string[] = []): Promise<Screen> =>
    this.#ask("install", { machine, world, controls });
  /** Gives the host a golden state under a name. */
  keep = (name: string, golden: Golden): Promise<null> => this.#ask("keep", { name, golden });
  /** The same machine again, booted from that disk. */
  restore = (name: string, world: World = {}, controls: string[] = []): Promise<Screen> =>
    this.#ask("restore", { name, world, controls });
  save = (): Promise<Golden> => this.#ask("save");
  power = (how: "on" | "cycle" | "off" | "reboot" | "reset" | "hang" | "passphrase"): Promise<Screen> =>
    this.#ask("power", { how });
  screen = (): Promise<Screen> => this.#ask("screen");
  state = (): Promise<State> => this.#ask("state");
  arm = (fault: Fault | null): Promise<null> => this.#ask("arm", { fault });
  /** From now on seconds without a screen count. */
  strike = (): Promise<null> => this.#ask("struck_now");
  world = (patch: World): Promise<null> => this.#ask("world", { patch });
  happens = (name: string): Promise<null> => this.#ask("event_now", { name });
  /** Time passes until nothing more happens. Lines must be closed. */
  settle = (): Promise<Settled> => this.#ask("settle");
  /** A person takes away what was wrong with the machine, a full disk too. */
  mend = (): Promise<null> => this.#ask("mend");
  /** What may be wrong all along, by name. */
  named = (): Promise<Record<string, World>> => this.#ask("named");
  trace = (): Promise<Passed[]> => this.#ask("trace");
  steps = (): Promise<Record<string, string[]>> => this.#ask("steps");
  shell = (argv: string[]): Promise<[number, string, string]> => this.#ask("shell", { argv });

  controller(): Controller {
    return new Controller(this, ++this.#controllers);
  }

  close(): void {
    this.#child.stdin?.end();
    this.#child.kill();
    rmSync(this.folder, { recursive: true, force: true });
  }

  #ask<T>(what: string, args: object = {}): Promise<T> {
    const id = ++this.#lastId;
    if (this.#ended) return Promise.reject(new Error(`the light host has ended: ${this.stderr}`));
    return new Promise<T>((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#child.stdin?.write(`${JSON.stringify({ id, do: what, ...args })}\n`);
    });
  }

  #read(text: string): void {
    this.#buffer += text;
    for (let end = this.#buffer.indexOf("\n"); end >= 0; end = this.#buffer.indexOf("\n")) {
      const message = JSON.parse(this.#buffer.slice(0, end));
      this.#buffer = this.#buffer.slice(end + 1);
      if (message.event === "struck") this.events.onStruck?.(message.do);
      else if (message.event === "second") this.events.onSecond?.();
      else if (message.event === "controller-dies") this.events.onControllerDies?.();
      else if (message.event === "unknown") this.unknown.push(message.text);
      else {
        const waiting = this.#waiting.get(message.id) ?? [...this.#waiting.values()][0];
        this.#waiting.delete(message.id);
        if (message.error) waiting?.reject(new Error(`${message.error}\n${this.stderr}`));
        else waiting?.resolve(message.ok as never);
      }
    }
  }
}

/** One controller: the lines that it opens, all of which end when it dies. */
export class Controller {
  readonly #host: LightHost;
  readonly #id: number;
  readonly #lines = new Set<Line>();
  dead = false;

  constructor(host: LightHost, id: number) {
    this.#host = host;
    this.#id = id;
  }

  /** As connectSsh: the host must answer. */
  async connect(): Promise<SshLine> {
    const line = new Line(join(this.#host.folder, "ssh"), this.#id);
    this.#lines.add(line);
    return line as unknown as SshLine;
  }

  die(): void {
    this.dead = true;
    for (const line of this.#lines) line.drop();
  }
}

/** The part of SshLine that the product uses. Connection and session are one here: a line carries one command. */
class Line {
  readonly host = { name: "light", address: "light", port: 22, user: "root" };
  readonly #path: string;
  readonly #controller: number;
  readonly #listeners: ((error: HostError) => void)[] = [];
  #socket: Socket | null = null;
  ended: HostError | null = null;

  constructor(path: string, controller: number) {
    this.#path = path;
    this.#controller = controller;
  }

  onEnd(listener: (error: HostError) => void): void {
    if (this.ended) listener(this.ended);
    else this.#listeners.push(listener);
  }

  exec(command: string): Promise<ClientChannel> {
    return new Promise((resolve, reject) => {
      const socket = connect(this.#path);
      this.#socket = socket;
      socket.write(`${JSON.stringify({ controller: this.#controller, exec: command })}\n`);
      const channel = new Channel(socket);
      let answered = false;
      let exited = false;
      let buffer: Buffer = Buffer.alloc(0);
      socket.on("error", ignore);
      socket.on("data", (chunk: Buffer) => {
        buffer = buffer.length ? Buffer.concat([buffer, chunk]) : chunk;
        let start = 0;
        for (let end = buffer.indexOf(10); end >= 0; end = buffer.indexOf(10, start)) {
          const line = buffer.subarray(start, end + 1);
          start = end + 1;
          if (!answered) {
            answered = true;
            const { refused, final } = JSON.parse(line.toString("utf8"));
            // "config" ends all further attempts: a host that will not come back by itself need not be waited for.
            if (refused === undefined) resolve(channel as unknown as ClientChannel);
            else reject(this.#end(final ? "config" : "unreachable", `light: no connection: ${refused}`));
          } else if (line[0] === 0) {
            const { code, signal } = JSON.parse(line.subarray(1).toString("utf8"));
            exited = true;
            channel.emit("exit", code ?? null, signal === undefined ? undefined : `SIG${signal}`);
          } else channel.push(Buffer.from(line));
        }
        buffer = buffer.subarray(start);
      });
      socket.on("close", () => {
        if (!answered) reject(this.#end("unreachable", "light: the connection was closed"));
        else if (!exited) this.#end("lost", "light: the line is lost: the host closed it");
        channel.push(null);
      });
    });
  }

  close(): void {
    this.#end("cancelled", "light: the line was closed");
    this.#socket?.destroy();
  }

  /** As if the controller's machine were gone: nobody is told. */
  drop(): void {
    this.#socket?.destroy();
  }

  #end(kind: HostError["kind"], message: string): HostError {
    this.ended ??= new HostError(kind, "light", message, "Run it again.");
    for (const listener of this.#listeners.splice(0)) listener(this.ended);
    return this.ended;
  }
}

/** A ClientChannel as src/host/agent.ts uses it: its data waits until somebody listens, its "close" comes after the last of them. */
class Channel extends Readable {
  readonly stderr = new PassThrough();
  readonly #socket: Socket;

  constructor(socket: Socket) {
    super();
    this.#socket = socket;
  }

  override _read(): void {}

  write(data: string): boolean {
    if (!this.#socket.destroyed) this.#socket.write(data);
    return true;
  }

  end(): void {
    this.#socket.end();
  }

  close(): void {
    this.#socket.end();
  }
}
