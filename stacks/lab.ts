// The embedded host: one GUI domain in the Xephyr compromise, for every qube without a GUI domain of its own.
import { Config } from "@pulumi/pulumi";
import { GuiDomain, Host } from "guidomain";

const config = new Config();

const host = new Host("lab");
const gui = new GuiDomain("sys-gui", {
  host,
  display: config.getObject("display") ?? ["xephyr"],
  clients: config.getObject("clients") ?? "default",
});

export const mode = gui.mode;
export const state = gui.state;
export const pending = gui.pending;
