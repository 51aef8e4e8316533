/**
 * `npm run policy -- explain WHO` and `npm run policy -- may WHO SERVICE[+ARGUMENT] TARGET`, WHO a level or a GUI domain of the stack
 * (`--stack NAME`, else "lab"). No host is touched. Exit status: 0 allowed, or a person is asked first; 1 denied; 2 not a question.
 */
import { parseArgs } from "node:util";
import { type Asking, explainReply, mayReply } from "../src/policy/command.ts";
import { LEVELS } from "../src/policy/principal.ts";
import { ASKS, SAMPLE, sampleRules } from "../src/policy/sample.ts";
import { ofHost, worldOf } from "../src/report/described.ts";

const USAGE = `Usage: npm run policy -- explain WHO
       npm run policy -- may WHO SERVICE[+ARGUMENT] TARGET
WHO is a level (${LEVELS.join(", ")}) or a GUI domain of the stack: --stack NAME, else lab.
`;

function quit(text: string): never {
  process.stderr.write(text);
  process.exit(2);
}

async function find(who: string, stack: string): Promise<Asking> {
  const level = LEVELS.find((each) => each === who);
  if (level) return { source: ASKS, rules: sampleRules(level), facts: SAMPLE };
  // Only here, because it loads the engine's SDK.
  const { describe } = await import("./describe.ts");
  const described = await describe(stack);
  const { domains, faults } = described;
  for (const fault of faults) process.stderr.write(`${fault}\n`);
  const gui = domains.find(({ qube }) => qube === who);
  if (gui) {
    const { after: rules, facts } = worldOf(ofHost(described, gui.host));
    return { source: gui.qube, rules, facts };
  }
  return quit(
    `not a question: ${JSON.stringify(who)} is neither a level (${LEVELS.join(", ")}) nor a GUI domain of stack ${stack} (${domains.map(({ qube }) => qube).join(", ") || "it has none"})\n`,
  );
}

async function main() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { stack: { type: "string", default: "lab" } },
  });
  const [verb, who, question, target, ...rest] = positionals;
  if (!who || rest.length || !/^[\w.-]+$/.test(values.stack)) quit(USAGE);
  if (verb === "explain" && question === undefined) return explainReply(await find(who, values.stack));
  if (verb === "may" && question !== undefined && target !== undefined)
    return mayReply(await find(who, values.stack), question, target);
  return quit(USAGE);
}

const { status, text } = await main().catch((error: Error) => quit(`not a question: ${error.message}\n`));
process[status === 2 ? "stderr" : "stdout"].write(text);
process.exitCode = status;
