/**
 * A GUI domain as the engine keeps it: inputs and outputs from a description and a look at the host, and back. Pure.
 */
import { settingsOf } from "../formula/settings.ts";
import type { Snapshot } from "../host/protocol.ts";
import { Refusal } from "../model/failure.ts";
import {
  allPackages,
  argumentFaults,
  type GuiDomain,
  inMode,
  ONLY_QUBES,
  parseGuiDomain,
} from "../model/guiDomain.ts";
import { isRemote, PORTS, type RemoteMode, type Rung } from "../model/modes.ts";
import { policyFile } from "../model/names.ts";
import { platformOf } from "../model/platform.ts";
import type { Settings } from "../model/settings.ts";
import { vncPort } from "../model/xenDomain.ts";
import { reached } from "../pci/identity.ts";
import type { Selector } from "../pci/selector.ts";
import { isDisplay, pciTree } from "../pci/tree.ts";
import { GPU_MEMORY } from "../pci/verdict.ts";
import { rightsOf } from "../plan/access.ts";
import { judgeGpu } from "../plan/gpu.ts";
import type { Remembered } from "../plan/ladder.ts";
import { inForce, modeOf, waitingForRestart } from "../plan/preflight.ts";
import { decide, rungKey } from "../plan/rungs.ts";
import { clientsOf, valueOf } from "../plan/values.ts";
import { displaysOf } from "../plan/xen/preflight.ts";
import { rulesOf } from "../policy/rules.ts";
import { pendingClaims } from "./claims.ts";
import { topLevel } from "./diff.ts";
import { knownOf, type Properties, type Value } from "./handler.ts";

type Outcome = NonNullable<Snapshot["outcome"]>;

export const asProperties = (value: object): Properties => JSON.parse(JSON.stringify(value)) as Properties;
export const asValue = (value: unknown): Value => JSON.parse(JSON.stringify(value)) as Value;

/** The last thing that the host did by itself which a run has taken into account; names with two underscores are not displayed. */
export const SETTLED = "__outcome";

export const idOf = (gui: GuiDomain) => `${gui.host}/${gui.qube}`;

/** The mode that the state, or else the host, says is in force. */
export const modeIn = (gui: GuiDomain, { mode }: Properties, snapshot: Snapshot): Rung =>
  typeof mode === "string" && mode !== "none"
    ? (mode as Rung)
    : snapshot.qubes[gui.qube]
      ? modeOf(gui.qube, snapshot)
      : "dom0";

/** What is not an argument but found out on the way. */
const FOUND_OUT = ["apart", "barred", "behind", "wakes", "lacks"];

/** The description as arguments: what is left to the mode stays away, and so does what a state of before that argument has not. */
export const described = ({ suspend, ...gui }: GuiDomain): Properties =>
  asProperties({
    ...Object.fromEntries(
      Object.entries(gui).filter(
        ([name, value]) => value !== null && !FOUND_OUT.includes(name) && !(gui.domain && name in ONLY_QUBES),
      ),
    ),
    ...(suspend === "blocked" && { suspend }),
  });

/** Checked inputs back as a description. */
export function guiOf(inputs: Properties): GuiDomain {
  const { settings: _, remembered: __, ...args } = inputs;
  const parsed = parseGuiDomain(String(args["qube"] ?? ""), args);
  if ("faults" in parsed)
    throw new Error(
      `the state does not describe a GUI domain: ${parsed.faults.map((f) => `${f.property}: ${f.reason}`).join("; ")}`,
    );
  return parsed.gui;
}

export const packagesOf = (inputs: Properties): string[] => allPackages(guiOf(inputs));

/** With unknowns in it only the known arguments can be judged, each for itself. */
export function knownFailures(args: Properties) {
  const known = knownOf(args);
  return argumentFaults(known).filter((f) => known[topLevel(f.property)] !== undefined);
}

/** The description of a qube that was made by hand: what the host shows of it, defaults for the rest. */
export function adopted(host: string, qube: string, snapshot: Snapshot): GuiDomain {
  const live = snapshot.qubes[qube];
  const of = (name: string) => live?.properties[name];
  if (platformOf(snapshot.facts) === "xen") return adoptedDomain(host, qube, snapshot);
  const explicit = (name: string) => (of(name) && !of(name)?.default ? Number(of(name)?.value) : undefined);
  const mode = modeOf(qube, snapshot);
  const byDefault = snapshot.globals["default_guivm"]?.value === qube;
  const listed = clientsOf(snapshot, qube).filter((c) => !snapshot.qubes[c]?.properties["guivm"]?.default);
  const memory = explicit("memory");
  const parsed = parseGuiDomain(qube, {
    host,
    display: [mode],
    ...(mode === "gpu" && { gpu: displayOf(qube, snapshot) }),
    clients: byDefault ? "default" : listed,
    template: of("template")?.value,
    label: of("label")?.value,
    autostart: of("autostart")?.value === "True",
    ...(mode !== "gpu" && { maxmem: Number(of("maxmem")?.value ?? 0) }),
    // The stock formula gives a GPU domain too little (qubes-host.md (b)); the first preview shows what it gets instead.
    ...(memory === undefined || (mode === "gpu" && memory < GPU_MEMORY) ? {} : { memory }),
    ...(explicit("vcpus") === undefined ? {} : { vcpus: explicit("vcpus") }),
    audiovm: of("audiovm")?.value ?? "",
    viewers: isRemote(mode) ? viewersOf(qube, mode, snapshot) : [],
  });
  if ("faults" in parsed)
    throw new Refusal({
      resource: `GUI domain ${qube}`,
      host,
      what: `it cannot be imported: ${parsed.faults.map((f) => `${f.property} ${f.reason}`).join("; ")}`,
      next: "Change the qube by hand first, or describe it in the program and let pulumi up converge it",
    });
  const hostPackages = allPackages(parsed.gui).filter(
    (name) => valueOf(snapshot, `package:${name}`) !== null,
  );
  return { ...parsed.gui, hostPackages };
}

/** The same of a domain of plain Xen; what it boots and what its disks are stays as it is. */
function adoptedDomain(host: string, qube: string, snapshot: Snapshot): GuiDomain {
  const { properties = {} } = snapshot.qubes[qube] ?? {};
  const of = (name: string) => properties[name]?.value || undefined;
  const mode = modeOf(qube, snapshot);
  const [display] = displaysOf(qube, snapshot);
  const number = (name: string) => (/^\d+$/.test(of(name) ?? "") ? { [name]: Number(of(name)) } : {});
  const parsed = parseGuiDomain(qube, {
    host,
    display: [mode],
    ...(mode === "gpu" && { gpu: displayOf(qube, snapshot) }),
    // xl.cfg(5): without a type it is a PV domain.
    domain: { type: of("type") ?? "pv", ...(display !== undefined && { display: Number(display) }) },
    autostart: of("autostart") === "True",
    hostPackages: [],
    ...number("memory"),
    ...number("vcpus"),
  });
  if (!("faults" in parsed)) return parsed.gui;
  throw new Refusal({
    resource: `GUI domain ${qube}`,
    host,
    what: `it cannot be imported: ${parsed.faults.map((f) => `${f.property} ${f.reason}`).join("; ")}`,
    next: "Change the domain by hand first, or describe it in the program and let pulumi up converge it",
  });
}

/** The display that a qube was given by hand, by what it is. */
export function displayOf(qube: string, snapshot: Snapshot): Selector | undefined {
  const tree = pciTree(snapshot.facts.pci);
  const devices = snapshot.qubes[qube]?.pci.flatMap((one) => reached(tree, one)) ?? [];
  const display = devices.find(isDisplay);
  return display && { class: "display", vendor: display.vendor, device: display.device };
}

/** Qubes that the policy lets reach the remote screen. */
export function viewersOf(qube: string, mode: RemoteMode, snapshot: Snapshot): string[] {
  const rules = rulesOf(snapshot.files[policyFile(50, "gui", qube)]?.content ?? "");
  return rules.flatMap((rule) => {
    const [service, port, viewer = "", destination, action, ...options] = rule.split(" ");
    const is = [service, port, destination, action, ...options].join(" ");
    return is === `qubes.ConnectTCP +${PORTS[mode]} @default allow target=${qube}` ? [viewer] : [];
  });
}

/** What was claimed of it before still holds, no more: an import is not a check, and a failure stays one until an apply. */
export function stateOf({ state, evidence, mode }: Properties, asWanted: boolean): string {
  if (state === "failed") return "failed";
  if (!asWanted) return "drifted";
  if (mode === "dom0") return state === "staged" ? "staged" : "ready";
  return verified({ evidence: evidence ?? [] }) ? "ready" : "unverified";
}

/** Whether the last apply has checked the result; without evidence nothing is called ready. */
export const verified = ({ evidence }: Properties): boolean => Array.isArray(evidence) && evidence.length > 0;

/** Outputs that the live host tells. `state` is what is known of it while nobody is in its session. */
export function outputsOf(
  gui: GuiDomain,
  snapshot: Snapshot,
  urn: string,
  state: string,
  mode: Rung,
  waitsFor: Rung | null = null,
): Properties {
  const qube = snapshot.qubes[gui.qube];
  const restart = waitingForRestart(gui.qube, snapshot);
  const rights = rightsOf(gui, snapshot);
  // Somebody else's rule makes the level wider than it says: nothing that we could put right.
  const is = state === "ready" && rights?.wider.length ? "drifted" : state;
  const created = snapshot.ledger[`qube:${gui.qube}`];
  return {
    mode: state === "failed" ? "none" : mode,
    state: is === "ready" && mode === "xephyr" && qube?.session && qube.guidRunning ? "inUse" : is,
    pending: [
      ...(waitsFor ? [{ kind: "reboot", why: rebootWhy(waitsFor) }] : []),
      ...(restart.length
        ? [
            {
              kind: "restart",
              qubes: restart,
              why: `their windows stay with the former GUI domain until they restart`,
            },
          ]
        : []),
      ...pendingClaims(snapshot, urn),
    ],
    ...(state !== "failed" && isRemote(mode) && { endpoint: endpointOf(gui, mode) }),
    ...(rights && { rights: asValue(rights) }),
    // What the mode has decided for what the program leaves to it.
    ...(mode !== "dom0" && asProperties(inMode(gui, mode))),
    origin: created?.owner === urn && created.first === null ? "created" : "adopted",
    looked: true,
  };
}

/**
 * Where a remote screen is found: on the loopback interface of the qube, of dom0 on plain Xen, which `npm run view` or a viewer leads to.
 */
const endpointOf = ({ qube, viewers, domain }: GuiDomain, mode: RemoteMode): Properties => ({
  protocol: mode,
  qube,
  address: "127.0.0.1",
  port: domain ? vncPort(domain) : PORTS[mode],
  viewers,
});

/** Outputs of a GUI domain whose apply did not end well: never a claim that it works. */
export const unfinished = (attempts: Value): Properties => ({
  mode: "none",
  state: "failed",
  attempts,
  pending: [],
  evidence: [],
  looked: true,
});

/** Connectors that mode "gpu" is known to light. */
export const screensOf = ({ screens }: Properties): string[] =>
  Array.isArray(screens) ? screens.map(String) : [];

/** A GUI domain whose qube is not there, and need not be; or of which is known what did not work. */
export const withoutQube = ({ mode, state, remembered }: Properties): boolean =>
  remembered !== undefined ||
  (mode === "dom0" && (state === "ready" || state === "staged" || state === "rescued"));

/** What is known of rungs that failed: by the state, and by what the host did last without anybody asking. */
export function memoryOf(known: Properties, gui: GuiDomain, snapshot: Snapshot, urn: string): Remembered[] {
  const memory = Array.isArray(known["remembered"]) ? (known["remembered"] as unknown as Remembered[]) : [];
  const { outcome } = snapshot;
  if (!outcome || outcome.owner !== urn || !gui.display.includes("gpu")) return memory;
  if (memory.some((r) => r.mode === "gpu") || inForce(gui.qube, snapshot) === "gpu") return memory;
  // A trial that nobody confirmed in time had perhaps no fault but that nobody was there any more.
  const reset = outcome.what !== "rescued" && isReset(outcome);
  if (outcome.what !== "rescued" && !reset) return memory;
  return [...memory, { mode: "gpu", reason: outcome.why, key: rungKey(gui, "gpu", snapshot), reset }];
}

/** The machine did not come through the trial's boot, as the guard found when it was up again; it may have hung, or reset. */
export const isReset = ({ phase, why }: Outcome): boolean =>
  phase === "rebooting" || (/\brestarted\b/.test(why) && ["trial", "verified"].includes(phase));

/**
 * What the host should have, as the last run left it: that rung's settings, or those of what was staged. null: what it has.
 * `outputs` null: an import, which is described as it is found.
 */
export function wantedNow(
  gui: GuiDomain,
  snapshot: Snapshot,
  outputs: Properties | null,
  urn: string,
  memory: readonly Remembered[],
): { wanted: Settings | null; waitsFor: Rung | null } {
  const { ladder, wanted, target } = decide(gui, snapshot, urn, memory);
  const waitsFor = ladder.end?.kind === "staged" ? ladder.end.mode : null;
  if (outputs === null) {
    const [mode = "xephyr"] = gui.display;
    const grant = mode === "gpu" ? judgeGpu(gui, snapshot, true).grant : undefined;
    return { wanted: settingsOf(gui, mode, grant), waitsFor: null };
  }
  const { mode } = outputs;
  if (waitsFor) return { wanted, waitsFor };
  if (target === mode || mode === undefined || mode === "none") return { wanted, waitsFor };
  // Another rung would be tried now; until then the one in force counts.
  const isHosts = mode === "xephyr" || mode === "dom0" || (typeof mode === "string" && isRemote(mode));
  return { wanted: isHosts ? settingsOf(gui, mode) : null, waitsFor };
}

export function outcomeText(qube: string, { what, why, left }: Outcome): string {
  const rest = Object.keys(left);
  return what === "rescued"
    ? `the GUI domain ${qube} did not come up in a boot, and the host went back by itself: ${why}`
    : `a trial of the GUI domain ${qube} was put back by the host itself: ${why}${rest.length ? `; not put back: ${rest.join(", ")}` : ""}`;
}

/** After the host went back by itself: what is true now, and why. */
export function rescuedOutputs({ what, why }: Outcome, now: Rung, { attempts }: Properties): Properties {
  const failed = { mode: "gpu", verdict: "failed", reason: why };
  const others = Array.isArray(attempts) ? attempts.filter((a) => (a as Properties)["mode"] !== "gpu") : [];
  return {
    mode: now,
    ...(what === "rescued" && { attempts: [failed, ...others] }),
  };
}

export const rebootWhy = (mode: Rung) =>
  `mode "${mode}" is proved in a boot of its own; set reboot to "allowed" and run "pulumi up" when the machine may restart`;

export function bootNotice({ facts }: Snapshot): [string, { severity: "info" | "warning" }] {
  const { unattended, unattendedWhy } = facts.boot;
  return unattended === true
    ? [
        "the machine restarts once, and by itself goes back to what it was if that does not work out",
        { severity: "info" },
      ]
    : [
        `the machine restarts, and somebody must be there: ${unattendedWhy}. The run waits for it`,
        { severity: "warning" },
      ];
}
