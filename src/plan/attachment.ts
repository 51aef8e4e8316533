/** Which devices an attachment means on this host, and whether the qube may have them. Pure. Design §6; qubes-host.md (h) 2. */
import { givenUp } from "../formula/xen/settings.ts";
import type { PciFunction, Snapshot } from "../host/protocol.ts";
import { Refusal } from "../model/failure.ts";
import type { PciAttachment } from "../model/pciAttachment.ts";
import { platformOf } from "../model/platform.ts";
import { assignmentOf, NO_SETTINGS, type Settings } from "../model/settings.ts";
import { PVH_WORDS } from "../model/xenDomain.ts";
import { find, type Identity, identityOf, type Place, reached } from "../pci/identity.ts";
import type { Refused } from "../pci/refused.ts";
import { hostRules } from "../pci/rules.ts";
import { select } from "../pci/selector.ts";
import { siblings } from "../pci/siblings.ts";
import { describe, functionAt, type PciTree, pciTree } from "../pci/tree.ts";
import { verdictDevice } from "../pci/verdict.ts";
import { devicesOf } from "./gpu.ts";
import type { Notice } from "./preflight.ts";

export interface Resolved {
  functions: PciFunction[];
  identities: Identity[];
  settings: Settings;
  /** Where a device is not where it was. */
  moves: { from: Place; to: Place }[];
  /** Keys of assignments to this qube that reach nothing any more, or too much; with one of them it does not start. */
  stale: string[];
  notices: Notice[];
}

const words = ({ devices: [first, ...more], qube }: PciAttachment) =>
  `PCI attachment of ${more.length ? `${more.length + 1} devices` : JSON.stringify(first)} to ${qube}`;

/**
 * `known`: what the devices were when they were attached. A device that is known is followed to wherever it is now; what is
 * selected counts where it is not in the machine any more, and never by an address, at which now something else may sit.
 */
export function resolve(attachment: PciAttachment, snapshot: Snapshot, known: readonly Identity[]): Resolved {
  const { host, qube } = attachment;
  const resource = words(attachment);
  const refuse = ({ what, next }: Pick<Refused, "what" | "next">) =>
    new Refusal({ resource, host, what, next });
  const tree = pciTree(snapshot.facts.pci);
  const moves: Resolved["moves"] = [];
  const functions = known.length ? followed() : selected();

  function followed(): PciFunction[] {
    const found = known.map((identity) => find(tree, identity));
    const lost = found.find((one) => "refused" in one);
    if (lost && "refused" in lost) {
      const byPlace = attachment.devices.some((selector) => selector.address !== undefined);
      if (lost.kind !== "none" || byPlace) throw refuse(lost.refused);
      return selected();
    }
    return found.flatMap((one) => {
      if ("refused" in one) return [];
      if (one.kind !== "same" && one.from.sbdf) moves.push({ from: one.from, to: one.to });
      return [one.fn];
    });
  }

  function selected(): PciFunction[] {
    const all = attachment.devices.flatMap((selector) => {
      const selection = select(tree, selector, "device");
      if ("refused" in selection) throw refuse(selection.refused);
      return [...selection.functions];
    });
    return [...new Set(all)].sort((a, b) => (a.sbdf < b.sbdf ? -1 : 1));
  }

  const verdict = verdictDevice(snapshot.facts, functions);
  const given = verdict.devices.map((device) => ({
    ...device,
    options: optionsOf(attachment, device.options, snapshot),
  }));
  const described = { ...NO_SETTINGS, devices: devicesOf(given, qube, snapshot) };
  const settings = platformOf(snapshot.facts) === "xen" ? givenUp(described) : described;
  const isNew = (fn: PciFunction) =>
    !(snapshot.qubes[qube]?.pci ?? []).some((one) => reached(tree, one).includes(fn));
  const reasons = (effect: string) => verdict.reasons.filter((r) => r.effect === effect).map((r) => r.text);

  for (const fault of qubeFaults(qube, snapshot)) throw refuse(fault);
  if (functions.some(isNew)) {
    const against = reasons("no");
    if (against.length)
      throw refuse({ what: against.join("; "), next: "Mend that, or give it another device" });
    const grants = functions.filter(isNew).map((device) => ({ device, qube, hide: false }));
    const [refused] = hostRules(grants, snapshot);
    if (refused) throw refuse(refused);
  }
  return {
    functions,
    identities: functions.map((fn) => identityOf(tree, fn)),
    settings,
    moves,
    stale: staleOf(qube, settings, functions, tree, snapshot),
    notices: [...reasons("unknown"), ...reasons("option"), ...reasons("note")].map((text) => ({
      severity: "info",
      text,
    })),
  };
}

/** "0000:01:00.0 (00_01.0-00_00.0)" */
export const placeText = ({ path, sbdf }: Place) => `${sbdf} (${path})`;

/** What the device needs, and what the program says. */
function optionsOf(
  { options }: PciAttachment,
  needed: Readonly<Record<string, "True">>,
  { facts }: Snapshot,
): Record<string, "True"> {
  const { permissive = undefined, "no-strict-reset": noStrictReset = undefined } = needed;
  const isOn = (asked: boolean | null, need: string | undefined) => asked ?? need !== undefined;
  return {
    ...(platformOf(facts) === "qubes" &&
      isOn(options.noStrictReset, noStrictReset) && { "no-strict-reset": "True" as const }),
    ...(isOn(options.permissive, permissive) && { permissive: "True" as const }),
  };
}

/** Who cannot have PCI devices, whatever they are (qubes-host.md (h) 2). */
function qubeFaults(name: string, snapshot: Snapshot): { what: string; next: string }[] {
  const qube = snapshot.qubes[name];
  if (!qube)
    return [{ what: `qube "${name}" does not exist there`, next: "Create it first, or name another" }];
  if (qube.class === "AdminVM" || qube.class === "TemplateVM")
    return [
      {
        what: `"${name}" is ${qube.class === "AdminVM" ? "dom0, which has every device that is not given away" : "a template, which gets no devices"}`,
        next: "Name another qube",
      },
    ];
  if (qube.class === "DispVM" && qube.properties["auto_cleanup"]?.value === "True")
    return [
      { what: `"${name}" is a disposable that is gone when it is shut down`, next: "Name a qube that stays" },
    ];
  if (qube.properties["type"]?.value === "pvh")
    return [
      {
        what: `domain "${name}" is of type pvh: xl gives it no devices ("${PVH_WORDS}")`,
        next: `Set type = "hvm" or "pv" in /etc/xen/${name}.cfg`,
      },
    ];
  const mode = qube.properties["virt_mode"];
  if (mode && !mode.default && mode.value === "pvh")
    return [
      {
        what: `qube "${name}" is set to virt_mode pvh, with which it does not start once it has PCI devices`,
        next: `Set it to hvm (qvm-prefs ${name} virt_mode hvm), or let it follow the default (qvm-prefs --default ${name} virt_mode)`,
      },
    ];
  return [];
}

/** Assignments that find no device where they look for it, or, of two that are alike, the one that is to be given by its place. */
function staleOf(
  qube: string,
  { devices }: Settings,
  functions: PciFunction[],
  tree: PciTree,
  snapshot: Snapshot,
): string[] {
  const wanted = Object.entries(devices).map(([name, device]) => assignmentOf(name, device) as string);
  return (snapshot.qubes[qube]?.pci ?? []).flatMap((one) => {
    const name = `${one.port}:${one.device}`;
    const key = `device:${qube}:${name}`;
    if (snapshot.ledger[key]) return []; // its owner sees to it
    const found = reached(tree, one);
    const isTwice = one.port === "*" && !wanted.includes(name) && found.some((fn) => functions.includes(fn));
    return found.length === 0 || isTwice ? [key] : [];
  });
}

/** What a program sees of the devices: where and what they are, how they are given, and what limits them. */
export function devicesShown(resolved: Resolved, snapshot: Snapshot) {
  const tree = pciTree(snapshot.facts.pci);
  const settings = Object.values(resolved.settings.devices);
  return resolved.functions.map((known, i) => {
    const fn = functionAt(tree, known.sbdf) ?? known; // of this look at the host: siblings are told by the tree
    return {
      name: describe(fn),
      sbdf: fn.sbdf,
      port: fn.port,
      identity: resolved.identities[i],
      options: Object.keys(settings[i]?.options ?? {}),
      siblings: siblings(tree, fn).stays.map(describe),
    };
  });
}
