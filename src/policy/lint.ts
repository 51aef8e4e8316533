/** What may not stand in a policy file that we write: all that Qubes' own linter refuses, and laws of our own. */
import path from "node:path/posix";
import type { Facts } from "./evaluate.ts";
import { FILE_NAME, type Files, loadPolicy, POLICY } from "./load.ts";
import { type Fault, type Form, type Line, parseFile, type Rule, renderRule, shown } from "./parse.ts";

/** A file by itself, as qubes-policy-lint looks at it: what an include brings in is not looked at. */
export function lintText(file: string, text: string, form: Form = "policy"): Fault[] {
  const { lines, faults } = parseFile(file, text, form);
  const includes = lines.flatMap((line, index) =>
    (line.kind === "include" || line.kind === "include-service") && outside(line.path)
      ? [
          {
            file,
            line: index + 1,
            field: "path",
            reason: `${shown(line.path)} is not allowed; allowed are files of ${POLICY} and of its folder include`,
          },
        ]
      : [],
  );
  return [...faults, ...includes].sort((a, b) => a.line - b.line);
}

const outside = (name: string) => name.includes("/") && !/^include\/[^/]*$/.test(name);

/**
 * A file that we are about to write to a host whose policy files are `files` (with it in its place already): what Qubes' linter would say,
 * what would stop every call, and what we never write. `facts`, where the host is known: a name that no qube has is a slip then.
 */
export function lintOwn(file: string, files: Files, facts?: Facts): Fault[] {
  const text = files[file] ?? "";
  const whole = (reason: string, field = "text"): Fault => ({ file, line: 0, field, reason });
  const faults = lintText(file, text);
  if (!FILE_NAME.test(path.basename(file)) || path.dirname(file) !== POLICY)
    faults.push(
      whole(
        `allowed are files of ${POLICY} named by 0-9, a-z, "_", "." and "-", ending in .policy`,
        "file name",
      ),
    );
  if (/[^\t\n\x20-\x7e]/.test(text)) faults.push(whole("it has characters besides printable ASCII"));
  if (text !== "" && !text.endsWith("\n")) faults.push(whole("its last line has no end"));
  const seen = new Map<string, number>();
  parseFile(file, text).lines.forEach((line, index) => {
    const add = (field: string, reason: string) => faults.push({ file, line: index + 1, field, reason });
    if (line.kind === "compat-4.0" || line.kind === "include-dir")
      add("directive", `!${line.kind} brings in what nobody here has read`);
    if (line.kind !== "rule") return;
    ownLaws(line.rule, add);
    const key = matchOf(line);
    const before = seen.get(key);
    if (before !== undefined) add("line", `line ${before} fits the same calls, so this one never counts`);
    seen.set(key, index + 1);
    if (facts)
      for (const [field, name] of namesOf(line.rule))
        if (!facts[name]) add(field, `there is no qube ${name}`);
  });
  // What an include misses is a fault of the file that includes.
  for (const fault of loadPolicy(files).faults)
    if (!faults.some((known) => known.file === fault.file && known.line === fault.line)) faults.push(fault);
  return faults;
}

const matchOf = (line: Line & { kind: "rule" }) => renderRule({ ...line.rule, action: "deny", options: {} });

function ownLaws(rule: Rule, add: (field: string, reason: string) => void): void {
  const { service, action, options } = rule;
  if (action === "deny") return;
  if (service === null) add("service", `"*" lets through what nobody has thought of; name the service`);
  if (options.user === "") add("user=", "it is empty; name a user or leave it out");
  // The Admin API is served by dom0, whichever qube a call is about.
  const ends = options.target ?? rule.target;
  if (service && /^(admin|policy)\./.test(service) && ends !== "dom0" && ends !== "@adminvm")
    add("options", `${service} is served by dom0; add target=dom0`);
}

const isName = (token: string | undefined): token is string =>
  token !== undefined && token !== "*" && !token.startsWith("@") && !token.startsWith("uuid:");

function namesOf({ source, target, options }: Rule): [string, string][] {
  const given: [string, string | undefined][] = [
    ["source", source],
    ["target", target],
    ["target=", options.target],
    ["default_target=", options.default_target],
  ];
  return given.flatMap(([field, token]): [string, string][] => {
    const name =
      token?.startsWith("@dispvm:") && !token.startsWith("@dispvm:@")
        ? token.slice("@dispvm:".length)
        : token;
    return isName(name) ? [[field, name]] : [];
  });
}
