/** What is refused in a policy file: all that Qubes' own linter refuses (tests/fixtures/policy-4.3.json), and what we never write. */
import { readFileSync } from "node:fs";
import path from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { Facts } from "./evaluate.ts";
import { lintOwn, lintText } from "./lint.ts";
import { POLICY } from "./load.ts";
import { type Form, faultText } from "./parse.ts";

const real = JSON.parse(
  readFileSync(path.join(import.meta.dirname, "../../tests/fixtures/policy-4.3.json"), "utf8"),
) as { facts: Facts; lint: { form: Form; line: string; real: string | null }[] };

for (const { form, line, real: words } of real.lint)
  test(`qubes-policy-lint${form === "service" ? " -i" : ""}: ${line}`, () => {
    const faults = lintText("f", line, form);
    assert.is(faults.length > 0, words !== null, `${words} | ${faults.map(faultText)}`);
  });

const FILE = `${POLICY}/46-level-sys-gui.policy`;
const own = (text: string, facts?: Facts, more = {}) =>
  lintOwn(FILE, { [FILE]: text, ...more }, facts).map((fault) => faultText(fault).replace(FILE, "f"));

test("a good file has no fault", () => {
  assert.equal(
    own(
      "# x\nqubes.StartApp * work web allow\nadmin.vm.Start * work web allow target=dom0\n* * work * deny\n",
      real.facts,
    ),
    [],
  );
});

const OWN: [string, string, string][] = [
  ["* * work web allow\n", "f:1: service:", "lets through what nobody has thought of"],
  ["a.A * work web allow user=\n", "f:1: user=:", "it is empty"],
  ["admin.vm.Start * work web allow\n", "f:1: options:", "admin.vm.Start is served by dom0; add target=dom0"],
  ["policy.Replace * work web ask\n", "f:1: options:", "served by dom0"],
  [
    "a.A * work web allow\na.A  *  work web deny\n",
    "f:2: line:",
    "line 1 fits the same calls, so this one never counts",
  ],
  ["# café\n", "f:0: text:", "printable ASCII"],
  ["a.A * work web allow", "f:0: text:", "last line has no end"],
  ["!compat-4.0\n", "f:1: directive:", "nobody here has read"],
  ["!include include/none\n", "f:1: path:", "there is no file"],
  ["a.A * work nobody deny\n", "f:1: target:", "there is no qube nobody"],
  ["a.A * work web allow target=@dispvm:nobody\n", "f:1: target=:", "there is no qube nobody"],
];
for (const [text, place, words] of OWN)
  test(`ours never: ${JSON.stringify(text)}`, () => {
    const faults = own(text, real.facts);
    assert.is(faults.length, 1, faults.join("\n"));
    assert.ok(faults[0]?.startsWith(place) && faults[0].includes(words), faults[0]);
  });

test("a file name that would stop every call, and a fault elsewhere that it causes", () => {
  const bad = `${POLICY}/46-Level.policy`;
  assert.match(
    lintOwn(bad, { [bad]: "" })
      .map(faultText)
      .join("\n"),
    /file name/,
  );
  assert.match(
    own("!include include/x\n", undefined, { [`${POLICY}/include/x`]: "nonsense" }).join(),
    /include\/x:1: line: 1 fields are too few/,
  );
});

test.run();
