/**
 * What Qubes answers to a qrexec call: the first rule that fits decides. The same answers as qubes-core-qrexec 4.3.12 gives, its failures
 * included (tests/fixtures/policy-4.3.json); not modelled: calls to or on behalf of a RemoteVM.
 */
import type { Located } from "./load.ts";
import { checkToken, renderRule, Wrong } from "./parse.ts";

/** What of a qube counts for policy. */
export interface Qube {
  class: string;
  tags: readonly string[];
  template_for_dispvms: boolean;
  default_dispvm: string | null;
  running: boolean;
  /** Not offered to a person who is asked. */
  internal?: boolean;
  uuid?: string;
}

/** By name; dom0 is one of them. */
export type Facts = Readonly<Record<string, Qube>>;

export interface Call {
  service: string;
  /** With its "+". */
  argument: string;
  source: string;
  /** A qube or a token that a caller may use: @default, @dispvm, @dispvm:NAME, @adminvm. */
  target: string;
}

/** "SERVICE+ARGUMENT", or a service alone, taken apart. */
export function callOf(text: string): Pick<Call, "service" | "argument"> {
  const at = text.indexOf("+");
  return at < 0 ? { service: text, argument: "+" } : { service: text.slice(0, at), argument: text.slice(at) };
}

interface Decided {
  user: string | null;
  autostart: boolean;
  notify: boolean;
  rule: Located;
}
export type Answer =
  | ({ decision: "allow"; target: string } & Decided)
  /** A person chooses among `targets`, at the GUI domain of the source. */
  | ({ decision: "ask"; targets: string[]; default_target: string | null } & Decided)
  /** `rule` null: none fits, or the call cannot be asked. */
  | { decision: "deny"; reason: string; rule: Located | null };

/** A call whose target is one that exists, or a token; `given` as the caller wrote it. */
interface Asked extends Call {
  given: string;
}

class Denied extends Error {}

const DISPOSABLE = "@dispvm:";
const ZERO = "uuid:00000000-0000-0000-0000-000000000000";
const isDom0 = (name: string) => name === "@adminvm" || name === "dom0" || name === ZERO;

export const placeOf = (rule: Located) => `${rule.file}:${rule.line ?? "(end)"}`;

/** A policy's rules over known qubes, ready for many questions. */
export class Evaluator {
  readonly rules: readonly Located[];
  readonly facts: Facts;
  readonly #byCall = new Map<string, Located[]>();
  readonly #targets = new Map<string, string>();
  readonly #byUuid: Map<string, string>;

  constructor(rules: readonly Located[], facts: Facts) {
    this.rules = rules;
    this.facts = facts;
    this.#byUuid = new Map(
      Object.entries(facts).flatMap(([name, { uuid }]) => (uuid ? [[`uuid:${uuid}`, name]] : [])),
    );
  }

  evaluate(call: Call): Answer {
    let rule: Located | undefined;
    try {
      const target = this.#target(call.target);
      const source = this.#named(call.source);
      if (!this.facts[source]) throw new Denied(`there is no qube ${call.source}`);
      const asked = { ...call, source, target, given: call.target };
      rule = this.#rulesFor(call.service, source).find((each) => this.#fits(each, asked));
      // The two common denials without the cost of an exception: a table has a hundred thousand questions.
      if (!rule) return { decision: "deny", reason: "no rule fits", rule: null };
      if (rule.action === "deny") return { decision: "deny", reason: `denied by ${placeOf(rule)}`, rule };
      return this.#act(rule, asked);
    } catch (error) {
      if (error instanceof Denied || error instanceof Wrong)
        return { decision: "deny", reason: error.message, rule: rule ?? null };
      throw error;
    }
  }

  /** Whether every question of `source` about `service` has the same answer here and there, because the rules for it are the same. */
  isSame(there: Evaluator, service: string, source: string): boolean {
    const [a, b] = [this.#rulesFor(service, source), there.#rulesFor(service, source)];
    return (
      a.length === b.length &&
      a.every((rule, i) => rule === b[i] || renderRule(rule) === renderRule(b[i] as Located))
    );
  }

  /** The rules for a service and a source. */
  #rulesFor(service: string, source: string): Located[] {
    const key = `${service} ${source}`;
    let found = this.#byCall.get(key);
    if (!found) {
      found = this.rules.filter(
        (rule) =>
          (rule.service === null || rule.service === service) && this.#means(rule.source, source, null),
      );
      this.#byCall.set(key, found);
    }
    return found;
  }

  /** What a call's target comes to, once for each that is asked. */
  #target(given: string): string {
    let target = this.#targets.get(given);
    if (target === undefined) {
      target = this.#verify(checkToken(given || "@default", "call", "target"));
      this.#targets.set(given, target);
    }
    return target;
  }

  /** The name behind `uuid:…`, where there is one. */
  #named(token: string): string {
    if (token.startsWith(DISPOSABLE)) return DISPOSABLE + this.#named(token.slice(DISPOSABLE.length));
    return this.#byUuid.get(token) ?? token;
  }

  /** What a call's target comes to: a qube that does not exist is nobody in particular. */
  #verify(given: string): string {
    const target = this.#named(given);
    if (target.startsWith(DISPOSABLE)) {
      const template = target.slice(DISPOSABLE.length);
      if (!this.facts[template]?.template_for_dispvms)
        throw new Denied(`${template} is not a template for disposables`);
    } else if (!target.startsWith("@") && !this.facts[target]) return "@default";
    return target;
  }

  /** The @dispvm:NAME that a plain @dispvm means for `source`, null where it has none. */
  #disposableOf(source: string): string | null {
    const template = this.facts[source]?.default_dispvm;
    return template ? DISPOSABLE + template : null;
  }

  #fits(rule: Located, call: Asked): boolean {
    return this.#fitsArgument(rule, call) && this.#means(rule.target, call.target, call.source);
  }

  #fitsArgument(rule: Located, call: Asked): boolean {
    return rule.argument === null || rule.argument === call.argument;
  }

  /** Whether a token of a rule means `name`, a qube or what a caller may say instead. `source`: the caller, where `name` is the target. */
  #means(token: string, name: string, source: string | null): boolean {
    if (token === "*") return true;
    if (isDom0(token)) return isDom0(name);
    if (token === "@anyvm") return !isDom0(name);
    if (token.startsWith("@type:")) return this.facts[name]?.class === token.slice("@type:".length);
    if (token.startsWith("@tag:"))
      return this.facts[name]?.tags.includes(token.slice("@tag:".length)) ?? false;
    if (!token.startsWith(DISPOSABLE)) return this.#named(token) === name;
    if (source === null) return false;
    const disposable = name === "@dispvm" ? this.#disposableOf(source) : name;
    const tag = token.startsWith("@dispvm:@tag:") ? token.slice("@dispvm:@tag:".length) : null;
    if (disposable === null) {
      if (tag !== null) return false;
      throw new Denied(`Qubes' evaluator fails: ${source} has no default_dispvm to compare with ${token}`);
    }
    if (!disposable.startsWith(DISPOSABLE)) return false;
    // A disposable's template by its uuid is not seen behind a plain @dispvm.
    if (tag === null) return (name === "@dispvm" ? token : this.#named(token)) === disposable;
    const template = this.facts[disposable.slice(DISPOSABLE.length)];
    return Boolean(template?.template_for_dispvms && template.tags.includes(tag));
  }

  #act(rule: Located, call: Asked): Answer {
    const { options } = rule;
    const decided: Decided = {
      user: options.user || null,
      autostart: options.autostart !== "no",
      notify: options.notify === "yes",
      rule,
    };
    if (rule.action === "allow") return { decision: "allow", target: this.#allowed(rule, call), ...decided };
    let targets = options.target ? [isDom0(options.target) ? "dom0" : options.target] : this.#offered(call);
    if (!decided.autostart) targets = targets.filter((target) => this.#runs(target));
    if (targets.length === 0)
      throw new Denied(`${placeOf(rule)} asks, but there is no target to choose from`);
    const suggested = this.#suggested(rule, call);
    return {
      decision: "ask",
      targets: targets.map((target) => this.#named(target)),
      default_target: suggested !== null && targets.includes(suggested) ? this.#named(suggested) : null,
      ...decided,
    };
  }

  #allowed(rule: Located, call: Asked): string {
    const given = rule.options.target ?? call.given;
    let target: string | null = this.#verify(given || "@default");
    if (target === "@default")
      throw new Denied(`${placeOf(rule)} allows, but neither it nor the caller names a qube that exists`);
    if (target === "@dispvm") target = this.#disposableOf(call.source);
    if (target === null)
      throw new Denied(`${placeOf(rule)} allows @dispvm, but ${call.source} has no default_dispvm`);
    if (isDom0(target)) target = "dom0";
    if (rule.options.autostart === "no" && !this.#runs(target))
      throw new Denied(`${target} does not run, and ${placeOf(rule)} starts nothing`);
    // By its uuid it can: Qubes compares what is written.
    if (target === call.source && !given.startsWith("uuid:")) throw new Denied("a qube cannot call itself");
    return target;
  }

  #suggested(rule: Located, call: Asked): string | null {
    const given = rule.options.default_target ?? null;
    if (given === "@dispvm") return this.#disposableOf(call.source);
    return given !== null && isDom0(given) ? "dom0" : given;
  }

  #runs(target: string): boolean {
    if (isDom0(target)) return true;
    if (target.startsWith("@dispvm")) return false;
    const qube = this.facts[this.#named(target)];
    if (!qube) throw new Denied(`Qubes' evaluator fails: there is no qube ${target}`);
    return qube.running;
  }

  /** What a person may choose from: what any rule for this call lets through, less what an earlier one denies. */
  #offered(call: Asked): string[] {
    const found = new Set<string>();
    for (const rule of this.#rulesFor(call.service, call.source).toReversed()) {
      if (!this.#fitsArgument(rule, call)) continue;
      for (const target of this.#expand(rule.options.target ?? rule.target))
        if (rule.action === "deny") found.delete(target);
        else found.add(target);
    }
    if (found.delete("@dispvm")) {
      const disposable = this.#disposableOf(call.source);
      if (disposable) found.add(disposable);
    }
    if (found.delete("@adminvm")) found.add("dom0");
    found.delete(call.source);
    return [...found].filter((target) => !this.facts[target.replace(DISPOSABLE, "")]?.internal).sort();
  }

  #expand(given: string): string[] {
    const token = this.#named(given);
    if (token === "@adminvm" || token === "@dispvm") return [token];
    if (token === "@default") return [];
    const names = Object.keys(this.facts);
    const disposables = names
      .filter((name) => this.facts[name]?.template_for_dispvms)
      .map((name) => DISPOSABLE + name);
    if (token === "*" || token === "@anyvm")
      return [...names.filter((name) => token === "*" || !isDom0(name)), ...disposables, "@dispvm"];
    if (token.startsWith("@dispvm:@tag:")) return disposables.filter((name) => this.#means(token, name, ""));
    if (!token.startsWith(DISPOSABLE)) return names.filter((name) => this.#means(token, name, null));
    if (!this.facts[token.slice(DISPOSABLE.length)])
      throw new Denied(`Qubes' evaluator fails: there is no qube for ${token}`);
    return disposables.includes(token) ? [token] : [];
  }
}
