/**
 * The agent's protocol: JSON lines over one exec's stdin and stdout. Host answers are outside data; these schemas are
 * where they become typed values. The other end is `salt/agent/agent.py`; a test keeps both in step.
 *
 *     controller → agent   {"id": 1, "op": "snapshot", "args": {…}}
 *     agent → controller   {"id": 1, "event": {…}}            any number, while it works
 *     agent → controller   {"id": 1, "ok": {…}}  or  {"id": 1, "error": {…}}
 *
 * The first line the agent writes is its Hello. End of its stdin means the controller is gone: a running apply is
 * stopped, undone from its journal, the lock released, and so is one that waits for its confirmation. `cancel`
 * ({"id": 2, "op": "cancel", "args": {"id": 1}}) does the same for one request.
 *
 * A change is a conversation (MESSAGES): it counts only after `confirm` over a connection that was opened after
 * everything was verified. Whoever does not get so far leaves a trial that the host undoes by itself.
 */
import * as v from "valibot";
import { mapOf } from "../model/fields.ts";
import type { KeyValue as Value } from "../model/keys.ts";

export const PROTOCOL = 1;

export const Hello = v.object({
  agent: v.string(), // sha256 of the source that runs
  protocol: v.literal(PROTOCOL),
  python: v.string(),
  user: v.string(),
});

export const PropertyValue = v.object({ default: v.boolean(), value: v.string() });
export const QubeValue = v.object({ class: v.string(), template: v.nullable(v.string()), label: v.string() });
export const FileValue = v.object({ content: v.string(), mode: v.string() });
/** A PCI assignment: only options that are on, each "True" (qubes-cli-formats.md §7). */
export const DeviceValue = v.object({ mode: v.string(), options: mapOf(v.string()) });
export const KeyValue = v.union([
  PropertyValue,
  QubeValue,
  FileValue,
  DeviceValue,
  v.string(),
  v.literal(true),
  v.null(),
]);

/** One entry of the ledger on the host: who owns this key, what it was before they did, what they made of it. */
export const LedgerEntry = v.object({
  owner: v.string(), // URN
  first: KeyValue,
  ours: KeyValue,
  /** dom0's clock when `ours` was last written, seconds since the epoch. */
  at: v.number(),
  /** Packages only: other owners that want it too. When `owner` lets go, the first of them takes its place. */
  also: v.optional(v.array(v.string())),
  /** Who wants another value of it, in the order in which they came: the next one has it when `owner` lets go. */
  waiting: v.optional(v.array(v.object({ owner: v.string(), value: KeyValue }))),
});

export const LockHolder = v.object({ holder: v.string(), since: v.number(), pid: v.number() });

export const QubeSnapshot = v.object({
  class: v.string(),
  state: v.string(), // Running, Halted, Transient, Paused …
  /** Every property of admin.vm.property.GetAll; a property without a value is left out. */
  properties: mapOf(PropertyValue),
  features: mapOf(v.string()),
  tags: v.array(v.string()),
  /** Persistent PCI assignments (admin.vm.device.pci.Assigned). */
  pci: v.array(
    v.object({
      port: v.string(),
      device: v.string(),
      mode: v.string(),
      options: mapOf(v.string()),
    }),
  ),
  /** Its USB assignments (admin.vm.device.usb.Assigned); only where USB devices were asked for. */
  usb: v.optional(
    v.array(v.object({ backend: v.string(), port: v.string(), device: v.string(), mode: v.string() })),
  ),
  /** dom0 shows this running qube's windows now (/run/qubes/guid-running.<xid>); qubes-host.md (d) 3. */
  guidRunning: v.boolean(),
  /** A person is in its Xephyr session: a process `qubes-guivm-session <qube>` runs in dom0 (the Exec of its xsession file). */
  session: v.boolean(),
  /** Of a template: why its root volume could not be taken back to what it was before it ran; null: it can. */
  noRevert: v.optional(v.nullable(v.string())),
});

export const PciFunction = v.object({
  sbdf: v.pipe(v.string(), v.regex(/^[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$/)), // 0000:00:02.0; a shell reads it
  port: v.nullable(v.string()), // as the host's own list names it, 00_02.0
  class: v.string(), // 6 hex digits, 030000
  vendor: v.string(),
  device: v.string(),
  subsystem: v.nullable(v.string()), // vvvv:dddd
  driver: v.nullable(v.string()),
  /** sysfs reset_method, such as ["flr", "bus"]; null where the kernel does not say. */
  reset: v.nullable(v.array(v.string())),
  name: v.nullable(v.string()),
  /** Of a bridge: the buses behind it, two hex digits each. */
  bridge: v.nullable(v.object({ secondary: v.string(), subordinate: v.string() })),
  /** sbdf of the bridge above; null on a root bus. */
  parent: v.nullable(v.string()),
  /** The display that the firmware lit (sysfs boot_vga); null where sysfs does not say. */
  bootVga: v.nullable(v.boolean()),
  /** It has an expansion ROM that sysfs shows. */
  rom: v.nullable(v.boolean()),
  /** The module that its modalias would load, whatever is bound now; null where nothing is known. */
  module: v.nullable(v.string()),
  /** DRM connectors of a display that a driver of dom0 drives, "eDP-1"; a shell reads their names. */
  outputs: v.array(
    v.object({
      name: v.pipe(v.string(), v.regex(/^[A-Za-z0-9-]+$/)),
      connected: v.boolean(),
      enabled: v.boolean(),
    }),
  ),
  /** Input devices behind this controller: "keyboard", "mouse", "tablet". */
  inputs: v.array(v.string()),
  /** Block devices behind it that dom0 uses (mounted, swap, or below something that is). */
  disks: v.array(v.string()),
  /** Network interfaces of dom0 behind it. */
  nets: v.array(v.string()),
});
export type PciFunction = v.InferOutput<typeof PciFunction>;

/** What decides whether a boot can be tried once and come back by itself. Unknown is null. Design §5. */
export const BootFacts = v.object({
  /** GRUB can be told to boot an entry once, and clears that by itself. */
  oneShot: v.nullable(v.boolean()),
  oneShotWhy: v.string(),
  /** It boots without a hand: nobody has to type a passphrase. */
  unattended: v.nullable(v.boolean()),
  unattendedWhy: v.string(),
  /** dom0's own initramfs script understands path ids in rd.qubes.hide_pci. */
  hidePaths: v.nullable(v.boolean()),
  /** Plain Xen: what hides a function there, and why not. */
  hideWhy: v.optional(v.string()),
  /** Words of GRUB_CMDLINE_LINUX, a comma list of rd.qubes.hide_pci as one word for each of its parts. */
  args: v.array(v.string()),
  /** There is a xenwatchdogd to arm. */
  watchdog: v.nullable(v.boolean()),
  /** Our rescue entry stands in the menu. */
  rescue: v.boolean(),
});

export const Facts = v.object({
  /** "xen": plain Xen with xl. "none": neither Qubes nor a dom0 of Xen. */
  platform: v.optional(v.picklist(["qubes", "xen", "none"])),
  /** What the installation calls itself (/etc/os-release), on plain Xen. */
  release: v.optional(v.nullable(v.string())),
  /** First line of /etc/qubes-release, null where the file is missing (not a Qubes host). */
  qubesRelease: v.nullable(v.string()),
  kernel: v.string(),
  bootId: v.string(),
  cmdline: v.string(),
  /** dom0's clock, seconds since the epoch. */
  now: v.number(),
  freeBytes: v.number(), // on /var/lib
  xen: v.object({
    version: v.string(),
    virtCaps: v.array(v.string()),
    totalMemory: v.number(), // MiB
    freeMemory: v.number(), // MiB
    iommu: v.nullable(v.boolean()), // null: the ring buffer no longer says
    interruptRemapping: v.nullable(v.boolean()),
  }),
  pci: v.array(PciFunction),
  boot: BootFacts,
  /** From DMI; parts of the hardware fingerprint. */
  firmware: v.object({
    vendor: v.nullable(v.string()),
    product: v.nullable(v.string()),
    bios: v.nullable(v.string()),
  }),
  /** "GenuineIntel", "AuthenticAMD" …; null where /proc/cpuinfo does not say. */
  cpu: v.nullable(v.string()),
  /** Where dom0's keyboards hang: "ps2", or "usb:" and the sbdf of the controller; null: unknown. */
  keyboards: v.nullable(v.array(v.string())),
  /** dom0's display manager runs; null: unknown. */
  lightdm: v.nullable(v.boolean()),
  /** "BAT0" …, of the machine itself; null: unknown. */
  batteries: v.optional(v.nullable(v.array(v.string()))),
  /** "intel_backlight" …; null: unknown. */
  backlights: v.optional(v.nullable(v.array(v.string()))),
});

/** A change that is neither confirmed nor undone yet; the host undoes it by itself when its time is over. Design §5. */
export const Trial = v.object({
  id: v.string(),
  phase: v.picklist(["applying", "staged", "rebooting", "trial", "verified", "confirmed", "undoing"]),
  holder: v.string(),
  owner: v.string(), // URN
  since: v.number(),
  /** Until the guard undoes it; null where no deadline runs (it waits for a boot). */
  secondsLeft: v.nullable(v.number()),
});
export type Trial = v.InferOutput<typeof Trial>;

/** What the guard did last without anybody asking; kept until the next apply of that owner. */
export const TrialOutcome = v.object({
  id: v.string(),
  owner: v.string(),
  /** "undone": a trial was put back. "rescued": a confirmed mode did not come up in a boot and was put back. "left": not all could be put back. */
  what: v.picklist(["undone", "rescued", "left"]),
  why: v.string(),
  phase: v.string(),
  at: v.number(),
  bootId: v.string(),
  left: mapOf(v.string()),
});
export type TrialOutcome = v.InferOutput<typeof TrialOutcome>;

/** What is plugged into a USB qube. Every part but the port and the holder the device itself says. */
export const UsbDevice = v.object({
  port: v.string(), // 1-2
  device: v.string(), // 0d8c:0014::u010100u010200
  name: v.nullable(v.string()),
  /** Who has it now. */
  attachment: v.nullable(v.string()),
});
export type UsbDevice = v.InferOutput<typeof UsbDevice>;

export const Snapshot = v.object({
  facts: Facts,
  qubes: mapOf(QubeSnapshot),
  globals: mapOf(PropertyValue),
  labels: v.array(v.string()),
  /** By USB qube, of those that were asked for and those of the ledger; null where that does not run, or dom0 knows of no USB devices. */
  usb: v.optional(mapOf(v.nullable(v.array(UsbDevice)))),
  /**
   * Every file of /etc/qubes/policy.d (with include/), /run/qubes/policy.d, /etc/qubes-rpc/policy, /usr/share/xsessions, /etc/lightdm/lightdm.conf.d and
   * /etc/systemd/system/qubes-vm@*.service.d, lightdm.service.d and multi-user.target.d, guidomain-login-* beside these, guidomain-* of /usr/local/libexec, and /etc/qubes/input-proxy-target; text up to 256 KiB.
   */
  files: mapOf(FileValue),
  /** Only the packages that were asked for and those of the ledger: version, or null where not installed. */
  packages: mapOf(v.nullable(v.string())),
  ledger: mapOf(LedgerEntry),
  /** "qube:name" → the mark of a secret that dom0 keeps for a qube; a host of before has none. */
  secrets: v.optional(mapOf(v.string())),
  lock: v.nullable(LockHolder),
  /** A journal left by an apply that neither finished nor was undone. The next apply undoes it first. */
  unfinished: v.nullable(v.object({ holder: v.string(), since: v.number(), keys: v.array(v.string()) })),
  trial: v.nullable(Trial),
  outcome: v.nullable(TrialOutcome),
  /** The confirmed mode that each boot must bring up, and what it rests on. */
  watch: v.nullable(
    v.object({
      qube: v.string(),
      owner: v.string(),
      tokens: v.array(v.string()),
      ports: v.array(v.string()),
    }),
  ),
});
export type Snapshot = v.InferOutput<typeof Snapshot>;
export type QubeSnapshot = v.InferOutput<typeof QubeSnapshot>;
export type Facts = v.InferOutput<typeof Facts>;
export type LedgerEntry = v.InferOutput<typeof LedgerEntry>;

export interface SnapshotArgs {
  packages: string[];
  /** USB qubes whose devices to look at. */
  usb?: string[];
}

/** A check on the running result; its evidence is kept whether it passes or not. */
export type Verification =
  /** Start the qube if it is not running and wait until its agent answers. */
  | { kind: "start"; id: string; qube: string; timeout: number }
  /** A command inside the qube as root (qvm-run); passes when it exits 0. */
  | { kind: "guest"; id: string; qube: string; command: string; timeout: number }
  /** A command in dom0; passes when it exits 0, with `until` once it does within the time. `argv`, never a shell line. */
  | { kind: "host"; id: string; argv: string[]; timeout: number; until?: true };

/** How long a change may wait, whether it needs a boot of its own, and what each boot is held to from then on. */
export interface TrialArgs {
  /** Seconds that each wait may last (for the confirmation; in a trial boot from its start) until the host undoes it. */
  seconds: number;
  /** Words of the kernel line (one part of the list rd.qubes.hide_pci each) of the trial's own boot; null: no reboot. */
  boot: { add: string[]; remove: string[] } | null;
  /**
   * A mode that each later boot must bring up in `seconds`, else the host goes back to what was before it. Null takes
   * away what the same owner had, when this change is confirmed.
   */
  watch: { qube: string; ports: string[]; ids: string[]; seconds: number; checks: Verification[] } | null;
}

/** What Salt does once the change is confirmed: what must not be there before it is known to work. */
export interface KeepArgs {
  formula: Record<string, string>;
  sls: string;
  /** Its keys: journalled from the start, as they belong to the same change. */
  touch: string[];
}

/** What Salt takes away once the ledger counts the change: what no undo could bring back. */
export interface AfterArgs {
  formula: Record<string, string>;
  sls: string;
  /** Packages of dom0 and qubes, all brought by this owner alone. Each is its owner's until it is gone. */
  keys: string[];
}

/** What a change has to do with the claims of others. */
export interface ClaimArgs {
  /** The URN under which the ledger has this owner's things, where the resource has another name by now. */
  formerly: string | null;
  /** Keys of `touch` that somebody else has, who lets go of them, or goes on waiting for them. */
  takes: Record<string, { from: string; waits: boolean }>;
  /** Keys that somebody else has and keeps, and what this owner would make of each. */
  waits: Record<string, Value>;
  /** Who has a key of `release` from then on; null: of those who wait for it nobody's qube is there. */
  heirs: Record<string, string | null>;
}

export const NO_CLAIMS: ClaimArgs = { formerly: null, takes: {}, waits: {}, heirs: {} };

/** `qubesctl --targets` for one qube. The agent starts it where it is off. */
export interface InsideArgs {
  qube: string;
  /** null: only `activate`, and that where it runs. */
  sls: string | null;
  /** Seconds. */
  timeout: number;
  /**
   * "root": a template. It has to be off before and is shut down afterwards; where the change does not come to its end, its volume goes
   * back to what it was. null: what is written does nothing by itself, and stays.
   */
  volume: "root" | null;
  /** Which of `packages` were not there before, and which of `units` not enabled ("unit:NAME"), is noted in this feature: apart by blanks. */
  brought: { feature: string; query: "rpm" | "dpkg"; packages: string[]; units: string[] } | null;
  /** A command that puts it in force in the running qube, as root; null for a template. */
  activate: string | null;
}

export interface ApplyArgs {
  /** Who is at work, for whoever finds the lock held: "alice@desk, stack lab, pid 4711". */
  holder: string;
  /** Seconds to wait for the lock. */
  wait: number;
  /** URN that will own what is touched. */
  owner: string;
  /** Everything this apply may change: read and journalled before, claimed in the ledger after. */
  touch: string[];
  /** Keys whose ownership ends when this apply succeeds. */
  release: string[];
  /**
   * Qubes to shut down before Salt runs. One that `release` or `after` gives up (deleting a created qube) and that the host does not
   * let go because it still has clients is left to `qube.absent`, which shuts it down after the formula has moved the
   * clients off. Any other is to start anew with what Salt has changed: it is shut down though clients name it, which
   * the controller has seen to have no windows there.
   */
  shutdown: string[];
  /** Path below /srv/user_salt → text. */
  formula: Record<string, string>;
  /** The state that is run: "guidomain.sys-gui"; "" when only the ledger changes (things are given up as they are). */
  sls: string;
  /** Path below the agent's Salt folder → text: `_states/…`, `_utils/…`. */
  modules: Record<string, string>;
  /**
   * "qube:name" → what dom0's service guidomain.Secret hands to that qube, and what the ledger has of it; null: it goes. Each has its key in
   * `touch`. They are in no other part of a request.
   */
  secrets: Record<string, { mark: string; value: string } | null>;
  /** What Salt does inside qubes after that, one after the other. */
  inside: InsideArgs[];
  /** What must hold after Salt, before a reboot, for the apply to count; a failure undoes the apply. */
  verify: Verification[];
  /** Running clients that may be restarted afterwards; none in a trial with a boot of its own. */
  restart: string[];
  trial: TrialArgs;
  keep: KeepArgs | null;
  after: AfterArgs | null;
  claims: ClaimArgs;
}

/** In the trial's boot: what is started there, and what must hold. */
export interface ResumeArgs {
  id: string;
  holder: string;
  start: string | null;
  /** What Salt does there inside qubes, once what is to start has. */
  inside: InsideArgs[];
  verify: Verification[];
}

/** The requests of one change in order, each over the agent of one connection. */
export const MESSAGES = {
  live: [
    { agent: 1, op: "apply" },
    { agent: 2, op: "confirm" },
    { agent: 1, op: "release" },
  ],
  boot: [
    { agent: 1, op: "apply" },
    { agent: 1, op: "reboot" },
    { agent: 2, op: "resume" },
    { agent: 3, op: "confirm" },
  ],
} as const;

export const StateResult = v.object({
  id: v.string(), // the state's __id__
  function: v.string(), // "qube.properties"
  result: v.nullable(v.boolean()),
  comment: v.string(),
  changes: mapOf(v.unknown()),
});

export const Evidence = v.object({
  id: v.string(),
  ok: v.boolean(),
  seconds: v.number(),
  /** What was seen, at most 4 KiB, control characters removed. */
  output: v.string(),
});
export type Evidence = v.InferOutput<typeof Evidence>;

/** An apply that waits: for its confirmation, or for the reboot. */
export const Waiting = v.object({
  phase: v.picklist(["verified", "staged"]),
  id: v.string(),
  states: v.array(StateResult),
  evidence: v.array(Evidence),
  restarted: v.array(v.string()),
  /** Xen's watchdog is armed for the trial's boot; null: there is none, a hang needs a hand on the power button. */
  watchdog: v.nullable(v.boolean()),
});
export const Rebooting = v.object({ boot: v.string(), watchdog: v.nullable(v.boolean()) });
export const Resumed = v.object({
  phase: v.literal("verified"),
  id: v.string(),
  evidence: v.array(Evidence),
});
export const Aborted = v.object({
  changed: v.array(v.string()),
  undone: v.array(v.string()),
  left: mapOf(v.string()),
  rebooting: v.boolean(),
});
export const Released = v.object({});
export const Checked = v.object({ evidence: v.array(Evidence) });

export const ApplyResult = v.object({
  states: v.array(StateResult),
  evidence: v.array(Evidence),
  /** Qubes that were restarted because `restart` named them. */
  restarted: v.array(v.string()),
  /** Of what should have gone for good, what is still there, each with the reason; the change counts all the same. */
  left: mapOf(v.string()),
  snapshot: Snapshot,
});
export type ApplyResult = v.InferOutput<typeof ApplyResult>;

/** Progress of an apply: `{stage: "salt", text: "12 states, 3 s"}`. */
export const Progress = v.object({ stage: v.string(), text: v.string() });
export type Progress = v.InferOutput<typeof Progress>;

export const AgentError = v.object({
  /**
   * not-qubes, unsupported-user, lock-held, conflict (another owner), outdated (planned on what has changed since), disk-full, salt-missing, salt-compile, salt-failed,
   * verify-failed, shutdown-refused, cancelled, unfinished (what an earlier apply left cannot be undone), no-guard (nothing would
   * undo the change), inside-failed (what Salt does inside a qube did not work), template-busy (it runs), no-revision (its volume could not be
   * taken back), no-one-shot (the trial's entry cannot be written or chosen), trial-over (the host has undone it: `outcome`),
   * not-yet (the trial's boot has not begun), admin-api, bad-request, internal.
   */
  code: v.string(),
  message: v.string(),
  /** salt-failed: the states that failed. */
  failed: v.optional(v.array(StateResult)),
  evidence: v.optional(v.array(Evidence)),
  /** Keys that had been changed when it failed. */
  changed: v.optional(v.array(v.string())),
  /** Those of them that were put back and read back as before. */
  undone: v.optional(v.array(v.string())),
  /** Those that could not be put back, each with the reason. */
  left: v.optional(mapOf(v.string())),
  holder: v.optional(LockHolder),
  /** The host is about to restart by itself, to leave the trial's boot. */
  rebooting: v.optional(v.boolean()),
  /** trial-over: how it ended, where the host knows. */
  outcome: v.optional(v.nullable(TrialOutcome)),
  /** trial-over: the phase it is in, where it is under way but elsewhere. */
  phase: v.optional(v.string()),
});
export type AgentErrorBody = v.InferOutput<typeof AgentError>;

/** What the agent sends for a request. */
export const Reply = v.union([
  v.object({ id: v.number(), event: Progress }),
  v.object({ id: v.number(), ok: v.unknown() }),
  v.object({ id: v.number(), error: AgentError }),
]);

/** Largest line either side accepts, bytes. */
export const MAX_LINE = 16 * 1024 * 1024;
