/**
 * Which keyboards, mice and tablets reach the screen of a GUI domain, as a program says it. Pure. Sources: qubes-host.md (g);
 * qubes-app-linux-input-proxy 1.0.45 (its services, and what stands in a call's argument).
 */
import * as v from "valibot";
import { listOf, named, oneOf, only, shown, wrong } from "./fields.ts";
import { qubeNameFault } from "./names.ts";

export const KINDS = ["mouse", "keyboard", "tablet"] as const;
export type Kind = (typeof KINDS)[number];
export type Answer = "allow" | "ask" | "deny";

/** The call by which a device of that kind asks to be passed on. */
export const INPUT_SERVICES: Record<Kind, string> = {
  mouse: "qubes.InputMouse",
  keyboard: "qubes.InputKeyboard",
  tablet: "qubes.InputTablet",
};

/** What is said of kinds; of one that is not named the host's own policy says it. */
type Answers = { [kind in Kind]?: Answer | undefined };
/** One device, as its call names it: "usb-0000_00_06.0-1+3-46d-c31c-110", with port, bus, vendor, product, version and serial. */
export interface PinnedDevice extends Answers {
  device: string;
}
export interface UsbInput extends Answers {
  qube: string;
  devices?: PinnedDevice[] | undefined;
}
export interface Input {
  /** dom0's own devices, all of them: only mode "gpu" passes these on. */
  dom0: "allow" | "deny";
  usb: UsbInput[];
}

export const USB_QUBE = "sys-usb";

/** Policy compares the whole argument, letter by letter; nothing of it can be left open. */
const deviceFault = (device: string) =>
  /^[A-Za-z0-9_.+-]{1,200}$/.test(device)
    ? null
    : `${shown(device.length > 40 ? `${device.slice(0, 40)}…` : device)} is not a device; give what follows the first "+" in its call, such as "usb-0000_00_06.0-1+3-46d-c31c-110": letters, digits, "+", "-", ".", "_", at most 200`;

const answers = {
  mouse: v.optional(oneOf("allow", "ask", "deny")),
  keyboard: v.optional(oneOf("allow", "ask", "deny")),
  tablet: v.optional(oneOf("allow", "ask", "deny")),
};
const KIND_NAMES = KINDS.join(", ");
const pinned = only(
  { device: named(deviceFault, "a device"), ...answers },
  wrong(`a device: device, and what is said of it: ${KIND_NAMES}`),
  `not a part of a device; allowed are device, ${KIND_NAMES}`,
);
const usbQube = named((name) =>
  name === "dom0"
    ? `"dom0" is no USB qube: what is said of its own devices stands in input.dom0`
    : qubeNameFault(name),
);
const usb = only(
  { qube: v.optional(usbQube), ...answers, devices: v.optional(listOf(pinned)) },
  wrong(`a USB qube: qube, ${KIND_NAMES}, devices`),
  `not a part of a USB qube's input; allowed are qube, ${KIND_NAMES}, devices`,
);
export const INPUT = only(
  { dom0: v.optional(oneOf("allow", "deny")), usb: v.optional(listOf(usb)) },
  wrong("where input comes from: dom0, usb"),
  "not a source of input; allowed are dom0, usb",
);

/** With its defaults: what nobody speaks of is as it is without. */
export function inputOf(given: v.InferOutput<typeof INPUT>): Input {
  return {
    dom0: given.dom0 ?? "allow",
    usb: (given.usb ?? []).map(({ qube = USB_QUBE, ...rest }) => ({ qube, ...rest })),
  };
}

/** What is wrong with it whatever the host; `passesOn`: a mode of the GUI domain `gui` takes dom0's own devices. */
export function inputFaults(
  { dom0, usb }: Input,
  gui: string,
  passesOn: boolean,
  add: (property: string, reason: string) => void,
): void {
  if (dom0 === "deny" && !passesOn)
    add(
      "input.dom0",
      `"deny" is for mode "gpu": in the others dom0 keeps its own keyboard and mouse anyway, since it shows the window; leave it out`,
    );
  usb.forEach((one, i) => {
    const at = `input.usb[${i}]`;
    const devices = one.devices ?? [];
    if (one.qube === gui)
      add(`${at}.qube`, `"${gui}" is the GUI domain itself, which has what is plugged into it already`);
    if (usb.findIndex(({ qube }) => qube === one.qube) < i)
      add(`${at}.qube`, `"${one.qube}" is there twice; say all of it in one place`);
    if (saidOf(one).length + devices.length === 0)
      add(at, `nothing is said of "${one.qube}"; name a kind (${KIND_NAMES}), or devices`);
    devices.forEach((device, j) => {
      if (saidOf(device).length === 0)
        add(`${at}.devices[${j}]`, `nothing is said of "${device.device}"; name a kind: ${KIND_NAMES}`);
      if (devices.findIndex((other) => other.device === device.device) < j)
        add(`${at}.devices[${j}].device`, `"${device.device}" is there twice; say all of it in one place`);
    });
  });
}

const saidOf = (answers: Answers): [Kind, Answer][] =>
  KINDS.flatMap((kind): [Kind, Answer][] => {
    const answer = answers[kind];
    return answer === undefined ? [] : [[kind, answer]];
  });

/** One line of policy about input, before it is known where that goes. */
export interface InputRule {
  qube: string;
  service: string;
  /** "*", or "+" and a device. */
  argument: string;
  answer: Answer;
  /** Where a program says so: "input.usb[0].keyboard". */
  path?: string;
}

/** The rules in their order: the first that fits counts, so a device comes before its kind. */
export const inputRules = ({ usb }: Input): InputRule[] =>
  usb.flatMap((one, i) => {
    const rule =
      (argument: string, at: string) =>
      ([kind, answer]: [Kind, Answer]): InputRule => ({
        qube: one.qube,
        service: INPUT_SERVICES[kind],
        argument,
        answer,
        path: `input.usb[${i}]${at}.${kind}`,
      });
    return [
      ...(one.devices ?? []).flatMap((device, j) =>
        saidOf(device).map(rule(`+${device.device}`, `.devices[${j}]`)),
      ),
      ...saidOf(one).map(rule("*", "")),
    ];
  });

/** `said` first; of `found` only what `said` leaves open. */
export const withFound = (said: readonly InputRule[], found: readonly InputRule[]): InputRule[] => [
  ...said,
  ...found.filter(
    ({ qube, service, argument }) =>
      !said.some(
        (one) =>
          one.qube === qube && one.service === service && (one.argument === "*" || one.argument === argument),
      ),
  ),
];
