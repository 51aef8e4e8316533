/** Processes of the machine, known by id and start time, so that a reused id is never taken for ours. */
import { readdirSync, readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

export interface ProcessId {
  pid: number;
  /** Clock ticks after the machine's boot; proc(5), stat field 22. */
  start: string;
}

interface Stat {
  parent: number;
  state: string;
  start: string;
}

function stat(pid: number): Stat | null {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "utf8");
    const fields = text.slice(text.lastIndexOf(")") + 2).split(" "); // from field 3 on
    return { state: fields[0] ?? "", parent: Number(fields[1]), start: fields[19] ?? "" };
  } catch {
    return null; // no such process
  }
}

/** Throws when there is no such process. */
export function identify(pid: number): ProcessId {
  const found = stat(pid);
  if (!found) throw new Error(`process ${pid} has ended`);
  return { pid, start: found.start };
}

export function alive(process: ProcessId): boolean {
  const found = stat(process.pid);
  return found !== null && found.start === process.start && found.state !== "Z";
}

/** The process and everything below it, children after parents. */
export function tree(root: ProcessId): ProcessId[] {
  if (!alive(root)) return [];
  const below = new Map<number, ProcessId[]>();
  for (const entry of readdirSync("/proc")) {
    const pid = Number(entry);
    const found = Number.isInteger(pid) ? stat(pid) : null;
    if (!found) continue;
    const siblings = below.get(found.parent) ?? [];
    siblings.push({ pid, start: found.start });
    below.set(found.parent, siblings);
  }
  const all = [root];
  for (const process of all) all.push(...(below.get(process.pid) ?? []));
  return all;
}

export function signal(target: ProcessId, name: NodeJS.Signals): void {
  if (!alive(target)) return;
  try {
    process.kill(target.pid, name);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

/** Ends the processes: SIGTERM, and SIGKILL for what is left after `patience` ms. Returns when all are gone. */
export async function end(processes: ProcessId[], patience = 2000): Promise<void> {
  for (const process of processes) signal(process, "SIGTERM");
  const limit = Date.now() + patience;
  let killed = false;
  while (processes.some(alive)) {
    if (!killed && Date.now() > limit) {
      for (const process of processes) signal(process, "SIGKILL");
      killed = true;
    }
    await sleep(5);
  }
}
