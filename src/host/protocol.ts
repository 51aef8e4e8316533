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
import { z } from "zod";

export const PROTOCOL = 1;

export const Hello = z.object({
  agent: z.string(), // sha256 of the source that runs
  protocol: z.literal(PROTOCOL),
  python: z.string(),
  user: z.string(),
});

export const PropertyValue = z.object({ default: z.boolean(), value: z.string() });
export const QubeValue = z.object({ class: z.string(), template: z.string().nullable(), label: z.string() });
export const FileValue = z.object({ content: z.string(), mode: z.string() });
/** A PCI assignment: only options that are on, each "True" (qubes-cli-formats.md §7). */
export const DeviceValue = z.object({ mode: z.string(), options: z.record(z.string(), z.string()) });
export const KeyValue = z.union([
  PropertyValue,
  QubeValue,
  FileValue,
  DeviceValue,
  z.string(),
  z.literal(true),
  z.null(),
]);

/** One entry of the ledger on the host: who owns this key, what it was before they did, what they made of it. */
export const LedgerEntry = z.object({
  owner: z.string(), // URN
  first: KeyValue,
  ours: KeyValue,
  /** dom0's clock when `ours` was last written, seconds since the epoch. */
  at: z.number(),
  /** Packages only: other owners that want it too. When `owner` lets go, the first of them takes its place. */
  also: z.array(z.string()).optional(),
});

export const LockHolder = z.object({ holder: z.string(), since: z.number(), pid: z.number() });

export const QubeSnapshot = z.object({
  class: z.string(),
  state: z.string(), // Running, Halted, Transient, Paused …
  /** Every property of admin.vm.property.GetAll; a property without a value is left out. */
  properties: z.record(z.string(), PropertyValue),
  features: z.record(z.string(), z.string()),
  tags: z.array(z.string()),
  /** Persistent PCI assignments (admin.vm.device.pci.Assigned). */
  pci: z.array(
    z.object({
      port: z.string(),
      device: z.string(),
      mode: z.string(),
      options: z.record(z.string(), z.string()),
    }),
  ),
  /** dom0 shows this running qube's windows now (/run/qubes/guid-running.<xid>); qubes-host.md (d) 3. */
  guidRunning: z.boolean(),
  /** A person is in its Xephyr session: a process `qubes-guivm-session <qube>` runs in dom0 (the Exec of its xsession file). */
  session: z.boolean(),
});

export const PciFunction = z.object({
  sbdf: z.string(), // 0000:00:02.0
  port: z.string().nullable(), // as the host's own list names it, 00_02.0
  class: z.string(), // 6 hex digits, 030000
  vendor: z.string(),
  device: z.string(),
  subsystem: z.string().nullable(), // vvvv:dddd
  driver: z.string().nullable(),
  /** sysfs reset_method, such as ["flr", "bus"]; null where the kernel does not say. */
  reset: z.array(z.string()).nullable(),
  name: z.string().nullable(),
  /** Of a bridge: the buses behind it, two hex digits each. */
  bridge: z.object({ secondary: z.string(), subordinate: z.string() }).nullable(),
  /** sbdf of the bridge above; null on a root bus. */
  parent: z.string().nullable(),
  /** The display that the firmware lit (sysfs boot_vga); null where sysfs does not say. */
  bootVga: z.boolean().nullable(),
  /** It has an expansion ROM that sysfs shows. */
  rom: z.boolean().nullable(),
  /** The module that its modalias would load, whatever is bound now; null where nothing is known. */
  module: z.string().nullable(),
  /** DRM connectors of a display that a driver of dom0 drives. */
  outputs: z.array(z.object({ name: z.string(), connected: z.boolean(), enabled: z.boolean() })),
  /** Input devices behind this controller: "keyboard", "mouse", "tablet". */
  inputs: z.array(z.string()),
  /** Block devices behind it that dom0 uses (mounted, swap, or below something that is). */
  disks: z.array(z.string()),
  /** Network interfaces of dom0 behind it. */
  nets: z.array(z.string()),
});
export type PciFunction = z.infer<typeof PciFunction>;

/** What decides whether a boot can be tried once and come back by itself. Unknown is null. Design §5. */
export const BootFacts = z.object({
  /** GRUB can be told to boot an entry once, and clears that by itself. */
  oneShot: z.boolean().nullable(),
  oneShotWhy: z.string(),
  /** It boots without a hand: nobody has to type a passphrase. */
  unattended: z.boolean().nullable(),
  unattendedWhy: z.string(),
  /** dom0's own initramfs script understands path ids in rd.qubes.hide_pci. */
  hidePaths: z.boolean().nullable(),
  /** Words of GRUB_CMDLINE_LINUX, a comma list of rd.qubes.hide_pci as one word for each of its parts. */
  args: z.array(z.string()),
  /** There is a xenwatchdogd to arm. */
  watchdog: z.boolean().nullable(),
  /** Our rescue entry stands in the menu. */
  rescue: z.boolean(),
});

export const Facts = z.object({
  /** First line of /etc/qubes-release, null where the file is missing (not a Qubes host). */
  qubesRelease: z.string().nullable(),
  kernel: z.string(),
  bootId: z.string(),
  cmdline: z.string(),
  /** dom0's clock, seconds since the epoch. */
  now: z.number(),
  freeBytes: z.number(), // on /var/lib
  xen: z.object({
    version: z.string(),
    virtCaps: z.array(z.string()),
    totalMemory: z.number(), // MiB
    freeMemory: z.number(), // MiB
    iommu: z.boolean().nullable(), // null: the ring buffer no longer says
    interruptRemapping: z.boolean().nullable(),
  }),
  pci: z.array(PciFunction),
  boot: BootFacts,
  /** From DMI; parts of the hardware fingerprint. */
  firmware: z.object({
    vendor: z.string().nullable(),
    product: z.string().nullable(),
    bios: z.string().nullable(),
  }),
  /** "GenuineIntel", "AuthenticAMD" …; null where /proc/cpuinfo does not say. */
  cpu: z.string().nullable(),
  /** Where dom0's keyboards hang: "ps2", or "usb:" and the sbdf of the controller; null: unknown. */
  keyboards: z.array(z.string()).nullable(),
  /** dom0's display manager runs; null: unknown. */
  lightdm: z.boolean().nullable(),
});

/** A change that is neither confirmed nor undone yet; the host undoes it by itself when its time is over. Design §5. */
export const Trial = z.object({
  id: z.string(),
  phase: z.enum(["applying", "staged", "rebooting", "trial", "verified", "confirmed", "undoing"]),
  holder: z.string(),
  owner: z.string(), // URN
  since: z.number(),
  /** Until the guard undoes it; null where no deadline runs (it waits for a boot). */
  secondsLeft: z.number().nullable(),
});
export type Trial = z.infer<typeof Trial>;

/** What the guard did last without anybody asking; kept until the next apply of that owner. */
export const TrialOutcome = z.object({
  id: z.string(),
  owner: z.string(),
  /** "undone": a trial was put back. "rescued": a confirmed mode did not come up in a boot and was put back. "left": not all could be put back. */
  what: z.enum(["undone", "rescued", "left"]),
  why: z.string(),
  phase: z.string(),
  at: z.number(),
  bootId: z.string(),
  left: z.record(z.string(), z.string()),
});
export type TrialOutcome = z.infer<typeof TrialOutcome>;

export const Snapshot = z.object({
  facts: Facts,
  qubes: z.record(z.string(), QubeSnapshot),
  globals: z.record(z.string(), PropertyValue),
  labels: z.array(z.string()),
  /**
   * Every file of /etc/qubes/policy.d (with include/), /usr/share/xsessions, /etc/lightdm/lightdm.conf.d and
   * /etc/systemd/system/qubes-vm@*.service.d, and /etc/qubes/input-proxy-target; text up to 256 KiB.
   */
  files: z.record(z.string(), FileValue),
  /** Only the packages that were asked for and those of the ledger: version, or null where not installed. */
  packages: z.record(z.string(), z.string().nullable()),
  ledger: z.record(z.string(), LedgerEntry),
  lock: LockHolder.nullable(),
  /** A journal left by an apply that neither finished nor was undone. The next apply undoes it first. */
  unfinished: z.object({ holder: z.string(), since: z.number(), keys: z.array(z.string()) }).nullable(),
  trial: Trial.nullable(),
  outcome: TrialOutcome.nullable(),
  /** The confirmed mode that each boot must bring up, and what it rests on. */
  watch: z
    .object({
      qube: z.string(),
      owner: z.string(),
      tokens: z.array(z.string()),
      ports: z.array(z.string()),
    })
    .nullable(),
});
export type Snapshot = z.infer<typeof Snapshot>;
export type QubeSnapshot = z.infer<typeof QubeSnapshot>;
export type Facts = z.infer<typeof Facts>;
export type LedgerEntry = z.infer<typeof LedgerEntry>;

export interface SnapshotArgs {
  packages: string[];
}

/** A check on the running result; its evidence is kept whether it passes or not. */
export type Verification =
  /** Start the qube if it is not running and wait until its agent answers. */
  | { kind: "start"; id: string; qube: string; timeout: number }
  /** A command inside the qube as root (qvm-run); passes when it exits 0. */
  | { kind: "guest"; id: string; qube: string; command: string; timeout: number }
  /** A command in dom0; passes when it exits 0. `argv`, never a shell line. */
  | { kind: "host"; id: string; argv: string[]; timeout: number };

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
  watch: { qube: string; ports: string[]; seconds: number; checks: Verification[] } | null;
}

/** What Salt does once the change is confirmed: what must not be there before it is known to work. */
export interface KeepArgs {
  formula: Record<string, string>;
  sls: string;
  /** Its keys: journalled from the start, as they belong to the same change. */
  touch: string[];
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
   * Qubes to shut down before Salt runs. One that `release` gives up (deleting a created qube) and that the host does not
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
  /** What must hold after Salt, before a reboot, for the apply to count; a failure undoes the apply. */
  verify: Verification[];
  /** Running clients that may be restarted afterwards; none in a trial with a boot of its own. */
  restart: string[];
  trial: TrialArgs;
  keep: KeepArgs | null;
}

/** In the trial's boot: what is started there, and what must hold. */
export interface ResumeArgs {
  id: string;
  holder: string;
  start: string | null;
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

export const StateResult = z.object({
  id: z.string(), // the state's __id__
  function: z.string(), // "qube.properties"
  result: z.boolean().nullable(),
  comment: z.string(),
  changes: z.record(z.string(), z.unknown()),
});

export const Evidence = z.object({
  id: z.string(),
  ok: z.boolean(),
  seconds: z.number(),
  /** What was seen, at most 4 KiB, control characters removed. */
  output: z.string(),
});
export type Evidence = z.infer<typeof Evidence>;

/** An apply that waits: for its confirmation, or for the reboot. */
export const Waiting = z.object({
  phase: z.enum(["verified", "staged"]),
  id: z.string(),
  states: z.array(StateResult),
  evidence: z.array(Evidence),
  restarted: z.array(z.string()),
  /** Xen's watchdog is armed for the trial's boot; null: there is none, a hang needs a hand on the power button. */
  watchdog: z.boolean().nullable(),
});
export const Rebooting = z.object({ boot: z.string(), watchdog: z.boolean().nullable() });
export const Resumed = z.object({
  phase: z.literal("verified"),
  id: z.string(),
  evidence: z.array(Evidence),
});
export const Aborted = z.object({
  changed: z.array(z.string()),
  undone: z.array(z.string()),
  left: z.record(z.string(), z.string()),
  rebooting: z.boolean(),
});
export const Released = z.object({});
export const Checked = z.object({ evidence: z.array(Evidence) });

export const ApplyResult = z.object({
  states: z.array(StateResult),
  evidence: z.array(Evidence),
  /** Qubes that were restarted because `restart` named them. */
  restarted: z.array(z.string()),
  snapshot: Snapshot,
});
export type ApplyResult = z.infer<typeof ApplyResult>;

/** Progress of an apply: `{stage: "salt", text: "12 states, 3 s"}`. */
export const Progress = z.object({ stage: z.string(), text: z.string() });
export type Progress = z.infer<typeof Progress>;

export const AgentError = z.object({
  /**
   * not-qubes, unsupported-user, lock-held, conflict (another owner), disk-full, salt-missing, salt-compile, salt-failed,
   * verify-failed, shutdown-refused, cancelled, unfinished (what an earlier apply left cannot be undone), no-guard (nothing would
   * undo the change), no-one-shot (the trial's entry cannot be written or chosen), trial-over (the host has undone it: `outcome`),
   * not-yet (the trial's boot has not begun), admin-api, bad-request, internal.
   */
  code: z.string(),
  message: z.string(),
  /** salt-failed: the states that failed. */
  failed: z.array(StateResult).optional(),
  evidence: z.array(Evidence).optional(),
  /** Keys that had been changed when it failed. */
  changed: z.array(z.string()).optional(),
  /** Those of them that were put back and read back as before. */
  undone: z.array(z.string()).optional(),
  /** Those that could not be put back, each with the reason. */
  left: z.record(z.string(), z.string()).optional(),
  holder: LockHolder.optional(),
  /** The host is about to restart by itself, to leave the trial's boot. */
  rebooting: z.boolean().optional(),
  /** trial-over: how it ended, where the host knows. */
  outcome: TrialOutcome.nullable().optional(),
  /** trial-over: the phase it is in, where it is under way but elsewhere. */
  phase: z.string().optional(),
});
export type AgentErrorBody = z.infer<typeof AgentError>;

/** What the agent sends for a request. */
export const Reply = z.union([
  z.object({ id: z.number(), event: Progress }),
  z.object({ id: z.number(), ok: z.unknown() }),
  z.object({ id: z.number(), error: AgentError }),
]);

/** Largest line either side accepts, bytes. */
export const MAX_LINE = 16 * 1024 * 1024;
