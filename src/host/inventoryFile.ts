/** A YAML inventory. A module of its own: only who has such a file pays for loading a YAML parser (20 ms at each start). */
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import path, { dirname, resolve } from "node:path";
import { LineCounter, parseDocument } from "yaml";
import { isMap } from "../model/fields.ts";
import { type Hosts, InventoryError, parseHosts } from "./inventory.ts";

/** What an inventory says: how hosts are reached, and what each is to have, which the stack workstation parses. */
export interface InventoryFile {
  hosts: Hosts;
  /** By the host's name. */
  workstations: Record<string, unknown>;
}

/** The inventory that `guidomain:inventory` names; `file` is where it was found. */
export async function readInventory(name: string): Promise<InventoryFile & { file: string }> {
  const file = path.resolve(projectFolder(), name);
  let text: string;
  try {
    text = await readFile(file, "utf8");
  } catch {
    const reason = file.includes(`${path.sep}.lab${path.sep}`)
      ? 'cannot be read; start the lab host first: "npm run lab -- start"'
      : "cannot be read; guidomain:inventory names it";
    throw new InventoryError(file, [{ property: "", reason }]);
  }
  return { ...parseInventory(text, file), file };
}

/** The folder of Pulumi.yaml, where a person's relative paths start; the engine starts us in the program's own folder. */
function projectFolder(): string {
  for (let folder = process.cwd(); ; folder = path.dirname(folder)) {
    if (["Pulumi.yaml", "Pulumi.yml", "Pulumi.json"].some((name) => existsSync(path.join(folder, name))))
      return folder;
    if (folder === path.dirname(folder)) return process.cwd();
  }
}

/** `{hosts: {name: {…}}, workstations: {name: {…}}}`. `path` is the file's. */
export function parseInventory(text: string, path: string): InventoryFile {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false });
  const [error] = document.errors;
  if (error) {
    // The parser's own message would quote the line, and with it perhaps a passphrase.
    const { line, col } = lines.linePos(error.pos[0]);
    throw new InventoryError(path, [
      { property: "", reason: `not YAML: line ${line}, column ${col} (${error.code})` },
    ]);
  }
  let content: unknown;
  try {
    content = document.toJS({ maxAliasCount: 100 });
  } catch {
    throw new InventoryError(path, [
      { property: "", reason: "not YAML that can be read: an alias leads nowhere or too far" },
    ]);
  }
  if (!isMap(content) || !("hosts" in content))
    throw new InventoryError(path, [{ property: "", reason: 'give a map with the key "hosts" at the top' }]);
  const { hosts, workstations = {}, ...others } = content;
  const unknown = Object.keys(others).map((property) => ({
    property,
    reason: "not a part of an inventory; allowed are hosts, workstations",
  }));
  if (unknown.length) throw new InventoryError(path, unknown);
  const reached = parseHosts(hosts, path, { base: dirname(resolve(path)) });
  return { hosts: reached, workstations: ofHosts(workstations, reached, path) };
}

/** What a machine is to have stands under the name of a host. */
function ofHosts(workstations: unknown, hosts: Hosts, path: string): Record<string, unknown> {
  const names = [...hosts.keys()].join(", ");
  if (!isMap(workstations))
    throw new InventoryError(path, [
      { property: "workstations", reason: `give a map of workstations by the names of hosts: ${names}` },
    ]);
  const unknown = Object.keys(workstations).filter((name) => !hosts.has(name));
  if (unknown.length)
    throw new InventoryError(
      path,
      unknown.map((name) => ({
        property: `workstations.${name}`,
        reason: `no host "${name}"; hosts are ${names}`,
      })),
    );
  return { ...workstations };
}
