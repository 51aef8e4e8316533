/**
 * Property values on the wire: protobuf Structs in which a secret is an object with a signature
 * (sdk/go/common/resource/properties.go: `SigKey`, `SecretSig`) and an unknown a well-known string.
 */

import type { Struct } from "google-protobuf/google/protobuf/struct_pb.js";
import struct from "google-protobuf/google/protobuf/struct_pb.js";
import type { Properties, Value } from "./handler.ts";

const SIGNATURE = "4dabf18193072939515e22adb298388d";
const SECRET = "1b47061264138c4ac30d75fd1eb44270";

/** Shorter texts would black out ordinary words. */
const SHORTEST_SECRET = 6;

/** What is secret in a map that is secret as a whole; its other texts (a user, say) are ordinary words. */
const CREDENTIALS = new Set(["password", "passphrase"]);

/** What was secret in the values that were decoded with it. */
export class Secrets {
  /** The top-level properties that were or held a secret. */
  readonly keys: Set<string>;
  /** The secret strings themselves, to be kept out of messages. */
  readonly texts = new Set<string>();

  constructor(keys: Iterable<string> = []) {
    this.keys = new Set(keys);
  }
}

/** The plain values of a Struct; what was secret is added to `secrets`. A missing Struct has no properties. */
export function decode(message: Struct | undefined, secrets = new Secrets()): Properties {
  // Struct's type promises richer JavaScript than a Struct can hold: it is JSON.
  return plainOf((message?.toJavaScript() ?? {}) as Properties, secrets);
}

/** The same of values as they are on the wire. */
export const plainOf = (wire: Properties, secrets = new Secrets()): Properties =>
  mapValues(wire, (value, key) => unwrap(value, key, secrets, false));

function unwrap(value: Value, key: string, secrets: Secrets, secret: boolean): Value {
  if (typeof value === "string" && secret && value.length >= SHORTEST_SECRET) secrets.texts.add(value);
  if (typeof value !== "object" || value === null) return value;
  if (Array.isArray(value)) return value.map((item) => unwrap(item, key, secrets, false));
  if (value[SIGNATURE] === SECRET) {
    secrets.keys.add(key);
    const inner = value.value ?? null;
    if (typeof inner === "object" && inner !== null) rememberCredentials(inner, secrets);
    return unwrap(inner, key, secrets, true);
  }
  return mapValues(value, (item) => unwrap(item, key, secrets, false));
}

function rememberCredentials(value: Value, secrets: Secrets): void {
  if (typeof value !== "object" || value === null) return;
  for (const [name, item] of Object.entries(value)) {
    if (typeof item !== "string") rememberCredentials(item, secrets);
    else if (CREDENTIALS.has(name) && item.length >= SHORTEST_SECRET) secrets.texts.add(item);
  }
}

/**
 * A Struct in which the properties named in `secretKeys` are secret as a whole, and those that hold one of `secretTexts`:
 * what was made of a secret is one.
 */
export function encode(
  properties: Properties,
  secretKeys: ReadonlySet<string> = new Set(),
  secretTexts: ReadonlySet<string> = new Set(),
): Struct {
  const wire = mapValues(properties, (value, key) =>
    secretKeys.has(key) || holds(value, secretTexts) ? { [SIGNATURE]: SECRET, value } : value,
  );
  return struct.Struct.fromJavaScript(
    withoutUndefined(wire) as Parameters<typeof struct.Struct.fromJavaScript>[0],
  );
}

function holds(value: Value, texts: ReadonlySet<string>): boolean {
  if (texts.size === 0) return false;
  if (typeof value === "string") return [...texts].some((text) => value.includes(text));
  if (typeof value !== "object" || value === null) return false;
  return Object.entries(value).some(([key, item]) => holds(key, texts) || holds(item, texts));
}

/** JavaScript lets an `undefined` through the types; failing on one here would lose a resource that was just made. */
function withoutUndefined(value: Value): Value {
  if (typeof value !== "object" || value === null) return value;
  if (Array.isArray(value)) return value.map((item) => withoutUndefined(item ?? null));
  return Object.fromEntries(
    Object.entries(value)
      .filter(([, item]) => item !== undefined)
      .map(([key, item]) => [key, withoutUndefined(item)]),
  );
}

/**
 * Provider configuration as the package reads it: the engine hands the default provider's nested values over as
 * JSON text, an explicit provider's as they are.
 */
export function parseConfiguration(args: Properties): Properties {
  return mapValues(args, (value) => {
    if (typeof value !== "string" || !/^\s*[{[]/.test(value)) return value;
    try {
      return JSON.parse(value) as Value;
    } catch {
      return value; // a text that only begins like JSON: the package says what is wrong with it
    }
  });
}

function mapValues(properties: Properties, change: (value: Value, key: string) => Value): Properties {
  return Object.fromEntries(Object.entries(properties).map(([key, value]) => [key, change(value, key)]));
}
