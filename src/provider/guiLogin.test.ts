/** The password of a GUI domain: what the host is handed, what is said of it, and what is put in place inside. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import { differing, everything, HostModel, laptop } from "../plan/testing/hostModel.ts";
import type { Properties } from "./handler.ts";
import { PartialFailure } from "./handler.ts";
import { failing, Program } from "./testProgram.ts";

const PASSWORD = "correct horse";
const login: Properties = { password: PASSWORD };
const handed = (program: Program) => program.hosts.applied.at(-1)?.secrets?.["sys-gui:login"];
const GENERATION = "vm-config.guidomain";

test("a password reaches the host as a hash, is put in force, and leaves with the GUI domain", async () => {
  const program = new Program();
  const { host } = program;
  const before = everything(host.snapshot());
  await program.up({ login });
  const secret = handed(program);
  assert.match(secret?.value ?? "", /^\$6\$rounds=50000\$[./0-9A-Za-z]{16}\$[./0-9A-Za-z]{86}$/);
  assert.is(host.snapshot().secrets?.["sys-gui:login"], secret?.mark);
  const { inside = [], formula, verify } = program.hosts.applied[0] ?? {};
  const digest = host.snapshot().qubes["sys-gui"]?.features[GENERATION];
  assert.is(inside[0]?.activate, `/rw/config/guidomain/${digest}/activate`);
  assert.ok(verify?.some((check) => "command" in check && check.command.includes(`= ${digest}`)));
  assert.ok(host.insides["sys-gui"]?.files[`/rw/config/guidomain/${digest}/complete`]);
  // Nowhere else: neither the password nor its hash.
  const [hash = ""] = [secret?.value];
  for (const text of [
    JSON.stringify(formula),
    JSON.stringify(program.outputs["settings"]),
    JSON.stringify(host.snapshot()),
  ])
    assert.ok(!text.includes(PASSWORD) && !text.includes(hash));

  assert.equal(await program.preview({ login }), {});
  assert.equal(await program.up({ login }), {});
  assert.is(program.hosts.applied.length, 1);
  await program.destroy();
  assert.is(handed(program), null);
  assert.equal([differing(before, everything(host.snapshot())), host.snapshot().ledger], [[], {}]);
});

test("another password: only that is handed over, and put in force where the qube runs", async () => {
  const program = new Program();
  await program.up({ login });
  const first = handed(program);
  const written = program.host.written.length;
  assert.equal(await program.up({ login: { password: "another" } }), { "settings.secrets.login": "update" });
  assert.is.not(handed(program)?.mark, first?.mark);
  const { inside = [] } = program.hosts.applied.at(-1) ?? {};
  assert.equal([inside.length, inside[0]?.sls], [1, null]);
  assert.is(program.host.written.length, written + 1);
});

test("one that somebody has changed on the host is put right", async () => {
  const program = new Program();
  await program.up({ login });
  program.host.byHand((now) => {
    now.secrets = { "sys-gui:login": "other" };
  });
  assert.equal(await program.preview({ login }), { "settings.secrets.login": "update" });
  await program.up({ login });
  assert.is(program.host.snapshot().secrets?.["sys-gui:login"], handed(program)?.mark);
});

test("what cannot be put in place inside fails the mode, and all is as before", async () => {
  const program = new Program();
  const before = everything(program.host.snapshot());
  program.host.failing.set("what is put in place inside is in force", "cat: no such file");
  const error = await failing(PartialFailure, program.up({ login }));
  assert.match(error.message, /what is put in place inside is in force: cat: no such file/);
  assert.equal(differing(before, everything(program.host.snapshot())), []);
});

test("in a boot of its own: what is inside comes in that boot, and only then has to be in force", async () => {
  const program = new Program(new HostModel(laptop()));
  const { host } = program;
  await program.up({ display: ["gpu"], reboot: "allowed", login });
  assert.equal([program.outputs["mode"], host.boots], ["gpu", 1]);
  const { inside, insideBoot = [], verify = [], verifyBoot = [] } = program.hosts.applied[0] ?? {};
  const id = "what is put in place inside is in force";
  assert.equal([inside, insideBoot.length], [undefined, 1]);
  assert.ok(insideBoot[0]?.sls && insideBoot[0].activate);
  assert.not(verify.some((check) => check.id === id));
  assert.ok(
    verifyBoot.findIndex((check) => check.id === id) >
      verifyBoot.findIndex((check) => check.kind === "start"),
  );
  assert.ok(host.snapshot().secrets?.["sys-gui:login"]);
  // Where it does not get into force the machine goes back.
  const other = new Program(new HostModel(laptop()));
  const before = everything(other.host.snapshot());
  other.host.failing.set(id, "cat: no such file");
  await failing(PartialFailure, other.up({ display: ["gpu"], reboot: "allowed", login }));
  assert.equal(differing(before, everything(other.host.snapshot())), []);
});

test("it follows a user of dom0: nothing of that password leaves the host", async () => {
  const program = new Program();
  await program.up({ login: { follow: "dom0", user: "alice" } });
  assert.equal(handed(program), { mark: "dom0:alice", value: "dom0:alice" });
  const { files } = program.host.snapshot();
  assert.match(
    files["/etc/systemd/system/guidomain-login-sys-gui.path"]?.content ?? "",
    /PathChanged=\/etc\/shadow/,
  );
  assert.match(
    files["/etc/systemd/system/guidomain-login-sys-gui.service"]?.content ?? "",
    /qvm-check -q --running sys-gui.*\/rw\/config\/guidomain\/[0-9a-f]{16}\/secret login/,
  );
  assert.match(
    files["/etc/qubes/policy.d/45-secrets-sys-gui.policy"]?.content ?? "",
    /guidomain.Secret +\+login +sys-gui +@adminvm +allow/,
  );
  await program.up({ login });
  assert.equal(
    Object.keys(program.host.snapshot().files).filter((name) => name.includes("guidomain-login")),
    [],
  );
  await program.up({});
  const now = program.host.snapshot();
  assert.equal([now.secrets, now.qubes["sys-gui"]?.features[GENERATION]], [{}, undefined]);
});

test("what is no password, or no way to one, is refused without being shown", async () => {
  const program = new Program();
  const reasons = async (value: Properties) => {
    const context = program.hosts.context("sys-gui");
    const { failures } = await program.handler.check({ host: "lab", login: value }, {}, context);
    return failures.map(({ property, reason }) => `${property}: ${reason}`).join();
  };
  for (const value of [
    { password: "a\nKANARI" },
    { password: "" },
    { password: 17 },
    { password: ["KANARI"] },
  ]) {
    const said = await reasons(value as Properties);
    assert.match(said, /^login\.password: the password must be a text of 1 to 256 characters/);
    assert.ok(!said.includes("KANARI"));
  }
  assert.match(await reasons({ follow: "dom0" }), /login\.user: missing/);
  assert.match(
    await reasons({ follow: "sys-net", user: "alice" }),
    /login\.follow: "sys-net" is not allowed; allowed are "dom0"/,
  );
  assert.match(await reasons({ follow: "dom0", user: "alice; reboot" }), /not the name of a user/);
  assert.match(await reasons({ password: "x", users: "a" }), /login\.users: there is no such part/);
});

test.run();
