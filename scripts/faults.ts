/**
 * `npm run test:faults [-- --sample N | --all] [--seed S] [--case ID] [--match REGEXP] [--list] [--verbose] [--json]`: what the machine makes
 * of every fault at every step of every change, with no controller and at most one hand on its switch (tests/faults). 1000 cases
 * unless told otherwise, about four minutes on two cores; --all takes them all.
 *
 * The last line is `cases N, usable N, converged N`; the exit status is 1 where a case is not, or a negative control shows nothing.
 */
import { parseArgs } from "node:util";
import { runFaults } from "../tests/faults/all.ts";

const { values } = parseArgs({
  options: {
    sample: { type: "string", default: "1000" },
    all: { type: "boolean", default: false },
    seed: { type: "string", default: "1" },
    case: { type: "string" },
    match: { type: "string" },
    hosts: { type: "string", default: "2" },
    json: { type: "boolean", default: false },
    list: { type: "boolean", default: false },
    verbose: { type: "boolean", default: false },
  },
});
const say = values.json
  ? (text: string) => process.stderr.write(`${text}\n`)
  : (text: string) => console.log(text);
const chosen =
  values.case !== undefined
    ? (id: string) => id === values.case
    : values.match !== undefined
      ? (id: string) => new RegExp(values.match as string).test(id)
      : undefined;
const summary = await runFaults({
  ...(!values.all && !chosen && { sample: Number(values.sample) }),
  seed: Number(values.seed),
  ...(chosen && { only: chosen }),
  hosts: Number(values.hosts),
  controls: !chosen,
  verbose: values.verbose || values.case !== undefined,
  list: values.list,
  say,
});
if (values.json) console.log(JSON.stringify(summary, null, 2));
process.exitCode = summary.good || values.list ? 0 : 1;
