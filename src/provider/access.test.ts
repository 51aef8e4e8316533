/** Rules of one's own against hosts in memory: what is told, what is refused, and that they come and go alone. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import { accessFile } from "../model/access.ts";
import { Refusal } from "../model/failure.ts";
import { FILE_MODE } from "../model/settings.ts";
import { differing, everything, HostModel, install } from "../plan/testing/hostModel.ts";
import { STOCK } from "../policy/services.ts";
import { accessHandler } from "./access.ts";
import type { Properties, ReadResult } from "./handler.ts";
import { TestHosts } from "./testHosts.ts";
import { failing, Program } from "./testProgram.ts";

const FILE = accessFile({ guiDomain: "sys-gui", name: "backup" });
const PATH = `settings.files["${FILE}"]`;
const RULES = ["qubes.Backup * sys-gui work allow", "qubes.Filecopy * @tag:guivm-sys-gui work ask"];
const ARGS = { guiDomain: "sys-gui", rules: RULES };

/** A host whose GUI domain has that level, as another program has left it; and the program with the access. */
async function levelled(level: string, args: Properties = {}) {
  const model = new HostModel(
    install({
      files: Object.fromEntries(
        Object.entries(STOCK).map(([path, content]) => [path, { content, mode: FILE_MODE }]),
      ),
    }),
  );
  const gui = new Program(model);
  await gui.up({ clients: ["work"], level, ...args });
  return { model, gui, access: new Program(model, "backup", accessHandler) };
}

test("up, nothing to do, drift repaired, changed, and back to the start", async () => {
  const { model, gui, access } = await levelled("user");
  const before = everything(model.snapshot());
  await access.up(ARGS);
  const { policy, allowed, denied, state } = access.outputs;
  assert.match(String(policy), /^qubes\.Backup \* sys-gui work allow$/m);
  assert.equal(
    [state, allowed, denied],
    ["ready", ["sys-gui → work: qubes.Backup", "work → work: qubes.Filecopy (a person is asked)"], []],
  );
  const [request] = access.hosts.applied;
  assert.ok(request?.verify.some(({ id }) => id === "policy: sys-gui may ask work for qubes.Backup"));
  assert.ok(request?.verify.some(({ id }) => id === "policy: work may not ask work for qubes.Filecopy"));
  assert.equal(await access.preview(ARGS), {});
  assert.equal(await gui.preview({ clients: ["work"], level: "user" }), {}, "the level is as it was");
  model.byHand(({ files }) => {
    files[FILE] = { content: "# mine\n", mode: FILE_MODE };
  });
  assert.equal(await access.preview(ARGS), { [PATH]: "update" });
  assert.equal(
    [access.outputs["state"], access.outputs["denied"]],
    ["drifted", ["sys-gui → work: qubes.Backup"]],
  );
  await access.up(ARGS);
  assert.equal(await access.preview(ARGS), {});
  const fewer = { ...ARGS, rules: [RULES[0] as string] };
  assert.equal(await access.preview(fewer), { [PATH]: "update" });
  await access.up(fewer);
  assert.equal(access.outputs["allowed"], ["sys-gui → work: qubes.Backup"]);
  await access.destroy();
  assert.equal(differing(before, everything(model.snapshot())), []);
});

test("a preview tells what it adds, and writes nothing", async () => {
  const { model, access } = await levelled("user");
  const before = everything(model.snapshot());
  const context = access.hosts.context("backup", { preview: true });
  await access.handler.create(await access.check(ARGS), context);
  const said = access.hosts.log.map(({ message }) => message).join("\n");
  assert.match(said, /rights on host lab:\n.*sys-gui may from now on:[\s\S]*qubes\.Backup/);
  assert.equal(differing(before, everything(model.snapshot())), []);
});

const REFUSED: [what: string, level: string, rules: string[], why: RegExp][] = [
  [
    "an admin right for a guest",
    "guest",
    ["admin.vm.Start * sys-gui work allow target=dom0"],
    /rules\[0\].*is an admin right, and sys-gui is at level guest/,
  ],
  ["what only admins may", "operator", ["qubes.VMShell * sys-gui work allow"], /rules\[0\].*is for admins/],
  [
    "somebody else's source",
    "user",
    ["qubes.Filecopy * vault work allow"],
    /rules\[0\].*its source is "vault"/,
  ],
  [
    "a qube that is not there",
    "user",
    ["qubes.Filecopy * sys-gui nowhere allow"],
    /there is no qube|nowhere/,
  ],
];
for (const [what, level, rules, why] of REFUSED)
  test(`refused, and nothing written: ${what}`, async () => {
    const { model, access } = await levelled(level);
    const before = everything(model.snapshot());
    const { message } = await failing(Refusal, access.up({ guiDomain: "sys-gui", rules }));
    assert.match(message, why);
    assert.equal(differing(before, everything(model.snapshot())), []);
  });

test("rules without a level to stand on are refused", async () => {
  const access = new Program(new HostModel(), "backup", accessHandler);
  const { message } = await failing(Refusal, access.up(ARGS));
  assert.match(message, /GUI domain "sys-gui" has no level there.*Give that GuiDomain a "level"/);
});

for (const [what, level, property] of [
  ["too low a level", { level: "guest" }, "rules[0]"],
  ["no level any more", {}, "guiDomain"],
] as const)
  test(`the same program has ${what}: that counts before it is on the host, and where nothing else is changed`, async () => {
    const { model, gui, access } = await levelled("admin");
    access.hosts.type = "Access";
    const args = { guiDomain: "sys-gui", rules: ["admin.vm.Start * sys-gui work allow target=dom0"] };
    await access.up(args);
    const before = everything(model.snapshot());
    access.hosts.claims = gui.hosts.claims = new TestHosts({}).claims;
    await gui.check({ clients: ["work"], ...level });
    const { failures } = await access.handler.check(
      { host: "lab", ...args },
      access.state?.inputs ?? {},
      access.hosts.context("backup"),
    );
    assert.equal(
      failures.map((fault) => fault.property),
      [property],
    );
    assert.equal(differing(before, everything(model.snapshot())), []);
  });

test("a GUI domain whose qube such a rule would open to another does not come up: the rule is named", async () => {
  const { model, access } = await levelled("user");
  await access.up({ guiDomain: "sys-gui", rules: ["qubes.Filecopy * sys-gui vault allow"] });
  const bob = new Program(model, "sys-bob");
  const { message } = await failing(Refusal, bob.up({ clients: ["vault"], level: "user" }));
  assert.match(message, /44-access-sys-gui-backup\.policy:2/);
  await access.destroy();
  await bob.up({ clients: ["vault"], level: "user" });
});

test("names and rules that cannot be", async () => {
  const access = new Program(new HostModel(), "backup", accessHandler);
  const faults = async (args: Properties, name = "backup") =>
    (await access.handler.check({ host: "lab", ...args }, {}, access.hosts.context(name))).failures.map(
      ({ property, reason }) => `${property}: ${reason}`,
    );
  assert.match((await faults({ ...ARGS, rules: [] })).join(), /rules: it is empty/);
  assert.match((await faults({ ...ARGS, rules: ["qubes.Filecopy\n* * * allow"] })).join(), /rules\[0\]: /);
  assert.match((await faults({ ...ARGS, guiDomain: "a b" })).join(), /guiDomain: "a b" is not a qube's name/);
  assert.match(
    (await faults(ARGS, "my rules")).join(),
    /the resource's name is part of a policy file's name/,
  );
  assert.match((await faults({ ...ARGS, level: "user" })).join(), /level: not a property of an access/);
});

test("a host that does not answer is skipped where that is asked for; the state stays, and the run says so", async () => {
  const { access } = await levelled("user");
  await access.up({ ...ARGS, unreachable: "skip" });
  access.hosts.unreachable = true;
  assert.equal(await access.preview({ ...ARGS, unreachable: "skip" }), {});
  assert.equal([access.outputs["looked"], access.outputs["state"]], [false, "ready"]);
  assert.match(access.hosts.log.at(-1)?.message ?? "", /was not looked at/);
});

test("another name in the program, by an alias or in the state: the file of the former one goes with its rules", async () => {
  const { model, access } = await levelled("user");
  const before = everything(model.snapshot());
  for (const has of [true, false]) {
    const saving = new Program(model, "saving", accessHandler);
    for (const program of [access, saving]) program.hosts.type = "Access";
    await access.up(ARGS);
    saving.state = access.state as ReadResult;
    const { id, inputs: oldInputs, outputs: oldOutputs } = saving.state;
    if (has) {
      const news = await saving.check(ARGS);
      const context = saving.hosts.context("saving");
      const { changes } = await saving.handler.diff({ id, oldInputs, oldOutputs, news }, context);
      assert.is(changes["settings"], "update-replace");
    }
    await saving.destroy(); // the first half of a replacement
    assert.equal(differing(before, everything(model.snapshot())), []);
    assert.equal(
      Object.keys(model.snapshot().ledger).filter((key) => key.includes("44-access")),
      [],
    );
    access.state = null;
  }
});

test("two whose names come to the same file are refused, with what to do", async () => {
  const { model, access } = await levelled("user");
  const other = new Program(model, "Backup", accessHandler);
  other.hosts.claims = access.hosts.claims;
  for (const program of [access, other]) program.hosts.type = "Access";
  const both = await Promise.all([access.check(ARGS), other.check(ARGS)]);
  await access.handler.create(both[0], access.hosts.context("backup"));
  const { message } = await failing(Refusal, other.handler.create(both[1], other.hosts.context("Backup")));
  assert.match(
    message,
    /44-access-sys-gui-backup.* is claimed by Access "backup".*Give one of the two another name/,
  );
});

test("import: what its file says; a file that is not there is not found", async () => {
  const { access } = await levelled("user");
  await access.up(ARGS);
  const context = access.hosts.context("backup");
  const id = "lab/sys-gui/backup";
  const found = await access.handler.read({ id, inputs: {}, outputs: {} }, context);
  assert.equal([found?.inputs["rules"], found?.outputs["state"]], [RULES, "unverified"]);
  assert.is(await access.handler.read({ id: "lab/sys-gui/other", inputs: {}, outputs: {} }, context), null);
  const other = access.handler.read({ id, inputs: {}, outputs: {} }, access.hosts.context("saving"));
  assert.match((await failing(Refusal, other)).message, /Import it under the name "backup"/);
});

test.run();
