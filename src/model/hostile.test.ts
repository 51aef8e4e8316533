/** Whatever a person may type as a name: refused under its argument, shortly and on one line, or taken exactly as it is. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import { parse } from "yaml";
import { yaml } from "../formula/templates.ts";
import { parseAudioDomain } from "./audioDomain.ts";
import { parseGuiDomain } from "./guiDomain.ts";

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
type Parsed = { gui: object } | { audio: object } | { faults: { property: string; reason: string }[] };
const gui = (args: object): Parsed => parseGuiDomain("sys-gui", { host: "lab", ...args });
const audio = (args: object): Parsed => parseAudioDomain("sys-audio", { host: "lab", ...args });
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
      const argument = field.replace(/\[.*/, "");
      assert.ok(parsed.faults.length > 0);
      for (const { property, reason } of parsed.faults) {
        assert.is(property.replace(/[[.].*/, ""), argument, reason);
        assert.ok(reason.length < 500 && !/[\n\r]/.test(reason), `${reason.length}: ${reason.slice(0, 300)}`);
      }
    });
test("only what Salt alone reads is taken", () => assert.equal([...taken], ["label"]));

test.run();
