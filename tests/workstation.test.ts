// A machine of two people from an inventory file alone, on real parts: the stack workstation as it is, engine, plugin, OpenSSH, agent, Salt.
// Issue 5, point 4.

import { writeFileSync } from "node:fs";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { stringify } from "yaml";
import { startTwin } from "../lab/twin/twin.ts";
import { hostOf, ROOT, scratch, testStack } from "./harness.ts";

const folder = scratch("workstation");
const twin = await startTwin({ dir: `${folder}/twin`, machine: "laptop" });
const made = await twin.exec(
  `qubes-dom0-update -y qubes-input-proxy > /dev/null 2>&1; qvm-start sys-firewall
   qvm-create --label red --prop virt_mode=hvm --prop autostart=True sys-usb && qvm-features sys-usb servicevm 1
   qvm-pci assign --required -o no-strict-reset=true sys-usb dom0:00_14.0 && qvm-start sys-usb`,
);
assert.is(made.code, 0, made.stderr);
const pristine = await twin.dump();
/** dom0's driver comes back to the sound card at the next boot only. */
const AFTER = { ignore: ["files./var/lib/guidomain/ledger.json"] };

const file = `${folder}/inventory.yaml`;
const describe = (workstation: unknown) =>
  writeFileSync(file, stringify({ hosts: { lab: hostOf(twin) }, workstations: { lab: workstation } }));
const WORKSTATION = {
  input: { usb: [{ mouse: "allow", keyboard: "deny" }] },
  users: [
    { name: "alice", clients: ["personal"], level: "operator" },
    { name: "bob", clients: ["vault"] },
  ],
};
describe(WORKSTATION);
const stack = await testStack("workstation", folder, {}, `${ROOT}/stacks/index.ts`);
await stack.stack.setConfig("guidomain:inventory", { value: file });

const BAD: [string, unknown, RegExp[]][] = [
  [
    "a level that there is none of, and a mode",
    { ...WORKSTATION, display: ["x11"], users: [{ ...WORKSTATION.users[0], level: "root" }] },
    [
      /workstations\.lab\.display\[0\]: "x11" is not a display mode; allowed are "gpu", "xephyr", "vnc"/,
      /workstations\.lab\.users\[0\]\.level: "root" is not allowed; allowed are "admin", "operator", "user", "guest", "kiosk"/,
    ],
  ],
  [
    "a qube that two people want",
    { users: [...WORKSTATION.users, { name: "carol", clients: ["personal"] }] },
    [
      /workstations\.lab\.users\[2\]\.clients\[0\]: "personal" is not allowed: it is a client of sys-gui-alice already/,
    ],
  ],
  [
    "a word too many",
    { ...WORKSTATION, sound: true },
    [/workstations\.lab\.sound: not a property of a workstation; allowed are .*audio/],
  ],
];
for (const [what, workstation, words] of BAD)
  test(`a bad inventory is refused before anything is touched: ${what}`, async () => {
    describe(workstation);
    for (const run of [stack.preview, stack.up]) {
      const { ok, output } = await run();
      assert.not(ok, output);
      for (const word of words) assert.match(output, word);
      assert.match(output, /nothing was touched/);
    }
    assert.equal(twin.compare(pristine, await twin.dump()), []);
  });

const says = async (command: string) => (await twin.exec(command)).stdout.trim();

test("up: a GUI domain each, sound for all, input; a preview right after shows nothing", async () => {
  describe(WORKSTATION);
  const up = await stack.up();
  assert.ok(up.ok, up.output);
  assert.equal(
    [
      await says("qvm-prefs personal guivm"),
      await says("qvm-prefs vault guivm"),
      await says("qubes-prefs default_audiovm"),
      await says("qvm-prefs sys-gui-bob audiovm"),
    ],
    ["sys-gui-alice", "sys-gui-bob", "sys-audio", "sys-audio"],
  );
  for (const [name, level] of [
    ["sys-gui-alice", "operator"],
    ["sys-gui-bob", "user"],
  ]) {
    const { outputs } = await stack.resource(`lab-${name}`);
    assert.equal([outputs["mode"], outputs["state"], outputs["level"]], ["xephyr", "ready", level]);
  }
  const asks = async (...call: string[]) =>
    (await twin.exec(`qrexec-policy-exec --just-evaluate ${call.join(" ")}`)).code;
  assert.equal(
    [
      await asks("sys-usb", "dom0", "qubes.InputMouse"),
      await asks("sys-usb", "dom0", "qubes.InputKeyboard"),
      await asks("sys-gui-alice", "personal", "admin.vm.Kill"),
      await asks("sys-gui-bob", "vault", "admin.vm.Kill"),
      await asks("sys-gui-bob", "personal", "qubes.StartApp+xterm"),
    ],
    [0, 1, 0, 1, 1],
  );
  const before = await twin.dump();
  const preview = await stack.preview();
  assert.ok(preview.ok, preview.output);
  assert.equal(Object.keys(preview.changes), ["same"], preview.output);
  assert.equal(twin.compare(before, await twin.dump()), []);
});

test("one person leaves: what was theirs goes back, the others stay as they are; destroy gives back all", async () => {
  describe({ ...WORKSTATION, users: WORKSTATION.users.slice(0, 1) });
  const up = await stack.up();
  assert.ok(up.ok, up.output);
  assert.equal(
    [await says("qvm-prefs vault guivm"), await says("qvm-prefs personal guivm")],
    ["dom0", "sys-gui-alice"],
  );
  assert.is((await twin.exec("qvm-check -q sys-gui-bob")).code, 1);
  const destroy = await stack.destroy();
  assert.ok(destroy.ok, destroy.output);
  assert.equal(twin.compare(pristine, await twin.dump(), AFTER), []);
});

test.run();
