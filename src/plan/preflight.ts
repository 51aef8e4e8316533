/** What must hold on the host before a GUI domain may be brought up there. Pure. qubes-host.md (h); design §4, §6. */
import { qubeInside } from "../formula/inside/qube.ts";
import type { PciFunction, QubeSnapshot, Snapshot } from "../host/protocol.ts";
import { Refusal } from "../model/failure.ts";
import { NOT_THIS_BOOT } from "../model/gpu.ts";
import { type GuiDomain, inMode, modesOf } from "../model/guiDomain.ts";
import type { QubeValue } from "../model/keys.ts";
import { isRemote, type Mode, RDP_SERVICE, type RemoteMode, type Rung } from "../model/modes.ts";
import { type Platform, platformOf } from "../model/platform.ts";
import { lacking, PARTS, type PowerPart, wakelessOf } from "../model/power.ts";
import { PROHIBIT_START } from "../model/settings.ts";
import { reached } from "../pci/identity.ts";
import { isDisplay, pciTree } from "../pci/tree.ts";
import type { Plan } from "./changes.ts";
import { isGpuBoot } from "./gpu.ts";
import { clientsOf, valueOf } from "./values.ts";
import { preflightXen, xenModeOf, xenStartsAnew } from "./xen/preflight.ts";

/** Releases with what they can do; 4.1 and 4.2 are at their end of life (qubes-host.md, head). */
const SUPPORTED_RELEASES = ["R4.3"];

export interface Notice {
  severity: "info" | "warning";
  text: string;
}

const list = (names: string[]) => (names.length ? names.map((n) => `"${n}"`).join(", ") : "none");

/** Throws a Refusal unless this is a Qubes host of a supported release. */
export function requireQubes(resource: string, host: string, snapshot: Snapshot): string {
  const text = snapshot.facts.qubesRelease;
  const refuse = (what: string, next: string) => new Refusal({ resource, host, what, next });
  if (platformOf(snapshot.facts) === "xen")
    throw refuse(
      "this is plain Xen, which has no qubes, no templates and no qrexec policy",
      "Leave it out there; docs/xen.md tells what can be described",
    );
  if (text === null)
    throw refuse(
      "this is not a Qubes host: it has no /etc/qubes-release, nor is it the dom0 of plain Xen",
      "Check that the address leads to dom0 itself, not to a qube or to another machine",
    );
  const release = /\((R\d+\.\d+)[^)]*\)/.exec(text)?.[1];
  if (!release || !SUPPORTED_RELEASES.includes(release))
    throw refuse(
      `its release ${release ?? JSON.stringify(text)} is not supported; supported is ${SUPPORTED_RELEASES.join(", ")}`,
      "Upgrade the host (4.1 and 4.2 get no more security updates from Qubes), or leave it out",
    );
  return release;
}

/** Throws a Refusal unless what is described is for a host of this kind. `domain`: what a description of plain Xen has, and no other. */
export function requirePlatform(resource: string, host: string, domain: unknown, snapshot: Snapshot): void {
  const platform = platformOf(snapshot.facts);
  if (platform === "xen" && domain === null)
    throw new Refusal({
      resource,
      host,
      what: "this is plain Xen, where domains are not qubes",
      next: 'Say what the domain is made of (domain: { type: "pv" }), as docs/xen.md tells',
    });
  if (platform === "qubes" && domain !== null)
    throw new Refusal({
      resource,
      host,
      what: 'this is a Qubes host, and "domain" is for plain Xen',
      next: 'Leave "domain" out; its qube is made from a template',
    });
  requireHost(resource, host, snapshot);
}

/** Throws a Refusal unless guidomain works with hosts of this kind. */
export function requireHost(resource: string, host: string, snapshot: Snapshot): Platform {
  if (platformOf(snapshot.facts) === "xen") return "xen";
  requireQubes(resource, host, snapshot);
  return "qubes";
}

/** Salt inside a qube is run from a disposable (qubes-mgmt-salt): why there is none for it; null: there is. */
export function managementFault(qube: string, snapshot: Snapshot): { what: string; next: string } | null {
  const from = snapshot.qubes[qube]?.properties["management_dispvm"] ?? snapshot.globals["management_dispvm"];
  if (from?.value !== "") return null;
  return {
    what: `there is no disposable to manage "${qube}" from (property management_dispvm)`,
    next: "Make one (qubesctl state.sls qvm.default-mgmt-dvm), or set it: qubes-prefs management_dispvm default-mgmt-dvm",
  };
}

/** Refuses what cannot work in whatever mode; returns what the user should know beforehand. */
export function preflight(
  gui: GuiDomain,
  snapshot: Snapshot,
  /** Whether another resource of this program makes that qube. */
  coming: (qube: string) => boolean = () => false,
): Notice[] {
  const resource = `GUI domain ${gui.qube}`;
  const refuse = (what: string, next: string) => new Refusal({ resource, host: gui.host, what, next });
  requirePlatform(resource, gui.host, gui.domain, snapshot);
  if (gui.domain) {
    preflightXen(gui, gui.domain, snapshot);
    return [];
  }
  const notices: Notice[] = [];

  const template = snapshot.qubes[gui.template];
  if (template?.class !== "TemplateVM") {
    const templates = Object.keys(snapshot.qubes).filter((q) => snapshot.qubes[q]?.class === "TemplateVM");
    throw refuse(
      `template "${gui.template}" ${template ? `is not a template but of class ${template.class}` : "is not installed"}; installed are ${list(templates)}`,
      `Install it (qvm-template install ${gui.template}) or set "template" to one that is there`,
    );
  }
  if (template.state === "Halted")
    notices.push({
      severity: "info",
      text: `packages in template ${gui.template} are unknown until it is applied: the template is halted, and a preview starts nothing`,
    });

  if (!snapshot.labels.includes(gui.label))
    throw refuse(
      `label "${gui.label}" does not exist there; labels are ${list(snapshot.labels)}`,
      `Set "label" to one of them`,
    );

  const existing = snapshot.qubes[gui.qube];
  if (gui.display.some((rung) => qubeInside(gui, rung) !== null)) {
    const unmanaged = managementFault(gui.qube, snapshot);
    if (unmanaged) throw refuse(unmanaged.what, unmanaged.next);
    // core-agent-linux 4.3.46, init/misc-post.sh: what puts the inside in place at each start would not be run.
    if (existing && on(featureOf(existing, snapshot, "service.custom-persist")))
      throw refuse(
        `qube "${gui.qube}" has the service custom-persist, with which Qubes runs nothing of /rw/config at its start: its passwords and its remote screen would be there once, and not after a restart`,
        `Take the service away (qvm-service --unset ${gui.qube} custom-persist), or choose another name with "qube"`,
      );
  }

  if (existing && existing.class !== "AppVM")
    throw refuse(
      `qube "${gui.qube}" is there already, of class ${existing.class}; a GUI domain is an AppVM`,
      `Choose another name with "qube", or rename or remove that qube first`,
    );
  if (existing && existing.state !== "Halted" && existing.properties["template"]?.value !== gui.template)
    throw refuse(
      `its template cannot be changed from "${existing.properties["template"]?.value}" to "${gui.template}" while the qube is ${existing.state.toLowerCase()}`,
      `Shut "${gui.qube}" down first (its clients too)`,
    );
  if (gui.audiovm && gui.audiovm !== "dom0" && !snapshot.qubes[gui.audiovm] && !coming(gui.audiovm))
    throw refuse(
      `audio domain "${gui.audiovm}" does not exist there`,
      `Set "audiovm" to a qube that is there, "dom0" or ""`,
    );
  for (const viewer of gui.viewers)
    if (!snapshot.qubes[viewer])
      throw refuse(`viewer "${viewer}" does not exist there`, `Take it out of "viewers", or create it`);

  const netvm = existing?.properties["netvm"]?.value;
  if (netvm && isRemote(inForce(gui.qube, snapshot)))
    notices.push({
      severity: "warning",
      text: `${gui.qube} has a network (netvm ${netvm}), so its remote screen may be open to others; "pulumi up" takes the network away. Until then: qvm-prefs ${gui.qube} netvm ''`,
    });

  notices.push(...powerNotices(gui, snapshot));
  const clients = gui.clients === "default" ? followersOf(gui.qube, snapshot) : gui.clients;
  for (const client of clients) clientAllowed(gui, client, snapshot, refuse);
  return notices;
}

/** What of battery, brightness and sleep this machine cannot give. */
function powerNotices(gui: GuiDomain, { facts }: Snapshot): Notice[] {
  const notices: Notice[] = [];
  const tell = (severity: Notice["severity"], text: string) => notices.push({ severity, text });
  const lacks = lacking(facts);
  const asks = (part: PowerPart) =>
    lacks.includes(part) &&
    modesOf(gui).some((mode) => inMode({ ...gui, lacks: [] }, mode).hostPackages.includes(PARTS[part]));
  if (asks("battery")) tell("info", "the machine has no battery, so none is set up to be shown");
  if (asks("backlight"))
    tell(
      "info",
      facts.backlights?.length
        ? `the machine has ${facts.backlights.length} backlights (${facts.backlights.join(", ")}); Qubes' service sets one alone, so its brightness is not set up`
        : "the machine has no backlight, so its brightness is not set up",
    );
  const report = wakelessOf(facts.firmware);
  if (report && gui.suspend === "allowed" && gui.power?.includes("suspend"))
    tell(
      "warning",
      `this machine is known not to wake from sleep (${report}); take "suspend" out of "power", or set suspend: "blocked"`,
    );
  return notices;
}

/** What keeps a qube with foreign devices from a mode without: why, and what helps; null: nothing does. */
export function modeFault(
  gui: GuiDomain,
  mode: Mode,
  snapshot: Snapshot,
  owner: string,
): { what: string; next: string } | null {
  // A domain of xl may have devices in any mode.
  if (mode === "gpu" || gui.domain) return null;
  const foreign = (snapshot.qubes[gui.qube]?.pci ?? []).filter(
    ({ port, device }) => snapshot.ledger[`device:${gui.qube}:${port}:${device}`]?.owner !== owner,
  );
  if (foreign.length === 0) return null;
  return {
    what: `qube "${gui.qube}" has PCI devices assigned (${foreign.map(({ port, device }) => (port === "*" ? device : port)).join(", ")}), so it cannot be of virt_mode pvh as mode "${mode}" needs`,
    next: `Unassign them (qvm-pci unassign ${gui.qube}) if they are not wanted there`,
  };
}

/** Qubes that follow default_guivm, whatever it is now. */
export function followersOf(qube: string, snapshot: Snapshot): string[] {
  return Object.keys(snapshot.qubes).filter(
    (name) => name !== qube && snapshot.qubes[name]?.properties["guivm"]?.default === true,
  );
}

function clientAllowed(
  gui: GuiDomain,
  client: string,
  snapshot: Snapshot,
  refuse: (what: string, next: string) => Refusal,
) {
  const qube = snapshot.qubes[client];
  const byDefault = gui.clients === "default";
  if (!qube)
    throw refuse(`client "${client}" does not exist there`, `Take it out of "clients", or create it`);
  if (qube.class === "AdminVM")
    throw refuse(`client "${client}" is dom0 itself, which has no GUI domain`, `Take it out of "clients"`);
  const next = byDefault
    ? `Give it dom0 as its own GUI domain first: qvm-prefs ${client} guivm dom0`
    : `Take it out of "clients"; its windows then stay with dom0`;
  if (featureOf(qube, snapshot, "os") === "Windows")
    throw refuse(
      `client "${client}" runs Windows, whose GUI agent does not work with a GUI domain. Supported are Linux qubes with the Qubes GUI agent; Windows only with dom0 as GUI domain`,
      next,
    );
  const hvm = qube.properties["virt_mode"]?.value === "hvm";
  if (hvm && !on(featureOf(qube, snapshot, "gui")))
    throw refuse(
      `client "${client}" is an HVM without a GUI agent (feature "gui" is not set): only its emulated screen could be shown, which this release does not set up. Supported are qubes with the Qubes GUI agent`,
      next,
    );
}

/** A feature of the qube or, where it has none, of its template, or of that one's (admin.vm.feature.CheckWithTemplate). */
function featureOf(qube: QubeSnapshot, snapshot: Snapshot, name: string): string | undefined {
  const template = snapshot.qubes[qube.properties["template"]?.value ?? ""];
  return qube.features[name] ?? (template && featureOf(template, snapshot, name));
}

const on = (feature: string | undefined) => feature !== undefined && feature !== "";

/** What names a qube: core-admin 4.3.50, qubes/utils.py vm_dependencies, which looks at what is set and not at what follows a default. */
const NAMES_A_QUBE = new Set([
  "template",
  "netvm",
  "guivm",
  "audiovm",
  "default_dispvm",
  "management_dispvm",
]);
const GLOBAL_NAMES_A_QUBE =
  /^(default_(template|netvm|guivm|audiovm|dispvm)|management_dispvm|updatevm|clockvm)$/;

/** A created qube cannot go while anything names it but what `plan` puts back: Qubes refuses that, and does not say what it is. */
export function preflightRemoval(
  resource: string,
  host: string,
  qube: string,
  plan: Pick<Plan, "restores">,
  snapshot: Snapshot,
): void {
  const back = new Set(plan.restores.map(({ key }) => key));
  const ofQubes = Object.entries(snapshot.qubes).flatMap(([name, { properties }]) =>
    Object.entries(properties)
      .filter(([property]) => name !== qube && NAMES_A_QUBE.has(property))
      .map(([property, value]) => ({
        key: `property:${name}:${property}`,
        what: `${property} of ${name}`,
        value,
      })),
  );
  const ofHost = Object.entries(snapshot.globals)
    .filter(([name]) => GLOBAL_NAMES_A_QUBE.test(name))
    .map(([name, value]) => ({ key: `global:${name}`, what: `the host's ${name}`, value }));
  const left = [...ofQubes, ...ofHost]
    .filter(({ key, value }) => value.value === qube && !value.default && !back.has(key))
    .map(({ what }) => what);
  if (left.length)
    throw new Refusal({
      resource,
      host,
      what: `qube "${qube}" cannot be removed while something else names it: ${left.sort().join(", ")}`,
      next: "Set these to something else (qvm-prefs, qubes-prefs), then run again",
    });
}

/** A qube that gets its former template back must be off: Qubes changes none under a running one (qubes-cli-formats.md §3). */
export function preflightRestore(
  resource: string,
  host: string,
  qube: string,
  plan: Pick<Plan, "restores">,
  snapshot: Snapshot,
): void {
  const live = snapshot.qubes[qube];
  const to = plan.restores.find(({ key }) => key === `qube:${qube}`)?.to as QubeValue | null | undefined;
  const template = live?.properties["template"]?.value;
  if (!live || live.state === "Halted" || !to || !to.template || to.template === template) return;
  throw new Refusal({
    resource,
    host,
    what: `its template cannot go back from "${template}" to "${to.template}" while the qube is ${live.state.toLowerCase()}`,
    next: `Shut "${qube}" down, then run again. Nothing is ever stopped for you`,
  });
}

/**
 * A created GUI domain cannot go while it shows windows. A client that runs since before the change never got this GUI domain: its
 * windows are still with the former one, and it is no obstacle.
 */
export function preflightDelete(resource: string, host: string, qube: string, snapshot: Snapshot): void {
  const running = shownBy(qube, snapshot);
  if (running.length)
    throw new Refusal({
      resource,
      host,
      what: `it cannot be removed while it shows the windows of running qubes: ${list(running)}`,
      next: "Shut them down, then run again. Nothing is ever stopped for you",
    });
}

/** The running qubes whose windows `qube` shows now. */
function shownBy(qube: string, snapshot: Snapshot): string[] {
  if (snapshot.qubes[qube]?.state === "Halted" || !snapshot.qubes[qube]) return [];
  const elsewhere = new Set(waitingForRestart(qube, snapshot));
  return clientsOf(snapshot, qube).filter(
    (name) => snapshot.qubes[name]?.state !== "Halted" && !elsewhere.has(name),
  );
}

/**
 * Whether an apply of `plan` starts the GUI domain anew: its services, which make its mode, are read when it starts. Done where that
 * takes nobody's windows away; where it would, a change of mode is refused, and other services wait for a start by its user.
 */
export function startsAnew(
  gui: GuiDomain,
  plan: Plan,
  snapshot: Snapshot,
  to: Rung | undefined = gui.display[0],
): boolean {
  if (gui.domain) return !isGpuBoot(gui.qube, snapshot) && xenStartsAnew(gui, plan, snapshot, to);
  const live = snapshot.qubes[gui.qube];
  // Where it drives the screen itself a new start would take the picture away; a change of that mode is a new boot.
  if (!live || live.state === "Halted" || isGpuBoot(gui.qube, snapshot)) return false;
  const services = `feature:${gui.qube}:service.`;
  if (
    ![...plan.changes.map((c) => c.wish.key), ...plan.restores.map((r) => r.key)].some((key) =>
      key.startsWith(services),
    )
  )
    return false;
  const shown = shownBy(gui.qube, snapshot);
  if (shown.length === 0 && !live.session) return true;
  const from = modeOf(gui.qube, snapshot);
  if (from === to) return false;
  throw new Refusal({
    resource: `GUI domain ${gui.qube}`,
    host: gui.host,
    what: `its mode cannot change from "${from}" to "${to}" while ${
      shown.length ? `it shows the windows of running qubes: ${list(shown)}` : "somebody is in its session"
    }`,
    next: `${shown.length ? "Shut them down" : "Log out of it"}, then run again. Nothing is ever stopped for you`,
  });
}

/**
 * Running clients whose GUI domain was changed after they had started: the change takes effect when they restart
 * (design §4 "Running clients"). Times are dom0's.
 */
export function waitingForRestart(qube: string, snapshot: Snapshot): string[] {
  return clientsOf(snapshot, qube).filter((name) => {
    const client = snapshot.qubes[name];
    if (!client || client.class === "AdminVM" || client.state === "Halted") return false;
    const key = client.properties["guivm"]?.default ? "global:default_guivm" : `property:${name}:guivm`;
    const entry = snapshot.ledger[key];
    const started = Number(client.properties["start_time"]?.value || "NaN");
    // A client that started before we changed it still has its old GUI domain; one that says no time is taken to have.
    return entry !== undefined && !(started >= entry.at) && changedByUs(entry.first, qube);
  });
}

const changedByUs = (first: unknown, qube: string) =>
  !(typeof first === "object" && first !== null && "value" in first && first.value === qube);

/** The mode that a qube on the host is set up for, by its devices and services (qubes-host.md (b)). */
export function modeOf(qube: string, snapshot: Snapshot): Mode {
  if (displaysOf(qube, snapshot).length) return "gpu";
  if (platformOf(snapshot.facts) === "xen") return xenModeOf(qube, snapshot) ?? "vnc";
  return remoteOf(qube, snapshot) ?? "xephyr";
}

/** What drives the screen now, as far as this qube is concerned. */
export function inForce(qube: string, snapshot: Snapshot): Rung {
  const live = snapshot.qubes[qube];
  if (!live) return "dom0";
  const displays = displaysOf(qube, snapshot);
  // By the boot; or, set up by somebody else, because it runs and dom0 has let go of the display.
  if (isGpuBoot(qube, snapshot)) return "gpu";
  if (displays.length)
    return live.state === "Running" && displays.every((fn) => fn.driver === "pciback") ? "gpu" : "dom0";
  if (platformOf(snapshot.facts) === "xen") return xenModeOf(qube, snapshot) ?? "dom0";
  const isStaged = live.features[PROHIBIT_START] === NOT_THIS_BOOT;
  if (isStaged || !isOn(qube, "guivm", snapshot)) return "dom0";
  // After a rescue a qube may be left that was made for mode "gpu": it shows nothing.
  return remoteOf(qube, snapshot) ?? (isOn(qube, "guivm-gui-agent", snapshot) ? "xephyr" : "dom0");
}

function remoteOf(qube: string, snapshot: Snapshot): RemoteMode | null {
  if (!isOn(qube, "guivm-vnc", snapshot)) return null;
  return isOn(qube, RDP_SERVICE, snapshot) ? "rdp" : "vnc";
}

function displaysOf(qube: string, snapshot: Snapshot): PciFunction[] {
  const tree = pciTree(snapshot.facts.pci);
  return (snapshot.qubes[qube]?.pci ?? []).flatMap((one) => reached(tree, one)).filter(isDisplay);
}

const isOn = (qube: string, service: string, snapshot: Snapshot) =>
  on((valueOf(snapshot, `feature:${qube}:service.${service}`) as string | null) ?? undefined);
