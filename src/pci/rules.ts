/**
 * What must hold over all devices that a plan gives away on one host. Pure. Design §5, §6; qubes-host.md (h).
 * These rules keep the screen, the keyboard, the disks and the way in; each refusal names what would be lost.
 */
import type { PciFunction, Snapshot } from "./facts.ts";
import { reached } from "./identity.ts";
import type { Refused } from "./refused.ts";
import {
  bootDisplay,
  describe,
  isDisplay,
  isSystem,
  kindOf,
  mainDisplays,
  type PciTree,
  pciTree,
} from "./tree.ts";

/** A device that a plan gives to a qube; only those that are not there already need the rules. */
export interface Grant {
  readonly device: PciFunction;
  readonly qube: string;
  /** Hidden from dom0 from the start of each boot, so from the passphrase prompt on too. */
  readonly hide: boolean;
  /** The qube hands its keyboards back to dom0 (a policy allows it), once it runs. */
  readonly inputBack?: boolean;
}

/** Every reason not to carry the plan out; none is fine. */
export function hostRules(plan: readonly Grant[], snapshot: Snapshot): Refused[] {
  const tree = pciTree(snapshot.facts.pci);
  // The plan's functions may come from an earlier look at the host; what counts is this one.
  const grants = plan.map((grant) => ({
    ...grant,
    device: tree.bySbdf.get(grant.device.sbdf) ?? grant.device,
  }));
  return [
    ...twice(grants),
    ...grants.flatMap((grant) => [
      ...ofTheMachine(grant),
      ...inUseByDom0(grant),
      ...inUse(grant, tree, snapshot),
    ]),
    ...screen(grants, tree, snapshot),
    ...keyboard(grants, snapshot),
  ];
}

function twice(grants: readonly Grant[]): Refused[] {
  const byDevice = Map.groupBy(grants, ({ device }) => device.sbdf);
  return [...byDevice.values()].flatMap(([first, ...more]) =>
    first && more.length
      ? [
          {
            rule: "twice",
            what: `${describe(first.device)} is given away twice: to ${[first, ...more].map(({ qube }) => `"${qube}"`).join(" and ")}`,
            next: "Give it to one qube only",
          },
        ]
      : [],
  );
}

function ofTheMachine({ device }: Grant): Refused[] {
  if (!isSystem(device)) return [];
  return [
    {
      rule: "system-device",
      what: `${describe(device)} is part of the machine itself (a ${kindOf(device)}), which no qube may be given`,
      next: "Select the device behind it",
    },
  ];
}

function inUseByDom0({ device, hide }: Grant): Refused[] {
  const refused: Refused[] = [];
  if (device.disks.length)
    refused.push({
      rule: "storage",
      what: `dom0's disks hang on ${describe(device)}: ${device.disks.join(", ")}`,
      next: "Select a controller whose disks dom0 does not use",
    });
  if (device.nets.length)
    refused.push({
      rule: "way-in",
      what: `dom0's network hangs on ${describe(device)} (${device.nets.join(", ")}), and this host may be reached by it`,
      next: "Give dom0 another way in first, or select another card",
    });
  // The known way to hang a machine (design §5): a display driver in use is never unbound.
  if (isDisplay(device) && !hide && device.driver !== null && device.driver !== "pciback")
    refused.push({
      rule: "live-display",
      what: `${describe(device)} is driven by dom0 (${device.driver}), and a driver that is in use is never taken off a display`,
      next: `Give it to a GuiDomain with display "gpu", which hides it at boot`,
    });
  return refused;
}

/** In a running qube, or in one that starts by itself; that one may be the way in. A halted qube may share it: only a second start fails. */
function inUse({ device, qube }: Grant, tree: PciTree, { qubes }: Snapshot): Refused[] {
  return Object.entries(qubes).flatMap(([name, other]) => {
    const has = other.pci.some((entry) => reached(tree, entry).includes(device));
    const is = (property: string) => other.properties[property]?.value === "True";
    const isRunning = other.state !== "Halted";
    if (!has || name === qube || !(isRunning || is("autostart"))) return [];
    const isWayIn = is("provides_network");
    return [
      {
        rule: isWayIn ? "way-in" : "in-use",
        what: `${describe(device)} belongs to qube "${name}", which ${isRunning ? `is ${other.state.toLowerCase()}` : "starts with the host"}${isWayIn ? " and gives other qubes their network, perhaps the way to this host too" : ""}`,
        next: `Unassign it from "${name}" first if that qube can do without`,
      },
    ];
  });
}

/** Without the boot display, or without any, dom0 shows nothing: the one-shot boot and its rescue entry are the way back. */
function screen(grants: readonly Grant[], tree: PciTree, { facts }: Snapshot): Refused[] {
  const given = new Set(grants.map(({ device }) => device));
  const displays = mainDisplays(tree);
  const lost = displays.filter((fn) => given.has(fn));
  const isLast = lost.length > 0 && lost.length === displays.length;
  const boot = bootDisplay(tree);
  if (!isLast && !(boot && given.has(boot))) return [];
  if (facts.boot.oneShot === true) return [];
  return [
    {
      rule: "last-screen",
      what: `dom0 would have no screen without ${lost.map(describe).join(" and ")}, and no way back: ${facts.boot.oneShotWhy}`,
      next: "Keep a display for dom0, or make the host able to boot an entry once (a plain /boot partition that GRUB can write)",
    },
  ];
}

/** A keyboard must stay that reaches dom0; at the passphrase prompt no qube runs yet to hand one back. */
function keyboard(grants: readonly Grant[], { facts }: Snapshot): Refused[] {
  const losing = grants.filter(({ device }) => hasKeyboard(device, facts.keyboards));
  if (!losing.length) return [];
  const known =
    facts.keyboards ?? facts.pci.filter((fn) => fn.inputs.includes("keyboard")).map((fn) => `usb:${fn.sbdf}`);
  const stays = (lost: readonly Grant[]) =>
    known.some((at) => !lost.some(({ device }) => at === `usb:${device.sbdf}`));
  const names = losing.map(({ device }) => describe(device)).join(" and ");
  const gone = losing.filter(({ inputBack }) => !inputBack);
  if (gone.length && !stays(gone))
    return [
      {
        rule: "only-keyboard",
        what: `the only keyboard hangs on ${names}${facts.boot.unattended === true ? "" : ", and the passphrase at boot is typed on it"}`,
        next: "Keep that controller in dom0, connect a keyboard elsewhere, or let the qube hand its keyboard back (qubes.InputKeyboard)",
      },
    ];
  const hidden = losing.filter(({ hide }) => hide);
  if (hidden.length && facts.boot.unattended !== true && !stays(hidden))
    return [
      {
        rule: "passphrase-keyboard",
        what: `the keyboard for the passphrase at boot hangs on ${hidden.map(({ device }) => describe(device)).join(" and ")}, which would be hidden then (${facts.boot.unattendedWhy})`,
        next: "Connect a keyboard elsewhere, or do not hide that controller",
      },
    ];
  return [];
}

const hasKeyboard = (fn: PciFunction, keyboards: readonly string[] | null) =>
  fn.inputs.includes("keyboard") || (keyboards?.includes(`usb:${fn.sbdf}`) ?? false);
