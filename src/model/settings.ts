/**
 * What a description comes to on a host: every value that guidomain will see to, as the host itself spells it. It is part of
 * a resource's checked inputs, and what Read fills from the live host, so that a preview is a property-level diff.
 */
import type { Key, KeyValue } from "./keys.ts";

export interface Settings {
  class: string;
  template: string;
  label: string;
  /** Values as the Admin API spells them: "True", "4000", "" for none. */
  properties: Record<string, string>;
  features: Record<string, string>;
  services: Record<string, "on" | "off">;
  /** Global properties, such as default_guivm. */
  globals: Record<string, string>;
  /** Client → its GUI domain. */
  clients: Record<string, string>;
  /** Path in dom0 → text. */
  files: Record<string, string>;
  /** Packages of dom0. */
  packages: Record<string, "installed">;
}

/** Every file of ours can be read by all and written by root alone. */
export const FILE_MODE = "0644";

/** One thing a description asks for: its key, and the value it is to have. */
export interface Wish {
  key: Key;
  /** For a package any version will do: the value is "installed". */
  value: KeyValue;
}

/** The settings as wishes, in the order in which a host can be given them. */
export function wishes(qube: string, settings: Settings): Wish[] {
  const entries = <T>(map: Record<string, T>) => Object.entries(map);
  return [
    ...entries(settings.packages).map(([name, value]): Wish => ({ key: `package:${name}`, value })),
    {
      key: `qube:${qube}`,
      value: { class: settings.class, template: settings.template, label: settings.label },
    },
    ...entries(settings.properties).map(
      ([p, value]): Wish => ({ key: `property:${qube}:${p}`, value: explicit(value) }),
    ),
    ...entries(settings.features).map(([f, value]): Wish => ({ key: `feature:${qube}:${f}`, value })),
    ...entries(settings.services).map(
      ([s, value]): Wish => ({ key: `feature:${qube}:service.${s}`, value: value === "on" ? "1" : "" }),
    ),
    ...entries(settings.files).map(
      ([path, content]): Wish => ({ key: `file:${path}`, value: { content, mode: FILE_MODE } }),
    ),
    ...entries(settings.clients).map(
      ([c, value]): Wish => ({ key: `property:${c}:guivm`, value: explicit(value) }),
    ),
    ...entries(settings.globals).map(([g, value]): Wish => ({ key: `global:${g}`, value: explicit(value) })),
  ];
}

const explicit = (value: string) => ({ default: false, value });
