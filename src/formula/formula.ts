/** Settings and restorations → a Salt formula: files, and the name of the state to run. Design §4 "Salt does all forward changes". */
import { createHash } from "node:crypto";
import type { FileValue, PropertyValue, QubeValue } from "../model/keys.ts";
import type { Settings } from "../model/settings.ts";
import type { Restore } from "../plan/changes.ts";
import { partsOf } from "../plan/values.ts";
import { slsName } from "./names.ts";
import { render } from "./templates.ts";

export interface Formula {
  /** The state, for `qubesctl --dom0-only state.sls <sls> saltenv=user`. */
  sls: string;
  /** Path below /srv/user_salt → text. */
  files: Record<string, string>;
  /** sha256 over names and texts. */
  digest: string;
}

export interface FormulaRequest {
  qube: string;
  mode: string;
  /** null: nothing is asked for any more. */
  settings: Settings | null;
  restores: Restore[];
}

export function formulaOf({ qube, mode, settings, restores }: FormulaRequest): Formula {
  const sls = slsName(qube);
  const files: Record<string, string> = {};
  /** Puts a text beside the formula and says where Salt finds it. */
  const beside = (path: string, text: string, folder = "files"): string => {
    // A qube's name may hold "..", a path for Salt may not.
    const name = path.slice(path.lastIndexOf("/") + 1).replace(/\.(?=\.)/g, "._");
    const at = `guidomain/${sls}/${folder}/${name}`;
    files[at] = text;
    return `salt://${at}?saltenv=user`;
  };
  const back = render("qubes/restore.sls", { scope: qube, ...restoreView(restores, beside) });
  files[`guidomain/${sls}/init.sls`] = settings
    ? render("qubes/gui-domain.sls", {
        scope: qube,
        qube,
        sls,
        mode,
        class: settings.class,
        template: settings.template,
        label: settings.label,
        packages: Object.keys(settings.packages),
        properties: pairs(settings.properties),
        features: pairs(settings.features),
        services: Object.keys(settings.services),
        globals: pairs(settings.globals),
        clients: Object.entries(settings.clients).map(([client, guivm]) => ({ client, guivm })),
        files: Object.entries(settings.files).map(([path, text]) => ({
          path,
          source: beside(path, text),
          policy: path.endsWith(".policy"),
        })),
        restore: back,
      })
    : `#!yaml\n# GUI domain ${qube} is taken away; what guidomain changed goes back to what it was.\n${back}`;
  return { sls: `guidomain.${sls}`, files, digest: digestOf(files) };
}

/** A map as a list, which Handlebars knows to be empty. */
const pairs = (map: Record<string, string>) => Object.entries(map).map(([name, value]) => ({ name, value }));

function restoreView(restores: Restore[], beside: (path: string, text: string, folder: string) => string) {
  const of = (kind: string) =>
    restores.map((r) => ({ ...partsOf(r.key), to: r.to })).filter((r) => r.kind === kind);
  const property = (r: { of: string; name: string; to: Restore["to"] }) => {
    const to = r.to as PropertyValue | null;
    return { qube: r.of, name: r.name, reset: to === null || to.default, value: to?.value ?? "" };
  };
  return {
    any: restores.length > 0,
    globals: of("global").map(property),
    properties: of("property").map(property),
    features: of("feature").map((r) => ({
      qube: r.of,
      name: r.name,
      unset: r.to === null,
      value: r.to ?? "",
    })),
    files: of("file").map((r) => {
      const to = r.to as FileValue | null;
      return {
        path: r.name,
        absent: to === null,
        source: to === null ? "" : beside(r.name, to.content, "before"),
        mode: to?.mode ?? "",
        policy: r.name.endsWith(".policy"),
      };
    }),
    qubes: of("qube").map((r) => {
      const to = r.to as QubeValue | null;
      return {
        name: r.name,
        absent: to === null,
        class: to?.class ?? "",
        template: to?.template ?? "",
        label: to?.label ?? "",
      };
    }),
    packages: of("package").map((r) => r.name),
  };
}

function digestOf(files: Record<string, string>): string {
  const hash = createHash("sha256");
  for (const [path, text] of Object.entries(files).sort(([a], [b]) => (a < b ? -1 : 1)))
    hash.update(`${path}\0${Buffer.byteLength(text)}\0${text}`);
  return hash.digest("hex");
}
