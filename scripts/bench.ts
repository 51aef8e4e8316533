/**
 * `npm run bench [-- --runs N]`: what guidomain costs beside what others cost, from the same run, in turn. Figures are seconds on this
 * machine now; differences, ratios and counts are what matters.
 */
import { parseArgs } from "node:util";
import { benchPci } from "./bench/pci.ts";
import { benchPreview } from "./bench/preview.ts";
import { benchTrials } from "./bench/trial.ts";
import { benchXen } from "./bench/xen.ts";

const { values } = parseArgs({ options: { runs: { type: "string", default: "7" } } });
const runs = Number(values.runs);
if (!Number.isInteger(runs) || runs < 1)
  throw new Error(`--runs ${values.runs} is not a positive whole number`);

await benchPreview(runs);
benchPci();
await benchTrials(Math.min(runs, 3));
await benchXen(Math.min(runs, 5));
