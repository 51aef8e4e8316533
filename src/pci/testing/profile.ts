/** Facts of the machines in tests/fixtures/hardware (see the README there), as the agent would read them off. */
import { readdirSync, readFileSync } from "node:fs";
import type { Facts, PciFunction, QubeSnapshot, Snapshot } from "../../host/protocol.ts";
import { pathAddress, pciTree } from "../tree.ts";

export interface Profile {
  machine: string;
  /** denied: the dump was made without rights, so what capabilities would tell is null. */
  capabilities: "full" | "denied";
  devices: {
    sbdf: string;
    class: string;
    vendor: string;
    device: string | null;
    subsystem: string | null;
    name: string;
    flr: boolean | null;
    pmReset: boolean | null;
    rom: string | null;
    bridge?: { secondary: string; subordinate: string };
    driver: string | null;
  }[];
}

const FOLDER = new URL("../../../tests/fixtures/hardware/", import.meta.url);

export const PROFILES = readdirSync(FOLDER)
  .filter((name) => name.endsWith(".json"))
  .map((name) => name.slice(0, -".json".length));

export const loadProfile = (name: string) =>
  JSON.parse(readFileSync(new URL(`${name}.json`, FOLDER), "utf8")) as Profile;

type Device = Profile["devices"][number];

/** Programming interfaces are not in the profiles; those that mean something follow from the name. */
function classCode({ class: cls, name, driver }: Device): string {
  if (cls !== "0c03") return `${cls}00`;
  if (driver === "thunderbolt" || /USB4 Host Interface|NHI/.test(name)) return "0c0340";
  const old = { ehci: "20", ohci: "10", uhci: "00" };
  return `0c03${Object.entries(old).find(([word]) => new RegExp(word, "i").test(`${name} ${driver}`))?.[1] ?? "30"}`;
}

/** As sysfs has them: what a host says of its devices. Ports follow the rule, as qubesd's do. */
export function profilePci(profile: Profile): PciFunction[] {
  const { devices } = profile;
  const parentOf = (fn: Device) => {
    const [domain, bus] = fn.sbdf.split(":");
    return devices.find((other) => other.sbdf.startsWith(`${domain}:`) && other.bridge?.secondary === bus);
  };
  const functions = devices.map((fn): PciFunction => {
    const isAlone = devices.filter((other) => other.sbdf.slice(0, -5) === fn.sbdf.slice(0, -5)).length === 1;
    const ways = [
      ...(fn.flr ? ["flr"] : []),
      ...(fn.pmReset ? ["pm"] : []),
      ...(parentOf(fn) && isAlone ? ["bus"] : []),
    ];
    return {
      sbdf: fn.sbdf,
      port: null,
      class: classCode(fn),
      vendor: fn.vendor,
      device: fn.device ?? "ffff",
      subsystem: fn.subsystem,
      driver: fn.driver,
      // In a dump with all rights a capability that is not printed is not there.
      reset: profile.capabilities === "denied" ? null : ways,
      name: fn.name,
      bridge: fn.bridge ?? null,
      parent: parentOf(fn)?.sbdf ?? null,
      bootVga: null,
      rom: fn.rom === null ? null : true,
      module: fn.driver,
      outputs: [],
      inputs: [],
      disks: [],
      nets: [],
    };
  });
  const tree = pciTree(functions);
  return functions.map((fn) => ({ ...fn, port: pathAddress(tree, fn) }));
}

/** A host on which nothing but the devices decides. */
export function factsWith(pci: PciFunction[], patch: Partial<Facts> = {}): Facts {
  return {
    qubesRelease: "Qubes release 4.3.0 (R4.3)",
    kernel: "6.12.59-1.qubes.fc41.x86_64",
    bootId: "b",
    cmdline: "",
    now: 0,
    freeBytes: 1e10,
    xen: {
      version: "4.19.4",
      virtCaps: ["pv", "hvm", "hvm_directio", "pv_directio", "hap"],
      totalMemory: 16384,
      freeMemory: 8192,
      iommu: true,
      interruptRemapping: true,
    },
    pci,
    boot: {
      oneShot: true,
      oneShotWhy: "grubenv lies on a plain ext4 partition",
      unattended: true,
      unattendedWhy: "no passphrase is asked for",
      hidePaths: true,
      args: [],
      watchdog: true,
      rescue: false,
    },
    firmware: { vendor: null, product: null, bios: null },
    cpu: null,
    keyboards: ["ps2"],
    lightdm: true,
    ...patch,
  };
}

export const profileFacts = (name: string, patch: Partial<Facts> = {}) =>
  factsWith(profilePci(loadProfile(name)), patch);

export function snapshotWith(facts: Facts, qubes: Record<string, QubeSnapshot> = {}): Snapshot {
  return {
    facts,
    qubes,
    globals: {},
    labels: [],
    files: {},
    packages: {},
    ledger: {},
    lock: null,
    unfinished: null,
    trial: null,
    outcome: null,
    watch: null,
  };
}
