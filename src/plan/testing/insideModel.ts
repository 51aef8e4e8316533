/** For tests: what is inside the qubes of a host in memory, and what a formula of ours makes of it. */
import { parse } from "yaml";
import type { InsideArgs } from "../../host/protocol.ts";

export interface Insides {
  [qube: string]: { packages: string[]; files: Record<string, string>; units: Record<string, string> };
}

/** What Salt says of a state that it could not make so. */
export class InsideFailed extends Error {}

/** Runs the formula in the qube. `lacking`: packages that cannot be had there. Returns those that were not there before. */
export function runInside(
  insides: Insides,
  { qube, sls }: InsideArgs,
  formula: Record<string, string>,
  lacking: ReadonlySet<string>,
): void {
  insides[qube] ??= { packages: [], files: {}, units: {} };
  const is = insides[qube];
  const text = formula[`${(sls ?? "").replaceAll(".", "/")}/init.sls`];
  if (sls === null) return; // only put in force
  if (text === undefined) throw new Error(`there is no ${sls}`);
  for (const [id, state] of Object.entries<Record<string, Record<string, unknown>[]>>(parse(text) ?? {})) {
    const [[call = "", list = []] = []] = Object.entries(state);
    const args: Record<string, unknown> = Object.assign({}, ...list);
    const name = String(args["name"] ?? id);
    const pkgs = (args["pkgs"] ?? []) as string[];
    const missing = pkgs.filter((one) => lacking.has(one));
    switch (call) {
      case "pkg.installed":
        if (missing.length)
          throw new InsideFailed(
            `Salt failed in ${qube}: package ${missing.join(", ")}: No match for argument`,
          );
        is.packages = [...new Set([...is.packages, ...pkgs])].sort();
        break;
      case "pkg.removed":
        is.packages = is.packages.filter((one) => !pkgs.includes(one));
        break;
      case "file.managed":
        is.files[name] = String(args["contents"]);
        break;
      case "file.absent":
        delete is.files[name];
        break;
      case "file.directory": {
        const kept = new RegExp(String(args["exclude_pat"]).replace(/^E@/, ""));
        for (const path of Object.keys(is.files))
          if (path.startsWith(`${name}/`) && !kept.test(path.slice(name.length + 1))) delete is.files[path];
        break;
      }
      case "service.enabled":
      case "service.disabled":
        is.units[name] = call.slice("service.".length);
        break;
      default:
        throw new Error(`the model does not know ${call}`);
    }
  }
}
