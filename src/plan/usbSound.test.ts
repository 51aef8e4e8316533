/** Which USB device is given, and what is refused or waits: from what a USB qube shows and who has it. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { Snapshot, UsbDevice } from "../host/protocol.ts";
import type { UsbSelector } from "../model/usb.ts";
import { install, qube } from "./testing/hostModel.ts";
import { chooseUsb } from "./usbSound.ts";

const ID = "0d8c:0014::u010100u010200u030000";
const headset = (more: Partial<UsbDevice> = {}): UsbDevice => ({
  port: "1-2",
  device: ID,
  name: "C-Media Headset",
  attachment: null,
  ...more,
});
const WANTED: UsbSelector = { qube: "sys-usb", vendor: "0d8c", device: "0014" };
const ANYWHERE = `sys-usb:*:${ID}`;

type Mine = { port: string; device?: string; of?: string };
function host(plugged: UsbDevice[] | null, mine: Mine[] = [], state = "Running"): Snapshot {
  const snapshot = install();
  snapshot.qubes["sys-usb"] = { ...qube(), state };
  snapshot.qubes["sys-audio"] = qube();
  snapshot.usb = { "sys-usb": plugged };
  for (const { port, device = ID, of = "sys-audio" } of mine) {
    const its = snapshot.qubes[of];
    if (its) its.usb = [...(its.usb ?? []), { backend: "sys-usb", port, device, mode: "auto-attach" }];
  }
  return snapshot;
}
const choose = (snapshot: Snapshot, ...selectors: UsbSelector[]) =>
  chooseUsb(
    "sys-audio",
    selectors.length ? selectors : [WANTED],
    snapshot,
    (what, next) => new Error(`${what}. ${next}`),
  );
const names = (snapshot: Snapshot, ...selectors: UsbSelector[]) =>
  Object.keys(choose(snapshot, ...selectors).settings);

test("given wherever it is plugged in, or only at the port that is named", () => {
  assert.equal(choose(host([headset()])), {
    settings: { [ANYWHERE]: "auto-attach" },
    against: [],
    present: ["0d8c:0014"],
    places: ["sys-usb:1-2"],
    waits: [],
  });
  const two = host([headset(), headset({ port: "1-4.1" })]);
  assert.equal(names(two, { ...WANTED, port: "1-4.1" }), [`sys-usb:1-4.1:${ID}`]);
});

test("what is assigned already stays as it is, whoever did it, and however many there are by now", () => {
  assert.equal(names(host([headset()], [{ port: "1-2" }])), [`sys-usb:1-2:${ID}`]);
  const two = [headset(), headset({ port: "1-4" })];
  assert.equal(names(host(two, [{ port: "1-4" }])), [`sys-usb:1-4:${ID}`]);
  assert.equal(names(host(two, [{ port: "*" }])), [ANYWHERE]);
});

test("another one of its kind takes the place of one that is not plugged in", () => {
  const other = "0d8c:0014:B2:u010100";
  assert.equal(names(host([headset({ device: other })], [{ port: "*" }])), [`sys-usb:*:${other}`]);
});

const REFUSED: [string, Snapshot, RegExp][] = [
  [
    "several",
    host([headset(), headset({ port: "1-4" })]),
    /several fit, at 1-2, 1-4\. Say which one with "port"/,
  ],
  ["a keyboard", host([headset({ device: "0d8c:0014::u030101u010100" })]), /is a keyboard/],
  ["a mouse", host([headset({ device: "0d8c:0014::u030102" })]), /is a mouse/],
  ["a disk", host([headset({ device: "0d8c:0014:u010100:u080650" })]), /no sound device: it shows u080650/],
  ["nothing known", host([headset({ device: "0d8c:0014::?******" })]), /it shows no interfaces/],
  ["a serial that is no word", host([headset({ device: "0d8c:0014:a b:u010100" })]), /its serial number has/],
  ["a serial with +", host([headset({ device: "0d8c:0014:a+b:u010100" })]), /its serial number has/],
  [
    "another's",
    host([headset()], [{ port: "1-2", of: "work" }]),
    /assigned to "work"\. .*qvm-usb unassign work sys-usb:1-2/,
  ],
  ["another's port", host([headset()], [{ port: "1-2", device: "*", of: "work" }]), /assigned to "work"/],
];
for (const [what, snapshot, message] of REFUSED)
  test(`refused: ${what}`, () => assert.throws(() => choose(snapshot), message));

test("what another qube has at another port is no obstacle", () => {
  assert.equal(names(host([headset()], [{ port: "1-3", of: "work" }])), [ANYWHERE]);
});

const ABSENT: [string, Snapshot, RegExp][] = [
  ["not plugged in", host([]), /is not plugged in there/],
  ["the USB qube is off", host(null, [], "Halted"), /that qube is halted, and only one that runs shows/],
  ["dom0 lacks the proxy", host(null), /dom0 does not know of USB devices/],
  ["somebody has it", host([headset({ attachment: "work" })]), /"work" has it now/],
];
for (const [what, snapshot, message] of ABSENT)
  test(`${what}: a fact against it, and nothing but a wait where it is assigned already`, () => {
    const none = choose(snapshot);
    assert.match(none.against[0]?.what ?? "", message);
    assert.equal([none.present, none.waits], [[], []]);
    const given = structuredClone(snapshot);
    Object.assign(given.qubes["sys-audio"] ?? {}, {
      usb: [{ backend: "sys-usb", port: "*", device: ID, mode: "auto-attach" }],
    });
    const kept = choose(given);
    assert.equal([Object.keys(kept.settings), kept.against, kept.present], [[ANYWHERE], [], []]);
    assert.match(kept.waits[0] ?? "", message);
  });

test("a USB qube that is not there is a slip", () => {
  assert.throws(() => choose(install()), /of "sys-usb": that qube does not exist there/);
});

test.run();
