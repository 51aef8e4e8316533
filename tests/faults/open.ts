/**
 * What these cases have found and is not mended yet. Such a case still has to end with a usable screen; `npm run test:faults` counts it
 * as not converged all the same. An entry goes with its fix.
 */
export interface Open {
  why: string;
  cases: RegExp;
  problem: RegExp;
}

export const OPEN: Open[] = [
  {
    why: "a rescue gives up the disk space that is held for it when it begins: what fills the disk in that moment keeps it from writing the kernel's words back, and only the rescue entry, after a hand on the power button, has a screen",
    cases: /^later-fails\/(rescue\.begun|undo\.key)#[0-9]+\/disk-full$/,
    problem:
      /^neither as before nor as confirmed: nearest is "rescued", but boot:|^after the next run \(mode gpu\): nearest is "gpu", but file:\/etc\/default\/grub is/,
  },
];

/** Why these problems are known, or null. */
export const openReason = (id: string, problems: string[]): string | null =>
  OPEN.find(({ cases, problem }) => cases.test(id) && problems.every((text) => problem.test(text)))?.why ??
  null;
