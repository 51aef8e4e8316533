/**
 * Text of a qrexec policy file of Qubes 4.x ↔ its lines, typed. A parsed line keeps every rule of the format, so the parser is the validator.
 * Sources: qubes-cli-formats.md §9, qubes-host.md (f), Qubes' specification of the format; checked against qubes-core-qrexec 4.3.12 (tests/fixtures/policy-4.3.json).
 */

export const ACTIONS = ["allow", "ask", "deny"] as const;
export type Action = (typeof ACTIONS)[number];

export interface Rule {
  /** null: any. */
  service: string | null;
  /** With its "+"; "+" alone is the empty one; null: any. */
  argument: string | null;
  source: string;
  target: string;
  action: Action;
  options: Options;
}

/** What stands behind an action; what is not written is not there. */
export interface Options {
  target?: string;
  default_target?: string;
  user?: string;
  notify?: "yes" | "no";
  autostart?: "yes" | "no";
}

export type Line =
  | { kind: "blank" }
  | { kind: "comment"; text: string }
  | { kind: "rule"; rule: Rule }
  | { kind: "include"; path: string }
  | { kind: "include-dir"; path: string }
  | { kind: "include-service"; service: string | null; argument: string | null; path: string }
  | { kind: "compat-4.0" };

/**
 * "service": a file that `!include-service` and `!compat-4.0` bring in, whose lines have neither service nor argument; its rules are parsed
 * with null for both. "policy": all others.
 */
export type Form = "policy" | "service";

/** What is wrong with a line, in a form that both a person and a program can use. */
export interface Fault {
  file: string;
  /** 1 is the first; 0 where the file as a whole is meant. */
  line: number;
  field: string;
  /** With what is allowed instead. */
  reason: string;
}

export const faultText = ({ file, line, field, reason }: Fault) => `${file}:${line}: ${field}: ${reason}`;

/** Thrown while a line is parsed; never leaves this folder. */
export class Wrong extends Error {
  readonly field: string;
  constructor(field: string, reason: string) {
    super(reason);
    this.field = field;
  }
}

/** What Python, in which Qubes' parser is written, takes for a blank. */
const BLANKS =
  "\\t\\n\\v\\f\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const BLANK = new RegExp(`[${BLANKS}]+`);
const TRIM = new RegExp(`^[${BLANKS}]+|[${BLANKS}]+$`, "g");

const words = (text: string) => text.split(BLANK).filter((word) => word !== "");

/** A value as a message shows it: quoted, short. */
export const shown = (value: string) => JSON.stringify(value.length > 60 ? `${value.slice(0, 60)}…` : value);

type Place = "source" | "target" | "redirect" | "call";
/** Where each token may stand; the table of Qubes' specification. "call": as what a caller asks for. */
const EXACT: Record<string, readonly Place[]> = {
  "*": ["source", "target"],
  "@adminvm": ["source", "target", "redirect", "call"],
  "@anyvm": ["source", "target"],
  "@default": ["target", "call"],
  "@dispvm": ["target", "redirect", "call"],
};
const PREFIXES: Record<string, { places: readonly Place[]; what: string }> = {
  "@type:": { places: ["source", "target"], what: "TYPE" },
  "@tag:": { places: ["source", "target"], what: "TAG" },
  "@dispvm:": { places: ["source", "target", "redirect", "call"], what: "NAME" },
  "@dispvm:@tag:": { places: ["source", "target"], what: "TAG" },
};

const allowedTokens = (place: Place) =>
  [
    "a qube's name",
    ...Object.entries(EXACT).flatMap(([token, places]) => (places.includes(place) ? [token] : [])),
    ...Object.entries(PREFIXES).flatMap(([prefix, p]) =>
      p.places.includes(place) ? [`${prefix}${p.what}`] : [],
    ),
  ].join(", ");

/** `token` where it may stand for qubes at `place`; otherwise throws Wrong for `field`. */
export function checkToken(token: string, place: Place, field: string): string {
  const refuse = (): never => {
    throw new Wrong(field, `${shown(token)} is not allowed there; allowed are ${allowedTokens(place)}`);
  };
  if (token === "") return refuse();
  if (!token.startsWith("@") && token !== "*") return token;
  if (EXACT[token]?.includes(place)) return token;
  for (const [prefix, { places }] of Object.entries(PREFIXES)) {
    const rest = token.slice(prefix.length);
    if (places.includes(place) && token.startsWith(prefix) && rest !== "" && !rest.startsWith("@"))
      return token;
  }
  return refuse();
}

const NAME = /^[A-Za-z0-9._-]*$/;
const ARGUMENT = /^\+[A-Za-z0-9+._-]*$/;

export function checkService(word: string): string | null {
  if (word === "*") return null;
  if (NAME.test(word)) return word;
  throw new Wrong(
    "service",
    `${shown(word)} is not a service; allowed are letters, digits, ".", "_", "-", or * for any`,
  );
}

export function checkArgument(word: string, service: string | null): string | null {
  if (word === "*") return null;
  if (!ARGUMENT.test(word))
    throw new Wrong(
      "argument",
      `${shown(word)} is not an argument; allowed are * for any, or "+" and letters, digits, "+", ".", "_", "-" ("+" alone is the empty one)`,
    );
  if (service === null)
    throw new Wrong("argument", `${shown(word)} is not allowed: only * goes with service *`);
  return word;
}

const OPTIONS: Record<Action, readonly (keyof Options)[]> = {
  allow: ["target", "user", "notify", "autostart"],
  ask: ["target", "default_target", "user", "notify", "autostart"],
  deny: ["notify"],
};

function parseOptions(action: Action, given: string[], target: string): Options {
  const options: Record<string, string> = {};
  for (const word of given) {
    const equals = word.indexOf("=");
    const key = equals < 0 ? word : word.slice(0, equals);
    const value = word.slice(equals + 1);
    const allowed = `${action} takes ${OPTIONS[action].map((name) => `${name}=`).join(", ")}`;
    if (equals < 0) throw new Wrong("options", `${shown(word)} has no "="; ${allowed}, separated by blanks`);
    if (!(OPTIONS[action] as string[]).includes(key))
      throw new Wrong("options", `${shown(key)} is not allowed; ${allowed}`);
    if (Object.hasOwn(options, key)) throw new Wrong(`${key}=`, "it is there twice; give it once");
    if ((key === "notify" || key === "autostart") && value !== "yes" && value !== "no")
      throw new Wrong(`${key}=`, `${shown(value)} is not allowed; allowed are yes, no`);
    if (key === "target" || key === "default_target") checkToken(value, "redirect", `${key}=`);
    options[key] = value;
  }
  if (action === "allow" && target === "@default" && options["target"] === undefined)
    throw new Wrong("options", "allow for @default does not say which qube is meant; add target=");
  return options as Options;
}

function parseRule(given: string[], form: Form): Rule {
  const fields = form === "service" ? ["*", "*", ...given] : given;
  const [service, argument, source, target, action, ...options] = fields;
  if (
    service === undefined ||
    argument === undefined ||
    source === undefined ||
    target === undefined ||
    action === undefined
  )
    throw new Wrong(
      "line",
      `${given.length} fields are too few; a rule is ${form === "service" ? "" : "SERVICE ARGUMENT "}SOURCE TARGET ACTION [OPTION=VALUE …]`,
    );
  const named = checkService(service);
  const rule = {
    service: named,
    argument: checkArgument(argument, named),
    source: checkToken(source, "source", "source"),
    target: checkToken(target, "target", "target"),
  };
  const known = ACTIONS.find((name) => name === action);
  if (!known) throw new Wrong("action", `${shown(action)} is not allowed; allowed are ${ACTIONS.join(", ")}`);
  return { ...rule, action: known, options: parseOptions(known, options, rule.target) };
}

const DIRECTIVES: Record<string, string> = {
  "!include": "!include FILE",
  "!include-dir": "!include-dir FOLDER",
  "!include-service": "!include-service SERVICE ARGUMENT FILE",
  "!compat-4.0": "!compat-4.0",
};

function parseDirective([name = "", ...given]: string[], form: Form): Line {
  const allowed = Object.entries(DIRECTIVES).filter(([each]) => form === "policy" || each === "!include");
  const usage = allowed.find(([each]) => each === name)?.[1];
  if (!usage)
    throw new Wrong(
      "directive",
      `${shown(name)} is not allowed; allowed are ${allowed.map(([each]) => each).join(", ")}`,
    );
  if (given.length !== usage.split(" ").length - 1)
    throw new Wrong("directive", `${given.length} words after ${name}; its form is ${usage}`);
  const [first = "", second = "", third = ""] = given;
  if (name === "!include") return { kind: "include", path: first };
  if (name === "!include-dir") return { kind: "include-dir", path: first };
  if (name === "!compat-4.0") return { kind: "compat-4.0" };
  const service = checkService(first);
  return { kind: "include-service", service, argument: checkArgument(second, service), path: third };
}

function parseLine(text: string, form: Form): Line {
  let line = text.replace(TRIM, "");
  if (line === "") return { kind: "blank" };
  if (line.startsWith("#")) return { kind: "comment", text: line };
  // Spellings of Qubes 4.0, which count in these files to this day.
  if (form === "service")
    line = line.replaceAll("$include:", "!include ").replaceAll("$", "@").replaceAll(",", " ");
  const given = words(line);
  return line.startsWith("!") ? parseDirective(given, form) : { kind: "rule", rule: parseRule(given, form) };
}

/** Every line of a file, in order; a line that is wrong is a fault and stands as a blank one. */
export function parseFile(
  file: string,
  text: string,
  form: Form = "policy",
): { lines: Line[]; faults: Fault[] } {
  const faults: Fault[] = [];
  const texts = text.split(/\r\n|\n|\r/);
  if (texts.at(-1) === "") texts.pop();
  const lines = texts.map((each, index): Line => {
    try {
      return parseLine(each, form);
    } catch (error) {
      if (!(error instanceof Wrong)) throw error;
      faults.push({ file, line: index + 1, field: error.field, reason: error.message });
      return { kind: "blank" };
    }
  });
  return { lines, faults };
}

/** A rule as a line of a file, with single blanks. */
export function renderRule(
  { service, argument, source, target, action, options }: Rule,
  form: Form = "policy",
): string {
  const front = form === "service" ? [] : [service ?? "*", argument ?? "*"];
  const back = OPTIONS.ask.flatMap((key) => (options[key] === undefined ? [] : [`${key}=${options[key]}`]));
  return [...front, source, target, action, ...back].join(" ");
}

function renderLine(line: Line, form: Form): string {
  switch (line.kind) {
    case "blank":
      return "";
    case "comment":
      return line.text;
    case "rule":
      return renderRule(line.rule, form);
    case "include-service":
      return `!include-service ${line.service ?? "*"} ${line.argument ?? "*"} ${line.path}`;
    case "compat-4.0":
      return "!compat-4.0";
    default:
      return `!${line.kind} ${line.path}`;
  }
}

/** The text of a file; `parseFile` of it gives the same lines. */
export const renderFile = (lines: readonly Line[], form: Form = "policy"): string =>
  lines.map((line) => `${renderLine(line, form)}\n`).join("");
