import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { hostNameFault, policyFile, qubeNameFault } from "./names.ts";

const LETTERS = "abcXYZ";
const REST = `${LETTERS}059_.-`;
const RESERVED = ["none", "default", "Domain-0", "dom0"];

const valid = fc
  .tuple(fc.constantFrom(...LETTERS), fc.string({ unit: fc.constantFrom(...REST), maxLength: 30 }))
  .map((parts) => parts.join(""))
  .filter((name) => !name.endsWith("-dm") && !RESERVED.includes(name));

test("every name that Qubes takes is taken", () => {
  fc.assert(fc.property(valid, (name) => qubeNameFault(name) === null));
});

test("one character that is not allowed, one too many, or a wrong beginning is refused, and the name is in the message", () => {
  const wrong = fc.oneof(
    fc.tuple(valid, fc.constantFrom(..." /:\n\t\0@*+'\"é😀\u2028"), fc.nat()).map(([name, bad, at]) => {
      const i = at % (name.length + 1);
      return name.slice(0, i) + bad + name.slice(i);
    }),
    valid.map((name) => name.padEnd(32, "x")),
    valid.map((name) => `${name.slice(0, 27)}-dm`),
    fc.tuple(fc.constantFrom(..."0_.-"), valid).map(([first, name]) => (first + name).slice(0, 31)),
    fc.constantFrom("", ...RESERVED),
  );
  fc.assert(
    fc.property(wrong, (name) => {
      const fault = qubeNameFault(name);
      assert.ok(fault, `${JSON.stringify(name)} was taken`);
      assert.ok(fault.includes(JSON.stringify(name).slice(0, 38)), fault);
    }),
  );
});

test("names of policy files are such that qrexec reads them", () => {
  fc.assert(
    fc.property(valid, (name) =>
      /^\/etc\/qubes\/policy\.d\/50-gui-[0-9a-z_.-]+\.policy$/.test(policyFile(50, "gui", name)),
    ),
  );
});

test("names of hosts", () => {
  for (const name of ["t14", "lab-1.example", "7"]) assert.is(hostNameFault(name), null);
  for (const name of ["", "a/b", "-x", "a b", "x".repeat(64), "é"])
    assert.match(
      hostNameFault(name) ?? "",
      /is not a host's name; allowed are letters, digits, "\.", "_" and "-", at most 63/,
    );
});

test.run();
