/** The inventories of docs/people.md are ones. */
import { readFileSync } from "node:fs";
import path from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { parseInventory } from "../src/host/inventoryFile.ts";
import { parseWorkstation } from "../src/model/workstation.ts";
import { ROOT } from "./harness.ts";

test("every inventory of the guides", () => {
  const text = readFileSync(path.join(ROOT, "docs/people.md"), "utf8");
  const found = [...text.matchAll(/^```yaml\n(.*?)^```$/gms)].map(([, yaml = ""]) => yaml);
  assert.ok(found.length >= 4);
  for (const yaml of found) {
    const { workstations } = parseInventory(yaml, "inventory.yaml");
    const [[host = "", given] = []] = Object.entries(workstations);
    const parsed = parseWorkstation(host, given);
    assert.ok("workstation" in parsed, JSON.stringify(parsed));
  }
});

test.run();
