/** Faults by name, for `npm run lab -- fault` and for tests. What there is stands in dom0/machine/faults.py. */
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Twin } from "./twin.ts";
import type { Machine, Patch, Trigger, World } from "./world.ts";

export interface Fault {
  what: string;
  /** Of the world, while the fault is set; null: it happens once. */
  patch: Patch<World> | null;
}

/** Name → fault, from the Python side, where a runner without a sandbox finds them as well. */
export function faults(): Record<string, Fault> {
  return python("faults.listed()");
}

export async function applyFault(twin: Twin, fault: string | Trigger): Promise<void> {
  if (typeof fault !== "string") {
    const triggers = [...(twin.surroundings().faults.triggers ?? []), fault];
    await twin.world({ faults: { triggers } });
    // Process 1 looks for faults that wait for a file this often as long as there are none.
    if (fault.at.startsWith("file ")) await sleep(150);
    return;
  }
  const found = faults()[fault];
  if (!found) throw new Error(`There is no fault ${fault}; npm run lab -- fault list names all.`);
  if (found.patch) return twin.world(found.patch);
  switch (fault) {
    case "kernel-update":
    case "second-controller": {
      const { code, stderr } = await twin.exec(`twin-fault ${fault}`);
      if (code !== 0) throw new Error(`The fault ${fault} in the twin ${twin.name}: ${stderr.trim()}`);
      return;
    }
    case "firmware-renumber":
    case "firmware-move": {
      const change = fault === "firmware-move" ? "moved" : "renumbered";
      return twin.world({
        nextMachine: python<Machine>(`hardware.${change}(given)`, twin.surroundings().machine),
      });
    }
    case "template-update":
      return twin.world({
        templates: python<World["templates"]>("faults.updated(given)", twin.surroundings().templates),
      });
    default:
      return twin.strike(fault as Trigger["do"], "fault by hand");
  }
}

const SCRIPT = `
import json, sys
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
from machine import faults, hardware
given = json.load(sys.stdin)
print(json.dumps(eval(sys.argv[2])))
`;

function python<T>(expression: string, given: unknown = null): T {
  const { stdout, stderr, status } = spawnSync(
    "python3",
    ["-c", SCRIPT, join(import.meta.dirname, "dom0"), expression],
    { input: JSON.stringify(given), encoding: "utf8" },
  );
  if (status !== 0) throw new Error(`python3 on the twin's faults: ${stderr.trim()}`);
  return JSON.parse(stdout) as T;
}
