/**
 * Hashes of passwords as Linux keeps them in /etc/shadow: SHA-512 crypt, "$6$" (Ulrich Drepper, "Unix crypt using SHA-256 and SHA-512",
 * version 0.6, whose test vectors the test has). Every PAM of the templates' distributions takes them.
 */
import { createHash } from "node:crypto";

const ALPHABET = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/** Ten times crypt's default of 5000: whoever gets hold of a hash has that much more to do. */
export const ROUNDS = 50_000;

const sha512 = (...parts: (Buffer | string)[]): Buffer => {
  const hash = createHash("sha512");
  for (const part of parts) hash.update(part);
  return hash.digest();
};

/** `bytes` over and over, `length` of them. */
const repeated = (bytes: Buffer, length: number): Buffer => {
  const all = Buffer.alloc(length);
  for (let at = 0; at < length; at += bytes.length) bytes.copy(all, at);
  return all;
};

/** Each takes a tenth of a second, and is asked for several times in a run. By what it was made of, of which this keeps a digest alone. */
const made = new Map<string, string>();

/** `salt`: at most 16 characters of [./0-9A-Za-z]. */
export function sha512crypt(password: string, salt: string, rounds = ROUNDS): string {
  const of = sha512(JSON.stringify([password, salt, rounds])).toString("base64");
  const hash = made.get(of) ?? crypted(password, salt, rounds);
  made.set(of, hash);
  return hash;
}

function crypted(password: string, salt: string, rounds: number): string {
  const key = Buffer.from(password, "utf8");
  const grain = Buffer.from(salt.slice(0, 16), "utf8");
  const inner = sha512(key, grain, key);
  const start = createHash("sha512").update(key).update(grain).update(repeated(inner, key.length));
  for (let bits = key.length; bits > 0; bits >>= 1) start.update(bits & 1 ? inner : key);
  let digest: Buffer = start.digest();
  const keys = createHash("sha512");
  for (let n = 0; n < key.length; n++) keys.update(key);
  const p = repeated(keys.digest(), key.length);
  const grains = createHash("sha512");
  for (let n = 0; n < 16 + (digest[0] as number); n++) grains.update(grain);
  const s = repeated(grains.digest(), grain.length);
  for (let n = 0; n < rounds; n++)
    digest = sha512(n & 1 ? p : digest, n % 3 ? s : "", n % 7 ? p : "", n & 1 ? digest : p);
  const named = rounds === 5000 ? "" : `rounds=${rounds}$`;
  return `$6$${named}${grain.toString("utf8")}$${encoded(digest)}`;
}

/** Three bytes become four characters, in an order of its own; the last byte two. */
function encoded(digest: Buffer): string {
  let text = "";
  const put = (value: number, count: number) => {
    for (let n = 0; n < count; n++) text += ALPHABET[(value >> (6 * n)) & 0x3f];
  };
  let order = [0, 21, 42];
  for (let n = 0; n < 21; n++) {
    const [a, b, c] = order.map((at) => digest[at] as number) as [number, number, number];
    put((a << 16) | (b << 8) | c, 4);
    order = [order[1] as number, order[2] as number, order[0] as number].map((at) => at + 1);
  }
  put(digest[63] as number, 2);
  return text;
}

/** A salt that is the same from run to run, and another one for each thing that is named. */
export const saltOf = (...names: string[]): string =>
  createHash("sha256").update(names.join("\0")).digest("base64").replaceAll("+", ".").slice(0, 16);
