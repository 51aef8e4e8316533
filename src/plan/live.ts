/** The live host in the shape of settings, so that a difference is a difference of properties. Pure. */
import type { Snapshot } from "../host/protocol.ts";
import type { DeviceValue, FileValue, KeyValue, PropertyValue, QubeValue } from "../model/keys.ts";
import {
  assignmentOf,
  type DeviceSetting,
  deviceId,
  modeOf,
  NO_SETTINGS,
  PROHIBIT_START,
  type Settings,
  waitsOf,
  wishes,
} from "../model/settings.ts";
import { deviceParts, partsOf, sameValue, satisfied, valueOf } from "./values.ts";

/**
 * What the host has for everything that `wanted` speaks of. What is not there is left out; what is equal in meaning (a policy with the
 * same rules) is given in the words of `wanted`, so that only real differences show.
 */
export function liveSettings(qube: string, wanted: Settings, snapshot: Snapshot): Settings {
  const live: Settings = structuredClone(NO_SETTINGS);
  if (wanted.audioClients) live.audioClients = {};
  if (wanted.usb) live.usb = {};
  if (wanted.audioModels) live.audioModels = {};
  for (const wish of wishes(qube, wanted)) {
    const value = valueOf(snapshot, wish.key);
    const same = satisfied(wish, snapshot);
    if (value === null && !same) continue;
    const { kind, of, name } = partsOf(wish.key);
    switch (kind) {
      case "qube": {
        const is = value as QubeValue;
        Object.assign(live, { class: is.class, template: is.template ?? "", label: is.label });
        break;
      }
      case "property":
        if (of === qube) live.properties[name] = property(wish.value, value, same);
        else if (name === "audiovm")
          live.audioClients = { ...live.audioClients, [of]: property(wish.value, value, same) };
        else live.clients[of] = property(wish.value, value, same);
        break;
      case "global":
        live.globals[name] = property(wish.value, value, same);
        break;
      case "feature":
        if (of !== qube) live.audioModels = { ...live.audioModels, [of]: value as string };
        else if (name.startsWith("service."))
          live.services[name.slice("service.".length)] = value === "1" ? "on" : "off";
        else live.features[name] = same ? (wish.value as string) : (value as string);
        break;
      case "file":
        live.files[name] = same ? (wish.value as FileValue).content : file(name, value as FileValue);
        break;
      case "line":
        live.policyLines[`${of}:${name}`] = "set";
        break;
      case "usb":
        live.usb = { ...live.usb, [name]: (value as DeviceValue).mode };
        break;
      case "secret":
        live.secrets = { ...live.secrets, [name]: value as string };
        break;
      case "package":
        live.packages[name] = "installed";
        break;
      case "bootarg":
        live.bootArguments[name] = "set";
        break;
      case "assignable":
        live.assignable = { ...live.assignable, [name]: "pciback" };
        break;
    }
  }
  const waits = Object.entries(waitsOf(wanted)).filter(([key, value]) =>
    snapshot.ledger[key]?.waiting?.some((one) => sameValue(one.value, value)),
  );
  if (waits.length)
    live.waiting = Object.fromEntries(waits.map(([key]) => [key, wanted.waiting?.[key] ?? ""]));
  live.devices = liveDevices(qube, wanted, snapshot);
  return live;
}

/** The wanted devices as they are assigned now: wherever they sit, in their place, in another one, or only as "any device" of that place. */
function liveDevices(qube: string, wanted: Settings, snapshot: Snapshot): Record<string, DeviceSetting> {
  const assigned = snapshot.qubes[qube]?.pci ?? [];
  const ports = Object.values(wanted.devices).map((d) => d.port);
  const found: Record<string, DeviceSetting> = {};
  for (const [name, device] of Object.entries(wanted.devices)) {
    const { port, anyPlace, options } = device;
    const same = assigned.filter((one) => one.device === deviceId(name));
    const at = (place: string) => same.find((one) => one.port === place);
    const exact =
      (anyPlace ? at("*") : at(port)) ?? at(port) ?? same.find((one) => !ports.includes(one.port));
    const any = assigned.find((one) => one.port === port && one.device === "*");
    const is = exact ?? any;
    if (!is) continue;
    const key = `device:${qube}:${assignmentOf(name, device)}` as const;
    const asWanted = satisfied({ key, value: { mode: "required", options } }, snapshot);
    found[name] = {
      port: is.port === "*" ? (placeBefore(qube, deviceId(name), snapshot) ?? port) : is.port,
      ...(is.port === "*" && { anyPlace: true }),
      options: asWanted ? options : is.options,
      ...(is.mode !== "required" && { mode: is.mode }),
      ...(any && { anyDevice: true }),
      ...(anyPlace && is.port === "*" && at(port) && { twice: true }),
    };
  }
  return found;
}

/**
 * Where a device was when it was assigned wherever it sits: Qubes follows it by itself, and that it moved is told all the same. The
 * ledger knows, since no other assignment may name it there.
 */
function placeBefore(qube: string, id: string, { ledger }: Snapshot): string | undefined {
  const claims = Object.entries(ledger).flatMap(([key, { ours }]) => {
    const { kind, of, name } = partsOf(key);
    const [port, device] = deviceParts(name);
    return kind === "device" && of === qube && device === id && ours === null ? [port] : [];
  });
  return claims.length === 1 ? claims[0] : undefined;
}

/**
 * The settings as an apply writes them: where the host says the same in other words (a property that follows a default of the same
 * value, a policy with other comments) it keeps them, so that nothing changes which no preview has shown.
 */
export function appliedSettings(qube: string, wanted: Settings, snapshot: Snapshot): Settings {
  const applied = structuredClone(wanted);
  for (const wish of wishes(qube, wanted)) {
    const value = valueOf(snapshot, wish.key);
    if (!satisfied(wish, snapshot)) continue;
    const { kind, of, name } = partsOf(wish.key);
    if (kind === "file" && value === null) delete applied.files[name];
    else if (kind === "file") applied.files[name] = (value as FileValue).content;
    else if (name === PROHIBIT_START && value === null) delete applied.features[name];
    else if (kind === "device" && wish.value !== null)
      // Options spelled in another way stay as they are.
      Object.assign(deviceAt(applied, name) ?? {}, { options: (value as DeviceValue).options });
    else if (kind === "global" && (value as PropertyValue).default) delete applied.globals[name];
    else if (kind === "property" && of === qube && (value as PropertyValue).default)
      delete applied.properties[name];
  }
  return applied;
}

function deviceAt(settings: Settings, name: string): DeviceSetting | undefined {
  return Object.entries(settings.devices).find(([n, d]) => assignmentOf(n, d) === name)?.[1];
}

function property(wanted: KeyValue, value: KeyValue, same: boolean): string {
  const is = value as PropertyValue;
  if (same) return (wanted as PropertyValue).value;
  return is.default ? `${is.value} (default)` : is.value;
}

const file = (path: string, is: FileValue) =>
  is.mode === modeOf(path) ? is.content : `(mode ${is.mode})\n${is.content}`;
