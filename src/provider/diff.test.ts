import { isDeepStrictEqual } from "node:util";
import fc from "fast-check";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import type { Path } from "./diff.ts";
import { diffByPath, formatPath, parsePath, replacing, topLevel } from "./diff.ts";
import type { Properties, Value } from "./handler.ts";
import { UNKNOWN } from "./handler.ts";

// A backslash before a quote cannot be told from an escaped quote in the engine's notation either.
const name = fc
  .oneof(fc.constantFrom("a", "b", "gui-fullscreen", "x.y", "0", 'q"', ""), fc.string({ maxLength: 3 }))
  .filter((key) => !key.includes("\\") && key !== "__proto__");
const value: fc.Arbitrary<Value> = fc.letrec<{ value: Value }>((tie) => ({
  value: fc.oneof(
    { depthSize: "medium" },
    fc.constantFrom<Value>("x", "y", 0, 1, true, null, UNKNOWN),
    fc.array(tie("value"), { maxLength: 3 }),
    fc.dictionary(name, tie("value"), { maxKeys: 3, noNullPrototype: true }),
  ),
})).value;
const properties = fc.dictionary(name, value, { maxKeys: 4, noNullPrototype: true });

function at(value: Value, path: Path): Value | undefined {
  let here: Value | undefined = value;
  for (const part of path) {
    if (typeof here !== "object" || here === null || !Object.hasOwn(here, part)) return undefined;
    here = (here as Record<string | number, Value>)[part];
  }
  return here;
}

/** Makes `value` the same as `news` at a path. */
function repair(value: Value, news: Value, path: Path): void {
  const parent = at(value, path.slice(0, -1)) as Record<string | number, Value>;
  const wanted = at(news, path);
  const last = path.at(-1) as string | number;
  if (wanted !== undefined) parent[last] = structuredClone(wanted);
  else if (Array.isArray(parent)) parent.length = Math.min(parent.length, Number(last));
  else delete parent[last];
}

const test = suite("diff");

test("every reported path differs, and nothing else does", () => {
  const kinds: Record<string, number> = {};
  fc.assert(
    fc.property(properties, properties, (olds, news) => {
      const changes = diffByPath(olds, news);
      const repaired: Properties = structuredClone(olds);
      for (const [path, kind] of Object.entries(changes)) {
        const [was, is] = [at(olds, parsePath(path)), at(news, parsePath(path))];
        assert.not.equal(was, is, path);
        assert.is(kind, was === undefined ? "add" : is === undefined ? "delete" : "update");
        kinds[kind] = (kinds[kind] ?? 0) + 1;
        repair(repaired, news, parsePath(path));
      }
      assert.ok(isDeepStrictEqual(repaired, news), JSON.stringify({ olds, news, changes }));
    }),
    { numRuns: 1000 },
  );
  for (const kind of ["add", "delete", "update"]) assert.ok((kinds[kind] ?? 0) > 100, JSON.stringify(kinds));
});

test("equal values have no difference, whatever the order of their keys", () => {
  fc.assert(fc.property(properties, (same) => assert.equal(diffByPath(same, structuredClone(same)), {})));
  assert.equal(diffByPath({ a: { x: 1, y: 2 } }, { a: { y: 2, x: 1 } }), {});
});

test("paths read as the engine writes them", () => {
  const olds = { display: ["xephyr"], session: { user: "a" }, features: { "gui-fs": "1" }, level: "user" };
  const news = {
    display: ["gpu", "xephyr"],
    session: { user: "b" },
    features: { "gui-fs": "" },
    clients: ["x"],
  };
  assert.equal(diffByPath(olds, news), {
    "display[0]": "update",
    "display[1]": "add",
    "session.user": "update",
    "features.gui-fs": "update",
    level: "delete",
    clients: "add",
  });
});

test("a path survives being written and read", () => {
  fc.assert(
    fc.property(fc.array(fc.oneof(name, fc.nat(20)), { minLength: 1 }), (path) =>
      assert.equal(parsePath(formatPath(path)), path),
    ),
  );
  assert.is(formatPath(["features", "a.b", 0, 'say "x"']), 'features["a.b"][0]["say \\"x\\""]');
  assert.throws(() => parsePath("a[b"), /"a\[b" is not a property path: cannot read on at "\[b"/);
});

test("an unknown differs from what was known", () => {
  assert.equal(diffByPath({ a: "x" }, { a: UNKNOWN }), { a: "update" });
});

test("changes below a replacing property replace", () => {
  const changes = diffByPath({ host: { name: "a" }, level: "x" }, { host: { name: "b" }, level: "y" });
  assert.equal(replacing(changes, ["host"]), { "host.name": "update-replace", level: "update" });
  assert.is(topLevel('["a.b"].c'), "a.b");
});

test.run();
