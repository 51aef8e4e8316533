/** The value of a key on a host, and whether it is what a description asks for. Pure. */
import type { Snapshot } from "../host/protocol.ts";
import type { DeviceValue, FileValue, KeyValue, PropertyValue } from "../model/keys.ts";
import { PROHIBIT_START, type Wish } from "../model/settings.ts";
import { sameLevel } from "../policy/apart.ts";
import { hasLine, isLevelFile, LOCAL_RWX } from "../policy/levels.ts";
import { type Files, OLD_POLICY, POLICY, RUNTIME_POLICY } from "../policy/load.ts";
import { rulesOf } from "../policy/rules.ts";

/**
 * A key taken apart: `property:sys-gui:maxmem` is { kind: "property", of: "sys-gui", name: "maxmem" }; the name of a device is its
 * place and its identity, "00_02.0:0x8086:0x9b41::p030000"; that of a USB device has its USB qube before them.
 */
export interface KeyParts {
  kind:
    | "qube"
    | "property"
    | "feature"
    | "tag"
    | "global"
    | "file"
    | "package"
    | "device"
    | "usb"
    | "bootarg"
    | "assignable"
    | "line"
    | "volume"
    | "secret"
    | "given"
    | "given-usb"
    | "input";
  /** The qube of a property, feature, tag or device, the file of a line; otherwise the same as `name`. */
  of: string;
  name: string;
}

export function partsOf(key: string): KeyParts {
  const [kind, rest] = split(key);
  switch (kind) {
    case "property":
    case "feature":
    case "device":
    case "usb":
    case "line":
    case "volume":
    case "secret":
    case "tag": {
      const [of, name] = split(rest);
      return { kind, of, name };
    }
    case "qube":
    case "global":
    case "file":
    case "package":
    case "bootarg":
    case "assignable":
    case "given":
    case "given-usb":
    case "input":
      return { kind, of: rest, name: rest };
    default:
      throw new Error(`not a key: ${key}`);
  }
}

/** `[place, identity]` of a device's name; the identity is "*" for any device. */
export const deviceParts = (name: string): [string, string] => split(name);

function split(text: string): [string, string] {
  const at = text.indexOf(":");
  return at < 0 ? [text, ""] : [text.slice(0, at), text.slice(at + 1)];
}

/** What the host has for this key now; null where there is nothing (no such qube, feature not set, file missing). */
export function valueOf(snapshot: Snapshot, key: string): KeyValue {
  const { kind, of, name } = partsOf(key);
  const qube = snapshot.qubes[of];
  switch (kind) {
    case "qube":
      return qube
        ? {
            class: qube.class,
            // A domain of plain Xen has none, and no word for that.
            template: qube.properties["template"]?.value ?? (qube.class === "Domain" ? "" : null),
            label: qube.properties["label"]?.value ?? "",
          }
        : null;
    case "property":
      return qube ? (qube.properties[name] ?? { default: true, value: "" }) : null;
    case "feature":
      return qube?.features[name] ?? null;
    case "tag":
      return qube?.tags.includes(name) ? true : null;
    case "global":
      return snapshot.globals[name] ?? null;
    case "file":
      return snapshot.files[name] ?? null;
    case "secret":
      return snapshot.secrets?.[`${of}:${name}`] ?? null;
    case "volume": // of the journal alone
      return null;
    case "line":
      return hasLine(snapshot.files[of]?.content ?? "", name) ? true : null;
    case "package":
      return snapshot.packages[name] ?? null;
    case "device": {
      const [port, device] = deviceParts(name);
      const is = qube?.pci.find((one) => one.port === port && one.device === device);
      return is ? { mode: is.mode, options: is.options } : null;
    }
    case "usb": {
      const is = qube?.usb?.find((one) => `${one.backend}:${one.port}:${one.device}` === name);
      return is ? { mode: is.mode, options: {} } : null;
    }
    case "given": // a place that somebody gives away, the input of a USB qube: only ever claimed
    case "given-usb":
    case "input":
      return null;
    case "bootarg":
      return snapshot.facts.boot.args.includes(name) ? true : null;
    case "assignable":
      return snapshot.facts.pci.some((fn) => fn.port === name && fn.driver === "pciback") ? true : null;
  }
}

/**
 * Properties that must be set on the qube itself even where the default has the same value: their default is a
 * global property that guidomain, or anybody, changes.
 */
const MUST_BE_EXPLICIT = new Set(["guivm", "audiovm", "netvm"]);

/** Whether the host already has what is asked for. */
export function satisfied(wish: Wish, snapshot: Snapshot): boolean {
  const { kind, name } = partsOf(wish.key);
  const live = valueOf(snapshot, wish.key);
  if (wish.value === null || live === null)
    return (
      live === wish.value ||
      (kind === "feature" && name === PROHIBIT_START) || // the guard takes it away in boots that give the qube its devices
      (kind === "file" && granted(name, (wish.value as FileValue).content, snapshot))
    );
  switch (kind) {
    case "package":
      return true; // any version
    case "property":
    case "global":
      return sameProperty(name, wish.value as PropertyValue, live as PropertyValue);
    case "file":
      return sameFile(name, wish.value as FileValue, live as FileValue, snapshot);
    case "device":
      return sameDevice(wish.value as DeviceValue, live as DeviceValue);
    default:
      return sameValue(wish.value, live);
  }
}

function sameProperty(name: string, wanted: PropertyValue, live: PropertyValue): boolean {
  return live.value === wanted.value && (!live.default || !MUST_BE_EXPLICIT.has(name));
}

/** A policy with the same rules is the same policy, whoever wrote it; its comments and blanks are nobody's loss. */
function sameFile(path: string, wanted: FileValue, live: FileValue, snapshot: Snapshot): boolean {
  if (live.mode !== wanted.mode) return false;
  if (live.content === wanted.content) return true;
  if (isLevelFile(path))
    return sameLevel(path, wanted.content, live.content, policyOf(snapshot), snapshot.qubes);
  if (path.endsWith(".policy")) return sameValue(rulesOf(wanted.content), rulesOf(live.content));
  if (path.endsWith(".desktop")) return sameValue(entries(wanted.content), entries(live.content));
  return false;
}

/** What a host's files say about policy. */
export const policyOf = ({ files }: Pick<Snapshot, "files">): Files =>
  Object.fromEntries(
    Object.entries(files).flatMap(([path, { content }]) =>
      [POLICY, RUNTIME_POLICY, OLD_POLICY].some((folder) => path.startsWith(`${folder}/`))
        ? [[path, content]]
        : [],
    ),
  );

/** In Qubes' store any text but "" counts as true, "False" too (qubes-cli-formats.md §6). */
export function sameDevice(wanted: DeviceValue, live: DeviceValue): boolean {
  const on = (options: Record<string, string>) =>
    Object.keys(options)
      .filter((name) => options[name] !== "")
      .sort();
  return wanted.mode === live.mode && sameValue(on(wanted.options), on(live.options));
}

/**
 * Whether a policy file that is not there is not needed, because Qubes' own formula has allowed its qube all local admin calls instead:
 * the stock files send each admin.vm.* call to this include (qubes-host.md (f)). Its lines are `source destination allow target=dom0`.
 * Those that are ours go with the level that they belong to, and nothing else may rest on them.
 */
function granted(path: string, wanted: string, snapshot: Snapshot): boolean {
  if (!path.endsWith(".policy")) return false;
  const isOurs = (line: string) => snapshot.ledger[`line:${LOCAL_RWX}:${line}`]?.first === null;
  const lines = new Set(rulesOf(snapshot.files[LOCAL_RWX]?.content ?? "").filter((line) => !isOurs(line)));
  return rulesOf(wanted).every((rule) => {
    const [service = "", , source, destination] = rule.split(" ");
    return service.startsWith("admin.vm.") && lines.has(`${source} ${destination} allow target=dom0`);
  });
}

/** The lines of a desktop entry that say something, in any order. */
const entries = (text: string) => rulesOf(text).sort();

/** Deep equality of plain values. */
export function sameValue(a: unknown, b: unknown): boolean {
  if (a === b) return true;
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return false;
  const [left, right] = [Object.entries(a), Object.entries(b)];
  return (
    left.length === right.length &&
    left.every(([k, v]) => k in b && sameValue(v, (b as Record<string, unknown>)[k]))
  );
}

/** The qubes that use `qube` as their GUI domain now, by name; not itself. */
export function clientsOf(snapshot: Snapshot, qube: string): string[] {
  return Object.keys(snapshot.qubes)
    .filter((name) => name !== qube && snapshot.qubes[name]?.properties["guivm"]?.value === qube)
    .sort();
}
