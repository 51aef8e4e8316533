// An admin's lines among those of others, on real parts: engine, plugin, OpenSSH, agent, Salt, a twin whose own policy answers.

import { GuiDomain, type GuiDomainArgs, Host } from "guidomain";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { startTwin } from "../lab/twin/twin.ts";
import { hostOf, mustIn, scratch, testStack } from "./harness.ts";

const folder = scratch("admin");
const twin = await startTwin({ dir: `${folder}/twin` });
const must = mustIn(twin);
const INCLUDE = "/etc/qubes/policy.d/include";
const [GLOBAL, LOCAL] = [`${INCLUDE}/admin-global-rwx`, `${INCLUDE}/admin-local-rwx`] as const;
await must(
  // As on any host, the network runs; a download by qubes-dom0-update would start it otherwise.
  "qvm-start sys-firewall",
  "qvm-create --label red untrusted",
  // Somebody else's, one of them what we would write as well, in other words; a mode of their own, a last line without an end.
  `printf 'untrusted @adminvm allow target=dom0\\n# mine' >> ${GLOBAL}`,
  `printf 'gui-ann\\tgui-ann  allow target=dom0\\n' >> ${LOCAL}`,
  `chmod 0664 ${GLOBAL}`,
);
const pristine = await twin.dump();
const LEDGER = { ignore: ["files./var/lib/guidomain/ledger.json"] };
const text = async (path: string) => (await twin.exec(`cat ${path}`)).stdout;
const [globalBefore, localBefore] = [await text(GLOBAL), await text(LOCAL)];
const [IS_ADMIN, ITS_OWN, ITSELF] = [
  "gui-ann @adminvm allow target=dom0",
  "gui-ann @tag:guivm-gui-ann allow target=dom0",
  "gui-ann gui-ann allow target=dom0",
] as const;

let level: GuiDomainArgs["level"] | undefined = "operator";
const stack = await testStack("admin", folder, { lab: hostOf(twin) }, async () => {
  const host = new Host("lab");
  const ann = new GuiDomain("gui-ann", { host, clients: ["personal"], ...(level && { level }) });
  new GuiDomain("gui-bob", { host, clients: ["untrusted"], level: "user" });
  return { rights: ann.rights, state: ann.state };
});
const levelPath = `settings.files["/etc/qubes/policy.d/46-level-gui-ann.policy"]`;
const line = (path: string, rule: string) => `settings.policyLines["${path}:${rule}"]`;
const LINES = [
  line(GLOBAL, IS_ADMIN),
  line(GLOBAL, ITS_OWN),
  line(GLOBAL, ITSELF),
  line(LOCAL, ITS_OWN),
  line(LOCAL, ITSELF),
];

/** What the twin's policy, an implementation of its own, answers; includes and all. */
const may = async (question: string) =>
  (await twin.exec(`qrexec-policy-exec --just-evaluate ${question} 2>/dev/null`)).code === 0;
async function answers(allowed: string[], denied: string[]): Promise<void> {
  for (const question of allowed) assert.is(await may(question), true, `denied: ${question}`);
  for (const question of denied) assert.is(await may(question), false, `allowed: ${question}`);
}
const ADMINS = [
  "gui-ann dom0 admin.vm.Create.AppVM+fedora-43-xfce",
  "gui-ann dom0 admin.property.Set+default_template",
  "gui-ann personal admin.vm.property.Set+kernelopts",
  "gui-ann personal admin.vm.tag.Set+mine",
  "gui-ann personal admin.vm.device.pci.Assign+dom0",
];
const NOT_EVEN_ADMINS = [
  "gui-ann dom0 policy.Replace+46-level-gui-ann",
  "gui-ann untrusted admin.vm.Start",
  "gui-ann untrusted qubes.StartApp+xterm",
  "gui-bob dom0 admin.vm.Create.AppVM+fedora-43-xfce",
  "gui-bob untrusted admin.vm.property.Set+kernelopts",
];
const USERS = ["gui-ann personal qubes.StartApp+xterm", "gui-ann personal admin.vm.Kill"];

test("operator: none of an admin's questions, and no line of an include file touched", async () => {
  const up = await stack.up();
  assert.ok(up.ok, up.output);
  await answers(USERS, [...ADMINS, ...NOT_EVEN_ADMINS]);
  assert.equal([await text(GLOBAL), await text(LOCAL)], [globalBefore, localBefore]);
});

test("operator to admin: told line by line and right by right, and in force", async () => {
  const before = await twin.dump();
  level = "admin";
  const preview = await stack.preview();
  // The one that somebody has there already is no change of the host.
  const added = LINES.filter((path) => path !== line(LOCAL, ITSELF));
  assert.equal(preview.diffs, { "gui-ann": ["level", levelPath, ...added].sort() }, preview.output);
  assert.match(preview.output, /gui-ann may from now on:[\s\S]* make and remove qubes\n/);
  assert.equal(twin.compare(before, await twin.dump()), []);
  const up = await stack.up();
  assert.ok(up.ok, up.output);
  assert.is(up.outputs["state"], "ready");
  const { allowed, wider } = up.outputs["rights"] as Record<string, string[]>;
  assert.equal([allowed?.includes("make and remove qubes"), wider], [true, []]);
  await answers([...USERS, ...ADMINS], NOT_EVEN_ADMINS);
  assert.is(await text(GLOBAL), `${globalBefore}\n${IS_ADMIN}\n${ITS_OWN}\n${ITSELF}`);
  assert.is(await text(LOCAL), `${localBefore}${ITS_OWN}\n`);
  await must(
    "qubes-policy-lint /etc/qubes/policy.d/*.policy",
    `qubes-policy-lint --include-service ${GLOBAL} ${LOCAL}`,
    `test "$(stat -c %a ${GLOBAL})" = 664`,
  );
});

test("no change, and nothing written", async () => {
  const before = await twin.dump();
  const preview = await stack.preview();
  assert.equal(preview.changes, { same: 4 }, preview.output);
  assert.not.match(preview.output, /rights on host|policy of the host/);
  assert.equal(twin.compare(before, await twin.dump()), []);
});

test("a line that somebody took out shows as exactly that, and is put back", async () => {
  const good = await twin.dump();
  await must(`sed -i '/^gui-ann @adminvm/d' ${GLOBAL}`);
  await answers([], ADMINS.slice(0, 2));
  const preview = await stack.preview();
  assert.equal(preview.diffs, { "gui-ann": [line(GLOBAL, IS_ADMIN)] }, preview.output);
  const up = await stack.up();
  assert.ok(up.ok, up.output);
  await answers(ADMINS, []);
  // At the end again, where a line is added.
  await must(`printf '%s' '${globalBefore}\n${IS_ADMIN}\n${ITS_OWN}\n${ITSELF}' > ${GLOBAL}`);
  assert.equal(twin.compare(good, await twin.dump(), LEDGER), []);
});

test("what others write there meanwhile is theirs: no change, and it stays", async () => {
  await must(`sed -i '1i ## a note' ${LOCAL}`);
  const preview = await stack.preview();
  assert.equal(preview.changes, { same: 4 }, preview.output);
});

test("a bad line of somebody else's is told, and the file that has it is not written over", async () => {
  await must(`printf 'nonsense\\n' >> ${LOCAL}`, `sed -i '/^gui-ann @adminvm/d' ${GLOBAL}`);
  const refused = await stack.up();
  assert.not(refused.ok, refused.output);
  assert.match(refused.output, /admin-local-rwx:\d+/);
  assert.match(await text(LOCAL), /^nonsense$/m);
  await must(`sed -i '/^nonsense$/d' ${LOCAL}`);
  const up = await stack.up();
  assert.ok(up.ok, up.output);
  await answers(ADMINS, []);
});

test("admin to operator: our lines go, the others' stay, and what only an admin may is denied at once", async () => {
  level = "operator";
  const preview = await stack.preview();
  assert.equal(preview.diffs, { "gui-ann": ["level", levelPath, ...LINES].sort() }, preview.output);
  assert.match(preview.output, /gui-ann may no longer:[\s\S]* make and remove qubes\n/);
  const up = await stack.up();
  assert.ok(up.ok, up.output);
  assert.equal([await text(GLOBAL), await text(LOCAL)], [globalBefore, `## a note\n${localBefore}`]);
  await answers(USERS, [...ADMINS, ...NOT_EVEN_ADMINS]);
  const again = await stack.preview();
  assert.equal(again.changes, { same: 4 }, again.output);
});

test("admin, and the level taken away: what the host's own policy allows, no line of ours", async () => {
  level = "admin";
  const up = await stack.up();
  assert.ok(up.ok, up.output);
  level = undefined;
  const without = await stack.up();
  assert.ok(without.ok, without.output);
  assert.equal([await text(GLOBAL), await text(LOCAL)], [globalBefore, `## a note\n${localBefore}`]);
  await answers([], ADMINS);
});

test("destroy as an admin: back to the start, somebody else's lines too", async () => {
  level = "admin";
  const up = await stack.up();
  assert.ok(up.ok, up.output);
  await must(`sed -i '1d' ${LOCAL}`);
  const destroy = await stack.destroy();
  assert.ok(destroy.ok, destroy.output);
  assert.equal(twin.compare(pristine, await twin.dump()), []);
  assert.equal([await text(GLOBAL), await text(LOCAL)], [globalBefore, localBefore]);
});

test.run();
