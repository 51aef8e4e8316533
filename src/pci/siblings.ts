/**
 * What goes along with a device, and what it shares a reset with. Pure. Design §6.
 * Only a display takes anything along: on many laptops its slot, or that of the sound, holds the keyboard's USB
 * controller, the security processor or the LPC bridge.
 */
import type { PciFunction } from "./facts.ts";
import {
  busMates,
  descendants,
  isBridge,
  isMainDisplay,
  isUsb,
  mainDisplays,
  type PciTree,
  parentOf,
  slotMates,
} from "./tree.ts";

export interface Siblings {
  /** Given together with it. */
  readonly takes: readonly PciFunction[];
  /** The rest of what a reset by way of its bus would hit: that of its bus, on a root bus that of its slot. */
  readonly stays: readonly PciFunction[];
}

export function siblings(tree: PciTree, fn: PciFunction): Siblings {
  const takes = isMainDisplay(tree, fn) ? cardOf(tree, fn).filter((other) => goesWith(fn, other)) : [];
  const mates = parentOf(tree, fn) ? busMates(tree, fn) : slotMates(tree, fn);
  return { takes, stays: mates.filter((other) => !takes.includes(other)) };
}

/**
 * A display's own sound, and a discrete card's own USB and UCSI functions. "Its own" is told by the vendor: in the slot of
 * an AMD APU the display is of 1002, the machine's USB, sound codec and security processor are of 1022.
 */
function goesWith(display: PciFunction, other: PciFunction): boolean {
  if (other.vendor !== display.vendor) return false;
  if (other.class.startsWith("0403")) return true;
  const isDiscrete = display.parent !== null;
  const isBusy = [other.inputs, other.disks, other.nets].some((used) => used.length > 0);
  return isDiscrete && !isBusy && (isUsb(other) || isUcsi(other));
}

/** The USB-C controller of a card shows as "serial bus, other" (NVIDIA 10de:1adb). */
const isUcsi = (fn: PciFunction) => fn.class.startsWith("0c80");

/**
 * The other functions of the card: its slot, and behind the switch that some cards have on board, where sound sits on
 * a bus of its own (Intel Arc). We climb while all that is below a bridge can be this one card, and stop below the root port.
 */
function cardOf(tree: PciTree, display: PciFunction): PciFunction[] {
  const card = new Set(slotMates(tree, display));
  for (let top = parentOf(tree, display); top?.parent; top = parentOf(tree, top)) {
    const below = descendants(tree, top).filter((fn) => fn !== display && !isBridge(fn));
    if (!below.every((fn) => card.has(fn) || goesWith(display, fn))) break;
    for (const fn of below) card.add(fn);
  }
  return [...card];
}

/** The display whose own part this function is, such as the sound of an HDMI socket. */
export function ownerOf(tree: PciTree, fn: PciFunction): PciFunction | undefined {
  return mainDisplays(tree).find((display) => siblings(tree, display).takes.includes(fn));
}
