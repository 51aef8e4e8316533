/**
 * The one form of our errors: what failed, on which host and resource, what was and was not changed, what to do next.
 * Design §1 promise 5.
 */
export interface FailureParts {
  /** The resource, such as `GUI domain sys-gui`. */
  resource: string;
  host: string;
  /** A sentence without the full stop. */
  what: string;
  /** What was and was not changed. */
  changed: string;
  /** What the reader can do. */
  next: string;
}

export const NOTHING_CHANGED = "Nothing was changed on the host";

/** A plan that guidomain does not carry out, or one that failed. */
export class Refusal extends Error {
  override readonly name = "Refusal";
  readonly parts: FailureParts;

  constructor(parts: Omit<FailureParts, "changed"> & { changed?: string }) {
    const whole = { changed: NOTHING_CHANGED, ...parts };
    super(sentence(whole));
    this.parts = whole;
  }
}

export function sentence({ resource, host, what, changed, next }: FailureParts): string {
  return [`${resource} on host ${host}: ${what}`, changed, next]
    .map((s) => (/[.!?]$/.test(s) ? s : `${s}.`))
    .join(" ");
}
