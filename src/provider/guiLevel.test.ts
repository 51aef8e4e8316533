/** A GUI domain's level against hosts in memory: what is told, what is refused, what is written and in which order. */
import { setImmediate } from "node:timers/promises";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { HostError } from "../host/errors.ts";
import type { Snapshot } from "../host/protocol.ts";
import { Refusal } from "../model/failure.ts";
import { FILE_MODE } from "../model/settings.ts";
import { factsOf } from "../plan/access.ts";
import { differing, everything, explicit, HostModel, install, qube } from "../plan/testing/hostModel.ts";
import { policyOf } from "../plan/values.ts";
import { type Call, Evaluator } from "../policy/evaluate.ts";
import { callsOf, targetsOf } from "../policy/explain.ts";
import { GLOBAL_RWX, LOCAL_RWX, levelFile, withoutLines } from "../policy/levels.ts";
import { loadPolicy, POLICY } from "../policy/load.ts";
import { STOCK } from "../policy/services.ts";
import type { Properties } from "./handler.ts";
import { failing, Program } from "./testProgram.ts";

const OWN = levelFile("sys-gui");
const OWN_PATH = `settings.files["${OWN}"]`;
const EARLIER = `${POLICY}/30-user.policy`;

/** As Qubes installs it, with somebody's files of policy and qubes on top. */
function host(
  files: Record<string, string> = {},
  qubes: Parameters<typeof install>[0] = {},
  missing: string[] = [],
): HostModel {
  const all = Object.entries({ ...STOCK, ...files }).filter(([path]) => !missing.includes(path));
  return new HostModel(
    install({
      files: Object.fromEntries(all.map(([path, content]) => [path, { content, mode: FILE_MODE }])),
      ...qubes,
    }),
  );
}

/** What the last run has said, as one text. */
const said = ({ hosts }: Program) => hosts.log.map(({ message }) => message).join("\n");
const USER = { clients: ["work"], level: "user" };
const KIOSK = { clients: ["work"], level: "kiosk", apps: [{ app: "firefox", qube: "work" }] };

test("without a level nothing of all this is there", async () => {
  const program = new Program(host());
  await program.up({ clients: ["work"] });
  const { inputs, outputs } = program.state ?? { inputs: {}, outputs: {} };
  for (const name of ["level", "apps", "rules", "apart", "barred", "rights"])
    assert.equal([name in inputs, name in outputs], [false, false], name);
  assert.is(program.host.snapshot().files[OWN], undefined);
  assert.is(program.host.snapshot().qubes["sys-gui"]?.features["set-created-guivm"], undefined);
  assert.not.match(said(program), /rights|policy of the host/);
});

test("up, nothing to do, drift repaired, lowered, and back to the start", async () => {
  const program = new Program(host());
  const before = everything(program.host.snapshot());
  await program.up(USER);
  const { state, level, rights } = program.outputs;
  assert.equal([state, level], ["ready", "user"]);
  const { allowed, denied, wider } = rights as Record<string, string[]>;
  assert.ok(allowed?.includes("start applications") && allowed.includes("start and stop qubes"));
  assert.ok(denied?.includes("run any command") && denied.includes("make and remove qubes"));
  assert.equal(wider, []);
  assert.is(program.host.snapshot().qubes["sys-gui"]?.features["set-created-guivm"], "sys-gui");
  assert.equal(await program.preview(USER), {});

  for (const drift of [undefined, { content: "* * sys-gui * allow\n", mode: FILE_MODE }]) {
    const good = everything(program.host.snapshot());
    program.host.byHand(({ files }) => {
      if (drift) files[OWN] = drift;
      else delete files[OWN];
    });
    assert.equal(await program.preview(USER), { [OWN_PATH]: drift ? "update" : "add" });
    await program.up(USER);
    assert.equal(everything(program.host.snapshot()), good);
  }

  const guest = { clients: ["work"], level: "guest" };
  assert.equal(await program.preview(guest), { level: "update", [OWN_PATH]: "update" });
  assert.match(
    said(program),
    /rights on host lab:\nsys-gui may no longer:\n {2}start applications\n {4}qubes\.StartApp: its qubes \[allow → deny\]/,
  );
  await program.up(guest);
  assert.is(program.outputs["level"], "guest");
  assert.ok(!((program.outputs["rights"] as Record<string, string[]>)["allowed"] ?? []).includes("x"));
  assert.equal(await program.preview(guest), {});
  await program.destroy();
  assert.equal(differing(before, everything(program.host.snapshot())), []);
});

test("a preview of a create tells the rights and writes nothing", async () => {
  const { handler, hosts, host: model, name } = new Program(host());
  const news = (await handler.check({ host: "lab", ...USER }, {}, hosts.context(name))).inputs;
  const before = model.snapshot();
  await handler.create(news, hosts.context(name, { preview: true }));
  assert.match(
    hosts.log.map(({ message }) => message).join("\n"),
    /rights on host lab:\n[\s\S]*sys-gui may from now on:\n {2}start applications/,
  );
  assert.equal([hosts.applied.length, model.snapshot()], [0, before]);
});

test("order of writes: the level first, and the last to go", async () => {
  const program = new Program(host());
  await program.up(USER);
  const formula = (at: number) => {
    const { formula = {}, sls = "" } = program.hosts.applied[at] ?? {};
    return formula[`${sls.replaceAll(".", "/")}/init.sls`] ?? "";
  };
  const places = (text: string) =>
    [OWN, `${POLICY}/50-gui-sys-gui.policy`, `${POLICY}/51-gui-sys-gui.policy`].map((path) =>
      text.indexOf(`"${path}":`),
    );
  const [level = -1, ...others] = places(formula(0));
  assert.ok(level > 0 && others.every((at) => at > level), formula(0));
  await program.destroy();
  const [last = -1, ...earlier] = places(formula(1));
  assert.ok(last > 0 && earlier.every((at) => at > 0 && at < last), formula(1));
});

const ADMIN = { clients: ["work"], level: "admin" };
const SHARED = [GLOBAL_RWX, LOCAL_RWX];
const texts = (model: HostModel) => SHARED.map((path) => model.snapshot().files[path]?.content ?? "");
/** The property of a preview that is a line. */
const lineAt = (path: string, line: string) => `settings.policyLines["${path}:${line}"]`;
const [IS_ADMIN, ITS_OWN, ITSELF] = [
  "sys-gui @adminvm allow target=dom0",
  "sys-gui @tag:guivm-sys-gui allow target=dom0",
  "sys-gui sys-gui allow target=dom0",
] as const;
const LINES = [
  lineAt(GLOBAL_RWX, IS_ADMIN),
  ...SHARED.flatMap((path) => [lineAt(path, ITS_OWN), lineAt(path, ITSELF)]),
];
/** One of ours as somebody else has it, in their spelling, and a last line without an end. */
const THEIRS = {
  [GLOBAL_RWX]: "## mine\nmgmt @adminvm allow target=dom0\n# no end",
  [LOCAL_RWX]: `sys-gui\tsys-gui   allow target=dom0\nmgmt @anyvm allow target=dom0\n`,
};
const edited = (model: HostModel, path: string, change: (text: string) => string) =>
  model.byHand(({ files }) => {
    files[path] = { content: change(files[path]?.content ?? ""), mode: FILE_MODE };
  });

test("admin: its lines among those of others, drift of one, lowered, and back byte by byte", async () => {
  const program = new Program(host(THEIRS));
  const { host: model } = program;
  const [before, shared] = [everything(model.snapshot()), texts(model)];
  await program.up(ADMIN);
  assert.equal([program.outputs["state"], program.outputs["level"]], ["ready", "admin"]);
  const { allowed } = program.outputs["rights"] as Record<string, string[]>;
  assert.ok(allowed?.includes("make and remove qubes"), allowed?.join());
  const on = texts(model);
  assert.equal(on, [
    `${THEIRS[GLOBAL_RWX]}\n${IS_ADMIN}\n${ITS_OWN}\n${ITSELF}`,
    `${THEIRS[LOCAL_RWX]}${ITS_OWN}\n`,
  ]);
  const { ledger } = model.snapshot();
  assert.equal(
    [ledger[`line:${LOCAL_RWX}:${ITSELF}`], ledger[`line:${LOCAL_RWX}:${ITS_OWN}`]].map(
      (entry) => entry?.first,
    ),
    [true, null],
  );
  assert.equal(await program.preview(ADMIN), {});

  // Ours is removed; Qubes' tools rewrite the file; somebody adds another one.
  edited(model, GLOBAL_RWX, (text) => withoutLines(text, [IS_ADMIN]));
  assert.equal(await program.preview(ADMIN), { [lineAt(GLOBAL_RWX, IS_ADMIN)]: "add" });
  await program.up(ADMIN);
  edited(model, LOCAL_RWX, () => "## new\nmgmt @anyvm allow target=dom0\n");
  assert.equal(await program.preview(ADMIN), {
    [lineAt(LOCAL_RWX, ITS_OWN)]: "add",
    [lineAt(LOCAL_RWX, ITSELF)]: "add",
  });
  await program.up(ADMIN);
  assert.equal(await program.preview(ADMIN), {});
  edited(model, GLOBAL_RWX, () => on[0] ?? "");
  edited(model, LOCAL_RWX, (text) => `${text}other @adminvm ask\n`);
  assert.equal(await program.preview(ADMIN), {});

  const changes = await program.preview(USER);
  const gone = LINES.map((path) => [path, "delete"]);
  assert.equal(changes, {
    level: "update",
    [OWN_PATH]: "update",
    'settings.files["/etc/qubes-rpc/guidomain.Power"]': "delete",
    ...Object.fromEntries(gone),
  });
  assert.match(said(program), /sys-gui may no longer:\n[\s\S]*make and remove qubes/);
  await program.up(USER);
  const theirs = `## new\nmgmt @anyvm allow target=dom0\n${ITSELF}\nother @adminvm ask\n`;
  assert.equal(texts(model), [shared[0], theirs], "what was there first stays");
  assert.equal(await program.preview(USER), {});
  assert.not.ok(Object.keys(model.snapshot().ledger).some((key) => key.startsWith("line:")));

  await program.up(ADMIN);
  edited(model, LOCAL_RWX, (text) => `${withoutLines(text, [ITS_OWN])}${ITS_OWN}\n`);
  await program.destroy();
  assert.equal(texts(model), [shared[0], theirs]);
  edited(model, LOCAL_RWX, () => THEIRS[LOCAL_RWX]);
  assert.equal(differing(before, everything(model.snapshot())), []);
});

/** What a moment between the first and the last allows that neither of these does. */
function wider(seen: readonly Snapshot[]): string[] {
  const facts = { ...factsOf(seen[0] as Snapshot), ...factsOf(seen.at(-1) as Snapshot) };
  const policies = seen.map((now) => loadPolicy(policyOf(now)).rules);
  const evaluators = policies.map((rules) => new Evaluator(rules, facts));
  const denies = (call: Call) => (one: Evaluator | undefined) => one?.evaluate(call).decision === "deny";
  const questions = callsOf(...policies).flatMap(([service, list]) =>
    list.flatMap((argument) =>
      ["sys-gui", "work", "vault"].flatMap((source) =>
        targetsOf(facts).map((target) => ({ service, argument, source, target })),
      ),
    ),
  );
  return questions
    .filter(
      (call) => [evaluators[0], evaluators.at(-1)].every(denies(call)) && !evaluators.every(denies(call)),
    )
    .map((call) => Object.values(call).join(" "));
}

const NO_LEVEL = { clients: ["work"] };
const MOVES: [Properties | null, Properties | null][] = [
  [USER, ADMIN],
  [ADMIN, USER],
  [KIOSK, ADMIN],
  [ADMIN, NO_LEVEL],
  [NO_LEVEL, ADMIN],
  [null, ADMIN],
  [ADMIN, null],
];
for (const [from, to] of MOVES)
  test(`from ${from?.["level"] ?? "none"} to ${to?.["level"] ?? "none"}: no moment is wider than before and after`, async () => {
    const program = new Program(host());
    const { host: model } = program;
    if (from) await program.up(from);
    const seen: Snapshot[] = [model.snapshot()];
    model.onState = (now) => seen.push(now);
    if (to) await program.up(to);
    else await program.destroy();
    assert.ok(
      new Set(seen.map((now) => JSON.stringify(policyOf(now)))).size > 2,
      "there are moments between",
    );
    assert.equal(wider(seen), []);
    // a moment that is wider is seen
    const moment = structuredClone(seen[0] as Snapshot);
    moment.files[EARLIER] = { content: "some.Service * vault work allow\n", mode: FILE_MODE };
    assert.ok(wider(seen.toSpliced(1, 0, moment)).length > 0);
  });

test("order of writes: an admin's lines before the level that lets them count, and after the one that does not", async () => {
  const program = new Program(host());
  const order = (at: number) => {
    const { formula = {}, sls = "" } = program.hosts.applied[at] ?? {};
    const text = formula[`${sls.replaceAll(".", "/")}/init.sls`] ?? "";
    return [...text.matchAll(/^"(.*)":\n {2}(policy\.lines|file\.\w+):/gm)].flatMap(
      ([, id = "", state = ""]) =>
        state === "policy.lines" ? [text.includes("- remove:") ? "-" : "+"] : id === OWN ? ["level"] : [],
    );
  };
  await program.up(USER);
  await program.up(ADMIN);
  await program.up(USER);
  await program.up(ADMIN);
  await program.destroy();
  assert.equal([1, 2, 4].map(order), [
    ["+", "+", "level"],
    ["level", "-", "-"],
    ["-", "-", "level"],
  ]);
});

test("two admins of one host: each has its own lines, and takes those alone along", async () => {
  const model = host(THEIRS);
  const before = texts(model);
  const [ann, bob] = [new Program(model), second(model)];
  const BOB = { clients: ["vault"], level: "admin" };
  await ann.up(ADMIN);
  const alone = texts(model);
  await bob.up(BOB);
  assert.equal([await ann.preview(ADMIN), await bob.preview(BOB)], [{}, {}]);
  await bob.destroy();
  assert.equal(texts(model), alone);
  await bob.up(BOB);
  await ann.destroy();
  assert.equal(await bob.preview(BOB), {});
  await bob.destroy();
  assert.equal(texts(model), before);
});

test("a line that another resource claims is refused before anything is touched", async () => {
  const model = host();
  const [key, owner] = [
    `line:${GLOBAL_RWX}:${IS_ADMIN}`,
    "urn:pulumi:other::site::guidomain:index:GuiDomain::theirs",
  ];
  model.byHand(({ ledger, files }) => {
    ledger[key] = { owner, first: null, ours: true, at: 1 };
    files[GLOBAL_RWX] = { content: `${IS_ADMIN}\n`, mode: FILE_MODE };
  });
  const program = new Program(model);
  const before = model.snapshot();
  const refusal = await failing(Refusal, program.up(ADMIN));
  assert.match(
    refusal.message,
    /line "sys-gui @adminvm allow target=dom0" of .*admin-global-rwx belongs to GuiDomain "theirs" \(stack other/,
  );
  assert.equal([program.hosts.applied.length, model.snapshot()], [0, before]);
  // and one that is somebody else's goes with none of ours
  await program.up(USER);
  await program.destroy();
  assert.equal(texts(model)[0], `${IS_ADMIN}\n`);
});

test("a level that is taken away while the GUI domain stays: told, and everything else stays", async () => {
  const program = new Program(host());
  await program.up({ clients: ["work"] });
  const without = everything(program.host.snapshot());
  await program.up(USER);
  const changes = await program.preview({ clients: ["work"] });
  assert.equal(changes, {
    level: "delete",
    [OWN_PATH]: "delete",
    "settings.features.set-created-guivm": "delete",
  });
  assert.match(said(program), /rights on host lab:\n[\s\S]*may from now on:/);
  await program.up({ clients: ["work"] });
  assert.equal(everything(program.host.snapshot()), without);
  assert.equal(["level" in program.outputs, "rights" in program.outputs], [false, false]);
});

test("what is taken away is not there to be checked", async () => {
  const program = new Program(host());
  await program.up(USER);
  await program.up({ clients: ["work"] });
  const lint = (at: number) =>
    program.hosts.applied[at]?.verify.flatMap((check) =>
      check.kind === "host" && check.id === "policies lint" ? check.argv : [],
    );
  assert.equal(
    [lint(0), lint(1)].map((argv) => argv?.includes(OWN)),
    [true, false],
  );
  assert.ok(lint(1)?.includes(`${POLICY}/50-gui-sys-gui.policy`));
});

test("the trial asks the host itself what may and may not be asked", async () => {
  const ids = async (args: Properties) => {
    const program = new Program(host());
    await program.up(args);
    return (
      program.hosts.applied[0]?.verify.map(({ id }) => id).filter((id) => id.startsWith("policy:")) ?? []
    );
  };
  const user = await ids(USER);
  for (const id of [
    "policy: sys-gui may ask work for qubes.StartApp+xterm",
    "policy: sys-gui may not ask work for qubes.VMShell",
    "policy: sys-gui may ask dom0 for policy.EvalGUI+qubes.ClipboardPaste",
    "policy: sys-gui may not ask dom0 for admin.vm.Create.AppVM+fedora-43-xfce",
  ])
    assert.ok(user.includes(id), `${user.join("\n")} lacks ${id}`);
  const kiosk = await ids(KIOSK);
  for (const id of [
    "policy: sys-gui may not ask work for qubes.StartApp+xterm",
    "policy: sys-gui may ask work for qubes.StartApp+firefox",
    "policy: sys-gui may not ask dom0 for policy.EvalGUI+qubes.ClipboardPaste",
  ])
    assert.ok(kiosk.includes(id), `${kiosk.join("\n")} lacks ${id}`);
});

test("an earlier rule of somebody else: told in every preview with its place, no difference, never ready", async () => {
  const program = new Program(host({ [EARLIER]: "# by hand\nqubes.VMShell * sys-gui work allow\n" }));
  await program.up(USER);
  assert.is(program.outputs["state"], "drifted");
  for (const _ of [1, 2]) {
    program.hosts.log.length = 0;
    assert.equal(await program.preview(USER), {});
    assert.equal(program.warnings.length, 1, program.warnings.join("\n"));
    assert.match(
      program.warnings[0] ?? "",
      /sys-gui may ask work for qubes\.VMShell.* by .*30-user\.policy:2/,
    );
  }
  program.host.byHand(({ files }) => {
    delete files[EARLIER];
  });
  program.hosts.log.length = 0;
  assert.equal(await program.preview(USER), {});
  assert.equal([program.outputs["state"], program.warnings], ["ready", []]);
});

test("a file of somebody else that stops every call is told, and the level refuses nothing for it", async () => {
  const program = new Program(host({ [`${POLICY}/47-x.policy`]: "nonsense\n" }));
  const news = await program.check(USER);
  await program.handler.create(news, program.hosts.context("sys-gui", { preview: true }));
  assert.match(program.warnings.join("\n"), /47-x\.policy:1: line: 1 fields are too few/);
});

const REFUSED: [string, HostModel, Properties, RegExp][] = [
  [
    "an application in a qube that is not there",
    host(),
    { ...KIOSK, apps: [{ app: "firefox", qube: "gone" }] },
    /: apps\[0\]: qube "gone" does not exist there\. Nothing was changed/,
  ],
  [
    "an application whose windows somebody else shows",
    host(),
    { ...KIOSK, apps: [...KIOSK.apps, { app: "firefox", qube: "vault" }] },
    /: apps\[1\]: qube "vault" is not shown by it, so no window would appear\. .*add it to "clients"/,
  ],
  [
    "a new disposable of what makes none",
    host(),
    { ...KIOSK, apps: [{ app: "firefox", disposable: "work" }] },
    /: apps\[0\]: disposable "work" is no template for disposables/,
  ],
  [
    "a new disposable whose windows somebody else shows",
    host({}, { qubes: { dvm: qube({ properties: { template_for_dispvms: explicit("True") } }) } }),
    { ...KIOSK, apps: [{ app: "firefox", disposable: "dvm" }] },
    /: apps\[0\]: disposable "dvm" is not shown by it, so no window would appear\. .*add it to "clients"/,
  ],
  [
    "a rule about a qube that is not there",
    host(),
    { ...USER, rules: ["qubes.Filecopy * sys-gui work ask", "qubes.Filecopy * sys-gui gone allow"] },
    /: rules\[1\]: target: there is no qube gone\. Nothing was changed/,
  ],
  [
    "the way in of a management qube that a kiosk shows",
    host({ [`${POLICY}/50-ssh.policy`]: "qubes.ConnectTCP +22 work @default allow target=dom0\n" }),
    KIOSK,
    /its policy is refused: work could no longer ask for qubes\.ConnectTCP \(allowed by .*50-ssh\.policy:1\), by .*46-level-sys-gui\.policy/,
  ],
  [
    "an admin where Qubes' own policy lacks a file",
    host({}, {}, [GLOBAL_RWX]),
    { ...USER, level: "admin" },
    /level "admin" needs .*include\/admin-global-rwx, which Qubes' own policy includes and which is not there/,
  ],
  [
    "a rule of one's own that opens somebody else's qube",
    host({}, { qubes: { "sys-bob": qube(), theirs: qube({ properties: { guivm: explicit("sys-bob") } }) } }),
    { ...USER, rules: ["qubes.Filecopy * @tag:guivm-sys-gui @default allow target=theirs"] },
    /its policy is refused: work may reach theirs, which is not its own/,
  ],
];
for (const [what, model, args, expected] of REFUSED)
  test(`refused before anything is touched: ${what}`, async () => {
    const program = new Program(model);
    const before = model.snapshot();
    const news = await program.check(args);
    for (const preview of [true, false]) {
      const refusal = await failing(
        Refusal,
        program.handler.create(news, program.hosts.context("sys-gui", { preview })),
      );
      assert.match(refusal.message, expected);
    }
    assert.equal([program.hosts.applied.length, model.snapshot()], [0, before]);
  });

test("a way in that comes to a level which denies it is refused too", async () => {
  const ssh = "qubes.ConnectTCP +22 vault @default allow target=dom0\n";
  const program = new Program(host({ [`${POLICY}/50-ssh.policy`]: ssh }));
  await program.up(KIOSK);
  const applied = program.hosts.applied.length;
  const refusal = await failing(Refusal, program.up({ ...KIOSK, clients: ["vault", "work"] }));
  assert.match(refusal.message, /vault could no longer ask for qubes\.ConnectTCP/);
  assert.is(program.hosts.applied.length, applied);
});

/** A second GUI domain on the same host, of the same program or of another one. */
function second(model: HostModel, name = "sys-bob"): Program {
  return new Program(model, name);
}

test("two GUI domains are kept apart, whoever comes first, and neither changes for the other", async () => {
  const model = host();
  const before = everything(model.snapshot());
  const [alice, bob] = [new Program(model), second(model)];
  const BOB = { clients: ["vault"], level: "guest" };
  await alice.up(USER);
  assert.not.match(model.snapshot().files[OWN]?.content ?? "", /sys-bob/);
  await bob.up(BOB);
  assert.match(
    model.snapshot().files[levelFile("sys-bob")]?.content ?? "",
    /^\* \* @tag:guivm-sys-gui @tag:guivm-sys-bob deny$/m,
  );
  assert.equal([await alice.preview(USER), await bob.preview(BOB)], [{}, {}]);
  // a file that is written anew says all there is
  await alice.up({ ...USER, level: "operator" });
  assert.match(model.snapshot().files[OWN]?.content ?? "", /^\* \* sys-gui sys-bob deny$/m);
  await bob.destroy();
  assert.equal(await alice.preview({ ...USER, level: "operator" }), {});
  await alice.destroy();
  assert.equal(differing(before, everything(model.snapshot())), []);
});

test("one program's GUI domains know of each other before either is there", async () => {
  const model = host();
  const [alice, bob] = [new Program(model), second(model)];
  bob.hosts.claims = alice.hosts.claims;
  const context = (program: Program) => program.hosts.context(program.name);
  await bob.check({ clients: ["vault"] });
  const news = await alice.check(USER);
  await alice.handler.create(news, context(alice));
  assert.match(model.snapshot().files[OWN]?.content ?? "", /^\* \* sys-gui @tag:guivm-sys-bob deny$/m);
});

test("of two at once the second looks at what the first has left: whom it shows, it asks after", async () => {
  const [alice, bob] = [new Program(host()), second(new HostModel())];
  // Of all that follow the default this one is asked after.
  const FIRST = "fedora-43-xfce";
  const [shared, handler] = [alice.hosts, alice.handler];
  const all = await alice.check({ clients: "default", level: "operator" });
  const one = (await handler.check({ host: "lab", ...USER, clients: [FIRST] }, {}, shared.context(bob.name)))
    .inputs;
  await Promise.all([
    handler.create(one, shared.context(bob.name)),
    handler.create(all, shared.context(alice.name)),
  ]);
  const asked = shared.applied.map(({ verify }) => verify.map(({ id }) => id).join("\n"));
  assert.match(asked[0] ?? "", `sys-bob may ask ${FIRST} for qubes.StartApp`);
  assert.not.match(asked[1] ?? "", `ask ${FIRST}`);
  assert.match(asked[1] ?? "", /sys-gui may ask .* for qubes.StartApp/);
});

test("who waits for a turn ends at once when the run is cancelled, and changes nothing", async () => {
  const { hosts, handler } = new Program(host());
  const cancel = new AbortController();
  const apply = hosts.apply.bind(hosts);
  let go = () => {};
  const held = new Promise<void>((resolve) => {
    go = resolve;
  });
  hosts.apply = async (...args) => {
    await held;
    return apply(...args);
  };
  const check = async (name: string, args: Properties) =>
    (await handler.check({ host: "lab", ...args }, {}, hosts.context(name))).inputs;
  const [all, one] = [await check("sys-gui", { clients: "default" }), await check("sys-bob", USER)];
  const first = handler.create(all, hosts.context("sys-gui"));
  const second = handler.create(one, hosts.context("sys-bob", { signal: cancel.signal }));
  await setImmediate();
  cancel.abort(new Error("stopped"));
  assert.match((await failing(HostError, second)).message, /waiting for its turn/);
  go();
  await first;
  assert.equal(hosts.applied.length, 1);
});

test("a host that was set up by hand: its other GUI domain is found by its qubes", async () => {
  const model = host(
    {},
    { qubes: { "gui-old": qube(), old: qube({ properties: { guivm: explicit("gui-old") } }) } },
  );
  const program = new Program(model);
  await program.up(USER);
  assert.match(model.snapshot().files[OWN]?.content ?? "", /^\* \* sys-gui @tag:guivm-gui-old deny$/m);
});

test("a level in every rung, and none on the host's own screen", async () => {
  const program = new Program(host());
  await program.up({ ...USER, display: ["vnc", "dom0"] });
  assert.ok(program.host.snapshot().files[OWN]);
  assert.is(program.outputs["level"], "user");
});

test.run();
