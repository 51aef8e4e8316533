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
    why: "dom0 packages are removed by the formula of the confirmation, before the ledger counts it: cut off just there, they are gone and cannot be brought back, and a gpu mode that misses its input proxy is rescued",
    cases: /^(destroy|destroy-xephyr|xephyr-gpu|gpu-xephyr)\/(salt\.(state|begun)|confirm\.)/,
    problem:
      /^neither as before nor as confirmed: |^the next run fails: .*(TypeError|could not be undone|not tried again until)/,
  },
];

/** Why these problems are known, or null. */
export const openReason = (id: string, problems: string[]): string | null =>
  OPEN.find(({ cases, problem }) => cases.test(id) && problems.every((text) => problem.test(text)))?.why ??
  null;
