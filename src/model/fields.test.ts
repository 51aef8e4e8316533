import { test } from "uvu";
import * as assert from "uvu/assert";
import * as v from "valibot";
import { integer, mapOf, named, only, pathOf, wrong } from "./fields.ts";

const faults = (schema: v.GenericSchema, value: unknown) =>
  (v.safeParse(schema, value).issues ?? []).map((issue) => `${pathOf(issue)}: ${issue.message}`);

const pet = only(
  { name: named(() => null), legs: v.optional(integer(0, 8, "a number of legs")) },
  wrong("a pet"),
  "no part of a pet",
);

test("only these fields: missing and unknown ones are refused by name, all at once", () => {
  assert.equal(v.parse(pet, { name: "x" }), { name: "x" });
  assert.equal(faults(pet, { legs: 9, wings: 2, toString: 1 }), [
    "name: missing; give a name",
    "legs: 9 is not allowed; give a number of legs from 0 to 8",
    "wings: no part of a pet",
    "toString: no part of a pet",
  ]);
  assert.equal(faults(pet, ["x"]), [': ["x"] is not allowed; give a pet']);
  assert.equal(faults(v.array(pet), [{ name: "x" }, {}]), ["[1].name: missing; give a name"]);
});

test("a map keeps every key, whatever it is called", () => {
  const map = JSON.parse(
    '{"prototype": {"name": "a"}, "constructor": {"name": "b"}, "__proto__": {"name": "c"}}',
  );
  const parsed = v.parse(mapOf(pet), map);
  assert.equal(Object.entries(parsed), [
    ["prototype", { name: "a" }],
    ["constructor", { name: "b" }],
    ["__proto__", { name: "c" }],
  ]);
  assert.equal(faults(mapOf(pet), { a: { name: 1 }, b: 2 }), [
    "a.name: 1 is not allowed; give a name",
    "b: 2 is not allowed; give a pet",
  ]);
});

test.run();
