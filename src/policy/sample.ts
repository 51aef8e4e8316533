/** A host on which the levels can be asked about when none is at hand: as Qubes installs it, and one more person with qubes of his own. */
import type { Facts, Qube } from "./evaluate.ts";
import { grantOf, withGrant } from "./levels.ts";
import { type Files, loadPolicy } from "./load.ts";
import { type Level, type Principal, parsePrincipal, tagOf } from "./principal.ts";
import { STOCK } from "./services.ts";

const qube = (guivm: string, more: Partial<Qube> = {}): Qube => ({
  class: "AppVM",
  tags: [tagOf(guivm)],
  template_for_dispvms: false,
  default_dispvm: null,
  running: true,
  ...more,
});

export const ASKS = "sys-gui";
export const SOMEBODY_ELSE = "sys-gui-bob";

export const SAMPLE: Facts = {
  dom0: { class: "AdminVM", tags: [], template_for_dispvms: false, default_dispvm: null, running: true },
  [ASKS]: qube("dom0", { default_dispvm: "web-dvm" }),
  work: qube(ASKS, { default_dispvm: "web-dvm" }),
  mail: qube(ASKS, { default_dispvm: "web-dvm" }),
  "web-dvm": qube(ASKS, { template_for_dispvms: true, running: false }),
  [SOMEBODY_ELSE]: qube("dom0", { default_dispvm: "bob-dvm" }),
  "bob-work": qube(SOMEBODY_ELSE, { default_dispvm: "bob-dvm" }),
  "bob-dvm": qube(SOMEBODY_ELSE, { template_for_dispvms: true, running: false }),
  "sys-net": qube("dom0", { tags: [tagOf("dom0")] }),
  "sys-usb": qube("dom0", { class: "DispVM" }),
  "fedora-43-xfce": qube("dom0", { class: "TemplateVM", running: false }),
};

export function samplePrincipal(level: Level): Principal {
  const apps = [
    { app: "firefox", disposable: "web-dvm" },
    { app: "thunderbird", qube: "mail" },
  ];
  const parsed = parsePrincipal({
    qube: ASKS,
    level,
    apart: [SOMEBODY_ELSE],
    ...(level === "kiosk" ? { apps } : {}),
  });
  if ("faults" in parsed) throw new Error(JSON.stringify(parsed.faults));
  return parsed.principal;
}

/** Qubes' policy with a level on top. */
export const sampleFiles = (level: Level): Files => withGrant(STOCK, grantOf(samplePrincipal(level)));
export const sampleRules = (level: Level) => loadPolicy(sampleFiles(level)).rules;
