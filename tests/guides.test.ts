/** The inventories of docs/people.md are ones, and docs/troubleshooting.md quotes what is really said. */
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { faults } from "../lab/twin/faults.ts";
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

const said = (...folders: string[]) =>
  folders
    .flatMap((folder) =>
      readdirSync(path.join(ROOT, folder), { recursive: true, encoding: "utf8" })
        .filter((file) => /\.(ts|py)$/.test(file) && !/test/.test(file))
        .map((file) => readFileSync(path.join(ROOT, folder, file), "utf8")),
    )
    .join("\n");
const TROUBLES = readFileSync(path.join(ROOT, "docs/troubleshooting.md"), "utf8");
/** Quoted words at the beginning of a table's row; "…" stands for what differs. */
const quoted = (part: string) =>
  [...part.matchAll(/^\| (?:`([^`]+)`(?: or )?)+/gm)]
    .flatMap(([row]) => [...row.matchAll(/`([^`]+)`/g)])
    .map(([, text = ""]) => text);
const section = (title: string) => TROUBLES.split(/^## /m).find((part) => part.startsWith(title)) ?? "";

test("troubleshooting: what the run says is what our code says", () => {
  const texts = quoted(section("The run itself"));
  assert.ok(texts.length >= 5);
  const source = said("src", "salt/agent");
  for (const text of texts)
    for (const part of text.split("…")) assert.ok(source.includes(part.trim().replace(/:$/, "")), text);
});

test("troubleshooting: every way in which Qubes refuses a start has its row", () => {
  const rows = quoted(section("A GUI domain that does not start")).map(
    (text) => new RegExp(text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&").replaceAll("…", ".*")),
  );
  const starts = Object.entries(faults()).filter(([name]) => name.startsWith("start-"));
  assert.ok(starts.length > 9);
  for (const [name, { what }] of starts)
    assert.ok(
      rows.some((row) => row.test(what)),
      `${name}: ${what}`,
    );
  for (const row of rows)
    assert.ok(
      starts.some(([, { what }]) => row.test(what)),
      `${row} is said by nobody`,
    );
});

test.run();
