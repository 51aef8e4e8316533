/**
 * Which GUI domains of a host are kept apart by a level's file, and whether it does so although it does not say so. Each of two files keeps
 * the two apart in both directions. Who comes first may not know of the other yet, and who stays need not forget the other, so a file is as
 * good as another one whose denials are made elsewhere: else it would change whenever somebody else comes or goes.
 */
import { tagOf } from "../model/names.ts";
import { isLevelFile, levelFile } from "./levels.ts";
import type { Files } from "./load.ts";
import { rulesOf } from "./rules.ts";

/** What of a host's qubes counts here. */
type Qubes = Readonly<Record<string, { class: string; tags: readonly string[] } | undefined>>;

/** A rule that keeps two GUI domains apart: the names of both. */
const APART =
  /^\* \* (?:@tag:guivm-)?([a-zA-Z][a-zA-Z0-9_-]*) (?:@dispvm:)?(?:@tag:guivm-)?([a-zA-Z][a-zA-Z0-9_-]*) deny$/;

/** Before all else, and everybody's. */
const MENUS = /^qubes\.GetAppmenus \* \S+ @type:TemplateVM allow$/;

/** One that keeps a GUI domain's qubes from the default disposable, which is the other's. */
const BARRED = /^\* \* @tag:guivm-([a-zA-Z][a-zA-Z0-9_-]*) @dispvm deny$/;

/** Whether `live`, as the text of level file `file` on a host with `files`, does what `wanted` asks for. */
export function sameLevel(file: string, wanted: string, live: string, files: Files, qubes: Qubes): boolean {
  const [asked, found] = [parted(wanted), parted(live)];
  if (asked.rest.join("\n") !== found.rest.join("\n")) return false;
  const others = Object.keys(files).filter((path) => isLevelFile(path) && path !== file);
  const rulesIn = (paths: string[]) => new Set(paths.flatMap((path) => rulesOf(files[path] ?? "")));
  const [earlier, later] = [
    rulesIn(others.filter((path) => path < file)),
    rulesIn(others.filter((path) => path > file)),
  ];
  const isThere = (name: string) =>
    qubes[name] !== undefined || Object.values(qubes).some((one) => one?.tags.includes(tagOf(name)));
  const isAboutNobody = (rule: string) => !sidesOf(rule).every(isThere);
  const isCovered = (rule: string) =>
    isAboutNobody(rule) ||
    earlier.has(rule) ||
    (later.has(rule) && !found.rest.some((each) => opens(each, rule)));
  /** Whether `each` answers, before a later file does, calls to those whom `rule` denies. */
  const opens = (each: string, rule: string) => {
    const [, , , target = "", action] = each.split(" ");
    if (BARRED.test(rule)) return action !== "deny" && ["@dispvm", "@anyvm", "*"].includes(target);
    const other = sidesOf(rule).find((name) => levelFile(name) !== file);
    return (
      action !== "deny" &&
      !MENUS.test(each) &&
      meant(target, qubes).some(
        (name) => name === other || (other && qubes[name]?.tags.includes(tagOf(other))),
      )
    );
  };
  return (
    asked.apart.filter((rule) => !found.apart.includes(rule)).every(isCovered) &&
    found.apart.filter((rule) => !asked.apart.includes(rule)).every(isAboutNobody)
  );
}

const sidesOf = (rule: string): string[] => (APART.exec(rule) ?? BARRED.exec(rule))?.slice(1) ?? [];

/** What stands before all else but the menus of templates, and the rest. */
function parted(text: string): { apart: string[]; rest: string[] } {
  const rules = rulesOf(text);
  const start = rules.findIndex((rule) => !MENUS.test(rule));
  const end = rules.findIndex((rule, i) => i >= start && sidesOf(rule).length === 0);
  const at = end < 0 ? rules.length : end;
  return { apart: rules.slice(start, at), rest: [...rules.slice(0, start), ...rules.slice(at)] };
}

/** The qubes that a rule's target may mean, or of which it means new disposables. */
function meant(target: string, qubes: Qubes): string[] {
  const token = target.replace(/^@dispvm:/, "");
  const those = (fits: (one: { class: string; tags: readonly string[] }) => boolean) =>
    Object.entries(qubes).flatMap(([name, one]) => (one && fits(one) ? [name] : []));
  if (token === "*" || token === "@anyvm") return Object.keys(qubes);
  if (token.startsWith("@tag:")) return those(({ tags }) => tags.includes(token.slice("@tag:".length)));
  if (token.startsWith("@type:")) return those((one) => one.class === token.slice("@type:".length));
  return token.startsWith("@") ? [] : [token];
}
