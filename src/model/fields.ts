/** Valibot schemas whose refusals name the value and what is allowed. */
import * as v from "valibot";

/** A value as an error shows it: in its form, not too long, without what is secret in it wherever that stands. */
export function shown(value: unknown): string {
  if (value === undefined) return "nothing";
  const hidden = (key: string, item: unknown) => (/^pass(word|phrase)$/i.test(key) ? "(not shown)" : item);
  const json = JSON.stringify(value, hidden) ?? String(value);
  return json.length > 80 ? `${json.slice(0, 80)}…` : json;
}

/** What a field says of a value that it cannot take. */
export const wrong = (expected: string) => (issue: { input?: unknown }) =>
  issue.input === undefined
    ? `missing; give ${expected}`
    : `${shown(issue.input)} is not allowed; give ${expected}`;

export const text = v.string(wrong("a text"));

/** A string that `check` accepts; it returns the refusal or null. */
export function named(check: (value: string) => string | null, expected = "a name") {
  return v.pipe(
    v.string(wrong(expected)),
    v.rawCheck(({ dataset, addIssue }) => {
      const refusal = dataset.typed ? check(dataset.value) : null;
      if (refusal) addIssue({ message: refusal });
    }),
  );
}

export function oneOf<const T extends readonly [string, ...string[]]>(...values: T) {
  return v.picklist(
    values,
    (issue) =>
      `${shown(issue.input)} is not allowed; allowed are ${values.map((one) => `"${one}"`).join(", ")}`,
  );
}

/** `what`: "a whole number of MiB", "a port". */
export function integer(min: number, max: number, what: string) {
  const error = wrong(`${what} from ${min} to ${max}`);
  const fits = (value: number) => Number.isInteger(value) && value >= min && value <= max;
  return v.pipe(v.number(error), v.check(fits, error));
}

export function listOf<const T extends v.GenericSchema>(item: T) {
  return v.array(item, wrong("a list"));
}

export const isMap = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** A map of these fields and no other; `unknown` is said of each other one. A field that is missing is refused in its own words. */
export function only<const E extends v.ObjectEntries>(
  fields: E,
  message: (issue: { input?: unknown }) => string,
  unknown: string,
): v.GenericSchema<unknown, v.InferOutput<v.ObjectSchema<E, undefined>>> {
  const required = Object.keys(fields).filter((key) => fields[key]?.type !== "optional");
  const nothing = Object.fromEntries(required.map((key) => [key, undefined]));
  return v.pipe(
    v.custom<Record<string, unknown>>(isMap, message),
    v.transform((map) => ({ ...nothing, ...map })),
    v.looseObject(fields),
    v.rawCheck(({ dataset, addIssue }) => {
      const map = dataset.value as Record<string, unknown>;
      for (const key of Object.keys(map))
        if (!Object.hasOwn(fields, key)) addIssue({ message: unknown, path: [step(map, key)] });
    }),
  );
}

/** A map from any key to an `item`. Valibot's own leaves out what a qube or a feature may be called ("prototype"). */
export function mapOf<const T extends v.GenericSchema>(
  item: T,
): v.GenericSchema<unknown, Record<string, v.InferOutput<T>>> {
  return v.pipe(
    v.custom<Record<string, unknown>>(isMap, wrong("a map")),
    v.rawTransform(({ dataset, addIssue }) => {
      const map = dataset.value;
      return Object.fromEntries(
        Object.entries(map).map(([key, value]) => {
          const parsed = v.safeParse(item, value);
          for (const { message, path = [] } of parsed.issues ?? [])
            addIssue({ message, path: [step(map, key), ...path] });
          return [key, parsed.output as v.InferOutput<T>];
        }),
      );
    }),
  );
}

/** One step of an issue's path: from a map to what stands at `key` in it. */
export function step(map: object, key: string): v.UnknownPathItem {
  return { type: "unknown", origin: "value", input: map, key, value: (map as Record<string, unknown>)[key] };
}

/** The path of an issue: "display[1]", "limits.boot", "" for the whole. */
export function pathOf(issue: Pick<v.BaseIssue<unknown>, "path">): string {
  return (issue.path ?? []).reduce<string>((path, { key }) => {
    if (typeof key === "number") return `${path}[${key}]`;
    if (!/^[^\s"'[\]]{1,60}$/u.test(String(key))) return `${path}[${shown(String(key))}]`;
    return path ? `${path}.${String(key)}` : String(key);
  }, "");
}
