/** What the Xen lab runs; `npm run lab:xen`, `test:xen` and `bench` install it where they may (scripts/setup.mjs, part `xen`). */
import { spawnSync } from "node:child_process";

const PROGRAMS = ["qemu-system-x86_64", "qemu-img", "mmdebstrap", "zstd", "cpio", "setpriv"];

/** Those that the machine does not have. */
export const lacking = (): string[] =>
  PROGRAMS.filter((name) => spawnSync(name, ["--version"]).error !== undefined);
