/** An audio domain's description → what each value on a Qubes host has to be. Source: qubes-host.md (b), column audio; (f) "Audio domain". */
import type { AudioDomain } from "../model/audioDomain.ts";
import { type DeviceSetting, NO_SETTINGS, type Settings, standBehind } from "../model/settings.ts";
import { audioPolicy } from "../policy/levels.ts";
import { render } from "./templates.ts";
import { xenAudioSettingsOf } from "./xen/settings.ts";

export const AUDIO_SERVICE = "audiovm";

/** The sound card that stubdomains emulate (qubes-host.md (h) 4). */
const EMULATED_CARD = "ich6";

/** Where Qubes' own formula has it. */
export const stockAudioPolicy = (qube: string): string =>
  `/etc/qubes/policy.d/50-${qube.toLowerCase()}.policy`;

/** The applet with which a person pairs a headset; off in a qube unless asked for (qubes-core-agent-linux, autostart-dropins). */
const PAIRING_SERVICE = "blueman";

/** Where BlueZ keeps its pairings: in the root volume, which is its template's at each start. */
export const PAIRINGS = "/var/lib/bluetooth";

/**
 * What stays in a qube of its own. Qubes 4.3 takes that from dom0 (qubes-core-agent-linux, bind-dirs.sh; core-admin 4.3.50, ext/custom_persist.py),
 * and then nothing else stays: so what stays without is named, too. A shared qube is not ours to change like that.
 */
const STAYS = {
  "custom-persist.bluetooth": `dir:root:root:0700:${PAIRINGS}`,
  "custom-persist.home": "/home",
  "custom-persist.usrlocal": "/usr/local",
};
const STAYS_SERVICE = "custom-persist";

/** Of its keys those that count from its next start on. */
export const ofItsStart = (feature: string): boolean =>
  [AUDIO_SERVICE, PAIRING_SERVICE, STAYS_SERVICE].some((name) => feature === `service.${name}`) ||
  feature in STAYS;

/** What the desktop's devices menu asks for. */
const MICROPHONE = ["Attached", "Assigned", "Attach", "Detach"];

export function audioSettingsOf(
  audio: AudioDomain,
  devices: Record<string, DeviceSetting>,
  usb: Record<string, string> = {},
): Settings {
  if (audio.domain) return xenAudioSettingsOf(audio, audio.domain, devices);
  const { qube, clients, template, label, memory, vcpus } = audio;
  const policy = render("qubes/audio.policy", {
    qube,
    destinations: [qube, "@adminvm", `@tag:audiovm-${qube}`],
    // R4.3's qvm-start-daemon reads these of each client (qubes-host.md (f)).
    properties: ["audiovm", "xid", "stubdom_xid", "virt_mode", "is_preload"],
    features: ["audio", "audio-model"],
    microphone: audio.microphone === "allowed" && MICROPHONE,
  });
  const sound: Settings = {
    ...NO_SETTINGS,
    services: {
      [AUDIO_SERVICE]: "on",
      ...(audio.bluetooth && { [PAIRING_SERVICE]: "on" }),
      ...(audio.bluetooth && !audio.shared && { [STAYS_SERVICE]: "on" }),
    },
    devices,
    ...(Object.keys(usb).length && { usb }),
    files: { [audioPolicy(qube)]: policy },
    globals: clients === "default" ? { default_audiovm: qube } : {},
    audioClients: clients === "default" ? {} : Object.fromEntries(clients.map((client) => [client, qube])),
    audioModels: Object.fromEntries(audio.emulated.map((client) => [client, EMULATED_CARD])),
  };
  const settings = standBehind(sound, audio.behind ?? []);
  if (audio.shared) return settings;
  return {
    ...settings,
    class: "AppVM",
    template: template ?? "",
    label: label ?? "",
    properties: {
      netvm: "",
      virt_mode: Object.keys(devices).length ? "hvm" : "pvh",
      autostart: audio.autostart ? "True" : "False",
      // With PCI devices there is no balancing: what it has at its start is what it has.
      maxmem: "0",
      ...(memory !== null && { memory: String(memory) }),
      ...(vcpus !== null && { vcpus: String(vcpus) }),
    },
    features: { servicevm: "1", ...(audio.bluetooth && STAYS) },
  };
}

/** What can be there before the qube has started anew: no sound goes to it yet. */
export const withoutClients = ({ waiting: _, ...settings }: Settings): Settings => ({
  ...settings,
  globals: {},
  audioClients: {},
});
