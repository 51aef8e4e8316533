/** May this host give its display to the qube, and what would it give? Pure. Sources: design §5, §6; qubes-host.md (b), (g), (h). */
import type { PciFunction, QubeSnapshot, Snapshot } from "../host/protocol.ts";
import { type GpuGrant, gpuWord } from "../model/gpu.ts";
import { type GuiDomain, inMode } from "../model/guiDomain.ts";
import type { DeviceValue, PropertyValue } from "../model/keys.ts";
import { platformOf } from "../model/platform.ts";
import type { DeviceSetting } from "../model/settings.ts";
import { qubesDeviceId, reached } from "../pci/identity.ts";
import { hostRules } from "../pci/rules.ts";
import { type Selector, select } from "../pci/selector.ts";
import { describe, isDisk, type PciTree, pciTree } from "../pci/tree.ts";
import { type GivenDevice, verdictGpu } from "../pci/verdict.ts";
import { foundInput, inputRefusals } from "./input.ts";
import { sameDevice } from "./values.ts";

export interface Judgement {
  verdict: "go" | "unknown" | "no";
  /** For "no" why not, else what is worth knowing. In the user's words. */
  reasons: string[];
  /** What to do about a "no", where one thing would help. */
  next: string | null;
  grant: GpuGrant;
  /** What somebody has to do inside the qube's template, since dom0 cannot; null: nothing. */
  inside: string | null;
  /** Connectors of the display that show something in dom0 now: "eDP-1". */
  lit: string[];
  /** Addresses of the functions given away, as they are now. */
  sbdfs: string[];
}

export const NO_GRANT: GpuGrant = { devices: {}, inputs: [], kernelOptions: null };
const no = (reason: string, next: string | null): Judgement => ({
  verdict: "no",
  reasons: [reason],
  next,
  grant: NO_GRANT,
  inside: null,
  lit: [],
  sbdfs: [],
});

/** The display that the firmware lit is the one that a person looks at. */
const BOOT_DISPLAY: Selector = { position: "boot display" };

/** `inForce`: the qube has the display in this boot; what has been proved is not asked again. */
export function judgeGpu(gui: GuiDomain, snapshot: Snapshot, inForce: boolean): Judgement {
  const { facts } = snapshot;
  const tree = pciTree(facts.pci);
  const selection = select(tree, gui.gpu ?? BOOT_DISPLAY, "display");
  if ("refused" in selection) return no(selection.refused.what, selection.refused.next);
  const [display] = selection.functions;
  if (!display) return no("this machine has no display of that kind", null);

  const memory = inMode(gui, "gpu").memory;
  const isPv = gui.domain?.type === "pv";
  const verdict = verdictGpu(facts, display, { ...(memory !== null && { memory }), isPv });
  const given = verdict.devices;
  const options = verdict.options.kernelOptions;
  const byDom0 = kernelOf(gui, snapshot) !== "";
  const found = {
    grant: {
      devices: devicesOf(given, gui.qube, snapshot),
      inputs: foundInput(gui.qube, snapshot),
      kernelOptions: options.length && byDom0 && !gui.domain ? kernelOptionsOf(gui, options, snapshot) : null,
    },
    inside:
      options.length && gui.domain
        ? `${describe(display)} needs the kernel options ${options.join(" ")}: add them inside ${gui.qube}, or to domain.cmdline`
        : options.length && !byDom0
          ? `${describe(display)} needs the kernel options ${options.join(" ")}, and ${gui.qube} boots the kernel inside its template: add them to GRUB_CMDLINE_LINUX in /etc/default/grub of ${gui.template}, and make its grub.cfg anew`
          : null,
    lit: litOutputs(given.map((d) => d.fn)),
    sbdfs: given.map((d) => d.sbdf),
  };
  if (inForce) return { verdict: "go", reasons: [], next: null, ...found };

  const texts = (effects: string[]) =>
    verdict.reasons.filter((r) => effects.includes(r.effect)).map((r) => r.text);
  // A trial that nobody knows to come back from is not begun.
  const unsafe = verdict.reasons.filter((r) => r.effect === "unknown" && MUST_BE_KNOWN.includes(r.rule));
  const against = [...texts(["no"]), ...unsafe.map((r) => r.text)];
  // Whoever sits there could do nothing (qubes-host.md (g)).
  against.push(...inputRefusals(gui, "gpu", found.grant, snapshot));
  const grants = given.map(({ fn }) => ({ device: fn, qube: gui.qube, hide: true }));
  const refused = hostRules(grants, snapshot);
  if (against.length || refused.length)
    return {
      ...no("", refused[0]?.next ?? null),
      reasons: [...against, ...refused.map((r) => r.what)],
    };
  return {
    verdict: verdict.verdict === "unknown" ? "unknown" : "go",
    reasons: texts(["option", "unknown", "note"]),
    next: null,
    ...found,
  };
}

/** dom0's kernel for the qube, by name; "" where its template brings its own. */
function kernelOf({ qube, template }: GuiDomain, { qubes }: Snapshot): string {
  const live = qubes[qube]?.properties["kernel"] ?? qubes[template]?.properties["kernel"];
  return live?.value ?? "";
}

/** What the qube had or would have, and `options` after it. */
function kernelOptionsOf(gui: GuiDomain, options: readonly string[], snapshot: Snapshot): string {
  const live = snapshot.qubes[gui.qube]?.properties["kernelopts"];
  const entry = snapshot.ledger[`property:${gui.qube}:kernelopts`];
  const before = entry ? (entry.first as PropertyValue | null) : live;
  const base = before && !before.default ? before.value : defaultOptions(gui, snapshot);
  const words = base.split(/\s+/);
  return [base, ...options.filter((option) => !words.includes(option))]
    .filter((part) => part !== "")
    .join(" ");
}

/**
 * The default of a qube with PCI devices, which does not follow its template: a file beside the kernel or nothing (core-admin 4.3.50,
 * vm/qubesvm.py _default_kernelopts and config.py). A qube of the same kernel that has devices shows it.
 */
function defaultOptions(gui: GuiDomain, snapshot: Snapshot): string {
  const kernel = kernelOf(gui, snapshot);
  const shown = Object.values(snapshot.qubes).find(
    ({ pci, properties }) =>
      pci.length > 0 && properties["kernel"]?.value === kernel && properties["kernelopts"]?.default,
  );
  return shown?.properties["kernelopts"]?.value ?? "";
}

const MUST_BE_KNOWN = ["one-shot", "hide-path"];

/** By what they are; two that are alike get a number. */
export function devicesOf(
  given: readonly Pick<GivenDevice, "fn" | "port" | "options">[],
  qube: string,
  snapshot: Snapshot,
): Record<string, DeviceSetting> {
  const tree = pciTree(snapshot.facts.pci);
  const devices: Record<string, DeviceSetting> = {};
  for (const { fn, port, options } of given) {
    const id = qubesDeviceId(fn);
    let name = id;
    for (let n = 2; name in devices; n++) name = `${id} (${n})`;
    const value = { mode: "required", options: { ...options } };
    // xl knows devices by their place alone.
    const anyPlace =
      platformOf(snapshot.facts) === "qubes" && isAnyPlace(fn, value, tree, snapshot.qubes[qube]?.pci ?? []);
    devices[name] = { port: port ?? "", ...(anyPlace && { anyPlace }), options: value.options };
  }
  return devices;
}

/**
 * Whether a device is assigned wherever it sits, as `qvm-pci assign --device` does. Not where that would reach a second one, with which
 * Qubes does not start the qube (core-admin 4.3.50, vm/qubesvm.py kernelopts_common), though it takes both from their drivers first: so
 * not of disk controllers either, since somebody may add one for dom0; and not where it is assigned in its place already, as wanted: that is as good until
 * it moves.
 */
function isAnyPlace(
  fn: PciFunction,
  value: DeviceValue,
  tree: PciTree,
  assigned: QubeSnapshot["pci"],
): boolean {
  const device = qubesDeviceId(fn);
  const here = reached(tree, { port: "*", device });
  const same = assigned.filter((one) => one.device === device);
  const isGiven = same.some((one) => one.port === fn.port && sameDevice(value, one));
  return here.length === 1 && !isDisk(fn) && (!isGiven || same.some((one) => one.port === "*"));
}

/** "eDP-1" of "card0-eDP-1": the number of the card differs between dom0 and a qube. Names are the host's words, so only plain ones count. */
export const litOutputs = (functions: readonly PciFunction[]): string[] =>
  functions
    .flatMap((fn) => fn.outputs)
    .filter((output) => output.connected && output.enabled)
    .flatMap(({ name }) => /^card\d+-([A-Za-z0-9-]+)$/.exec(name)?.[1] ?? [])
    .sort();

/** Whether the host runs in a boot that keeps the display for this qube. */
export const isGpuBoot = (qube: string, snapshot: Snapshot): boolean =>
  snapshot.facts.cmdline.split(/\s+/).includes(gpuWord(qube));
