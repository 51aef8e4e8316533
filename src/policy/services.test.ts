/** The policy as installed: the same answers as the twin's, and every service in a group that a person knows. */
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { difference, differenceText } from "./explain.ts";
import { loadPolicy, POLICY } from "./load.ts";
import { SAMPLE } from "./sample.ts";
import { GROUP_NAMES, groupOf, SERVICES, STOCK } from "./services.ts";

const skel = path.join(import.meta.dirname, "../../lab/twin/skel", POLICY);

/** The twin's files, but one for a service that no GUI domain has to do with. */
function twins(): Record<string, string> {
  const names = readdirSync(skel, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name !== "85-admin-backup-restore.policy")
    .map((entry) => path.join(entry.parentPath, entry.name));
  return Object.fromEntries(
    names.map((file) => [path.join(POLICY, path.relative(skel, file)), readFileSync(file, "utf8")]),
  );
}

test("the policy as installed answers every question as the twin's does", () => {
  const [ours, theirs] = [loadPolicy(STOCK), loadPolicy(twins())];
  assert.equal([...ours.faults, ...theirs.faults], []);
  assert.ok(ours.rules.length > 30);
  assert.is(differenceText(difference(ours.rules, theirs.rules, SAMPLE)), "");
  // so is what Qubes' include files lead to
  const line = {
    [`${POLICY}/include/admin-local-rwx`]: "sys-gui @anyvm allow target=dom0\n",
    [`${POLICY}/include/admin-global-ro`]: "sys-gui dom0 ask\n",
    [`${POLICY}/include/admin-policy-rwx`]: "work dom0 allow\n",
  };
  const [more, theirMore] = [
    { ...STOCK, ...line },
    { ...twins(), ...line },
  ].map((files) => loadPolicy(files).rules);
  assert.ok(more && theirMore && more.length > ours.rules.length);
  assert.is(differenceText(difference(more, theirMore, SAMPLE)), "");
});

test("every service that an installed rule names is in the reference, and those of the Admin API are in a group", () => {
  for (const { service } of loadPolicy(STOCK).rules) assert.ok(service && SERVICES.includes(service));
  for (const service of SERVICES.filter((each) => each.startsWith("admin.")))
    assert.ok(GROUP_NAMES.slice(0, -1).includes(groupOf(service)), service);
});

test.run();
