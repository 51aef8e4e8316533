/** A YAML inventory. A module of its own: only who has such a file pays for loading a YAML parser (20 ms at each start). */
import { dirname, resolve } from "node:path";
import { LineCounter, parseDocument } from "yaml";
import { type Hosts, InventoryError, parseHosts } from "./inventory.ts";

/** Hosts of a YAML inventory: `{hosts: {name: {…}}}`; other top-level keys are for others. `path` is the file's. */
export function parseInventory(text: string, path: string): { hosts: Hosts; rest: Record<string, unknown> } {
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
  if (typeof content !== "object" || content === null || Array.isArray(content) || !("hosts" in content))
    throw new InventoryError(path, [{ property: "", reason: 'give a map with the key "hosts" at the top' }]);
  const { hosts, ...rest } = content;
  return { hosts: parseHosts(hosts, path, { base: dirname(resolve(path)) }), rest };
}
