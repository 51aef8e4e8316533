import { test } from "uvu";
import * as assert from "uvu/assert";
import { changesOf, type HostReport, hostsOf, type SoundReport, soundsOf, summaryText } from "./summary.ts";

const ready: HostReport = {
  name: "lab",
  qube: "sys-gui",
  mode: "xephyr",
  state: "ready",
  attempts: [{ mode: "xephyr", verdict: "ok", reason: "" }],
  pending: [],
};
const none = changesOf({});
const text = (host: Partial<HostReport>, changes = none, command = "up", errors: string[] = []) =>
  summaryText(command, { changes, hosts: [{ ...ready, ...host }], sounds: [], errors }).split("\n");

test("the engine's counts in five words; reads change nothing, an import creates", () => {
  assert.equal(none, { create: 0, update: 0, delete: 0, replace: 0, same: 0 });
  assert.equal(
    changesOf({
      create: 1,
      update: 2,
      delete: 3,
      replace: 4,
      same: 5,
      read: 6,
      refresh: 7,
      import: 8,
      "create-replacement": 4,
      discard: undefined,
    }),
    {
      create: 9,
      update: 2,
      delete: 3,
      replace: 4,
      same: 5,
    },
  );
  assert.equal(changesOf({}), none, "counts do not add up over calls");
});

test("GUI domains of a state, sorted; nothing is invented", () => {
  const of = (outputs: unknown) => ({ type: "guidomain:index:GuiDomain", outputs });
  const hosts = hostsOf([
    of({
      host: "z",
      qube: "b",
      mode: "vnc",
      state: "ready",
      attempts: [{ mode: "vnc", verdict: "ok", reason: "" }],
      pending: [],
    }),
    of({ host: "a", qube: "b", looked: false, state: "ready", mode: "xephyr" }),
    of({}),
    of(undefined),
    { type: "guidomain:index:Host", outputs: { name: "a" } },
    { type: "pulumi:pulumi:Stack" },
  ]);
  assert.equal(
    hosts.map((h) => [h.name, h.qube, h.mode, h.state, h.attempts.length]),
    [
      ["a", "b", "xephyr", "not looked at", 0],
      ["unknown", "unknown", "unknown", "unknown", 0],
      ["z", "b", "vnc", "ready", 1],
    ],
  );
});

test("each state with what to do next", () => {
  assert.equal(text({}), [
    "lab: sys-gui — mode xephyr, ready",
    '  next: log out of dom0 and choose the session "GUI Domain (sys-gui)" at its greeter',
    "No changes.",
  ]);
  assert.match(
    text({ mode: "vnc" })[1] ?? "",
    /next: npm run view -- lab --qube sys-gui; or, in one of its viewers, qvm-connect-tcp 5900:@default:5900 and a viewer \(VNC\)/,
  );
  assert.match(text({ mode: "rdp" })[1] ?? "", /qvm-connect-tcp 3389:@default:3389 and a viewer \(RDP\)/);
  assert.equal(text({ state: "inUse" }), ["lab: sys-gui — mode xephyr, in use", "No changes."]);
  assert.match(
    text({ state: "drifted" }).join(" "),
    /drifted: somebody changed it since.*next: "npm run up" puts it right/,
  );
  assert.match(text({ state: "unverified" }).join(" "), /imported, not checked yet/);
  assert.match(text({ state: "not looked at" }).join(" "), /next: see that the host answers/);
  const failed = text({
    state: "failed",
    mode: "none",
    attempts: [{ mode: "xephyr", verdict: "failed", reason: "Salt failed" }],
  });
  assert.equal(failed.slice(0, 3), [
    "lab: sys-gui — mode none, failed",
    "  xephyr: failed — Salt failed",
    '  next: mend what the error names, then "npm run up" again',
  ]);
  const pending = text({
    pending: [{ kind: "restart", qubes: ["vault", "work"], why: "their windows stay" }],
  });
  assert.ok(pending.includes("  pending restart: vault, work — their windows stay"));
  assert.ok(pending.includes("  next: restart vault, work when it suits you"));
});

test("a fallback, a reboot that waits and a rescue are said plainly", () => {
  const refused = { mode: "gpu", verdict: "refused", reason: "no IOMMU in use" };
  const ok = { mode: "xephyr", verdict: "ok", reason: "" };
  assert.equal(text({ attempts: [refused, ok] }).slice(0, 3), [
    "lab: sys-gui — mode xephyr, ready",
    "  fallback: mode xephyr instead of gpu",
    "  gpu: refused — no IOMMU in use",
  ]);
  const skipped = { mode: "xephyr", verdict: "skipped", reason: "not needed" };
  const up = text({ mode: "gpu", attempts: [{ ...ok, mode: "gpu" }, skipped] });
  assert.equal(up, ["lab: sys-gui — mode gpu, ready", "No changes."]);
  const staged = text({
    mode: "dom0",
    state: "staged",
    attempts: [{ mode: "gpu", verdict: "staged", reason: "its own boot" }, skipped],
    pending: [{ kind: "reboot", why: "it is proved in a boot of its own" }],
  });
  assert.equal(staged.slice(0, 4), [
    "lab: sys-gui — mode dom0, staged: it waits for a reboot",
    "  gpu: staged — its own boot",
    "  pending reboot: it is proved in a boot of its own",
    '  next: set reboot to "allowed" and run "npm run up" when the machine may restart',
  ]);
  const rescued = text({
    mode: "dom0",
    state: "rescued",
    attempts: [{ ...refused, verdict: "failed", reason: "X shows no picture" }],
  }).join("\n");
  assert.match(rescued, /rescued: a boot did not bring it up, and the host went back by itself/);
  assert.match(rescued, /fallback: mode dom0 instead of gpu\n {2}gpu: failed — X shows no picture/);
  assert.match(rescued, /next: "npm run up" brings up what this host can do; change "retry"/);
});

test("counts and errors", () => {
  const changes = changesOf({ create: 2, delete: 1, same: 3 });
  assert.is(text({}, changes).at(-1), "Resources that were changed: 2 created, 1 deleted.");
  assert.is(text({}, changes, "preview").at(-1), "Resources that would be changed: 2 created, 1 deleted.");
  assert.equal(text({}, none, "up", ["no", "way"]).slice(-2), ["Error: no", "Error: way"]);
});

test("audio domains: where the sound is, why it stayed, what is missing", () => {
  const outputs = {
    host: "lab",
    qube: "sys-audio",
    sound: "sys-audio",
    state: "inUse",
    attempts: [],
    pending: [],
  };
  const [found] = soundsOf([
    { type: "guidomain:index:AudioDomain", outputs },
    { type: "guidomain:index:GuiDomain", outputs: {} },
  ]);
  const { host: _, ...rest } = outputs;
  assert.equal(found, { name: "lab", ...rest });
  const said = (more: Partial<SoundReport>) =>
    summaryText("up", {
      changes: none,
      hosts: [],
      sounds: [{ ...(found as SoundReport), ...more }],
      errors: [],
    }).split("\n");
  assert.equal(said({})[0], "lab: sys-audio — sound in sys-audio, in use");
  const why = { mode: "audio", verdict: "refused", reason: "no IOMMU" };
  assert.equal(said({ sound: "dom0", state: "fallback", attempts: [why] }).slice(0, 2), [
    "lab: sys-audio — sound in dom0, fallback: it stayed where it was",
    "  audio: refused — no IOMMU",
  ]);
  const restart = { kind: "restart", qubes: ["sys-audio"], why: "from its next start on" };
  assert.equal(said({ state: "staged", sound: "dom0", pending: [restart] }).slice(1, 3), [
    "  pending restart: sys-audio — from its next start on",
    '  next: restart sys-audio, then "npm run up" again',
  ]);
});

test.run();
