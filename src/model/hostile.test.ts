/** Whatever a person may type as a name: refused under its argument, shortly and on one line, or taken exactly as it is. */
import { execFileSync } from "node:child_process";
import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { parse } from "yaml";
import { yaml } from "../formula/templates.ts";
import { parseAudioDomain } from "./audioDomain.ts";
import { parseGuiDomain } from "./guiDomain.ts";
import { parsePciAttachment } from "./pciAttachment.ts";

const HOSTILE: [what: string, text: string][] = [
  ["a blank", "a b"],
  ["a quote", `a"b`],
  ["an apostrophe", "a'b"],
  ["a newline", "a\n* * @anyvm @anyvm allow"],
  ["a shell's words", "a; rm -rf / $(id) `id`"],
  ["an at", "@anyvm"],
  ["a path", "../../etc/shadow"],
  ["other letters", "bücher"],
  ["an INI section", "a\n[Seat:*]"],
  ["Jinja", "{{ salt }}"],
  ["10 kB", "x".repeat(10_240)],
];
const KIOSK = { level: "kiosk" };
type Parsed =
  | { gui: object }
  | { audio: object }
  | { attachment: object }
  | { faults: { property: string; reason: string }[] };
const gui = (args: object): Parsed => parseGuiDomain("sys-gui", { host: "lab", ...args });
const audio = (args: object): Parsed => parseAudioDomain("sys-audio", { host: "lab", ...args });
const DEVICE = { class: "audio" };
const pci = (args: object): Parsed =>
  parsePciAttachment({ host: "lab", qube: "work", device: DEVICE, ...args });
const PLACES: [field: string, (bad: string) => Parsed][] = [
  ["host", (bad) => parseGuiDomain("sys-gui", { host: bad })],
  ["qube", (bad) => gui({ qube: bad })],
  ["clients[1]", (bad) => gui({ clients: ["work", bad] })],
  ["template", (bad) => gui({ template: bad })],
  ["label", (bad) => gui({ label: bad })],
  ["audiovm", (bad) => gui({ audiovm: bad })],
  ["viewers[0]", (bad) => gui({ display: ["vnc"], viewers: [bad] })],
  ["hostPackages[0]", (bad) => gui({ hostPackages: [bad] })],
  ["sessionUser", (bad) => gui({ session: "autologin", sessionUser: bad })],
  ["level", (bad) => gui({ level: bad })],
  ["apps[0].app", (bad) => gui({ ...KIOSK, apps: [{ app: bad, qube: "work" }] })],
  ["apps[0].disposable", (bad) => gui({ ...KIOSK, apps: [{ app: "firefox", disposable: bad }] })],
  ["rules[0]", (bad) => gui({ level: "user", rules: [`qubes.Filecopy * ${bad} work ask`] })],
  ["qube", (bad) => audio({ qube: bad })],
  ["clients[0]", (bad) => audio({ clients: [bad] })],
  ["emulated[0]", (bad) => audio({ clients: ["work"], emulated: [bad] })],
  ["template", (bad) => audio({ template: bad })],
  ["label", (bad) => audio({ label: bad })],
  ["host", (bad) => pci({ host: bad })],
  ["qube", (bad) => pci({ qube: bad })],
  ...["class", "vendor", "device", "subsystem", "position", "address", "driver"].map(
    (part): [string, (bad: string) => Parsed] => [
      `device.${part}`,
      (bad) => pci({ device: { ...DEVICE, [part]: bad } }),
    ],
  ),
  ["devices[1]", (bad) => pci({ device: undefined, devices: [DEVICE, bad] })],
  ["options", (bad) => pci({ options: { [bad]: true } })],
];
const taken = new Set<string>();
for (const [field, give] of PLACES)
  for (const [what, bad] of HOSTILE)
    test(`${field} with ${what}`, () => {
      const parsed = give(bad);
      if (!("faults" in parsed)) {
        taken.add(field);
        const [is] = (Object.values(parsed) as Record<string, unknown>[]).map((made) => made[field]);
        assert.is(is, bad);
        assert.is(parse(`- ${yaml(is)}`)[0], bad);
        return;
      }
      const argument = field.replace(/[[.].*/, "");
      assert.ok(parsed.faults.length > 0);
      for (const { property, reason } of parsed.faults) {
        assert.is(property.replace(/[[.].*/, ""), argument, reason);
        assert.ok(reason.length < 500 && !/[\n\r]/.test(reason), `${reason.length}: ${reason.slice(0, 300)}`);
      }
    });
test("only what Salt alone reads is taken", () => assert.equal([...taken], ["label"]));

/** Names that are nearly right: half of them with something in them that is not. */
const NEARLY = fc
  .tuple(
    fc.stringMatching(/^[a-zA-Z][a-zA-Z0-9_.-]{0,15}$/),
    fc.string({ maxLength: 2, unit: "binary" }),
    fc.nat(16),
  )
  .map(([name, odd, at]) => name.slice(0, at) + odd + name.slice(at));

// Checks put names into commands: whatever is accepted is one plain word there (rules: src/policy/rules.test.ts; files: src/formula).
test("what is accepted as a qube, a template or a package is one word to a shell", () => {
  const accepted = new Set<string>();
  const places = PLACES.filter(([field]) =>
    /^(qube|clients|template|viewers|hostPackages|emulated)/.test(field),
  );
  fc.assert(
    fc.property(NEARLY, fc.constantFrom(...places), (name, [, give]) => {
      if (!("faults" in give(name))) accepted.add(name);
    }),
    { numRuns: 2000 },
  );
  assert.ok(accepted.size > 100, `${accepted.size} accepted`);
  const script = [...accepted].map((name) => `one ${name}`).join("\n");
  const read = execFileSync("sh", ["-c", `one() { printf '%s\\0' "$#" "$1"; }\n${script}`], { cwd: "/" });
  assert.equal(
    read.toString().split("\0").slice(0, -1),
    [...accepted].flatMap((name) => ["1", name]),
  );
});

test.run();
