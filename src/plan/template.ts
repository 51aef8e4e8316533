/** What is to be inside a template on this host, what it takes to get there, and what keeps it from there. Pure. */
import { digestOf, type Inside } from "../formula/inside/inside.ts";
import type { Gone } from "../formula/inside/render.ts";
import { templateInside } from "../formula/inside/template.ts";
import type { InsideArgs, Snapshot } from "../host/protocol.ts";
import { Refusal } from "../model/failure.ts";
import { NO_SETTINGS, type Settings } from "../model/settings.ts";
import { DISTRIBUTIONS, type Distribution, type Template } from "../model/template.ts";
import { managementFault, requireQubes } from "./preflight.ts";

/** Feature of a template: what it was last given, as a digest. Equal to what is wanted: nothing is run, nothing is started. */
export const INSIDE = "guidomain-inside";
/** Feature of a template: the packages that guidomain brought, apart by blanks; delete removes these and no others. */
export const BROUGHT = "guidomain-brought";

/** What a preview is a diff of. */
export interface TemplateSettings {
  distribution: string;
  packages: Record<string, "installed">;
  /** Path → text. */
  files: Record<string, string>;
  units: Record<string, string>;
  /** Of all of that, of the template's installation and its release: a template that was installed anew has another one. */
  digest: string;
}

export interface TemplateWanted {
  inside: Inside;
  distribution: Distribution;
  settings: TemplateSettings;
}

export const resourceOf = ({ qube }: Pick<Template, "qube">) => `Template ${qube}`;

/** What `template` is to hold inside on that host. Refused where it is none, or of a distribution whose packages are not known. */
export function wantedOf(template: Template, snapshot: Snapshot): TemplateWanted {
  const { qube, host } = template;
  const refuse = (what: string, next: string) =>
    new Refusal({ resource: resourceOf(template), host, what, next });
  requireQubes(resourceOf(template), host, snapshot);
  const is = snapshot.qubes[qube];
  if (is?.class !== "TemplateVM") {
    const names = Object.keys(snapshot.qubes).filter((name) => snapshot.qubes[name]?.class === "TemplateVM");
    throw refuse(
      `"${qube}" ${is ? `is not a template but of class ${is.class}` : "is not installed"}; templates are ${names.map((name) => `"${name}"`).join(", ") || "none"}`,
      `Install it (qvm-template install ${qube}) or name one that is there`,
    );
  }
  const named = is.features["os-distribution"];
  const distribution = DISTRIBUTIONS.find((one) => one === named);
  if (!distribution)
    throw refuse(
      named === undefined
        ? `template "${qube}" does not say of what distribution it is (feature os-distribution)`
        : `template "${qube}" is of distribution ${named}; packages are known of ${DISTRIBUTIONS.join(" and ")}`,
      named === undefined
        ? `Start it once, so that it says so (qvm-start ${qube}), or set it: qvm-features ${qube} os-distribution fedora`
        : "Name another template",
    );
  const inside = templateInside(template, distribution);
  return {
    inside,
    distribution,
    settings: {
      distribution,
      packages: Object.fromEntries(inside.packages.map((name) => [name, "installed"])),
      files: Object.fromEntries(Object.entries(inside.files).map(([path, { text }]) => [path, text])),
      units: inside.units,
      digest: digestOf(
        "template 1",
        inside,
        is.features["template-installtime"] ?? "",
        is.features["os-version"] ?? "",
      ),
    },
  };
}

/**
 * Whether the template was last given just that, and that counts: while another run is at it, the feature is there already and what it
 * stands for is not, or is about to be taken back.
 */
export const isGiven = (qube: string, digest: string, { qubes, ledger }: Snapshot): boolean =>
  qubes[qube]?.features[INSIDE] === digest && ledger[`feature:${qube}:${INSIDE}`]?.ours === digest;

/** What of it the host has, as far as that is known without starting the template: all of it, or what it was last given. */
export function liveTemplate(
  qube: string,
  wanted: TemplateSettings,
  last: TemplateSettings | null,
  snapshot: Snapshot,
): TemplateSettings {
  const digest = snapshot.qubes[qube]?.features[INSIDE] ?? "";
  if (digest === wanted.digest) return wanted;
  const { distribution } = wanted;
  return digest !== "" && last
    ? { ...last, digest }
    : { distribution, packages: {}, files: {}, units: {}, digest };
}

const UNIT = "unit:";
const noted = (qube: string, snapshot: Snapshot): string[] =>
  (snapshot.qubes[qube]?.features[BROUGHT] ?? "").split(" ").filter((name) => name !== "");

/** Packages that guidomain brought into the template. */
export const broughtInto = (qube: string, snapshot: Snapshot): string[] =>
  noted(qube, snapshot).filter((name) => !name.startsWith(UNIT));

const enabledOf = (units: Record<string, string>): string[] =>
  Object.keys(units).filter((unit) => units[unit] === "enabled");

/** Of dom0's own only the two features, by which the next run knows what is there. */
export const featuresOf = (qube: string, digest: string, snapshot: Snapshot): Settings => ({
  ...NO_SETTINGS,
  features: { [INSIDE]: digest, [BROUGHT]: snapshot.qubes[qube]?.features[BROUGHT] ?? "" },
});

/** What was put there and is not wanted any more. A package that was there before us stays, and so does a unit that was enabled. */
export function goneOf(
  qube: string,
  wanted: TemplateSettings | null,
  last: TemplateSettings | null,
  snapshot: Snapshot,
): Gone {
  const left = (names: string[], stay: object = {}) => names.filter((name) => !(name in stay)).sort();
  return {
    packages: left(broughtInto(qube, snapshot), wanted?.packages),
    files: left(Object.keys(last?.files ?? {}), wanted?.files),
    units: left(
      noted(qube, snapshot).flatMap((name) => (name.startsWith(UNIT) ? [name.slice(UNIT.length)] : [])),
      wanted?.units,
    ),
  };
}

/** What the agent does inside it. `sls`: of its formula. */
export function insideArgs(
  { qube, timeout }: Pick<Template, "qube" | "timeout">,
  sls: string,
  wanted: TemplateWanted | null,
): InsideArgs {
  const packages = wanted?.inside.packages ?? [];
  const query = wanted?.distribution === "debian" ? "dpkg" : "rpm";
  return {
    qube,
    sls,
    timeout,
    volume: "root",
    brought: wanted && { feature: BROUGHT, query, packages, units: enabledOf(wanted.inside.units) },
    activate: null,
  };
}

/** Refuses what would fail, or could not be taken back if it did: before anything is started. */
export function preflightTemplate(template: Pick<Template, "qube" | "host">, snapshot: Snapshot): void {
  const { qube, host } = template;
  const refuse = (what: string, next: string) =>
    new Refusal({ resource: resourceOf(template), host, what, next });
  const is = snapshot.qubes[qube];
  if (!is) return;
  if (is.state !== "Halted")
    throw refuse(
      `template "${qube}" is ${is.state.toLowerCase()}: what is done inside it has to be undone as a whole where it fails, and that needs it to be off before`,
      `Shut it down (qvm-shutdown --wait ${qube}), then run again. Nothing is ever shut down for you`,
    );
  if (is.noRevert)
    throw refuse(
      `what is done inside template "${qube}" could not be undone: ${is.noRevert}`,
      `Let Qubes keep a revision (qvm-volume config ${qube}:root revisions_to_keep 1), or move the template to a pool that can (lvm_thin, file-reflink, zfs)`,
    );
  const unmanaged = managementFault(qube, snapshot);
  if (unmanaged) throw refuse(unmanaged.what, unmanaged.next);
}

/** Refuses to take packages from under a GUI or audio domain that stays: it would have no screen, or no sound, from its next start on. */
export function preflightTaking(template: Pick<Template, "qube" | "host">, snapshot: Snapshot): void {
  const { qube, host } = template;
  const need = Object.entries(snapshot.qubes).filter(
    ([, { properties, features }]) =>
      properties["template"]?.value === qube && (features["service.guivm"] || features["service.audiovm"]),
  );
  if (need.length === 0) return;
  const names = need.map(([name]) => `"${name}"`).join(", ");
  throw new Refusal({
    resource: resourceOf(template),
    host,
    what: `${names} ${need.length > 1 ? "are made from it and need" : "is made from it and needs"} what would be taken away`,
    next: 'Destroy what makes it a GUI or audio domain first; or set onDelete to "keep", which leaves all inside the template',
  });
}

/** Running qubes that were made from the template and have started before it was last changed. */
export function notRestarted(qube: string, snapshot: Snapshot): string[] {
  const entry = snapshot.ledger[`feature:${qube}:${INSIDE}`];
  if (!entry) return [];
  return Object.entries(snapshot.qubes)
    .filter(([, { state, properties }]) => {
      const started = Number(properties["start_time"]?.value || "NaN");
      return properties["template"]?.value === qube && state !== "Halted" && !(started >= entry.at);
    })
    .map(([name]) => name)
    .sort();
}
