/**
 * `npm run policy -- explain WHO` and `npm run policy -- may WHO SERVICE[+ARGUMENT] TARGET`, WHO a level or a GUI domain of the stack
 * (`--stack NAME`, else "lab"). No host is touched. Exit status: 0 allowed, or a person is asked first; 1 denied; 2 not a question.
 */
import { parseArgs } from "node:util";
import { settingsOf } from "../src/formula/settings.ts";
import type { GuiDomain } from "../src/model/guiDomain.ts";
import { type Asking, explainReply, mayReply } from "../src/policy/command.ts";
import { loadPolicy, POLICY } from "../src/policy/load.ts";
import { LEVELS } from "../src/policy/principal.ts";
import { ASKS, hostOf, SAMPLE, sampleRules } from "../src/policy/sample.ts";
import { STOCK } from "../src/policy/services.ts";

const USAGE = `Usage: npm run policy -- explain WHO
       npm run policy -- may WHO SERVICE[+ARGUMENT] TARGET
WHO is a level (${LEVELS.join(", ")}) or a GUI domain of the stack: --stack NAME, else lab.
`;

function quit(text: string): never {
  process.stderr.write(text);
  process.exit(2);
}

/** A host as Qubes installs it with the policy of its GUI domains; who follows the host's default, nobody knows here. */
function hostWith(domains: readonly GuiDomain[], source: string): Asking {
  const shown = domains.map(({ qube, clients }) =>
    clients === "default"
      ? { qube, clients: [`client-of-${qube}`], disposable: `dvm-of-${qube}` }
      : { qube, clients, disposable: null },
  );
  const names = domains.map(({ qube }) => qube);
  const files = domains.flatMap((gui) => {
    const [mode = "xephyr"] = gui.display;
    const apart = names.filter((name) => name !== gui.qube);
    return Object.entries(settingsOf({ ...gui, apart }, mode).files).filter(([file]) =>
      file.startsWith(`${POLICY}/`),
    );
  });
  const { rules, faults } = loadPolicy({ ...STOCK, ...Object.fromEntries(files) });
  if (faults.length) throw new Error(JSON.stringify(faults));
  return {
    source,
    rules,
    facts: hostOf(
      shown,
      domains.flatMap(({ viewers }) => viewers),
    ),
  };
}

async function find(who: string, stack: string): Promise<Asking> {
  const level = LEVELS.find((each) => each === who);
  if (level) return { source: ASKS, rules: sampleRules(level), facts: SAMPLE };
  // Only here, because it loads the engine's SDK.
  const { describe } = await import("./describe.ts");
  const { domains, faults } = await describe(stack);
  for (const fault of faults) process.stderr.write(`${fault}\n`);
  const gui = domains.find(({ qube }) => qube === who);
  if (gui)
    return hostWith(
      domains.filter(({ host }) => host === gui.host),
      gui.qube,
    );
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
