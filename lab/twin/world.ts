/**
 * What surrounds a twin's dom0: the hardware, the network, the package repository, what the templates contain, and the
 * faults that a test switches on. It is not part of dom0's file system; inside it is read from /run/twin/world.json.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { PlatformName } from "./platform.ts";

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
  /** The kernel offers a reset that does not work: ENOTTY. */
  resetFails?: boolean;
  /** Of a bridge, the buses behind it, hex. */
  bridge?: { secondary: string; subordinate: string };
  driver?: string | null;
}

/** A profile. What it does not say follows from its kind, see dom0/machine/hardware.py. */
export interface Machine {
  machine: string;
  /** "notebook", "desktop", "mini-pc", "server" */
  kind?: string;
  devices: MachineFunction[];
  /** sbdf of the display that the firmware lights. */
  bootDisplay?: string;
  /** Connectors of displays, by sbdf. */
  outputs?: Record<string, { name: string; connected: boolean }[]>;
  inputs?: InputDevice[];
  /** A notebook has a battery and one backlight unless this says otherwise. */
  power?: { battery?: boolean; backlights?: string[] };
  dmi?: { vendor: string; product: string; bios: string };
  /** False: Xen finds none. */
  iommu?: boolean;
  /** One of QEMU's: a display can be pulled from its driver without harm. */
  emulated?: boolean;
  /** Recorded over a stand-in hypervisor: its initramfs hides nothing, and pulling a display from its driver does no harm. */
  standIn?: boolean;
}

export interface InputDevice {
  name: string;
  kind: "keyboard" | "mouse" | "tablet";
  /** "ps2", or the sbdf of its USB controller. */
  at: string;
}

export interface UsbDevice {
  at: string;
  /** "1-2" */
  port: string;
  vendor: string;
  product: string;
  serial?: string;
  /** Class, subclass and protocol of each, "010100". */
  interfaces: string[];
  vendorName?: string;
  productName?: string;
}

/** Bites when something happens; dom0/machine/faults.py says what `at` may be. */
export interface Trigger {
  at: string;
  do: "hang" | "reset" | "power" | "reboot" | "cut-line" | "kill-agent" | "kill-guard" | "kill-salt";
  /** "before" unless given. */
  when?: "before" | "after";
  /** How many times it happens without harm first. */
  skip?: number;
}

export interface Faults {
  /** Writes to dom0's disk end in ENOSPC. */
  diskFull?: boolean;
  /** qubesctl and salt-call are not installed. */
  saltMissing?: boolean;
  /** The SSH session finds no python3. */
  noPython?: boolean;
  /** No display can be reset. */
  noReset?: boolean;
  /** The host does not wake from sleep. */
  noWake?: boolean;
  /** The kernel of a qube has no driver for its display: for all, or for these sbdf. */
  guestNoDrm?: boolean | string[];
  /** The kernel of a qube has no driver for its sound functions. */
  guestNoSound?: boolean;
  /** Of dnf and apt in a qube ("*": in all): packages that fail, with the words; no way to the mirrors; seconds that it takes; until nobody holds it. */
  packages?: Record<
    string,
    { fail?: Record<string, string>; offline?: boolean; seconds?: number; hold?: boolean }
  >;
  triggers?: Trigger[];
  /** Plain Xen: guests stop before they look at their devices, all or these. */
  guestHangs?: boolean | string[];
  /** Plain Xen: guests whose kernel stands still, which take nothing that xl asks of them. */
  guestDead?: boolean | string[];
  /** Plain Xen: the hypervisor refuses to give these functions (sbdf) to a domain, or all. */
  refuseAssign?: boolean | string[];
  /** Faults of the Qubes model, read by qubesd. */
  [name: string]: unknown;
}

/** What a template's root volume came with; what was changed in it since lies on that volume. */
export interface Template {
  packages: Record<string, string>;
  files?: string[];
  /** Of its packages' units, those that are not as their package enables them: "lightdm.service": "disabled". */
  units?: Record<string, "enabled" | "disabled">;
  /** As the distribution and Qubes ship it; otherwise lightdm waits for its service, as GUI domains need it. */
  bare?: boolean;
}

export interface World {
  /** What dom0 is (platform.ts); "qubes" unless given. */
  platform?: PlatformName;
  machine: Machine;
  /** MiB that Xen sees. */
  memory: number;
  /** MiB that Xen and dom0 keep for themselves. */
  dom0Memory: number;
  iommu: boolean;
  /** Plain Xen: processors that `xl info` tells; 4 unless given. */
  cpus?: number;
  /** Of Qubes: "R4.3". */
  release: string;
  kernel: string;
  /** Kernels of a fresh installation. */
  kernels: string[];
  xen: string;
  /** A kernel line that somebody types in GRUB's editor at each boot, instead of the entry's. */
  typed?: string;
  /** Where /boot lies; GRUB clears a one-shot entry only on a plain partition with a simple file system. */
  bootDisk: { fs: string; on: "partition" | "lvm" | "raid" | "crypt" };
  /** dom0's disk asks for one at each boot. */
  passphrase: boolean;
  /** Somebody sits there and types the passphrase. */
  person: boolean;
  /** The host has xenwatchdogd: with it a hang becomes a reset after watchdogSeconds. */
  watchdog: boolean;
  watchdogSeconds: number;
  /** Virtual seconds that a boot takes; the sandbox takes what it takes. */
  bootSeconds: number;
  /** How long a sleep of the machine lasts; 0.3 unless given. */
  sleepSeconds?: number;
  /** Plain Xen: seconds from the start of a guest until it has told what it sees; 0.3 unless given. */
  guestSeconds?: number;
  /** Plain Xen: how long xl waits for a guest to take what control/shutdown asks for; 60 unless given. */
  acknowledgeSeconds?: number;
  /** What the machine is from its next boot on: a firmware update, or a card in another slot. */
  nextMachine?: Machine;
  /** Seconds by which dom0's wall clock is wrong; CLOCK_BOOTTIME is not. Python and date of a session see it. */
  clockOffset?: number;
  network: boolean;
  /** Somebody is logged in at dom0's desktop: its GUI daemon shows the qubes whose GUI domain it is. */
  dom0Session: boolean;
  /** dom0 packages that can be downloaded → version. */
  repository: Record<string, string>;
  templates: Record<string, Template>;
  /** What dnf and apt find in qubes: os-distribution → package → version. */
  distributions: Record<string, Record<string, string>>;
  /** What is plugged into USB controllers (sbdf), as the qube that has one of these shows it to others. */
  usb?: UsbDevice[];
  /** USB controllers (sbdf) that have a Bluetooth radio behind them. */
  radios?: string[];
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

/** A fixture by name (`lab/twin/<folder>/<name>.json`) or by path; `extends` names one that it adds to. */
export function fixture<T>(folder: "machines" | "installs", name: string): T {
  const own = join(HERE, folder, `${name}.json`);
  if (!existsSync(own) && !existsSync(name)) {
    const names = readdirSync(join(HERE, folder)).map((file) => file.replace(/\.json$/, ""));
    throw new Error(
      `There is no "${name}" in lab/twin/${folder}, and no file of that name; there are ${names.join(", ")}.`,
    );
  }
  const found = JSON.parse(readFileSync(existsSync(own) ? own : name, "utf8")) as T & { extends?: string };
  return found.extends === undefined ? found : { ...fixture<T>(folder, found.extends), ...found };
}

/** world.json has it for the Python side too (dom0/machine/disk.py). */
export function defaultWorld(machine: Machine): World {
  const world = JSON.parse(readFileSync(join(HERE, "world.json"), "utf8")) as Omit<World, "machine">;
  return { ...world, machine, iommu: machine.iommu ?? true };
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
