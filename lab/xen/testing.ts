/** What the lab's own tests share: hosts in a folder that goes, guests, timings, and the skip where there is no lab. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { test } from "uvu";
import { consoleOf, type GuestOptions, guestConfiguration } from "./guest.ts";
import { lacking } from "./needs.ts";
import type { XenHost } from "./xenHost.ts";

export const folder = mkdtempSync(join(tmpdir(), "guidomain-xen-"));
export const say = (line: string) => console.log(`  ${line}`);

const missing = lacking();
if (missing.length > 0)
  console.log(`skipped: no Xen host here, since the machine has no ${missing.join(", ")}`);

/** Seconds since `start`, as "12.3 s". */
export const passed = (start: number) => `${((performance.now() - start) / 1000).toFixed(1)} s`;

/** A test that says how long it took, and is skipped where there is no lab. */
export function on(title: string, work: () => Promise<void>): void {
  (missing.length > 0 ? test.skip : test)(title, async () => {
    const start = performance.now();
    await work().catch((error: Error) => {
      say(`failed: ${title}: ${error.message}`); // uvu tells at the end of the file only, and that is far away
      throw error;
    });
    say(`${title}: ${passed(start)}`);
  });
}

/** Starts a guest and resolves with what it has said on its console, when it is ready (or has said `word`). */
export async function startGuest(options: GuestOptions, on: XenHost, word = "ready"): Promise<string> {
  const { name } = options;
  await on.must(`cat > /etc/xen/${name}.cfg; : > ${consoleOf(name)}`, { input: guestConfiguration(options) });
  await on.must(`xl create /etc/xen/${name}.cfg`, { timeout: 600_000 });
  return untilSaid(on, name, new RegExp(`^guest ${word}`, "m"));
}

async function untilSaid(on: XenHost, name: string, pattern: RegExp): Promise<string> {
  for (const limit = Date.now() + 600_000; ; await sleep(2000)) {
    const said = (await on.must(`cat ${consoleOf(name)}`)).replaceAll("\r", "");
    if (pattern.test(said)) return said;
    if (Date.now() > limit) throw new Error(`${name} did not say ${pattern}, only: ${said.slice(-400)}`);
  }
}

export const driverOf = async (on: XenHost, address: string) =>
  (await on.must(`readlink /sys/bus/pci/devices/${address}/driver || echo none`)).trim().split("/").at(-1);

test.after(() => rmSync(folder, { recursive: true, force: true }));
