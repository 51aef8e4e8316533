/** The live host in the shape of settings, so that a difference is a difference of properties. Pure. */
import type { Snapshot } from "../host/protocol.ts";
import type { FileValue, KeyValue, PropertyValue, QubeValue } from "../model/keys.ts";
import { FILE_MODE, type Settings, wishes } from "../model/settings.ts";
import { partsOf, satisfied, valueOf } from "./values.ts";

/**
 * What the host has for everything that `wanted` speaks of. What is not there is left out; what is equal in meaning (a policy with the
 * same rules) is given in the words of `wanted`, so that only real differences show.
 */
export function liveSettings(qube: string, wanted: Settings, snapshot: Snapshot): Settings {
  const live: Settings = {
    class: "",
    template: "",
    label: "",
    properties: {},
    features: {},
    services: {},
    globals: {},
    clients: {},
    files: {},
    packages: {},
  };
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
        else live.clients[of] = property(wish.value, value, same);
        break;
      case "global":
        live.globals[name] = property(wish.value, value, same);
        break;
      case "feature":
        if (name.startsWith("service."))
          live.services[name.slice("service.".length)] = value === "1" ? "on" : "off";
        else live.features[name] = value as string;
        break;
      case "file":
        live.files[name] = same ? (wish.value as FileValue).content : file(value as FileValue);
        break;
      case "package":
        live.packages[name] = "installed";
        break;
    }
  }
  return live;
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
    else if (kind === "global" && (value as PropertyValue).default) delete applied.globals[name];
    else if (kind === "property" && of === qube && (value as PropertyValue).default)
      delete applied.properties[name];
  }
  return applied;
}

function property(wanted: KeyValue, value: KeyValue, same: boolean): string {
  const is = value as PropertyValue;
  if (same) return (wanted as PropertyValue).value;
  return is.default ? `${is.value} (default)` : is.value;
}

const file = (is: FileValue) => (is.mode === FILE_MODE ? is.content : `(mode ${is.mode})\n${is.content}`);
