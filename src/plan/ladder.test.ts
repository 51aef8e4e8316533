/** The ladder for every order of rungs and random outcomes: it ends, with a screen, and says why for each rung. */
import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { Mode, Rung } from "../model/modes.ts";
import {
  beginLadder,
  fallbackOf,
  type Ladder,
  type LadderEvent,
  type LadderStart,
  type Remembered,
  screenOf,
  step,
} from "./ladder.ts";

const key = { hardware: "h1", inputs: "i1", retry: "" };
const keys = { gpu: key, xephyr: key, vnc: key, dom0: key };
const start = (rungs: Rung[], more: Partial<LadderStart> = {}): Ladder =>
  beginLadder({ rungs, before: "dom0", reboot: "allowed", keys, remembered: [], ...more });

const go: LadderEvent = { is: "judged", verdict: "go", reasons: [], needsReboot: false };
const boots: LadderEvent = { ...go, needsReboot: true };
const no: LadderEvent = { ...go, verdict: "no", reasons: ["no IOMMU"] };
const unknown: LadderEvent = { ...go, verdict: "unknown", reasons: ["the reset method is not known"] };
const failed: LadderEvent = {
  is: "failed",
  why: "black screen",
  evidence: [],
  undone: true,
  shown: true,
  reset: false,
};
/** A package that could not be had, a cut line: nothing that rests on the machine. */
const byChance: LadderEvent = { ...failed, why: "no package", shown: false };
const stuck: LadderEvent = { ...failed, undone: false };
const reset: LadderEvent = { ...failed, why: "the host reset", reset: true };
const cut: LadderEvent = { is: "cut", why: "the line was lost" };
const up: LadderEvent = { is: "cameUp" };

const run = (ladder: Ladder, ...events: LadderEvent[]) => events.reduce(step, ladder);
const verdicts = (ladder: Ladder) => ladder.attempts.map((a) => `${a.mode} ${a.verdict}`);

test("the best rung that comes up is the end, and the others say that they are not needed", () => {
  const ladder = run(start(["gpu", "xephyr", "vnc"]), boots, up);
  assert.equal(ladder.end, { kind: "up", mode: "gpu" });
  assert.equal(verdicts(ladder), ["gpu ok", "xephyr skipped", "vnc skipped"]);
  assert.is(ladder.attempts[1]?.reason, 'not needed: "gpu" is in force');
  assert.is(fallbackOf(ladder), null);
});

test("refused, and failed when tried: the next rung, with the reasons of those above", () => {
  const ladder = run(start(["gpu", "vnc", "xephyr"]), no, go, failed, go, up);
  assert.equal(verdicts(ladder), ["gpu refused", "vnc failed", "xephyr ok"]);
  assert.is(
    fallbackOf(ladder),
    'mode "gpu" was refused: no IOMMU; mode "vnc" was tried and failed: black screen',
  );
  assert.equal(
    ladder.remembered.map((r) => r.mode),
    ["vnc"],
    "a refusal costs nothing and is judged anew each time",
  );
});

test("unknown is not no: it is tried, since a trial undoes itself", () => {
  assert.is(run(start(["gpu"]), unknown).doing, "try");
});

test("a reboot that is not allowed: staged, everything stays", () => {
  const ladder = run(start(["gpu", "xephyr"], { reboot: "never", before: "vnc" }), boots);
  assert.equal([ladder.end, screenOf(ladder)], [{ kind: "staged", mode: "gpu" }, "vnc"]);
  assert.equal(verdicts(ladder), ["gpu staged", "xephyr skipped"]);
  assert.equal(run(start(["gpu", "xephyr"], { reboot: "never" }), no, go, up).end, {
    kind: "up",
    mode: "xephyr",
  });
});

test("what could not be undone, and a cut line, end the run", () => {
  const left = run(start(["gpu", "xephyr"], { before: "xephyr" }), go, stuck);
  assert.equal([left.end?.kind, screenOf(left)], ["stuck", "dom0"]);
  assert.match(left.attempts[1]?.reason ?? "", /could not all be put back/);
  const lost = run(start(["gpu", "xephyr"], { before: "xephyr" }), go, cut);
  assert.equal([lost.end?.kind, screenOf(lost), lost.remembered], ["cut", "xephyr", []]);
});

test("no rung left: as before", () => {
  const ladder = run(start(["gpu", "xephyr"], { before: "vnc" }), no, go, failed);
  assert.equal([ladder.end, screenOf(ladder)], [{ kind: "below" }, "vnc"]);
});

test("a failed rung waits for other circumstances; after a reset of the host only for somebody's decision", () => {
  const after = (event: LadderEvent) => run(start(["gpu", "xephyr"]), boots, event, go, up).remembered;
  const again = (remembered: readonly Remembered[], changed: object) =>
    start(["gpu", "xephyr"], { remembered, keys: { ...keys, gpu: { ...key, ...changed } } });
  const skips = (ladder: Ladder) => ladder.left[0] === "xephyr";
  for (const event of [failed, reset]) {
    const known = after(event);
    const unchanged = again(known, {});
    assert.ok(skips(unchanged));
    assert.equal(verdicts(unchanged), ["gpu failed"]);
    assert.match(unchanged.attempts[0]?.reason ?? "", /\(not tried again until .*retry.* changes?\)/);
    assert.equal(unchanged.remembered, known, "it is still known");
    assert.not(skips(again(known, { inputs: "i2" })));
    assert.not(skips(again(known, { retry: "2" })));
    assert.is(skips(again(known, { hardware: "h2" })), event === reset);
    assert.equal(again(known, { retry: "2" }).remembered, [], "what no longer holds is forgotten");
  }
});

test("what dom0 itself drives is left out too while another mode comes up, until something changes", async () => {
  const { remembered } = run(start(["xephyr", "vnc"]), go, failed, go, up);
  const again = start(["xephyr", "vnc"], { before: "vnc", remembered });
  assert.equal(again.left, ["vnc"]);
  const ladder = run(again, go, up);
  assert.equal([verdicts(ladder), ladder.remembered], [["xephyr failed", "vnc ok"], remembered]);
  assert.match(
    fallbackOf(ladder) ?? "",
    /"xephyr" was tried and failed: black screen \(not tried again until .*retry/,
  );
  for (const changed of [{ hardware: "h2" }, { inputs: "i2" }, { retry: "2" }])
    assert.equal(
      start(["xephyr", "vnc"], { remembered, keys: { ...keys, xephyr: { ...key, ...changed } } }).left,
      ["xephyr", "vnc"],
    );
  for (const event of [byChance, { ...byChance, reset: true }])
    assert.equal(
      run(start(["xephyr", "vnc"]), go, event, go, up).remembered,
      [],
      "it may work in the next run",
    );
});

test("where nothing else comes up, what failed before is tried after all: it costs no boot", () => {
  const remembered = run(start(["xephyr", "gpu", "vnc"]), go, failed, no, go, up).remembered;
  const ladder = start(["xephyr", "gpu", "vnc"], { remembered });
  assert.equal(ladder.left, ["gpu", "vnc"]);
  const last = run(ladder, no, go, byChance);
  assert.equal([last.doing, last.left, last.remembered], ["judge", ["xephyr"], []]);
  const end = run(last, go, up);
  assert.equal(verdicts(end), ["xephyr ok", "gpu refused", "vnc failed"], "in the ladder's order");
  assert.equal([end.end, end.remembered, fallbackOf(end)], [{ kind: "up", mode: "xephyr" }, [], null]);
  const still = run(last, go, failed);
  assert.equal([still.end, still.remembered.map((r) => r.mode)], [{ kind: "below" }, ["xephyr"]]);
  const only = run(start(["xephyr"]), go, failed);
  assert.equal(start(["xephyr"], { remembered: only.remembered }).left, ["xephyr"], "in each run");
  const gpu = run(start(["gpu"]), boots, failed);
  assert.equal(
    start(["gpu"], { remembered: gpu.remembered }).end,
    { kind: "below" },
    "that would cost a boot",
  );
});

test("told what was not asked for", () => {
  assert.throws(() => step(start(["gpu"]), up), /at "judge", and was told "cameUp"/);
  assert.throws(() => run(start(["gpu"]), no, go), /at "end", and was told "judged"/);
});

const rungs = fc
  .tuple(fc.shuffledSubarray<Mode>(["gpu", "xephyr", "vnc"], { minLength: 1 }), fc.boolean())
  .map(([modes, spelled]): Rung[] => (spelled ? [...modes, "dom0"] : modes));
const judged = fc.record({
  is: fc.constant("judged" as const),
  verdict: fc.constantFrom("go", "unknown", "no"),
  reasons: fc.constant(["why not"]),
  needsReboot: fc.boolean(),
});
const tried = fc.oneof(
  fc.constant(up),
  fc.constant(cut),
  fc.record({
    is: fc.constant("failed" as const),
    why: fc.constant("why"),
    evidence: fc.constant([]),
    undone: fc.boolean(),
    shown: fc.boolean(),
    reset: fc.boolean(),
  }),
);

test("for random outcomes it ends with a screen, each rung at most once, a reason for each that is not up", () => {
  const ends = new Map<string, number>();
  fc.assert(
    fc.property(
      rungs,
      fc.constantFrom<Rung>("dom0", "gpu", "xephyr", "vnc"),
      fc.constantFrom("never", "allowed"),
      fc.array(fc.tuple(judged, tried), { minLength: 4, maxLength: 4 }),
      fc.subarray<Rung>(["gpu", "xephyr", "vnc"]),
      (order, before, reboot, outcomes, knownBad) => {
        const remembered = knownBad.map((mode) => ({
          mode,
          reason: "before",
          key,
          reset: false,
        }));
        let ladder = start(order, { before, reboot, remembered });
        const triedRungs: Rung[] = [];
        const decided: Rung[] = [];
        const costly: Rung[] = [];
        for (let i = 0; ladder.doing !== "end"; ) {
          assert.ok(i < order.length, "it goes on longer than there are rungs");
          const [judgement, outcome] = outcomes[i] as (typeof outcomes)[number];
          const [rung] = ladder.left;
          if (ladder.doing === "judge") {
            ladder = step(ladder, judgement);
            if (judgement.verdict === "no") {
              decided.push(rung as Rung);
              i++;
            }
          } else {
            assert.not(triedRungs.includes(rung as Rung), "once");
            if (knownBad.includes(rung as Rung)) {
              assert.is.not(rung, "gpu", "it would cost a boot again");
              const others = order.filter((mode) => !knownBad.includes(mode));
              assert.ok(
                others.every((mode) => decided.includes(mode)),
                "what failed before only when all else is of no use",
              );
            }
            triedRungs.push(rung as Rung);
            decided.push(rung as Rung);
            if (outcome.is === "failed" && (outcome.shown || (outcome.reset && rung === "gpu")))
              costly.push(rung as Rung);
            ladder = step(ladder, outcome);
            i++;
          }
        }
        const { end } = ladder;
        ends.set(end?.kind ?? "none", (ends.get(end?.kind ?? "none") ?? 0) + 1);
        assert.ok(["gpu", "xephyr", "vnc", "dom0"].includes(screenOf(ladder)), "a screen");
        if (end?.kind === "up") assert.ok(triedRungs.includes(end.mode) && screenOf(ladder) === end.mode);
        if (end?.kind === "below" || end?.kind === "staged" || end?.kind === "cut")
          assert.is(screenOf(ladder), before, "as before");
        assert.equal(
          ladder.attempts.map((a) => a.mode),
          order,
          "each rung has its say, in the ladder's order",
        );
        for (const { mode, verdict, reason } of ladder.attempts)
          assert.is(reason === "", verdict === "ok", `${mode}: ${verdict}, and the reason is "${reason}"`);
        for (const mode of triedRungs) {
          const cameUp = end?.kind === "up" && end.mode === mode;
          if (!cameUp && end?.kind !== "cut")
            assert.is(
              ladder.remembered.some((r) => r.mode === mode),
              costly.includes(mode),
              `${mode} failed: is it remembered?`,
            );
          if (cameUp) assert.not(ladder.remembered.some((r) => r.mode === mode));
        }
      },
    ),
    { numRuns: 2000 },
  );
  for (const kind of ["up", "staged", "below", "stuck", "cut"])
    assert.ok((ends.get(kind) ?? 0) > 20, `too few ends of kind ${kind}: ${JSON.stringify([...ends])}`);
});

test.run();
