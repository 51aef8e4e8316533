/** Running operations: their time limits, their cancellation, and giving up on one that does not stop. */

/** setTimeout takes a signed 32-bit number of milliseconds; a longer limit would fire at once. */
const LONGEST_TIMER = 2 ** 31 - 1;

/** Thrown in place of an operation that went on although it was told to stop. */
export class AbandonedError extends Error {
  override readonly name = "AbandonedError";
}

export class Operations {
  readonly #running = new Set<AbortController>();
  readonly #grace: number;
  #refused: Error | undefined;

  /** @param grace milliseconds that an aborted operation has to end by itself */
  constructor(grace: number) {
    this.#grace = grace;
  }

  /** Operations may start (again): an engine has just connected. */
  open(): void {
    this.#refused = undefined;
  }

  /** Aborts what runs and refuses what comes. */
  stop(reason: Error): void {
    this.#refused = reason;
    for (const operation of this.#running) operation.abort(reason);
  }

  /**
   * Runs `work` with a signal that aborts on `stop`, after `seconds` (0: never) or when `gone` aborts. Throws
   * `AbandonedError` where the work still goes on a grace after that.
   */
  async run<T>(seconds: number, gone: AbortSignal, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    if (this.#refused) throw new Error(`not started: ${this.#refused.message}`);
    const operation = new AbortController();
    const { signal } = operation;
    const limit =
      seconds > 0
        ? setTimeout(
            () => operation.abort(new Error(`timed out after ${seconds} s`)),
            Math.min(seconds * 1000, LONGEST_TIMER),
          )
        : undefined;
    const abandoned = Promise.withResolvers<never>();
    let grace: NodeJS.Timeout | undefined;
    signal.addEventListener("abort", () => {
      const { message } = signal.reason as Error;
      grace = setTimeout(() => abandoned.reject(new AbandonedError(message)), this.#grace);
    });
    const leave = () => operation.abort(gone.reason);
    gone.addEventListener("abort", leave);
    if (gone.aborted) leave();
    this.#running.add(operation);
    try {
      return await Promise.race([work(signal), abandoned.promise]);
    } finally {
      this.#running.delete(operation);
      gone.removeEventListener("abort", leave);
      clearTimeout(limit);
      clearTimeout(grace);
    }
  }
}
