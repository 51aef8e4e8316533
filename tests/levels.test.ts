// Two people at one host, on real parts: engine, plugin, OpenSSH, agent, Salt, a twin whose own policy answers who may do what.

import { GuiDomain, type GuiDomainArgs, Host } from "guidomain";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { startTwin } from "../lab/twin/twin.ts";
import { hostOf, scratch, testStack } from "./harness.ts";

const folder = scratch("levels");
const twin = await startTwin({ dir: `${folder}/twin` });
// As on any host, the network runs; a download by qubes-dom0-update would start it otherwise.
await twin.exec("qvm-start sys-firewall");
await twin.exec("qvm-create --label red untrusted");
const pristine = await twin.dump();
/** Its times move with each apply. */
const LEDGER = { ignore: ["files./var/lib/guidomain/ledger.json"] };
const file = (name: string) => `/etc/qubes/policy.d/46-level-${name}.policy`;
const path = (name: string) => `settings.files["${file(name)}"]`;

const KIOSK: Partial<GuiDomainArgs> = {
  level: "kiosk",
  apps: [
    { app: "firefox", disposable: "default-dvm" },
    { app: "xterm", qube: "untrusted" },
  ],
};
let alices: Partial<GuiDomainArgs> = { level: "user" };
let bobs: Partial<GuiDomainArgs> = KIOSK;
const stack = await testStack("levels", folder, { lab: hostOf(twin) }, async () => {
  const host = new Host("lab");
  const alice = new GuiDomain("gui-alice", { host, clients: ["personal", "vault"], ...alices });
  const bob = new GuiDomain("gui-bob", { host, clients: ["untrusted", "default-dvm"], ...bobs });
  return { alice: alice.rights, bob: bob.rights, states: [alice.state, bob.state], level: alice.level };
});

/** What the twin's policy, an implementation of its own, answers to "GUI domain or qube, whom, for what"; `asked`: or a person is asked. */
const may = async (question: string, asked = "") =>
  (await twin.exec(`qrexec-policy-exec --just-evaluate ${asked} ${question} 2>/dev/null`)).code === 0;
const mayBeAsked = (question: string) => may(question, "--assume-yes-for-ask");
/** `denied`: even where a person would agree. */
async function answers(allowed: string[], denied: string[]): Promise<void> {
  for (const question of allowed) assert.is(await may(question), true, `denied: ${question}`);
  for (const question of denied) assert.is(await mayBeAsked(question), false, `allowed: ${question}`);
}

const FOREIGN = ["gui-bob", "untrusted"].flatMap((target) => [
  `gui-alice ${target} qubes.StartApp+xterm`,
  `gui-alice ${target} admin.vm.Start`,
  `gui-alice ${target} admin.vm.List`,
  `gui-alice ${target} qubes.GetAppmenus`,
  `personal ${target} qubes.Filecopy`,
]);
const NOBODYS = ["gui-alice personal", "gui-bob untrusted", "personal vault"].flatMap((sides) =>
  ["qubes.VMShell", "qubes.VMExec+ls", "qubes.VMRootShell"].map((service) => `${sides} ${service}`),
);

test("a preview of the first up tells each one's rights and writes nothing", async () => {
  const preview = await stack.preview();
  assert.ok(preview.ok, preview.output);
  assert.match(preview.output, /gui-alice may from now on:\n +start applications/);
  assert.match(
    preview.output,
    /gui-bob may from now on:\n +start applications\n +qubes\.StartApp \(firefox\)/,
  );
  assert.equal(twin.compare(pristine, await twin.dump()), []);
});

test("up: what each may and may not, as the host's own policy answers", async () => {
  // What the levels take away is there before.
  for (const question of ["personal untrusted qubes.Filecopy", "untrusted @dispvm qubes.OpenURL"])
    assert.is(await mayBeAsked(question), true, question);
  const up = await stack.up();
  assert.ok(up.ok, up.output);
  assert.equal([up.outputs["states"], up.outputs["level"]], [["ready", "ready"], "user"], up.output);
  const { allowed, denied, wider } = up.outputs["alice"] as Record<string, string[]>;
  assert.ok(allowed?.includes("start applications") && denied?.includes("run any command"));
  assert.equal(wider, []);
  assert.is((await twin.exec("qubes-policy-lint /etc/qubes/policy.d/*.policy")).code, 0);
  assert.is((await twin.exec("qvm-features gui-bob set-created-guivm")).stdout, "gui-bob\n");
  await answers(
    [
      "gui-alice personal qubes.StartApp+xterm",
      "gui-alice personal admin.vm.Start",
      "gui-alice dom0 policy.EvalGUI+qubes.ClipboardPaste",
      "gui-alice personal admin.vm.property.Get+xid",
      "gui-bob untrusted qubes.StartApp+xterm",
      "gui-bob @dispvm:default-dvm qubes.StartApp+firefox",
      "gui-bob untrusted admin.vm.property.Get+xid",
      "personal dom0 qubes.WindowIconUpdater",
      "personal @default qubes.GetDate",
    ],
    [
      ...FOREIGN,
      ...NOBODYS,
      "gui-alice dom0 admin.vm.Create.AppVM+fedora-43-xfce",
      "gui-alice personal admin.vm.property.Set+guivm",
      "gui-alice personal admin.vm.property.Set+kernelopts",
      "gui-alice personal admin.vm.tag.Set+guivm-gui-alice",
      "gui-alice dom0 policy.Replace+46-level-gui-alice",
      "gui-bob untrusted qubes.StartApp+firefox",
      "gui-bob @dispvm:default-dvm qubes.StartApp+xterm",
      "gui-bob untrusted admin.vm.Start",
      "gui-bob dom0 policy.EvalGUI+qubes.ClipboardPaste",
      "gui-bob personal qubes.StartApp+xterm",
      "untrusted personal qubes.Filecopy",
      "untrusted @dispvm qubes.OpenURL",
    ],
  );
});

test("no change, and nothing written", async () => {
  const before = await twin.dump();
  const preview = await stack.preview();
  assert.equal(preview.changes, { same: 4 }, preview.output);
  assert.not.match(preview.output, /rights on host|policy of the host/);
  assert.equal(twin.compare(before, await twin.dump()), []);
});

for (const [what, name, command] of [
  ["removed", "gui-alice", `rm ${file("gui-alice")}`],
  ["edited", "gui-bob", `sed -i '1i qubes.VMShell * gui-bob untrusted allow' ${file("gui-bob")}`],
] as const)
  test(`a level's file that somebody has ${what} shows as exactly that, and is repaired`, async () => {
    const good = await twin.dump();
    assert.is((await twin.exec(command)).code, 0);
    const preview = await stack.preview();
    assert.equal(preview.diffs[name], [path(name)], preview.output);
    const up = await stack.up();
    assert.ok(up.ok, up.output);
    assert.equal(twin.compare(good, await twin.dump(), LEDGER), []);
    await answers([], NOBODYS);
  });

test("an earlier rule of somebody else is told with its place in every preview, and is not ours to change", async () => {
  const earlier = "/etc/qubes/policy.d/30-user.policy";
  const had = (await twin.exec(`cat ${earlier} 2>/dev/null`)).stdout;
  await twin.exec(`printf 'qubes.VMShell * gui-alice personal allow\\n' > ${earlier}`);
  for (const _ of [1, 2]) {
    const preview = await stack.preview();
    assert.match(
      preview.output,
      /gui-alice may ask personal for qubes\.VMShell.*, by \/etc\/qubes\/policy\.d\/30-user\.policy:1/,
    );
    assert.equal(preview.changes, { same: 4 }, preview.output);
  }
  assert.is(await may("gui-alice personal qubes.VMShell"), true, "the warning is true");
  await twin.exec(`printf '%s' '${had}' > ${earlier}`);
  if (had === "") await twin.exec(`rm ${earlier}`);
});

test("a level is lowered: told, and at once in force; nothing of the other one's", async () => {
  alices = { level: "guest" };
  const preview = await stack.preview();
  assert.equal(preview.diffs["gui-alice"], ["level", path("gui-alice")].sort(), preview.output);
  assert.equal(preview.diffs["gui-bob"], undefined, preview.output);
  assert.match(
    preview.output,
    /gui-alice may no longer:\n +start applications\n +qubes\.StartApp: its qubes/,
  );
  const up = await stack.up();
  assert.ok(up.ok, up.output);
  await answers(
    ["gui-bob untrusted qubes.StartApp+xterm", "gui-alice personal admin.vm.property.Get+xid"],
    [...FOREIGN, ...NOBODYS, "gui-alice personal qubes.StartApp+xterm", "gui-alice personal admin.vm.Start"],
  );
  const again = await stack.preview();
  assert.equal(again.changes, { same: 4 }, again.output);
});

test("what cannot be is refused, and nothing is touched", async () => {
  const before = await twin.dump();
  bobs = { ...KIOSK, apps: [{ app: "xterm", qube: "personal" }] };
  const refused = await stack.up();
  assert.not(refused.ok);
  assert.match(
    refused.errors.join("\n"),
    /apps\[0\]: qube "personal" is not shown by it.*Nothing was changed/,
  );
  bobs = { level: "user", rules: ["qubes.VMShell * gui-bob untrusted allow"] };
  const checked = await stack.preview();
  assert.not(checked.ok);
  assert.match(checked.output, /rules\[0\].*qubes\.VMShell is for admins/s);
  assert.equal(twin.compare(before, await twin.dump()), []);
  bobs = KIOSK;
});

test("destroy: back to the start", async () => {
  const destroy = await stack.destroy();
  assert.ok(destroy.ok, destroy.output);
  assert.equal(twin.compare(pristine, await twin.dump()), []);
});

test.run();
