/**
 * Who wants what in this engine operation: two resources of one program that want the same thing differ before any
 * host is touched. The ledger on the host says the same about other programs. Design §4 "Who owns what".
 */

import type { ClaimArgs, LedgerEntry, Snapshot } from "../host/protocol.ts";
import { Refusal } from "../model/failure.ts";
import type { GuiDomain } from "../model/guiDomain.ts";
import { awaitedBy, otherOwner, type Plan, shareable } from "../plan/changes.ts";
import { deviceParts, partsOf } from "../plan/values.ts";

/** `urn:pulumi:lab::site::guidomain:index:GuiDomain::sys-gui` → `GuiDomain "sys-gui" (stack lab, project site)`. */
export function ownerName(urn: string): string {
  const [head = "", project, types = "", name] = urn.split("::");
  if (name === undefined) return urn;
  const type = types.split("$").at(-1)?.split(":").at(-1);
  return `${type} "${name}" (stack ${head.replace("urn:pulumi:", "")}, project ${project})`;
}

/** A resource of this program, as far as it concerns others. */
interface Wanting {
  host: string;
  /** What it is on the host, whatever its name in the program: its qube, or its file. */
  qube: string;
  /** What it wants that others may want as well; null: not known yet. */
  keys: ReadonlySet<string> | null;
}

export class Claims {
  readonly #owners = new Map<string, string>();
  readonly #wanting = new Map<string, Wanting>();
  /** What each stands behind whom for and takes from others, by its last look; and its former name in the ledger. */
  readonly #behind = new Map<string, ReadonlyMap<string, string>>();
  readonly #takes = new Map<string, ClaimArgs["takes"]>();
  readonly #formerly = new Map<string, string>();
  /** Defaults that nobody had when this operation began. */
  readonly #fresh = new Set<string>();
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

  /** Notes what a resource of this program wants of what others may want as well. */
  wants(urn: string, wanting: Omit<Wanting, "keys"> & { keys: readonly string[] | null }): void {
    this.#wanting.set(urn, { ...wanting, keys: wanting.keys && new Set(wanting.keys) });
  }

  /** Whether this run has said what that resource wants. The engine's refresh asks before, with what the state says. */
  knows = (urn: string): boolean => this.#wanting.has(urn);

  /**
   * The host as `urn` has to see it: what it had under another name is its own, and what it does not want any more and another of this
   * program does is left for that one to fetch, so that no client is without either in between.
   */
  seenBy(urn: string, host: string, qube: string, snapshot: Snapshot, leaves = true): Snapshot {
    const former = this.#formerName(urn, qube, snapshot);
    if (former) this.#formerly.set(urn, former);
    else this.#formerly.delete(urn);
    const named = (owner: string) => (owner === former ? urn : owner);
    const mine = this.#keysOf(urn, host);
    const seen = ([key, entry]: [string, LedgerEntry]): [string, LedgerEntry] => {
      const waiting = entry.waiting?.map((one) => ({ ...one, owner: named(one.owner) }));
      const is = {
        ...entry,
        owner: named(entry.owner),
        ...(entry.also && { also: entry.also.map(named) }),
        ...(waiting && { waiting }),
      };
      const next =
        leaves && is.owner === urn && mine && !mine.has(key) ? this.#fetching(urn, host, key) : undefined;
      // Whoever waits for it already has had its turn.
      if (next !== undefined && !waiting?.some((one) => one.owner === next)) is.owner = next;
      return [key, is];
    };
    const { outcome, watch } = snapshot;
    return {
      ...snapshot,
      ledger: Object.fromEntries(Object.entries(snapshot.ledger).map(seen)),
      outcome: outcome && { ...outcome, owner: named(outcome.owner) },
      watch: watch && { ...watch, owner: named(watch.owner) },
    };
  }

  /** What a resource of this program wants there; null: not known yet. One that is to be on another host wants nothing of this one. */
  #keysOf(urn: string, host: string): ReadonlySet<string> | null {
    const is = this.#wanting.get(urn);
    return is && is.host !== host ? new Set() : (is?.keys ?? null);
  }

  /** Who else of this program wants a key; the first by name. */
  #fetching(urn: string, host: string, key: string): string | undefined {
    const others = [...this.#wanting].flatMap(([other, { host: its, keys }]) =>
      other !== urn && its === host && keys?.has(key) && isSameKind(other, urn) ? [other] : [],
    );
    return others.sort()[0];
  }

  /** Whose the qube is in the ledger, where that resource is in the program under this name by now. */
  #formerName(urn: string, qube: string, { ledger }: Snapshot): string | undefined {
    return [`qube:${qube}`, `feature:${qube}:service.audiovm`, `file:${qube}`]
      .map((key) => ledger[key]?.owner)
      .find((owner) => owner && owner !== urn && isSameKind(owner, urn) && !this.#wanting.has(owner));
  }

  /**
   * Whether another resource of this program is to be what `urn` is, and has not taken it over yet. One that is in the program still has
   * not got another name: it is replaced, and takes away what it leaves.
   */
  isRenamed(urn: string, host: string, qube: string): boolean {
    return !this.#wanting.has(urn) && this.#whoseIs(urn, host, qube) !== undefined;
  }

  /** The other resource of this program whose qube that is to be. */
  #whoseIs(urn: string, host: string, qube: string): string | undefined {
    const [found] =
      [...this.#wanting].find(
        ([other, is]) => other !== urn && is.host === host && is.qube === qube && isSameKind(other, urn),
      ) ?? [];
    return found;
  }

  /**
   * Refuses a name that the ledger has for what is another's by now: with an alias it follows at that one's next change only, and until then
   * all that one has would count as what this one has left.
   */
  #requireOwnName(urn: string, host: string, resource: string, snapshot: Snapshot): void {
    const mine = this.#wanting.get(urn)?.qube;
    if (mine === undefined) return;
    for (const { of, owner } of homesIn(snapshot)) {
      const other = owner === urn && of !== mine ? this.#whoseIs(urn, host, of) : undefined;
      if (other !== undefined)
        throw new Refusal({
          resource,
          host,
          what: `the host's ledger has qube "${of}" under this resource's name, and ${ownerName(other)} is to have it now`,
          next: 'Give this one another name in the program; or leave it out, run "pulumi up" with a change to that one, which the ledger then follows, and add it again',
        });
    }
  }

  /**
   * Of `keys`, which several may want and one has, those that `urn` does not get now. Whoever came first has it, by the ledger; two that
   * come in one operation, by name. What one of this program lets go of, the other takes at once. `acts`: now, in its turn; else it is
   * asked what will be when all of them have had theirs.
   */
  standing(urn: string, host: string, keys: readonly string[], snapshot: Snapshot, acts: boolean): string[] {
    const takes: ClaimArgs["takes"] = {};
    const behind = new Map<string, string>();
    for (const key of keys) {
      const at = `${host}\0${key}`;
      const holder = snapshot.ledger[key]?.owner;
      if (holder === urn) continue;
      if (holder === undefined) {
        this.#fresh.add(at);
        const other = isDefault(key) && !acts ? this.#fetching(urn, host, key) : undefined;
        if (other !== undefined && other < urn) behind.set(key, other);
        continue;
      }
      const its = this.#keysOf(holder, host);
      if (its && !its.has(key) && isSameKind(holder, urn)) takes[key] = { from: holder, waits: false };
      else if (isDefault(key)) {
        if (its?.has(key) && this.#fresh.has(at) && urn < holder) takes[key] = { from: holder, waits: true };
        else behind.set(key, holder);
      }
      // It is not known yet whether the program still has that one; if so, both are refused then.
      else if (!its && isSameKind(holder, urn)) behind.set(key, holder);
    }
    this.#behind.set(urn, behind);
    this.#takes.set(urn, takes);
    return [...behind.keys()];
  }

  /** What `urn` waits for and for whom, by its last look. */
  waitTexts(urn: string): string[] {
    return [...(this.#behind.get(urn) ?? [])].map(([key, holder]) => waitText(key, holder));
  }

  /** What an apply of that plan says of claims. */
  argsOf(urn: string, { waits, heirs, touch }: Plan): ClaimArgs {
    const takes = Object.entries(this.#takes.get(urn) ?? {}).filter(([key]) => touch.includes(key));
    return { formerly: this.#formerly.get(urn) ?? null, takes: Object.fromEntries(takes), waits, heirs };
  }

  /** Claims `keys` of a host for `urn`, or refuses with the name of the other claimant. Claiming again is no conflict. */
  claim(host: string, urn: string, resource: string, keys: readonly string[], snapshot: Snapshot): void {
    this.#requireOwnName(urn, host, resource, snapshot);
    for (const key of keys.filter((k) => !shareable(k))) {
      const at = `${host}\0${key}`;
      const other = this.#owners.get(at);
      if (other !== undefined && other !== urn && !isDefault(key))
        throw new Refusal({
          resource,
          host,
          what: `${wordsFor(key)} is claimed by ${ownerName(other)} as well`,
          next: adviceFor(key),
        });
      const owner = otherOwner(snapshot, key, urn);
      if (owner !== null && !this.#behind.get(urn)?.has(key) && !this.#takes.get(urn)?.[key])
        throw new Refusal({
          resource,
          host,
          what: `${wordsFor(key)} belongs to ${ownerName(owner)}, as the host's ledger says`,
          next: isSameProgram(owner, urn)
            ? 'Take it out there and run "pulumi up", then give it to this one; or take it out here'
            : 'Take it out there first ("pulumi up" or "pulumi destroy" of that stack), or out of this program',
        });
    }
    for (const key of keys) {
      const at = `${host}\0${key}`;
      if (!this.#behind.get(urn)?.has(key) || !this.#owners.has(at)) this.#owners.set(at, urn);
    }
  }

  /** Whether a resource of this program wants that there. */
  has(host: string, key: string): boolean {
    return this.#owners.has(`${host}\0${key}`);
  }
}

/** A default is the host's, and several may want it; the GUI domain of a qube is that qube's alone. */
const isDefault = (key: string) => partsOf(key).kind === "global";

/** The qubes that are somebody's GUI or audio domain, and whose. */
const homesIn = ({ ledger }: Snapshot): { of: string; owner: string }[] =>
  Object.entries(ledger).flatMap(([key, { owner }]) => {
    const { kind, of, name } = partsOf(key);
    return kind === "qube" || (kind === "feature" && name === "service.audiovm") ? [{ of, owner }] : [];
  });

const programOf = (urn: string) => urn.split("::").slice(0, 2).join("::");
const typeIn = (urn: string) => urn.split("::")[2]?.split("$").at(-1);
const isSameProgram = (one: string, other: string) => programOf(one) === programOf(other);
const isSameKind = (one: string, other: string) => isSameProgram(one, other) && typeIn(one) === typeIn(other);

/** What a plan wants and waits for; what it gives up is anybody's. */
export function wantedBy({ touch, restores, waits }: Plan): string[] {
  const back = new Set<string>(restores.map((r) => r.key));
  return [...touch.filter((key) => !back.has(key)), ...Object.keys(waits)];
}

const waitText = (key: string, holder: string): string =>
  `${wordsFor(key)} is with ${ownerName(holder)}, who comes first; it comes here when that one lets go of it`;

/** What of its claims is not in force yet, for `pending`. */
export const pendingClaims = (snapshot: Snapshot, urn: string): { kind: "claim"; why: string }[] =>
  awaitedBy(snapshot, urn).map((key) => ({
    kind: "claim",
    why: waitText(key, snapshot.ledger[key]?.owner ?? ""),
  }));

/** What to do where two want a key. */
export function adviceFor(key: string): string {
  const { kind, name } = partsOf(key);
  if (kind === "file")
    return "Give one of the two another name; the file is named after it, in small letters";
  if (kind === "given" || kind === "given-usb") return "Give it to one qube only";
  if (kind === "input")
    return 'One of the two must let go of it in "input": the devices of a USB qube go one way';
  if (kind === "property" && name === "audiovm")
    return 'One of the two must let go of it; a qube has exactly one audio domain: that of a GuiDomain\'s qube stands in its "audiovm"';
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
    case "secret":
      return `the ${name} secret of "${of}"`;
    case "volume":
      return `the ${name} volume of "${of}"`;
    case "package":
      return `dom0 package ${name}`;
    case "device": {
      const [port, id] = deviceParts(name);
      if (id === "*") return `whatever sits at PCI ${port} for "${of}"`;
      return `PCI device ${id}${port === "*" ? "" : ` at ${port}`} for "${of}"`;
    }
    case "usb":
      return `USB device ${name} for "${of}"`;
    case "given-usb":
      return `the USB device at ${name}`;
    case "given":
      return `the PCI device at ${name}`;
    case "input":
      return `the input of "${name}"`;
    case "bootarg":
      return `kernel argument ${name}`;
    case "assignable":
      return `PCI function ${name}, which dom0 gives up`;
  }
}
