/** What the parts of `npm run bench` share: timing in turn, and figures as they are printed. */

export const median = (figures: number[]) =>
  [...figures].sort((a, b) => a - b)[figures.length >> 1] ?? Number.NaN;

/** "1.58 s (1.54–1.68)": median, least and most. */
export const show = (figures: number[], digits = 2, unit = "s") =>
  `${median(figures).toFixed(digits)} ${unit} (${Math.min(...figures).toFixed(digits)}–${Math.max(...figures).toFixed(digits)})`;

/** Seconds. */
export async function timed(work: () => Promise<unknown>): Promise<number> {
  const begun = performance.now();
  await work();
  return (performance.now() - begun) / 1000;
}

export const print = (text: string) => process.stdout.write(`${text}\n`);
