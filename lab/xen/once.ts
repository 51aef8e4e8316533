/** One process makes what several want; the others wait for it. */
import { linkSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { alive, identify, type ProcessId } from "../twin/process.ts";

/**
 * What `find` finds; where that is null, what `make` makes while `lock` (a file, with the id of its process) is ours. One that
 * was left by a process that has ended is removed; should two do that at once both may make it, so `make` must bear company.
 */
export async function once<T>(lock: string, find: () => T | null, make: () => Promise<T>): Promise<T> {
  mkdirSync(dirname(lock), { recursive: true });
  const mine = `${lock}.${process.pid}`;
  for (;;) {
    const found = find();
    if (found !== null) return found;
    writeFileSync(mine, JSON.stringify(identify(process.pid)));
    try {
      linkSync(mine, lock); // with its text at once, or not at all
      break;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
      if (!alive(holder(lock))) rmSync(lock, { force: true });
      else await sleep(1000);
    } finally {
      rmSync(mine, { force: true });
    }
  }
  try {
    return find() ?? (await make());
  } finally {
    rmSync(lock, { force: true });
  }
}

/** Whose it is; nobody's, as of a process that cannot be, where it is gone by now. */
function holder(lock: string): ProcessId {
  try {
    return JSON.parse(readFileSync(lock, "utf8")) as ProcessId;
  } catch {
    return { pid: 0, start: "" };
  }
}
