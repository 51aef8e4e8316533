/**
 * What a device is, so that it is the same one after a renumbering or a move. Pure. Design §6: bridge path + vendor:device:class.
 */
import type { PciFunction } from "./facts.ts";
import type { Refused } from "./refused.ts";
import { bridgePath, describe, functionAt, listed, type PciTree } from "./tree.ts";

export interface Identity {
  /** Bridge path, which below the root bus holds no absolute bus number. */
  readonly path: string;
  readonly vendor: string;
  readonly device: string;
  /** 6 hex digits. */
  readonly class: string;
  /** Where it was last seen; only for showing. */
  readonly sbdf: string;
  /** Paths of the others of the same model then. One of them is never taken for this device. */
  readonly alike: readonly string[];
}

export interface Place {
  readonly path: string;
  readonly sbdf: string;
}

export type Found =
  | {
      /** renumbered: the same slot under another bus number. moved: another slot. */
      readonly kind: "same" | "renumbered" | "moved";
      readonly fn: PciFunction;
      readonly from: Place;
      readonly to: Place;
    }
  | { readonly kind: "none" | "several" | "changed"; readonly refused: Refused };

const isModel = (a: Model, b: Model) => a.vendor === b.vendor && a.device === b.device && a.class === b.class;
type Model = Pick<Identity, "vendor" | "device" | "class">;

export function identityOf(tree: PciTree, fn: PciFunction): Identity {
  const { sbdf, vendor, device, class: cls } = fn;
  const others = tree.functions.filter((other) => other !== fn && isModel(other, fn));
  const alike = others.map((other) => bridgePath(tree, other)).sort();
  return { path: bridgePath(tree, fn), vendor, device, class: cls, sbdf, alike };
}

/** Looks where it was, then for its model elsewhere. What could be another device is not taken. */
export function find(tree: PciTree, identity: Identity): Found {
  const at = new Map(tree.functions.map((fn) => [bridgePath(tree, fn), fn]));
  const from = { path: identity.path, sbdf: identity.sbdf };
  const found = (fn: PciFunction, elsewhere: boolean): Found => {
    const isHere = fn.sbdf === identity.sbdf || identity.sbdf === "";
    const kind = elsewhere ? "moved" : isHere ? "same" : "renumbered";
    return { kind, fn, from, to: { path: bridgePath(tree, fn), sbdf: fn.sbdf } };
  };

  const here = at.get(identity.path);
  if (here && isModel(here, identity)) return found(here, false);
  if (here && here.vendor === identity.vendor && here.device === identity.device)
    return refuse(
      "changed",
      `what was of class ${identity.class} at ${identity.path} is now ${describe(here)} of class ${here.class}`,
      "Find out what changed it (firmware settings, a mode switch); then select the device anew",
    );

  const candidates = tree.functions.filter((fn) => isModel(fn, identity));
  const others = candidates.filter((fn) => identity.alike.includes(bridgePath(tree, fn)));
  const [fn, ...more] = candidates.filter((candidate) => !others.includes(candidate));
  // One of its kind left its own place too: which of the two stands here now, nobody can say.
  const isDoubtful = more.length > 0 || others.length < identity.alike.length;
  if (fn && !isDoubtful) return found(fn, true);
  if (fn)
    return refuse(
      "several",
      `${modelText(identity)} is not at ${identity.path} any more, and more than one device may be it: ${listed(candidates)}`,
      "Select the one you mean by its address",
    );
  return refuse(
    "none",
    `${modelText(identity)} is not in the machine: not at ${identity.path}, where it was, nor elsewhere${here ? `. There is now ${describe(here)}` : ""}`,
    "Put it back, or select another device",
  );
}

const modelText = ({ vendor, device, class: cls }: Model) => `device ${vendor}:${device} of class ${cls}`;

function refuse(kind: "none" | "several" | "changed", what: string, next: string): Found {
  return { kind, refused: { rule: `device-${kind}`, what, next } };
}

/** Last part of a resource's id: `00_01.0-00_00.0:10de:1d01:030000`. */
export const identityText = ({ path, vendor, device, class: cls }: Identity) =>
  [path, vendor, device, cls].join(":");

/** Inverse of `identityText`, without what only the tree knows; null where it is none. */
export function parseIdentity(text: string): Identity | null {
  const parts = /^([0-9a-f_.-]+):([0-9a-f]{4}):([0-9a-f]{4}):([0-9a-f]{6})$/.exec(text);
  if (!parts) return null;
  const [, path = "", vendor = "", device = "", cls = ""] = parts;
  return { path, vendor, device, class: cls, sbdf: "", alike: [] };
}

/** What an assignment of R4.3 calls the device, qubes-cli-formats.md §6: `0x8086:0x02c8::p040300`. */
export const qubesDeviceId = ({ vendor, device, class: cls }: Model) => `0x${vendor}:0x${device}::p${cls}`;

/**
 * The identity that an assignment in the store stands for; null for "any device" (`*`) and what is no PCI device's id.
 * A port is a bridge path by Qubes' own rule, which is why this needs no rewriting.
 */
export function parseDeviceId(port: string, id: string): Identity | null {
  const parts = /^0x([0-9a-f]{4}):0x([0-9a-f]{4}):[^:]*:p([0-9a-f]{6})$/i.exec(id);
  if (!parts) return null;
  const [, vendor = "", device = "", cls = ""] = parts.map((part) => part.toLowerCase());
  return { path: port, vendor, device, class: cls, sbdf: "", alike: [] };
}

/** The functions that an assignment of the store reaches now: by port and by id, unless one of them is `*`. */
export function reached(tree: PciTree, { port, device }: { port: string; device: string }): PciFunction[] {
  const at = functionAt(tree, port);
  // Qubes knows none without a port.
  const functions = port === "*" ? tree.functions.filter((fn) => fn.port !== null) : at ? [at] : [];
  return functions.filter((fn) => device === "*" || qubesDeviceId(fn) === device.toLowerCase());
}
