// Hosts of your own. How they are reached, and what each is to have: the inventory (guidomain:inventory), under hosts and workstations. Of
// one host the configuration can say it as well: host, and workstation or (one GUI domain alone) settings.
import { Config, RunError } from "@pulumi/pulumi";
import { GuiDomain, type GuiDomainArgs, Host, Workstation, type WorkstationArgs } from "guidomain";
import { type InventoryFile, readInventory } from "../src/host/inventoryFile.ts";
import { parseWorkstation } from "../src/model/workstation.ts";

const config = new Config();
const one = config.get("host");
const inventory = new Config("guidomain").get("inventory");

const described = await workstations();
/** Every mistake in every workstation, before the first is begun. */
const wrong = Object.entries(described).flatMap(([host, given]) => {
  const parsed = parseWorkstation(host, given);
  return "faults" in parsed
    ? parsed.faults.map(({ property, reason }) =>
        [`workstations.${host}${property && `.${property}`}`, reason].join(": "),
      )
    : [];
});
if (wrong.length)
  throw new RunError(
    [...wrong, `Correct ${inventory ?? "the configuration"}; nothing was touched.`].join("\n"),
  );

const guiDomains = Object.entries(described).flatMap(([name, given]) => [
  ...new Workstation(name, { ...(given as Omit<WorkstationArgs, "host">), host: new Host(name) }).guiDomains,
]);
if (one !== undefined && !described[one])
  guiDomains.push(
    new GuiDomain(config.get("guiDomain") ?? "sys-gui", {
      ...config.getObject<Omit<GuiDomainArgs, "host">>("settings"),
      host: new Host(one),
    }),
  );
if (guiDomains.length === 0)
  throw new RunError(
    `nothing is described: give the inventory a map "workstations", or set host (pulumi config set host NAME)`,
  );

const [first] = guiDomains;
export const mode = first?.mode;
export const state = first?.state;
export const attempts = first?.attempts;
export const pending = first?.pending;

/** By the host's name; of one host alone where the configuration names it. */
async function workstations(): Promise<Record<string, unknown>> {
  let found: InventoryFile["workstations"] = {};
  try {
    if (inventory !== undefined) found = (await readInventory(inventory)).workstations;
  } catch (error) {
    throw error instanceof Error ? new RunError(error.message) : error;
  }
  if (one === undefined) return found;
  const its = found[one] ?? config.getObject("workstation");
  return its === undefined ? {} : { [one]: its };
}
