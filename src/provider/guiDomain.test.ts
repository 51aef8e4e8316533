/** The handler against hosts in memory: what the engine is told, and what the hosts are asked for. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import { settingsOf } from "../formula/settings.ts";
import { AgentFailure } from "../host/errors.ts";
import { Refusal } from "../model/failure.ts";
import { guiOf, setUp } from "../plan/testing/cases.ts";
import {
  byDefault,
  differing,
  everything,
  explicit,
  HostModel,
  install,
  qube,
} from "../plan/testing/hostModel.ts";
import { guiDomainHandler } from "./guiDomain.ts";
import { PartialFailure, type Properties, type ReadResult, UNKNOWN } from "./handler.ts";
import { urnOf } from "./testHosts.ts";
import { failing, Program } from "./testProgram.ts";

/** A sys-gui as its owner made it by hand, with the stock settings. */
function handMade(args: Record<string, unknown> = {}): HostModel {
  const snapshot = install();
  const gui = guiOf("sys-gui", { host: "lab", ...args });
  setUp(snapshot, "sys-gui", settingsOf(gui, gui.display[0] ?? "xephyr"));
  const properties = snapshot.qubes["sys-gui"]?.properties ?? {};
  properties["virt_mode"] = byDefault; // the stock formula leaves it
  return new HostModel(snapshot);
}

test("up, nothing to do, drift of one property, repair, destroy", async () => {
  const program = new Program();
  const { host, hosts } = program;
  const before = everything(host.snapshot());
  assert.is(await program.up({ clients: ["work"] }), null);
  assert.is(program.state?.id, "lab/sys-gui");
  const { mode, state, origin, attempts, pending, connection } = program.outputs;
  assert.equal([mode, state, origin, pending], ["xephyr", "ready", "created", []]);
  assert.equal(attempts, [{ mode: "xephyr", verdict: "ok", reason: "" }]);
  assert.equal(connection, { address: "lab.example" });
  assert.is(host.snapshot().qubes["work"]?.properties["guivm"]?.value, "sys-gui");

  const after = host.snapshot();
  assert.equal(await program.preview({ clients: ["work"] }), {}, "no difference");
  assert.equal(await program.up({ clients: ["work"] }), {});
  assert.is(hosts.applied.length, 1, "and no apply");
  assert.equal(host.snapshot(), after);

  host.byHand((now) => {
    Object.assign(now.qubes["sys-gui"]?.properties ?? {}, { maxmem: explicit("1234") });
  });
  assert.equal(await program.preview({ clients: ["work"] }), { "settings.properties.maxmem": "update" });
  assert.is(program.outputs["state"], "drifted");
  const drifted = host.snapshot();
  await program.up({ clients: ["work"] });
  assert.equal(differing(everything(drifted), everything(host.snapshot())), ["property:sys-gui:maxmem"]);
  assert.is(program.outputs["state"], "ready");

  const policy = "/etc/qubes/policy.d/50-gui-sys-gui.policy";
  host.byHand((now) => {
    delete now.files[policy];
  });
  assert.equal(await program.preview({ clients: ["work"] }), { [`settings.files["${policy}"]`]: "add" });
  await program.up({ clients: ["work"] });

  await program.destroy();
  assert.equal(differing(before, everything(host.snapshot())), []);
  assert.equal(host.snapshot().ledger, {});
  assert.match(hosts.log.at(-1)?.message ?? "", /^qube sys-gui is removed with its private volume/);
});

test("a preview of a create asks for nothing; what an apply decides is left unknown", async () => {
  const { handler, hosts, host, ...program } = new Program();
  const news = (await handler.check({ host: "lab" }, {}, hosts.context(program.name))).inputs;
  const before = host.snapshot();
  const { id, outputs } = await handler.create(news, hosts.context("sys-gui", { preview: true }));
  assert.is(id, "");
  assert.equal(
    ["mode", "state", "attempts"].filter((o) => o in outputs),
    [],
  );
  assert.equal([hosts.applied.length, host.snapshot()], [0, before]);
  assert.match(
    hosts.log[0]?.message ?? "",
    /packages in template fedora-43-xfce are unknown until it is applied/,
  );
});

test("a preview that does not know yet who has its sound refuses what cannot be all the same", async () => {
  const { handler, hosts, name } = new Program();
  const context = hosts.context(name, { preview: true });
  const create = async (args: Properties) => {
    const { inputs } = await handler.check({ host: "lab", audiovm: UNKNOWN, ...args }, {}, context);
    return handler.create(inputs, context);
  };
  assert.match(
    (await failing(Refusal, create({ clients: ["work", "wrok"] }))).message,
    /client "wrok" does not exist/,
  );
  assert.is((await create({ clients: ["work"] })).id, "");
  // What may yet be given is not judged by its default.
  assert.is((await create({ template: UNKNOWN, clients: ["wrok"] })).id, "");
});

test("a preview with what only another resource's apply will tell writes nothing", async () => {
  const program = new Program();
  await program.up({ clients: ["work"] });
  const { id = "", inputs: oldInputs = {}, outputs: oldOutputs = {} } = program.state ?? {};
  const { handler, hosts, name } = program;
  const context = hosts.context(name, { preview: true });
  const { inputs: news, failures } = await handler.check(
    { host: "lab", clients: ["work"], audiovm: UNKNOWN },
    {},
    context,
  );
  assert.equal(failures, []);
  const { changes } = await handler.diff({ id, oldInputs, oldOutputs, news }, context);
  assert.equal(changes, { settings: "update" }, "nothing of what is left out, and no other GUI domain");
  assert.equal(await handler.create(news, context), { id: "", outputs: news });
  const updated = await handler.update({ id, oldInputs, oldOutputs, news }, context);
  assert.equal([updated["audiovm"], "mode" in updated, "state" in updated], [UNKNOWN, false, false]);
  assert.is(hosts.applied.length, 1);
});

test("a client dropped goes back, a client added is shown, and nothing else", async () => {
  const program = new Program();
  await program.up({ clients: ["work"] });
  const changes = await program.up({ clients: ["vault"] });
  assert.equal(changes, { "settings.clients.work": "delete", "settings.clients.vault": "add" });
  const { qubes, ledger } = program.host.snapshot();
  assert.is(qubes["work"]?.properties["guivm"]?.default, true);
  assert.is(qubes["vault"]?.properties["guivm"]?.value, "sys-gui");
  assert.not("property:work:guivm" in ledger);
});

for (const args of [
  {},
  { clients: ["work"] },
  { clients: "default" },
  { display: ["vnc"] },
  { session: "preselect" },
  { hostPackages: [] },
])
  test(`import of a hand-made sys-gui, then no change: ${JSON.stringify(args)}`, async () => {
    const program = new Program(handMade(args));
    program.state = await program.handler.read(
      { id: "lab/sys-gui", inputs: {}, outputs: {} },
      program.hosts.context("sys-gui"),
    );
    assert.equal([program.outputs["state"], program.outputs["origin"]], ["unverified", "adopted"]);
    const changes = await program.preview(args as Properties);
    assert.equal(changes, {});
    const before = everything(program.host.snapshot());
    await program.up(args as Properties);
    await program.destroy();
    assert.is(program.hosts.applied.length, 0);
    assert.equal(everything(program.host.snapshot()), before);
  });

test("viewers of a release before passwords: imported and destroyed as they are; a program that names them needs one", async () => {
  const args = { display: ["vnc"], viewers: ["work"] };
  const program = new Program(handMade(args));
  program.state = await program.handler.read(
    { id: "lab/sys-gui", inputs: {}, outputs: {} },
    program.hosts.context("sys-gui"),
  );
  assert.equal(program.outputs["endpoint"], {
    protocol: "vnc",
    qube: "sys-gui",
    address: "127.0.0.1",
    port: 5900,
    viewers: ["work"],
  });
  const checked = await program.handler.check({ host: "lab", ...args }, {}, program.hosts.context("sys-gui"));
  assert.equal(
    checked.failures.map((f) => f.property),
    ["remote"],
  );
  const remote = { password: "geheim12" };
  assert.equal(await program.preview({ ...args, remote }), {
    'settings.features["vm-config.guidomain"]': "update",
    'settings.files["/etc/qubes/policy.d/45-secrets-sys-gui.policy"]': "add",
    "settings.secrets": "add",
  });
  await program.destroy();
  assert.is(program.hosts.applied.length, 0);
});

test("an import of mode rdp: its viewers are read, and a program has to give a login", async () => {
  const args = { display: ["rdp"], viewers: ["work"] };
  const program = new Program(handMade(args));
  program.state = await program.handler.read(
    { id: "lab/sys-gui", inputs: {}, outputs: {} },
    program.hosts.context("sys-gui"),
  );
  const { mode, viewers, endpoint } = program.outputs;
  assert.equal([mode, viewers, (endpoint as Properties)["port"]], ["rdp", ["work"], 3389]);
  const checked = await program.handler.check({ host: "lab", ...args }, {}, program.hosts.context("sys-gui"));
  assert.equal(
    checked.failures.map((f) => f.property),
    ["login"],
  );
});

test("an imported one is changed where the program differs, and stays when it is destroyed", async () => {
  const program = new Program(handMade());
  const before = everything(program.host.snapshot());
  program.state = await program.handler.read(
    { id: "lab/sys-gui", inputs: {}, outputs: {} },
    program.hosts.context("sys-gui"),
  );
  assert.equal(await program.up({ maxmem: 5000 }), { "settings.properties.maxmem": "update" });
  assert.equal(
    differing(before, everything(program.host.snapshot())),
    ["property:sys-gui:maxmem"],
    "nothing that was not shown",
  );
  assert.equal([program.outputs["state"], program.outputs["origin"]], ["ready", "adopted"]);
  await program.destroy();
  assert.equal(everything(program.host.snapshot()), before);
});

test("what a release before some arguments has left is not changed by their defaults", async () => {
  const program = new Program();
  await program.up();
  const later = ["suspend", "power", "login", "remote"];
  for (const part of [program.state?.inputs, program.state?.outputs]) {
    assert.ok(part);
    assert.equal(
      later.filter((name) => name in part),
      [],
    );
  }
});

test("import says what of a qube cannot be described; a qube that is not there is not found", async () => {
  const { handler, hosts, host } = new Program(handMade());
  assert.is(await handler.read({ id: "lab/nosuch", inputs: {}, outputs: {} }, hosts.context("x")), null);
  host.byHand((now) => {
    Object.assign(now.qubes["sys-gui"]?.properties ?? {}, { audiovm: explicit("sys-gui") });
  });
  const error = await failing(
    Refusal,
    handler.read({ id: "lab/sys-gui", inputs: {}, outputs: {} }, hosts.context("x")),
  );
  assert.match(
    error.message,
    /GUI domain sys-gui on host lab: it cannot be imported: audiovm "sys-gui" as its own audio domain/,
  );
});

test("a host that does not answer: an error, or skipped with the old state", async () => {
  const program = new Program();
  const { hosts } = program;
  await program.up();
  hosts.unreachable = true;
  assert.match((await failing(Error, program.refresh())).message, /no answer from lab\.example/);
  hosts.unreachable = false;
  await program.up({ unreachable: "skip" });
  const { outputs } = program;
  hosts.unreachable = true;
  assert.equal(await program.up({ unreachable: "skip" }), {});
  assert.equal(program.outputs, { ...outputs, looked: false });
  assert.equal([hosts.log.at(-1)?.options?.severity, hosts.applied.length], ["error", 1]);
  // A change waits until the host is there again.
  await program.up({ unreachable: "skip", maxmem: 5000 });
  assert.is(program.outputs["looked"], false);
  hosts.unreachable = false;
  assert.equal(await program.up({ unreachable: "skip", maxmem: 5000 }), {
    "settings.properties.maxmem": "update",
  });
  assert.is(program.host.snapshot().qubes["sys-gui"]?.properties["maxmem"]?.value, "5000");
  assert.is(program.outputs["looked"], true);
});

test("an apply that fails is kept as failed until one succeeds", async () => {
  const program = new Program(handMade());
  program.hosts.failure = new AgentFailure("lab", {
    code: "salt-failed",
    message: "Salt failed: maxmem: no",
    changed: [],
  });
  const error = await failing(PartialFailure, program.up({ maxmem: 5000 }));
  assert.match(
    error.message,
    /^GUI domain sys-gui on host lab: Salt failed: maxmem: no\. Nothing was changed on the host\./,
  );
  assert.equal([error.id, error.outputs["state"], error.outputs["mode"]], ["lab/sys-gui", "failed", "none"]);
  program.state = { id: error.id, inputs: await program.check({ maxmem: 5000 }), outputs: error.outputs };
  await program.refresh();
  assert.is(program.outputs["state"], "failed", "reading the host does not mend it");
  // Even where somebody has made the host as wanted: ready needs a check.
  program.host.byHand((now) => {
    Object.assign(now.qubes["sys-gui"]?.properties ?? {}, { maxmem: explicit("5000") });
  });
  await program.refresh();
  const { id, inputs, outputs } = program.state;
  const again = await program.handler.update(
    { id, oldInputs: inputs, oldOutputs: outputs, news: await program.check({ maxmem: 5000 }) },
    program.hosts.context("sys-gui"),
  );
  assert.equal([again["state"], (again["evidence"] as Properties[]).length > 0], ["ready", true]);
});

test("a package that cannot be had leaves the host as it was", async () => {
  const program = new Program();
  const before = program.host.snapshot();
  const error = await failing(PartialFailure, program.up({ hostPackages: ["no-such-package"] }));
  assert.match(error.message, /no-such-package: not in any repository/);
  assert.equal(program.host.snapshot(), before);
});

test("a mode that its checks have shown not to work is left out while another comes up; alone it is tried in each run", async () => {
  const program = new Program();
  const args = { clients: ["work"], display: ["xephyr", "vnc"] };
  const attempts = () =>
    (program.outputs["attempts"] as Properties[]).map((a) => `${a["mode"]} ${a["verdict"]}`);
  program.host.failing.set("session service exists", "exit 1");
  await program.up(args);
  assert.equal([program.outputs["mode"], attempts()], ["vnc", ["xephyr failed", "vnc ok"]]);
  const runs = program.hosts.applied.length;
  assert.equal(await program.preview(args), {});
  assert.equal(await program.up(args), {});
  assert.equal([attempts(), program.hosts.applied.length], [["xephyr failed", "vnc ok"], runs]);
  await program.up({ ...args, retry: 2 });
  assert.equal([program.outputs["mode"], attempts()], ["xephyr", ["xephyr ok", "vnc skipped"]]);

  const alone = new Program();
  alone.host.failing.set("session service exists", "exit 1");
  await failing(PartialFailure, alone.up({ clients: ["work"] }));
  await alone.up({ clients: ["work"] });
  assert.is(alone.outputs["mode"], "xephyr");
});

test("a state that says it is done and is not, is a failure", async () => {
  const program = new Program();
  const { hosts, host } = program;
  const apply = hosts.apply.bind(hosts);
  hosts.apply = async (...args) => {
    const result = await apply(...args);
    host.byHand((now) => {
      Object.assign(now.qubes["sys-gui"]?.properties ?? {}, { maxmem: explicit("1") });
    });
    return { ...result, snapshot: host.snapshot() };
  };
  const error = await failing(PartialFailure, program.up());
  assert.match(error.message, /the host does not have what was applied: property:sys-gui:maxmem/);
});

test("two GUI domains: one client of both is refused in the preview with both names; packages are no conflict", async () => {
  const program = new Program();
  const second = new Program(program.host, "second");
  await program.handler.create(
    await program.check({ clients: ["vault"] }),
    program.hosts.context("sys-gui", { preview: true }),
  );
  const handler = guiDomainHandler(program.hosts);
  const twice = await second.check({ clients: ["vault"] });
  const error = await failing(
    Refusal,
    handler.create(twice, program.hosts.context("second", { preview: true })),
  );
  assert.match(
    error.message,
    /GUI domain second on host lab: the GUI domain of "vault" is claimed by GuiDomain "sys-gui" \(stack lab, project site\) as well/,
  );
  await program.up({ clients: ["vault"] });
  second.hosts.stack = "another";
  const taken = await failing(Refusal, second.up({ clients: ["vault"] }));
  assert.match(
    taken.message,
    /belongs to GuiDomain "sys-gui" \(stack lab, project site\), as the host's ledger says\..*"pulumi destroy" of that stack/,
  );
  await second.up({ clients: ["work"] });
  await program.destroy();
  assert.ok(program.host.snapshot().packages["dummy-psu-sender"], "the other one still wants it");
  await second.destroy();
  assert.is(program.host.snapshot().packages["dummy-psu-sender"], null);
});

test("delete: refused while clients run, keep forgets, an adopted one that was never changed is left alone", async () => {
  const program = new Program(new HostModel(install({ qubes: { work: qube({ state: "Running" }) } })));
  const { host } = program;
  await program.up({ clients: ["work"] });
  host.byHand((now) => {
    const started = { default: true, value: String(now.facts.now + 1) };
    Object.assign(now.qubes["work"]?.properties ?? {}, { start_time: started });
  });
  const error = await failing(Refusal, program.destroy());
  assert.match(
    error.message,
    /it cannot be removed while it shows the windows of running qubes: "work"\. Nothing was changed/,
  );
  host.byHand((now) => {
    Object.assign(now.qubes["work"] ?? {}, { state: "Halted" });
  });
  await program.up({ clients: ["work"], onDelete: "keep" });
  const before = everything(host.snapshot());
  await program.destroy();
  assert.equal([everything(host.snapshot()), host.snapshot().ledger], [before, {}]);
});

test("what the host does not allow any more is refused to an up and its preview; a refresh looks, and a destroy takes it back", async () => {
  const program = new Program();
  const { host } = program;
  const before = everything(host.snapshot());
  await program.up({ clients: ["work"] });
  host.byHand((now) => {
    const template = now.qubes["fedora-43-xfce"];
    if (template) template.class = "StandaloneVM";
  });
  const state = program.state as ReadResult;
  const asked = { id: state.id, oldInputs: state.inputs, oldOutputs: state.outputs, news: state.inputs };
  const { changes } = await program.handler.diff(asked, program.hosts.context("sys-gui"));
  assert.equal(changes, { settings: "update" });
  for (const run of [program.preview({ clients: ["work"] }), program.up({ clients: ["work"] })])
    assert.match((await failing(Refusal, run)).message, /"fedora-43-xfce" is not a template but of class/);
  await program.destroy();
  assert.equal(differing(before, everything(host.snapshot())), ["qube:fedora-43-xfce"]);
});

test("delete: what cannot be removed is said, and stays this resource's until it is gone", async () => {
  for (const [key, words] of [
    ["package:dummy-psu-sender", "dom0 package dummy-psu-sender"],
    ["qube:sys-gui", 'qube "sys-gui"'],
  ] as const) {
    const program = new Program();
    const { host } = program;
    const before = everything(host.snapshot());
    await program.up({ clients: ["work"] });
    host.held.set(key, "it is held");
    const error = await failing(Error, program.destroy());
    assert.match(
      error.message,
      `GUI domain sys-gui on host lab: what is no longer wanted could not be removed: ${words} (it is held). The rest was applied and is kept.`,
    );
    assert.equal(Object.keys(host.snapshot().ledger), [key]);
    await program.refresh();
    assert.ok(program.state, "a refresh does not forget it");
    await failing(Error, program.destroy());
    host.held.clear();
    await program.refresh();
    await program.destroy();
    assert.equal([everything(host.snapshot()), host.snapshot().ledger], [before, {}]);

    // And an "up" instead of it makes it whole again.
    await program.up({ clients: ["work"] });
    host.held.set(key, "it is held");
    await failing(Error, program.destroy());
    await program.up({ clients: ["work"] });
    assert.equal(await program.preview({ clients: ["work"] }), {});
    host.held.clear();
    await program.destroy();
    assert.equal([everything(host.snapshot()), host.snapshot().ledger], [before, {}]);
  }
});

test("running clients: pending until they restart, or restarted where that is allowed", async () => {
  const host = () => new HostModel(install({ qubes: { work: qube({ state: "Running" }) } }));
  const patient = new Program(host());
  await patient.up({ clients: ["work"] });
  const [pending] = patient.outputs["pending"] as { kind: string; qubes: string[] }[];
  assert.equal([pending?.kind, pending?.qubes], ["restart", ["work"]]);
  patient.host.byHand((now) => {
    Object.assign(now.qubes["work"]?.properties ?? {}, {
      start_time: { default: true, value: String(now.facts.now + 1) },
    });
  });
  await patient.refresh();
  assert.equal(patient.outputs["pending"], []);

  const allowed = new Program(host());
  await allowed.up({ clients: ["work"], restartClients: "allowed" });
  assert.equal(allowed.hosts.applied[0]?.restart, ["work"]);
  assert.equal(allowed.outputs["pending"], [], "what was restarted waits no more");
  await allowed.up({ clients: ["work"], restartClients: "allowed" });
  assert.is(allowed.hosts.applied.length, 1);
});

test("delete: a client that runs since before the change has its windows elsewhere, and is no obstacle", async () => {
  const program = new Program(new HostModel(install({ qubes: { work: qube({ state: "Running" }) } })));
  const before = everything(program.host.snapshot());
  await program.up({ clients: ["work"] });
  await program.destroy();
  assert.equal(everything(program.host.snapshot()), before);
});

test("two that go in one run take what they share along", async () => {
  const host = new HostModel();
  const before = everything(host.snapshot());
  const [one, other] = [new Program(host), new Program(host, "sys-gui-2")];
  for (const program of [one, other]) await program.up();
  const handler = guiDomainHandler(one.hosts);
  await Promise.all(
    [one, other].map(({ state, name }) => handler.delete(state as ReadResult, one.hosts.context(name))),
  );
  assert.equal(differing(before, everything(host.snapshot())), []);
});

test("inUse is said only while a session runs", async () => {
  const program = new Program();
  await program.up();
  const session = (on: boolean) =>
    program.host.byHand((now) => {
      Object.assign(now.qubes["sys-gui"] ?? {}, { session: on, guidRunning: on });
    });
  session(true);
  await program.refresh();
  assert.is(program.outputs["state"], "inUse");
  session(false);
  await program.refresh();
  assert.is(program.outputs["state"], "ready");
});

test("unknowns: judged are only the known arguments, each for itself", async () => {
  const { handler, hosts } = new Program();
  const check = async (args: Properties) =>
    (await handler.check({ host: UNKNOWN, ...args }, {}, hosts.context("sys-gui"))).failures;
  assert.equal(await check({ viewers: ["work"], display: UNKNOWN }), []);
  assert.equal(await check({ sessionUser: "user", session: UNKNOWN }), []);
  assert.equal(await check({ clients: ["sys-gui"], qube: UNKNOWN }), []);
  assert.equal(
    (await check({ memory: 1 })).map((f) => f.property),
    ["memory"],
  );
  const { inputs } = await handler.check({ host: UNKNOWN }, {}, hosts.context("sys-gui"));
  assert.is(inputs["settings"], UNKNOWN);
  const { changes } = await handler.diff(
    { id: "lab/sys-gui", oldInputs: { host: "lab" }, oldOutputs: {}, news: inputs },
    hosts.context("sys-gui"),
  );
  assert.is(changes["host"], "update-replace");
});

test("another host or qube replaces, the old one goes first", async () => {
  const program = new Program();
  await program.up();
  const news = await program.check({ qube: "other" });
  const { id, inputs: oldInputs, outputs: oldOutputs } = program.state as ReadResult;
  const diff = await program.handler.diff(
    { id, oldInputs, oldOutputs, news },
    program.hosts.context("sys-gui"),
  );
  assert.is(diff.changes["qube"], "update-replace");
  assert.is(diff.deleteBeforeReplace, true);
});

test("abandoned: never a claim that it works", async () => {
  const program = new Program();
  const inputs = await program.check({});
  const aborted = AbortSignal.abort(new Error("stopped by Ctrl-C"));
  const context = program.hosts.context("sys-gui", { signal: aborted });
  const made = program.handler.abandoned?.({ operation: "create", inputs }, context);
  assert.equal([made?.id, made?.outputs["state"], made?.outputs["mode"]], ["lab/sys-gui", "failed", "none"]);
  assert.match(
    made?.reasons[0] ?? "",
    /^GUI domain sys-gui on host lab: stopped by Ctrl-C\. The host puts back by itself/,
  );
  const gone = program.handler.abandoned?.(
    { operation: "delete", id: "lab/sys-gui", inputs, outputs: { mode: "xephyr" } },
    context,
  );
  assert.equal([gone?.id, gone?.outputs, gone?.reasons.length], ["lab/sys-gui", { mode: "xephyr" }, 1]);
});

test("check: the stored inputs describe the same again", async () => {
  const { handler, hosts, ...program } = new Program();
  const first = (
    await handler.check({ host: "lab", clients: ["work", "vault", "work"] }, {}, hosts.context(program.name))
  ).inputs;
  assert.equal(first["clients"], ["vault", "work"]);
  assert.equal((await handler.check(first, {}, hosts.context(program.name))).inputs, first);
  const { failures } = await handler.check(
    { host: "lab", display: ["x11"] },
    {},
    hosts.context(program.name),
  );
  assert.equal(
    failures.map((f) => f.property),
    ["display[0]"],
  );
  assert.is(urnOf("x"), "urn:pulumi:lab::site::guidomain:index:GuiDomain::x");
});

test("the input of one USB qube goes one way: two GUI domains that speak of it are refused in the preview", async () => {
  const host = new HostModel(install({ qubes: { "sys-usb": qube() } }));
  const [alice, bob] = [new Program(host, "gui-alice"), new Program(host, "gui-bob")];
  bob.hosts.claims = alice.hosts.claims;
  const args = { input: { usb: [{ mouse: "ask" }] } };
  const create = async (program: Program) =>
    program.handler.create(await program.check(args), program.hosts.context(program.name, { preview: true }));
  await create(alice);
  const refusal = await failing(Refusal, create(bob));
  assert.match(
    refusal.message,
    /the input of "sys-usb" is claimed by GuiDomain "gui-alice" .*let go of it in "input"/,
  );
});

test("nor over two programs: what the other one's file says of a USB qube stands", async () => {
  const host = new HostModel(install({ qubes: { "sys-usb": qube() } }));
  const [alice, bob] = [new Program(host, "gui-zoe"), new Program(host, "gui-bob")];
  const args = { input: { usb: [{ mouse: "ask" }] } };
  await alice.up(args);
  const entry = host.snapshot().ledger["file:/etc/qubes/policy.d/45-gui-gui-zoe.policy"];
  assert.ok(entry);
  host.byHand(({ ledger }) => {
    for (const one of Object.values(ledger))
      one.owner = one.owner.replace("urn:pulumi:lab", "urn:pulumi:home");
  });
  const before = host.snapshot();
  const refusal = await failing(Refusal, bob.up(args));
  assert.match(refusal.message, /45-gui-gui-zoe\.policy says, the file of GuiDomain "gui-zoe" \(stack home/);
  assert.equal(host.snapshot(), before);
  await bob.up({ input: { usb: [{ tablet: "deny" }] } });
});

test.run();
