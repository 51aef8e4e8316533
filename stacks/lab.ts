// The embedded host: one GUI domain for every qube without a GUI domain of its own; in the Xephyr compromise unless the configuration
// says otherwise: --config reboot=allowed --config 'display=["gpu","xephyr"]'. With --config audio=true the sound is in a qube of its own.
import { Config } from "@pulumi/pulumi";
import { AudioDomain, GuiDomain, type GuiDomainArgs, Host } from "guidomain";

const config = new Config();

const host = new Host("lab");
/** What is not in the configuration is left out, so that the defaults count. */
const configured = Object.fromEntries(
  Object.entries({
    reboot: config.get("reboot"),
    retry: config.get("retry"),
    onFallback: config.get("onFallback"),
    gpu: config.getObject("gpu"),
    limits: config.getObject("limits"),
  }).filter(([, value]) => value !== undefined),
) as Partial<GuiDomainArgs>;
const audio = config.getBoolean("audio")
  ? new AudioDomain("sys-audio", { host, clients: "default" })
  : undefined;
const gui = new GuiDomain("sys-gui", {
  ...configured,
  host,
  display: config.getObject("display") ?? ["xephyr"],
  clients: config.getObject("clients") ?? "default",
  ...(audio && { audiovm: audio.sound }),
});

export const mode = gui.mode;
export const state = gui.state;
export const attempts = gui.attempts;
export const pending = gui.pending;
export const sound = audio ? audio.sound : "as it was";
