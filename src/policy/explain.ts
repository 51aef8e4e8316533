/**
 * What somebody may ask, and what a change of policy adds or takes away: from the answers to every question there is, not from the text of
 * the rules. Every question: all services that the reference or a rule knows and one that neither does, with each argument that a rule tells
 * apart and one that none does, to every qube and token. Between these no rule can distinguish, so nothing is left out.
 */
import { tagOf } from "../model/names.ts";
import { type Answer, type Call, Evaluator, type Facts, placeOf } from "./evaluate.ts";
import { audioPolicy, levelFile } from "./levels.ts";
import type { Located } from "./load.ts";
import { renderRule } from "./parse.ts";
import type { Principal } from "./principal.ts";
import { adminOnly } from "./rights.ts";
import { COMMANDS, GROUP_NAMES, groupOf, SERVICES } from "./services.ts";

/** Named by no rule and no reference. */
const UNKNOWN = "any.OtherService";
const OTHER = "+any-other";

/** Arguments that decide over rights, asked about even where no rule tells them apart. */
const TELLING: Record<string, string[]> = Object.fromEntries([
  ...["Set", "Reset"].map((call) => [
    `admin.vm.property.${call}`,
    [
      "kernel",
      "kernelopts",
      "guivm",
      "audiovm",
      "management_dispvm",
      "default_user",
      "netvm",
      "template",
      "memory",
    ],
  ]),
  ...["Set", "Remove"].map((call) => [
    `admin.vm.feature.${call}`,
    [
      "service.guivm",
      "internal",
      "set-created-guivm",
      "tag-created-vm-with",
      "no-default-kernelopts",
      "menu-items",
    ],
  ]),
]);

/** Every service with every argument to ask about. */
export function callsOf(...policies: (readonly Located[])[]): [service: string, arguments_: string[]][] {
  const calls = new Map([...SERVICES, UNKNOWN].map((service) => [service, new Set<string>()]));
  for (const { service, argument } of policies.flat()) {
    if (service === null) continue;
    const known = calls.get(service) ?? new Set();
    calls.set(service, known);
    if (argument !== null) known.add(argument);
  }
  return [...calls]
    .map(([service, named]): [string, string[]] => {
      const telling = (TELLING[service] ?? []).map((each) => `+${each}`);
      return [service, [...new Set(["+", ...telling, ...[...named].sort(), OTHER])]];
    })
    .sort(([a], [b]) => (a < b ? -1 : 1));
}

/** Whom a call can be for. */
export function targetsOf(facts: Facts): string[] {
  const names = Object.keys(facts);
  const disposables = names
    .filter((name) => facts[name]?.template_for_dispvms)
    .map((name) => `@dispvm:${name}`);
  return [...names, ...disposables, "@default", "@dispvm"];
}

/** What is the same for several services, arguments and targets, said once. */
export interface Said {
  mark: string;
  services: string[];
  /** "any", or each; "any other" besides those that are listed elsewhere. */
  arguments: string[];
  targets: string[];
}
export interface Group {
  name: string;
  said: Said[];
}

/** The questions that `source` may ask and that have a mark, put together. */
function gather(
  source: string,
  policies: (readonly Located[])[],
  facts: Facts,
  markOf: (call: Call) => string | null,
  counts: (service: string) => boolean = () => true,
): Group[] {
  const groups = new Map<string, Map<string, Said>>();
  const targets = targetsOf(facts);
  for (const [service, list] of callsOf(...policies)) {
    if (!counts(service)) continue;
    /** Arguments by what is answered to them. */
    const byAnswers = new Map<string, string[]>();
    for (const argument of list) {
      const marks = targets.map((target) => markOf({ service, argument, source, target }));
      const key = JSON.stringify(marks);
      byAnswers.set(key, [...(byAnswers.get(key) ?? []), argument]);
    }
    for (const [key, same] of byAnswers) {
      const marks = JSON.parse(key) as (string | null)[];
      for (const mark of new Set(marks)) {
        if (mark === null) continue;
        const said: Said = {
          mark,
          services: [service === UNKNOWN ? "any other service" : service],
          arguments: byAnswers.size === 1 ? ["any"] : same.map(spokenArgument),
          targets: spokenTargets(
            source,
            facts,
            targets.filter((_, i) => marks[i] === mark),
          ),
        };
        const words = JSON.stringify([mark, said.arguments, said.targets]);
        const group = groups.get(groupOf(service)) ?? new Map<string, Said>();
        group.get(words)?.services.push(...said.services);
        if (!group.has(words)) group.set(words, said);
        groups.set(groupOf(service), group);
      }
    }
  }
  return GROUP_NAMES.flatMap((name) => {
    const said = groups.get(name);
    return said ? [{ name, said: [...said.values()] }] : [];
  });
}

const spokenArgument = (argument: string) =>
  argument === OTHER ? "any other" : argument === "+" ? "no argument" : argument.slice(1);

/** Targets as sets that a person knows, where all of a set are among them. */
function spokenTargets(source: string, facts: Facts, targets: string[]): string[] {
  let rest = targets;
  const tag = tagOf(source);
  const spoken: string[] = [];
  const take = (words: string, set: string[]) => {
    if (set.length < 1 || !set.every((target) => rest.includes(target))) return;
    rest = rest.filter((target) => !set.includes(target));
    spoken.push(words);
  };
  const all = targetsOf(facts);
  const ofClass = (fits: (name: string) => boolean) =>
    Object.keys(facts).filter((name) => name !== source && fits(name));
  const disposables = (names: string[]) =>
    names.map((name) => `@dispvm:${name}`).filter((name) => all.includes(name));
  const own = ofClass((name) => facts[name]?.tags.includes(tag) ?? false);
  take("anybody", all);
  take(
    "every qube",
    all.filter((target) => target !== "dom0"),
  );
  take("its qubes", own);
  take("new disposables of its qubes", disposables(own));
  take(
    "templates",
    ofClass((name) => facts[name]?.class === "TemplateVM"),
  );
  const words: Record<string, string> = {
    "@default": "nobody by name",
    "@dispvm": "a new disposable",
    [source]: "itself",
  };
  return [
    ...spoken,
    ...rest.map((target) => words[target] ?? target.replace(/^@dispvm:/, "a new disposable of ")),
  ];
}

export interface Explanation {
  source: string;
  may: Group[];
  /** Groups in which nothing at all is allowed. */
  mayNot: string[];
}

/** What a qube may ask of whom. */
export function explain(rules: readonly Located[], facts: Facts, source: string): Explanation {
  const evaluator = new Evaluator(rules, facts);
  const may = gather(source, [rules], facts, (call) => {
    const { decision } = evaluator.evaluate(call);
    return decision === "deny" ? null : decision;
  });
  return { source, may, mayNot: GROUP_NAMES.filter((name) => !may.some((group) => group.name === name)) };
}

/** "admin.vm.Start, admin.vm.Kill" as "admin.vm.{Start, Kill}". */
function spokenServices(services: readonly string[]): string {
  const byFront = Map.groupBy(services, (service) => service.slice(0, service.lastIndexOf(".") + 1));
  return [...byFront]
    .map(([front, list]) => {
      const ends = list.map((service) => service.slice(front.length));
      return ends.length > 1 ? `${front}{${ends.join(", ")}}` : list[0];
    })
    .join(", ");
}

const wordsOf = ({ services, arguments: list, targets }: Said) =>
  `${spokenServices(services)}${list[0] === "any" ? "" : ` (${list.join(", ")})`}: ${targets.join(", ")}`;

const MARKS: Record<string, string> = { allow: "", ask: " (a person is asked first)" };

export function explanationText({ source, may, mayNot }: Explanation): string {
  const lines = may.flatMap(({ name, said }) => [
    `  ${name}`,
    ...said.map((each) => `    ${wordsOf(each)}${MARKS[each.mark] ?? ` ${each.mark}`}`),
  ]);
  const not = mayNot.length
    ? [`${source} may not, whoever is asked:`, ...mayNot.map((name) => `  ${name}`)]
    : [];
  return [...(lines.length ? [`${source} may:`, ...lines] : [`${source} may ask nothing.`]), ...not, ""].join(
    "\n",
  );
}

/** One answer in words. */
export function answerText({ service, argument, source, target }: Call, answer: Answer): string {
  const asked = `${source} → ${target || "@default"}: ${service}${argument === "+" ? "" : argument}`;
  const rule = answer.rule ? `\n  ${placeOf(answer.rule)}: ${renderRule(answer.rule)}` : "";
  if (answer.decision === "deny")
    return `denied: ${asked}${answer.rule?.action === "deny" ? "" : `: ${answer.reason}`}${rule}\n`;
  const user = answer.user ? ` as ${answer.user}` : "";
  if (answer.decision === "ask")
    return `a person is asked first: ${asked}${user}; offered: ${answer.targets.join(", ")}${rule}\n`;
  const by = answer.target === target ? "" : `, answered by ${answer.target}`;
  return `allowed: ${asked}${by}${user}${rule}\n`;
}

export interface Difference {
  source: string;
  /** Denied before, or with a question that is not asked any more. */
  gains: Group[];
  loses: Group[];
  /** Allowed before and after, but by another qube or as another user. */
  changes: Group[];
}

/** What a change of policy means for each of `sources`; those for whom it means nothing are left out. */
export function difference(
  before: readonly Located[],
  after: readonly Located[],
  facts: Facts,
  sources: readonly string[] = Object.keys(facts).filter((name) => name !== "dom0"),
): Difference[] {
  const [was, is] = [new Evaluator(before, facts), new Evaluator(after, facts)];
  const rank = { deny: 0, ask: 1, allow: 2 };
  /** "gains", "loses" or "changes", and how it was and is answered. */
  const markOf = (call: Call): string | null => {
    const [a, b] = [was.evaluate(call), is.evaluate(call)];
    const step = `${a.decision} → ${b.decision}`;
    if (rank[b.decision] > rank[a.decision]) return `gains ${step}`;
    if (rank[b.decision] < rank[a.decision]) return `loses ${step}`;
    if (a.decision === "deny") return null;
    const [old, now] = [outcomeOf(a), outcomeOf(b)];
    return old === now ? null : `changes ${old} → ${now}`;
  };
  return sources.flatMap((source) => {
    const groups = gather(
      source,
      [before, after],
      facts,
      markOf,
      (service) => !was.isSame(is, service, source),
    );
    const of = (kind: string): Group[] =>
      groups.flatMap(({ name, said }) => {
        const those = said.flatMap((each) =>
          each.mark.startsWith(kind) ? [{ ...each, mark: each.mark.slice(kind.length + 1) }] : [],
        );
        return those.length ? [{ name, said: those }] : [];
      });
    return groups.length ? [{ source, gains: of("gains"), loses: of("loses"), changes: of("changes") }] : [];
  });
}

/** Where an allowed call ends, and as whom; what a question offers. */
function outcomeOf(answer: Answer): string {
  if (answer.decision === "deny") return "deny";
  const user = answer.user ? ` as ${answer.user}` : "";
  return `${answer.decision} ${answer.decision === "allow" ? answer.target : answer.targets.join("|")}${user}`;
}

export function differenceText(differences: readonly Difference[]): string {
  const block = (title: string, groups: Group[]) =>
    groups.length
      ? [
          title,
          ...groups.flatMap(({ name, said }) => [
            `  ${name}`,
            ...said.map((each) => `    ${wordsOf(each)} [${each.mark}]`),
          ]),
        ]
      : [];
  return differences
    .flatMap(({ source, gains, loses, changes }) => [
      ...block(`${source} may from now on:`, gains),
      ...block(`${source} may no longer:`, loses),
      ...block(`for ${source} is answered otherwise:`, changes),
    ])
    .map((line) => `${line}\n`)
    .join("");
}

/**
 * Where a host's policy as a whole gives somebody below admin what only admins may have, or opens one GUI domain's qubes to another: a file
 * of somebody else that comes earlier may do so, whatever we write. Each sentence names the rule.
 */
export function breaches(
  rules: readonly Located[],
  facts: Facts,
  principals: readonly Principal[],
): string[] {
  const evaluator = new Evaluator(rules, facts);
  const found = new Set<string>();
  const tell = (who: string, what: string, answer: Answer) => {
    if (answer.decision !== "deny") found.add(`${who} may ${what}, by ${placeOf(answer.rule)}`);
  };
  const belongings = (qube: string) =>
    Object.keys(facts).filter((name) => facts[name]?.tags.includes(tagOf(qube)));
  const calls = callsOf(rules);
  for (const { qube, level, apart } of principals) {
    const foreign = new Set(apart.flatMap((other) => [other, ...belongings(other)]));
    const own = levelFile(qube);
    const isForeign = (target: string) => foreign.has(target.replace("@dispvm:", ""));
    for (const source of [qube, ...belongings(qube)]) {
      const audio = audioPolicy(source);
      /** What it must learn of the qubes whose sound it plays, whoever they are. */
      const isForSound = (target: string, { rule }: Answer) =>
        rule?.file === audio && facts[target]?.tags.includes(`audiovm-${source}`);
      for (const [service, list] of calls)
        for (const argument of list) {
          const admins = level === "admin" ? null : adminOnly(service, argument);
          const counts = admins && (source === qube || COMMANDS.includes(service));
          for (const target of targetsOf(facts)) {
            const answer = evaluator.evaluate({ service, argument, source, target });
            if (counts)
              tell(source, `ask ${target} for ${service}${argument} (${admins}), below level admin`, answer);
            // A template's menus are everybody's.
            if (service === "qubes.GetAppmenus" && facts[target]?.class === "TemplateVM") continue;
            if (isForeign(target) && !isForSound(target, answer))
              tell(source, `ask ${target}, which is not its own, for ${service}`, answer);
            // Where Qubes' own rules lead (updates through the network's qube, say) is everybody's.
            else if (answer.decision === "allow" && isForeign(answer.target) && answer.rule.file === own)
              tell(source, `reach ${answer.target}, which is not its own, for ${service}`, answer);
            else if (answer.decision === "ask" && answer.targets.some(isForeign))
              tell(
                source,
                `be offered ${answer.targets.filter(isForeign).join(", ")}, not its own, for ${service}`,
                answer,
              );
          }
        }
    }
  }
  return [...found].sort();
}
