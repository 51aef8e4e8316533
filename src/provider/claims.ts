/**
 * Who wants what in this engine operation: two resources of one program that want the same thing differ before any
 * host is touched. The ledger on the host says the same about other programs. Design §4 "Who owns what".
 */

import type { Snapshot } from "../host/protocol.ts";
import { Refusal } from "../model/failure.ts";
import type { GuiDomain } from "../model/guiDomain.ts";
import { otherOwner, shareable } from "../plan/changes.ts";
import { deviceParts, partsOf } from "../plan/values.ts";

/** `urn:pulumi:lab::site::guidomain:index:GuiDomain::sys-gui` → `GuiDomain "sys-gui" (stack lab, project site)`. */
export function ownerName(urn: string): string {
  const [head = "", project, types = "", name] = urn.split("::");
  if (name === undefined) return urn;
  const type = types.split("$").at(-1)?.split(":").at(-1);
  return `${type} "${name}" (stack ${head.replace("urn:pulumi:", "")}, project ${project})`;
}

export class Claims {
  readonly #owners = new Map<string, string>();
  /** GUI domains of this program by their URN. */
  readonly #described = new Map<string, GuiDomain>();

  /** Notes a GUI domain of this program: each with a level is kept apart from the others of its host. */
  describe(urn: string, gui: GuiDomain): void {
    this.#described.set(urn, gui);
  }

  /** The other GUI domains that the program has on that host, as far as it has named them yet. */
  others(host: string, urn: string): GuiDomain[] {
    return [...this.#described].flatMap(([other, gui]) => (other !== urn && gui.host === host ? [gui] : []));
  }

  /** Claims `keys` of a host for `urn`, or refuses with the name of the other claimant. Claiming again is no conflict. */
  claim(host: string, urn: string, resource: string, keys: readonly string[], snapshot: Snapshot): void {
    for (const key of keys.filter((k) => !shareable(k))) {
      const at = `${host}\0${key}`;
      const other = this.#owners.get(at);
      if (other !== undefined && other !== urn)
        throw new Refusal({
          resource,
          host,
          what: `${wordsFor(key)} is claimed by ${ownerName(other)} as well`,
          next: adviceFor(key),
        });
      const owner = otherOwner(snapshot, key, urn);
      if (owner !== null)
        throw new Refusal({
          resource,
          host,
          what: `${wordsFor(key)} belongs to ${ownerName(owner)}, as the host's ledger says`,
          next: 'Take it out there first ("pulumi up" or "pulumi destroy" of that stack), or out of this program',
        });
    }
    for (const key of keys) this.#owners.set(`${host}\0${key}`, urn);
  }

  /** Whether a resource of this program wants that there. */
  has(host: string, key: string): boolean {
    return this.#owners.has(`${host}\0${key}`);
  }
}

/** What to do where two want a key. */
export function adviceFor(key: string): string {
  const { kind, name } = partsOf(key);
  if (kind === "given") return "Give it to one qube only";
  if (kind === "input")
    return 'One of the two must let go of it in "input": the devices of a USB qube go one way';
  if (kind === "property" && name === "audiovm")
    return 'One of the two must let go of it; a qube has exactly one audio domain: that of a GuiDomain\'s qube stands in its "audiovm"';
  if (kind === "global" && name === "default_audiovm")
    return "One of the two must let go of it; a host has one default audio domain";
  return "One of the two must let go of it; a qube has exactly one GUI domain";
}

/** A key in the user's words. */
export function wordsFor(key: string): string {
  const { kind, of, name } = partsOf(key);
  switch (kind) {
    case "qube":
      return `qube "${of}"`;
    case "property":
      if (name === "guivm") return `the GUI domain of "${of}"`;
      return name === "audiovm" ? `the audio domain of "${of}"` : `property ${name} of "${of}"`;
    case "feature":
      return name.startsWith("service.")
        ? `service ${name.slice(8)} of "${of}"`
        : `feature ${name} of "${of}"`;
    case "tag":
      return `tag ${name} of "${of}"`;
    case "global":
      return `the host's ${name}`;
    case "file":
      return `file ${name}`;
    case "line":
      return `line "${name}" of ${of}`;
    case "package":
      return `dom0 package ${name}`;
    case "device": {
      const [port, id] = deviceParts(name);
      if (id === "*") return `whatever sits at PCI ${port} for "${of}"`;
      return `PCI device ${id}${port === "*" ? "" : ` at ${port}`} for "${of}"`;
    }
    case "given":
      return `the PCI device at ${name}`;
    case "input":
      return `the input of "${name}"`;
    case "bootarg":
      return `kernel argument ${name}`;
  }
}
