/** What stands in a picture is what the program, the state and the policy say. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import { Evaluator } from "../policy/evaluate.ts";
import { groupOf } from "../policy/services.ts";
import { asksOf } from "./calls.ts";
import { ofHost, worldOf } from "./described.ts";
import { type HostScene, sceneOf } from "./scene.ts";
import { guiDomain, OFFICE, OFFICE_STATE } from "./testing.ts";

const sceneAt = (host: string, state = OFFICE_STATE) =>
  sceneOf("office", OFFICE, state).hosts.find(({ name }) => name === host) as HostScene;
const boxOf = ({ boxes }: HostScene, id: string) => {
  const box = boxes.find((each) => each.id === id);
  assert.ok(box, `no box ${id}`);
  return box;
};
const callsOf = (scene: HostScene, id: string) => boxOf(scene, id).calls.map(({ text }) => text);

test("a host with nothing on it has its dom0", () => {
  const { boxes, links, facts } = sceneAt("empty");
  assert.equal(
    boxes.map(({ id }) => id),
    ["domain dom0"],
  );
  assert.equal([links, facts], [[], ""]);
});

test("before any run all is described, nothing in force", () => {
  const { boxes, links, facts } = sceneAt("t14", []);
  assert.is(facts, "");
  assert.ok(boxes.every(({ mood }) => mood === "plain"));
  assert.ok(links.length > 8);
  assert.equal(
    links.filter(({ loose }) => !loose),
    [],
  );
  assert.ok(links.some(({ from, to }) => from === "device screen" && to === "domain sys-gui"));
});

test("after a run: modes, reasons, places of devices, who drives the screen", () => {
  const scene = sceneAt("t14");
  assert.is(scene.facts, "Qubes R4.3, Xen 4.19.4");
  const gui = boxOf(scene, "domain sys-gui");
  assert.is(gui.mood, "good");
  assert.ok(gui.lines.includes("now: mode xephyr, ready"));
  assert.ok(gui.lines.includes("gpu refused: 0000:00:02.0 has no reset method"));
  assert.is(boxOf(scene, "domain sys-audio").mood, "bad");
  const has = (from: string, to: string, kind: string, loose = false) =>
    assert.ok(
      scene.links.some((l) => l.from === from && l.to === to && l.kind === kind && l.loose === loose),
      `${from} ${kind} ${to}`,
    );
  has("device screen", "domain dom0", "given");
  has("domain dom0", "domain sys-gui", "shows");
  has("domain sys-gui", "clients sys-gui", "shows");
  has("device 00_1f.3", "domain sys-audio", "given");
  has("domain sys-audio", "clients gui-bob", "plays");
  has("domain sys-usb", "domain dom0", "input");
  has("domain gui-bob", "clients gui-bob", "shows", true);
});

test("who may ask whom: levels, viewers, rules of one's own, questions to a person", () => {
  const scene = sceneAt("t14");
  assert.ok(callsOf(scene, "domain gui-bob").includes("vault: qubes.Backup"));
  assert.ok(callsOf(scene, "domain sys-vpn").includes("gui-vnc: qubes.ConnectTCP"));
  assert.match(callsOf(scene, "domain sys-usb").join(), /^dom0: .*keyboard, mouse/);
  const of = (gui: string) =>
    callsOf(scene, `domain ${gui}`).find((text) => text.startsWith("qubes of")) ?? "";
  assert.match(of("gui-bob"), /carry text and files.*start applications|start applications.*carry text/);
  assert.not.match(of("gui-lobby"), /carry text/);
  // The kiosk's own denials: nobody of the lobby reaches bob's.
  assert.not.ok(callsOf(scene, "domain gui-lobby").some((text) => text.includes("gui-bob")));
});

test("each arrow is an answer of the policy, and each answer that is new an arrow", () => {
  const world = worldOf(ofHost(OFFICE, "t14"));
  const asks = asksOf(world, (qube) => qube, [
    ["qubes.StartApp", ["+firefox", "+xterm"]],
    ["qubes.Backup", ["+"]],
  ]);
  const is = new Evaluator(world.after, world.facts);
  const decision = (service: string, argument: string, source: string, target: string) =>
    is.evaluate({ service, argument, source, target }).decision;
  const arrow = (from: string, to: string) => asks.find((each) => each.from === from && each.to === to);
  for (const from of Object.keys(world.facts).filter((name) => name !== "dom0"))
    for (const to of Object.keys(world.facts)) {
      const backup = decision("qubes.Backup", "+", from, to) === "allow";
      assert.is(arrow(from, to)?.allowed.includes("qubes.Backup") ?? false, backup, `${from} ${to}`);
      const starts = ["+firefox", "+xterm"].some(
        (arg) => decision("qubes.StartApp", arg, from, to) === "allow",
      );
      if (starts && from !== to)
        assert.ok(arrow(from, to)?.allowed.includes(groupOf("qubes.StartApp")), `${from} ${to}`);
    }
  assert.ok(arrow("gui-lobby", "lobby-dvm"));
});

test("a GUI domain whose clients are another one's reason for nothing: without rights no arrow", () => {
  const alone = {
    ...OFFICE,
    domains: [guiDomain("sys-gui", { clients: ["work"] })],
    audios: [],
    attachments: [],
    accesses: [],
  };
  const [, host] = sceneOf("s", alone, []).hosts;
  assert.equal(
    host?.boxes.flatMap(({ id, calls }) => (calls.length ? [id] : [])),
    ["domain sys-gui", "clients sys-gui"],
  );
});

test("a state of another form is not believed", () => {
  const odd = [
    {
      type: "guidomain:index:GuiDomain",
      outputs: { host: "t14", qube: "sys-gui", mode: 7, state: {}, attempts: "x" },
    },
  ];
  const { lines } = boxOf(sceneAt("t14", odd), "domain sys-gui");
  assert.ok(lines.includes("now: mode none, unknown"));
});

test.run();
