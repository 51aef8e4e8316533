/** What a host gives to a GUI domain in mode "gpu". Sources: qubes-host.md (b) column GPU, (g); design §5 "GPU". */
import type { InputRule } from "./input.ts";
import type { Platform } from "./platform.ts";
import type { DeviceSetting } from "./settings.ts";

export interface GpuGrant {
  /** Every function given away, by what it is: the display, its sound, its own USB. */
  devices: Record<string, DeviceSetting>;
  /** What qubes with USB controllers may send to dom0 now, which takes the GUI domain's place. */
  inputs: InputRule[];
  /** What the qube's `kernelopts` are to be where its display needs options; null: they stay as they are. */
  kernelOptions: string | null;
}

/** Keeps dom0 off the screen; without it the greeter would wait for a display that is not there. */
const NO_GREETER = "systemd.mask=lightdm.service";

/** That a boot keeps the display for this qube. */
export const gpuWord = (qube: string) => `guidomain.gpu=${qube}`;

/**
 * What the kernel's arguments must say in a boot of mode "gpu". All that is critical for the screen hangs on them, so that a boot
 * without them, whoever chose it, gives dom0 its screen back. On plain Xen they keep dom0's greeter away by a condition of its unit
 * (templates/xen/greeter.conf.hbs), for Debian's GRUB gives the same words to its entries without Xen.
 */
export const bootWords = (platform: Platform, qube: string, ports: readonly string[]): string[] =>
  platform === "qubes"
    ? [...ports.map((port) => `rd.qubes.hide_pci=${port}`), NO_GREETER, gpuWord(qube)]
    : [...ports.map((port) => `xen-pciback.hide=(${sbdfOfPort(port)})`), gpuWord(qube)];

/** Plain Xen: "0000:02:00.0" of the port "0000_02_00.0". */
export const sbdfOfPort = (port: string) => port.replaceAll("_", ":");

/** Why the qube does not start by itself or by hand: its display may be with a driver of dom0, and taking it there hangs the machine. */
export const NOT_THIS_BOOT = "guidomain: it starts only in a boot that keeps its display from dom0";
