/**
 * What is known of single models and families, as data. Pure. A row says what to leave out of the facts or to add to the
 * verdict; each has its source. Take a row out when its source says that it is cured.
 */
import type { PciFunction } from "./facts.ts";

export interface Quirk {
  readonly id: string;
  readonly vendor: string;
  /** Class code prefix. */
  readonly class?: string;
  /** Matches the device id, 4 lower-case hex digits. */
  readonly device?: RegExp;
  /** Only behind a bridge. */
  readonly behindBridge?: true;
  /** Ways of reset that the device has but that do not reset it. */
  readonly ignore?: readonly ("flr" | "pm" | "bus")[];
  /** It is not known to work; only a trial tells. */
  readonly doubtful?: true;
  /** Kernel options of the qube, `$id` stands for the device id. */
  readonly kernelOptions?: readonly string[];
  readonly text: string;
  readonly source: string;
}

const LINUX_QUIRKS =
  "https://git.kernel.org/pub/scm/linux/kernel/git/torvalds/linux.git/tree/drivers/pci/quirks.c";

export const QUIRKS: readonly Quirk[] = [
  {
    id: "amd-display-pm",
    vendor: "1002",
    class: "0300",
    behindBridge: true,
    ignore: ["pm"],
    text: "AMD displays claim a power management reset that does not reset them",
    source: `${LINUX_QUIRKS} (quirk_no_pm_reset)`,
  },
  {
    id: "amd-reset-family",
    vendor: "1002",
    // Polaris 10-12, Vega 10, Vega 20, Navi 10/12/14/23 and APUs of theirs.
    device:
      /^(67[cd][0-9a-f]|6fdf|67[ef][0-9a-f]|69[89][0-9a-f]|686[0-9a-f]|687f|66a[0-9a-f]|731[0-9a-f]|15bf|15d[de]|15e7|163[68]|164c|734[0-9a-f]|736[02]|73ff)$/,
    ignore: ["bus"],
    text: "this AMD family does not come back from a bus reset without a sequence of its own",
    source: "https://github.com/gnif/vendor-reset/blob/master/src/device-db.h",
  },
  {
    id: "no-flr-amd",
    vendor: "1022",
    device: /^(1487|148c|149c|7901)$/,
    ignore: ["flr"],
    text: "a function-level reset can hang this device, so the kernel does not use it",
    source: `${LINUX_QUIRKS} (quirk_no_flr)`,
  },
  {
    id: "no-flr-intel-82579",
    vendor: "8086",
    device: /^150[23]$/,
    ignore: ["flr"],
    text: "a function-level reset can hang this network card, so the kernel does not use it",
    source: `${LINUX_QUIRKS} (quirk_no_flr)`,
  },
  {
    id: "no-flr-mt7922",
    vendor: "14c3",
    device: /^0616$/,
    ignore: ["flr"],
    text: "a function-level reset can hang this network card, so the kernel does not use it",
    source: "https://github.com/QubesOS/qubes-issues/issues/9689",
  },
  {
    id: "intel-raptor-lake",
    vendor: "8086",
    class: "0300",
    device: /^a7[0-9a-f]{2}$/,
    kernelOptions: ["i915.force_probe=!$id", "xe.force_probe=$id"],
    text: "13th generation Intel graphics have ended in a black screen under i915; the xe driver is tried instead",
    source: "https://github.com/QubesOS/qubes-issues/issues/8561",
  },
  {
    id: "nvidia",
    vendor: "10de",
    class: "03",
    doubtful: true,
    text: "nobody has shown an NVIDIA card to drive a GUI domain, and hosts have reset when one was given away",
    source: "https://github.com/QubesOS/qubes-issues/issues/8154",
  },
];

export function quirksOf(fn: PciFunction): readonly Quirk[] {
  return QUIRKS.filter(
    (row) =>
      row.vendor === fn.vendor &&
      fn.class.startsWith(row.class ?? "") &&
      (row.device?.test(fn.device) ?? true) &&
      !(row.behindBridge && fn.parent === null),
  );
}

/** Its ways of reset less those that are known not to work; null stays null. */
export function trustedResets(fn: PciFunction): readonly string[] | null {
  const ignored = quirksOf(fn).flatMap((row) => row.ignore ?? []);
  return fn.reset?.filter((way) => !(ignored as string[]).includes(way.replace("af_flr", "flr"))) ?? null;
}

/** Whether a reset by way of its bus brings it back. */
export const surviveBusReset = (fn: PciFunction) => !quirksOf(fn).some((row) => row.ignore?.includes("bus"));
