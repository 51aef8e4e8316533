/**
 * For tests: a Qubes host in memory, which is given a formula the way the agent and Salt give it to a real one. It interprets the
 * rendered states (salt/_states/qube.py; Salt's pkg and file), keeps the ledger (salt/agent/ledger.py) and undoes what fails.
 */

import { parse } from "yaml";
import {
  type ApplyArgs,
  type ClaimArgs,
  type Evidence,
  type LedgerEntry,
  NO_CLAIMS,
  type PciFunction,
  type QubeSnapshot,
  type Snapshot,
  type TrialOutcome,
  type Verification,
} from "../../host/protocol.ts";
import type { DeviceValue, FileValue, KeyValue, PropertyValue, QubeValue } from "../../model/keys.ts";
import { PROHIBIT_START } from "../../model/settings.ts";
import { reached } from "../../pci/identity.ts";
import { pciTree } from "../../pci/tree.ts";
import { withLines, withoutLines } from "../../policy/levels.ts";
import { POLICY } from "../../policy/load.ts";
import { rulesOf } from "../../policy/rules.ts";
import { shareable } from "../changes.ts";
import { clientsOf, deviceParts, partsOf, sameValue, valueOf } from "../values.ts";
import { type Insides, runInside } from "./insideModel.ts";

/** What a property is where nobody has set it; those that follow a global one are in FOLLOWS. */
const DEFAULTS: Record<string, string> = {
  autostart: "False",
  debug: "False",
  maxmem: "4000",
  memory: "400",
  vcpus: "2",
  virt_mode: "pvh",
};
const FOLLOWS: Record<string, string> = {
  guivm: "default_guivm",
  audiovm: "default_audiovm",
  netvm: "default_netvm",
};

/** Tags that Qubes itself keeps in step with a property. */
const AUTOMATIC = /^(guivm|audiovm|created-by)-/;

const VERSION = "4.3.1";

export const explicit = (value: string): PropertyValue => ({ default: false, value });
/** A property that nobody has set; its value is filled in by the host. */
export const byDefault: PropertyValue = { default: true, value: "" };

export interface QubeMade {
  class?: string;
  state?: string;
  template?: string;
  label?: string;
  properties?: Record<string, PropertyValue>;
  features?: Record<string, string>;
  tags?: string[];
  pci?: QubeSnapshot["pci"];
}

export function qube(made: QubeMade = {}): QubeSnapshot {
  const template = made.template ?? "fedora-43-xfce";
  return {
    class: made.class ?? "AppVM",
    state: made.state ?? "Halted",
    properties: {
      ...Object.fromEntries(
        [...Object.keys(DEFAULTS), ...Object.keys(FOLLOWS)].map((name) => [name, byDefault]),
      ),
      label: explicit(made.label ?? "red"),
      ...(made.class === "TemplateVM" ? {} : { template: explicit(template) }),
      ...made.properties,
    },
    features: { ...made.features },
    tags: [...(made.tags ?? [])],
    pci: made.pci ?? [],
    guidRunning: false,
    session: false,
  };
}

/** A fresh install: two templates, `work`, `vault` and `sys-net`; `more` is added or replaces. */
export function install(more: Partial<Snapshot> = {}): Snapshot {
  const dom0: QubeSnapshot = {
    ...qube({ class: "AdminVM", state: "Running" }),
    properties: { label: explicit("black") },
  };
  return {
    facts: {
      qubesRelease: "Qubes release 4.3.0 (R4.3)",
      kernel: "6.12.59-1.qubes.fc41.x86_64",
      bootId: "00000000-0000-0000-0000-000000000001",
      cmdline: "",
      now: 1000,
      freeBytes: 1e10,
      xen: {
        version: "4.19.3",
        virtCaps: ["hvm", "hvm_directio"],
        totalMemory: 16000,
        freeMemory: 8000,
        iommu: true,
        interruptRemapping: true,
      },
      pci: [],
      boot: {
        oneShot: true,
        oneShotWhy: "/boot is ext4 on a partition",
        unattended: true,
        unattendedWhy: "no passphrase at boot",
        hidePaths: true,
        args: [],
        watchdog: true,
        rescue: false,
      },
      firmware: { vendor: "LENOVO", product: "20N2", bios: "1.80" },
      cpu: "GenuineIntel",
      keyboards: ["ps2"],
      lightdm: true,
    },
    globals: {
      default_guivm: explicit("dom0"),
      default_audiovm: explicit("dom0"),
      default_netvm: explicit("sys-net"),
    },
    labels: ["red", "black", "blue"],
    files: {},
    packages: { "dummy-psu-sender": null, "dummy-backlight-dom0": null },
    ledger: {},
    lock: null,
    unfinished: null,
    trial: null,
    outcome: null,
    watch: null,
    ...more,
    qubes: {
      dom0,
      "fedora-43-xfce": qube({ class: "TemplateVM", features: { gui: "1", os: "Linux" } }),
      "debian-13-xfce": qube({ class: "TemplateVM", features: { gui: "1", os: "Linux" } }),
      "sys-net": qube({ properties: { netvm: explicit(""), virt_mode: explicit("hvm") } }),
      work: qube(),
      vault: qube({ properties: { netvm: explicit("") } }),
      ...more.qubes,
    },
  };
}

/** A display of dom0's, as a laptop has it: it lights eDP-1 and can be reset by itself. */
export const display = (more: Partial<PciFunction> = {}): PciFunction => ({
  sbdf: "0000:00:02.0",
  port: "00_02.0",
  class: "030000",
  vendor: "8086",
  device: "9a49",
  subsystem: "17aa:22d5",
  driver: "i915",
  reset: ["flr"],
  name: "Iris Xe",
  bridge: null,
  parent: null,
  bootVga: true,
  rom: true,
  module: "i915",
  outputs: [{ name: "card0-eDP-1", connected: true, enabled: true }],
  inputs: [],
  disks: [],
  nets: [],
  ...more,
});

/** A fresh install on a machine whose display can be given away; `facts` replaces some. */
export function laptop(facts: Partial<Snapshot["facts"]> = {}, more: Partial<Snapshot> = {}): Snapshot {
  const snapshot = install(more);
  return { ...snapshot, facts: { ...snapshot.facts, pci: [display()], ...facts } };
}

/** A file of which only lines are anybody's. */
export const isShared = (path: string) => path.startsWith(`${POLICY}/include/`);

/** Every value of the host by its key, for comparisons. What follows a default is just that; automatic tags follow properties. */
export function everything(snapshot: Snapshot): Record<string, KeyValue | string> {
  const all: Record<string, KeyValue | string> = {};
  const property = (value: PropertyValue) => (value.default ? "follows its default" : value.value);
  for (const [name, is] of Object.entries(snapshot.qubes)) {
    all[`qube:${name}`] = valueOf(snapshot, `qube:${name}`);
    for (const [p, value] of Object.entries(is.properties))
      if (p !== "label" && p !== "template" && p !== "start_time")
        all[`property:${name}:${p}`] = property(value);
    for (const [f, value] of Object.entries(is.features)) all[`feature:${name}:${f}`] = value;
    for (const tag of is.tags) if (!AUTOMATIC.test(tag)) all[`tag:${name}:${tag}`] = true;
    all[`pci of ${name}`] = JSON.stringify(is.pci);
    if (is.usb?.length) all[`usb of ${name}`] = JSON.stringify(is.usb);
  }
  if (snapshot.facts.boot.args.length) all["boot arguments"] = snapshot.facts.boot.args.join(" ");
  for (const [g, value] of Object.entries(snapshot.globals)) all[`global:${g}`] = property(value);
  for (const [path, file] of Object.entries(snapshot.files))
    if (!isShared(path)) all[`file:${path}`] = file;
    else for (const line of rulesOf(file.content)) all[`line:${path}:${line}`] = true;
  for (const [name, mark] of Object.entries(snapshot.secrets ?? {})) all[`secret:${name}`] = mark;
  for (const [name, version] of Object.entries(snapshot.packages))
    if (version !== null) all[`package:${name}`] = version;
  return all;
}

/** Keys whose values differ, sorted. */
export function differing(a: Record<string, unknown>, b: Record<string, unknown>): string[] {
  return [...new Set([...Object.keys(a), ...Object.keys(b)])]
    .filter((key) => !sameValue(a[key], b[key]))
    .sort();
}

export type ModelApply = Pick<ApplyArgs, "owner" | "touch" | "release" | "formula" | "sls"> &
  Partial<Pick<ApplyArgs, "shutdown" | "inside" | "secrets" | "verify" | "restart">> & {
    insideBoot?: ApplyArgs["inside"];
    trial?: {
      seconds: number;
      boot: { add: string[]; remove: string[] } | null;
      watch: { qube: string; ports: string[] } | null;
    };
    keep?: { formula: Record<string, string>; sls: string; touch: string[] } | null;
    after?: { formula: Record<string, string>; sls: string; keys: string[] } | null;
    claims?: ClaimArgs;
    verifyBoot?: Verification[];
  };

/** How the next trial boots go. "hangs": nobody comes back from it, and the host undoes it by itself. */
export type Boots = "well" | "hangs" | { fails: string; output: string };

/** What a state says when it is false; `HostModel.apply` has undone everything by then. */
export class StateFailed extends Error {
  readonly id: string;
  constructor(id: string, comment: string) {
    super(`${id}: ${comment}`);
    this.id = id;
  }
}

/** A check that fails, by its id; everything has been undone by then. */
export class CheckFailed extends Error {
  readonly evidence: Evidence[];
  /** It was in the trial's boot, which the host then leaves. */
  rebooting = false;
  constructor(evidence: Evidence[]) {
    super("a check failed");
    this.evidence = evidence;
  }
}

/** The host came back without the trial. */
export class TrialOver extends Error {
  readonly outcome: TrialOutcome;
  constructor(outcome: TrialOutcome) {
    super(outcome.why);
    this.outcome = outcome;
  }
}

type Arguments = Record<string, unknown>;

export class HostModel {
  #now: Snapshot;
  /** Packages that can be had. */
  readonly repository = new Set([
    "dummy-psu-sender",
    "dummy-backlight-dom0",
    "qubes-input-proxy",
    "qubes-input-proxy-sender",
    "extra-tool",
  ]);
  /** What cannot be removed, by its key, each with the reason. */
  readonly held = new Map<string, string>();
  /** Of what the last apply should have taken away for good, what is still there. */
  left: Record<string, string> = {};
  applies = 0;
  /** Boots of this host since it was made. */
  boots = 0;
  nextBoots: Boots = "well";
  /** Sees the host after each state of a formula. */
  onState: ((now: Snapshot) => void) | null = null;
  /** What the watched mode was brought up over: values and entries of the ledger before it. */
  #record: {
    first: Record<string, KeyValue>;
    ours: Record<string, KeyValue>;
    entries: Record<string, LedgerEntry>;
  } | null = null;
  /** What is inside its qubes, and packages that cannot be had there. */
  insides: Insides = {};
  readonly lacking = new Set<string>();
  /** Each time that something was written inside a qube. */
  readonly written: string[] = [];
  /** Live checks that fail, by their id. */
  readonly failing = new Map<string, string>();
  /** What checks that pass have seen, by their id. */
  readonly seen = new Map<string, string>();

  constructor(snapshot: Snapshot = install()) {
    this.#now = structuredClone(snapshot);
    this.#settle();
  }

  snapshot(): Snapshot {
    return structuredClone(this.#now);
  }

  /** What somebody does by hand. */
  byHand(change: (host: Snapshot) => void): void {
    change(this.#now);
    this.#now.facts.now++;
    this.#settle();
  }

  /** As `HostSession.apply`: the whole conversation, with the trial's boot and its way back. */
  apply(request: ModelApply): Evidence[] {
    const { owner, touch, release, formula, sls } = request;
    const { shutdown = [], verify = [], restart = [], trial, keep, after, verifyBoot = [] } = request;
    const before = this.snapshot();
    const insides = structuredClone(this.insides);
    const all = [...new Set([...touch, ...(keep?.touch ?? [])])];
    const claims = request.claims ?? NO_CLAIMS;
    if (claims.formerly) this.#rename(claims.formerly, owner);
    const first = Object.fromEntries(all.map((key) => [key, this.#read(key)]));
    this.#conflicts(touch, release, owner, claims);
    this.applies++;
    const evidence: Evidence[] = [];
    try {
      for (const name of shutdown) this.#shutdown(name);
      for (const [name, secret] of Object.entries(request.secrets ?? {}))
        this.#put(`secret:${name}`, secret?.mark ?? null);
      if (sls) this.#salt(sls, formula);
      for (const one of request.inside ?? []) this.#inside(one, formula);
      evidence.push(...this.#verify(verify));
      if (trial?.boot) {
        this.#boot(owner, this.#withWords(trial.boot));
        const words = this.#now.facts.cmdline.split(" ");
        const { qube = "", ports = [] } = trial.watch ?? {};
        if (ports.every((port) => words.includes(`rd.qubes.hide_pci=${port}`)))
          delete this.#now.qubes[qube]?.features[PROHIBIT_START];
        for (const one of request.insideBoot ?? []) this.#inside(one, formula);
        evidence.push(...this.#verify(verifyBoot));
      }
      if (keep) this.#salt(keep.sls, keep.formula);
    } catch (error) {
      const outcome = error instanceof TrialOver ? error.outcome : null;
      const boots = this.#now.facts.bootId !== before.facts.bootId;
      this.#now = before;
      this.insides = insides;
      if (boots) this.reboot();
      if (boots && error instanceof CheckFailed) error.rebooting = true;
      if (outcome) this.#now.outcome = outcome;
      throw error;
    }
    const entries = Object.fromEntries(
      [...all, ...release].flatMap((key) => (before.ledger[key] ? [[key, before.ledger[key]]] : [])),
    );
    const at = ++this.#now.facts.now;
    for (const key of all) this.#claim(key, owner, first[key] ?? null, at, claims.takes[key]);
    for (const key of release) this.#release(key, owner, claims.heirs[key] ?? null);
    for (const [key, value] of Object.entries(claims.waits)) this.#wait(key, owner, value);
    this.left = {};
    if (after) this.#remove(after, owner);
    if (!trial?.watch) this.#record = null;
    // The way back leads to before the mode, not to its last change.
    else
      this.#record = {
        first: { ...first, ...this.#record?.first },
        ours: { ...this.#record?.ours, ...Object.fromEntries(all.map((key) => [key, this.#read(key)])) },
        entries: this.#record?.entries ?? entries,
      };
    if (trial?.watch)
      this.#now.watch = {
        qube: trial.watch.qube,
        ports: trial.watch.ports,
        owner,
        tokens: this.#now.facts.boot.args,
      };
    else if (this.#now.watch?.owner === owner) this.#now.watch = null;
    if (this.#now.outcome?.owner === owner) this.#now.outcome = null;
    for (const name of restart) {
      this.#shutdown(name);
      this.#start(name);
    }
    return evidence;
  }

  /** `inside` of salt/agent/inside.py. */
  #inside(one: ApplyArgs["inside"][number], formula: Record<string, string>): void {
    const { qube, volume, brought } = one;
    this.written.push(qube);
    if (volume && this.#now.qubes[qube]?.state !== "Halted") throw new Error(`${qube} is not off`);
    if (brought) {
      const there = this.insides[qube]?.packages ?? [];
      const { units = {} } = this.insides[qube] ?? {};
      const missing = [
        ...brought.packages.filter((name) => !there.includes(name)),
        ...brought.units.filter((unit) => units[unit] !== "enabled").map((unit) => `unit:${unit}`),
      ];
      const noted = (this.#now.qubes[qube]?.features[brought.feature] ?? "").split(" ");
      const known = [...brought.packages, ...brought.units.map((unit) => `unit:${unit}`)];
      const kept = noted.filter((name) => known.includes(name));
      this.#put(`feature:${qube}:${brought.feature}`, [...new Set([...missing, ...kept])].sort().join(" "));
    }
    runInside(this.insides, one, formula, this.lacking);
  }

  /** The machine restarts in its default entry; in a boot of mode "gpu" the guard lets the qube start, and it does. */
  reboot(): void {
    this.#reboot();
    const { watch } = this.#now;
    if (watch) {
      delete this.#now.qubes[watch.qube]?.features[PROHIBIT_START];
      this.#start(watch.qube);
    }
  }

  /**
   * A confirmed display mode did not come up in a boot: what is still ours goes back to what it was before the mode, and so does the
   * ledger. A qube that was made for it stays, without its devices and its autostart (`rescue` in salt/agent/trial.py).
   */
  rescue(why: string): void {
    const { watch, ledger } = this.#now;
    const record = this.#record;
    if (!watch || !record) throw new Error("nothing is watched");
    const made = Object.keys(record.first).filter((k) => k.startsWith("qube:") && record.first[k] === null);
    const isMade = (key: string) => made.includes(`qube:${partsOf(key).of}`);
    const before = Object.entries(record.first).flatMap(([key, value]): [string, KeyValue][] => {
      const { kind, name } = partsOf(key);
      const entry = ledger[key];
      if (entry && entry.owner !== watch.owner) return [];
      if (!sameValue(this.#read(key), record.ours[key])) return [];
      if (!isMade(key) || kind === "device") return [[key, value]];
      return kind === "property" && name === "autostart" ? [[key, explicit("False")]] : [];
    });
    const order = ["device", "property", "feature", "line", "file", "global", "bootarg", "package", "qube"];
    const rank = ([key]: [string, KeyValue]) => order.indexOf(partsOf(key).kind);
    for (const [key, value] of before.sort((x, y) => rank(x) - rank(y))) {
      this.#put(key, value);
      if (partsOf(key).kind === "device" || !isMade(key)) delete ledger[key];
    }
    for (const [key, entry] of Object.entries(record.entries)) if (!isMade(key)) ledger[key] = entry;
    for (const key of Object.keys(ledger))
      if (waiting(ledger[key] as LedgerEntry).includes(watch.owner)) this.#release(key, watch.owner);
    // The next mode is brought up over what there is now.
    this.#record = null;
    this.#now.watch = null;
    const { bootId, now: at } = this.#now.facts;
    const { owner } = watch;
    this.#now.outcome = {
      id: `t${this.boots}`,
      owner,
      what: "rescued",
      why,
      phase: "committed",
      at,
      bootId,
      left: {},
    };
    this.#reboot();
  }

  #put(key: string, to: KeyValue): void {
    const { kind, of, name } = partsOf(key);
    const its = this.#now.qubes[of];
    if (kind === "qube" && its && to !== null) {
      const { template, label } = to as QubeValue;
      Object.assign(its.properties, { template: explicit(template ?? ""), label: explicit(label) });
    } else if (kind === "qube") delete this.#now.qubes[of];
    else if (kind === "property" && its)
      its.properties[name] = (to as PropertyValue | null) ?? { default: true, value: "" };
    else if (kind === "feature" && its) {
      if (to === null) delete its.features[name];
      else its.features[name] = to as string;
    } else if (kind === "secret") {
      const { [`${of}:${name}`]: _, ...rest } = this.#now.secrets ?? {};
      this.#now.secrets = to === null ? rest : { ...rest, [`${of}:${name}`]: to as string };
    } else if (kind === "package") this.#now.packages[name] = to as string | null;
    else if (kind === "global") this.#now.globals[name] = to as PropertyValue;
    else if (kind === "file") {
      if (to === null) delete this.#now.files[name];
      else this.#now.files[name] = to as FileValue;
    } else if (kind === "line" && this.#now.files[of]) {
      const file = this.#now.files[of];
      file.content = (to === null ? withoutLines : withLines)(file.content, [name]);
    } else if (kind === "device" && its) {
      this.#unassign(its, [name]);
      const [port, device] = deviceParts(name);
      if (to !== null && !its.pci.some((d) => d.port === port && d.device === device))
        its.pci.push({ port, device, ...(to as DeviceValue) });
    } else if (kind === "bootarg" && to === null)
      this.#now.facts.boot.args = this.#now.facts.boot.args.filter((word) => word !== name);
  }

  #withWords({ add, remove }: { add: string[]; remove: string[] }): string[] {
    return [...this.#now.facts.boot.args.filter((word) => !remove.includes(word)), ...add];
  }

  #boot(owner: string, words: string[]): void {
    const how = this.nextBoots;
    this.#reboot(words);
    if (how === "hangs") {
      const { bootId, now: at } = this.#now.facts;
      const why = "the trial entry did not boot";
      throw new TrialOver({
        id: `t${this.boots}`,
        owner,
        what: "undone",
        why,
        phase: "rebooting",
        at,
        bootId,
        left: {},
      });
    }
    if (how !== "well") this.failing.set(how.fails, how.output);
  }

  /** dom0's drivers take every display that the kernel's line does not keep from them. */
  #reboot(words = this.#now.facts.boot.args): void {
    const { facts } = this.#now;
    this.boots++;
    facts.bootId = `00000000-0000-0000-0000-${String(this.boots + 1).padStart(12, "0")}`;
    facts.now += 60;
    facts.cmdline = words.join(" ");
    facts.lightdm = !words.includes("systemd.mask=lightdm.service");
    for (const fn of facts.pci) {
      const hidden = words.includes(`rd.qubes.hide_pci=${fn.port}`);
      fn.driver = hidden ? "pciback" : (fn.module ?? null);
    }
    for (const [name, is] of Object.entries(this.#now.qubes)) if (name !== "dom0") is.state = "Halted";
    this.#settle();
  }

  #verify(checks: Verification[]): Evidence[] {
    const evidence = checks.map((check): Evidence => {
      const wrong = this.failing.get(check.id) ?? this.#wrong(check);
      return {
        id: check.id,
        ok: wrong === null,
        seconds: 0,
        output: wrong ?? this.seen.get(check.id) ?? "as wanted",
      };
    });
    if (evidence.every(({ ok }) => ok)) return evidence;
    this.failing.clear();
    throw new CheckFailed(evidence);
  }

  /** Starts what is to be started; of the rest only what this model knows is looked at. */
  #wrong(check: Verification): string | null {
    if (check.kind !== "start") return null;
    const live = this.#now.qubes[check.qube];
    if (!live) return `no such qube: ${check.qube}`;
    const reason = live.features[PROHIBIT_START];
    if (reason) return `Qube start is prohibited. Rationale: ${reason}`;
    for (const fn of live.pci.flatMap((one) => reached(pciTree(this.#now.facts.pci), one)))
      if (fn.class.startsWith("03") && fn.driver !== "pciback")
        return `the host hangs: ${fn.port} was pulled from ${fn.driver}`;
    if (live.pci.length && live.properties["virt_mode"]?.value === "pvh") return "pvh with PCI devices";
    this.#start(check.qube);
    return null;
  }

  // ------------------------------------------------------------------------------------------- ledger

  #conflicts(touch: string[], release: string[], owner: string, claims: ClaimArgs): void {
    const { ledger } = this.#now;
    for (const key of [...touch, ...release]) {
      const entry = ledger[key];
      if (!entry || owners(entry).includes(owner) || shareable(key)) continue;
      if (claims.takes[key]?.from === entry.owner) continue;
      if (touch.includes(key) || !waiting(entry).includes(owner))
        throw new Error(`conflict: ${key} belongs to ${entry.owner}`);
    }
    for (const key of Object.keys(claims.waits))
      if (!ledger[key] || ledger[key].owner === owner) throw new Error(`outdated: ${key} is not waited for`);
    for (const key of release) {
      const entry = ledger[key];
      if (entry?.owner !== owner) continue;
      const heir = claims.heirs[key];
      const seen =
        heir === undefined ? waiting(entry).length === 0 : heir === null || waiting(entry).includes(heir);
      if (!seen) throw new Error(`outdated: ${key} has another heir`);
    }
  }

  #rename(former: string, owner: string): void {
    const named = (name: string) => (name === former ? owner : name);
    for (const entry of Object.values(this.#now.ledger)) {
      entry.owner = named(entry.owner);
      if (entry.also) entry.also = entry.also.map(named);
      for (const one of entry.waiting ?? []) one.owner = named(one.owner);
    }
    const { watch, outcome } = this.#now;
    for (const one of [watch, outcome]) if (one) one.owner = named(one.owner);
  }

  #wait(key: string, owner: string, value: KeyValue): void {
    const entry = this.#now.ledger[key];
    if (!entry || owners(entry).includes(owner)) return;
    const mine = entry.waiting?.find((one) => one.owner === owner);
    if (mine) mine.value = value;
    else entry.waiting = [...(entry.waiting ?? []), { owner, value }];
  }

  #claim(key: string, owner: string, first: KeyValue, at: number, taken?: ClaimArgs["takes"][string]): void {
    const ours = this.#read(key);
    const entry = this.#now.ledger[key];
    if (!entry) {
      this.#now.ledger[key] = { owner, first, ours, at };
      return;
    }
    if (taken && entry.owner === taken.from) {
      const former = taken.waits ? [{ owner: entry.owner, value: entry.ours }] : [];
      const rest = (entry.waiting ?? []).filter((one) => one.owner !== owner);
      entry.owner = owner;
      setWaiting(entry, [...former, ...rest]);
    } else if (!owners(entry).includes(owner)) entry.also = [...(entry.also ?? []), owner];
    if (!sameValue(entry.ours, ours) || !sameValue(first, ours)) Object.assign(entry, { ours, at });
  }

  /** As the agent: what is gone is nobody's any more, what does not go stays its owner's. */
  #remove(
    { sls, formula, keys }: { formula: Record<string, string>; sls: string; keys: string[] },
    owner: string,
  ): void {
    let why = "it is still there";
    try {
      this.#salt(sls, formula);
    } catch (error) {
      if (!(error instanceof StateFailed)) throw error;
      why = error.message;
    }
    for (const key of keys)
      if (this.#read(key) === null) this.#release(key, owner);
      else this.left[key] = this.held.get(key) ?? why;
  }

  #release(key: string, owner: string, heir: string | null = null): void {
    const entry = this.#now.ledger[key];
    if (!entry) return;
    setWaiting(
      entry,
      (entry.waiting ?? []).filter((one) => one.owner !== owner && one.owner !== heir),
    );
    if (!owners(entry).includes(owner)) return;
    const others = owners(entry).filter((name) => name !== owner);
    const [next, ...also] = others.length || heir === null ? others : [heir];
    if (next === undefined) delete this.#now.ledger[key];
    else {
      entry.owner = next;
      delete entry.also;
      if (also.length) entry.also = also;
    }
  }

  /** As the agent reads: nothing of a qube that is not there. */
  #read(key: string): KeyValue {
    const { kind, of } = partsOf(key);
    return structuredClone(kind === "property" && !this.#now.qubes[of] ? null : valueOf(this.#now, key));
  }

  // --------------------------------------------------------------------------------------------- Salt

  #salt(sls: string, formula: Record<string, string>): void {
    const at = `${sls.replaceAll(".", "/")}/init.sls`;
    const text = formula[at];
    if (text === undefined) throw new Error(`there is no ${at}`);
    const states = (parse(text) ?? {}) as Record<string, Record<string, Arguments[] | undefined>>;
    const known = new Set<string>();
    for (const [id, body] of Object.entries(states))
      for (const [name, list] of Object.entries(body)) {
        const args: Arguments = Object.assign({}, ...(list ?? []));
        for (const one of (args["require"] ?? []) as Record<string, string>[])
          for (const [module, wanted] of Object.entries(one))
            if (!known.has(`${module} ${wanted}`))
              throw new StateFailed(id, `requires ${wanted}, which is not before it`);
        known.add(`${name.split(".")[0]} ${id}`);
        this.#state(id, name, args, formula);
        this.#settle();
        this.onState?.(this.snapshot());
      }
  }

  #state(id: string, name: string, args: Arguments, formula: Record<string, string>): void {
    const of = String(args["name"]);
    const map = (key: string) => Object.entries((args[key] ?? {}) as Record<string, string>);
    const items = (key: string) => (args[key] ?? []) as string[];
    const existing = () => {
      const found = this.#now.qubes[of];
      if (!found) throw new StateFailed(id, `no such qube: ${of}`);
      return found;
    };
    switch (name) {
      case "pkg.installed":
        for (const one of items("pkgs")) {
          if (!this.repository.has(one)) throw new StateFailed(id, `${one}: not in any repository`);
          this.#now.packages[one] ??= VERSION;
        }
        break;
      case "pkg.removed":
        for (const one of items("pkgs")) if (!this.held.has(`package:${one}`)) this.#now.packages[one] = null;
        break;
      case "qube.present":
        this.#present(id, of, {
          class: String(args["class"]),
          template: String(args["template"]),
          label: String(args["label"]),
        });
        break;
      case "qube.absent":
        if (!this.held.has(`qube:${of}`)) this.#absent(id, of);
        break;
      case "qube.properties":
      case "qube.global_properties": {
        const global = name === "qube.global_properties";
        const held = global ? this.#now.globals : existing().properties;
        for (const [p, value] of map("set")) held[p] = this.#checked(id, p, value);
        for (const p of items("reset")) held[p] = { default: true, value: DEFAULTS[p] ?? "" };
        break;
      }
      case "qube.features":
        for (const [f, value] of map("set")) existing().features[f] = value;
        for (const f of items("unset")) delete existing().features[f];
        break;
      case "policy.lines": {
        const file = this.#now.files[of];
        if (!file) throw new StateFailed(id, `No such file or directory: ${of}`);
        file.content = withLines(withoutLines(file.content, items("remove")), items("add"));
        break;
      }
      case "qube.services":
        for (const s of items("on")) existing().features[`service.${s}`] = "1";
        break;
      case "qube.devices": {
        const its = existing();
        this.#unassign(its, items("unassign"));
        for (const [device, options] of Object.entries(
          (args["assign"] ?? {}) as Record<string, Record<string, string>>,
        )) {
          const [port, id] = deviceParts(device);
          if (port === "*" && reached(pciTree(this.#now.facts.pci), { port, device: id }).length !== 1)
            throw new StateFailed(id, `dom0 has not one PCI device ${id}`);
          if (![port, id].includes("*") && !this.#now.facts.pci.some((fn) => fn.port === port))
            throw new StateFailed(id, `backend vm dom0 doesn't expose pci device '${port}'`);
          its.pci = its.pci.filter((d) => d.port !== port || d.device !== id);
          its.pci.push({ port, device: id, mode: "required", options });
        }
        break;
      }
      case "qube.usb": {
        const its = existing();
        const without = (names: string[]) =>
          (its.usb ?? []).filter((d) => !names.includes(`${d.backend}:${d.port}:${d.device}`));
        its.usb = without(items("unassign"));
        for (const [device, mode] of map("assign")) {
          const [backend = "", port = "", ...rest] = device.split(":");
          its.usb = [...without([device]), { backend, port, device: rest.join(":"), mode }];
        }
        break;
      }
      case "boot.args": {
        const { boot } = this.#now.facts;
        boot.args = boot.args.filter((word) => !items("remove").includes(word));
        boot.args.push(...items("add").filter((word) => !boot.args.includes(word)));
        break;
      }
      case "file.managed": {
        const source = String(args["source"])
          .replace(/^salt:\/\//, "")
          .replace(/\?saltenv=user$/, "");
        const content = formula[source];
        if (content === undefined) throw new StateFailed(id, `there is no ${source}`);
        this.#now.files[id] = { content, mode: String(args["mode"]) } satisfies FileValue;
        break;
      }
      case "file.absent":
        delete this.#now.files[id];
        break;
      default:
        throw new StateFailed(id, `no such state: ${name}`);
    }
  }

  /** Qubes does not take away what names the device of a port that is empty now. */
  #unassign(its: QubeSnapshot, names: string[]): void {
    const { pci } = this.#now.facts;
    const isStuck = ({ port, device }: { port: string; device: string }) =>
      port !== "*" && device !== "*" && !pci.some((fn) => fn.port === port);
    its.pci = its.pci.filter((d) => isStuck(d) || !names.includes(`${d.port}:${d.device}`));
  }

  #present(id: string, name: string, wanted: QubeValue): void {
    const live = this.#now.qubes[name];
    if (live && live.class !== wanted.class) throw new StateFailed(id, `${name} exists as ${live.class}`);
    this.#checked(id, "template", wanted.template ?? "");
    if (!this.#now.labels.includes(wanted.label)) throw new StateFailed(id, `no such label: ${wanted.label}`);
    if (live) {
      live.properties["template"] = explicit(wanted.template ?? "");
      live.properties["label"] = explicit(wanted.label);
    } else {
      this.#now.qubes[name] = qube({
        template: wanted.template ?? "",
        label: wanted.label,
        tags: ["created-by-dom0"],
      });
    }
  }

  #absent(id: string, name: string): void {
    const live = this.#now.qubes[name];
    if (!live) return;
    this.#shutdown(name);
    if (live.state !== "Halted") throw new StateFailed(id, `${name} is running, and has running clients`);
    const users = Object.entries(this.#now.qubes).filter(
      ([other, { properties }]) =>
        other !== name && Object.values(properties).some((p) => !p.default && p.value === name),
    );
    const globals = Object.entries(this.#now.globals).filter(([, value]) => value.value === name);
    if (users.length || globals.length)
      throw new StateFailed(id, `${name} is in use by ${[...users, ...globals].map(([n]) => n).join(", ")}`);
    delete this.#now.qubes[name];
  }

  #checked(id: string, property: string, value: unknown): PropertyValue {
    if (typeof value !== "string")
      throw new StateFailed(id, `${property}: ${JSON.stringify(value)} is no text`);
    const pci = this.#now.qubes[id.split(" ")[0] ?? ""]?.pci ?? [];
    if (property === "virt_mode" && value === "pvh" && pci.length)
      throw new StateFailed(id, "pvh mode can't be set if pci devices are assigned");
    const names = /^(guivm|audiovm|netvm|template|default_.*vm)$/;
    if (names.test(property) && value !== "" && !this.#now.qubes[value])
      throw new StateFailed(id, `${property}: no such qube: ${value}`);
    return explicit(value);
  }

  /** Refused, and so left running, while qubes run that have it as their GUI or audio domain. */
  #shutdown(name: string): void {
    const { qubes } = this.#now;
    const live = qubes[name];
    const heard = Object.keys(qubes).filter(
      (n) => n !== name && qubes[n]?.properties["audiovm"]?.value === name,
    );
    const clients = [...clientsOf(this.#now, name), ...heard].filter((n) => qubes[n]?.state !== "Halted");
    if (live && clients.length === 0) live.state = "Halted";
  }

  #start(name: string): void {
    const live = this.#now.qubes[name];
    if (!live || live.state === "Running") return;
    live.state = "Running";
    live.properties["start_time"] = { default: true, value: String(this.#now.facts.now) };
  }

  /** Defaults and the tags that follow properties. */
  #settle(): void {
    for (const live of Object.values(this.#now.qubes)) {
      if (live.class === "AdminVM") continue;
      for (const [name, value] of Object.entries(live.properties)) {
        const global = FOLLOWS[name];
        if (value.default && name !== "start_time")
          live.properties[name] = {
            default: true,
            value: global ? (this.#now.globals[global]?.value ?? "") : (DEFAULTS[name] ?? value.value),
          };
      }
      live.tags = live.tags.filter((tag) => !/^(guivm|audiovm)-/.test(tag));
      for (const name of ["guivm", "audiovm"]) {
        const value = live.properties[name]?.value;
        if (value) live.tags.push(`${name}-${value}`);
      }
    }
  }
}

/** All owners of an entry, the first first. */
const waiting = (entry: LedgerEntry) => (entry.waiting ?? []).map((one) => one.owner);

function setWaiting(entry: LedgerEntry, waits: NonNullable<LedgerEntry["waiting"]>): void {
  delete entry.waiting;
  if (waits.length) entry.waiting = waits;
}

const owners = (entry: LedgerEntry) => [entry.owner, ...(entry.also ?? [])];
