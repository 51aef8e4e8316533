/** What a program describes of one host, and the policy that this comes to on a host as Qubes installs it. Pure. */
import { audioSettingsOf } from "../formula/audioSettings.ts";
import { settingsOf } from "../formula/settings.ts";
import type { Access } from "../model/access.ts";
import type { AudioDomain } from "../model/audioDomain.ts";
import type { GuiDomain } from "../model/guiDomain.ts";
import type { Rung } from "../model/modes.ts";
import { qubeNameFault } from "../model/names.ts";
import type { PciAttachment } from "../model/pciAttachment.ts";
import type { Settings } from "../model/settings.ts";
import { accessSettings } from "../plan/ownRules.ts";
import { partsOf } from "../plan/values.ts";
import type { Facts } from "../policy/evaluate.ts";
import { withLines } from "../policy/levels.ts";
import { type Files, type Located, loadPolicy, POLICY } from "../policy/load.ts";
import { hostOf } from "../policy/sample.ts";
import { STOCK } from "../policy/services.ts";

export interface Described {
  /** Names of hosts, also of those with nothing on them. */
  hosts: string[];
  domains: GuiDomain[];
  audios: AudioDomain[];
  attachments: PciAttachment[];
  accesses: Access[];
}

export const ofHost = (described: Described, host: string): Described => {
  const its = <T extends { host: string }>(all: readonly T[]) => all.filter((each) => each.host === host);
  return {
    hosts: [host],
    domains: its(described.domains),
    audios: its(described.audios),
    attachments: its(described.attachments),
    accesses: its(described.accesses),
  };
};

/** Stands for every qube that follows the host's default: who these are, nobody knows here. */
export const followers = (gui: string) => `client-of-${gui}`;

/** A host's policy before and after, and who is there to ask. */
export interface World {
  before: readonly Located[];
  after: readonly Located[];
  facts: Facts;
}

const firstOf = ({ display: [first = "xephyr"] }: GuiDomain): Rung => first;

/** A host as Qubes installs it with what is described of it. `modeOf`: the mode that each GUI domain is in, or would be. */
export function worldOf(described: Described, modeOf: (gui: GuiDomain) => Rung = firstOf): World {
  const { domains, audios, accesses } = described;
  const names = domains.map(({ qube }) => qube);
  const settings: Settings[] = [
    ...domains.map((gui) =>
      settingsOf({ ...gui, apart: names.filter((name) => name !== gui.qube) }, modeOf(gui)),
    ),
    ...audios.map((audio) => audioSettingsOf(audio, {})),
    ...accesses.map(accessSettings),
  ];
  const { rules, faults } = loadPolicy(settings.reduce(withPolicy, STOCK));
  if (faults.length) throw new Error(JSON.stringify(faults));
  return { before: loadPolicy(STOCK).rules, after: rules, facts: factsOf(described) };
}

/** Policy files with what settings bring of them. */
function withPolicy(files: Files, { files: own, policyLines }: Settings): Files {
  const policies = Object.entries(own).filter(([file]) => file.startsWith(`${POLICY}/`));
  const all: Record<string, string> = { ...files, ...Object.fromEntries(policies) };
  for (const line of Object.keys(policyLines)) {
    const { of: file, name: rule } = partsOf(`line:${line}`);
    all[file] = withLines(all[file] ?? "", [rule]);
  }
  return all;
}

/** Qubes that rules name: their source, target, and where they redirect to. */
const namedBy = (rules: readonly string[]) =>
  rules.flatMap((rule) => {
    const [, , source = "", target = "", , ...options] = rule.split(/\s+/);
    const redirected = options.flatMap((option) => option.match(/^(?:default_)?target=(.+)$/)?.[1] ?? []);
    return [source, target, ...redirected].filter((name) => name !== "dom0" && qubeNameFault(name) === null);
  });

function factsOf({ domains, audios, attachments, accesses }: Described): Facts {
  const shown = domains.map(({ qube, clients }) =>
    clients === "default"
      ? { qube, clients: [followers(qube)], disposable: `dvm-of-${qube}` }
      : { qube, clients, disposable: null },
  );
  const placed = new Set(shown.flatMap(({ qube, clients }) => [qube, ...clients]));
  const others = [
    ...domains.flatMap(({ viewers, input, rules }) => [
      ...viewers,
      ...(input?.usb ?? []).map(({ qube }) => qube),
      ...namedBy(rules ?? []),
    ]),
    ...audios.flatMap(({ qube, usb, clients }) => [
      qube,
      ...usb.map((one) => one.qube),
      ...(clients === "default" ? [] : clients),
    ]),
    ...attachments.map(({ qube }) => qube),
    ...accesses.flatMap(({ guiDomain, rules }) => [guiDomain, ...namedBy(rules)]),
  ].filter((name) => !placed.has(name));
  const facts = hostOf(shown, [...new Set(others)]);
  const listed = new Set(audios.flatMap(({ clients }) => (clients === "default" ? [] : clients)));
  const isPlayed = (name: string) => name !== "dom0" && facts[name]?.class !== "TemplateVM";
  const heardBy = (name: string) =>
    audios
      .filter(({ clients }) =>
        clients === "default" ? isPlayed(name) && !listed.has(name) : clients.includes(name),
      )
      .map(({ qube }) => `audiovm-${qube}`);
  // A disposable's template is known as one by what is said of it; a guest has nothing else.
  const templates = new Set([
    ...domains.flatMap(({ apps, level, clients }) => [
      ...(apps ?? []).flatMap((app) => ("disposable" in app ? [app.disposable] : [])),
      ...(level === "guest" && clients !== "default" ? clients : []),
    ]),
    ...[...domains.flatMap(({ rules }) => rules ?? []), ...accesses.flatMap(({ rules }) => rules)].flatMap(
      (rule) => [...rule.matchAll(/@dispvm:([^\s@]+)/g)].flatMap(([, name]) => name ?? []),
    ),
  ]);
  return Object.fromEntries(
    Object.entries(facts).map(([name, qube]) => [
      name,
      {
        ...qube,
        tags: [...qube.tags, ...heardBy(name)],
        template_for_dispvms: qube.template_for_dispvms || templates.has(name),
      },
    ]),
  );
}
