/**
 * A single USB sound device, given to a qube for good as `qvm-usb assign` does it. Pure. Source: qubes-app-linux-usb-proxy 4.3.6
 * (qubesusbproxy/core3ext.py): an id is "VENDOR:PRODUCT:SERIAL:INTERFACES", of which the device itself says every part; only a qube that runs
 * shows what is plugged into it; what is assigned comes when one of the two qubes starts, or the device is plugged in.
 */
import type { Snapshot, UsbDevice } from "../host/protocol.ts";
import { type UsbSelector, usbWords } from "../model/usb.ts";

/** A device is given wherever it is plugged in: followed from port to port, unless its port is named. */
export const AUTOMATIC = "auto-attach";

/** Why not, for now, and what to do. */
interface Fact {
  what: string;
  next: string;
}

export interface UsbChoice {
  /** "BACKEND:PORT:ID" → how it is assigned. */
  settings: Record<string, string>;
  /** Facts that say no, for now. */
  against: Fact[];
  /** "VENDOR:DEVICE" of those that the qube has, or gets as soon as it runs. */
  present: string[];
  /** Where they are plugged in, "sys-usb:1-2". */
  places: string[];
  /** What a person has to do before a device is there. */
  waits: string[];
}

/** What the description asks for; `refuse` ends it where the description itself cannot be. */
export function chooseUsb(
  qube: string,
  selectors: readonly UsbSelector[],
  snapshot: Snapshot,
  refuse: (what: string, next: string) => Error,
): UsbChoice {
  const chosen: UsbChoice = { settings: {}, against: [], present: [], places: [], waits: [] };
  for (const selector of selectors) {
    const words = usbWords(selector);
    const backend = snapshot.qubes[selector.qube];
    if (!backend)
      throw refuse(
        `${words}: that qube does not exist there`,
        'Name the qube that has the USB controller in "qube"',
      );
    const plugged = snapshot.usb?.[selector.qube];
    const fitting = (plugged ?? []).filter((one) => fits(selector, one));
    for (const one of fitting) acceptable(words, one, refuse);
    const mine = (snapshot.qubes[qube]?.usb ?? []).filter(
      (one) => one.backend === selector.qube && fits(selector, one),
    );
    const isMine = (device: UsbDevice) =>
      mine.find((one) => one.device === device.device && ["*", device.port].includes(one.port));
    const device = fitting.find(isMine) ?? fitting[0];
    const kept = device ? isMine(device) : mine[0];
    if (fitting.length > 1 && !kept)
      throw refuse(
        `${words}: several fit, at ${fitting.map(({ port }) => port).join(", ")}`,
        'Say which one with "port"',
      );
    if (kept) chosen.settings[`${kept.backend}:${kept.port}:${kept.device}`] = AUTOMATIC;
    else if (device) {
      const other = takenBy(selector.qube, device, qube, snapshot);
      if (other)
        throw refuse(
          `${words}: it is assigned to "${other}"`,
          `Take it away there first (qvm-usb unassign ${other} ${selector.qube}:${device.port})`,
        );
      chosen.settings[`${selector.qube}:${selector.port ?? "*"}:${device.device}`] = AUTOMATIC;
    }
    if (device) chosen.places.push(`${selector.qube}:${device.port}`);
    if (device && [null, qube].includes(device.attachment)) {
      chosen.present.push(`${selector.vendor}:${selector.device}`);
      continue;
    }
    const fact = absence(selector, words, device, backend.state, plugged != null);
    if (kept) chosen.waits.push(fact.what);
    else chosen.against.push(fact);
  }
  return chosen;
}

const fits = ({ vendor, device, port }: UsbSelector, one: { port: string; device: string }) =>
  one.device.startsWith(`${vendor}:${device}:`) && (port === undefined || one.port === port);

/** Of an id the part that says what it does; the serial number before it may hold anything. */
const interfacesOf = (id: string): string[] => (id.split(":").at(-1) ?? "").match(/u[0-9a-f]{6}/g) ?? [];

const INPUTS: Record<string, string> = { u030101: "keyboard", u030102: "mouse" };

function acceptable(
  words: string,
  { device }: UsbDevice,
  refuse: (what: string, next: string) => Error,
): void {
  const interfaces = interfacesOf(device);
  const input = interfaces.map((one) => INPUTS[one]).find((kind) => kind !== undefined);
  if (input)
    throw refuse(
      `${words} is a ${input}: whoever has it reads what is typed, or clicks`,
      'Name a sound device; input devices go through "input" of a GuiDomain',
    );
  if (!interfaces.some((one) => one.startsWith("u01")))
    throw refuse(
      `${words} is no sound device: it shows ${interfaces.join(", ") || "no interfaces"}, none of class 01`,
      "Name a sound device (qvm-usb lists what is plugged in)",
    );
  // In a call of the Admin API "+" stands for ":", "*" for any, and a space ends the word.
  if (!/^[!#-&(),-[\]-~]+$/.test(device))
    throw refuse(
      `${words}: its serial number has characters with which Qubes cannot assign it`,
      'Give its USB controller instead, in "devices"',
    );
}

function takenBy(
  backend: string,
  { port, device }: UsbDevice,
  qube: string,
  { qubes }: Snapshot,
): string | undefined {
  return Object.keys(qubes).find(
    (name) =>
      name !== qube &&
      qubes[name]?.usb?.some(
        (one) =>
          one.backend === backend && ["*", port].includes(one.port) && ["*", device].includes(one.device),
      ),
  );
}

function absence(
  { qube }: UsbSelector,
  words: string,
  device: UsbDevice | undefined,
  state: string,
  told: boolean,
): Fact {
  if (device)
    return {
      what: `${words}: "${device.attachment}" has it now`,
      next: `Take it back there (qvm-usb detach ${device.attachment} ${qube}:${device.port})`,
    };
  if (state !== "Running")
    return {
      what: `${words}: that qube is ${state.toLowerCase()}, and only one that runs shows what is plugged in`,
      next: `Start it (qvm-start ${qube})`,
    };
  return told
    ? {
        what: `${words} is not plugged in there`,
        next: `Plug it in; that qube's template needs the package qubes-usb-proxy to show it (qvm-usb lists what it shows)`,
      }
    : {
        what: `${words}: dom0 does not know of USB devices`,
        next: "Install qubes-usb-proxy-dom0 there (qubes-dom0-update qubes-usb-proxy-dom0)",
      };
}
