import fc from "fast-check";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import type { Properties, Value } from "./handler.ts";
import { hasUnknown, UNKNOWN } from "./handler.ts";
import { fromStruct, secret, toStruct } from "./testClient.ts";
import { decode, encode, parseConfiguration, Secrets } from "./values.ts";

/** Protobuf's JavaScript maps lose "__proto__"; the wrapper's own key is taken. */
const name = fc.string({ maxLength: 8 }).filter((key) => key !== "__proto__" && key !== "value");
const leaf = fc.oneof(
  fc.string(),
  fc.boolean(),
  fc.constant(null),
  fc.constant(UNKNOWN),
  fc.double({ noNaN: true, noDefaultInfinity: true }),
);

interface Sample {
  plain: Value;
  wire: Value;
}

/** A value twice: plain, and as the engine sends it with secrets here and there. */
const sample: fc.Arbitrary<Sample> = fc.letrec<{ sample: Sample; open: Sample }>((tie) => ({
  sample: fc
    .tuple(tie("open"), fc.boolean())
    .map(([{ plain, wire }, hidden]) => ({ plain, wire: hidden ? secret(wire) : wire })),
  open: fc.oneof(
    { depthSize: "small", withCrossShrink: true },
    leaf.map((value) => ({ plain: value, wire: value })),
    fc.array(tie("sample"), { maxLength: 4 }).map((items) => ({
      plain: items.map(({ plain }) => plain),
      wire: items.map(({ wire }) => wire),
    })),
    fc.dictionary(name, tie("sample"), { maxKeys: 4, noNullPrototype: true }).map((items) => ({
      plain: side(items, "plain"),
      wire: side(items, "wire"),
    })),
  ),
})).sample;

const samples = fc.dictionary(name, sample, { maxKeys: 5, noNullPrototype: true });

function side(items: Record<string, Sample>, which: keyof Sample): Properties {
  return Object.fromEntries(Object.entries(items).map(([key, item]) => [key, item[which]]));
}

const test = suite("values");

test("decoding what was encoded gives the same values and the same secret properties", () => {
  let withSecrets = 0;
  fc.assert(
    fc.property(samples, (items) => {
      const first = new Secrets();
      const plain = decode(toStruct(side(items, "wire")), first);
      assert.equal(plain, normalised(side(items, "plain")));
      const again = new Secrets();
      assert.equal(decode(encode(plain, first.keys), again), plain);
      assert.equal([...again.keys].sort(), [...first.keys].sort());
      if (first.keys.size > 0) withSecrets++;
    }),
    { numRuns: 500 },
  );
  assert.ok(withSecrets > 50, `only ${withSecrets} samples had a secret`);
});

/** JSON has no negative zero, and neither has equality. */
function normalised(properties: Properties): Properties {
  return fromStruct(toStruct(properties));
}

test("a property is secret when anything inside it is", () => {
  const secrets = new Secrets();
  const wire = { open: "a", flat: secret("password"), deep: [{ user: "u", password: secret("hunter22") }] };
  assert.equal(decode(toStruct(wire), secrets), {
    open: "a",
    flat: "password",
    deep: [{ user: "u", password: "hunter22" }],
  });
  assert.equal(secrets.keys, new Set(["flat", "deep"]));
  assert.equal(secrets.texts, new Set(["password", "hunter22"]));
});

test("of a secret map the password is kept out of messages, a user's name is a word like any other", () => {
  const secrets = new Secrets();
  const login = { user: "alice1", password: "hunter22" };
  assert.equal(
    decode(toStruct({ login: secret(login), deep: secret([{ passphrase: "so secret" }]) }), secrets),
    {
      login,
      deep: [{ passphrase: "so secret" }],
    },
  );
  assert.equal(secrets.texts, new Set(["hunter22", "so secret"]));
  // What is made of it is secret in an output, too.
  const wire = fromStruct(encode({ shown: "it is hunter22", user: "alice1" }, new Set(), secrets.texts));
  assert.equal(wire, { shown: secret("it is hunter22"), user: "alice1" });
});

test("an encoded secret property is secret as a whole", () => {
  const wire = fromStruct(encode({ open: 1, hidden: { a: ["b"] } }, new Set(["hidden"])));
  assert.equal(wire, { open: 1, hidden: secret({ a: ["b"] }) });
});

test("what was made of a secret is one", () => {
  const made = {
    settings: { label: "as purple as it gets" },
    keyed: { purple: 1 },
    plain: "green",
    number: 1,
  };
  const wire = fromStruct(encode(made, new Set(), new Set(["purple"])));
  assert.equal(wire, { ...made, settings: secret(made.settings), keyed: secret(made.keyed) });
});

test("a secret whose value is unknown stays both", () => {
  const secrets = new Secrets();
  const properties = decode(toStruct({ password: secret(UNKNOWN) }), secrets);
  assert.ok(hasUnknown(properties.password));
  assert.equal(fromStruct(encode(properties, secrets.keys)), { password: secret(UNKNOWN) });
});

test("unknowns are found at any depth", () => {
  assert.ok(hasUnknown({ a: [{ b: UNKNOWN }] }));
  assert.not(hasUnknown({ a: [{ b: "known" }, null, 0] }));
  assert.not(hasUnknown(undefined));
});

test("an undefined that slipped through the types is left out", () => {
  const sloppy = { a: 1, b: undefined, c: { d: undefined, e: 2 } } as unknown as Properties;
  assert.equal(fromStruct(encode(sloppy)), { a: 1, c: { e: 2 } });
});

test("configuration arrives as JSON text or structured", () => {
  const hosts = { lab: { address: "127.0.0.1", port: 22 } };
  assert.equal(parseConfiguration({ hosts: JSON.stringify(hosts) }), { hosts });
  assert.equal(parseConfiguration({ hosts }), { hosts });
  assert.equal(parseConfiguration({ names: '["a"]', inventory: "./hosts.yaml", n: "1" }), {
    names: ["a"],
    inventory: "./hosts.yaml",
    n: "1",
  });
  assert.equal(parseConfiguration({ inventory: "{hosts}.yaml" }), { inventory: "{hosts}.yaml" });
});

test.run();
