/**
 * A host that has booted, kept: its disk and the state of the whole machine, so that another one goes on from there in seconds.
 * `.lab/xen-cache/golden-DIGEST/`: `disk.qcow2` (over the image), `state.zst`. One for each kind of machine, made where it is missing.
 */
import { createHash } from "node:crypto";
import { existsSync, mkdtempSync, renameSync, rmSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { layDisk, startMachine, type XenHost } from "./host.ts";
import { CACHE, type Image } from "./image.ts";
import { once } from "./once.ts";
import { type Machine, machineArguments, qemuVersion } from "./qemu.ts";

export interface Golden {
  disk: string;
  state: string;
}

/** A state fits the same image, the same machine and the same QEMU only. */
function folderOf(image: Image, machine: Machine): string {
  const parts = [image.digest, qemuVersion(), machineArguments(machine, { disk: "", port: 0 })];
  return join(
    CACHE,
    `golden-${createHash("sha256").update(JSON.stringify(parts)).digest("hex").slice(0, 16)}`,
  );
}

const inFolder = (folder: string): Golden => ({
  disk: join(folder, "disk.qcow2"),
  state: join(folder, "state.zst"),
});

export function findGolden(image: Image, machine: Machine): Golden | null {
  const folder = folderOf(image, machine);
  return existsSync(folder) ? inFolder(folder) : null;
}

/** The kept host, booted and saved where there is none: one boot and half a minute. `say` gets progress, a line each. */
export function makeGolden(image: Image, machine: Machine, say: (line: string) => void): Promise<Golden> {
  const find = () => findGolden(image, machine);
  return once(`${folderOf(image, machine)}.lock`, find, () => saveBooted(image, machine, say));
}

async function saveBooted(image: Image, machine: Machine, say: (line: string) => void): Promise<Golden> {
  const folder = folderOf(image, machine);
  const making = mkdtempSync(join(CACHE, "making-"));
  const start = performance.now();
  const passed = () => `${((performance.now() - start) / 1000).toFixed(0)} s`;
  let host: XenHost | undefined;
  try {
    // A relative name, so that the cache can be moved as a whole.
    layDisk(making, join("..", basename(dirname(image.disk)), basename(image.disk)), "raw");
    host = await startMachine(making, image, machine, { detached: false });
    await host.until("up", { timeout: 1_200_000 });
    say(`first boot through GRUB${machine.iommu ? "" : ", without IOMMU"}: ${passed()}`);
    // Units that are still starting would do so in every host that goes on from here.
    await host.exec("systemctl is-system-running --wait", { timeout: 600_000 });
    await host.untilDesktop();
    // What hosts will run first is read once; then memory is made to compress well.
    await host.must("xl info; xl list; lspci; sync; echo 3 > /proc/sys/vm/drop_caches", { timeout: 300_000 });
    await host.command("stop");
    await host.command("migrate-set-parameters", { "max-bandwidth": 8_000_000_000 });
    await host.command("migrate", { uri: "exec:zstd -q -1 > state.zst" });
    for (const limit = Date.now() + 600_000; ; await sleep(500)) {
      const { status } = await host.command<{ status?: string }>("query-migrate");
      if (status === "completed") break;
      if (status === "failed" || Date.now() > limit)
        throw new Error(`QEMU could not save the machine's state: ${status}`);
    }
    await host.command("quit");
    await host.until("off", { timeout: 60_000 });
    await host.stop();
    for (const name of ["console.log", "qemu.log", "qmp.sock"]) rmSync(join(making, name), { force: true });
    if (!existsSync(folder)) renameSync(making, folder);
    say(`state saved: ${passed()} in all`);
    return inFolder(folder);
  } finally {
    await host?.stop();
    rmSync(making, { recursive: true, force: true });
  }
}
