/**
 * `npm run test:faults [-- --sample N] [--seed S] [--case ID] [--match TEXT] [--hosts N] [--json]`: what the machine makes of every fault at
 * every step of every change, with no controller and at most one hand on its switch. Without a sample all cases run.
 *
 * The last line is `cases N, usable N, converged N`; the exit status is 1 where a case is neither, or a negative control shows nothing.
 */
import { parseArgs } from "node:util";
import { runFaults } from "../tests/faults/all.ts";

const { values } = parseArgs({
  options: {
    sample: { type: "string" },
    seed: { type: "string", default: "1" },
    case: { type: "string" },
    match: { type: "string" },
    hosts: { type: "string", default: "2" },
    json: { type: "boolean", default: false },
    list: { type: "boolean", default: false },
    verbose: { type: "boolean", default: false },
    "no-controls": { type: "boolean", default: false },
  },
});
const say = values.json
  ? (text: string) => process.stderr.write(`${text}\n`)
  : (text: string) => console.log(text);
const summary = await runFaults({
  ...(values.sample !== undefined && { sample: Number(values.sample) }),
  seed: Number(values.seed),
  ...(values.case !== undefined && { only: (id: string) => id === values.case }),
  ...(values.match !== undefined && { only: (id: string) => new RegExp(values.match as string).test(id) }),
  hosts: values.case === undefined ? Number(values.hosts) : 1,
  controls: values.case === undefined && values.match === undefined && !values["no-controls"],
  verbose: values.verbose || values.case !== undefined,
  list: values.list,
  say,
});
if (values.json) console.log(JSON.stringify(summary, null, 2));
process.exitCode = summary.good ? 0 : 1;
