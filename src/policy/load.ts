/** Policy files → the rules in force, in the order in which Qubes asks them. */
import path from "node:path/posix";
import { type Fault, type Form, parseFile, type Rule } from "./parse.ts";

export const POLICY = "/etc/qubes/policy.d";
/** The files of it that count; what they include lies deeper. */
export const POLICY_FILE = /^\/etc\/qubes\/policy\.d\/[^/]+\.policy$/;
/** Gone with the boot; a file here hides the one of the same name in POLICY. */
export const RUNTIME_POLICY = "/run/qubes/policy.d";
/** Files of Qubes 4.0, which count where `!compat-4.0` stands. */
export const OLD_POLICY = "/etc/qubes-rpc/policy";

/** Text by absolute path: what of a host, or of a plan, speaks about policy. */
export type Files = Readonly<Record<string, string>>;

/** A rule, and where it stands. */
export interface Located extends Rule {
  file: string;
  /** null: written nowhere, it comes with a file of Qubes 4.0. */
  line: number | null;
}

export interface Policy {
  rules: Located[];
  /** Not empty: Qubes loads no policy at all then, and denies every call. */
  faults: Fault[];
}

/** The base name of a policy file: other letters stop every qrexec call. */
export const FILE_NAME = /^[0-9a-z_.-]+\.policy$/;

/** In the order of code points, as Python sorts. */
const byCodePoint = (a: string, b: string) => Buffer.compare(Buffer.from(a), Buffer.from(b));

/** The files of a folder that count, in order. */
function policyFiles(files: Files, folder: string, faults: Fault[]): string[] {
  return Object.keys(files)
    .filter((file) => path.dirname(file) === folder && file.endsWith(".policy"))
    .filter((file) => !path.basename(file).startsWith("."))
    .sort(byCodePoint)
    .filter((file) => {
      if (FILE_NAME.test(path.basename(file))) return true;
      const allowed = `allowed are 0-9, a-z, "_", "." and "-"`;
      faults.push({ file, line: 0, field: "file name", reason: `it stops every qrexec call; ${allowed}` });
      return false;
    });
}

/** The rules of `files`, includes in their places. */
export function loadPolicy(files: Files): Policy {
  const policy: Policy = { rules: [], faults: [] };
  const runtime = policyFiles(files, RUNTIME_POLICY, policy.faults);
  const hidden = new Set(runtime.map((file) => path.basename(file)));
  const rest = policyFiles(files, POLICY, policy.faults).filter((file) => !hidden.has(path.basename(file)));
  const all = [...runtime, ...rest].sort((a, b) => byCodePoint(path.basename(a), path.basename(b)));
  for (const file of all) new Loader(files, path.dirname(file), policy).load(file);
  return policy;
}

interface Call {
  service: string | null;
  argument: string | null;
}

class Loader {
  readonly #files: Files;
  /** What an include's path is relative to: the folder of the file that began, wherever the include stands. */
  readonly #folder: string;
  readonly #policy: Policy;
  #open: string[] = [];

  constructor(files: Files, folder: string, policy: Policy) {
    this.#files = files;
    this.#folder = folder;
    this.#policy = policy;
  }

  /** `call`: what the rules of a file in form "service" are for. */
  load(file: string, call?: Call): void {
    const form: Form = call ? "service" : "policy";
    const { lines, faults } = parseFile(file, this.#files[file] ?? "", form);
    this.#policy.faults.push(...faults);
    this.#open.push(file);
    lines.forEach((line, index) => {
      const at = { file, line: index + 1 };
      if (line.kind === "rule") this.#policy.rules.push({ ...line.rule, ...call, ...at });
      else if (line.kind === "include") this.#include(line.path, at, call);
      else if (line.kind === "include-service") this.#include(line.path, at, line);
      else if (line.kind === "include-dir") this.#includeFolder(line.path, at);
      else if (line.kind === "compat-4.0") this.#compat();
    });
    this.#open.pop();
  }

  #include(name: string, at: { file: string; line: number }, call?: Call): void {
    const file = path.resolve(this.#folder, name);
    const refuse = (reason: string) => this.#policy.faults.push({ ...at, field: "path", reason });
    if (this.#files[file] === undefined) refuse(`there is no file ${file}; it stops every qrexec call`);
    else if (this.#open.includes(file)) refuse(`${file} includes itself; it stops every qrexec call`);
    else this.load(file, call && { service: call.service, argument: call.argument });
  }

  #includeFolder(name: string, at: { file: string; line: number }): void {
    const folder = path.resolve(this.#folder, name);
    if (!Object.keys(this.#files).some((file) => file.startsWith(`${folder}/`)))
      this.#policy.faults.push({
        ...at,
        field: "path",
        reason: `there is no folder ${folder}; it stops every qrexec call`,
      });
    for (const file of policyFiles(this.#files, folder, this.#policy.faults)) {
      if (!this.#open.includes(file)) this.load(file);
      else
        this.#policy.faults.push({
          ...at,
          field: "path",
          reason: `${file} includes itself; it stops every qrexec call`,
        });
    }
  }

  /** Files of Qubes 4.0, a service's with an argument first, each followed by the denial that was understood after it. */
  #compat(): void {
    const old = new Loader(this.#files, OLD_POLICY, this.#policy);
    const calls = Object.keys(this.#files)
      .filter((file) => path.dirname(file) === OLD_POLICY && OLD_NAME.test(path.basename(file)))
      .filter((file) => !/\.(rpmsave|rpmnew|swp)$/.test(file))
      .map((file) => {
        const [service = "", ...rest] = path.basename(file).split("+");
        return { file, service, argument: rest.length ? `+${rest.join("+")}` : null };
      })
      .sort(
        (a, b) =>
          byCodePoint(a.service, b.service) ||
          Number(a.argument === null) - Number(b.argument === null) ||
          byCodePoint(a.argument ?? "", b.argument ?? ""),
      );
    for (const { file, service, argument } of calls) {
      old.load(file, { service, argument });
      if (argument === null) continue;
      const denial = {
        service,
        argument,
        source: "@anyvm",
        action: "deny",
        options: {},
        file,
        line: null,
      } as const;
      this.#policy.rules.push({ ...denial, target: "@anyvm" }, { ...denial, target: "@adminvm" });
    }
  }
}

const OLD_NAME = /^[A-Za-z0-9+_-][A-Za-z0-9+._-]*$/;
