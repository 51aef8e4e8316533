/** What a qube is to hold inside: of a template for good, of a GUI domain from each of its starts on. Pure. */
import { createHash } from "node:crypto";

export interface InsideFile {
  text: string;
  /** Octal, such as "0644". Every file is root's. */
  mode: string;
}

/** The inside of a template. */
export interface Inside {
  /** Names as the distribution's package manager has them. */
  packages: string[];
  /** Absolute path → file. */
  files: Record<string, InsideFile>;
  /** Unit → whether it starts with the qubes that are made from it. */
  units: Record<string, "enabled" | "disabled">;
}

/**
 * What a GUI domain puts in place at each of its starts, by a script that runs as root (its root file system is that of its template
 * again each time). In this order: files, `before`, secrets, units, commands.
 */
export interface QubeInside {
  /** Absolute path → file. */
  files: Record<string, InsideFile>;
  /** Shell commands before all that lets anybody in. */
  before?: string[];
  /** Units to start (or start anew), after systemd has read the files. */
  start: string[];
  /**
   * Secrets that it fetches from dom0 (service guidomain.Secret), by name: a shell command that gets the value on its stdin, without a
   * line's end. It runs again when the secret changes. The value must not become an argument of a program, nor lie on a disk.
   */
  secrets: Record<string, string>;
  /** Shell commands, last; one that fails makes the start of this inside fail. */
  commands: string[];
}

export const file = (text: string, mode = "0644"): InsideFile => ({ text, mode });

/** All parts as one inside; each list sorted and without repetitions. Two parts that disagree about one thing are a fault of ours. */
export function together(...parts: Partial<Inside>[]): Inside {
  return {
    packages: [...new Set(parts.flatMap((part) => part.packages ?? []))].sort(),
    files: merged(parts.map((part) => part.files ?? {})),
    units: merged(parts.map((part) => part.units ?? {})),
  };
}

/** The same of GUI domains; what happens in an order stays in the order of the parts. */
export function qubeTogether(...parts: Partial<QubeInside>[]): QubeInside {
  return {
    files: merged(parts.map((part) => part.files ?? {})),
    before: [...new Set(parts.flatMap((part) => part.before ?? []))],
    start: [...new Set(parts.flatMap((part) => part.start ?? []))],
    secrets: merged(parts.map((part) => part.secrets ?? {})),
    commands: [...new Set(parts.flatMap((part) => part.commands ?? []))],
  };
}

function merged<T>(maps: Record<string, T>[]): Record<string, T> {
  const all = new Map<string, T>();
  for (const [name, value] of maps.flatMap((map) => Object.entries(map))) {
    const other = all.get(name);
    if (other !== undefined && JSON.stringify(other) !== JSON.stringify(value))
      throw new Error(`two parts of an inside disagree about ${name}`);
    all.set(name, value);
  }
  return Object.fromEntries([...all].sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** A name for what these parts say: 16 hex digits of a SHA-256. Equal parts have equal names, whatever their order in a map was. */
export function digestOf(...parts: unknown[]): string {
  const hash = createHash("sha256");
  for (const part of parts) {
    const text = JSON.stringify(part);
    hash.update(`${text.length} ${text}`);
  }
  return hash.digest("hex").slice(0, 16);
}
