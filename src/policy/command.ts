/** `npm run policy`: a question in words → an answer and an exit status. */
import { callOf, Evaluator, type Facts } from "./evaluate.ts";
import { answerText, explain, explanationText, targetsOf } from "./explain.ts";
import type { Located } from "./load.ts";
import { checkArgument, checkService, checkToken, shown, Wrong } from "./parse.ts";

/** Somebody who asks, on a host. */
export interface Asking {
  source: string;
  rules: readonly Located[];
  facts: Facts;
}

export interface Reply {
  /** 0 allowed (or a person is asked first), 1 denied, 2 not a question. */
  status: 0 | 1 | 2;
  text: string;
}

const hostText = ({ source, facts }: Asking) => {
  const of = (title: string, names: string[]) => (names.length ? `${title} ${names.join(", ")}` : "");
  const names = Object.keys(facts).filter((name) => name !== source);
  const own = names.filter((name) => facts[name]?.tags.includes(`guivm-${source}`));
  return `(asked of a host as Qubes installs it; ${[
    of("its qubes:", own),
    of(
      "not its own:",
      names.filter((name) => !own.includes(name)),
    ),
  ]
    .filter(Boolean)
    .join("; ")})\n`;
};

export const explainReply = (asking: Asking): Reply => ({
  status: 0,
  text: explanationText(explain(asking.rules, asking.facts, asking.source)) + hostText(asking),
});

export function mayReply(asking: Asking, question: string, target: string): Reply {
  const { source, rules, facts } = asking;
  const { service, argument } = callOf(question);
  try {
    if (checkService(service) === null || service === "")
      throw new Wrong("service", `${shown(service)} is not one; name one`);
    if (checkArgument(argument, service) === null) throw new Wrong("argument", "* is not one; name one");
    checkToken(target, "call", "target");
    const known = targetsOf(facts);
    if (![...known, "@adminvm"].includes(target))
      throw new Wrong("target", `${shown(target)} is not on this host; there are ${known.join(", ")}`);
  } catch (error) {
    if (error instanceof Wrong)
      return { status: 2, text: `not a question: ${error.field}: ${error.message}\n` };
    throw error;
  }
  const call = { service, argument, source, target };
  const answer = new Evaluator(rules, facts).evaluate(call);
  return { status: answer.decision === "deny" ? 1 : 0, text: answerText(call, answer) };
}
