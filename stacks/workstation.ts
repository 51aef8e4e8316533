// A host of your own. Where it is: guidomain:hosts or guidomain:inventory. What it gets: the keys below.
import { Config } from "@pulumi/pulumi";
import { GuiDomain, type GuiDomainArgs, Host } from "guidomain";

const config = new Config();

const host = new Host(config.require("host"));
const gui = new GuiDomain(config.get("guiDomain") ?? "sys-gui", {
  ...config.getObject<Omit<GuiDomainArgs, "host">>("settings"),
  host,
});

export const mode = gui.mode;
export const state = gui.state;
export const attempts = gui.attempts;
export const pending = gui.pending;
