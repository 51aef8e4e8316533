/** Answers to calls: as Qubes' own evaluator gave them (tests/fixtures/policy-4.3.json), and the laws that they keep. */
import { readFileSync } from "node:fs";
import path from "node:path";
import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { type Answer, type Call, Evaluator, type Facts, placeOf } from "./evaluate.ts";
import { type Files, type Located, loadPolicy, POLICY } from "./load.ts";
import { faultText, type Line, renderFile } from "./parse.ts";
import { call, facts, rule } from "./testing/arbitraries.ts";

interface RealAnswer {
  d: string;
  at?: string;
  by?: string | null;
}
interface Case {
  why: string;
  files: Files;
  fault?: string;
  calls?: string[];
  answers?: RealAnswer[];
}
const real = JSON.parse(
  readFileSync(path.join(import.meta.dirname, "../../tests/fixtures/policy-4.3.json"), "utf8"),
) as { facts: Facts; cases: Case[] };

/** "SERVICE[+ARGUMENT] SOURCE [TARGET]" */
function callOf(text: string): Call {
  const [name = "", source = "", target = ""] = text.split(" ");
  const [service = "", ...argument] = name.split("+");
  return { service, argument: `+${argument.join("+")}`, source, target };
}

/** An answer as the fixture has it. */
function told(answer: Answer): object {
  if (answer.decision === "deny")
    return { d: "deny", by: answer.rule?.action === "deny" ? placeOf(answer.rule) : null };
  const { user, autostart, notify, rule: at } = answer;
  const where = { user, autostart, notify, at: placeOf(at) };
  if (answer.decision === "allow") return { d: "allow", target: answer.target, ...where };
  return { d: "ask", targets: answer.targets, default: answer.default_target, ...where };
}

const spoken = (answer: object) =>
  Object.fromEntries(
    Object.entries(answer)
      .filter(([key]) => key !== "real") // the words of the denial
      .map(([key, value]) => [key, typeof value === "string" ? value.replace(":None", ":(end)") : value]),
  );

for (const { why, files, fault, calls = [], answers = [] } of real.cases)
  test(`as the real one: ${why}`, () => {
    const policy = loadPolicy(files);
    if (fault !== undefined) {
      const place = fault.replace(/^invalid filename: (.*)$/, "$1:0:").split(" ")[0];
      assert.is(policy.faults.length, 1);
      assert.ok(policy.faults[0] && faultText(policy.faults[0]).startsWith(`${place} `));
      return;
    }
    assert.equal(policy.faults, []);
    const evaluator = new Evaluator(policy.rules, real.facts);
    assert.ok(calls.length > 0);
    calls.forEach((text, i) => {
      assert.equal(told(evaluator.evaluate(callOf(text))), spoken(answers[i] ?? {}), text);
    });
  });

test("a file that includes itself stops every call", () => {
  const policy = loadPolicy({
    [`${POLICY}/a.policy`]: "!include include/x",
    [`${POLICY}/include/x`]: "\n!include include/x",
  });
  assert.equal(policy.faults.map(faultText), [
    `${POLICY}/include/x:2: path: ${POLICY}/include/x includes itself; it stops every qrexec call`,
  ]);
});

test("a denial says what decided", () => {
  const { rules } = loadPolicy({ [`${POLICY}/a.policy`]: "\na.A * work web deny" });
  const evaluator = new Evaluator(rules, real.facts);
  const reason = (text: string) => {
    const answer = evaluator.evaluate(callOf(text));
    return answer.decision === "deny" ? answer.reason : answer.decision;
  };
  assert.is(reason("a.A work web"), `denied by ${POLICY}/a.policy:2`);
  assert.is(reason("a.A work tpl"), "no rule fits");
  assert.is(reason("a.A nobody tpl"), "there is no qube nobody");
  assert.match(
    reason("a.A work @tag:x"),
    /^"@tag:x" is not allowed there; allowed are a qube's name, @adminvm, @default,/,
  );
});

// --- laws

const rules = fc.array(rule, { maxLength: 12 });
const lineOf = (each: Located | Parameters<typeof renderFile>[0][number]) => each as Line;
const textOf = (list: readonly object[]) =>
  renderFile(list.map((each) => lineOf({ kind: "rule", rule: each } as Line)));
const located = (list: Parameters<typeof textOf>[0]) =>
  loadPolicy({ [`${POLICY}/a.policy`]: textOf(list) }).rules;
/** Which line decided, and how; what an ask offers, and whether that is anything at all, depends on all lines, by design. */
const decided = ({ decision, rule: by }: Answer) => ({
  decision: by?.action === "ask" ? "ask" : decision,
  line: by?.line ?? null,
});

test("the first rule that fits decides: without the lines above it nothing changes, and it fits by itself", () => {
  fc.assert(
    fc.property(rules, facts, call, (list, qubes, asked) => {
      const all = located(list);
      const answer = new Evaluator(all, qubes).evaluate(asked);
      const { rule: found } = answer;
      if (!found) return;
      const rest = all.slice(all.findIndex((each) => each.line === found.line));
      assert.equal(decided(new Evaluator(rest, qubes).evaluate(asked)), decided(answer));
      const alone = new Evaluator([found], qubes).evaluate(asked);
      assert.is(alone.rule?.line, found.line);
    }),
    { numRuns: 1000 },
  );
});

test("a later line changes nothing that an earlier one decided", () => {
  fc.assert(
    fc.property(rules, rules, facts, call, (list, later, qubes, asked) => {
      const answer = new Evaluator(located(list), qubes).evaluate(asked);
      // An ask looks at every rule for what to offer, so a later one may give it its first target or take away its last.
      if (!answer.rule || answer.rule.action === "ask") return;
      assert.equal(new Evaluator(located([...list, ...later]), qubes).evaluate(asked), answer);
    }),
    { numRuns: 1000 },
  );
});

test("an include is the same as its text in that place", () => {
  fc.assert(
    fc.property(rules, rules, rules, facts, call, (before, middle, after, qubes, asked) => {
      const answer = (files: Files) => {
        const { decision, ...rest } = new Evaluator(loadPolicy(files).rules, qubes).evaluate(asked);
        return {
          decision,
          ...rest,
          reason: null,
          rule: rest.rule && { ...rest.rule, file: null, line: null },
        };
      };
      const include = `${textOf(before)}!include include/x\n${textOf(after)}`;
      assert.equal(
        answer({ [`${POLICY}/a.policy`]: include, [`${POLICY}/include/x`]: textOf(middle) }),
        answer({ [`${POLICY}/a.policy`]: textOf([...before, ...middle, ...after]) }),
      );
    }),
    { numRuns: 500 },
  );
});

test("nobody is offered the caller itself or what is internal, and what is suggested is offered", () => {
  fc.assert(
    fc.property(rules, facts, call, (list, qubes, asked) => {
      const evaluator = new Evaluator(located(list), qubes);
      const answer = evaluator.evaluate(asked);
      if (answer.decision !== "ask" || answer.rule.options.target) return;
      assert.ok(!answer.targets.includes(asked.source));
      assert.ok(answer.default_target === null || answer.targets.includes(answer.default_target));
      assert.ok(answer.targets.every((target) => !qubes[target.replace("@dispvm:", "")]?.internal));
    }),
    { numRuns: 1000 },
  );
});

test.run();
