/** Takes secrets out of everything that leaves the process. */

const MARK = "[secret]";
/** A shorter secret is only replaced where it stands alone: everywhere, it would make every text unreadable. */
const SHORT = 4;

const escaped = (text: string) => text.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&");

export class Scrubber {
  readonly #secrets = new Set<string>();
  #pattern: RegExp | null = null;

  /** Remembers a secret, also as JSON, a URL, base64 or a shell's single quotes would spell it, and line by line. */
  add(secret: string | undefined): void {
    if (!secret) return;
    const spellings = [
      secret,
      ...secret.split(/\r?\n/).filter((line) => line.trim().length >= SHORT),
      JSON.stringify(secret).slice(1, -1),
      encodeURIComponent(secret.toWellFormed()),
      secret.replaceAll("'", "'\\''"),
    ];
    if (secret.length >= SHORT) spellings.push(Buffer.from(secret).toString("base64"));
    for (const spelling of spellings) this.#secrets.add(spelling);
    this.#pattern = null;
  }

  scrub(text: string): string {
    if (this.#secrets.size === 0) return text;
    this.#pattern ??= new RegExp(
      [...this.#secrets]
        .sort((a, b) => b.length - a.length) // a secret may hold another one
        .map((secret) => (secret.length < SHORT ? `(?<!\\w)${escaped(secret)}(?!\\w)` : escaped(secret)))
        .join("|"),
      "g",
    );
    return text.replace(this.#pattern, MARK);
  }
}

/** The same data with `change` done to every text in it. Keys stay. */
export function mapTexts<T>(value: T, change: (text: string) => string): T {
  const walk = (item: unknown): unknown => {
    if (typeof item === "string") return change(item);
    if (Array.isArray(item)) return item.map(walk);
    if (typeof item === "object" && item !== null)
      return Object.fromEntries(Object.entries(item).map(([key, inner]) => [key, walk(inner)]));
    return item;
  };
  return walk(value) as T; // the shape is the same, only texts differ
}
