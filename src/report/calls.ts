/** Who may ask whom for what because of a change of policy: from the answers to every question, put together by places. Pure. */
import { Evaluator } from "../policy/evaluate.ts";
import { callsOf, targetsOf } from "../policy/explain.ts";
import { GROUP_NAMES, groupOf } from "../policy/services.ts";
import type { World } from "./described.ts";

/** "start applications" and the like, of what one place may ask of another. */
export interface Asks {
  from: string;
  to: string;
  allowed: string[];
  /** Of these a person is asked first. */
  asked: string[];
}

const DISPOSABLE = "@dispvm:";

/** "start applications"; a service that is in none of the groups under its own name. */
const wordsFor = (service: string) => (groupOf(service) === GROUP_NAMES.at(-1) ? service : groupOf(service));

/**
 * What is allowed `after` and was not `before`, or was answered by somebody else. `placeOf`: where a qube stands in the picture, null where
 * it is not in it; a new disposable stands where its template does.
 */
export function asksOf(
  { before, after, facts }: World,
  placeOf: (qube: string) => string | null,
  calls = callsOf(before, after),
): Asks[] {
  const [was, is] = [new Evaluator(before, facts), new Evaluator(after, facts)];
  const found = new Map<string, { from: string; to: string; allowed: Set<string>; asked: Set<string> }>();
  const targets = targetsOf(facts);
  for (const source of Object.keys(facts)) {
    const from = placeOf(source);
    if (from === null || source === "dom0") continue;
    for (const [service, args] of calls) {
      if (was.isSame(is, service, source)) continue;
      for (const argument of args)
        for (const target of targets) {
          const call = { service, argument, source, target };
          const [old, now] = [was.evaluate(call), is.evaluate(call)];
          if (now.decision === "deny") continue;
          const known = old.decision === now.decision ? endsOf(old) : [];
          for (const end of endsOf(now).filter((each) => !known.includes(each))) {
            const to = placeOf(end.replace(DISPOSABLE, ""));
            if (to === null || to === from) continue;
            const key = `${from} ${to}`;
            const asks = found.get(key) ?? { from, to, allowed: new Set(), asked: new Set() };
            found.set(key, asks);
            (now.decision === "allow" ? asks.allowed : asks.asked).add(wordsFor(service));
          }
        }
    }
  }
  return [...found.values()].map(({ from, to, allowed, asked }) => ({
    from,
    to,
    allowed: [...allowed],
    asked: [...asked].filter((group) => !allowed.has(group)),
  }));
}

/** Where a call ends, or may end. */
function endsOf(answer: ReturnType<Evaluator["evaluate"]>): string[] {
  if (answer.decision === "allow") return [answer.target];
  return answer.decision === "ask" ? answer.targets : [];
}
