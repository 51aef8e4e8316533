/**
 * Can this device be given to a qube, on this host? Pure. Sources: design §6; qubes-host.md (a), (b), (e), (h) 5.
 * Every reason names the fact it rests on. What is not known makes the verdict "unknown", never "no".
 */
import type { Facts, PciFunction } from "./facts.ts";
import { type Identity, identityOf } from "./identity.ts";
import { quirksOf, surviveBusReset, trustedResets } from "./quirks.ts";
import { siblings } from "./siblings.ts";
import {
  bootDisplay,
  busMates,
  describe,
  isAudio,
  isDisplay,
  isUsb,
  kindOf,
  listed,
  mainDisplays,
  type PciTree,
  parentOf,
  pathAddress,
  pciTree,
  placeOf,
} from "./tree.ts";

/** MiB that a qube with a GPU needs at least; the stock formula's 1000 is too little (qubes-host.md (b), (e)). */
export const GPU_MEMORY = 2000;

export interface Reason {
  readonly text: string;
  /** Where it was read: `xen.iommu`, `pci[0000:00:02.0].reset`, `quirks[nvidia]`. */
  readonly fact: string;
  readonly rule: string;
  /** What it does to the verdict; a note does nothing. */
  readonly effect: "go" | "option" | "no" | "unknown" | "note";
}

export interface GivenDevice {
  readonly fn: PciFunction;
  readonly sbdf: string;
  readonly port: string | null;
  readonly identity: Identity;
  readonly role: "display" | "audio" | "usb" | "other";
  /** Options of the assignment, left out when off: in Qubes' store any text counts as on. */
  readonly options: Readonly<Record<string, "True">>;
}

export interface Verdict {
  readonly verdict: "go" | "options" | "no" | "unknown";
  readonly reasons: readonly Reason[];
  readonly devices: readonly GivenDevice[];
  /** All that the mode must be brought up with; `permissive` and `memory` are part of gpu mode and do not make it "options". */
  readonly options: {
    readonly permissive: boolean;
    readonly noStrictReset: boolean;
    readonly kernelOptions: readonly string[];
    readonly memory: number | null;
    /** It does not come back from a reset: its qube starts once in each boot of the host. */
    readonly oneStart: boolean;
  };
}

export interface GpuWish {
  /** The user accepts a display that cannot be reset between two starts. */
  noStrictReset?: boolean;
  /** MiB the qube is to get. */
  memory?: number;
  /** Plain Xen: it goes to a PV domain. */
  isPv?: boolean;
}

/** A display and what goes with it, for gpu mode. */
export function verdictGpu(facts: Facts, of: PciFunction, wish: GpuWish = {}): Verdict {
  const tree = pciTree(facts.pci);
  const display = ofTree(tree, of);
  const { takes } = siblings(tree, display);
  const given = [display, ...takes];
  const resets = given.map((fn) => resetOf(tree, fn, given));
  const accepted = wish.noStrictReset === true;
  const reasons = [
    ...hostReasons(facts, wish.isPv),
    ...bootReasons(facts),
    ...given.flatMap((fn) => portReasons(facts, tree, fn, true)),
    // A sibling without a reset is the display's lesser part: it is given with no-strict-reset, as sound is elsewhere.
    ...given.map((fn, i) =>
      resetReason(
        facts,
        fn,
        resets[i] ?? UNSURE,
        fn === display && !accepted && !isPlainXen(facts) ? "no" : "option",
      ),
    ),
    ...screenReasons(tree, display),
    ...given.flatMap(quirkReasons),
    ...(isPlainXen(facts) ? [] : memoryReasons(facts, wish.memory)),
  ];
  const loose = isPlainXen(facts)
    ? []
    : given.filter((fn, i) => isLoose(resets[i]) && (fn !== display || accepted));
  const permissive = new Set([display]);
  return verdictOf(tree, reasons, given, loose, permissive, resets.includes(RESETS_ONCE));
}

/** There what cannot be reset is given all the same: xl says so and goes on (libxl_pci.c of Xen 4.17; xen-lab.md). */
const isPlainXen = ({ platform }: Pick<Facts, "platform">) => platform === "xen";

/** Sound functions for an audio domain: all of them. */
export const verdictAudio = verdictSet;
/** Any other devices, for a `PciAttachment`. */
export const verdictDevice = verdictSet;

/** Devices that no screen hangs on. What cannot be reset is given with no-strict-reset, as stock Qubes does with sound (qubes-host.md (b)). */
function verdictSet(facts: Facts, of: readonly PciFunction[], isPv = false): Verdict {
  const tree = pciTree(facts.pci);
  const functions = of.map((fn) => ofTree(tree, fn));
  const resets = functions.map((fn) => resetOf(tree, fn, functions));
  const reasons = [
    ...hostReasons(facts, isPv),
    ...functions.flatMap((fn) => portReasons(facts, tree, fn, false)),
    ...functions.map((fn, i) => resetReason(facts, fn, resets[i] ?? UNSURE, "option")),
    ...functions.flatMap(quirkReasons),
  ];
  const loose = isPlainXen(facts)
    ? []
    : functions.filter((_, i) => isLoose(resets[i]) || resets[i]?.kind === "unknown");
  return verdictOf(tree, reasons, functions, loose, new Set(), resets.includes(RESETS_ONCE));
}

/** The function as these facts have it: the caller's may come from another look at the host. */
const ofTree = (tree: PciTree, fn: PciFunction) => tree.bySbdf.get(fn.sbdf) ?? fn;

function verdictOf(
  tree: PciTree,
  reasons: readonly Reason[],
  given: readonly PciFunction[],
  loose: readonly PciFunction[],
  permissive: ReadonlySet<PciFunction>,
  oneStart: boolean,
): Verdict {
  const has = (effect: Reason["effect"]) => reasons.some((reason) => reason.effect === effect);
  const kernelOptions = given.flatMap((fn) =>
    quirksOf(fn).flatMap((row) => (row.kernelOptions ?? []).map((text) => text.replace("$id", fn.device))),
  );
  return {
    verdict: has("no") ? "no" : has("unknown") ? "unknown" : has("option") ? "options" : "go",
    reasons,
    devices: given.map((fn) => ({
      fn,
      sbdf: fn.sbdf,
      port: fn.port,
      identity: identityOf(tree, fn),
      role: isDisplay(fn) ? "display" : isAudio(fn) ? "audio" : isUsb(fn) ? "usb" : "other",
      options: {
        ...(loose.includes(fn) && { "no-strict-reset": "True" as const }),
        ...(permissive.has(fn) && { permissive: "True" as const }),
      },
    })),
    options: {
      permissive: permissive.size > 0,
      noStrictReset: loose.length > 0,
      kernelOptions,
      memory: permissive.size > 0 ? GPU_MEMORY : null,
      oneStart,
    },
  };
}

/**
 * IOMMU and interrupt remapping. Xen says hvm_directio where it has an IOMMU for HVM; the boot log, where it still has the line, must
 * agree (qubes-host.md (a): the ring buffer may have rolled over).
 */
function hostReasons({ xen, platform }: Facts, isPv = false): Reason[] {
  const iommu = (effect: Reason["effect"], text: string): Reason => ({
    rule: "iommu",
    fact: "xen.virtCaps, xen.iommu",
    effect,
    text,
  });
  const remapping = (effect: Reason["effect"], text: string): Reason => ({
    rule: "remapping",
    fact: "xen.interruptRemapping",
    effect,
    text,
  });
  const isDirect = xen.virtCaps.includes(isPv ? "pv_directio" : "hvm_directio");
  const xl = `: "xl info" says virt_caps ${xen.virtCaps.join(" ")}, and with that xl says "passthrough not supported on this platform"`;
  return [
    xen.iommu === false || (!isDirect && xen.virtCaps.length > 0)
      ? iommu(
          "no",
          isPlainXen({ platform })
            ? `this machine has no IOMMU in use (VT-d or AMD-Vi), so no device can be given to a domain${isDirect ? "" : xl}; look for it in the firmware's settings`
            : "this machine has no IOMMU in use (VT-d or AMD-Vi), so no device can be given to a qube; look for it in the firmware's settings",
        )
      : isDirect
        ? iommu("go", "the IOMMU is in use")
        : iommu("unknown", "Xen does not say whether the IOMMU is in use"),
    xen.interruptRemapping === null
      ? remapping("unknown", "Xen's log no longer says whether interrupts are remapped")
      : xen.interruptRemapping
        ? remapping("go", "interrupts are remapped")
        : remapping(
            "option",
            "interrupts are not remapped: a qube that owns a device can send the host any interrupt, so trust that qube as you trust dom0",
          ),
  ];
}

/** What gpu mode needs of the boot: hidden from the start, and a way back. Design §5. */
function bootReasons({ boot, platform }: Facts): Reason[] {
  const reason = (
    rule: string,
    fact: string,
    state: boolean | null,
    texts: [string, string, string],
  ): Reason => ({
    rule,
    fact: `boot.${fact}`,
    effect: state === null ? "unknown" : state ? "go" : "no",
    text: state === null ? texts[2] : state ? texts[0] : texts[1],
  });
  return [
    reason("one-shot", "oneShot", boot.oneShot, [
      "the host can boot a trial once and come back by itself",
      `the host cannot boot an entry once and come back by itself: ${boot.oneShotWhy}`,
      `it is not known whether the host can boot an entry once and come back by itself: ${boot.oneShotWhy}`,
    ]),
    isPlainXen({ platform })
      ? reason("pciback-first", "hidePaths", boot.hidePaths, [
          "pciback takes a hidden device before its driver does",
          `pciback does not take a device before its driver does: ${boot.hideWhy ?? ""}`,
          `it is not known whether pciback takes a hidden device before its driver does: ${boot.hideWhy ?? ""}`,
        ])
      : reason("hide-path", "hidePaths", boot.hidePaths, [
          "the host can hide a device from dom0 by its path",
          "the host's initramfs cannot hide a device by its path, and a bus number may go stale",
          "it is not known whether the host's initramfs can hide a device by its path",
        ]),
    ...(boot.unattended === false
      ? [
          {
            rule: "unattended",
            fact: "boot.unattended",
            effect: "note" as const,
            text: `somebody must be at the machine at each boot: ${boot.unattendedWhy}`,
          },
        ]
      : []),
  ];
}

function portReasons(facts: Facts, tree: PciTree, fn: PciFunction, isHidden: boolean): Reason[] {
  if (isPlainXen(facts)) return []; // xl takes every function by its address
  const fact = `pci[${fn.sbdf}].port`;
  const isListed = tree.byPort.size > 0;
  if (fn.port === null)
    return [
      {
        rule: "port",
        fact,
        effect: isListed ? "no" : "unknown",
        text: isListed
          ? `Qubes does not list ${describe(fn)}, so it cannot be assigned`
          : "the host's own list of devices could not be read",
      },
    ];
  if (!isHidden || pathAddress(tree, fn) === fn.port) return [];
  // The initramfs follows the rule, not Qubes' list: where they differ another device would be hidden.
  return [
    {
      rule: "hide-path",
      fact,
      effect: "no",
      text: `Qubes calls ${describe(fn)} ${fn.port}, while its path is ${pathAddress(tree, fn)}: hiding it by that name could hide another device`,
    },
  ];
}

type Reset =
  | { readonly kind: "own"; readonly way: string }
  | { readonly kind: "bus" | "once" | "unknown" }
  | { readonly kind: "none"; readonly blockers: readonly PciFunction[] };

const UNSURE: Reset = { kind: "unknown" };
const RESETS_ONCE: Reset = { kind: "once" };

/** Qubes refuses to start a qube with such a device, unless no-strict-reset is on. */
const isLoose = (reset: Reset | undefined) => reset?.kind === "none";

/**
 * How libvirt would reset it before the start: by the function itself (FLR, power management), else by its bus, for which
 * every function there must be out of dom0's hands (texts of qubes-host.md (e)); not on a root bus. What else the
 * kernel lists (device_specific, acpi) libvirt does not ask for.
 */
function resetOf(tree: PciTree, fn: PciFunction, given: readonly PciFunction[]): Reset {
  const own = trustedResets(fn);
  const way = own?.find((one) => ["flr", "af_flr", "pm"].includes(one));
  if (way) return { kind: "own", way };
  const blockers = busMates(tree, fn).filter((other) => !given.includes(other));
  const hasBus = parentOf(tree, fn) !== undefined && blockers.length === 0;
  if (hasBus && surviveBusReset(fn)) return { kind: "bus" };
  if (own === null) return UNSURE;
  return hasBus ? RESETS_ONCE : { kind: "none", blockers };
}

const WAYS: Record<string, string> = {
  flr: "function-level reset",
  af_flr: "function-level reset",
  pm: "power management",
};

function resetReason(facts: Facts, fn: PciFunction, reset: Reset, without: "no" | "option"): Reason {
  const reason = (effect: Reason["effect"], text: string): Reason => ({
    rule: "reset",
    fact: `pci[${fn.sbdf}].reset`,
    effect,
    text: `${describe(fn)} ${text}`,
  });
  switch (reset.kind) {
    case "own":
      return reason("go", `can be reset by itself (${WAYS[reset.way]})`);
    case "bus":
      return reason("go", "can be reset by way of its bus, where nothing stays with dom0");
    case "once":
      return reason(
        "option",
        "can be started once in each boot of the host: it does not come back from a bus reset",
      );
    case "unknown":
      return reason("unknown", "may or may not have a reset: the host does not say");
    case "none": {
      const bus =
        fn.parent === null
          ? "sits on a root bus, which has none"
          : `a bus reset would hit what stays with dom0: ${listed(reset.blockers)}`;
      const given = isPlainXen(facts)
        ? "; xl gives it all the same, and one domain may find in it what another left there"
        : "; it is given with no-strict-reset, and one qube may find in it what another left there";
      return reason(
        without,
        `has no reset method of its own, and ${bus}${without === "option" ? given : ""}`,
      );
    }
  }
}

/** Which display the person looks at, and what dom0 is left with. */
function screenReasons(tree: PciTree, display: PciFunction): Reason[] {
  const reasons: Reason[] = [];
  const add = (rule: string, fact: string, effect: Reason["effect"], text: string) =>
    reasons.push({ rule, fact: `pci[${display.sbdf}].${fact}`, effect, text });
  const others = mainDisplays(tree).filter((fn) => fn !== display);
  const screensOf = (fn: PciFunction) => fn.outputs.filter((output) => output.connected);
  const lit = screensOf(display).map(({ name }) => name);
  const lighting = others.filter((fn) => screensOf(fn).length > 0);

  if (display.class.startsWith("0302"))
    add("outputs", "class", "no", `${describe(display)} has no outputs: screens hang on ${listed(others)}`);
  else if (lit.length) add("outputs", "outputs", "go", `it lights ${lit.join(", ")}`);
  else if (display.outputs.length || (lighting.length && isDriven(display)))
    add(
      "outputs",
      "outputs",
      "no",
      `no screen is connected to ${describe(display)}; connect one, or select the display that has it${lighting.length ? `: ${listed(lighting)}` : ""}`,
    );
  // Without a driver nobody sees its outputs; a screen that another display lights is the one a person looks at.
  else if (lighting.length)
    add(
      "outputs",
      "outputs",
      "unknown",
      `the screen in use hangs on ${listed(lighting)}; what this one has is not seen`,
    );
  else if (!others.length) add("outputs", "outputs", "go", "it is the only display of the machine");
  else if (display.bootVga === true)
    add("outputs", "bootVga", "go", "it is the display that the firmware lights");
  else
    add(
      "outputs",
      "bootVga",
      "unknown",
      `which display has the screen is not known: this one or ${listed(others)}`,
    );

  if (display === bootDisplay(tree))
    add(
      "boot-display",
      "bootVga",
      "note",
      "in gpu mode dom0 has no driver for it: until its qube runs, it shows at most the text console that the firmware left",
    );
  for (const fn of others)
    add(
      "boot-display",
      "bootVga",
      "note",
      `${describe(fn)} stays with dom0${lighting.includes(fn) ? ", and its screens with it" : ""}`,
    );

  if (display.vendor === "8086" && placeOf(display) === "00_02.0")
    add("intel-igpu", "port", "note", "graphics of an Intel processor, at the address its driver expects");
  else if (display.parent !== null && display.rom === false)
    add(
      "rom",
      "rom",
      "unknown",
      `${describe(display)} shows no ROM, and the driver in the qube may need one`,
    );
  return reasons;
}

const isDriven = ({ driver }: PciFunction) => driver !== null && driver !== "pciback";

function quirkReasons(fn: PciFunction): Reason[] {
  return quirksOf(fn).map(({ id, text, source, doubtful, kernelOptions }) => ({
    rule: `quirk:${id}`,
    fact: `quirks[${id}]: ${source}`,
    effect: doubtful ? "unknown" : kernelOptions ? "option" : "note",
    text: `${kindOf(fn)} ${fn.vendor}:${fn.device}: ${text}`,
  }));
}

function memoryReasons({ xen }: Facts, memory = GPU_MEMORY): Reason[] {
  const reason = (fact: string, text: string): Reason => ({ rule: "memory", fact, effect: "no", text });
  if (memory < GPU_MEMORY)
    return [
      reason(
        "the qube's memory",
        `${memory} MiB is too little for a qube with a GPU, which needs ${GPU_MEMORY}`,
      ),
    ];
  if (xen.totalMemory < memory)
    return [
      reason(
        "xen.totalMemory",
        `the machine has ${xen.totalMemory} MiB, less than the ${memory} MiB of the qube`,
      ),
    ];
  return [];
}
