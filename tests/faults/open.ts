/**
 * What these cases have found and is not mended yet. Such a case still has to end with a usable screen; `npm run test:faults` counts it
 * as not converged all the same. An entry goes with its fix.
 */
export interface Open {
  why: string;
  cases: RegExp;
  problem: RegExp;
}

export const OPEN: Open[] = [];

/** Why these problems are known, or null. */
export const openReason = (id: string, problems: string[]): string | null =>
  OPEN.find(({ cases, problem }) => cases.test(id) && problems.every((text) => problem.test(text)))?.why ??
  null;
