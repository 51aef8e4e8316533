/** What a plan announces is what an apply does, and what a delete takes back: over random descriptions and hosts. */
import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { formulaOf } from "../formula/formula.ts";
import { settingsOf } from "../formula/settings.ts";
import type { Snapshot } from "../host/protocol.ts";
import { Refusal } from "../model/failure.ts";
import { allPackages, type GuiDomain } from "../model/guiDomain.ts";
import type { Mode } from "../model/modes.ts";
import { secretsOf } from "../model/secrets.ts";
import type { Settings } from "../model/settings.ts";
import { hasLine, withLines, withoutLines } from "../policy/levels.ts";
import { Claims } from "../provider/claims.ts";
import { type Plan, planApply, planDelete } from "./changes.ts";
import { appliedSettings, liveSettings } from "./live.ts";
import { modeFault, preflight } from "./preflight.ts";
import { secretsRequest } from "./secrets.ts";
import { description, guiOf, holds, hostFor, OTHER_OWNER, qubeName } from "./testing/cases.ts";
import { differing, everything, explicit, HostModel, install, isShared, qube } from "./testing/hostModel.ts";
import { partsOf, sameValue, valueOf } from "./values.ts";

const OWNER = "urn:pulumi:lab::site::guidomain:index:GuiDomain::sys-gui";
const RUNS = 400;

/** How often each kind of case came up; printed, so that one sees the cases are not trivial. */
const counts = new Map<string, number>();
const count = (kind: string, times = 1) => counts.set(kind, (counts.get(kind) ?? 0) + times);

const settingsIn = (gui: GuiDomain): Settings => settingsOf(gui, gui.display[0] ?? "xephyr");

/** One `pulumi up`: what was planned, or null where it was refused before anything was touched. */
function up(host: HostModel, gui: GuiDomain, owner = OWNER): Plan | null {
  const before = host.snapshot();
  const settings = settingsIn(gui);
  const plan = planApply(gui.qube, settings, before, owner);
  try {
    preflight(gui, before);
    const fault = modeFault(gui, gui.display[0] as Mode, before, owner);
    if (fault) throw new Refusal({ resource: "x", host: "lab", ...fault });
    new Claims().claim("lab", owner, "x", plan.touch, before);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    count(`refused: ${error.parts.what.replace(/"[^"]*"/g, "…").slice(0, 40)}`);
    return null;
  }
  const applied = appliedSettings(gui.qube, settings, before);
  const formula = formulaOf({
    qube: gui.qube,
    mode: gui.display[0] ?? "",
    settings: applied,
    restores: plan.restores,
  });
  const { touch, release } = plan;
  const secrets = secretsRequest(gui.qube, plan, secretsOf(gui, gui.display[0] ?? "xephyr"));
  host.apply({ owner, touch, release, secrets, formula: formula.files, sls: formula.sls });
  return plan;
}

function destroy(host: HostModel, gui: GuiDomain, onDelete = gui.onDelete, owner = OWNER): Plan {
  const plan = planDelete(host.snapshot(), owner, onDelete);
  const formula = formulaOf({ qube: gui.qube, mode: "x", settings: null, restores: plan.restores });
  const any = plan.restores.length > 0;
  const shutdown = plan.restores.some((r) => r.key === `qube:${gui.qube}` && r.to === null) ? [gui.qube] : [];
  const { touch, release } = plan;
  host.apply({
    owner,
    touch,
    release,
    secrets: secretsRequest(gui.qube, plan, {}),
    shutdown,
    formula: any ? formula.files : {},
    sls: any ? formula.sls : "",
  });
  return plan;
}

/** Everything that differs on the host is in the plan, and everything in the plan differs. */
function checkAnnounced(plan: Plan, before: Snapshot, after: Snapshot): void {
  const made = plan.changes.flatMap(({ wish, from }) =>
    partsOf(wish.key).kind === "qube" && from === null ? [partsOf(wish.key).of] : [],
  );
  const ofMade = (key: string) =>
    made.some((name) => partsOf(key).of === name && partsOf(key).kind !== "qube");
  const differs = differing(everything(before), everything(after)).filter(
    (key) => !key.startsWith("pci of "),
  );
  const announced = [
    ...plan.changes.map((c) => c.wish.key as string),
    ...plan.restores.map((r) => r.key),
  ].sort();
  // A new qube brings all its properties along.
  assert.equal(
    differs.filter((k) => !ofMade(k)),
    announced.filter((k) => !ofMade(k)),
    "announced and done",
  );
}

function checkConverged(host: HostModel, gui: GuiDomain): void {
  const now = host.snapshot();
  const settings = settingsIn(gui);
  const plan = planApply(gui.qube, settings, now, OWNER);
  assert.equal([plan.changes, plan.restores, plan.release], [[], [], []], "nothing is left to do");
  assert.equal(liveSettings(gui.qube, settings, now), settings, "the live host shows as described");
  assert.ok(
    plan.touch.every((key) => now.ledger[key]),
    "everything is claimed",
  );
}

const cases = fc
  .record({ name: qubeName, args: description, next: description })
  .chain(({ name, args, next }) => {
    const gui = guiOf(name, args);
    return fc.record({
      gui: fc.constant(gui),
      next: fc.constant(guiOf(name, { ...next, onDelete: args["onDelete"] })),
      live: hostFor(gui),
      meddle: fc.array(fc.nat(), { maxLength: 4 }),
    });
  });

const shared = ({ files }: Snapshot) => Object.entries(files).filter(([path]) => isShared(path));

/** Somebody changes a few of the things that we have touched. Returns their keys. */
function meddle(host: HostModel, gui: GuiDomain, picks: number[]): string[] {
  const { ledger } = host.snapshot();
  const keys = Object.keys(ledger).filter(
    (key) => ledger[key]?.owner === OWNER && !key.startsWith("qube:") && !key.startsWith("package:"),
  );
  const chosen = [...new Set(picks.map((n) => keys[n % keys.length] ?? ""))].filter((key) => {
    const { kind, of, name } = partsOf(key);
    // Not where Qubes would refuse the change or the later removal; of secrets somebody has no use.
    return key !== "" && kind !== "secret" && !(kind === "property" && name !== "maxmem" && of === gui.qube);
  });
  host.byHand((now) => {
    for (const key of chosen) {
      const { kind, of, name } = partsOf(key);
      const its = now.qubes[of];
      if (kind === "property" && its)
        its.properties[name] = explicit(name === "maxmem" ? "1234" : "sys-audio");
      else if (kind === "feature" && its) its.features[name] = "by hand";
      else if (kind === "global") now.globals[name] = explicit("sys-audio");
      else if (kind === "file") now.files[name] = { content: "# by hand\n", mode: "0644" };
      else if (kind === "line" && now.files[of]) {
        const file = now.files[of];
        file.content = (hasLine(file.content, name) ? withoutLines : withLines)(file.content, [name]);
      }
    }
  });
  return chosen;
}

test("what is announced is what is done, done once, and taken back as it was", () => {
  holds(
    fc.property(cases, ({ gui, next, live, meddle: picks }) => {
      const host = new HostModel(live);
      const original = host.snapshot();
      const settings = settingsIn(gui);
      const same = sameValue(liveSettings(gui.qube, settings, original), settings);
      const first = up(host, gui);
      if (!first) {
        assert.equal(host.snapshot(), original, "a refusal touches nothing");
        return;
      }
      count("applied");
      const adopted = original.qubes[gui.qube] !== undefined;
      count(adopted ? "qube: adopted" : "qube: created");
      count(
        `changes announced: ${first.changes.length === 0 ? "none" : first.changes.length < 10 ? "1 to 9" : "10 and more"}`,
      );
      if (Object.values(original.qubes).some((q) => q.pci.some((d) => d.port === "00_14.0")))
        count("foreign assignment to any device");
      if (gui.clients === "default") count("clients: default");
      assert.is(first.changes.length === 0, same, "a difference is seen if and only if there is one");
      checkAnnounced(first, original, host.snapshot());
      checkConverged(host, gui);

      const between = host.snapshot();
      const second = up(host, next);
      if (second) {
        count(second.restores.length ? "update: some values go back" : "update: no value goes back");
        checkAnnounced(second, between, host.snapshot());
        checkConverged(host, next);
      } else assert.equal(host.snapshot(), between);

      const theirs = meddle(host, gui, picks);
      const meddled = everything(host.snapshot());
      if (theirs.length) count("somebody changed values");
      const plan = destroy(host, gui);
      const after = host.snapshot();
      count(`delete: ${gui.onDelete}`);
      assert.ok(
        !Object.values(after.ledger).some((e) => e.owner === OWNER || e.also?.includes(OWNER)),
        "nothing is ours any more",
      );
      assert.equal(Object.keys(after.ledger), Object.keys(original.ledger), "others own what they owned");
      if (gui.onDelete === "keep") {
        assert.equal(everything(after), meddled, "keep changes nothing");
        return;
      }
      if (adopted)
        assert.ok(
          !plan.restores.some((r) => partsOf(r.key).kind === "qube" && r.to === null),
          "an adopted qube stays",
        );
      const gone = (key: string) => !adopted && partsOf(key).of === gui.qube && partsOf(key).kind !== "qube";
      const kept = theirs.filter((key) => !gone(key));
      const expected = {
        ...everything(original),
        ...Object.fromEntries(kept.map((key) => [key, meddled[key]])),
      };
      assert.equal(differing(everything(after), expected), [], "as before, but for what somebody changed");
      const isLine = (key: string) => key.startsWith("line:");
      if (first.touch.some(isLine)) count("lines of files that others write to as well");
      if (first.touch.some((key) => isLine(key) && valueOf(original, key) !== null))
        count("one of these lines was there");
      if (!kept.some(isLine)) assert.equal(shared(after), shared(original), "byte by byte");
    }),
    RUNS,
  );
  const width = Math.max(...[...counts.keys()].map((k) => k.length));
  for (const [kind, n] of [...counts].sort()) console.log(`  ${kind.padEnd(width)} ${n}`);
  // Each kind that the test is about came up.
  for (const kind of [
    "qube: adopted",
    "qube: created",
    "update: some values go back",
    "somebody changed values",
    "delete: keep",
    "lines of files that others write to as well",
    "one of these lines was there",
  ])
    assert.ok((counts.get(kind) ?? 0) > RUNS / 50, `too few cases of "${kind}"`);
});

test("two GUI domains on one host share packages, and leave it as it was in whatever order they go", () => {
  const B = OWNER.replace("sys-gui", "second");
  const pair = fc
    .record({ args: description, other: description, live: fc.nat(), order: fc.boolean() })
    .chain(({ args, other, order }) => {
      const a = guiOf("sys-gui", {
        ...args,
        clients: ["work"],
        onDelete: "restore",
        session: "choose",
        sessionUser: undefined,
      });
      const b = guiOf("second", {
        ...other,
        clients: ["vault"],
        onDelete: "restore",
        session: "choose",
        sessionUser: undefined,
      });
      const vncSession = (g: GuiDomain) => ({ ...g, session: "choose" as const });
      return fc.record({
        a: fc.constant(vncSession(a)),
        b: fc.constant(vncSession(b)),
        live: hostFor(a),
        order: fc.constant(order),
      });
    });
  let packages = 0;
  holds(
    fc.property(pair, ({ a, b, live, order }) => {
      const host = new HostModel(live);
      const original = host.snapshot();
      if (!up(host, a)) return;
      if (!up(host, b, B)) return;
      const { ledger } = host.snapshot();
      if (Object.values(ledger).some((e) => e.also?.length)) packages++;
      checkConverged(host, a);
      for (const [gui, owner] of order
        ? ([
            [a, OWNER],
            [b, B],
          ] as const)
        : ([
            [b, B],
            [a, OWNER],
          ] as const)) {
        destroy(host, gui, "restore", owner);
        const left = host.snapshot();
        const other = owner === B ? a : b;
        if (Object.values(left.ledger).some((e) => e.owner === (owner === B ? OWNER : B)))
          for (const name of allPackages(other)) assert.ok(left.packages[name], `${name} is still wanted`);
      }
      assert.equal(differing(everything(host.snapshot()), everything(original)), []);
      assert.equal(shared(host.snapshot()), shared(original));
      assert.equal(host.snapshot().ledger, original.ledger);
    }),
    150,
  );
  console.log(`  two GUI domains that shared a package: ${packages} of 150`);
  assert.ok(packages > 20);
});

// --------------------------------------------------------------------------------------- single rules

const entry = (first: unknown, ours: unknown, more = {}) =>
  ({ owner: OWNER, first, ours, at: 1, ...more }) as Snapshot["ledger"][string];
const restoresOf = (snapshot: Snapshot) =>
  planDelete(new HostModel(snapshot).snapshot(), OWNER, "restore").restores;

test("a package that was there before stays, whatever version it has by now; one of ours goes though it was updated", () => {
  const there = install({ packages: { p: "2" }, ledger: { "package:p": entry("1", "2") } });
  assert.equal(restoresOf(there), []);
  const ours = install({ packages: { p: "2" }, ledger: { "package:p": entry(null, "1") } });
  assert.equal(restoresOf(ours), [{ key: "package:p", to: null }]);
  const shared = install({
    packages: { p: "2" },
    ledger: { "package:p": entry(null, "1", { also: [OTHER_OWNER] }) },
  });
  assert.equal(restoresOf(shared), []);
  assert.equal(planDelete(shared, OWNER, "restore").release, ["package:p"]);
  const second = install({
    packages: { p: "2" },
    ledger: { "package:p": { ...entry(null, "1"), owner: OTHER_OWNER, also: [OWNER] } },
  });
  assert.equal(planDelete(second, OWNER, "restore").release, ["package:p"]);
});

test("a qube of another class under the name of one that we made is somebody else's", () => {
  const ledger = {
    "qube:sys-gui": entry(null, { class: "AppVM", template: "fedora-43-xfce", label: "black" }),
    "property:sys-gui:maxmem": entry(null, { default: false, value: "4000" }),
  };
  assert.equal(restoresOf(install({ ledger, qubes: { "sys-gui": qube({ class: "StandaloneVM" }) } })), []);
  const relabelled = install({ ledger, qubes: { "sys-gui": qube({ label: "blue" }) } });
  assert.equal(restoresOf(relabelled), [{ key: "qube:sys-gui", to: null }]);
  assert.equal(restoresOf(install({ ledger })), [], "gone already");
});

test("an adopted qube gets its template and label back, unless somebody changed them since", () => {
  const first = { class: "AppVM", template: "debian-13-xfce", label: "red" };
  const ledger = {
    "qube:sys-gui": entry(first, { class: "AppVM", template: "fedora-43-xfce", label: "black" }),
  };
  assert.equal(restoresOf(install({ ledger, qubes: { "sys-gui": qube({ label: "black" }) } })), [
    { key: "qube:sys-gui", to: first },
  ]);
  assert.equal(restoresOf(install({ ledger, qubes: { "sys-gui": qube({ label: "blue" }) } })), []);
});

test.run();
