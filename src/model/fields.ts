/** Zod fields whose refusals name the value and what is allowed. */
import { z } from "zod";

/** A value as a message shows it: JSON, short. */
export function shown(value: unknown): string {
  if (value === undefined) return "nothing";
  const json = JSON.stringify(value) ?? String(value);
  return json.length > 80 ? `${json.slice(0, 80)}…` : json;
}

/** What a field says of a value that it cannot take. */
export const wrong = (expected: string) => (issue: { input?: unknown }) =>
  issue.input === undefined
    ? `missing; give ${expected}`
    : `${shown(issue.input)} is not allowed; give ${expected}`;

export const text = z.string({ error: wrong("a text") });

/** A string that `check` accepts; it returns the refusal or null. */
export function named(check: (value: string) => string | null) {
  return z.string({ error: wrong("a name") }).superRefine((value, context) => {
    const refusal = check(value);
    if (refusal) context.addIssue({ code: "custom", message: refusal });
  });
}

export function oneOf<const T extends readonly [string, ...string[]]>(...values: T) {
  return z.enum(values, {
    error: (issue) =>
      `${shown(issue.input)} is not allowed; allowed are ${values.map((v) => `"${v}"`).join(", ")}`,
  });
}

export function integer(min: number, max: number, unit: string) {
  const error = wrong(`a whole number of ${unit} from ${min} to ${max}`);
  return z.int({ error }).min(min, { error }).max(max, { error });
}

export function listOf<T extends z.ZodType>(item: T) {
  return z.array(item, { error: wrong("a list") });
}
