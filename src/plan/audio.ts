/**
 * What a run is going to do for an audio domain on this host, as far as facts alone tell; the same for the preview and for the apply.
 * Below it lies "as before": the sound stays where it was. Pure. Sources: design §4–§6; qubes-host.md (b), (d) 5, (e), (h).
 */
import { createHash } from "node:crypto";
import {
  AUDIO_SERVICE,
  audioSettingsOf,
  ofItsStart,
  PAIRINGS,
  withoutClients,
} from "../formula/audioSettings.ts";
import type { Evidence, PciFunction, QubeSnapshot, Snapshot, Verification } from "../host/protocol.ts";
import { type AudioDomain, soundClientsNow } from "../model/audioDomain.ts";
import { Refusal } from "../model/failure.ts";
import type { PropertyValue } from "../model/keys.ts";
import { AUDIO_MODEL, NO_SETTINGS, type Settings } from "../model/settings.ts";
import { reached } from "../pci/identity.ts";
import { hostRules } from "../pci/rules.ts";
import { select } from "../pci/selector.ts";
import { isAudio, isUsb, listed, pciTree } from "../pci/tree.ts";
import { verdictAudio } from "../pci/verdict.ts";
import { isAwaited, owns, type Plan, planApply } from "./changes.ts";
import { hardwareKey } from "./fingerprint.ts";
import { devicesOf } from "./gpu.ts";
import { holds, type RungKey } from "./ladder.ts";
import { type Notice, preflightRemoval, requirePlatform } from "./preflight.ts";
import { chooseUsb } from "./usbSound.ts";
import { partsOf, valueOf } from "./values.ts";
import { lintCheck, policyCheck } from "./verify.ts";
import { preflightDomain } from "./xen/preflight.ts";
import { deviceChecks, startCheck, withDomain } from "./xen/verify.ts";

/** That it did not come up, and under what circumstances: it is tried again when these change. */
export interface RememberedSound {
  reason: string;
  key: RungKey;
  evidence: readonly Evidence[];
}

export interface AudioDecision {
  /** "staged": all but its clients, until its qube has started anew. "before": the sound stays where it was. */
  target: "audio" | "staged" | "before";
  /** What the host is to have. */
  wanted: Settings;
  /** Why not all of it. */
  reason: string | null;
  /** It is known not to work here; the facts did not say so. */
  remembered: RememberedSound | null;
  /** The qube is shut down first, since it runs without what makes it an audio domain, and nobody uses it. */
  startsAnew: boolean;
  functions: readonly PciFunction[];
  /** Its USB devices that are plugged in and nobody else's, "0d8c:0014". */
  headsets: readonly string[];
  /** Where its USB devices are plugged in, "sys-usb:1-2": each is one qube's. */
  places: readonly string[];
  notices: Notice[];
}

export const audioWords = (audio: Pick<AudioDomain, "qube">) => `Audio domain ${audio.qube}`;

/** `coming`: whether another resource of this program makes that qube. Throws a Refusal for what no host of this kind can do. */
export function decideAudio(
  audio: AudioDomain,
  snapshot: Snapshot,
  owner: string,
  known: RememberedSound | null,
  coming: (qube: string) => boolean = () => false,
): AudioDecision {
  const refuse = (what: string, next: string) =>
    new Refusal({ resource: audioWords(audio), host: audio.host, what, next });
  requirePlatform(audioWords(audio), audio.host, audio.domain, snapshot);
  if (audio.domain)
    preflightDomain(
      { resource: audioWords(audio), host: audio.host, qube: audio.qube },
      audio.domain,
      snapshot,
      true,
    );
  const notices = audio.domain
    ? []
    : [...qubeNotices(audio, snapshot, owner, coming, refuse), ...clientNotices(audio, snapshot, refuse)];
  const { functions, settings, more, ...pci } = devicesFor(audio, snapshot, refuse);
  const usb = chooseUsb(audio.qube, audio.usb, snapshot, refuse);
  const against = pci.against ?? usb.against[0];
  const decided = {
    functions,
    headsets: usb.present,
    places: usb.places,
    notices: [...notices, ...more],
    startsAnew: false,
    remembered: null,
  };
  const before = { ...decided, target: "before" as const, wanted: NO_SETTINGS };
  const isUp = inForce(audio, snapshot, owner);
  if (against && isUp) throw refuse(against.what, against.next);
  if (against) return { ...before, reason: against.what };
  if (known && !isUp && holds({ ...known, reset: false }, soundKey(audio, snapshot)))
    return { ...before, reason: `${known.reason} (${UNTIL})`, remembered: known };
  const wanted = audioSettingsOf(audio, settings, usb.settings);
  const waits = needsStart(audio, wanted, snapshot, owner);
  // Who uses a domain of xl that was there before nobody knows.
  const isFree =
    !audio.domain || snapshot.ledger[`qube:${audio.qube}`]?.first === null || !snapshot.qubes[audio.qube];
  const startsAnew = waits && isFree && !audio.shared && soundUsers(audio.qube, snapshot).length === 0;
  if (!waits || startsAnew || isUp) return { ...decided, target: "audio", wanted, reason: null, startsAnew };
  return {
    ...decided,
    target: "staged",
    wanted: withoutClients(wanted),
    reason: `${audio.qube} runs without what makes it an audio domain; restart it, then run "pulumi up" again`,
  };
}

const UNTIL =
  "not tried again until the hardware, its firmware, Xen, the kernel, the template, what is asked for, or retry changes";

type Refuse = (what: string, next: string) => Refusal;

/** The qube itself: is there, or can be made; and is not somebody else's. */
function qubeNotices(
  audio: AudioDomain,
  snapshot: Snapshot,
  owner: string,
  coming: (qube: string) => boolean,
  refuse: Refuse,
): Notice[] {
  const live = snapshot.qubes[audio.qube];
  if (audio.shared) {
    if (!live && !coming(audio.qube))
      throw refuse(
        `qube "${audio.qube}" does not exist there, and "shared" asks for one that has another purpose already`,
        'Create it first, or leave out "shared" for a qube of its own',
      );
    if (live && (live.class === "AdminVM" || live.class === "TemplateVM"))
      throw refuse(
        `"${audio.qube}" is ${live.class === "AdminVM" ? "dom0, which plays the sound as long as no audio domain does" : "a template"}`,
        "Name another qube",
      );
    if (live?.class === "DispVM" && live.properties["auto_cleanup"]?.value === "True")
      throw refuse(`"${audio.qube}" is gone when it is shut down`, "Name a qube that stays");
    const mode = live?.properties["virt_mode"];
    if (audio.devices.length && mode && !mode.default && mode.value === "pvh")
      throw refuse(
        `qube "${audio.qube}" is of virt_mode pvh, which cannot have PCI devices${isOn(live, "guivm") ? '; a GUI domain is only in mode "gpu" of another' : ""}`,
        'Give the sound to a qube of its own, or leave out "devices" if that qube has some already',
      );
    return live && audio.bluetooth ? pairingNotices(audio.qube, live, refuse) : [];
  }
  const template = snapshot.qubes[audio.template ?? ""];
  if (template?.class !== "TemplateVM")
    throw refuse(
      `template "${audio.template}" ${template ? `is not a template but of class ${template.class}` : "is not installed"}`,
      `Install it (qvm-template install ${audio.template}) or set "template" to one that is there`,
    );
  if (!snapshot.labels.includes(audio.label ?? ""))
    throw refuse(
      `label "${audio.label}" does not exist there`,
      `Set "label" to one of ${snapshot.labels.join(", ")}`,
    );
  if (!live) return [];
  if (live.class !== "AppVM")
    throw refuse(
      `qube "${audio.qube}" is there already, of class ${live.class}; an audio domain is an AppVM`,
      'Choose another name with "qube", or rename or remove that qube first',
    );
  const purpose = otherPurpose(audio.qube, live, snapshot, owner);
  if (purpose)
    throw refuse(
      `qube "${audio.qube}" has another purpose: ${purpose}`,
      'Set "shared" to true, so that only what makes it an audio domain is changed; or choose another name',
    );
  if (live.state !== "Halted" && live.properties["template"]?.value !== audio.template)
    throw refuse(
      `its template cannot be changed from "${live.properties["template"]?.value}" to "${audio.template}" while the qube is ${live.state.toLowerCase()}`,
      `Shut "${audio.qube}" down first`,
    );
  return [];
}

/** A qube that belongs to somebody else: what stays in it is theirs to say. */
function pairingNotices(name: string, live: QubeSnapshot, refuse: Refuse): Notice[] {
  if (live.class === "DispVM")
    throw refuse(
      `bluetooth: "${name}" is a disposable, which forgets its pairings at each shutdown`,
      'Name a qube that stays, or leave out "shared" for one of its own',
    );
  if (isOn(live, "minimal-usbvm"))
    throw refuse(
      `bluetooth: "${name}" has the service minimal-usbvm, with which its Bluetooth service does not start`,
      `Take that away (qvm-service --unset ${name} minimal-usbvm), or name another qube`,
    );
  if (live.class === "StandaloneVM") return [];
  return [
    {
      severity: "warning",
      text: `pairings in ${name} stay only if ${PAIRINGS} is in its bind-dirs (/rw/config/qubes-bind-dirs.d in the qube)`,
    },
  ];
}

/** What a qube is there for beside sound; converging it would take that away. */
export function otherPurpose(
  name: string,
  live: QubeSnapshot,
  snapshot: Snapshot,
  owner: string,
): string | null {
  if (isOn(live, "guivm")) return "it is a GUI domain";
  if (live.properties["provides_network"]?.value === "True") return "it gives other qubes their network";
  const tree = pciTree(snapshot.facts.pci);
  const others = live.pci.flatMap((one) => {
    const mine = owns(snapshot.ledger[`device:${name}:${one.port}:${one.device}`], owner);
    return mine ? [] : reached(tree, one).filter((fn) => !isAudio(fn));
  });
  if (others.length === 0) return null;
  return `it has ${others.some(isUsb) ? "a USB controller" : "other devices"}: ${listed(others)}`;
}

const isOn = (qube: QubeSnapshot | undefined, service: string) =>
  Boolean(qube?.features[`service.${service}`]);

/** A feature of the qube or, where it has none, of its template, or of that one's. */
function featureOf(qube: QubeSnapshot, snapshot: Snapshot, name: string): string | undefined {
  const template = snapshot.qubes[qube.properties["template"]?.value ?? ""];
  return qube.features[name] ?? (template && featureOf(template, snapshot, name));
}

function clientNotices(audio: AudioDomain, snapshot: Snapshot, refuse: Refuse): Notice[] {
  const named = audio.clients === "default" ? [] : audio.clients;
  for (const client of new Set([...named, ...audio.emulated])) {
    const qube = snapshot.qubes[client];
    if (!qube)
      throw refuse(`client "${client}" does not exist there`, `Take it out of "clients", or create it`);
    if (qube.class === "AdminVM")
      throw refuse(
        `client "${client}" is dom0 itself, which has no audio domain`,
        'Take it out of "clients"',
      );
  }
  for (const client of audio.emulated) {
    const qube = snapshot.qubes[client];
    if (qube && qube.properties["virt_mode"]?.value !== "hvm")
      throw refuse(
        `client "${client}" is of virt_mode ${qube.properties["virt_mode"]?.value}: only an HVM has a stubdomain that could emulate a sound card`,
        'Take it out of "emulated"; a qube with Qubes\' agent needs no emulated card',
      );
  }
  return named.flatMap((client): Notice[] => {
    const qube = snapshot.qubes[client] as QubeSnapshot;
    const isMute =
      qube.properties["virt_mode"]?.value === "hvm" &&
      !featureOf(qube, snapshot, "qrexec") &&
      !featureOf(qube, snapshot, "gui") &&
      !featureOf(qube, snapshot, AUDIO_MODEL) &&
      !audio.emulated.includes(client);
    if (!isMute) return [];
    return [
      {
        severity: "warning",
        text: `client ${client} has no Qubes agent inside, so it has no sound; name it in "emulated" to give it an emulated card`,
      },
    ];
  });
}

/** The devices as they are assigned, and what speaks against those that it does not have yet. */
function devicesFor(audio: AudioDomain, snapshot: Snapshot, refuse: Refuse) {
  const tree = pciTree(snapshot.facts.pci);
  const selections = audio.devices.map((selector) => select(tree, selector, "audio"));
  const wrong = selections.flatMap((one) => ("refused" in one ? [one.refused] : []));
  // No sound hardware is a fact of the machine, and the sound stays where it was; anything else is a slip in the program.
  const slip = wrong.find(({ rule }) => rule !== "no-match" && rule !== "display-sound");
  if (slip) throw refuse(slip.what, slip.next);
  const functions = [
    ...new Set(selections.flatMap((one) => ("refused" in one ? [] : [...one.functions]))),
  ].sort((a, b) => (a.sbdf < b.sbdf ? -1 : 1));
  const verdict = verdictAudio(snapshot.facts, functions, audio.domain?.type === "pv");
  const given = snapshot.qubes[audio.qube]?.pci ?? [];
  const isNew = (fn: PciFunction) => !given.some((one) => reached(tree, one).includes(fn));
  const reasons = (...effects: string[]) =>
    verdict.reasons.filter((r) => effects.includes(r.effect)).map((r) => r.text);
  const rules = hostRules(
    functions.filter(isNew).map((device) => ({ device, qube: audio.qube, hide: false })),
    snapshot,
  );
  const no = functions.some(isNew) ? reasons("no") : [];
  const against = [
    ...wrong,
    ...(no.length ? [{ what: no.join("; "), next: "Mend that, or give it another device" }] : []),
    ...rules,
  ][0];
  return {
    functions,
    settings: devicesOf(verdict.devices, audio.qube, snapshot),
    against,
    more: reasons("option", "unknown", "note").map((text): Notice => ({ severity: "info", text })),
  };
}

/** Whether this resource has made the qube the audio domain of somebody. */
export const inForce = (audio: AudioDomain, { ledger }: Snapshot, owner: string): boolean =>
  (audio.domain !== null && owns(ledger[`qube:${audio.qube}`], owner)) ||
  owns(ledger["global:default_audiovm"], owner) ||
  isAwaited(ledger["global:default_audiovm"], owner) ||
  Object.entries(ledger).some(
    ([key, entry]) =>
      partsOf(key).kind === "property" &&
      partsOf(key).name === "audiovm" &&
      (owns(entry, owner) || isAwaited(entry, owner)),
  ) ||
  (audio.clients.length === 0 && owns(ledger[`feature:${audio.qube}:service.${AUDIO_SERVICE}`], owner));

export function soundKey(audio: AudioDomain, snapshot: Snapshot): RungKey {
  const template = audio.template ?? snapshot.qubes[audio.qube]?.properties["template"]?.value ?? "";
  const sounds = snapshot.facts.pci.filter(isAudio).map((fn) => `${fn.vendor}:${fn.device}`);
  const { host: _, onDelete: __, onFallback: ___, unreachable: ____, retry, behind: _____, ...asked } = audio;
  return {
    hardware: `${hardwareKey(template, snapshot)} ${sounds.sort().join(" ")}`,
    inputs: createHash("sha256").update(JSON.stringify(asked)).digest("hex").slice(0, 16),
    retry,
  };
}

/** A qube learns its services and gets its devices when it starts. */
function needsStart(audio: AudioDomain, wanted: Settings, snapshot: Snapshot, owner: string): boolean {
  const live = snapshot.qubes[audio.qube];
  if (!live || live.state === "Halted") return false;
  const ofStart = (key: string) => {
    const { kind, of, name } = partsOf(key);
    return (
      of === audio.qube &&
      (kind === "device" ||
        (kind === "feature" && ofItsStart(name)) ||
        (kind === "property" &&
          ["virt_mode", "type", "kernel", "ramdisk", "cmdline", "memory", "vcpus"].includes(name)))
    );
  };
  const { changes, restores } = planApply(audio.qube, wanted, snapshot, owner);
  if (changes.some((c) => ofStart(c.wish.key)) || restores.some((r) => ofStart(r.key))) return true;
  const started = Number(live.properties["start_time"]?.value || "NaN");
  if (audio.domain && Number.isNaN(started)) return false; // xl does not say it of every domain
  return Object.entries(snapshot.ledger).some(
    ([key, { at, first, ours }]) => ofStart(key) && !(started >= at) && first !== ours,
  );
}

/** Qubes that use it for their sound now. Service qubes have no sound that anybody listens to. */
export function soundUsers(qube: string, snapshot: Snapshot): string[] {
  return Object.entries(snapshot.qubes)
    .filter(
      ([name, live]) =>
        name !== qube &&
        live.class !== "AdminVM" &&
        live.state !== "Halted" &&
        live.properties["audiovm"]?.value === qube &&
        !live.features["servicevm"],
    )
    .map(([name]) => name)
    .sort();
}

/**
 * Running clients whose sound is not with it yet, and will be when they restart. R4.3 tells a running client at once (core-admin
 * ext/audio.py), and PipeWire inside listens; PulseAudio inside asks only when it starts, and a stubdomain without qrexec cannot be told.
 * `heard`: those whose stream a check has seen.
 */
export function waitingForSound(audio: AudioDomain, snapshot: Snapshot, heard: readonly string[]): string[] {
  return soundUsers(audio.qube, snapshot).filter((name) => {
    const client = snapshot.qubes[name] as QubeSnapshot;
    if (heard.includes(name)) return false;
    const key = client.properties["audiovm"]?.default ? "global:default_audiovm" : `property:${name}:audiovm`;
    const started = Number(client.properties["start_time"]?.value || "NaN");
    const isAfter = (changed: string) => {
      const entry = snapshot.ledger[changed];
      return entry !== undefined && !(started >= entry.at) && valueBefore(entry.first) !== audio.qube;
    };
    return isAfter(key) || isAfter(`feature:${name}:${AUDIO_MODEL}`);
  });
}

const valueBefore = (first: unknown) => (first as PropertyValue | null)?.value ?? null;

/** A client whose emulated sound card stays with the former audio domain until it restarts (core-admin ext/audio.py). */
export const isFixed = (client: QubeSnapshot, snapshot: Snapshot): boolean =>
  client.properties["virt_mode"]?.value === "hvm" &&
  Boolean(featureOf(client, snapshot, AUDIO_MODEL)) &&
  !featureOf(client, snapshot, "stubdom-qrexec");

/** Where the clients' sound goes now. */
export function soundOf(audio: AudioDomain, snapshot: Snapshot): string {
  if (audio.domain) {
    const tree = pciTree(snapshot.facts.pci);
    const given = (snapshot.qubes[audio.qube]?.pci ?? []).flatMap((one) => reached(tree, one));
    return given.length ? audio.qube : "dom0";
  }
  if (audio.clients === "default") return snapshot.globals["default_audiovm"]?.value ?? "";
  const places = new Set(
    audio.clients.map((name) => snapshot.qubes[name]?.properties["audiovm"]?.value ?? ""),
  );
  const [place = valueOf(snapshot, `feature:${audio.qube}:service.${AUDIO_SERVICE}`) ? audio.qube : ""] =
    places;
  return places.size > 1 ? [...places].sort().join(", ") : place;
}

/** Packages without which it plays nothing (qubes-host.md (b) "Audio template"). */
const PACKAGES = "qubes-core-admin-client qubes-audio-daemon";

/** With which it knows headsets. Fedora's pipewire speaks to them by itself. */
const BLUETOOTH = { fedora: "bluez blueman", debian: "bluez blueman libspa-0.2-bluetooth" };
/** With which USB devices of other qubes reach it. */
const USB_PROXY = "qubes-usb-proxy";
const RADIOS = "/sys/class/bluetooth";

/** In a qube's check: as `command`, again each second until the check's own time is over. */
const until = (command: string) => `until ${command}; do sleep 1; done`;

const STARTS = "audio domain starts";
const CARD = "a sound card is in the qube";
const usbCard = (ids: string) => `sound card ${ids} is in the qube`;
const CARDS =
  /^((a sound card|sound card [0-9a-f]{4}:[0-9a-f]{4}) is in the qube|its kernel (has taken the devices over|sees .*)|\S+ is with the domain)$/;
/** Evidence, not conditions: a radio may be plugged in later, and what stays in a shared qube is its owner's. */
const RADIO = "a Bluetooth radio is in the qube";
const STAY = "its pairings stay";

/** What failed rests on this hardware: the qube does not start with it, or all is well inside but that there is no card. */
export function isOfHardware(evidence: readonly Evidence[]): boolean {
  const failed = evidence.filter(({ ok }) => !ok).map(({ id }) => id);
  return failed.includes(STARTS) || (failed.length > 0 && failed.every((id) => CARDS.test(id)));
}

const DAEMON = "its sound daemon runs";
/** The brackets keep it from finding the shell that asks. */
const RUNS = "pgrep -f '[q]vm-start-daemon'";

/**
 * The checks of qubes-host.md (d) 5, as far as dom0 can make them. The daemon belongs to the qube's desktop, which its GUI domain brings
 * up when somebody sits there: where there is none yet nothing plays, and that is said (`streamsOf`) instead of waited for.
 */
export function audioChecks(
  audio: AudioDomain,
  snapshot: Snapshot,
  files: string[],
  given: readonly PciFunction[] | null,
  headsets: readonly string[] = [],
): Verification[] {
  const { qube, limits } = audio;
  if (audio.domain) {
    const sbdfs = (given ?? []).map(({ sbdf }) => sbdf);
    return given === null
      ? []
      : [
          startCheck(audio, STARTS),
          ...withDomain(audio, sbdfs),
          ...deviceChecks(audio, audio.domain, snapshot, sbdfs),
        ];
  }
  const guest = (id: string, command: string): Verification => ({
    kind: "guest",
    id,
    qube,
    command,
    timeout: limits.checks,
  });
  const may = (target: string, service: string) => policyCheck([qube, target, service], true, limits.checks);
  const lint = lintCheck(snapshot, files, limits.checks);
  if (given === null) return [lint];
  const clients = soundClientsNow(audio);
  const [client] =
    clients === "default"
      ? followers(snapshot, qube).filter((name) => snapshot.qubes[name]?.class !== "TemplateVM")
      : clients;
  const live = snapshot.qubes[qube];
  const template = audio.template ?? live?.properties["template"]?.value ?? "";
  const debian = snapshot.qubes[template]?.features["os-distribution"] === "debian";
  const packages = [
    PACKAGES,
    ...(audio.bluetooth ? [BLUETOOTH[debian ? "debian" : "fedora"]] : []),
    ...(audio.usb.length ? [USB_PROXY] : []),
  ].join(" ");
  return [
    lint,
    may("dom0", "admin.Events"),
    ...(client === undefined
      ? []
      : [may(client, "admin.vm.property.Get+xid"), may(client, "admin.vm.feature.CheckWithTemplate+audio")]),
    { kind: "start", id: STARTS, qube, timeout: limits.start },
    guest("it knows that it is an audio domain", `test -e /run/qubes-service/${AUDIO_SERVICE}`),
    guest(`packages of template ${template}`, `${debian ? "dpkg-query -W" : "rpm -q"} ${packages}`),
    // On a USB controller there is one when a headset is plugged in.
    ...(given.some(isAudio) ? [guest(CARD, until("grep -Eq '^ *[0-9]+ ' /proc/asound/cards"))] : []),
    // snd-usb-audio tells of each card what it is (Linux, sound/usb/proc.c).
    ...headsets.map((ids) => guest(usbCard(ids), until(`grep -qsx ${ids} /proc/asound/card*/usbid`))),
    ...(audio.bluetooth
      ? [
          guest(RADIO, `ls ${RADIOS} 2>/dev/null | grep . || echo none`),
          guest(
            "its Bluetooth service runs",
            `test -z "$(ls ${RADIOS} 2>/dev/null)" || ${until("systemctl is-active -q bluetooth")}`,
          ),
          ...(live?.class === "StandaloneVM"
            ? []
            : [guest(STAY, `mountpoint -q ${PAIRINGS}${audio.shared ? " || echo no" : ""}`)]),
        ]
      : []),
    guest(DAEMON, `${until(`! pgrep -x Xorg || ${RUNS}`)} && ${RUNS} || echo ${NO_DESKTOP}`),
    ...listening(audio, snapshot).map(([name, xid]) =>
      // Evidence, not a condition: whether a client has sound inside is its own matter.
      guest(
        `sound of ${name}`,
        `pgrep -F /run/qubes/pacat.${xid} && runuser -u user -- env XDG_RUNTIME_DIR=/run/user/1000 pactl list sink-inputs | grep -F '"${name}"' || echo none`,
      ),
    ),
  ];
}

const NO_DESKTOP = "no desktop yet";

const followers = (snapshot: Snapshot, qube: string) =>
  Object.keys(snapshot.qubes).filter(
    (name) => name !== qube && snapshot.qubes[name]?.properties["audiovm"]?.default === true,
  );

/** Clients that run, with the domain id that names their daemon: of an emulated card that of the stubdomain. */
function listening(audio: AudioDomain, snapshot: Snapshot): [string, string][] {
  const clients = soundClientsNow(audio);
  const names = clients === "default" ? followers(snapshot, audio.qube) : clients;
  return names.flatMap((name): [string, string][] => {
    const client = snapshot.qubes[name];
    if (!client || client.class === "AdminVM" || client.state !== "Running" || client.features["servicevm"])
      return [];
    if (isFixed(client, snapshot)) return [];
    const isEmulated =
      client.properties["virt_mode"]?.value === "hvm" && featureOf(client, snapshot, AUDIO_MODEL);
    const xid = client.properties[isEmulated ? "stubdom_xid" : "xid"]?.value ?? "";
    return /^[0-9]+$/.test(xid) ? [[name, xid]] : [];
  });
}

/** A client whose stream a check has seen, and in which life of the two qubes. */
export interface Stream {
  client: string;
  started: string;
  audioStarted: string;
}

export function streamsOf(audio: AudioDomain, evidence: readonly Evidence[], snapshot: Snapshot): Stream[] {
  return evidence.flatMap(({ id, ok, output }) => {
    const client = /^sound of (.+)$/.exec(id)?.[1];
    if (client === undefined || !ok || !output.includes(`"${client}"`)) return [];
    return [{ client, started: startOf(client, snapshot), audioStarted: startOf(audio.qube, snapshot) }];
  });
}

/** Those that are still so: both qubes run since, and the client's sound still goes there. */
export const streamsNow = (audio: AudioDomain, streams: readonly Stream[], snapshot: Snapshot): Stream[] =>
  streams.filter(
    ({ client, started, audioStarted }) =>
      started !== "" &&
      startOf(client, snapshot) === started &&
      startOf(audio.qube, snapshot) === audioStarted &&
      snapshot.qubes[client]?.properties["audiovm"]?.value === audio.qube,
  );

const startOf = (qube: string, snapshot: Snapshot): string => {
  const live = snapshot.qubes[qube];
  return live?.state === "Running" ? (live.properties["start_time"]?.value ?? "") : "";
};

/** What a person still has to do before a headset can be used, and is not undone at the next shutdown. */
export const pairingWaits = (evidence: readonly Evidence[]): string[] => [
  ...(said(evidence, RADIO, "none")
    ? ["no Bluetooth radio is in it: plug one in, or give it one (qvm-usb attach)"]
    : []),
  ...(said(evidence, STAY, "no")
    ? [`its pairings go with its next shutdown: ${PAIRINGS} is not in its bind-dirs`]
    : []),
];

const said = (evidence: readonly Evidence[], check: string, answer: string) =>
  evidence.some(({ id, output }) => id === check && output.trim() === answer);

/** The daemon did not run when it was looked for, since there was no desktop. */
export const isSilent = (evidence: readonly Evidence[]): boolean =>
  evidence.some(({ id, output }) => id === DAEMON && output.includes(NO_DESKTOP));

/** A created audio domain cannot go while qubes play through it, or anything else names it. */
export function preflightSilence(
  resource: string,
  host: string,
  qube: string,
  plan: Pick<Plan, "restores">,
  snapshot: Snapshot,
): void {
  const users = soundUsers(qube, snapshot);
  if (users.length)
    throw new Refusal({
      resource,
      host,
      what: `it cannot be removed while it is the audio domain of running qubes: ${users.join(", ")}`,
      next: "Shut them down, then run again. Nothing is ever stopped for you",
    });
  preflightRemoval(resource, host, qube, plan, snapshot);
}

/** What of its USB devices is not there now, and why. */
export function usbWaits(audio: AudioDomain, snapshot: Snapshot): string[] {
  try {
    return chooseUsb(audio.qube, audio.usb, snapshot, (what) => new Error(what)).waits;
  } catch {
    return []; // whoever wants it is refused with that reason
  }
}
