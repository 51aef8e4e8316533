/** A machine and its people: what comes of it, and each mistake by its field, its value and what is allowed. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import { parseWorkstation } from "./workstation.ts";

function of(value: unknown) {
  const parsed = parseWorkstation("t14", value);
  if ("faults" in parsed) throw new Error(JSON.stringify(parsed.faults));
  return parsed.workstation;
}
const faultsOf = (value: unknown): string[] => {
  const parsed = parseWorkstation("t14", value);
  return "faults" in parsed ? parsed.faults.map(({ property, reason }) => `${property}: ${reason}`) : [];
};
const alice = { name: "alice", clients: ["work"] };
const bob = { name: "bob", clients: ["play"] };

test("of one person: one GUI domain for every qube, with sound", () => {
  assert.equal(of({}), {
    users: [{ name: "", qube: "sys-gui", args: { clients: "default", qube: "sys-gui" } }],
    audio: { qube: "sys-audio", args: { clients: "default" } },
  });
  const { users, audio } = of({
    display: ["gpu", "xephyr"],
    clients: ["work"],
    level: "operator",
    audio: false,
  });
  assert.equal(users[0]?.args, {
    display: ["gpu", "xephyr"],
    clients: ["work"],
    level: "operator",
    qube: "sys-gui",
  });
  assert.is(audio, null);
});

test("of several: one GUI domain each, level user unless they say more; what is said of the machine holds for all", () => {
  const input = { usb: [{ mouse: "ask" }] };
  const { users, audio } = of({
    memory: 2500,
    input,
    audio: { microphone: "allowed", qube: "noise" },
    users: [alice, { ...bob, qube: "gui-bob", level: "operator", memory: 3000, display: ["gpu", "xephyr"] }],
  });
  assert.equal(users, [
    {
      name: "alice",
      qube: "sys-gui-alice",
      args: { level: "user", memory: 2500, clients: ["work"], qube: "sys-gui-alice" },
    },
    {
      name: "bob",
      qube: "gui-bob",
      args: {
        level: "operator",
        memory: 3000,
        clients: ["play"],
        qube: "gui-bob",
        display: ["gpu", "xephyr"],
        input, // where the screen is
      },
    },
  ]);
  assert.equal(audio, { qube: "noise", args: { clients: "default", microphone: "allowed", qube: "noise" } });
});

const users = (...list: unknown[]) => ({ users: list });
const MALFORMED: [unknown, ...string[]][] = [
  [7, ": 7 is not a workstation", "audio", "users"],
  [{ clinets: [] }, "clinets: not a property of a workstation", "clients", "users"],
  [{ host: "t15" }, "host: not a property of a workstation"],
  [{ display: ["x11"] }, 'display[0]: "x11" is not a display mode', '"gpu", "xephyr", "vnc"'],
  [
    { input: { usb: [{ keyboard: "yes" }] } },
    'input.usb[0].keyboard: "yes" is not allowed',
    '"allow", "ask", "deny"',
  ],
  [{ level: "root" }, 'level: "root" is not allowed', '"admin", "operator", "user", "guest", "kiosk"'],
  [{ audio: "yes" }, 'audio: "yes" is not allowed', "true, false, or a map"],
  [{ audio: { clients: "all" } }, 'audio.clients: "all" is not allowed', '"default"'],
  [{ audio: { speaker: 1 } }, "audio.speaker: not a property of an audio domain", "devices"],
  [{ audio: { host: "x" } }, 'audio.host: "x" is said by the workstation'],
  [{ users: "alice" }, 'users: "alice" is not allowed', "a list of users"],
  [{ users: [] }, "users: [] is not allowed", "leave it out"],
  [users("alice"), 'users[0]: "alice" is not a user', "name", "clients"],
  [users({ clients: [] }), "users[0].name: missing", "alice"],
  [users({ ...alice, name: "Alice B" }), 'users[0].name: "Alice B" is not allowed', "small letters"],
  [users({ ...alice, name: "a".repeat(24) }), "users[0].name", "at most 23"],
  [users({ ...alice, name: "../x\n" }), 'users[0].name: "../x\\n" is not allowed'],
  [users({ name: "alice" }), "users[0].clients: missing", '"default"'],
  [users({ ...alice, colour: "red" }), "users[0].colour: not a property of a user", "label"],
  [users({ ...alice, input: { usb: [] } }), "users[0].input:", "once for all"],
  [users({ ...alice, level: "boss" }), 'users[0].level: "boss" is not allowed', '"kiosk"'],
  [users(alice, { ...bob, level: "kiosk" }), "users[1].apps: level kiosk starts only what is listed"],
  [users(alice, { ...bob, clients: ["play", "b d"] }), 'users[1].clients[1]: "b d" is not a qube\'s name'],
  [users(alice, { ...bob, name: "alice" }), 'users[1].qube: "sys-gui-alice" is there twice'],
  [
    users(alice, { ...bob, clients: ["play", "work"] }),
    'users[1].clients[1]: "work" is not allowed: it is a client of sys-gui-alice already',
  ],
  [
    users({ ...alice, clients: "default" }, { ...bob, clients: "default" }),
    'users[1].clients: "default" is not allowed: it is the word of sys-gui-alice already',
  ],
  [
    users(alice, { ...bob, clients: ["sys-gui-alice"] }),
    'users[1].clients[0]: "sys-gui-alice" is a GUI domain',
  ],
  [
    { display: ["gpu"], users: [alice, bob] },
    'users[1].display: mode "gpu" is not allowed: the screen is that of sys-gui-alice already',
  ],
  [{ clients: ["work"], users: [bob] }, 'clients: ["work"] is one person\'s', '"users"'],
  [{ memory: 7, users: [alice, bob] }, "memory: 7 is not allowed", "from 64"],
];
for (const [value, ...texts] of MALFORMED)
  test(`refused once: ${texts[0]}`, () => {
    const faults = faultsOf(value);
    assert.is(faults.length, 1, faults.join("\n"));
    for (const text of texts) assert.ok(faults[0]?.includes(text), `${faults[0]}\nlacks ${text}`);
  });

test.run();
