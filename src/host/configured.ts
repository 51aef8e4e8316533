/** The hosts that a configuration names: `hosts` (a map), `inventory` (a YAML file), or both. */
import { type Hosts, InventoryError, parseHosts } from "./inventory.ts";

/** `sources`: where they stand. Throws InventoryError, also where a name is in both. */
export async function configuredHosts(config: {
  hosts?: unknown;
  inventory?: unknown;
}): Promise<{ hosts: Hosts; sources: string[] }> {
  const hosts: Hosts = new Map();
  const sources: string[] = [];
  const add = (found: Hosts, source: string) => {
    sources.push(source);
    for (const [name, connection] of found) {
      if (hosts.has(name))
        throw new InventoryError(source, [
          { property: name, reason: `is in ${sources[0]} already; keep it in one place` },
        ]);
      hosts.set(name, connection);
    }
  };
  if (config.hosts !== undefined) add(parseHosts(config.hosts, "guidomain:hosts"), "guidomain:hosts");
  if (config.inventory !== undefined) {
    const { readInventory } = await import("./inventoryFile.ts"); // loads a YAML parser
    const { hosts: found, file } = await readInventory(String(config.inventory));
    add(found, file);
  }
  return { hosts, sources };
}
