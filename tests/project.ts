/** A project on disk, worked on by the `pulumi` command as a person does it: processes that can be interrupted and looked at. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import path from "node:path";
import { identify, type ProcessId, tree } from "../lab/twin/process.ts";
import { pulumiRoot } from "../scripts/pulumi.ts";
import { ROOT } from "./harness.ts";

const CLI = path.join(pulumiRoot(), "bin", "pulumi");

/** One run of the command. */
export class Run {
  readonly child: ChildProcess;
  /** Exit status, when all its output has been read. */
  readonly ended: Promise<number | null>;
  /** Standard output and error. */
  output = "";
  readonly #exit: Promise<unknown>;

  constructor(child: ChildProcess) {
    this.child = child;
    this.#exit = once(child, "exit");
    this.ended = once(child, "close").then(([code]) => code as number | null);
    for (const stream of [child.stdout, child.stderr])
      stream?.setEncoding("utf8").on("data", (text: string) => {
        this.output += text;
      });
  }

  get pid(): number {
    if (this.child.pid === undefined) throw new Error("it was not started");
    return this.child.pid;
  }

  /** The command, the program, the provider and whatever else it started. */
  processes(): ProcessId[] {
    return tree(identify(this.pid));
  }

  /** What Ctrl-C on a terminal does; the seconds until the command has ended. */
  async interrupt(): Promise<number> {
    const pressed = performance.now();
    process.kill(-this.pid, "SIGINT");
    await this.#exit;
    return (performance.now() - pressed) / 1000;
  }
}

export interface Deployment {
  resources?: { urn: string; outputs?: Record<string, unknown>; initErrors?: string[] }[];
  pending_operations?: { type: string; resource: { urn: string } }[];
}

export class Project {
  readonly folder: string;
  readonly environment: NodeJS.ProcessEnv;

  /** `body` is the program below its imports; `config` is what `new Config()` holds there. */
  constructor(folder: string, body: string, environment: NodeJS.ProcessEnv = {}) {
    this.folder = folder;
    mkdirSync(path.join(folder, "state"), { recursive: true });
    this.environment = {
      ...process.env,
      PATH: [
        path.join(pulumiRoot(), "bin"),
        path.join(ROOT, "node_modules", ".bin"),
        process.env["PATH"],
      ].join(path.delimiter),
      PULUMI_BACKEND_URL: `file://${path.join(folder, "state")}`,
      PULUMI_CONFIG_PASSPHRASE: "test",
      PULUMI_SKIP_UPDATE_CHECK: "true",
      ...environment,
    };
    symlinkSync(path.join(ROOT, "node_modules"), path.join(folder, "node_modules"));
    this.#write("package.json", JSON.stringify({ type: "module" }));
    this.#write(
      "Pulumi.yaml",
      `name: site
runtime: { name: nodejs, options: { typescript: false } }
main: index.ts
plugins: { providers: [{ name: guidomain, path: ${JSON.stringify(path.join(ROOT, "provider"))} }] }
`,
    );
    this.#write(
      "index.ts",
      `import { Config, secret } from "@pulumi/pulumi";
import { GuiDomain, Host } from ${JSON.stringify(path.join(ROOT, "src/resources/index.ts"))};
const config = new Config();
${body}
`,
    );
  }

  #write(name: string, text: string): void {
    writeFileSync(path.join(this.folder, name), text);
  }

  /** Starts the command in a process group of its own, which stands for the terminal's. */
  start(...args: string[]): Run {
    const child = spawn(CLI, ["--non-interactive", "--color", "never", ...args], {
      cwd: this.folder,
      env: this.environment,
      detached: true,
      stdio: ["pipe", "pipe", "pipe"],
    });
    child.stdin.on("error", () => {}); // it has ended without reading
    if (!args.includes("set")) child.stdin.end();
    return new Run(child);
  }

  /** Sets a configuration value past the command line, where everybody could read it. */
  async configure(key: string, value: string, ...flags: string[]): Promise<void> {
    const run = this.start("config", "set", key, ...flags);
    run.child.stdin?.end(value);
    if ((await run.ended) !== 0) throw new Error(run.output);
  }

  /** Runs it to its end, which must be a good one; what it printed. */
  async run(...args: string[]): Promise<string> {
    const run = this.start(...args);
    const status = await run.ended;
    if (status !== 0) throw new Error(`pulumi ${args.join(" ")} ended with ${status}:\n${run.output}`);
    return run.output;
  }

  /** Runs it to its end, which must be a bad one; what it printed. */
  async fails(...args: string[]): Promise<string> {
    const run = this.start(...args);
    if ((await run.ended) === 0) throw new Error(`pulumi ${args.join(" ")} went through:\n${run.output}`);
    return run.output;
  }

  up = (...args: string[]) => this.start("up", "--yes", "--skip-preview", ...args);

  async deployment(): Promise<Deployment> {
    return (JSON.parse(await this.run("stack", "export")) as { deployment: Deployment }).deployment;
  }
}
