import { homedir } from "node:os";
import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import {
  type HostConnection,
  InventoryError,
  parseConnection,
  parseHosts,
  proxyArguments,
  publicConnection,
  secretsOf,
  splitWords,
} from "./inventory.ts";
import { parseInventory } from "./inventoryFile.ts";
import { expandHome } from "./paths.ts";

const PRINT = "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
const CANARY = "canary-7f3a";
const good = { address: "10.0.0.5", identityFile: "~/.ssh/id" };

function refused(value: unknown): string {
  try {
    parseHosts(value, "guidomain:hosts", { base: "/base" });
  } catch (error) {
    assert.instance(error, InventoryError);
    return (error as InventoryError).message;
  }
  throw new Error(`accepted: ${JSON.stringify(value)}`);
}

const one = (entry: object) => refused({ t14: { ...good, ...entry } });

test("defaults, lists and relative paths", () => {
  const host = parseHosts(
    { t14: { address: "t14.lan", identityFile: "keys/id", hostKey: `${PRINT}=` } },
    "x",
    { base: "/base" },
  );
  assert.equal(host.get("t14"), {
    name: "t14",
    address: "t14.lan",
    port: 22,
    user: "root",
    identityFile: "/base/keys/id",
    hostKey: [PRINT],
  });
});

test("known_hosts is asked where no host key is given, and ~ stays for another machine's state", () => {
  const host = parseHosts({ t14: good }, "x").get("t14");
  assert.is(host?.knownHosts, "~/.ssh/known_hosts");
  assert.is(host?.identityFile, "~/.ssh/id");
  assert.is(expandHome("~/.ssh/id"), `${homedir()}/.ssh/id`);
});

test("the same from a JSON string", () => {
  assert.equal(parseHosts(JSON.stringify({ t14: good }), "x"), parseHosts({ t14: good }, "x"));
});

test("an inventory: paths start at its folder; what a host is to have stands under its name, and nothing else beside", () => {
  const parse = (more: string) =>
    parseInventory(`hosts:\n  t14: {address: a, identityFile: id}\n${more}`, "/etc/lab/inventory.yaml");
  const { hosts, workstations } = parse("workstations:\n  t14: {audio: false}\n");
  assert.is(hosts.get("t14")?.identityFile, "/etc/lab/id");
  assert.equal(workstations, { t14: { audio: false } });
  assert.equal(parse("").workstations, {});
  for (const [text, reason] of [
    ["workstation: {}\n", /workstation: not a part of an inventory; allowed are hosts, workstations/],
    ["workstations: [1]\n", /workstations: give a map of workstations by the names of hosts: t14/],
    ["workstations: {t15: {}}\n", /workstations\.t15: no host "t15"; hosts are t14/],
  ] as const)
    assert.throws(
      () => parse(text),
      (error: unknown) => error instanceof InventoryError && reason.test(error.message),
    );
});

test("jump hosts chain, in any order", () => {
  const hosts = parseHosts({ a: { ...good, via: "b" }, b: { ...good, via: "c" }, c: good }, "x");
  assert.is(hosts.get("a")?.via?.via?.name, "c");
  assert.is(hosts.get("a")?.via, hosts.get("b"));
});

// One malformed fixture a rule; what the message must say.
const rules: [string, () => string, RegExp][] = [
  ["not a map", () => refused([good]), /guidomain:hosts: give a map of hosts by name/],
  ["not JSON", () => refused(`{"t14": {"passphrase": "${CANARY}"`), /is a text but not JSON/],
  ["a host's name", () => refused({ "a/b": good }), /"a\/b" is not a host's name/],
  ["not an entry", () => refused({ t14: "10.0.0.5" }), /t14: a string stands here; give a map with address/],
  ["an empty entry", () => refused({ t14: null }), /t14: nothing stands here/],
  [
    "an unknown key",
    () => one({ passwort: CANARY }),
    /t14\.passwort: unknown; allowed are address, port, user, identityFile/,
  ],
  [
    "no address",
    () => refused({ t14: { agent: true } }),
    /t14.address: missing; give a host name or an IP address/,
  ],
  ["an address with a user", () => one({ address: "root@t14" }), /t14.address: "root@t14" is not allowed/],
  ["an address that is an option", () => one({ address: "-oProxyCommand=x" }), /t14.address: "-oProxy/],
  [
    "a port out of range",
    () => one({ port: 70000 }),
    /t14.port: 70000 is not allowed; give a port from 1 to 65535/,
  ],
  ["a port as text", () => one({ port: "22" }), /t14.port: "22" is not allowed/],
  ["a user that is an option", () => one({ user: "-l" }), /t14.user: "-l" is not allowed/],
  [
    "no key and no agent",
    () => refused({ t14: { address: "a" } }),
    /t14.identityFile: missing; give the path .* or agent: true/,
  ],
  ["key and agent", () => one({ agent: true }), /t14.agent: stands beside identityFile/],
  [
    "agent: false",
    () => refused({ t14: { address: "a", agent: false } }),
    /t14.agent: false is not allowed; give true/,
  ],
  ["a passphrase that is no text", () => one({ passphrase: [CANARY] }), /t14.passphrase: .*must be a text/],
  [
    "a passphrase without a key",
    () => refused({ t14: { address: "a", agent: true, passphrase: CANARY } }),
    /t14.passphrase: belongs to an identityFile/,
  ],
  [
    "an MD5 fingerprint",
    () => one({ hostKey: "MD5:aa:bb" }),
    /t14.hostKey: "MD5:aa:bb" is not allowed; give a fingerprint/,
  ],
  [
    "a bad one among several",
    () => one({ hostKey: [PRINT, "SHA256:short"] }),
    /t14.hostKey: "SHA256:short" is not allowed/,
  ],
  ["no fingerprint at all", () => one({ hostKey: [] }), /t14.hostKey: \[\] is not allowed/],
  [
    "host key and known_hosts",
    () => one({ hostKey: PRINT, knownHosts: "x" }),
    /t14.knownHosts: stands beside hostKey/,
  ],
  ["an unknown jump host", () => one({ via: "gate" }), /t14.via: no host "gate"; hosts are t14/],
  ["a loop of one", () => one({ via: "t14" }), /t14.via: goes in a circle: t14 → t14/],
  [
    "a loop of two",
    () => refused({ a: { ...good, via: "b" }, b: { ...good, via: "a" } }),
    /goes in a circle: a → b → a/,
  ],
  [
    "jump host and proxy command",
    () => one({ via: "t14", proxyCommand: ["nc"] }),
    /t14.proxyCommand: stands beside via/,
  ],
  [
    "a proxy command for a shell",
    () => one({ proxyCommand: "nc %h %p | tee log" }),
    /t14.proxyCommand: cannot be split/,
  ],
  ["a proxy command without words", () => one({ proxyCommand: [] }), /t14.proxyCommand: \[\] is not allowed/],
  [
    "an unknown placeholder",
    () => one({ proxyCommand: "nc %h %%%q" }),
    /t14.proxyCommand: %q is not known; allowed are %h/,
  ],
  ["a lone percent", () => one({ proxyCommand: ["nc", "%", "x"] }), /t14.proxyCommand: % is not known/],
];
for (const [name, run, message] of rules)
  test(`refused: ${name}`, () => {
    const said = run();
    assert.match(said, message);
    assert.not.match(said, CANARY);
  });

test("every fault is named, with its path", () => {
  try {
    parseHosts({ a: { ...good, port: 0 }, b: { ...good, user: "" } }, "x");
    assert.unreachable();
  } catch (error) {
    assert.equal(
      (error as InventoryError).faults.map(({ property }) => property),
      ["a.port", "b.user"],
    );
  }
});

test("YAML that does not parse: line and column, never the text", () => {
  for (const [text, message] of [
    [`hosts:\n  t14: {passphrase: "${CANARY}\n`, /not YAML: line \d+, column \d+/],
    [`${CANARY}`, /key "hosts"/],
    [`hosts: *nowhere # ${CANARY}`, /not YAML/],
    [`hosts: {a: 1, a: ${CANARY}}`, /line 1, column 15/],
  ] as const)
    try {
      parseInventory(text, "inventory.yaml");
      assert.unreachable(text);
    } catch (error) {
      assert.instance(error, InventoryError);
      assert.match((error as Error).message, message);
      assert.not.match((error as Error).message, CANARY);
    }
});

test("placeholders are filled in once, one after the other", () => {
  const host = {
    name: "a",
    address: "%p",
    port: 7,
    user: "u",
    proxyCommand: ["nc", "%h:%p", "%r", "100%%", "%%h"],
  };
  assert.equal(proxyArguments(host), ["nc", "%p:7", "u", "100%", "%h"]);
});

test("words are split as a shell does", () => {
  assert.equal(splitWords("ssh -W [%h]:%p 'a b' \"c \\\" d\" e\\ f '' g'h'i j#k"), [
    "ssh",
    "-W",
    "[%h]:%p",
    "a b",
    'c " d',
    "e f",
    "",
    "ghi",
    "j#k",
  ]);
  for (const line of ["a 'b", 'a "b', "a $HOME", 'a "$HOME"', "a; b", "a > b", "~/nc", "a #c", "a\\"])
    assert.is(splitWords(line), null, line);
});

test("property: what is quoted for a shell is split back", () => {
  fc.assert(
    fc.property(fc.array(fc.string()), (words) => {
      assert.equal(splitWords(words.map((word) => `'${word.replaceAll("'", "'\\''")}'`).join(" ")), words);
    }),
  );
});

const name = fc.stringMatching(/^[a-z][a-z0-9.-]{0,8}$/);
const entry = fc.record(
  {
    address: fc.oneof(fc.domain(), fc.ipV4(), fc.ipV6()),
    port: fc.integer({ min: 1, max: 65535 }),
    user: name,
    identityFile: fc.constantFrom("/k/id", "~/id", "id"),
    passphrase: fc.constant(CANARY),
    hostKey: fc.constantFrom(PRINT, [PRINT]),
    proxyCommand: fc.constantFrom("nc %h %p", ["nc", "%h"]),
  },
  { requiredKeys: ["address", "identityFile"] },
);

test("property: the copy for the state has no secret and leads to the same host", () => {
  fc.assert(
    fc.property(fc.dictionary(name, entry, { minKeys: 1 }), (map) => {
      // Each host but the first is reached through the one before, unless it has a proxy command.
      const names = Object.keys(map);
      const linked = Object.fromEntries(
        Object.entries(map).map(([key, value], index) => [
          key,
          index > 0 && !value.proxyCommand ? { ...value, via: names[index - 1] } : value,
        ]),
      );
      for (const host of parseHosts(linked, "x").values()) {
        const copy = JSON.stringify(publicConnection(host));
        assert.not.match(copy, CANARY);
        assert.is(secretsOf([host]).length > 0, JSON.stringify(host).includes(CANARY));
        assert.equal(parseConnection(JSON.parse(copy), "state"), withoutSecrets(host));
      }
    }),
  );
});

function withoutSecrets(host: HostConnection): HostConnection {
  const { passphrase: _, ...rest } = host;
  return rest.via ? { ...rest, via: withoutSecrets(rest.via) } : rest;
}

test("property: whatever stands there, only InventoryError is thrown, without the secret", () => {
  const anything = fc.dictionary(
    name,
    fc.oneof(
      fc.jsonValue(),
      entry.chain((e) =>
        fc.record({
          ...Object.fromEntries(
            Object.entries(e).map(([k, v]) => [k, fc.oneof(fc.constant(v), fc.jsonValue())]),
          ),
          passphrase: fc.oneof(fc.constant(CANARY), fc.constant([CANARY]), fc.constant({ a: CANARY })),
        }),
      ),
    ),
  );
  const seen = { accepted: 0, refused: 0 };
  fc.assert(
    fc.property(anything, (map) => {
      try {
        parseHosts(map, "x");
        seen.accepted++;
      } catch (error) {
        seen.refused++;
        assert.instance(error, InventoryError);
        assert.not.match((error as Error).message, CANARY);
      }
    }),
    { numRuns: 300 },
  );
  assert.ok(seen.accepted > 5 && seen.refused > 50, JSON.stringify(seen));
});

test("a stored connection that was tampered with is refused", () => {
  const host = { name: "a", ...good };
  for (const stored of [null, {}, { ...host, port: 0 }, { ...host, via: host }])
    assert.throws(
      () => parseConnection(stored, "state"),
      (error: unknown) => error instanceof InventoryError,
    );
});

test.run();
