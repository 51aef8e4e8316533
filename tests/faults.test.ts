// runner: alone
/** A sample of `npm run test:faults`, with its negative controls; each case is one test here. */
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { runFaults } from "./faults/all.ts";
import { openReason } from "./faults/open.ts";

const SAMPLE = 320;

const summary = await runFaults({ sample: SAMPLE, seed: 1, hosts: 2, controls: true, say: console.log });
const faults = suite("faults");

for (const { id, problems, usable } of summary.outcomes) {
  const open = problems.length ? openReason(id, problems) : null;
  if (open) console.log(`open: ${id}: ${open}`);
  faults(id, () => {
    assert.ok(usable, problems.join("; "));
    if (!open) assert.equal(problems, []);
  });
}

faults("the sample is whole, and no case only repeats another", () => {
  assert.is(summary.outcomes.length, SAMPLE);
  assert.is(new Set(summary.outcomes.map(({ id }) => id)).size, SAMPLE);
});

faults("every step that the product has is passed by some run", () => {
  assert.equal(summary.unreached, []);
});

for (const [name, { cases, shown }] of Object.entries(summary.controls))
  faults(`negative control: with ${name}, the faults are to be seen`, () => {
    assert.ok(cases > 0);
    assert.ok(shown > 0);
  });

faults.run();
