/** Where two property values differ, by path, as the engine's detailed diff wants it. */

import { Refusal } from "../model/failure.ts";
import type { ChangeKind, Changes, Properties, Value } from "./handler.ts";

/** A property path taken apart: names of object properties and numbers of list items. */
export type Path = (string | number)[];

/**
 * Every path at which `news` differs from `olds`, as deep as both sides have the same shape: an item that is only on
 * one side is one change, whatever it holds. Unknowns differ from every known value.
 */
export function diffByPath(olds: Properties, news: Properties): Changes {
  const changes: Changes = {};
  compare(olds, news, [], changes);
  return changes;
}

function compare(old: Value, now: Value, at: Path, changes: Changes): void {
  for (const key of keysOf(old, now)) {
    const path = [...at, key];
    const [was, is] = [child(old, key), child(now, key)];
    if (was === undefined || is === undefined)
      changes[formatPath(path)] = was === undefined ? "add" : "delete";
    else if (sameShape(was, is)) compare(was, is, path, changes);
    else if (was !== is) changes[formatPath(path)] = "update";
  }
}

function keysOf(old: Value, now: Value): (string | number)[] {
  if (Array.isArray(old) && Array.isArray(now)) return [...Array(Math.max(old.length, now.length)).keys()];
  return [...new Set([...Object.keys(old ?? {}), ...Object.keys(now ?? {})])];
}

function child(value: Value, key: string | number): Value | undefined {
  if (typeof value !== "object" || value === null || !Object.hasOwn(value, key)) return undefined;
  return (value as Record<string | number, Value>)[key];
}

function sameShape(a: Value, b: Value): boolean {
  return (
    typeof a === "object" &&
    typeof b === "object" &&
    a !== null &&
    b !== null &&
    Array.isArray(a) === Array.isArray(b)
  );
}

/** The same changes, those at or below the named top-level properties as replacements of the resource. */
export function replacing(changes: Changes, properties: readonly string[]): Changes {
  const marked = Object.entries(changes).map(([path, kind]): [string, ChangeKind] => {
    const replaces = properties.includes(topLevel(path)) && !isReplacement(kind);
    return [path, replaces ? (`${kind}-replace` as ChangeKind) : kind];
  });
  return Object.fromEntries(marked);
}

export function isReplacement(kind: ChangeKind): boolean {
  return kind.endsWith("-replace");
}

/** The property of the resource that a path starts with: `display` of `display[1]`. */
export function topLevel(path: string): string {
  return String(parsePath(path)[0] ?? "");
}

const PLAIN_NAME = /^[A-Za-z_$][\w$-]*$/;

/** `display[1]`, `session.user`, `features["gui-fullscreen"]`, in the engine's notation (property_path.go). */
export function formatPath(path: Path): string {
  let text = "";
  for (const part of path) {
    if (typeof part === "number") text += `[${part}]`;
    else if (!PLAIN_NAME.test(part)) text += `["${part.replaceAll('"', '\\"')}"]`;
    else text += text === "" ? part : `.${part}`;
  }
  return text;
}

const PART = /\.?([^.[\]"]+)|\[(\d+)\]|\["((?:\\"|[^"])*)"\]/y;

/** The inverse of `formatPath`. Throws on a text that is no path. */
export function parsePath(text: string): Path {
  const path: Path = [];
  PART.lastIndex = 0;
  while (PART.lastIndex < text.length) {
    const at = PART.lastIndex;
    const match = PART.exec(text);
    if (!match) throw new Error(`"${text}" is not a property path: cannot read on at "${text.slice(at)}"`);
    const [, name, index, quoted] = match;
    if (index !== undefined) path.push(Number(index));
    else path.push(name ?? (quoted as string).replaceAll('\\"', '"'));
  }
  return path;
}

/**
 * What a diff may look at, or null where that is refused. A refresh and a destroy ask for the diff as well, and do not fail by it;
 * an update follows a difference, and it is refused there, in a preview too.
 */
export async function unlessRefused<T>(look: () => T | Promise<T>): Promise<T | null> {
  try {
    return await look();
  } catch (error) {
    if (error instanceof Refusal) return null;
    throw error;
  }
}
