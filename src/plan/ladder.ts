/**
 * The ladder: which rung is tried next, and what is known at its end. A state machine without I/O: whoever drives it asks `doing`,
 * does that, and reports an event. Design §5.
 *
 *     judging ──no, or it failed before──▶ next rung        trying ──came up──▶ end "up"
 *        │  ╲──needs a reboot that is not allowed──▶ end "staged"  │  ╲──failed, undone──▶ next rung
 *        ▼                                                         ├──failed, not undone──▶ end "stuck"
 *     trying                                                       └──cut──▶ end "cut"
 *
 * A rung that failed before is left out. A mode that dom0 itself drives costs no boot, though, and where nothing else comes up it is
 * tried after all. Below the last rung lies "as before": whatever drove the screen when the run began. No end is without a screen.
 */
import type { Evidence } from "../host/protocol.ts";
import type { Rung } from "../model/modes.ts";

export interface Attempt {
  mode: Rung;
  verdict: "ok" | "refused" | "failed" | "staged" | "skipped";
  /** In the user's words; empty only for "ok". */
  reason: string;
  /** What the checks of a failed rung saw. */
  evidence?: readonly Evidence[];
}

/** What a rung's result depends on, each a text that is equal or not. */
export interface RungKey {
  /** GPU, firmware, Xen, kernel and template. */
  hardware: string;
  /** Digest of what the description asks for in this mode. */
  inputs: string;
  retry: string;
}

/** A rung that did not come up, and under what circumstances. */
export interface Remembered {
  mode: Rung;
  reason: string;
  key: RungKey;
  /** The host hung or reset: other hardware facts are no reason to try that again. */
  reset: boolean;
  evidence?: readonly Evidence[];
}

export type LadderEvent =
  | { is: "judged"; verdict: "go" | "unknown" | "no"; reasons: readonly string[]; needsReboot: boolean }
  | { is: "cameUp" }
  | {
      is: "failed";
      why: string;
      evidence: readonly Evidence[];
      undone: boolean;
      /** Its checks have seen that the mode does not work on this machine; for a display, in a boot of its own. */
      shown: boolean;
      /** The host hung or reset in it. */
      reset: boolean;
    }
  /** The line is lost; the host ends the trial by itself, and nobody here knows how. */
  | { is: "cut"; why: string };

export type End =
  | { kind: "up"; mode: Rung }
  | { kind: "staged"; mode: Rung }
  /** No rung is left: as before. */
  | { kind: "below" }
  | { kind: "stuck"; mode: Rung; why: string }
  | { kind: "cut"; mode: Rung; why: string };

export interface Ladder {
  readonly rungs: readonly Rung[];
  /** What drove the screen when the run began. */
  readonly before: Rung;
  readonly reboot: "never" | "allowed";
  readonly keys: Readonly<Partial<Record<Rung, RungKey>>>;
  /** Not decided yet, the present one first. */
  readonly left: readonly Rung[];
  /** Left out so far, since they failed before; best first. */
  readonly spared: readonly Rung[];
  readonly doing: "judge" | "try" | "end";
  readonly attempts: readonly Attempt[];
  readonly remembered: readonly Remembered[];
  readonly end: End | null;
}

export interface LadderStart {
  rungs: readonly Rung[];
  before: Rung;
  reboot: "never" | "allowed";
  keys: Readonly<Partial<Record<Rung, RungKey>>>;
  remembered: readonly Remembered[];
}

export function beginLadder({ rungs, before, reboot, keys, remembered }: LadderStart): Ladder {
  const start: Ladder = {
    rungs,
    before,
    reboot,
    keys,
    left: rungs,
    spared: [],
    doing: "judge",
    attempts: [],
    remembered: remembered.filter((r) => rungs.includes(r.mode) && holds(r, keys[r.mode])),
    end: null,
  };
  return climb(start);
}

/** Whether what was learnt still says something. */
export function holds(failed: Pick<Remembered, "key" | "reset">, now: RungKey | undefined): boolean {
  if (!now || failed.key.inputs !== now.inputs || failed.key.retry !== now.retry) return false;
  return failed.reset || failed.key.hardware === now.hardware;
}

/** Leaves out rungs that failed before, as long as there are others, and ends where none is left. */
function climb(ladder: Ladder): Ladder {
  const [rung] = ladder.left;
  if (rung === undefined) return ladder.spared.length ? afterAll(ladder) : finish(ladder, { kind: "below" });
  const failed = ladder.remembered.find((r) => r.mode === rung);
  if (!failed) return { ...ladder, doing: "judge" };
  const until = failed.reset
    ? "what is asked for, or retry, changes"
    : "the hardware, its firmware, Xen, the kernel, the template, what is asked for, or retry changes";
  const spared = rung === "gpu" ? ladder.spared : [...ladder.spared, rung];
  const leftOut = { ...ladder, spared };
  return next(leftOut, {
    mode: rung,
    verdict: "failed",
    reason: `${failed.reason} (not tried again until ${until})`,
    ...(failed.evidence && { evidence: failed.evidence }),
  });
}

const afterAll = (ladder: Ladder): Ladder => {
  const others = ({ mode }: { mode: Rung }) => !ladder.spared.includes(mode);
  return climb({
    ...ladder,
    left: ladder.spared,
    spared: [],
    attempts: ladder.attempts.filter(others),
    remembered: ladder.remembered.filter(others),
  });
};

const next = (ladder: Ladder, attempt: Attempt): Ladder =>
  climb({ ...ladder, left: ladder.left.slice(1), attempts: [...ladder.attempts, attempt] });

export function step(ladder: Ladder, event: LadderEvent): Ladder {
  const [mode] = ladder.left;
  const expected = event.is === "judged" ? "judge" : "try";
  if (mode === undefined || ladder.doing !== expected)
    throw new Error(`the ladder is at "${ladder.doing}", and was told "${event.is}"`);
  switch (event.is) {
    case "judged":
      if (event.verdict === "no")
        return next(ladder, { mode, verdict: "refused", reason: event.reasons.join("; ") });
      if (event.needsReboot && ladder.reboot === "never")
        return finish(ladder, { kind: "staged", mode }, { mode, verdict: "staged", reason: STAGED });
      return { ...ladder, doing: "try" };
    case "cameUp":
      return finish(ladder, { kind: "up", mode }, { mode, verdict: "ok", reason: "" });
    case "failed": {
      const { why, evidence, undone, shown, reset } = event;
      const attempt: Attempt = { mode, verdict: "failed", reason: why, evidence };
      // Only what rests on the machine would fail again: not a package that could not be had, a killed Salt, or a cut line. A reset may
      // have had any cause, and is remembered only where it would cost the next one.
      const key = shown || (reset && mode === "gpu") ? ladder.keys[mode] : undefined;
      const remembered = key
        ? [...ladder.remembered, { mode, reason: why, key, reset, evidence }]
        : ladder.remembered;
      const learnt = { ...ladder, remembered };
      return undone ? next(learnt, attempt) : finish(learnt, { kind: "stuck", mode, why }, attempt);
    }
    case "cut":
      return finish(
        ladder,
        { kind: "cut", mode, why: event.why },
        { mode, verdict: "failed", reason: event.why },
      );
  }
}

export const STAGED = 'it is tried in a boot of its own, and reboot is "never"';

/** Every rung that is not reached gets its reason. */
function finish(ladder: Ladder, end: End, attempt?: Attempt): Ladder {
  const rest = attempt ? ladder.left.slice(1) : ladder.left;
  const skipped = rest.map((mode): Attempt => ({ mode, verdict: "skipped", reason: whyNot(end) }));
  const place = ({ mode }: Attempt) => ladder.rungs.indexOf(mode);
  const attempts = [...ladder.attempts, ...(attempt ? [attempt] : []), ...skipped].sort(
    (a, b) => place(a) - place(b),
  );
  const remembered = ladder.remembered.filter((r) => end.kind !== "up" || r.mode !== end.mode);
  return { ...ladder, left: [], doing: "end", attempts, remembered, end };
}

function whyNot(end: End): string {
  switch (end.kind) {
    case "up":
      return `not needed: "${end.mode}" is in force`;
    case "staged":
      return `not needed: "${end.mode}" waits for a reboot, and until then all stays as it is`;
    case "stuck":
      return `not tried: what "${end.mode}" had changed could not all be put back`;
    case "cut":
      return `not tried: the line was cut while "${end.mode}" was tried`;
    case "below":
      return "not reached";
  }
}

/** What drives the screen at the end. */
export function screenOf({ before, end }: Pick<Ladder, "before" | "end">): Rung {
  if (end?.kind === "up") return end.mode;
  // What could not be put back is no display mode: the kernel's arguments of a trial end with its boot, and dom0 has its screen.
  return end?.kind === "stuck" ? "dom0" : before;
}

/** A rung that is not the best one came up because better ones did not: their reasons, worst news first said. */
export function fallbackOf({ attempts, end }: Pick<Ladder, "attempts" | "end">): string | null {
  if (end?.kind !== "up") return null;
  const above = attempts.slice(
    0,
    attempts.findIndex(({ mode }) => mode === end.mode),
  );
  const better = above.filter((a) => a.verdict === "refused" || a.verdict === "failed");
  if (better.length === 0) return null;
  return better
    .map(
      ({ mode, verdict, reason }) =>
        `mode "${mode}" was ${verdict === "refused" ? "refused" : "tried and failed"}: ${reason}`,
    )
    .join("; ");
}
