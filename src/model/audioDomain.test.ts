/** Audio domains as described: defaults, and each rule with what its refusal says. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import { parseAudioDomain } from "./audioDomain.ts";

const parse = (args: object, name = "sys-audio") => parseAudioDomain(name, { host: "lab", ...args });
const parsed = (args: object) => {
  const result = parse(args);
  if ("faults" in result) throw new Error(JSON.stringify(result.faults));
  return result.audio;
};

test("a qube of its own takes all sound; a shared one is left as it is", () => {
  const own = parsed({ clients: ["work", "vault", "work"] });
  assert.equal(
    [own.qube, own.devices, own.clients, own.template, own.label, own.memory, own.autostart],
    ["sys-audio", [{ class: "audio" }], ["vault", "work"], "fedora-43-xfce", "black", 400, true],
  );
  const usb = parsed({ qube: "sys-usb", shared: true, clients: "default" });
  assert.equal(
    [usb.qube, usb.devices, usb.template, usb.label, usb.memory, usb.vcpus, usb.autostart],
    ["sys-usb", [], null, null, null, null, null],
  );
  const two = [{ class: "audio" }, { address: "00_01.0-00_00.1" }];
  assert.equal(parsed({ devices: two }).devices, two);
  assert.equal(parsed({ devices: [] }).devices, []);
});

test("USB devices: of sys-usb, one or several, hex digits in any case", () => {
  assert.equal(parsed({}).usb, []);
  assert.equal(parsed({ usb: { vendor: "0D8C", device: "0014" } }).usb, [
    { qube: "sys-usb", vendor: "0d8c", device: "0014" },
  ]);
  const two = ["1-2", "1-4.1"].map((port) => ({ qube: "usb", vendor: "0d8c", device: "0014", port }));
  assert.equal(parsed({ usb: two }).usb, two);
});

const HEADSET = { vendor: "0d8c", device: "0014" };
const BAD: [object, ...string[]][] = [
  [{ usb: { vendor: "8c", device: "0014" } }, 'usb.vendor: "8c" is not allowed', "4 hex digits"],
  [{ usb: [{ vendor: "0d8c" }] }, "usb[0].device: missing", "4 hex digits"],
  [
    { usb: { ...HEADSET, product: "0014" } },
    "usb.product: not a part of a USB device",
    "qube, vendor, device",
  ],
  [{ usb: { ...HEADSET, port: "usb1" } }, 'usb.port: "usb1" is not allowed', '"1-2"'],
  [{ usb: { ...HEADSET, qube: "dom0" } }, 'usb.qube: "dom0" gives its own USB devices to nobody'],
  [{ usb: { ...HEADSET, qube: "sys-audio" } }, "the audio domain itself"],
  [{ usb: [HEADSET, { ...HEADSET, port: "1-2" }] }, "usb[1]: it is there twice"],
  [{ devices: { class: "toaster" } }, 'devices.class: "toaster" is not allowed', '"audio"'],
  [{ devices: [{ class: "audio" }, {}] }, "devices[1]: {} is not allowed"],
  [{ devices: 7 }, "devices: 7 is not allowed", "give a device by what it is"],
  [{ clients: "all" }, 'clients: "all" is not allowed', '"default" or a list of qubes'],
  [{ clients: ["sys-audio"] }, 'clients: "sys-audio" cannot be its own client'],
  [{ clients: ["a b"] }, "clients"],
  [{ microphone: true }, "microphone: true is not allowed", '"denied", "allowed"'],
  [{ clients: ["work"], emulated: ["win"] }, 'emulated: "win" is not one of its clients'],
  [{ shared: true, label: "red" }, 'label: "red" is not allowed: qube "sys-audio" is shared'],
  [{ shared: true, autostart: false }, "autostart: false is not allowed"],
  [{ shared: "yes" }, 'shared: "yes" is not allowed; give true or false'],
  [{ template: "sys-audio" }, 'template: "sys-audio" cannot be its own template'],
  [{ memory: 1 }, "memory: 1 is not allowed"],
  [{ limits: { boot: 5 } }, "limits.boot: there is no such part"],
  [{ host: undefined }, "host: missing"],
  [
    { colour: "red" },
    "colour: not a property of an audio domain",
    "allowed are autostart, bluetooth, clients, devices",
  ],
  [{ qube: "config-input" }, 'qube: "config-input"', "one of Qubes' own files"],
];
for (const [args, ...texts] of BAD)
  test(`refused: ${JSON.stringify(args)}`, () => {
    const result = parse(args);
    assert.ok("faults" in result, "it was accepted");
    const said = result.faults.map((f) => `${f.property}: ${f.reason}`).join("\n");
    for (const text of texts) assert.ok(said.includes(text), said);
  });

test("a resource's name that is no qube's", () => {
  const result = parse({}, "my audio");
  assert.ok("faults" in result && result.faults[0]?.property === "qube");
});

test.run();
