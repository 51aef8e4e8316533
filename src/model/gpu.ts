/** What a host gives to a GUI domain in mode "gpu". Sources: qubes-host.md (b) column GPU, (g); design §5 "GPU". */
import type { InputRule } from "./input.ts";
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

/**
 * What the kernel's arguments must say in a boot of mode "gpu". All that is critical for the screen hangs on them, so that a boot
 * without them, whoever chose it, gives dom0 its screen back.
 */
export const bootWords = (qube: string, ports: readonly string[]): string[] => [
  ...ports.map((port) => `rd.qubes.hide_pci=${port}`),
  NO_GREETER,
  `guidomain.gpu=${qube}`,
];

/** Why the qube does not start by itself or by hand: its display may be with a driver of dom0, and taking it there hangs the machine. */
export const NOT_THIS_BOOT = "guidomain: it starts only in a boot that keeps its display from dom0";
