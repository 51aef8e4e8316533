/**
 * What surrounds a twin's dom0: the hardware, the network, the package repository, what the templates contain, and the
 * faults that a test switches on. It is not part of dom0's file system; inside it is read from /run/twin/world.json.
 */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** One PCI function, as a dump of a real machine (lspci -vvnn) shows it; `null` is what the dump does not say. */
export interface MachineFunction {
  /** "0000:00:02.0" */
  sbdf: string;
  /** Hex digits: base class and subclass, where known the programming interface too (or in `interface`). */
  class: string;
  interface?: string;
  vendor: string;
  device: string | null;
  /** "17aa:21fa" */
  subsystem?: string | null;
  rev?: string;
  name?: string;
  vendorName?: string;
  productName?: string;
  /** It can do a function-level reset. */
  flr?: boolean | null;
  /** Its power management resets it (NoSoftRst-). */
  pmReset?: boolean | null;
  /** What the kernel's reset_method says; derived from flr and pmReset where it is not given. */
  reset?: string[];
  /** Of a bridge, the buses behind it, hex. */
  bridge?: { secondary: string; subordinate: string };
  driver?: string | null;
}

export interface Machine {
  machine: string;
  devices: MachineFunction[];
}

export interface Faults {
  /** Writes to dom0's disk end in ENOSPC. */
  diskFull?: boolean;
  /** qubesctl and salt-call are not installed. */
  saltMissing?: boolean;
  /** The SSH session finds no python3. */
  noPython?: boolean;
  /** Faults of the Qubes model, read by qubesd. */
  [name: string]: unknown;
}

export interface Template {
  packages: Record<string, string>;
  files?: string[];
}

export interface World {
  machine: Machine;
  /** MiB that Xen sees. */
  memory: number;
  /** MiB that Xen and dom0 keep for themselves. */
  dom0Memory: number;
  iommu: boolean;
  /** R-number: "R4.3". */
  release: string;
  kernel: string;
  xen: string;
  cmdline: string;
  network: boolean;
  /** Somebody is logged in at dom0's desktop: its GUI daemon shows the qubes whose GUI domain it is. */
  dom0Session: boolean;
  /** dom0 packages that can be downloaded → version. */
  repository: Record<string, string>;
  templates: Record<string, Template>;
  faults: Faults;
}

/** What dom0 is installed with; `qubes` and the rest belong to the Qubes model (lab/twin/dom0/qubesd). */
export interface Install {
  /** dom0's packages → version. */
  packages?: Record<string, string>;
  /** Path → text, or text and octal mode. */
  files?: Record<string, string | { content: string; mode: string }>;
  /** What surrounds such an installation: its templates' content, what can be downloaded. */
  world?: Patch<World>;
  [part: string]: unknown;
}

const HERE = import.meta.dirname;

/** A fixture by name (`lab/twin/<folder>/<name>.json`) or by path. */
export function fixture<T>(folder: "machines" | "installs", name: string): T {
  const own = join(HERE, folder, `${name}.json`);
  return JSON.parse(readFileSync(existsSync(own) ? own : name, "utf8")) as T;
}

export function defaultWorld(machine: Machine): World {
  return {
    machine,
    memory: 16384,
    dom0Memory: 7595,
    iommu: true,
    release: "R4.3",
    kernel: "6.12.59-1.qubes.fc41.x86_64",
    xen: "4.19.4",
    cmdline:
      "placeholder root=/dev/mapper/qubes_dom0-root ro rd.lvm.lv=qubes_dom0/root plymouth.ignore-serial-consoles rhgb quiet",
    network: true,
    dom0Session: false,
    repository: {},
    templates: {},
    faults: {},
  };
}

/** Objects are merged, everything else (lists too) is replaced; `undefined` removes. */
export function patched<T>(value: T, patch: unknown): T {
  if (!isRecord(value) || !isRecord(patch)) return patch as T;
  const result: Record<string, unknown> = { ...value };
  for (const [key, part] of Object.entries(patch)) {
    if (part === undefined) delete result[key];
    else result[key] = patched(result[key], part);
  }
  return result as T;
}

export type Patch<T> = {
  [K in keyof T]?: T[K] extends object ? Patch<T[K]> | T[K] | undefined : T[K] | undefined;
};

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
