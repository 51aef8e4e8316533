/**
 * Selectors: a device named by what it is. Pure. Design §6.
 *
 *     { class: "display", vendor: "8086" }   { class: "audio" }   { position: "boot display" }   { address: "00_02.0" }
 */
import * as v from "valibot";
import { shown, step } from "../model/fields.ts";
import type { PciFunction } from "./facts.ts";
import type { Refused } from "./refused.ts";
import { ownerOf } from "./siblings.ts";
import {
  bootDisplay,
  describe,
  functionAt,
  isAudio,
  isDisplay,
  isMainDisplay,
  isNetwork,
  isSystem,
  isUsb,
  kindOf,
  listed,
  mainDisplays,
  type PciTree,
} from "./tree.ts";

/** Every part that is given must hold. */
export interface Selector {
  /** "display", "audio", "usb", "network", or the first 2, 4 or 6 hex digits of a class code. */
  readonly class?: string;
  readonly vendor?: string;
  readonly device?: string;
  /** "17aa:21fa" */
  readonly subsystem?: string;
  readonly position?: "boot display";
  /** The host's own name of the port (00_02.0), or an sbdf (0000:00:02.0). */
  readonly address?: string;
  /** The module that its modalias would load, whatever is bound now: a hidden GPU is bound to pciback. */
  readonly driver?: string;
}

const CLASSES: Record<string, (fn: PciFunction) => boolean> = {
  display: isDisplay,
  audio: isAudio,
  usb: isUsb,
  network: isNetwork,
};

const HEX4 = /^[0-9a-f]{4}$/;
const ADDRESS =
  /^(([0-9a-f]{4,8}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]|([0-9a-f]{4}_)?[0-9a-f]{2}_[0-9a-f]{2}\.[0-7](-[0-9a-f]{2}_[0-9a-f]{2}\.[0-7])*)$/;

/** Per property its form, and what to say that it is. Hex digits may be given in capitals. */
const FORMS: Record<keyof Selector, [RegExp, string]> = {
  class: [
    /^(display|audio|usb|network|([0-9a-f]{2}){1,3})$/,
    `"display", "audio", "usb", "network", or 2, 4 or 6 hex digits of a class code such as "0c03"`,
  ],
  vendor: [HEX4, `4 hex digits such as "8086"`],
  device: [HEX4, `4 hex digits such as "15ec"`],
  subsystem: [/^[0-9a-f]{4}:[0-9a-f]{4}$/, `vendor and device of the subsystem such as "17aa:21fa"`],
  position: [/^boot display$/, `"boot display"`],
  address: [
    ADDRESS,
    `the host's own name of the port such as "00_02.0", or an address such as "0000:00:02.0"`,
  ],
  driver: [/^[A-Za-z0-9_-]{1,64}$/, `the name of a kernel module such as "i915"`],
};
const PARTS = Object.keys(FORMS);

/**
 * The schema, to be embedded in a resource's arguments. One transform instead of an object schema: every fault is then an
 * issue of our own with its path, also that of an unknown key.
 */
export const Selector = v.pipe(
  v.unknown(),
  v.rawTransform(({ dataset: { value }, addIssue, NEVER }): Selector => {
    const fault = (message: string, key?: string) =>
      addIssue({ message, input: value, ...(key !== undefined && { path: [step(value as object, key)] }) });
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      fault(
        `${value === undefined ? "missing" : `${shown(value)} is not allowed`}; give a device by what it is, such as { class: "display", vendor: "8086" }`,
      );
      return NEVER;
    }
    const selector: Record<string, string> = {};
    for (const [key, part] of Object.entries(value)) {
      const form = Object.hasOwn(FORMS, key) ? FORMS[key as keyof Selector] : undefined;
      const text = typeof part === "string" && key !== "driver" ? part.toLowerCase() : part;
      if (part === undefined) continue;
      if (!form) fault(`not a part of a selector; allowed are ${PARTS.join(", ")}`, key);
      else if (typeof text !== "string" || !form[0].test(text))
        fault(`${shown(part)} is not allowed; give ${form[1]}`, key);
      else selector[key] = text;
    }
    if (Object.keys(value).length === 0) fault(`{} is not allowed; give at least one of ${PARTS.join(", ")}`);
    if ("device" in selector && !("vendor" in selector))
      fault(`"${selector["device"]}" means nothing without a vendor; give "vendor" too`, "device");
    return Object.freeze(selector) as Selector;
  }),
);

export type Selection = { readonly functions: readonly PciFunction[] } | { readonly refused: Refused };

/** What a selector is for: the one display of a GUI domain, the sound of an audio domain, any device. */
export type Purpose = "display" | "audio" | "device";

/**
 * The functions a selector names, or why none is taken. A display is one; sound, and devices selected by class "usb" or
 * "audio", may be several. Sound in a display's slot is left to the display unless it is addressed.
 */
export function select(tree: PciTree, selector: Selector, as: Purpose): Selection {
  const named = tree.functions.filter(matcher(tree, selector));
  const refuse = (rule: string, what: string, next: string): Selection => ({ refused: { rule, what, next } });
  const words = selectorText(selector);

  const isFit = {
    display: (fn: PciFunction) => isMainDisplay(tree, fn),
    // A USB headset, or the radio of another: only where it is asked for as such.
    audio: (fn: PciFunction) => isAudio(fn) || (isUsb(fn) && asksForUsb(selector)),
    device: () => true,
  }[as];
  let fits = named.filter(isFit);
  if (!fits.length) {
    const [other] = named;
    if (other && as !== "device")
      return refuse(
        "wrong-class",
        `${words} names ${listed(named)}, which is not ${as === "display" ? "a display" : "sound"}`,
        `Select one of these instead: ${listed(tree.functions.filter(isFit))}`,
      );
    return refuse("no-match", `no device of this machine is ${words}`, nearby(tree, selector, as));
  }

  if (selector.address === undefined) {
    const owned = fits.filter((fn) => isAudio(fn) && ownerOf(tree, fn));
    fits = fits.filter((fn) => !owned.includes(fn));
    const [first] = owned;
    if (!fits.length && first)
      return refuse(
        "display-sound",
        `${listed(owned)} belongs to ${describe(ownerOf(tree, first) ?? first)} and goes where that goes`,
        "Name it by its address if it is meant to go without the display",
      );
  }

  const isSet = as === "audio" || (as === "device" && ["usb", "audio"].includes(selector.class ?? ""));
  if (fits.length > 1 && !isSet)
    return refuse(
      "several",
      `${words} names ${fits.length} devices where one is meant: ${listed(fits)}`,
      "Say more about the one you mean (vendor and device, subsystem), or give its address",
    );
  const system = fits.find(isSystem);
  if (system)
    return refuse(
      "system-device",
      `${describe(system)} is part of the machine itself (a ${kindOf(system)}), which no qube may be given`,
      "Select the device behind it",
    );
  return { functions: Object.freeze(fits) };
}

const asksForUsb = ({ class: cls, address }: Selector) =>
  address !== undefined || cls === "usb" || cls?.startsWith("0c03") === true;

function matcher(tree: PciTree, selector: Selector): (fn: PciFunction) => boolean {
  const { class: cls, vendor, device, subsystem, position, address, driver } = selector;
  const isOfClass = cls === undefined ? undefined : (CLASSES[cls] ?? ((fn) => fn.class.startsWith(cls)));
  const at = address === undefined ? undefined : functionAt(tree, address);
  const boot = position === undefined ? undefined : bootDisplay(tree);
  return (fn) =>
    (isOfClass?.(fn) ?? true) &&
    (vendor === undefined || fn.vendor === vendor) &&
    (device === undefined || fn.device === device) &&
    (subsystem === undefined || fn.subsystem === subsystem) &&
    (position === undefined || fn === boot) &&
    (address === undefined || fn === at) &&
    (driver === undefined || moduleName(fn.module) === moduleName(driver));
}

/** Modules are named with either sign (snd_hda_intel, snd-hda-intel). */
const moduleName = (name: string | null) => name?.replaceAll("-", "_");

/** `{ class: "display", vendor: "8086" }`, as the program has it. */
export const selectorText = (selector: Selector) =>
  `{ ${Object.entries(selector)
    .map(([key, value]) => `${key}: ${JSON.stringify(value)}`)
    .join(", ")} }`;

/** What somebody may have meant whose selector matches nothing. */
function nearby(tree: PciTree, selector: Selector, as: Purpose): string {
  if (selector.position !== undefined && !bootDisplay(tree))
    return `The host does not say which display the firmware lit; give the address of one of these: ${listed(mainDisplays(tree))}`;
  const isAlike =
    CLASSES[selector.class ?? { display: "display", audio: "audio", device: "" }[as]] ??
    ((fn: PciFunction) => fn.vendor === selector.vendor);
  const alike = tree.functions.filter(isAlike);
  if (alike.length) return `Select one of these: ${listed(alike)}`;
  return "Look at the machine's devices in the Host's output pci";
}
