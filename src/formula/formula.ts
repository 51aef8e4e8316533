/** Settings and restorations → a Salt formula: files, and the name of the state to run. Design §4 "Salt does all forward changes". */
import { createHash } from "node:crypto";
import { NOT_THIS_BOOT } from "../model/gpu.ts";
import type { DeviceValue, FileValue, PropertyValue, QubeValue } from "../model/keys.ts";
import type { Platform } from "../model/platform.ts";
import { assignmentOf, modeOf, othersOf, PROHIBIT_START, type Settings } from "../model/settings.ts";
import type { Restore } from "../plan/changes.ts";
import { partsOf } from "../plan/values.ts";
import { isLevelFile } from "../policy/levels.ts";
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

/** What the formula makes of a qube, whose files lie apart: a qube may be a GUI domain and an audio domain. */
export type Part = "gui" | "audio";

export interface FormulaRequest {
  /** Whose states it speaks to; Qubes' unless given. */
  platform?: Platform;
  qube: string;
  part?: Part;
  mode: string;
  /** null: nothing is asked for any more. */
  settings: Settings | null;
  restores: Restore[];
  /** The qube is to go after the next boot: until then it does not start, and lets go of these devices ("PORT:ID"). */
  quiet?: string[];
}

export function formulaOf(request: FormulaRequest): Formula {
  const { platform = "qubes", qube, part = "gui", mode, settings, restores, quiet } = request;
  const at = placeOf(qube, part);
  const sls = at.replaceAll("/", ".");
  const { files, beside } = folder(at);
  const back = restored(platform, qube, restores, beside);
  files[`guidomain/${at}/init.sls`] = settings
    ? render(`${platform}/gui-domain.sls`, {
        scope: qube,
        qube,
        sls,
        title: `${TITLES[part]} ${qube} (${mode} mode)`,
        class: settings.class,
        template: settings.template,
        label: settings.label,
        packages: Object.keys(settings.packages),
        properties: pairs(settings.properties),
        devices: Object.entries(settings.devices).map(([name, device]) => ({
          device: assignmentOf(name, device),
          others: othersOf(name, device),
          options: device.options,
        })),
        usb: listOrNot(pairs(settings.usb ?? {})),
        features: pairs(settings.features),
        services: Object.keys(settings.services),
        globals: pairs(settings.globals),
        clients: [
          ...clientsOf("guivm", settings.clients),
          ...clientsOf("audiovm", settings.audioClients ?? {}),
        ],
        audioModels: pairs(settings.audioModels ?? {}),
        lines: byFile(Object.keys(settings.policyLines ?? {}).map((line) => partsOf(`line:${line}`))),
        files: Object.entries(settings.files).map(([path, text]) => ({
          path,
          source: beside(path, text),
          mode: modeOf(path),
          policy: path.endsWith(".policy"),
        })),
        bootArguments: Object.keys(settings.bootArguments),
        assignable: listOrNot(Object.keys(settings.assignable ?? {})),
        devicesBack: back.devices,
        restore: back.rest,
      })
    : [
        `#!yaml\n# ${TITLES[part]} ${qube} is taken away; what guidomain changed goes back to what it was.\n`,
        back.devices && `\n${back.devices}`,
        quiet &&
          render("qubes/quiet.sls", {
            scope: qube,
            qube,
            devices: listOrNot(quiet),
            feature: PROHIBIT_START,
            why: NOT_THIS_BOOT,
          }),
        back.rest,
      ].join("");
  return { sls: `guidomain.${sls}`, files, digest: digestOf(files) };
}

const TITLES: Record<Part, string> = { gui: "GUI domain", audio: "audio domain" };

const placeOf = (qube: string, part: Part) => (part === "gui" ? slsName(qube) : `${slsName(qube)}/${part}`);

const clientsOf = (property: string, clients: Record<string, string>) =>
  Object.entries(clients).map(([client, domain]) => ({ client, property, domain }));

/** Assignments of one qube ("*:ID" or "PORT:ID" → options, and those that go). `name` sets it apart from others of the same qube. */
export function devicesFormulaOf(request: {
  platform?: Platform;
  qube: string;
  name: string;
  assign: Record<string, Record<string, string>>;
  unassign: string[];
  /** Functions that dom0 gives up, and takes back: by port. Plain Xen alone. */
  assignable?: { add: string[]; remove: string[] };
}): Formula {
  const { platform = "qubes", qube, name, ...given } = request;
  const folderName = `${slsName(qube)}/pci-${name}`;
  const sls = folderName.replace("/", ".");
  const text = render(`${platform}/devices.sls`, { scope: qube, qube, sls, ...given });
  const files = { [`guidomain/${folderName}/init.sls`]: text };
  return { sls: `guidomain.${sls}`, files, digest: digestOf(files) };
}

/** Files of policy about one qube, and what goes back. `name` sets it apart from others of the same qube. */
export function policyFormulaOf(request: {
  qube: string;
  name: string;
  title: string;
  /** Path → text. */
  texts: Record<string, string>;
  restores: Restore[];
}): Formula {
  const { qube, name, title, texts, restores } = request;
  const at = `${slsName(qube)}/access-${name}`;
  const sls = at.replace("/", ".");
  const { files, beside } = folder(at);
  const back = restored("qubes", qube, restores, beside);
  files[`guidomain/${at}/init.sls`] = render("qubes/policy.sls", {
    title,
    sls,
    files: Object.entries(texts).map(([path, text]) => ({
      path,
      source: beside(path, text),
      mode: modeOf(path),
    })),
    restore: back.rest,
  });
  return { sls: `guidomain.${sls}`, files, digest: digestOf(files) };
}

/** What dom0 notes of a template, and what of that goes back. */
export function templateNotesOf(qube: string, settings: Settings | null, restores: Restore[]): Formula {
  const at = `${slsName(qube)}/template`;
  const sls = at.replace("/", ".");
  const { files, beside } = folder(at);
  files[`guidomain/${at}/init.sls`] = render("qubes/template.sls", {
    scope: qube,
    qube,
    sls,
    inside: `${slsName(qube)}.inside`,
    features: settings ? listOrNot(pairs(settings.features)) : false,
    restore: restored("qubes", qube, restores, beside).rest,
  });
  return { sls: `guidomain.${sls}`, files, digest: digestOf(files) };
}

/** What is applied once a trial boot is confirmed: boot arguments, the start with the host, and what is for good. */
export function keepFormulaOf(request: {
  platform?: Platform;
  qube: string;
  settings: Pick<Settings, "bootArguments" | "properties">;
  restores: Restore[];
}): Formula {
  const { platform = "qubes", qube, settings, restores } = request;
  const at = `${slsName(qube)}/keep`;
  const { files, beside } = folder(at);
  const back = restored(platform, qube, restores, beside);
  files[`guidomain/${at}/init.sls`] = render(`${platform}/keep.sls`, {
    scope: qube,
    qube,
    title: `${TITLES.gui} ${qube}`,
    words: listOrNot(Object.keys(settings.bootArguments)),
    properties: pairs(settings.properties),
    restore: `${back.devices && `\n${back.devices}`}${back.rest}`,
  });
  return { sls: `guidomain.${at.replaceAll("/", ".")}`, files, digest: digestOf(files) };
}

/** What goes for good once the change counts: packages of dom0, qubes that were created. */
export function afterFormulaOf(platform: Platform, qube: string, part: Part, restores: Restore[]): Formula {
  const at = `${placeOf(qube, part)}/after`;
  const { files, beside } = folder(at);
  files[`guidomain/${at}/init.sls`] = render(`${platform}/after.sls`, {
    restore: restored(platform, qube, restores, beside).rest,
  });
  return { sls: `guidomain.${at.replaceAll("/", ".")}`, files, digest: digestOf(files) };
}

type Beside = (path: string, text: string, folder?: string) => string;

/** The files of a formula, and what puts a text beside it and says where Salt finds it. */
function folder(sls: string): { files: Record<string, string>; beside: Beside } {
  const files: Record<string, string> = {};
  const beside: Beside = (path, text, folder = "files") => {
    // A qube's name may hold "..", a path for Salt may not.
    const name = path.slice(path.lastIndexOf("/") + 1).replace(/\.(?=\.)/g, "._");
    const at = `guidomain/${sls}/${folder}/${name}`;
    files[at] = text;
    return `salt://${at}?saltenv=user`;
  };
  return { files, beside };
}

/** The states of salt/_states/qube.py that take devices away. */
const DEVICE_STATES: Partial<Record<string, string>> = { device: "devices", usb: "usb" };

/** Devices are taken away first: with one of them a qube cannot be of virt_mode pvh (qubes-cli-formats.md §3). */
function restored(
  platform: Platform,
  qube: string,
  restores: Restore[],
  beside: Beside,
): { devices: string; rest: string } {
  const gone = restores
    .filter((r) => r.to === null)
    .map((r) => partsOf(r.key))
    .filter((r) => r.kind in DEVICE_STATES);
  const devices = Object.entries(DEVICE_STATES).flatMap(([kind, state]) => {
    const those = gone.filter((r) => r.kind === kind);
    return [...new Set(those.map((r) => r.of))].map((name) => ({
      qube: name,
      state,
      unassign: those.filter((r) => r.of === name).map((r) => r.name),
    }));
  });
  const rest = restores.filter((r) => r.to !== null || !(partsOf(r.key).kind in DEVICE_STATES));
  return {
    devices: devices.length ? render(`${platform}/devices-back.sls`, { scope: qube, devices }) : "",
    rest: render(`${platform}/restore.sls`, { scope: qube, ...restoreView(rest, beside) }),
  };
}

/** Lines by the file that they stand in. */
function byFile(lines: { of: string; name: string }[]): { path: string; lines: string[] }[] {
  const paths = [...new Set(lines.map((line) => line.of))];
  return paths.map((path) => ({
    path,
    lines: lines.filter((line) => line.of === path).map((line) => line.name),
  }));
}

/** Handlebars takes an empty list of a plain `if` for nothing already; a helper's argument is printed as it is. */
const listOrNot = <T>(list: T[]): T[] | false => (list.length ? list : false);

/** A map as a list, which Handlebars knows to be empty. */
const pairs = (map: Record<string, string>) => Object.entries(map).map(([name, value]) => ({ name, value }));

function restoreView(restores: Restore[], beside: Beside) {
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
    devices: of("device").map((r) => ({
      qube: r.of,
      device: r.name,
      options: (r.to as DeviceValue).options,
    })),
    usb: of("usb").map((r) => ({ qube: r.of, device: r.name, mode: (r.to as DeviceValue).mode })),
    bootArguments: comingAndGoing(of("bootarg")),
    assignable: comingAndGoing(of("assignable")),
    linesBack: byFile(of("line").filter((r) => r.to !== null)),
    linesGone: byFile(of("line").filter((r) => r.to === null)),
    // A level goes last: what the other files allow is wider.
    files: of("file")
      .sort((a, b) => Number(isLevelFile(a.name)) - Number(isLevelFile(b.name)))
      .map((r) => {
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

/** What is there or not, as two lists; false where there is nothing of it. */
const comingAndGoing = (restores: { name: string; to: Restore["to"] }[]) =>
  restores.length > 0 && {
    add: restores.flatMap((r) => (r.to === null ? [] : [r.name])),
    remove: restores.flatMap((r) => (r.to === null ? [r.name] : [])),
  };

function digestOf(files: Record<string, string>): string {
  const hash = createHash("sha256");
  for (const [path, text] of Object.entries(files).sort(([a], [b]) => (a < b ? -1 : 1)))
    hash.update(`${path}\0${Buffer.byteLength(text)}\0${text}`);
  return hash.digest("hex");
}
