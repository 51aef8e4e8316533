/**
 * What a preview announces is what our formula announces to real Salt under test=True, and what an apply does: over random
 * descriptions and random dom0s, on real OpenSSH, agent, Salt and the twin. The same rules as src/plan/changes.test.ts, whose hosts
 * are in memory; here the twin's dump is the witness, read past the agent.
 *
 * GUIDOMAIN_SEED and GUIDOMAIN_CASES choose other cases.
 */
import { readFileSync } from "node:fs";
import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { TwinDump } from "../lab/twin/dump.ts";
import { startTwin } from "../lab/twin/twin.ts";
import { type Formula, formulaOf } from "../src/formula/formula.ts";
import { saltModules } from "../src/formula/modules.ts";
import { settingsOf } from "../src/formula/settings.ts";
import { parseHosts } from "../src/host/inventory.ts";
import { HostPool } from "../src/host/pool.ts";
import type { Snapshot, Verification } from "../src/host/protocol.ts";
import { Refusal } from "../src/model/failure.ts";
import type { GuiDomain } from "../src/model/guiDomain.ts";
import type { KeyValue } from "../src/model/keys.ts";
import type { Settings } from "../src/model/settings.ts";
import { type Plan, planApply, planDelete } from "../src/plan/changes.ts";
import { appliedSettings, liveSettings } from "../src/plan/live.ts";
import { modeFault, preflight, preflightRestore, startsAnew } from "../src/plan/preflight.ts";
import { description, guiOf, hostFor, OTHER_OWNER, qubeName } from "../src/plan/testing/cases.ts";
import { HostModel } from "../src/plan/testing/hostModel.ts";
import { partsOf, sameValue, valueOf } from "../src/plan/values.ts";
import { verificationsOf } from "../src/plan/verify.ts";
import { Claims } from "../src/provider/claims.ts";
import { diffByPath, parsePath } from "../src/provider/diff.ts";
import type { Properties } from "../src/provider/handler.ts";
import { withoutGone } from "../src/provider/rungRequest.ts";
import { hostOf, scratch } from "./harness.ts";

const CASES = Number(process.env["GUIDOMAIN_CASES"] ?? 6);
const SEED = Number(process.env["GUIDOMAIN_SEED"] ?? 20260701);
const OWNER = "urn:pulumi:lab::site::guidomain:index:GuiDomain::sys-gui";

const folder = scratch("convergence");
const twin = await startTwin({
  dir: `${folder}/twin`,
  world: {
    repository: { "extra-tool": "1.0" },
    templates: {
      "debian-13-xfce": { packages: { "qubes-vm-guivm": "4.3.6", lightdm: "1.32.0", x11vnc: "0.9.17" } },
    },
  },
});
const packages = ["dummy-psu-sender", "dummy-backlight-dom0", "extra-tool"];
const pool = new HostPool({ hosts: parseHosts({ lab: hostOf(twin) }, "this test"), packages });
const session = pool.session("lab");
const modules = await saltModules();

/** How often each kind of case came up; printed, so that one sees that the cases are not trivial. */
const counts = new Map<string, number>();
const count = (kind: string) => counts.set(kind, (counts.get(kind) ?? 0) + 1);

// ---------------------------------------------------------------------------------------------------- cases

interface Case {
  gui: GuiDomain;
  next: GuiDomain;
  /** The host beforehand. */
  live: Snapshot;
  /** What somebody does to our things between `gui` and `next`. */
  meddle: number[];
}

/** `anew`: also where the qube that is there has to start anew for it. */
const possible = (gui: GuiDomain, live: Snapshot, anew = false): boolean => {
  const host = new HostModel(live).snapshot();
  const plan = planApply(gui.qube, dom0Of(gui), host, OWNER);
  const mode = modeIn(gui);
  if (mode !== "dom0" && modeFault(gui, mode, host, OWNER)) return false;
  try {
    preflight(gui, host);
    new Claims().claim("lab", OWNER, "x", plan.touch, host);
    if (anew) startsAnew(gui, plan, host);
    return true;
  } catch (error) {
    if (error instanceof Refusal) return false;
    throw error;
  }
};

/** Refusals touch nothing, and have tests of their own: what is drawn here can be applied. */
const cases: fc.Arbitrary<Case> = fc
  .record({ name: qubeName, args: description, next: description })
  .chain(({ name, args, next }) => {
    const gui = guiOf(name, args);
    return fc.record({
      gui: fc.constant(gui),
      next: fc.constant(guiOf(name, { ...next, template: gui.template, onDelete: gui.onDelete })),
      live: hostFor(gui),
      meddle: fc.array(fc.nat(), { maxLength: 4 }),
    });
  })
  .filter(({ gui, next, live }) => possible(gui, live, true) && possible(next, live));

/**
 * What Salt makes of dom0. What is put inside the qube, and the passwords that dom0 keeps for it, come by other ways and have tests of their
 * own (tests/login.test.ts, tests/remote.test.ts).
 */
function dom0Of(gui: GuiDomain): Settings {
  const { secrets: _, ...settings } = settingsOf(gui, modeIn(gui));
  return settings;
}
const INSIDE = /listens, for the qube alone|leads to the screen|^packages of template/;

const modeIn = (gui: GuiDomain) => gui.display[0] ?? "xephyr";

// ------------------------------------------------------------------------------------------------ by hand

/** Runs a Python program in dom0 with `given` as JSON. */
async function inDom0(program: string, given: unknown): Promise<void> {
  // By stdin: one argument of a command line is 128 KiB at most.
  const { code, stderr } = await twin.exec(
    `python3 -I -c 'import json,sys; it=json.load(sys.stdin); given=it["given"]; exec(it["program"])'`,
    JSON.stringify({ program, given }),
  );
  assert.is(code, 0, stderr);
}

/** Only the client of the Admin API; nothing that decides anything. */
const ADMIN = readFileSync(new URL("../salt/_utils/qubes_admin.py", import.meta.url), "utf8");

/** Makes dom0 what a snapshot says, beginning with a fresh installation, as a person might have over the years. */
const BY_HAND = `${ADMIN}
import os, subprocess
def must(*argv):
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
present = qubes()
live = given["qubes"]
for name in present:
    if name not in live and name not in given["stay"]:
        remove(name)
for name, it in live.items():
    if name not in present:
        template = it["properties"].get("template", {}).get("value")
        create(name, it["class"], template, it["properties"]["label"]["value"])
for name, value in given["globals"].items():
    set_property(None, name, value["value"])
for name, it in live.items():
    if it["class"] in ("AdminVM", "TemplateVM") or name == "sys-net":
        continue
    if it["pci"]:
        set_property(name, "virt_mode", "hvm")
    for prop, value in it["properties"].items():
        if not value["default"] and not (prop == "virt_mode" and it["pci"]) and prop not in ("start_time", "template"):
            set_property(name, prop, value["value"])
    for feature, value in it["features"].items():
        set_feature(name, feature, value.encode("ascii", "replace").decode())
    for tag in it["tags"]:
        if not tag.startswith(("guivm-", "audiovm-", "created-by-")):
            set_tag(name, tag)
    for device in it["pci"]:
        assign_pci(name, device["port"], "*", device["options"])
for path, file in given["files"].items():
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as out:
        out.write(file["content"])
    os.chmod(path, int(file["mode"], 8))
wanted = [name for name, version in given["packages"].items() if version]
if wanted:
    must("qubes-dom0-update", "-y", *wanted)
for name, it in live.items():
    if it["state"] in ("Running", "Paused") and it["class"] != "AdminVM" and not it["pci"]:
        must("qvm-start", "--skip-if-running", name)
    if it["state"] == "Paused" and not it["pci"]:
        must("qvm-pause", name)
`;

async function makeHost(live: Snapshot): Promise<void> {
  await twin.reset();
  // As on any host, the network runs; a download by qubes-dom0-update would start it otherwise.
  await twin.exec("qvm-start sys-firewall");
  const stay = ["sys-firewall", "default-dvm", "default-mgmt-dvm"];
  await inDom0(BY_HAND, { ...live, stay });
  const theirs = Object.keys(live.ledger);
  if (theirs.length) await session.apply({ ...NOTHING, owner: OTHER_OWNER, touch: theirs });
  session.forget();
}

/** Somebody changes a few of the things that we have touched. */
async function meddle(gui: GuiDomain, picks: number[]): Promise<number> {
  const { ledger } = await session.snapshot();
  const keys = Object.keys(ledger).filter((key) => {
    const { kind, of, name } = partsOf(key);
    return (
      ledger[key]?.owner === OWNER &&
      (kind === "feature" || kind === "global" || kind === "file" || (of === gui.qube && name === "maxmem"))
    );
  });
  const chosen = [...new Set(picks.map((n) => keys[n % keys.length] ?? ""))].filter((key) => key !== "");
  await inDom0(
    `${ADMIN}
for key in given:
    kind, of, name = key["kind"], key["of"], key["name"]
    if kind == "property": set_property(of, name, "1234")
    if kind == "feature": set_feature(of, name, "by hand")
    if kind == "global": set_property(None, name, "sys-audio")
    if kind == "file": open(name, "w").write("# by hand\\n")
`,
    chosen.map(partsOf),
  );
  session.forget();
  return chosen.length;
}

const NOTHING = {
  touch: [] as string[],
  release: [] as string[],
  shutdown: [] as string[],
  formula: {} as Record<string, string>,
  sls: "",
  modules: {} as Record<string, string>,
  verify: [] as Verification[],
  restart: [] as string[],
  holder: "this test",
  wait: 10,
};

// --------------------------------------------------------------------------------------------- the witness

/** What qubesd keeps in step by itself. */
const AUTOMATIC = /^(guivm|audiovm|created-by)-/;
/** Of a running qube, or given by the host to each. */
const OF_THE_RUN = new Set(["xid", "stubdom_xid", "stubdom_uuid", "label", "template", "icon"]);

type Values = Record<string, unknown>;

interface DumpedQube {
  class: string;
  properties: Record<string, { default: boolean; value: unknown }>;
  features: Record<string, string>;
  tags: string[];
  pci: unknown;
}

/** A dump by keys. What follows a default is just that; what runs and what is left in our own folders is not asked about. */
function valuesOf(dump: TwinDump): Values {
  const values: Values = {};
  const { qubes, globals } = dump.qubes as {
    qubes: Record<string, DumpedQube>;
    globals: DumpedQube["properties"];
  };
  const property = (p: { default: boolean; value: unknown }) => (p.default ? "follows its default" : p.value);
  for (const [name, it] of Object.entries(qubes)) {
    values[`qube:${name}`] = [it.class, it.properties["template"]?.value, it.properties["label"]?.value];
    for (const [p, value] of Object.entries(it.properties))
      if (!OF_THE_RUN.has(p)) values[`property:${name}:${p}`] = property(value);
    for (const [f, value] of Object.entries(it.features)) values[`feature:${name}:${f}`] = value;
    for (const tag of it.tags) if (!AUTOMATIC.test(tag)) values[`tag:${name}:${tag}`] = true;
    values[`pci of ${name}`] = it.pci;
  }
  for (const [name, value] of Object.entries(globals)) values[`global:${name}`] = property(value);
  for (const [name, version] of Object.entries(dump.packages)) values[`package:${name}`] = version;
  for (const [path, file] of Object.entries(dump.files))
    if (!AUTOSTART.test(path) && !OURS.some((ours) => path === ours || path.startsWith(`${ours}/`)))
      values[`file:${path}`] = file;
  return values;
}

/** What qubesd itself writes for a qube with property autostart (qubes/vm/qubesvm.py of core-admin 4.3.50): the property says it. */
const AUTOSTART = /^\/etc\/systemd\/system\/multi-user\.target\.wants\/qubes-vm@[^/]+\.service$/;

/** Where formula, ledger, modules and the guard's units lie. */
const OURS = [
  "/etc/systemd/system/guidomain-guard.service",
  "/etc/systemd/system/multi-user.target.wants/guidomain-guard.service",
  "/srv/user_salt",
  "/var/lib/guidomain",
  "/etc/salt/minion.d/guidomain.conf",
  "/run/guidomain.lock",
];

const differing = (a: Values, b: Values) =>
  [...new Set([...Object.keys(a), ...Object.keys(b)])].filter((key) => !sameValue(a[key], b[key])).sort();

// ---------------------------------------------------------------------------------------------- real Salt

/** "null": would change; "true": as wanted. */
interface State {
  result: boolean | null;
  comment: string;
  changes: Record<string, unknown>;
  __id__: string;
}

const DROP_IN =
  "states_dirs: [/var/lib/guidomain/salt/_states]\nutils_dirs: [/var/lib/guidomain/salt/_utils]\n";

/** Our formula under test=True, staged by hand: what it announces, and that it changes nothing. */
async function announcedBySalt(formula: Formula): Promise<Record<string, unknown>> {
  const under = (at: string, files: Record<string, string>) =>
    Object.fromEntries(Object.entries(files).map(([path, text]) => [`${at}/${path}`, text]));
  const staged = {
    ...under("/srv/user_salt", formula.files),
    ...under("/var/lib/guidomain/salt", modules),
    "/etc/salt/minion.d/guidomain.conf": DROP_IN,
  };
  await inDom0(
    `import os
os.system("cp -a /srv/user_salt /run/kept-srv 2>/dev/null; cp -a /var/lib/guidomain /run/kept-lib 2>/dev/null")
for path, text in given.items():
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as out:
        out.write(text)
`,
    staged,
  );
  const before = await twin.dump();
  const { code, stdout, stderr } = await twin.exec(
    `qubesctl --dom0-only state.sls ${formula.sls} saltenv=user test=True --out=json`,
  );
  const after = await twin.dump();
  await twin.exec(
    `rm -rf /srv/user_salt /var/lib/guidomain
test ! -e /run/kept-srv || mv /run/kept-srv /srv/user_salt
test ! -e /run/kept-lib || mv /run/kept-lib /var/lib/guidomain
test -e /var/lib/guidomain || rm /etc/salt/minion.d/guidomain.conf`,
  );
  assert.is(code, 0, `${stderr}\n${stdout}`);
  const ignore = ["/_states", "/_utils"].map((at) => `files./var/lib/guidomain/salt${at}/__pycache__`);
  assert.equal(twin.compare(before, after, { ignore }), [], "test=True changes nothing");

  const announced: Record<string, unknown> = {};
  for (const [tag, state] of Object.entries((JSON.parse(stdout) as { local: Record<string, State> }).local)) {
    const module = tag.split("_|-")[0];
    const some = Object.keys(state.changes).length > 0;
    assert.is(state.result, some ? null : true, `${state.__id__}: ${state.comment}`);
    if (module === "file" && some) announced[`file:${state.__id__}`] = undefined;
    else
      for (const [key, change] of Object.entries(state.changes))
        announced[module === "pkg" ? `package:${key}` : key] = module === "pkg" ? undefined : change;
  }
  return announced;
}

// ------------------------------------------------------------------------------------------------- steps

/** The plan's keys with what they are and will be, as the diff and the log of a preview show them. */
function announcedByPlan(plan: Plan, before: Snapshot): Record<string, { old: KeyValue; new: KeyValue }> {
  return Object.fromEntries([
    ...plan.changes.map(({ wish, from }) => [wish.key, { old: from, new: wish.value }]),
    ...plan.restores.map(({ key, to }) => [key, { old: valueOf(before, key), new: to }]),
  ]);
}

/** The keys behind the property paths that a preview shows. */
function shownByPreview(gui: GuiDomain, before: Snapshot): string[] {
  const wanted = dom0Of(gui);
  const live = liveSettings(gui.qube, wanted, before);
  const paths = diffByPath(live as unknown as Properties, wanted as unknown as Properties);
  const keys = Object.keys(paths).map((path) => {
    const [part, name = ""] = parsePath(path).map(String);
    switch (part) {
      case "properties":
        return `property:${gui.qube}:${name}`;
      case "features":
        return `feature:${gui.qube}:${name}`;
      case "services":
        return `feature:${gui.qube}:service.${name}`;
      case "globals":
        return `global:${name}`;
      case "clients":
        return `property:${name}:guivm`;
      case "files":
        return `file:${name}`;
      case "policyLines":
        return `line:${name}`;
      case "packages":
        return `package:${name}`;
      default:
        return `qube:${gui.qube}`;
    }
  });
  return [...new Set(keys)].sort();
}

/** Of a qube that is made or removed, everything comes or goes with it. */
function withoutPartsOf(qube: string, keys: string[]): string[] {
  return keys.filter((key) => {
    if (key === `pci of ${qube}`) return false;
    if (!/^(property|feature|tag):/.test(key)) return true;
    return partsOf(key).of !== qube;
  });
}

/** Salt's announcement, the apply and the dumps around it against what the plan says. */
async function checkStep(
  qube: string,
  plan: Plan,
  formula: Formula | null,
  before: Snapshot,
  apply: () => Promise<Snapshot>,
): Promise<void> {
  const byPlan = announcedByPlan(plan, before);
  const keys = Object.keys(byPlan).sort();
  const bySalt = formula ? await announcedBySalt(formula) : {};
  assert.equal(Object.keys(bySalt).sort(), keys, "Salt under test=True announces what the plan announces");
  for (const [key, change] of Object.entries(bySalt))
    if (change !== undefined) assert.equal(shown(change), shown(byPlan[key]), `${key}: the same values`);

  const [first, wasThere] = [valuesOf(await twin.dump()), before.qubes[qube] !== undefined];
  const after = await apply();
  const last = valuesOf(await twin.dump());
  const differs = differing(first, last);
  const isThere = after.qubes[qube] !== undefined;
  // A line shows in its file, which several may share.
  const seen = [
    ...new Set(keys.map((key) => (partsOf(key).kind === "line" ? `file:${partsOf(key).of}` : key))),
  ].sort();
  if (wasThere === isThere) assert.equal(differs, seen, "the apply does what was announced, nothing else");
  else {
    assert.equal(withoutPartsOf(qube, differs), withoutPartsOf(qube, seen), "the same, beside the qube");
    if (isThere) {
      // What a new qube has of its own, beyond what every new qube has, was announced.
      const own = differs.filter(
        (key) =>
          !keys.includes(key) &&
          last[key] !== "follows its default" &&
          withoutPartsOf(qube, [key]).length === 0,
      );
      assert.equal(
        own.filter((key) => !OF_EVERY_NEW_QUBE.test(key)),
        [],
        "nothing that nobody announced",
      );
    }
  }
  count(
    keys.length === 0 ? "keys announced: 0" : keys.length < 8 ? "keys announced: 1-7" : "keys announced: 8+",
  );
}

/** A property given back to its default: the ledger has null where there was no qube, and Salt the default of now. */
function shown(change: unknown): unknown {
  const { old, new: to } = change as { old: KeyValue; new: KeyValue };
  const follows = typeof to === "object" && (to === null || ("default" in to && to.default));
  return { old, new: follows ? "default, or nothing" : to };
}

const OF_EVERY_NEW_QUBE = /^(pci of |property:[^:]*:(name|qid|uuid)$)/;

/** Whether it was done; false where a mode would change under somebody's windows. */
async function up(gui: GuiDomain): Promise<boolean> {
  const settings = dom0Of(gui);
  const before = await session.snapshot();
  preflight(gui, before);
  const plan = planApply(gui.qube, settings, before, OWNER);
  new Claims().claim("lab", OWNER, gui.qube, plan.touch, before);
  let anew: boolean;
  try {
    anew = startsAnew(gui, plan, before);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    count("refused: a new mode under running clients");
    return false;
  }
  if (anew) count("the GUI domain starts anew");
  assert.equal(
    shownByPreview(gui, before),
    plan.changes.map((c) => c.wish.key).sort(),
    "the diff shows the plan",
  );
  const formula = formulaOf({
    qube: gui.qube,
    mode: modeIn(gui),
    settings: appliedSettings(gui.qube, settings, before),
    restores: plan.restores,
  });
  await checkStep(gui.qube, plan, formula, before, async () => {
    const { snapshot } = await session.apply({
      ...NOTHING,
      owner: OWNER,
      touch: plan.touch,
      release: plan.release,
      formula: formula.files,
      shutdown: anew ? [gui.qube] : [],
      sls: formula.sls,
      modules,
      verify: verificationsOf(
        gui,
        modeIn(gui),
        withoutGone(before, plan),
        Object.keys(appliedSettings(gui.qube, settings, before).files),
      ).filter(({ id }) => !INSIDE.test(id)),
    });
    return snapshot;
  });
  session.forget();
  const now = await session.snapshot();
  const again = planApply(gui.qube, settings, now, OWNER);
  assert.equal([again.changes, again.restores, again.release], [[], [], []], "nothing is left to do");
  assert.equal(liveSettings(gui.qube, settings, now), settings, "the live host shows as described");
  count(`mode ${modeIn(gui)}`);
  count(gui.clients === "default" ? "clients: default" : `clients: ${gui.clients.length} named`);
  if (plan.restores.length) count("an update gives values back");
  return true;
}

async function destroy(gui: GuiDomain): Promise<void> {
  const before = await session.snapshot();
  const plan = planDelete(before, OWNER, gui.onDelete);
  const any = plan.restores.length > 0;
  const formula = formulaOf({ qube: gui.qube, mode: "x", settings: null, restores: plan.restores });
  const removes = plan.restores.some((r) => r.key === `qube:${gui.qube}` && r.to === null);
  try {
    preflightRestore("x", "lab", gui.qube, plan, before);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    count("refused: another template under a running qube");
    await twin.exec(`qvm-shutdown --wait --force ${gui.qube}`);
    session.forget();
    await destroy(gui);
    return;
  }
  await checkStep(gui.qube, plan, any ? formula : null, before, async () => {
    const { snapshot } = await session.apply({
      ...NOTHING,
      owner: OWNER,
      touch: plan.touch,
      release: plan.release,
      shutdown: removes && before.qubes[gui.qube]?.state !== "Halted" ? [gui.qube] : [],
      formula: any ? formula.files : {},
      sls: any ? formula.sls : "",
      modules: any ? modules : {},
    });
    return snapshot;
  });
  count(`destroy: ${gui.onDelete}`);
}

// -------------------------------------------------------------------------------------------------- tests

/** One with the qube, one without, in turns; not the first ones that fast-check draws, which are the plainest. */
function drawn(): Case[] {
  const all = fc.sample(cases, { numRuns: 40 * CASES, seed: SEED }).reverse();
  const having = (there: boolean) =>
    all.filter(({ gui, live }) => (live.qubes[gui.qube] !== undefined) === there);
  const [existing, missing] = [having(true), having(false)];
  return [...Array(CASES).keys()].flatMap((n) => (n % 2 ? missing[n >> 1] : existing[n >> 1]) ?? []);
}

for (const [number, { gui, next, live, meddle: picks }] of drawn().entries())
  test(`case ${number + 1} of seed ${SEED}: ${gui.display[0]} for ${JSON.stringify(gui.clients)}`, async () => {
    await makeHost(live);
    const original = await twin.dump();
    count(live.qubes[gui.qube] ? "the qube existed" : "the qube is new");
    assert.ok(await up(gui));
    const meddled = await meddle(gui, picks);
    if (meddled) count("somebody changed our things");
    await destroy((await up(next)) ? next : gui);
    if (gui.onDelete === "restore" && !meddled)
      assert.equal(differing(valuesOf(original), valuesOf(await twin.dump())), [], "all as it was before");
  });

test("the cases were not trivial", () => {
  const width = Math.max(...[...counts.keys()].map((kind) => kind.length));
  console.log(`\n  ${CASES} cases of 3 steps, GUIDOMAIN_SEED=${SEED}`);
  for (const [kind, n] of [...counts].sort()) console.log(`  ${kind.padEnd(width)} ${n}`);
  if (CASES < 6) return;
  for (const kind of ["the qube existed", "the qube is new", "mode xephyr", "mode vnc", "keys announced: 8+"])
    assert.ok((counts.get(kind) ?? 0) > 0, `no case of "${kind}"`);
});

test.after(() => pool.close());

test.run();
