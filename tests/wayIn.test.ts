// A change of policy that closes the way in: refused beforehand where that is to be seen, and undone by the guard where it is not. On a light
// host that is reached through one of its qubes; a new connection asks dom0's policy, one that is open does not.

import { test } from "uvu";
import * as assert from "uvu/assert";
import { LightHost } from "../lab/light/host.ts";
import { LEVEL, XEPHYR } from "./faults/cases.ts";
import { nothing, Run, type Stored } from "./faults/deployment.ts";
import { differences } from "./faults/runner.ts";

const host = new LightHost();
test.after(() => host.close());
/** As a GUI domain without a level has it, somebody reaches dom0 through it. */
await host.install("laptop");
const first = new Run(host, nothing);
await first.up(XEPHYR);
await host.happens("reached-through-sys-gui");
const end = await host.settle();
assert.ok(end.usable && end.wayIn, end.why);
const before: Stored = first.stored;
await host.keep("reached", await host.save());

/** `killed`: the agent is, once all has been applied and checked, so that only the guard is left. */
async function closed(killed: boolean, controls: string[] = []) {
  await host.restore("reached", {}, controls);
  await host.settle();
  const { keys } = await host.state();
  await host.arm(killed ? { at: ["apply.verified", 1], do: "kill" } : null);
  const said = await new Run(host, before).up(LEVEL).then(
    () => "",
    (error: unknown) => String(error),
  );
  const { wayIn, usable, settled } = await host.settle();
  const changed = differences(keys, (await host.state()).keys);
  return { said, seen: { wayIn, usable, settled, changed } };
}
const AS_BEFORE = { wayIn: true, usable: true, settled: true, changed: [] };

test("it gets through: nobody can confirm it over a new connection, and it is taken back over the old one", async () => {
  const { said, seen } = await closed(false);
  assert.match(said, /no connection: dom0's policy denies .* confirmed over\. The host has put back/);
  assert.equal(seen, AS_BEFORE);
});

test("nobody is there to take it back: the guard undoes it", async () => {
  const { said, seen } = await closed(true);
  assert.is.not(said, "");
  assert.equal(seen, AS_BEFORE);
  assert.equal(await new Run(host, before).preview(XEPHYR), [], "whoever comes next finds what there was");
});

test("negative control: without the guard everybody is locked out", async () => {
  const { seen } = await closed(true, ["guard_off"]);
  assert.is(seen.wayIn, false);
  assert.ok(seen.changed.includes("file:/etc/qubes/policy.d/46-level-sys-gui.policy"), seen.changed.join());
});

test("where the rule comes before the level there is nothing to undo", async () => {
  await host.restore("reached");
  await host.happens("way-in-comes-first");
  const run = new Run(host, before);
  const outputs = await run.up(LEVEL);
  assert.is(outputs["level"], "user");
  assert.is((await host.settle()).wayIn, true);
});

test.run();
