/** The lab's guest (image/guest/init): its configuration for `xl`, and the words that go through xenstore and its console. */

export interface GuestOptions {
  name: string;
  type: "pv" | "pvh" | "hvm";
  /** Addresses of PCI functions, with domain. */
  pci?: readonly string[];
  /** VNC display on dom0's loopback that shows the guest's framebuffer; the session `lab-screen` shows number 5. PV only. */
  display?: number;
}

/** Debian's kernel as packaged, for every type of guest. */
export const KERNEL = "/opt/lab/guest.kernel";
/** The same unpacked, for PV and PVH: `xl create` is seconds faster. */
export const UNPACKED = "/opt/lab/guest.vmlinux";
/** A link: the fault `guest-hangs` lets it lead to another one. */
export const INITRD = "/opt/lab/guest.initrd";

/** What the guest gets from dom0's Xen console daemon. */
export const consoleOf = (name: string) => `/var/log/xen/console/guest-${name}.log`;

/** A configuration as xl.cfg(5) has it. */
export function guestConfiguration({ name, type, pci = [], display }: GuestOptions): string {
  const list = (items: readonly string[]) => `[${items.map((item) => JSON.stringify(item)).join(", ")}]`;
  return [
    `name = ${JSON.stringify(name)}`,
    `type = ${JSON.stringify(type)}`,
    "memory = 192",
    "vcpus = 1",
    `kernel = ${JSON.stringify(type === "hvm" ? KERNEL : UNPACKED)}`,
    `ramdisk = ${JSON.stringify(INITRD)}`,
    'extra = "console=hvc0 console=tty0 quiet"',
    ...["on_poweroff", "on_reboot", "on_crash"].map((event) => `${event} = "destroy"`),
    ...(pci.length > 0 ? [`pci = ${list(pci)}`] : []),
    ...(display === undefined
      ? []
      : [`vfb = ${list([`type=vnc,vnclisten=127.0.0.1,vncdisplay=${display},vncunused=0`])}`]),
    "",
  ].join("\n");
}

export interface Seen {
  address: string;
  /** "0x038000" */
  class: string;
  /** "1234:1111" */
  id: string;
}

/** The PCI functions that the guest's kernel told on its console. */
export function seenFunctions(console: string): Seen[] {
  return [...console.matchAll(/^guest sees (\S+) (0x[0-9a-f]+) 0x([0-9a-f]+):0x([0-9a-f]+)/gm)].map(
    ([, address, type, vendor, device]) => ({
      address: address as string,
      class: type as string,
      id: `${vendor}:${device}`,
    }),
  );
}
