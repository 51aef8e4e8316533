/** Stops a twin's dom0 at a chosen place: a command that the agent or Salt runs waits there until it is let go. */
import { existsSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { layout } from "../lab/twin/sandbox.ts";
import type { Twin } from "../lab/twin/twin.ts";

/** Where the real ones are. The folder of the stand-ins below comes first in a session's PATH. */
const REAL = {
  /** Part of a snapshot. */
  rpm: "/usr/lib/twin/bin/rpm",
  /** Salt is in the middle of the formula: the qube is there, a policy file is about to be. */
  "qubes-policy-lint": "/usr/lib/twin/bin/qubes-policy-lint",
  /** Salt is through with the formula, but has not ended. */
  qubesctl: "/usr/lib/twin/salt/bin/qubesctl",
  /** The result is being checked. */
  "qrexec-policy-exec": "/usr/lib/twin/bin/qrexec-policy-exec",
};

export class Hold {
  static readonly #all = new Set<Hold>();
  readonly #flag: string;
  readonly #mark: string;

  constructor(twin: Twin, command: keyof typeof REAL) {
    const { world, root } = layout(twin.dir);
    Hold.#all.add(this);
    this.#flag = path.join(world, `hold-${command}`);
    this.#mark = path.join(root, "var/log", `held-${command}`); // dumps leave out logs
    rmSync(this.#mark, { force: true });
    writeFileSync(this.#flag, "");
    const after = command === "qubesctl";
    const wait = `: >/var/log/held-${command}; while [ -e /run/twin/hold-${command} ]; do sleep 0.05; done`;
    const stand = path.join(world, "bin", command);
    rmSync(stand, { force: true });
    writeFileSync(
      stand,
      after
        ? `#!/bin/sh\nout=$(${REAL[command]} "$@"); code=$?\n${wait}\nprintf '%s\\n' "$out"; exit $code\n`
        : `#!/bin/sh\n${wait}\nexec ${REAL[command]} "$@"\n`,
      { mode: 0o755 },
    );
  }

  /** Somebody waits there. */
  async reached(): Promise<void> {
    await until(() => existsSync(this.#mark), `${path.basename(this.#mark)} in dom0`, 30);
  }

  /** After a test that may have failed before it did. */
  static releaseAll(): void {
    for (const hold of Hold.#all) hold.release();
  }

  release(): void {
    Hold.#all.delete(this);
    rmSync(this.#flag, { force: true });
  }
}

/** Waits for a condition; the seconds it took. */
export async function until(
  condition: () => boolean | Promise<boolean>,
  what: string,
  seconds = 20,
): Promise<number> {
  const begun = performance.now();
  const passed = () => (performance.now() - begun) / 1000;
  while (!(await condition())) {
    if (passed() > seconds) throw new Error(`not within ${seconds} s: ${what}`);
    await sleep(20);
  }
  return passed();
}
