// Rules of one's own on top of a level, in a resource of their own; real engine, plugin, OpenSSH, agent, Salt, and a twin whose policy answers.

import { Access, GuiDomain, Host } from "guidomain";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { startTwin } from "../lab/twin/twin.ts";
import { hostOf, mustIn, scratch, testStack } from "./harness.ts";

const folder = scratch("access");
const twin = await startTwin({ dir: `${folder}/twin` });
const must = mustIn(twin);
// As on any host, the network runs; a download by qubes-dom0-update would start it otherwise.
await must("qvm-start sys-firewall");
const pristine = await twin.dump();
const FILE = "/etc/qubes/policy.d/44-access-gui-ann-backup.policy";
const PATH = `settings.files["${FILE}"]`;
const BACKUP = "qubes.Backup * gui-ann vault allow";
let rules: string[] | null = [BACKUP, "qubes.Filecopy * @tag:guivm-gui-ann vault deny"];

const stack = await testStack("access", folder, { lab: hostOf(twin) }, async () => {
  const host = new Host("lab");
  const ann = new GuiDomain("gui-ann", { host, clients: ["personal"], level: "user" });
  if (rules === null) return {};
  const { policy, allowed, denied, state } = new Access("backup", { host, guiDomain: ann, rules });
  return { policy, allowed, denied, state };
});
const may = async (question: string) =>
  (await twin.exec(`qrexec-policy-exec --just-evaluate --assume-yes-for-ask ${question} 2>/dev/null`))
    .code === 0;
/** The stack, the host, the GUI domain, the access, the provider. */
const SAME = { same: 4 };

test("a preview of the first up tells what it adds, and writes nothing", async () => {
  const preview = await stack.preview();
  assert.ok(preview.ok, preview.output);
  assert.match(preview.output, /gui-ann may from now on:[\s\S]*qubes\.Backup/);
  assert.equal(twin.compare(pristine, await twin.dump()), []);
});

test("up: the host's own policy answers as the outputs say", async () => {
  const up = await stack.up();
  assert.ok(up.ok, up.output);
  const { policy, allowed, denied, state } = up.outputs;
  assert.match(String(policy), new RegExp(`^${BACKUP.replaceAll("*", "\\*")}$`, "m"));
  assert.equal(
    [allowed, denied, state],
    [["gui-ann → vault: qubes.Backup"], ["personal → vault: qubes.Filecopy"], "ready"],
  );
  assert.equal(
    [
      await may("gui-ann vault qubes.Backup"),
      await may("personal vault qubes.Filecopy"),
      await may("gui-ann vault qubes.VMShell"),
    ],
    [true, false, false],
  );
  const again = await stack.preview();
  assert.equal(again.changes, SAME, again.output);
});

test("drift shows as exactly that and is repaired", async () => {
  await must(`sed -i 's/^qubes.Backup.*/qubes.VMShell * gui-ann vault allow/' ${FILE}`);
  assert.is(await may("gui-ann vault qubes.VMShell"), true);
  const preview = await stack.preview();
  assert.equal(preview.diffs["backup"], [PATH], preview.output);
  const up = await stack.up();
  assert.ok(up.ok, up.output);
  assert.equal(
    [await may("gui-ann vault qubes.VMShell"), await may("gui-ann vault qubes.Backup")],
    [false, true],
  );
});

test("what the level forbids is refused before anything is touched", async () => {
  const before = await twin.dump();
  const kept = rules;
  rules = ["qubes.VMShell * gui-ann vault allow"];
  const up = await stack.up();
  assert.not.ok(up.ok, up.output);
  assert.match(up.output, /rules\[0\].*qubes\.VMShell is for admins/);
  assert.equal(twin.compare(before, await twin.dump()), []);
  rules = kept;
});

test("taken out of the program it goes alone; destroy leads back to the start", async () => {
  rules = null;
  const up = await stack.up();
  assert.ok(up.ok, up.output);
  assert.is(await may("gui-ann vault qubes.Backup"), false);
  assert.is((await twin.exec(`test -e ${FILE}`)).code, 1);
  const again = await stack.preview();
  assert.equal(again.changes, { same: 3 }, again.output);
  const destroy = await stack.destroy();
  assert.ok(destroy.ok, destroy.output);
  assert.equal(twin.compare(pristine, await twin.dump()), []);
});

test.run();
