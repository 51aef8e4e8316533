/** Which input devices reach a screen: the policy that comes of it, and whom it would lock out. */
import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { inputFile, settingsOf } from "../formula/settings.ts";
import type { Snapshot } from "../host/protocol.ts";
import { Refusal } from "../model/failure.ts";
import { INPUT_SERVICES, KINDS } from "../model/input.ts";
import type { Mode } from "../model/modes.ts";
import { Evaluator, type Facts } from "../policy/evaluate.ts";
import { loadPolicy, POLICY } from "../policy/load.ts";
import { judgeGpu, NO_GRANT } from "./gpu.ts";
import { foundInput, inputRefusals, inputTaken, preflightInput } from "./input.ts";
import { guiOf, holds } from "./testing/cases.ts";
import { display, explicit, HostModel, laptop, qube } from "./testing/hostModel.ts";

const USB = display({
  sbdf: "0000:00:14.0",
  port: "00_14.0",
  class: "0c0330",
  device: "9a13",
  driver: "pciback",
  bootVga: null,
  outputs: [],
});
const CONFIG = `${POLICY}/50-config-input.policy`;
const STOCK = `qubes.InputMouse * sys-usb dom0 ask default_target=dom0
qubes.InputKeyboard * sys-usb dom0 deny
qubes.InputTablet * sys-usb dom0 deny
`;
const ALLOWED = STOCK.replace("sys-usb dom0 deny", "sys-usb dom0 allow");

interface Host {
  policy?: string;
  keyboards?: string[] | null;
  /** Of sys-usb. */
  guivm?: string;
  autostart?: "True" | "False";
  files?: Record<string, string>;
  facts?: Partial<Snapshot["facts"]>;
}
function hostWith({ policy = STOCK, keyboards = [], guivm, autostart = "True", files = {}, facts }: Host) {
  const own = { port: "*", device: "0x8086:0x9a13::p0c0330", mode: "required", options: {} };
  const snapshot = laptop(
    { pci: [display(), USB], keyboards, ...facts },
    {
      qubes: {
        "sys-usb": qube({
          state: "Running",
          pci: [own],
          properties: {
            autostart: explicit(autostart),
            ...(guivm === undefined ? {} : { guivm: explicit(guivm) }),
          },
        }),
      },
      files: Object.fromEntries(
        Object.entries({ [CONFIG]: policy, ...files }).map(([path, content]) => [
          path,
          { content, mode: "0644" },
        ]),
      ),
    },
  );
  return new HostModel(snapshot).snapshot();
}

const gui = (args: object) => guiOf("sys-gui", { host: "lab", ...args });
const usb = (kinds: object, more: object = {}) => ({ input: { usb: [kinds] }, ...more });
const refused = (mode: Mode, args: object, host: Host): string[] => {
  const snapshot = hostWith(host);
  const is = gui({ display: [mode], clients: "default", ...args });
  return mode === "gpu"
    ? judgeGpu(is, snapshot, false).reasons.filter((reason) => /input|keyboard/.test(reason))
    : inputRefusals(is, mode, NO_GRANT, snapshot);
};

const DEVICES = ["usb-0000_00_06.0-1+3-46d-c31c-110", "3-1-2-3+serial"];
const answer = fc.constantFrom(undefined, "allow" as const, "ask" as const, "deny" as const);
const kinds = fc.record({ mouse: answer, keyboard: answer, tablet: answer });
const FACTS: Facts = Object.fromEntries(
  ["dom0", "sys-usb", "sys-gui", "work"].map((name) => [
    name,
    {
      class: name === "dom0" ? "AdminVM" : "AppVM",
      tags: [],
      template_for_dispvms: false,
      default_dispvm: null,
      running: true,
    },
  ]),
);

for (const mode of ["gpu", "xephyr", "vnc"] as const)
  test(`each device and kind gets the answer that is asked for, at the screen of mode ${mode}; the rest is as before`, () => {
    const screen = mode === "gpu" ? "sys-gui" : "dom0";
    const seen = { allow: 0, ask: 0, deny: 0 };
    holds(
      fc.property(kinds, fc.array(kinds, { maxLength: 2 }), (all, each) => {
        const without = (one: object) =>
          Object.fromEntries(Object.entries(one).filter(([, value]) => value !== undefined));
        const devices = each.flatMap((one, i) =>
          Object.keys(without(one)).length ? [{ device: DEVICES[i], ...without(one) }] : [],
        );
        fc.pre(Object.keys(without(all)).length + devices.length > 0);
        const is = gui({ display: [mode], input: { usb: [{ ...without(all), devices }] } });
        const text = settingsOf(is, mode).files[inputFile("sys-gui")] ?? "";
        const load = (files: Record<string, string>) => {
          const { rules, faults } = loadPolicy({ [CONFIG]: STOCK, ...files });
          assert.equal(faults, []);
          return new Evaluator(rules, FACTS);
        };
        const [before, after] = [load({}), load({ [inputFile("sys-gui")]: text })];
        for (const kind of KINDS)
          for (const device of [...DEVICES, "another"]) {
            const call = {
              service: INPUT_SERVICES[kind],
              argument: `+${device}`,
              source: "sys-usb",
              target: "dom0",
            };
            const pinned = each[DEVICES.indexOf(device)]?.[kind];
            const said = pinned ?? all[kind];
            const got = after.evaluate(call);
            if (said === undefined) {
              assert.equal(got.decision, before.evaluate(call).decision);
              continue;
            }
            seen[said]++;
            assert.equal(got.decision, said, JSON.stringify({ call, text }));
            if (got.decision === "allow")
              assert.equal([got.target, got.user], [screen, mode === "gpu" ? "root" : null]);
            if (got.decision === "ask") assert.equal([got.targets, got.default_target], [[screen], screen]);
            // A USB qube that asks for the GUI domain itself gets no other answer.
            if (mode === "gpu") assert.equal(after.evaluate({ ...call, target: "sys-gui" }).decision, said);
            // Nobody else comes in by it.
            assert.equal(after.evaluate({ ...call, source: "work" }).decision, "deny");
          }
      }),
      60,
    );
    assert.ok(Math.min(...Object.values(seen)) > 10, JSON.stringify(seen));
  });

const MOUSE = { qube: "sys-usb", service: "qubes.InputMouse", argument: "*", answer: "allow" };
test("mode gpu without a word: what dom0 takes now, a pinned device as that device alone", () => {
  const found = (policy: string) => foundInput("sys-gui", hostWith({ policy }));
  assert.equal(found(STOCK), [MOUSE]);
  const pin = "qubes.InputKeyboard +3-1-2-3 sys-usb dom0 allow\n";
  const keyboard = { ...MOUSE, service: "qubes.InputKeyboard" };
  assert.equal(found(pin + STOCK), [MOUSE, { ...keyboard, argument: "+3-1-2-3" }]);
  // And one that is kept out stays out.
  for (const answer of ["deny", "ask"])
    assert.equal(found(pin.replace("allow", answer) + ALLOWED), [
      MOUSE,
      { ...keyboard, argument: "+3-1-2-3", answer: "deny" },
      keyboard,
    ]);
  assert.equal(found(pin.replace("allow", "deny") + STOCK), [MOUSE]);
});

const KEYBOARD_ONLY_USB: [string, Mode, object, Host, RegExp | null][] = [
  [
    "ask, and it is the only one",
    "gpu",
    usb({ keyboard: "ask" }),
    {},
    /input\.usb\[0\]\.keyboard: "ask" is a question that nobody can answer without a keyboard \(allowed here is "allow"\)/,
  ],
  ["ask, beside one of dom0's", "gpu", usb({ keyboard: "ask" }), { keyboards: ["ps2"] }, null],
  ["ask, and nobody knows what dom0 has", "gpu", usb({ keyboard: "ask" }), { keyboards: null }, null],
  [
    "deny, though the host allows it",
    "gpu",
    usb({ keyboard: "deny" }),
    { policy: ALLOWED },
    /keyboard: "deny" shuts out that of sys-usb/,
  ],
  [
    "nothing said, and the host denies it",
    "gpu",
    {},
    {},
    /dom0 has none, and no USB qube is allowed qubes\.InputKeyboard to dom0/,
  ],
  ["nothing said, and the host allows it", "gpu", {}, { policy: ALLOWED }, null],
  ["allow", "gpu", usb({ keyboard: "allow" }), {}, null],
  [
    "allow of one device",
    "gpu",
    usb({ keyboard: "deny", devices: [{ device: "3-1-2-3", keyboard: "allow" }] }),
    {},
    null,
  ],
  [
    "allow, from a qube that does not start by itself",
    "gpu",
    usb({ keyboard: "allow" }),
    { autostart: "False" },
    /sys-usb, which may send one, does not start with the host/,
  ],
  [
    "dom0's kept back, and nothing else",
    "gpu",
    { input: { dom0: "deny" } },
    { keyboards: ["ps2"] },
    /input\.dom0: "deny" keeps dom0's from it \(allowed here is "allow"\)/,
  ],
  [
    "dom0's kept back, and one from the USB qube",
    "gpu",
    { input: { dom0: "deny", usb: [{ keyboard: "allow" }] } },
    { keyboards: ["ps2"] },
    null,
  ],
  [
    "ask, where the host allows it",
    "xephyr",
    usb({ keyboard: "ask" }),
    { policy: ALLOWED },
    /no keyboard would reach dom0's greeter: dom0 has none, and input\.usb\[0\]\.keyboard: "ask"/,
  ],
  [
    "deny, where the host allows it",
    "vnc",
    usb({ keyboard: "deny" }),
    { policy: ALLOWED },
    /keyboard: "deny" shuts out/,
  ],
  ["deny, where nobody could type before", "vnc", usb({ keyboard: "deny" }), {}, null],
  [
    "deny, where an earlier run let it in",
    "xephyr",
    usb({ keyboard: "deny" }),
    { files: { [inputFile("sys-gui")]: "qubes.InputKeyboard * sys-usb dom0 allow\n" } },
    /shuts out/,
  ],
  [
    "deny, beside one of dom0's",
    "xephyr",
    usb({ keyboard: "deny" }),
    { policy: ALLOWED, keyboards: ["ps2"] },
    null,
  ],
];
for (const [what, mode, args, host, expected] of KEYBOARD_ONLY_USB)
  test(`the keyboard in mode ${mode}: ${what}: ${expected ? "refused" : "goes"}`, () => {
    const reasons = refused(mode, args, host);
    if (expected) assert.match(reasons.join("\n"), expected);
    else assert.equal(reasons, []);
  });

const PS2 = { keyboards: ["ps2"] };
const QUESTIONS: [string, Mode, object, Host, RegExp | null][] = [
  ["a USB qube that it shows", "gpu", usb({ mouse: "ask" }), PS2, null],
  [
    "a USB qube that dom0 shows, which has no screen then",
    "gpu",
    usb({ mouse: "ask" }, { clients: ["work"] }),
    PS2,
    /input\.usb\[0\]\.mouse: "ask" is a question that dom0 would show, which has no screen in mode "gpu"; allowed is "allow" or "deny", or "ask" with sys-usb in "clients"/,
  ],
  ["named among its clients", "gpu", usb({ mouse: "ask" }, { clients: ["sys-usb"] }), PS2, null],
  [
    "a USB qube that dom0 shows, as it shows everything",
    "xephyr",
    usb({ mouse: "ask" }, { clients: ["work"] }),
    PS2,
    null,
  ],
  [
    "a USB qube without a GUI domain",
    "xephyr",
    usb({ mouse: "ask" }),
    { ...PS2, guivm: "" },
    /is a question that no GUI domain would show, since sys-usb has none/,
  ],
  ["the same, and no question", "xephyr", usb({ mouse: "allow" }), { ...PS2, guivm: "" }, null],
];
for (const [what, mode, args, host, expected] of QUESTIONS)
  test(`a question needs a GUI domain that is up (${mode}): ${what}`, () => {
    const reasons = refused(mode, args, host);
    if (expected) assert.match(reasons.join("\n"), expected);
    else assert.equal(reasons, []);
  });

test("somebody's earlier file would win, and is named", () => {
  const files = { [`${POLICY}/30-user.policy`]: "qubes.InputMouse * sys-usb dom0 deny\n" };
  const reasons = refused("xephyr", usb({ mouse: "allow" }), { ...PS2, files });
  assert.match(
    reasons.join("\n"),
    /input\.usb\[0\]\.mouse: "allow" would not count: .*30-user\.policy says "deny" of qubes\.InputMouse before it/,
  );
  assert.equal(refused("xephyr", usb({ mouse: "deny" }), { ...PS2, files }), []);
  // Of one device it says nothing about the others.
  const one = { [`${POLICY}/30-user.policy`]: "qubes.InputMouse +3-1-2-3 sys-usb dom0 deny\n" };
  assert.equal(refused("xephyr", usb({ mouse: "allow" }), { ...PS2, files: one }), []);
});

test("the word of another program's GUI domain on the same devices stands, wherever its file sorts", () => {
  const urn = (stack: string, name: string) =>
    `urn:pulumi:${stack}::site::guidomain:index:GuiDomain::${name}`;
  const taken = (
    owner: string | null,
    text = "qubes.InputMouse * sys-usb dom0 allow user=root target=zoe\n",
  ) =>
    ["alice", "zoe"].map((name) => {
      const file = `${POLICY}/45-gui-${name}.policy`;
      const host = hostWith({ files: { [file]: text } });
      const entry = { owner: owner ?? "", first: null, ours: null, at: 1 };
      if (owner !== null) host.ledger[`file:${file}`] = entry;
      return inputTaken([{ ...MOUSE, answer: "allow" }], "sys-gui", host, urn("lab", "sys-gui"))?.what;
    });
  const theirs = taken(urn("home", "zoe"));
  assert.match(theirs[0] ?? "", /qubes\.InputMouse of "sys-usb" goes where .*45-gui-alice\.policy says/);
  assert.match(theirs[1] ?? "", /45-gui-zoe\.policy says/);
  // Of the same program claims tell; what nobody owns is judged by where it sorts; what is not about a mouse is none of its business.
  const none = [undefined, undefined];
  assert.equal([taken(urn("lab", "zoe")), taken(null)], [none, none]);
  assert.equal(taken(urn("home", "zoe"), "qubes.InputTablet * sys-usb dom0 deny\n"), none);
});

const PROMPT = { unattended: false, unattendedWhy: "the disk asks for a passphrase" };
test("the passphrase prompt: told where the only keyboards are kept from dom0 at boot", () => {
  const warned = (cmdline: string, boot: object = PROMPT, keyboards: string[] = []) => {
    const host = hostWith({ keyboards });
    host.facts.cmdline = cmdline;
    host.facts.boot = { ...host.facts.boot, ...boot };
    return preflightInput(gui(usb({ keyboard: "allow" })), host).map(({ text }) => text);
  };
  for (const word of [
    "rd.qubes.hide_all_usb",
    "rd.qubes.hide_pci=00:1f.3,00:14.0",
    "rd.qubes.hide_pci=00_14.0",
  ])
    assert.match(
      warned(`root=/dev/x ${word} quiet`).join("\n"),
      /no keyboard types the passphrase at boot: .*those of sys-usb are kept from it.*\(the disk asks for a passphrase\)/,
    );
  // Until the qube runs they are dom0's.
  assert.equal(warned("quiet"), []);
  assert.equal(warned("rd.qubes.hide_all_usb", { unattended: true }), []);
  assert.equal(warned("rd.qubes.hide_all_usb", PROMPT, ["ps2"]), []);
});

test("a qube that is not there is refused by its argument; one without a USB controller is told", () => {
  assert.throws(
    () => preflightInput(gui({ input: { usb: [{ qube: "usb", mouse: "ask" }] } }), hostWith({})),
    (error: unknown) =>
      error instanceof Refusal &&
      /input\.usb\[0\]\.qube: qube "usb" does not exist there; those with USB controllers are: "sys-usb"/.test(
        error.message,
      ),
  );
  const [notice] = preflightInput(gui({ input: { usb: [{ qube: "work", mouse: "ask" }] } }), hostWith({}));
  assert.match(notice?.text ?? "", /"work" has no USB controller/);
});

test.run();
