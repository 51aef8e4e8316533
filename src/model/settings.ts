/**
 * What a description comes to on a host: every value that guidomain will see to, as the host itself spells it. It is part of
 * a resource's checked inputs, and what Read fills from the live host, so that a preview is a property-level diff.
 */
import type { Key, KeyValue } from "./keys.ts";

/** A PCI device as a qube is given it for good. */
export interface DeviceSetting {
  /** As the host names its place now, "00_01.0-00_00.0". */
  port: string;
  /** Assigned by what it is, wherever it sits; else in that place alone. */
  anyPlace?: true;
  /** Only those that are on, each "True". */
  options: Record<string, string>;
  /** How it is assigned where that is not "required"; only ever found on a host, never asked for. */
  mode?: string;
  /** Somebody assigned whatever sits in this place; only ever found on a host. */
  anyDevice?: true;
  /** Somebody assigned it in this place beside its assignment of any place; only ever found on a host. */
  twice?: true;
}

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
  /** What somebody else has, who came first: by its key, and what it is to be when that one lets go of it. */
  waiting?: Record<string, string>;
  /** Client → its GUI domain. */
  clients: Record<string, string>;
  /** Client → its audio domain; an audio domain's settings alone have it. */
  audioClients?: Record<string, string>;
  /** Client without an agent → its emulated sound card. */
  audioModels?: Record<string, string>;
  /** Path in dom0 → text. */
  files: Record<string, string>;
  /** Lines of files that others write to as well: "/etc/qubes/policy.d/include/admin-global-rwx:sys-gui @adminvm allow target=dom0". */
  policyLines: Record<string, "set">;
  /** Packages of dom0. */
  packages: Record<string, "installed">;
  /** PCI devices by what they are ("0x8086:0x9a49::p030000"), so that a device that moves shows its old and its new place. */
  devices: Record<string, DeviceSetting>;
  /** Single USB devices, "BACKEND:PORT:ID" → how they are assigned; an audio domain's settings alone have it. */
  usb?: Record<string, string>;
  /** What dom0 keeps for the qube, by name: its mark (model/secrets.ts). A GUI domain's settings alone have it. */
  secrets?: Record<string, string>;
  /** Words of the kernel's arguments that every boot is to have. */
  bootArguments: Record<string, "set">;
  /** Functions that dom0 gives up while it runs, by port; plain Xen alone has it. */
  assignable?: Record<string, "pciback">;
}

/** Of nothing at all: what "as before" comes to. */
export const NO_SETTINGS: Settings = {
  class: "",
  template: "",
  label: "",
  properties: {},
  features: {},
  services: {},
  globals: {},
  clients: {},
  files: {},
  policyLines: {},
  packages: {},
  devices: {},
  bootArguments: {},
};

/** The feature that keeps a qube from starting; its value is the reason that a person reads (qubes-cli-formats.md §5). */
export const PROHIBIT_START = "prohibit-start";

/** The feature that gives an HVM an emulated sound card, whose sound its stubdomain sends to its audio domain (qubes-host.md (h) 4). */
export const AUDIO_MODEL = "audio-model";

/** Every file of ours can be read by all and written by root alone. */
export const FILE_MODE = "0644";
const PROGRAM_MODE = "0755";
/** Services of dom0, which qrexec executes (core-qrexec, libqrexec/exec.c: find_qrexec_service), and programs of ours. */
const PROGRAM = /^\/(etc\/qubes-rpc|usr\/local\/(s?bin|libexec))\/[^/]+$/;
export const modeOf = (path: string): string => (PROGRAM.test(path) ? PROGRAM_MODE : FILE_MODE);

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
    ...(settings.class === ""
      ? []
      : [
          {
            key: `qube:${qube}`,
            value: { class: settings.class, template: settings.template, label: settings.label },
          } satisfies Wish,
        ]),
    ...entries(settings.properties).map(
      ([p, value]): Wish => ({ key: `property:${qube}:${p}`, value: explicit(value) }),
    ),
    ...entries(settings.devices).flatMap(([name, device]): Wish[] => [
      {
        key: `device:${qube}:${assignmentOf(name, device)}`,
        value: { mode: "required", options: device.options },
      },
      ...othersOf(name, device).map((other): Wish => ({ key: `device:${qube}:${other}`, value: null })),
    ]),
    ...entries(settings.usb ?? {}).map(
      ([name, mode]): Wish => ({ key: `usb:${qube}:${name}` as Key, value: { mode, options: {} } }),
    ),
    ...entries(settings.features).map(([f, value]): Wish => ({ key: `feature:${qube}:${f}`, value })),
    ...entries(settings.services).map(
      ([s, value]): Wish => ({ key: `feature:${qube}:service.${s}`, value: value === "on" ? "1" : "" }),
    ),
    ...entries(settings.secrets ?? {}).map(
      ([name, value]): Wish => ({ key: `secret:${qube}:${name}`, value }),
    ),
    // A state of before there were such lines has none.
    ...Object.keys(settings.policyLines ?? {}).map(
      (line): Wish => ({ key: `line:${line}` as Key, value: true }),
    ),
    ...entries(settings.files).map(
      ([path, content]): Wish => ({ key: `file:${path}`, value: { content, mode: modeOf(path) } }),
    ),
    ...entries(settings.clients).map(
      ([c, value]): Wish => ({ key: `property:${c}:guivm`, value: explicit(value) }),
    ),
    ...entries(settings.audioModels ?? {}).map(
      ([c, value]): Wish => ({ key: `feature:${c}:${AUDIO_MODEL}`, value }),
    ),
    ...entries(settings.audioClients ?? {}).map(
      ([c, value]): Wish => ({ key: `property:${c}:audiovm`, value: explicit(value) }),
    ),
    ...entries(settings.globals).map(([g, value]): Wish => ({ key: `global:${g}`, value: explicit(value) })),
    ...Object.keys(settings.bootArguments).map((word): Wish => ({ key: `bootarg:${word}`, value: true })),
    ...Object.keys(settings.assignable ?? {}).map(
      (port): Wish => ({ key: `assignable:${port}`, value: true }),
    ),
  ];
}

/** Without `keys`, which somebody else has: these are only waited for. */
export function standBehind(settings: Settings, keys: readonly string[]): Settings {
  const waiting: Record<string, string> = {};
  const rest = (map: Record<string, string>, keyOf: (name: string) => Key) =>
    Object.fromEntries(
      Object.entries(map).filter(([name, value]) => {
        const key = keyOf(name);
        if (keys.includes(key)) waiting[key] = value;
        return !keys.includes(key);
      }),
    );
  const { globals, clients, audioClients, audioModels } = settings;
  const left: Settings = {
    ...settings,
    globals: rest(globals, (name) => `global:${name}`),
    clients: rest(clients, (name) => `property:${name}:guivm`),
    ...(audioClients && { audioClients: rest(audioClients, (name) => `property:${name}:audiovm`) }),
    ...(audioModels && { audioModels: rest(audioModels, (name) => `feature:${name}:${AUDIO_MODEL}`) }),
  };
  return Object.keys(waiting).length ? { ...left, waiting } : settings;
}

/** What is waited for, by its key, as the host would have it. */
export const waitsOf = ({ waiting = {} }: Settings): Record<string, KeyValue> =>
  Object.fromEntries(
    Object.entries(waiting).map(([key, value]) => [
      key,
      key.startsWith("feature:") ? value : explicit(value),
    ]),
  );

/** Of two devices that are alike the second one's name in `devices` is "0x8086:0x9a49::p030000 (2)". */
export const deviceId = (name: string): string => name.replace(/ \(\d+\)$/, "");

/**
 * The assignment that gives a device: "*:ID" or "PORT:ID". Qubes takes "*:ID" away at any time, and starts a qube with that device
 * wherever it is; "PORT:ID" neither comes nor goes once its place is empty (core-admin 4.3.50, api/admin.py load_device_info, which
 * asks libvirt what is there; device_protocol.py DeviceAssignment.devices. Both seen on a real qubesd).
 */
export const assignmentOf = (name: string, { port, anyPlace }: DeviceSetting): `${string}:${string}` =>
  `${anyPlace ? "*" : port}:${deviceId(name)}`;

/**
 * Assignments that must not be beside that: "any device" in that place would give away whatever sits there after a move, and a device that
 * two assignments name is in the domain's XML twice.
 */
export const othersOf = (name: string, { port, anyPlace }: DeviceSetting): `${string}:${string}`[] => [
  ...(anyPlace ? ([`${port}:${deviceId(name)}`] as const) : []),
  `${port}:*`,
];

const explicit = (value: string) => ({ default: false, value });
