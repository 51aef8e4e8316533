/** Descriptions for tests of reports. */
import { parseAccess } from "../model/access.ts";
import { parseAudioDomain } from "../model/audioDomain.ts";
import { parseGuiDomain } from "../model/guiDomain.ts";
import { parsePciAttachment } from "../model/pciAttachment.ts";
import type { Described } from "./described.ts";
import type { StateResource } from "./scene.ts";

function must<T extends object>(parsed: T): Exclude<T, { faults: unknown }> {
  if ("faults" in parsed) throw new Error(JSON.stringify(parsed.faults));
  return parsed as Exclude<T, { faults: unknown }>;
}

export const guiDomain = (name: string, args: object) =>
  must(parseGuiDomain(name, { host: "t14", ...args })).gui;

/** Four people at one machine, its sound in a qube of its own, a device for the USB qube, and a machine with nothing on it. */
export const OFFICE: Described = {
  hosts: ["empty", "t14"],
  domains: [
    guiDomain("sys-gui", {
      display: ["gpu", "xephyr"],
      clients: "default",
      level: "operator",
      input: { usb: [{ mouse: "allow", keyboard: "ask" }] },
    }),
    guiDomain("gui-bob", { clients: ["bobs"], level: "user" }),
    guiDomain("gui-lobby", {
      clients: ["lobby", "lobby-dvm"],
      level: "kiosk",
      apps: [{ app: "firefox", disposable: "lobby-dvm" }],
    }),
    guiDomain("gui-vnc", { display: ["vnc"], clients: ["mail"], viewers: ["sys-vpn"] }),
  ],
  audios: [
    must(parseAudioDomain("sys-audio", { host: "t14", clients: "default", microphone: "allowed" })).audio,
  ],
  attachments: [
    must(parsePciAttachment({ host: "t14", qube: "sys-usb", device: { vendor: "8086", device: "15ec" } }))
      .attachment,
  ],
  accesses: [
    must(
      parseAccess("backup", {
        host: "t14",
        guiDomain: "gui-bob",
        rules: ["qubes.Backup * gui-bob vault allow"],
      }),
    ).access,
  ],
};

const its = (type: string, outputs: object): StateResource => ({
  type: `guidomain:index:${type}`,
  outputs: { host: "t14", ...outputs },
});

/** What a run has left of the office: the display could not be given away. */
export const OFFICE_STATE: StateResource[] = [
  its("GuiDomain", {
    qube: "sys-gui",
    mode: "xephyr",
    state: "ready",
    attempts: [{ mode: "gpu", verdict: "refused", reason: "0000:00:02.0 has no reset method" }],
    settings: { devices: {} },
  }),
  its("AudioDomain", {
    qube: "sys-audio",
    sound: "sys-audio",
    state: "drifted",
    attached: [{ port: "00_1f.3", name: "Comet Lake PCH-LP cAVS" }],
  }),
  { type: "guidomain:index:Host", outputs: { name: "t14", release: "R4.3", xen: "4.19.4" } },
];
