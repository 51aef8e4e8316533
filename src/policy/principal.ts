/** Who asks: a GUI domain with its level, as a program says it. What cannot be a name is refused here, so nothing below has to quote. */
import * as v from "valibot";
import { listOf, named, oneOf, only, pathOf, shown, wrong } from "../model/fields.ts";
import { guiDomainNameFault, qubeNameFault, tagOf } from "../model/names.ts";
import { POWER, type PowerAction } from "../model/power.ts";
import { parseFile, type Rule } from "./parse.ts";
import { adminOnly, changes } from "./rights.ts";

/** From most to least. */
export const LEVELS = ["admin", "operator", "user", "guest", "kiosk"] as const;
export type Level = (typeof LEVELS)[number];

const cut = (value: string) => shown(value.length > 40 ? `${value.slice(0, 40)}…` : value);

const tagFault = (tag: string) => {
  if (!/^[A-Za-z0-9_-]{1,80}$/.test(tag))
    return `${cut(tag)} is not a tag; allowed are letters, digits, "_" and "-", at most 80`;
  if (/^(guivm|audiovm|created-by|disp-created-by)-/.test(tag))
    return `${cut(tag)} is a tag that Qubes sets by itself; choose another, such as "owner-alice"`;
  return null;
};

const appFault = (app: string) =>
  /^[A-Za-z0-9][A-Za-z0-9+._-]{0,127}$/.test(app)
    ? null
    : `${cut(app)} is not an application; give the name of its menu entry without ".desktop": letters, digits, "+", "-", ".", "_", at most 128`;

const ruleFault = (line: string) => {
  if (line.length > 1000) return `${cut(line)} has ${line.length} characters; a rule has at most 1000`;
  if (/[^\t\x20-\x7e]/.test(line))
    return `${cut(line)} has characters besides printable ASCII; a rule is one line`;
  const { lines, faults } = parseFile("", line);
  const [fault] = faults;
  if (fault) return `${fault.field}: ${fault.reason}`;
  return lines[0]?.kind === "rule"
    ? null
    : `${cut(line)} is no rule; give SERVICE ARGUMENT SOURCE TARGET ACTION [OPTION=VALUE …]`;
};

const name = named(qubeNameFault);
const app = only(
  { app: named(appFault, "an application"), qube: v.optional(name), disposable: v.optional(name) },
  wrong("an application: app, and qube or disposable"),
  "not a part of an application; allowed are app, qube, disposable",
);

/** What a GUI domain says of its level as well. */
export const APPS = listOf(app);
export const RULES = listOf(named(ruleFault, "a rule"));

const fields = {
  qube: named(guiDomainNameFault),
  level: oneOf(...LEVELS),
  /** What the GUI domain creates gets this tag besides those that Qubes sets. */
  tag: v.optional(named(tagFault, "a tag")),
  apps: v.optional(APPS),
  rules: v.optional(RULES),
  apart: v.optional(listOf(named(guiDomainNameFault))),
  barred: v.optional(listOf(named(guiDomainNameFault))),
  power: v.optional(listOf(oneOf(...POWER))),
};
const FIELDS = Object.keys(fields).join(", ");
const Args = only(fields, wrong("who may do what"), `not a property of an access; allowed are ${FIELDS}`);

/** An application that a kiosk starts, in a qube or in a new disposable of a template. */
export type App = { app: string; qube: string } | { app: string; disposable: string };

export interface Principal {
  /** The GUI domain: policy knows the qube that asks, not the person in front of it. */
  qube: string;
  level: Level;
  tag: string | null;
  /** Level kiosk: all that it may start. */
  apps: App[];
  /** Rules of one's own, before those of the level. */
  rules: Rule[];
  /** The other GUI domains of the host, whose qubes are none of its business, nor its qubes of theirs. */
  apart: string[];
  /** Those of them, and itself, whose qubes get no default disposable, for it is the other's. */
  barred: string[];
  /** What it may do to the machine. */
  power: PowerAction[];
}

export interface PrincipalFault {
  property: string;
  reason: string;
}

export function parsePrincipal(value: unknown): { principal: Principal } | { faults: PrincipalFault[] } {
  const parsed = v.safeParse(Args, value);
  if (!parsed.success)
    return { faults: parsed.issues.map((issue) => ({ property: pathOf(issue), reason: issue.message })) };
  const {
    qube,
    level,
    tag = null,
    apps = [],
    rules = [],
    apart = [],
    barred = [],
    power = [],
  } = parsed.output;
  const faults: PrincipalFault[] = [];
  const add = (property: string, reason: string) => faults.push({ property, reason });
  const principal: Principal = {
    qube,
    level,
    tag,
    apps: apps.flatMap(({ app, qube, disposable }, i): App[] => {
      if (qube !== undefined && disposable === undefined) return [{ app, qube }];
      if (disposable !== undefined && qube === undefined) return [{ app, disposable }];
      add(
        `apps[${i}]`,
        `${app} is started in a qube or in a disposable; give exactly one of qube, disposable`,
      );
      return [];
    }),
    rules: rules.map((line) => ruleOf(line)),
    apart: [...new Set(apart)].sort(),
    barred: [...new Set(barred)].sort(),
    power: POWER.filter((one) => power.includes(one)),
  };
  if (level === "kiosk" && apps.length === 0)
    add("apps", `level kiosk starts only what is listed; name at least one application`);
  if (level !== "kiosk" && apps.length > 0)
    add("apps", `only level kiosk has a list of applications, not level ${level}; leave it out`);
  apps.forEach(({ qube: at, disposable }, i) => {
    if ((at ?? disposable) === qube)
      add(`apps[${i}]`, `${qube} is the GUI domain itself; name a qube that it shows`);
  });
  if (apart.includes(qube)) add("apart", `${qube} cannot be kept apart from itself`);
  faults.push(...ownRuleFaults(rules, principal));
  return faults.length ? { faults } : { principal };
}

/** What of `rules`, each one line, cannot stand on top of somebody's level. */
export const ownRuleFaults = (
  rules: readonly string[],
  who: Pick<Principal, "qube" | "level">,
): PrincipalFault[] =>
  rules.flatMap((line, i) => {
    const reason = ownRuleFault(ruleOf(line), who);
    return reason ? [{ property: `rules[${i}]`, reason }] : [];
  });

export function ruleOf(line: string): Rule {
  const [parsed] = parseFile("", line).lines;
  if (parsed?.kind !== "rule") throw new Error(`not a rule: ${line}`);
  return parsed.rule;
}

/** Why a rule of one's own cannot stand on top of the level. */
function ownRuleFault(
  { service, argument, source, target, action, options }: Rule,
  { qube, level }: Pick<Principal, "qube" | "level">,
): string | null {
  const own = [qube, `@tag:${tagOf(qube)}`];
  if (!own.includes(source))
    return `its source is ${shown(source)}; rules of one's own are about what ${qube} and its qubes may ask: allowed are ${own.join(", ")}`;
  if (action === "deny") return null;
  const said = `${service ?? "*"}${argument === null || argument === "+" ? "" : argument}`;
  if (
    /^(admin|policy)\./.test(service ?? "") &&
    options.target !== "dom0" &&
    !["dom0", "@adminvm"].includes(target)
  )
    return `${said} is served by dom0; add target=dom0`;
  if (level === "admin")
    return service === null ? "service * lets through what nobody has thought of; name the services" : null;
  const admins = adminOnly(service, argument);
  const out = "take the rule out";
  if (admins) return `${said} is for admins (${admins}), and ${qube} is at level ${level}; ${out}`;
  if ((level === "guest" || level === "kiosk") && changes(service))
    return `${said} is an admin right, and ${qube} is at level ${level}, which changes nothing on the host; ${out}`;
  if (level === "kiosk" && service === "qubes.StartApp")
    return `what a kiosk starts stands in apps; list the application there`;
  if (target === "*" || target === "@anyvm")
    return `its target is ${target}, which means every qube of the host; name a qube, @tag:${tagOf(qube)}, @dispvm:@tag:${tagOf(qube)}, @default or dom0`;
  return null;
}
