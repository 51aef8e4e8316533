/** Rules of one's own on top of a level (`Access`): on whose, what they mean, and what they come to. Pure. Design §2, §7. */
import type { Snapshot, Verification } from "../host/protocol.ts";
import { type Access, accessFile } from "../model/access.ts";
import type { GuiDomain } from "../model/guiDomain.ts";
import { NO_SETTINGS, type Settings } from "../model/settings.ts";
import { callOf, Evaluator, type Facts } from "../policy/evaluate.ts";
import { grantOf, levelFile, withGrant } from "../policy/levels.ts";
import { loadPolicy } from "../policy/load.ts";
import { renderFile } from "../policy/parse.ts";
import { type Principal, ruleOf } from "../policy/principal.ts";
import { type Review, review } from "../policy/review.ts";
import { factsOf, policyAfter } from "./access.ts";
import type { Plan } from "./changes.ts";
import { policyOf } from "./values.ts";
import { lintCheck, policyCheck } from "./verify.ts";

/** What the host is to have: one file. */
export function accessSettings(access: Access): Settings {
  const text = renderFile([
    {
      kind: "comment",
      text: `# What ${access.guiDomain} may ask on top of its level (${access.name}). Written by guidomain; a change made here is undone by the next "pulumi up".`,
    },
    ...access.rules.map((line) => ({ kind: "rule" as const, rule: ruleOf(line) })),
  ]);
  return { ...NO_SETTINGS, files: { [accessFile(access)]: text } };
}

/** What `plan` means for what each qube may ask; null: nothing changes. `principal` null: nobody has that level any more. */
export function reviewRules(
  access: Pick<Access, "guiDomain">,
  principal: Principal | null,
  plan: Plan,
  snapshot: Snapshot,
  guis: readonly GuiDomain[],
): Review | null {
  const there = policyOf(snapshot);
  // Before the first `up` the level is not there either; it comes first.
  const isComing = principal !== null && there[levelFile(access.guiDomain)] === undefined;
  const before = isComing ? withGrant(there, grantOf(principal)) : there;
  const after = policyAfter(before, plan);
  if (plan.changes.length + plan.restores.length === 0) return null;
  return review(before, after, factsOf(snapshot, guis), principal ? [principal] : [], [access.guiDomain]);
}

type Question = readonly [source: string, target: string, call: string];

/** For each rule a question that it speaks of, where one can be put: about a qube that there is, with no argument where any will do. */
export function questionsOf({ rules }: Pick<Access, "rules">, facts: Facts): Question[] {
  const tagged = (tag: string, counts: (name: string) => boolean = () => true) =>
    Object.keys(facts).find((name) => facts[name]?.tags.includes(tag) && counts(name));
  const oneOf = (token: string): string | undefined => {
    if (token === "@adminvm") return "dom0";
    if (token.startsWith("@tag:")) return tagged(token.slice("@tag:".length));
    const template = token.startsWith("@dispvm:@tag:") && token.slice("@dispvm:@tag:".length);
    if (template) {
      const found = tagged(template, (name) => facts[name]?.template_for_dispvms === true);
      return found && `@dispvm:${found}`;
    }
    return token === "*" || token.startsWith("@any") || token.startsWith("@type:") ? undefined : token;
  };
  const questions = rules.flatMap((line): Question[] => {
    const { service, argument, source, target } = ruleOf(line);
    const [from, to] = [oneOf(source), oneOf(target)];
    if (service === null || from === undefined || to === undefined) return [];
    return [[from, to, `${service}${argument === null || argument === "+" ? "" : argument}`]];
  });
  return questions.filter((one, i) => questions.findIndex((other) => String(other) === String(one)) === i);
}

export interface Answers {
  /** After a question to a person, too. */
  allowed: string[];
  denied: string[];
}

/** What the host's policy answers to these questions. */
export function answersOf(access: Access, snapshot: Snapshot): Answers {
  const facts = factsOf(snapshot);
  const { rules, faults } = loadPolicy(policyOf(snapshot));
  const evaluator = new Evaluator(faults.length ? [] : rules, facts); // Qubes denies every call then
  const answers = questionsOf(access, facts).map(([source, target, call]) => {
    const { decision } = evaluator.evaluate({ ...callOf(call), source, target });
    const text = `${source} → ${target}: ${call}`;
    return { decision, text: decision === "ask" ? `${text} (a person is asked)` : text };
  });
  const of = (denied: boolean) =>
    answers.filter(({ decision }) => (decision === "deny") === denied).map(({ text }) => text);
  return { allowed: of(false), denied: of(true) };
}

/** Seconds for one check. */
const CHECK = 30;

/** The host's own linter and answers, for the trial. */
export function rulesChecks(access: Access, settings: Settings, snapshot: Snapshot): Verification[] {
  const facts = factsOf(snapshot);
  const { rules } = loadPolicy({ ...policyOf(snapshot), ...settings.files });
  const evaluator = new Evaluator(rules, facts);
  return [
    lintCheck(snapshot, Object.keys(settings.files), CHECK),
    ...questionsOf(access, facts).map((question) => {
      const [source, target, call] = question;
      const { decision } = evaluator.evaluate({ ...callOf(call), source, target });
      return policyCheck(question, decision === "allow", CHECK);
    }),
  ];
}
