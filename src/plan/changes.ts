/** Desired against live: what one apply has to do. Pure. Design §4 "Who owns what". */
import type { LedgerEntry, Snapshot } from "../host/protocol.ts";
import type { KeyValue, QubeValue } from "../model/keys.ts";
import { type Settings, type Wish, waitsOf, wishes } from "../model/settings.ts";
import { deviceParts, partsOf, sameValue, satisfied, valueOf } from "./values.ts";

/** A value that goes back to what it was before guidomain came. */
export interface Restore {
  key: string;
  /** null: it was not there. */
  to: KeyValue;
}

/** Whether it could not be undone: a created qube goes with its data, a package would have to come from far away. */
export const isForGood = ({ key, to }: Restore): boolean =>
  to === null && ["qube", "package"].includes(partsOf(key).kind);

export interface Plan {
  /** What the host does not have yet. */
  changes: { wish: Wish; from: KeyValue }[];
  /** What is ours and no longer asked for. */
  restores: Restore[];
  /** Everything the apply may change or claims. */
  touch: string[];
  /** Keys that stop being ours. */
  release: string[];
  /** What somebody else has and this owner waits for. */
  waits: Record<string, KeyValue>;
  /** Who has a key of `release` next, where somebody waits for it. */
  heirs: Record<string, string | null>;
}

/** What brings the host to `settings`; keys that `owner` had and no longer wants go back to what they were. */
export function planApply(qube: string, settings: Settings, snapshot: Snapshot, owner: string): Plan {
  const wanted = wishes(qube, settings);
  const keys = new Set<string>(wanted.map((w) => w.key));
  const waits = waitsOf(settings);
  const dropped = ownedBy(snapshot, owner).filter(([key]) => !keys.has(key) && !(key in waits));
  const forgone = awaitedBy(snapshot, owner).filter((key) => !keys.has(key) && !(key in waits));
  const given = wanted.flatMap((w) => (w.value === null ? [] : (deviceIn(w.key) ?? [])));
  const restores = dropped.flatMap(([key, entry]) =>
    // A device that is assigned in another way now takes that assignment along, whoever made it: it would be given twice, or
    // is looked for where it is not any more.
    given.some((device) => device === deviceIn(key)) && valueOf(snapshot, key) !== null
      ? [{ key, to: null }]
      : restoreOf(key, entry, snapshot),
  );
  return {
    changes: wanted.flatMap((wish) => {
      const from = valueOf(snapshot, wish.key);
      return satisfied(wish, snapshot) ? [] : [{ wish, from }];
    }),
    restores,
    touch: [...keys, ...restores.map((r) => r.key)],
    release: [...dropped.map(([key]) => key), ...forgone],
    waits,
    heirs: heirsOf(dropped, snapshot),
  };
}

/** The qube and the device of an assignment, wherever that is: "sys-gui 0x8086:0x9b41::p030000". */
function deviceIn(key: string): string | null {
  const { kind, of, name } = partsOf(key);
  return kind === "device" ? `${of} ${deviceParts(name)[1]}` : null;
}

/** The plan of a rung: settings of nothing at all, those of "dom0", take away what is ours. */
export const planRung = (qube: string, settings: Settings, snapshot: Snapshot, owner: string): Plan =>
  settings.class === "" ? planDelete(snapshot, owner, "restore") : planApply(qube, settings, snapshot, owner);

/** What takes away everything that `owner` has brought; with "keep" nothing is taken away, only forgotten. */
export function planDelete(snapshot: Snapshot, owner: string, onDelete: "restore" | "keep"): Plan {
  const owned = ownedBy(snapshot, owner);
  const release = [...owned.map(([key]) => key), ...awaitedBy(snapshot, owner)];
  const claims = { waits: {}, heirs: heirsOf(owned, snapshot) };
  if (onDelete === "keep") return { changes: [], restores: [], touch: [], release, ...claims };
  const all = owned.flatMap(([key, entry]) => restoreOf(key, entry, snapshot));
  const removed = new Set(
    all.filter((r) => partsOf(r.key).kind === "qube" && r.to === null).map((r) => partsOf(r.key).of),
  );
  const restores = all.filter(({ key }) => {
    const { kind, of } = partsOf(key);
    return !(removed.has(of) && OF_A_QUBE.includes(kind));
  });
  // A qube that is removed takes its properties along; they are journalled all the same, for the way back.
  const along = release.filter((key) => removed.has(partsOf(key).of));
  const touch = [...new Set([...restores.map((r) => r.key), ...along])];
  return { changes: [], restores, touch, release, ...claims };
}

const OF_A_QUBE = ["property", "feature", "tag", "device", "usb"];

export function ownedBy(snapshot: Snapshot, owner: string): [string, LedgerEntry][] {
  return Object.entries(snapshot.ledger).filter(([, entry]) => owns(entry, owner));
}

/** Keys that somebody else has and `owner` waits for. */
export const awaitedBy = ({ ledger }: Snapshot, owner: string): string[] =>
  Object.keys(ledger).filter((key) => isAwaited(ledger[key], owner));

export const isAwaited = (entry: LedgerEntry | undefined, owner: string): boolean =>
  (entry?.waiting ?? []).some((one) => one.owner === owner);

/** Whether everything that a plan speaks of is noted in the ledger already. */
export const isNoted = ({ touch, waits }: Plan, { ledger }: Snapshot, owner: string): boolean =>
  touch.every((key) => owns(ledger[key], owner)) &&
  Object.entries(waits).every(([key, value]) =>
    ledger[key]?.waiting?.some((one) => one.owner === owner && sameValue(one.value, value)),
  );

/** Of those who wait for a key the first whose qube is there. */
function heirOf(entry: LedgerEntry, { qubes }: Snapshot) {
  const isThere = (value: KeyValue) =>
    typeof value !== "object" || value === null || !("value" in value) || value.value in qubes;
  return entry.waiting?.find((one) => isThere(one.value)) ?? null;
}

const heirsOf = (owned: readonly [string, LedgerEntry][], snapshot: Snapshot): Plan["heirs"] =>
  Object.fromEntries(
    owned.flatMap(([key, entry]) =>
      entry.waiting?.length ? [[key, heirOf(entry, snapshot)?.owner ?? null]] : [],
    ),
  );

/** Whether `owner` has claimed this, alone or with others. */
export function owns(entry: LedgerEntry | undefined, owner: string): boolean {
  return entry !== undefined && (entry.owner === owner || (entry.also ?? []).includes(owner));
}

/**
 * A package of dom0 serves all who want it, and goes with the last of them; so does a service of ours, which is the same for everybody.
 * Everything else has one owner. The same as in salt/agent/ledger.py.
 */
export const shareable = (key: string) => SHARED.test(key);
const SHARED =
  /^(package:|file:\/etc\/qubes-rpc\/guidomain\.|file:\/etc\/systemd\/sleep\.conf\.d\/|file:\/usr\/local\/libexec\/guidomain-)/;

/** Only a value that is still ours goes back; what somebody changed since is theirs. */
function restoreOf(key: string, entry: LedgerEntry, snapshot: Snapshot): Restore[] {
  const live = valueOf(snapshot, key);
  const { kind, of } = partsOf(key);
  // Gone already, or its qube is; what we took away (an assignment of "any device") is there again.
  if (live === null && (entry.ours !== null || (kind === "device" && !snapshot.qubes[of]))) return [];
  if (entry.also?.length) return []; // others still want it
  const heir = heirOf(entry, snapshot);
  const to = heir ? heir.value : entry.first;
  const back = [{ key, to }];
  switch (kind) {
    case "package": // an update does not make it somebody else's; one that was there before stays, whatever its version
      return entry.first === null ? back : [];
    case "qube": // ours, whatever its label is by now; another class means that somebody made another qube
      if (entry.first === null)
        return (live as QubeValue).class === (entry.ours as QubeValue).class ? back : [];
  }
  return sameValue(live, entry.ours) && !sameValue(live, to) ? back : [];
}

/** Whose a key is when it is somebody else's, or null. */
export function otherOwner(snapshot: Snapshot, key: string, owner: string): string | null {
  const entry = snapshot.ledger[key];
  return entry && entry.owner !== owner && !shareable(key) ? entry.owner : null;
}
