// Plain Xen: one GUI domain and, with `audio`, one audio domain, as the configuration has them: host, gui (and qube, its name), audio. How
// the host is reached stands in guidomain:hosts or guidomain:inventory. docs/xen.md.
import { Config } from "@pulumi/pulumi";
import { AudioDomain, type AudioDomainArgs, GuiDomain, type GuiDomainArgs, Host } from "guidomain";

const config = new Config();

const host = new Host(config.get("host") ?? "xen");
const gui = new GuiDomain(config.get("qube") ?? "sys-gui", {
  ...config.requireObject<Omit<GuiDomainArgs, "host">>("gui"),
  host,
});
const sound = config.getObject<Omit<AudioDomainArgs, "host">>("audio");
const audio = sound && new AudioDomain("sys-audio", { ...sound, host });

export const mode = gui.mode;
export const state = gui.state;
export const attempts = gui.attempts;
export const pending = gui.pending;
export const endpoint = gui.endpoint;
export const sounds = audio ? audio.sound : "as it was";
