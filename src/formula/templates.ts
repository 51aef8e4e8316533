/**
 * The Handlebars templates of `templates/`, and the helpers through which alone a value enters them: each quotes for
 * the language of its place, or refuses a value that cannot be quoted there. Design §4.
 */
import { readFileSync } from "node:fs";
import Handlebars from "handlebars";

const FOLDER = new URL("../../templates/", import.meta.url);

/** A value that has no safe spelling where a template puts it. The rules of `model/` refuse such values first. */
export class Unquotable extends Error {
  override readonly name = "Unquotable";
  constructor(value: unknown, place: string) {
    super(`${JSON.stringify(value)} cannot be written ${place}`);
  }
}

const plain = (pattern: RegExp, place: string) => (value: unknown) => {
  const text = String(value);
  if (!pattern.test(text)) throw new Unquotable(value, place);
  return text;
};

/**
 * A scalar of YAML. JSON is YAML; what only JSON leaves bare (U+0085, U+2028, U+2029, not-characters) is escaped. A pair of surrogates
 * stays as it is: Salt's parser makes two characters of two escapes, or an error; it has no form for half a pair.
 */
export function yaml(value: unknown): string {
  if (typeof value !== "string") return JSON.stringify(value);
  if (!value.isWellFormed())
    throw new Unquotable(value, "in a Salt formula, whose parser takes no half of a surrogate pair");
  return JSON.stringify(value).replace(
    /[\u007f-\u009f\u2028\u2029\ufeff\ufffe\uffff]/g,
    (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

const engine = Handlebars.create();
engine.registerHelper({
  yaml: (value: unknown) => yaml(value),
  policy: plain(/^[A-Za-z0-9_.-]+$/, "in a policy, where a name ends at a blank"),
  argument: plain(/^(\*|\+[A-Za-z0-9_.+-]*)$/, "as the argument of a call in a policy"),
  ini: plain(/^[A-Za-z0-9_.-]+$/, "in an INI file"),
  comment: plain(/^[ -~]*$/, "in a comment"),
  path: plain(/^\/[A-Za-z0-9_.@/-]+$/, "as a path in a script"),
  /** One word of a shell. */
  shell: (value: unknown) => `'${plain(/^[ -~]*$/, "as a word of a shell")(value).replaceAll("'", "'\\''")}'`,
  /** The state of Salt for a unit. */
  unitState: plain(/^(enabled|disabled)$/, "as the state of a unit"),
  /** The id of a state: its parts joined, after the qube it is about. */
  id(this: { scope?: string }, ...parts: unknown[]) {
    const options = parts.pop() as { data?: { root?: { scope?: string } } };
    return [options.data?.root?.scope, ...parts].join(" ");
  },
});

const compiled = new Map<string, HandlebarsTemplateDelegate>();

/** Fills in `templates/<name>.hbs`; a field that the template names and `data` lacks is an error. */
export function render(name: string, data: object): string {
  return templateOf(name)(data);
}

/** Compiles a template ahead: that takes ten times as long as filling it in. */
export function prepare(name: string): void {
  try {
    templateOf(name)({}); // Handlebars compiles at the first call
  } catch {
    // nothing was given to it, and it says so
  }
}

function templateOf(name: string): HandlebarsTemplateDelegate {
  let template = compiled.get(name);
  if (!template) {
    const source = readFileSync(new URL(`${name}.hbs`, FOLDER), "utf8");
    template = engine.compile(source, { noEscape: true, strict: true });
    compiled.set(name, template);
  }
  return template;
}
