/** Hosts of the Xen lab for tests and for `npm run lab:xen`: `const host = await startXenHost({ dir })`. */
import { existsSync, mkdirSync, rmSync } from "node:fs";
import { resolve } from "node:path";
import { makeGolden } from "./golden.ts";
import { attachXenHost, layDisk, startMachine, type XenHost } from "./host.ts";
import { buildImage } from "./image.ts";
import type { Machine } from "./qemu.ts";

export { attachXenHost, type HostState, XenHost } from "./host.ts";
export { DEVICES, type Machine } from "./qemu.ts";
export type { Result } from "./ssh.ts";

export interface StartOptions {
  /** The host's folder; it is made. A disk left there by an earlier host is replaced. */
  dir: string;
  machine?: Partial<Machine>;
  /**
   * golden (the default): goes on from a host that has booted, in seconds; a reboot then goes through GRUB as on any.
   * boot: from the firmware, through GRUB.
   */
  from?: "golden" | "boot";
  /** Goes on when this process ends; otherwise the host ends with it, however it ends. */
  detached?: boolean;
  /** Gets a line for each long step. */
  say?: (line: string) => void;
}

/** A host that is up. The image and the golden state are made where they are missing (minutes, once). */
export async function startXenHost({
  dir: folder,
  machine: given = {},
  from = "golden",
  detached = false,
  say = () => {},
}: StartOptions): Promise<XenHost> {
  const dir = resolve(folder);
  const before = attachXenHost(dir);
  if (before && (await before.power()) !== "off")
    throw new Error(`The Xen host in ${dir} is already running; stop it first.`);
  const machine: Machine = { iommu: true, ...given };
  const image = await buildImage(say);
  const golden = from === "golden" ? await makeGolden(image, machine, say) : null;
  mkdirSync(dir, { recursive: true });
  if (existsSync(`${dir}/console.log`)) rmSync(`${dir}/console.log`);
  layDisk(dir, golden?.disk ?? image.disk, golden ? "qcow2" : "raw");
  const host = await startMachine(dir, image, machine, { detached, ...(golden && { state: golden.state }) });
  try {
    if (golden) {
      await host.command("cont");
      // It went on from another hour and under the name of the one that was kept.
      const seconds = Math.floor(Date.now() / 1000);
      await host.must(
        `date -s @${seconds} && echo ${host.name} > /etc/hostname && hostname ${host.name} && printf '127.0.0.1 localhost ${host.name}\\n' > /etc/hosts`,
        { timeout: 300_000 },
      );
    } else await host.until("up", { timeout: 1_200_000 });
    return host;
  } catch (error) {
    await host.stop();
    throw error;
  }
}
