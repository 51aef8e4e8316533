/** A host on which the levels can be asked about when none is at hand: as Qubes installs it, and one more person with qubes of his own. */
import { tagOf } from "../model/names.ts";
import { POWER_OF } from "../model/power.ts";
import type { Facts, Qube } from "./evaluate.ts";
import { grantOf, withGrant } from "./levels.ts";
import { type Files, loadPolicy } from "./load.ts";
import { type Level, type Principal, parsePrincipal } from "./principal.ts";
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

/** A GUI domain and the qubes that it shows; of `disposable` new disposables are made. */
export interface Shown {
  qube: string;
  clients: readonly string[];
  disposable: string | null;
}

/** A host with these, and with what every host has; `others` are shown by dom0. */
export function hostOf(domains: readonly Shown[], others: readonly string[] = []): Facts {
  return {
    dom0: { class: "AdminVM", tags: [], template_for_dispvms: false, default_dispvm: null, running: true },
    "sys-net": qube("dom0"),
    "sys-usb": qube("dom0", { class: "DispVM" }),
    "fedora-43-xfce": qube("dom0", { class: "TemplateVM", running: false }),
    ...Object.fromEntries(others.map((name) => [name, qube("dom0")])),
    ...Object.fromEntries(
      domains.flatMap(({ qube: gui, clients, disposable }) => [
        ...clients.map((name) => [name, qube(gui, { default_dispvm: disposable })] as const),
        ...(disposable
          ? [[disposable, qube(gui, { template_for_dispvms: true, running: false })] as const]
          : []),
        [gui, qube("dom0", { default_dispvm: disposable })] as const,
      ]),
    ),
  };
}

export const SAMPLE: Facts = hostOf([
  { qube: ASKS, clients: ["work", "mail"], disposable: "web-dvm" },
  { qube: SOMEBODY_ELSE, clients: ["bob-work"], disposable: "bob-dvm" },
]);

export function samplePrincipal(level: Level): Principal {
  const apps = [
    { app: "firefox", disposable: "web-dvm" },
    { app: "thunderbird", qube: "mail" },
  ];
  const parsed = parsePrincipal({
    qube: ASKS,
    level,
    apart: [SOMEBODY_ELSE],
    power: [...POWER_OF[level]],
    ...(level === "kiosk" ? { apps } : {}),
  });
  if ("faults" in parsed) throw new Error(JSON.stringify(parsed.faults));
  return parsed.principal;
}

/** Qubes' policy with a level on top. */
export const sampleFiles = (level: Level): Files => withGrant(STOCK, grantOf(samplePrincipal(level)));
export const sampleRules = (level: Level) => loadPolicy(sampleFiles(level)).rules;
