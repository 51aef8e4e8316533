/** Text of policy files: what is read, what is refused and in which words, and that nothing is lost on the way. */
import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { faultText, parseFile, renderFile } from "./parse.ts";
import { line } from "./testing/arbitraries.ts";

test("a file's lines, typed", () => {
  const text = [
    "# who may",
    "",
    " a.B \t +x  one @tag:two   ask default_target=three notify=no",
    "* * @anyvm @anyvm deny",
    "!include-service a.B * include/x",
  ].join("\r\n");
  assert.equal(parseFile("f", text), {
    lines: [
      { kind: "comment", text: "# who may" },
      { kind: "blank" },
      {
        kind: "rule",
        rule: {
          service: "a.B",
          argument: "+x",
          source: "one",
          target: "@tag:two",
          action: "ask",
          options: { default_target: "three", notify: "no" },
        },
      },
      {
        kind: "rule",
        rule: {
          service: null,
          argument: null,
          source: "@anyvm",
          target: "@anyvm",
          action: "deny",
          options: {},
        },
      },
      { kind: "include-service", service: "a.B", argument: null, path: "include/x" },
    ],
    faults: [],
  });
});

test("a file for one service has neither service nor argument, and may be written as in Qubes 4.0", () => {
  const { lines, faults } = parseFile(
    "f",
    "$anyvm $tag:x allow,target=dom0\n$include:include/y\n",
    "service",
  );
  assert.equal(faults, []);
  assert.equal(renderFile(lines, "service"), "@anyvm @tag:x allow target=dom0\n!include include/y\n");
});

const REFUSED: [string, string][] = [
  ["a.B * one two permit", `f:1: action: "permit" is not allowed; allowed are allow, ask, deny`],
  [
    "a.B * one two",
    "f:1: line: 4 fields are too few; a rule is SERVICE ARGUMENT SOURCE TARGET ACTION [OPTION=VALUE …]",
  ],
  [
    "a/b * one two allow",
    `f:1: service: "a/b" is not a service; allowed are letters, digits, ".", "_", "-", or * for any`,
  ],
  [
    "a.B x one two allow",
    `f:1: argument: "x" is not an argument; allowed are * for any, or "+" and letters, digits, "+", ".", "_", "-" ("+" alone is the empty one)`,
  ],
  ["* +x one two allow", `f:1: argument: "+x" is not allowed: only * goes with service *`],
  [
    "a.B * @dispvm two allow",
    `f:1: source: "@dispvm" is not allowed there; allowed are a qube's name, *, @adminvm, @anyvm, @type:TYPE, @tag:TAG, @dispvm:NAME, @dispvm:@tag:TAG`,
  ],
  [
    "a.B * one two allow target=@anyvm",
    `f:1: target=: "@anyvm" is not allowed there; allowed are a qube's name, @adminvm, @dispvm, @dispvm:NAME`,
  ],
  ["a.B * one two deny user=root", `f:1: options: "user" is not allowed; deny takes notify=`],
  [
    "a.B * one two allow user",
    `f:1: options: "user" has no "="; allow takes target=, user=, notify=, autostart=, separated by blanks`,
  ],
  ["a.B * one two allow user=a user=b", "f:1: user=: it is there twice; give it once"],
  ["a.B * one two ask autostart=maybe", `f:1: autostart=: "maybe" is not allowed; allowed are yes, no`],
  [
    "a.B * one @default allow",
    "f:1: options: allow for @default does not say which qube is meant; add target=",
  ],
  [
    "!bogus",
    `f:1: directive: "!bogus" is not allowed; allowed are !include, !include-dir, !include-service, !compat-4.0`,
  ],
  [
    "!include-service a.B x",
    "f:1: directive: 2 words after !include-service; its form is !include-service SERVICE ARGUMENT FILE",
  ],
];
for (const [text, words] of REFUSED)
  test(`refused: ${text}`, () => assert.equal(parseFile("f", text).faults.map(faultText), [words]));

test("every wrong line is told, the others are read", () => {
  const { lines, faults } = parseFile("f", "x\na.B * one two allow\ny\n");
  assert.equal(
    faults.map((fault) => fault.line),
    [1, 3],
  );
  assert.is(renderFile(lines), "\na.B * one two allow\n\n");
});

test("what is refused is shown short", () => {
  const [fault] = parseFile("f", `a.B * one two ${"x".repeat(10_000)}`).faults;
  assert.ok(fault && fault.reason.length < 200);
});

test("a rendered file is read as the same lines, and rendered again as the same text", () => {
  fc.assert(
    fc.property(fc.array(line), (lines) => {
      const text = renderFile(lines);
      const read = parseFile("f", text);
      assert.equal(read, { lines, faults: [] });
      assert.is(renderFile(read.lines), text);
    }),
  );
});

test.run();
