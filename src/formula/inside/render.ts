/** An inside → the formula that makes it so, for `qubesctl --targets`. */
import type { Formula } from "../formula.ts";
import { slsName } from "../names.ts";
import { render } from "../templates.ts";
import { digestOf, type Inside, type InsideFile, type QubeInside } from "./inside.ts";

/** What was inside for us and is to go. */
export interface Gone {
  packages: string[];
  files: string[];
  units: string[];
}

const NOTHING_GONE: Gone = { packages: [], files: [], units: [] };

const listOf = <T extends object>(map: Record<string, T>) =>
  Object.entries(map).map(([path, value]) => ({ path, ...value }));

const formula = (name: string, text: string): Formula => {
  const path = `guidomain/${name.replaceAll(".", "/")}/init.sls`;
  return { sls: `guidomain.${name}`, files: { [path]: text }, digest: digestOf(text) };
};

export function templateFormula(qube: string, inside: Inside, gone: Gone = NOTHING_GONE): Formula {
  const name = `${slsName(qube)}.inside`;
  const { packages, files, units } = inside;
  const text = render("qubes/inside/template.sls", {
    scope: qube,
    qube,
    sls: `guidomain.${name}`,
    goneUnits: gone.units,
    goneFiles: gone.files,
    gonePackages: gone.packages.length ? gone.packages : false,
    packages: packages.length ? packages : false,
    files: listOf(files),
    units: Object.entries(units).map(([unit, value]) => ({ name: unit, value })),
  });
  return formula(name, text);
}

/** On the private volume of the qube. */
const FOLDER = "/rw/config/guidomain";
const UNITS = "/etc/systemd/";
const HOOK = "/rw/config/rc.local.d/50-guidomain.rc";

/** The feature with which dom0 names the generation in force; the qube reads it as /vm-config/guidomain in its QubesDB. */
export const GENERATION = "vm-config.guidomain";

/** A generation of a GUI domain's inside. */
export interface Generation {
  digest: string;
  formula: Formula;
  /** What puts it in force in the qube that runs, as root. */
  activate: string;
  /** Passes where it is in force. */
  check: string;
}

/** What lets the running qube fetch one of its secrets anew; the name follows. */
export const secretScript = (digest: string) => `${FOLDER}/${digest}/secret`;

/** `former`: the generation in force now, which stays until the next one comes. */
export function generationOf(qube: string, inside: QubeInside, former: string | null): Generation {
  const digest = digestOf("generation 1", inside);
  const here = `${FOLDER}/${digest}`;
  const secrets = Object.entries(inside.secrets).map(([name, command]) => ({ name, command }));
  const script = (name: string, more: object): InsideFile => ({
    text: render(`qubes/inside/${name}`, { here, digest, folder: FOLDER, ...more }),
    mode: "0755",
  });
  const files: Record<string, InsideFile> = {
    [`${here}/activate`]: script("activate", {
      files: listOf(inside.files),
      units: inside.start.length > 0 || Object.keys(inside.files).some((path) => path.startsWith(UNITS)),
      before: inside.before ?? [],
      start: inside.start,
      secrets,
      commands: inside.commands,
    }),
    [`${here}/secret`]: script("secret", { secrets }),
    ...Object.fromEntries(Object.entries(inside.files).map(([path, one]) => [`${here}/root${path}`, one])),
    [HOOK]: script("hook", {}),
  };
  const name = `${slsName(qube)}.generation`;
  const kept = [digest, ...(former && /^[0-9a-f]+$/.test(former) ? [former] : [])];
  const text = render("qubes/inside/qube.sls", {
    qube,
    digest,
    sls: `guidomain.${name}`,
    folder: FOLDER,
    kept: `E@^(${kept.join("|")})(/|$)`,
    complete: `${here}/complete`,
    files: listOf(files),
  });
  return {
    digest,
    formula: formula(name, text),
    activate: `${here}/activate`,
    check: `test "$(cat /run/guidomain/generation)" = ${digest}`,
  };
}
