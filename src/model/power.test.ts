/** Who may do what to the machine, and where it is not done. */
import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { LEVELS } from "../policy/principal.ts";
import { parseGuiDomain } from "./guiDomain.ts";
import { MODES } from "./modes.ts";
import {
  lacking,
  onMachine,
  POWER,
  POWER_OF,
  POWERLESS,
  type Powered,
  powerIn,
  WAKELESS,
  wakelessOf,
} from "./power.ts";

const powered: fc.Arbitrary<Powered> = fc.record(
  {
    level: fc.constantFrom(null, ...LEVELS),
    power: fc.option(fc.subarray([...POWER])),
    suspend: fc.constantFrom("allowed" as const, "blocked" as const),
    wakes: fc.boolean(),
  },
  { requiredKeys: ["level", "power", "suspend"] },
);
const rung = fc.constantFrom("dom0" as const, ...MODES);

test("nothing is given that neither its level nor its program names; no sleep where it would not wake", () => {
  fc.assert(
    fc.property(powered, rung, (gui, where) => {
      const may = powerIn(gui, where);
      const named: readonly string[] = gui.power ?? (gui.level ? POWER_OF[gui.level] : []);
      assert.ok(may.every((one) => named.includes(one)));
      assert.equal(
        may,
        POWER.filter((one) => may.includes(one)),
        "in one order, each once",
      );
      if (where === "dom0") assert.equal(may, []);
      if (where === "xephyr" || gui.suspend === "blocked") assert.not.ok(may.includes("suspend"));
      if (gui.wakes === false && gui.power === null) assert.not.ok(may.includes("suspend"));
      // Nothing else is held back.
      const back = named.filter((one) => !(may as string[]).includes(one));
      if (where !== "dom0")
        assert.ok(
          back.every((one) => one === "suspend"),
          String(back),
        );
    }),
    { numRuns: 2000 },
  );
});

const faultsOf = (args: object) => {
  const parsed = parseGuiDomain("sys-gui", { host: "lab", ...args });
  return "faults" in parsed ? parsed.faults.map(({ property, reason }) => `${property}: ${reason}`) : [];
};
const KIOSK = { level: "kiosk", apps: [{ app: "xterm", qube: "work" }] };
for (const [what, args, words] of [
  [
    "another word",
    { power: ["halt"] },
    /^power\[0\]: "halt" is not allowed; allowed are "shutdown", "reboot", "suspend"$/,
  ],
  ["no list", { power: "reboot" }, /^power: "reboot" is not allowed; give a list$/],
  ["a guest", { level: "guest", power: ["reboot"] }, /^power: level "guest" has no say over the machine/],
  ["a kiosk", { ...KIOSK, power: ["shutdown"] }, /^power: level "kiosk" has no say over the machine/],
  [
    "sleep in mode xephyr",
    { power: ["suspend"] },
    /^power: "suspend" is not allowed: in mode "xephyr" .*#9384/,
  ],
  [
    "sleep that is blocked",
    { display: ["vnc"], power: ["suspend"], suspend: "blocked" },
    /^power: .*keeps the host from sleeping/,
  ],
  [
    "another word for sleep",
    { suspend: "never" },
    /^suspend: "never" is not allowed; allowed are "allowed", "blocked"$/,
  ],
] as const)
  test(`refused: ${what}`, () => {
    const faults = faultsOf(args);
    assert.is(faults.length, 1, faults.join("\n"));
    assert.match(faults[0] ?? "", words);
  });

test("allowed: nothing at any level, sleep in a ladder that has another mode", () => {
  for (const level of POWERLESS)
    assert.equal(faultsOf({ ...(level === "kiosk" ? KIOSK : { level }), power: [] }), []);
  assert.equal(faultsOf({ display: ["gpu", "xephyr"], power: ["suspend"] }), []);
});

test("models that do not wake: each row has a report of its own and names no machine of another row", () => {
  assert.is(new Set(WAKELESS.map(({ source }) => source)).size, WAKELESS.length);
  assert.match(wakelessOf({ vendor: "LENOVO", product: "21HMCTO1WW" }) ?? "", /X1_Carbon_G11/);
  assert.match(wakelessOf({ vendor: "Dell Inc.", product: "Latitude 5420" }) ?? "", /Latitude_5420/);
  for (const [vendor, product] of [
    ["LENOVO", "20S0CTO1WW"], // a T14 whose owner says nothing of the kind
    ["Dell Inc.", "Latitude 5421"],
    ["QEMU", "21HM"],
    [null, null],
  ] as const)
    assert.is(wakelessOf({ vendor, product }), null, `${vendor} ${product}`);
});

test("what a machine lacks: nothing where it is not known", () => {
  assert.equal(lacking({}), []);
  assert.equal(lacking({ batteries: null, backlights: null }), []);
  assert.equal(lacking({ batteries: ["BAT0"], backlights: ["intel_backlight"] }), []);
  assert.equal(lacking({ batteries: [], backlights: [] }), ["battery", "backlight"]);
  assert.equal(lacking({ batteries: ["BAT0"], backlights: ["a", "b"] }), ["backlight"]);
  const firmware = { vendor: "LENOVO", product: "21HMCTO1WW" };
  assert.equal(onMachine({ a: 1 }, { firmware, batteries: [] }), { a: 1, wakes: false, lacks: ["battery"] });
  assert.equal(onMachine({ a: 1 }, { firmware: { vendor: null, product: null } }), { a: 1 });
});

test.run();
