/** What a program may say about an audio domain, and the rules it must keep. Pure. Sources: design §2, §4, §6; qubes-host.md (b), (h). */
import * as v from "valibot";
import { Selector } from "../pci/selector.ts";
import { integer, listOf, named, oneOf, only, shown, text, wrong } from "./fields.ts";
import { DEFAULT_TEMPLATE, type Fault, faultsOf } from "./guiDomain.ts";
import type { Key } from "./keys.ts";
import { hostNameFault, qubeNameFault } from "./names.ts";
import { AUDIO_MODEL } from "./settings.ts";
import { UsbSelector } from "./usb.ts";
import { onlyQubesFaults, PVH_WORDS, XEN_DOMAIN, type XenDomain, xenDomainOf } from "./xenDomain.ts";

/** MiB; qubes-host.md (b), column audio. */
const MEMORY = 400;

/** Seconds: for the audio domain to start, and for one check. */
export const AUDIO_LIMITS = { start: 120, checks: 30 };

const SECONDS = "a whole number of seconds";
const qubeName = named(qubeNameFault);
const flag = v.boolean(({ input }) => `${shown(input)} is not allowed; give true or false`);

/** One selector, or several. */
const Devices = v.lazy((value) => (Array.isArray(value) ? listOf(Selector) : Selector)) as v.GenericSchema<
  unknown,
  Selector | Selector[]
>;

const UsbDevices = v.lazy((value) =>
  Array.isArray(value) ? listOf(UsbSelector) : UsbSelector,
) as v.GenericSchema<unknown, UsbSelector | UsbSelector[]>;

const fields = {
  host: named(hostNameFault),
  /** The qube; the resource's own name unless given. */
  qube: v.optional(qubeName),
  shared: v.optional(flag),
  devices: v.optional(Devices),
  usb: v.optional(UsbDevices),
  clients: v.optional(
    v.union(
      [v.literal("default"), v.array(qubeName)],
      ({ input }) => `${shown(input)} is not allowed; give "default" or a list of qubes`,
    ),
  ),
  restartClients: v.optional(oneOf("never", "allowed")),
  microphone: v.optional(oneOf("denied", "allowed")),
  emulated: v.optional(listOf(qubeName)),
  bluetooth: v.optional(flag),
  retry: v.optional(v.union([v.string(), v.number()], wrong("a number or a text"))),
  onFallback: v.optional(oneOf("warn", "accept", "fail")),
  limits: v.optional(
    only(
      { start: v.optional(integer(10, 3600, SECONDS)), checks: v.optional(integer(1, 600, SECONDS)) },
      wrong("limits in seconds: start, checks"),
      "there is no such part",
    ),
  ),
  onDelete: v.optional(oneOf("restore", "keep")),
  unreachable: v.optional(oneOf("fail", "skip")),
  template: v.optional(qubeName),
  label: v.optional(text),
  memory: v.optional(integer(64, 1_048_576, "a whole number of MiB")),
  vcpus: v.optional(integer(1, 128, "a whole number of virtual processors")),
  autostart: v.optional(flag),
  domain: v.optional(XEN_DOMAIN),
};

/** What a program may give; every argument but `host` may be left out. */
export const ARGUMENTS = Object.keys(fields).sort();

const AudioDomainArgs = only(
  fields,
  wrong("the properties of an audio domain"),
  `not a property of an audio domain; allowed are ${ARGUMENTS.join(", ")}`,
);
type AudioDomainArgs = v.InferOutput<typeof AudioDomainArgs>;

/** An audio domain as described: every default filled in, every rule that needs no host kept. */
export interface AudioDomain {
  host: string;
  qube: string;
  /** The qube has another purpose (a GUI domain, sys-usb): only what makes it an audio domain is changed. */
  shared: boolean;
  /** What it is given, by what it is; none: it has its devices already, such as a USB controller. */
  devices: Selector[];
  /** Single USB devices of USB qubes, beside these. */
  usb: UsbSelector[];
  clients: "default" | string[];
  restartClients: "never" | "allowed";
  /** Whether its desktop may give its clients the microphone. */
  microphone: "denied" | "allowed";
  /** HVM clients without an agent inside, which get an emulated sound card. */
  emulated: string[];
  /** It plays on headsets that are paired with it, and its pairings stay. */
  bluetooth: boolean;
  retry: string;
  onFallback: "warn" | "accept" | "fail";
  /** Seconds. */
  limits: { start: number; checks: number };
  onDelete: "restore" | "keep";
  unreachable: "fail" | "skip";
  /** Of a qube of its own; null, here and below: it is shared, or the host's default. */
  template: string | null;
  label: string | null;
  memory: number | null;
  vcpus: number | null;
  autostart: boolean | null;
  /** On plain Xen, and only there: what the domain is made of. */
  domain: XenDomain | null;
  /** Keys of what it plays that somebody else has, who came first. Not an argument: it is found out on the way. */
  behind?: readonly string[];
}

/** What of the host it wants that others may want as well: the default, or the audio domain and the emulated card of each client. */
export const soundContestedBy = ({ clients, emulated }: Pick<AudioDomain, "clients" | "emulated">): Key[] => [
  ...(clients === "default"
    ? (["global:default_audiovm"] as const)
    : clients.map((client): Key => `property:${client}:audiovm`)),
  ...emulated.map((client): Key => `feature:${client}:${AUDIO_MODEL}`),
];

/** Its clients but those that somebody else has, who came first. */
export const soundClientsNow = ({ clients, behind = [] }: Pick<AudioDomain, "clients" | "behind">) =>
  clients === "default"
    ? behind.includes("global:default_audiovm")
      ? []
      : clients
    : clients.filter((client) => !behind.includes(`property:${client}:audiovm`));

/** What belongs to the qube itself, which whoever it is shared with decides. */
const OF_THE_QUBE = ["template", "label", "memory", "vcpus", "autostart"] as const;

/** What is wrong with single arguments; the rules over several are left to `parseAudioDomain`. */
export const audioFaults = (value: unknown): Fault[] => faultsOf(v.safeParse(AudioDomainArgs, value).issues);

/** The description with its defaults, or what is wrong with it, by property path. */
export function parseAudioDomain(name: string, value: unknown): { audio: AudioDomain } | { faults: Fault[] } {
  const parsed = v.safeParse(AudioDomainArgs, value);
  if (!parsed.success) return { faults: faultsOf(parsed.issues) };
  const args = parsed.output;
  const shared = args.shared ?? false;
  const own = <T>(given: T | undefined, otherwise: T | null): T | null =>
    shared ? null : (given ?? otherwise);
  const devices = args.devices ?? (shared ? [] : { class: "audio" });
  const audio: AudioDomain = {
    host: args.host,
    qube: args.qube ?? name,
    shared,
    devices: Array.isArray(devices) ? devices : [devices],
    usb: args.usb === undefined ? [] : Array.isArray(args.usb) ? args.usb : [args.usb],
    clients: args.clients === "default" ? "default" : unique(args.clients ?? []),
    restartClients: args.restartClients ?? "never",
    microphone: args.microphone ?? "denied",
    emulated: unique(args.emulated ?? []),
    bluetooth: args.bluetooth ?? false,
    retry: String(args.retry ?? ""),
    onFallback: args.onFallback ?? "warn",
    limits: {
      start: args.limits?.start ?? AUDIO_LIMITS.start,
      checks: args.limits?.checks ?? AUDIO_LIMITS.checks,
    },
    onDelete: args.onDelete ?? "restore",
    unreachable: args.unreachable ?? "fail",
    template: own(args.template, args.domain ? null : DEFAULT_TEMPLATE),
    label: own(args.label, args.domain ? null : "black"),
    memory: own(args.memory, args.domain ? null : MEMORY),
    vcpus: own(args.vcpus, null),
    autostart: own(args.autostart, true),
    domain: args.domain ? xenDomainOf(args.domain) : null,
  };
  const faults = rules(audio, name, args);
  return faults.length ? { faults } : { audio };
}

/** What plain Xen does not have, and why: there an audio domain is given its devices, and that is all. */
const ONLY_QUBES: Partial<Record<keyof AudioDomain, string>> = {
  shared: "give the device to a domain that has another purpose with a PciAttachment",
  usb: "single USB devices do not go from domain to domain; give it a controller",
  clients: "sound does not go from domain to domain",
  restartClients: "it has no clients",
  microphone: "it has no clients",
  emulated: "it has no clients",
  bluetooth: "guidomain puts nothing inside a domain of xl",
  template: "its domains are not made from templates of Qubes",
  label: "its windows have no labels",
};
/** What a description has where the program says nothing, if that is not nothing. */
const DEFAULTS: Partial<Record<string, unknown>> = {
  shared: false,
  restartClients: "never",
  microphone: "denied",
  bluetooth: false,
};

/** docs/xen.md. */
function xenFaults(
  audio: AudioDomain,
  { type }: XenDomain,
  add: (property: string, reason: string) => void,
): void {
  onlyQubesFaults(audio, ONLY_QUBES, DEFAULTS, add);
  if (type === "pvh")
    add("domain.type", `"pvh" cannot have a sound device: xl says "${PVH_WORDS}"; give "hvm" or "pv"`);
}

/** Lists whose order means nothing are kept sorted, so that their order is never a difference. */
const unique = (names: string[]) => [...new Set(names)].sort();

/** Rules over several fields. */
function rules(audio: AudioDomain, name: string, args: AudioDomainArgs): Fault[] {
  const faults: Fault[] = [];
  const add = (property: string, reason: string) => faults.push({ property, reason });
  if (args.qube === undefined) {
    const bad = qubeNameFault(name);
    if (bad) add("qube", `${bad}. The qube takes the resource's name unless "qube" says otherwise`);
  }
  if (!audio.shared && /^config-/i.test(audio.qube))
    add("qube", `"${audio.qube}" would give its policy the name of one of Qubes' own files; choose another`);
  if (audio.shared)
    for (const property of OF_THE_QUBE)
      if (args[property] !== undefined)
        add(
          property,
          `${shown(args[property])} is not allowed: qube "${audio.qube}" is shared, and whoever it belongs to says what it is; leave it out`,
        );
  if (audio.template === audio.qube) add("template", `"${audio.template}" cannot be its own template`);
  audio.usb.forEach((one, i) => {
    if (one.qube === audio.qube)
      add(
        `usb[${i}].qube`,
        `"${one.qube}" is the audio domain itself, which has what is plugged into it already; leave it out`,
      );
    const isSame = (other: UsbSelector) =>
      other.qube === one.qube &&
      other.vendor === one.vendor &&
      other.device === one.device &&
      (other.port === one.port || !other.port || !one.port);
    if (audio.usb.findIndex(isSame) < i)
      add(`usb[${i}]`, `it is there twice; name each once, two that are alike each with its "port"`);
  });
  if (audio.domain) xenFaults(audio, audio.domain, add);
  const { clients } = audio;
  if (clients !== "default" && clients.includes(audio.qube))
    add("clients", `"${audio.qube}" cannot be its own client: it plays its own sound by itself`);
  for (const client of audio.emulated)
    if (clients !== "default" && !clients.includes(client))
      add("emulated", `"${client}" is not one of its clients; add it to "clients"`);
  return faults;
}
