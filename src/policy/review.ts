/** A change of a host's policy, judged before anything is written: what is refused, and what it means. */
import { Evaluator, type Facts, placeOf } from "./evaluate.ts";
import { breaches, callsOf, type Difference, difference, targetsOf } from "./explain.ts";
import { lintOwn } from "./lint.ts";
import { type Files, type Located, loadPolicy, POLICY } from "./load.ts";
import { type Fault, faultText, renderRule } from "./parse.ts";
import type { Principal } from "./principal.ts";
import { STOCK } from "./services.ts";

export interface Review {
  /** Reasons not to write anything. */
  refusals: string[];
  /** What is not right already, by a file of somebody else, and stays so. */
  warnings: string[];
  /** What each qube may from now on, and no longer. */
  differences: Difference[];
}

/**
 * `principals`: everybody with a level on that host after the change; `about`: the GUI domains whose rights are changed, which may lose what
 * they have.
 */
export function review(
  before: Files,
  after: Files,
  facts: Facts,
  principals: readonly Principal[],
  about: readonly string[] = principals.map(({ qube }) => qube),
): Review {
  const [was, is] = [loadPolicy(before), loadPolicy(after)];
  const own = Object.keys(after).filter(
    (file) => file.startsWith(`${POLICY}/`) && file.endsWith(".policy") && after[file] !== before[file],
  );
  const known = new Set(was.faults.map(faultText));
  const faults = dedupe([...own.flatMap((file) => lintOwn(file, after, facts)), ...is.faults]);
  // While a policy does not load, every call is denied.
  const [old, now] = [was, is].map((policy) => (policy.faults.length ? [] : policy.rules)) as [
    Located[],
    Located[],
  ];
  const found = breaches(now, facts, principals);
  const broken = new Set(found.length ? breaches(old, facts, principals) : []);
  return {
    refusals: [
      ...faults.filter((text) => !known.has(text)),
      ...found.filter((text) => !broken.has(text)),
      ...(is.faults.length ? [] : cuts(old, now, facts, about)),
    ],
    warnings: [...faults.filter((text) => known.has(text)), ...found.filter((text) => broken.has(text))],
    differences: difference(old, now, facts),
  };
}

const dedupe = (faults: readonly Fault[]) => [...new Set(faults.map(faultText))];

/**
 * Ways in that the change would close: what somebody else than those whom it is about asks of dom0 today, by more than Qubes' own policy (a
 * management qube's service, sshd through qubes.ConnectTCP), and input devices. Nobody can tell from a policy which of them is used.
 */
function cuts(before: Located[], after: Located[], facts: Facts, about: readonly string[]): string[] {
  const [old, now, stock] = [before, after, loadPolicy(STOCK).rules].map(
    (rules) => new Evaluator(rules, facts),
  ) as [Evaluator, Evaluator, Evaluator];
  /** Services that are lost, with the place that allows them, by who loses them to which rule. */
  const lost = new Map<string, Map<string, string>>();
  const calls = callsOf(before);
  const sources = Object.keys(facts).filter((name) => name !== "dom0" && !about.includes(name));
  for (const source of sources)
    for (const [service, list] of calls.filter(([each]) => !old.isSame(now, each, source)))
      for (const argument of list)
        for (const target of targetsOf(facts)) {
          const call = { service, argument, source, target };
          const open = old.evaluate(call);
          const isWay =
            open.decision === "allow" && open.target === "dom0" && stock.evaluate(call).decision === "deny";
          if (open.decision === "deny" || !(isWay || service.startsWith("qubes.Input"))) continue;
          const closed = now.evaluate(call);
          if (closed.decision !== "deny") continue;
          const by = closed.rule
            ? `${placeOf(closed.rule)}: ${renderRule(closed.rule)}`
            : "no rule that allows it any more";
          const key = `${source} could no longer ask for {}, by ${by}`;
          const services = lost.get(key) ?? new Map<string, string>();
          lost.set(key, services);
          if (!services.has(service)) services.set(service, placeOf(open.rule));
        }
  return [...lost].map(([key, services]) => {
    const [[service, place] = ["", ""], ...more] = [...services];
    const what = `${service} (allowed by ${place})${more.length ? ` and ${more.length} more` : ""}`;
    const why = service.startsWith("qubes.Input")
      ? "its keyboard or mouse would be lost"
      : "if this host is reached through it, that cuts the way in";
    return `${key.replace("{}", () => what)}; ${why}. Let another GUI domain show that qube, or put its rule into a file that comes earlier`;
  });
}
