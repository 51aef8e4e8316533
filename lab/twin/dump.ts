/** Everything that a twin's dom0 holds, and what differs between two such pictures. */
import type { Twin } from "./twin.ts";

export interface FileEntry {
  /** "gone": a file of the layer below that was removed in a qube. */
  type: "file" | "folder" | "link" | "other" | "gone";
  /** Octal, such as "0644". */
  mode: string;
  /** Of a file. */
  sha256?: string;
  /** Of a link. */
  target?: string;
}

export interface TwinDump {
  /** The Qubes model: qubes, properties, features, tags, assignments, global properties (dom0/bin/twin-dump). */
  qubes: unknown;
  /** dom0's packages → version. */
  packages: Record<string, string>;
  /** Every file, folder and link of the writable file system but those of NOT_LOOKED_AT. */
  files: Record<string, FileEntry>;
  /** Of a plain Xen host: what runs, and which driver has which function (dom0/xen/bin/twin-dump). */
  domains?: unknown;
  drivers?: Record<string, string | null>;
  /** What stays in qubes: qube → volume → path → entry, of what is written above what a template came with. Folders are not looked at. */
  volumes: Record<string, Record<string, Record<string, FileEntry>>>;
}

/**
 * Left out: what the kernel or the laboratory makes (/proc, /sys, /dev, /run/twin), logs, caches, and the stores of what
 * `qubes`, `packages` and `volumes` already hold by meaning.
 */
export const NOT_LOOKED_AT = [
  "/proc",
  "/sys",
  "/dev",
  "/run/twin",
  "/var/log",
  "/var/cache",
  "/var/lib/qubes/qubes.json",
  "/var/lib/qubes/appvms",
  "/var/lib/qubes/vm-templates",
  "/var/lib/rpm/twin.json",
];

export async function dump(twin: Twin): Promise<TwinDump> {
  const { code, stdout, stderr } = await twin.exec(`/usr/lib/twin/host/dump.py ${NOT_LOOKED_AT.join(" ")}`);
  if (code !== 0) throw new Error(`The twin ${twin.name} cannot be dumped: ${stderr.trim()}`);
  return JSON.parse(stdout) as TwinDump;
}

export interface CompareOptions {
  /** Paths in the dump whose differences do not count, each with everything below it: "files./var/tmp", "qubes.qubes.vault.state". */
  ignore?: string[];
}

/** One line a difference: "files./etc/x: mode 0644 → 0600", "qubes.…maxmem: 4000 → 1234". Empty when equal. */
export function compare(before: TwinDump, after: TwinDump, options: CompareOptions = {}): string[] {
  const ignore = options.ignore ?? [];
  const ignored = (path: string) =>
    ignore.some(
      (start) => path === start || (/^[./]/.test(path.slice(start.length)) && path.startsWith(start)),
    );
  return [...differences("", before, after)]
    .filter(({ path }) => !ignored(path))
    .map(({ path, text }) => `${path}: ${text}`);
}

interface Difference {
  path: string;
  text: string;
}

function* differences(path: string, before: unknown, after: unknown): Generator<Difference> {
  if (isObject(before) && isObject(after)) {
    for (const key of [...new Set([...Object.keys(before), ...Object.keys(after)])].sort())
      yield* differences(path ? `${path}.${key}` : key, before[key], after[key]);
  } else if (JSON.stringify(before) !== JSON.stringify(after)) {
    yield {
      path,
      text:
        before === undefined
          ? `new ${show(after)}`
          : after === undefined
            ? `gone ${show(before)}`
            : `${show(before)} → ${show(after)}`,
    };
  }
}

const show = (value: unknown) => JSON.stringify(value).slice(0, 200);

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
