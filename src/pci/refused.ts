/** A plan that is not carried out, as a value: who asked for it turns it into a `Refusal` with its own resource and host. */
export interface Refused {
  /** The rule's name: tests and outputs hold on to it, the sentences may change. */
  rule: string;
  /** A sentence without the full stop. */
  what: string;
  /** What the reader can do. */
  next: string;
}
