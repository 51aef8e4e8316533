// One program for all people of a machine: the owner's GUI domain with a ladder, the sound in a qube of its own, bob at level user, a guest
// and a kiosk. Real engine, plugin, OpenSSH, agent and guard, Salt, twin. Issue 5 "Must show".

import { AudioDomain, GuiDomain, type GuiDomainArgs, Host } from "guidomain";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { startTwin } from "../lab/twin/twin.ts";
import { hostOf, mustIn, scratch, testStack } from "./harness.ts";

const folder = scratch("people");
/** GRUB could not clear the word of an entry that is to be booted once there, so that mode "gpu" is refused by facts. */
const twin = await startTwin({
  dir: `${folder}/twin`,
  machine: "laptop",
  world: { bootDisk: { fs: "ext4", on: "lvm" } },
});
const must = mustIn(twin);
const stdout = async (command: string) => (await twin.exec(command)).stdout.trim();
// As on any host, the network runs; a download by qubes-dom0-update would start it otherwise.
await must(
  "qvm-start sys-firewall",
  "qvm-create --label blue bobs",
  "qvm-create --label red lobby",
  ...["guest-dvm", "lobby-dvm"].flatMap((name) => [
    `qvm-create --label red ${name}`,
    `qvm-prefs ${name} template_for_dispvms True`,
  ]),
);
const pristine = await twin.dump();
/** Its times move with each apply. */
const LEDGER = { ignore: ["files./var/lib/guidomain/ledger.json"] };

/** The second of the laptop's two sound functions sits behind a bridge, beside a display that stays. */
const BEHIND_A_BRIDGE = "00_01.0-00_00.1";
const SOME: Omit<GuiDomainArgs, "host"> = { audiovm: "dom0" };
const everybody = (host: Host) => {
  const sound = new AudioDomain("sys-audio", {
    host,
    devices: { address: BEHIND_A_BRIDGE },
    clients: ["personal", "bobs"],
  });
  const all = {
    "sys-gui": { display: ["gpu", "xephyr"], clients: "default", level: "operator", audiovm: sound.sound },
    "gui-bob": { ...SOME, clients: ["bobs"], level: "user" },
    "gui-guest": { ...SOME, clients: ["guest-dvm"], level: "guest" },
    "gui-lobby": {
      ...SOME,
      clients: ["lobby", "lobby-dvm"],
      level: "kiosk",
      apps: [
        { app: "firefox", disposable: "lobby-dvm" },
        { app: "xterm", qube: "lobby" },
      ],
    },
  } satisfies Record<string, Omit<GuiDomainArgs, "host">>;
  const domains = Object.entries(all).map(([name, args]) => new GuiDomain(name, { host, ...args }));
  return {
    sound: sound.sound,
    modes: domains.map(({ mode }) => mode),
    states: domains.map(({ state }) => state),
  };
};
const program: (host: Host) => Record<string, unknown> = everybody;
const stack = await testStack("people", folder, { lab: hostOf(twin) }, async () => program(new Host("lab")));
/** The stack, the host, the sound, four GUI domains, the provider. */
const SAME = { same: 7 };

test("a preview of the first up writes nothing", async () => {
  const preview = await stack.preview();
  assert.ok(preview.ok, preview.output);
  assert.equal(twin.compare(pristine, await twin.dump()), []);
});

test("up: each has what the program says, the owner by the rung that this machine allows", async () => {
  const up = await stack.up();
  assert.ok(up.ok, up.output);
  const { sound, modes, states } = up.outputs;
  assert.equal(
    [sound, modes, states],
    ["sys-audio", ["xephyr", "xephyr", "xephyr", "xephyr"], ["ready", "ready", "ready", "ready"]],
    up.output,
  );
  assert.match(up.output, /GUI domain sys-gui is in mode "xephyr", not "gpu": .*GRUB cannot clear/);
  assert.match(await stdout("xl pci-list sys-audio"), /0000:01:00\.1$/);
  assert.is(await stdout("qubes-prefs default_guivm"), "sys-gui");
  assert.equal(
    [
      await stdout("qvm-prefs bobs guivm"),
      await stdout("qvm-prefs bobs audiovm"),
      await stdout("qvm-prefs sys-gui audiovm"),
    ],
    ["gui-bob", "sys-audio", "sys-audio"],
  );
  assert.is((await twin.exec("qubes-policy-lint /etc/qubes/policy.d/*.policy")).code, 0);
});

const may = async (question: string) =>
  (await twin.exec(`qrexec-policy-exec --just-evaluate --assume-yes-for-ask ${question} 2>/dev/null`))
    .code === 0;
const RIGHTS: [who: string, allowed: string[], denied: string[]][] = [
  [
    "the owner",
    ["sys-gui personal qubes.StartApp+xterm", "sys-gui personal admin.vm.property.Set+memory"],
    ["sys-gui bobs qubes.StartApp+xterm", "sys-gui bobs admin.vm.List", "sys-gui personal qubes.VMShell"],
  ],
  [
    "bob",
    ["gui-bob bobs qubes.StartApp+xterm", "gui-bob bobs admin.vm.Start"],
    [
      "gui-bob personal qubes.StartApp+xterm",
      "gui-bob bobs admin.vm.property.Set+memory",
      "bobs personal qubes.Filecopy",
    ],
  ],
  [
    "the guest: disposables, not qubes",
    ["gui-guest @dispvm:guest-dvm qubes.StartApp+firefox"],
    [
      "gui-guest guest-dvm qubes.StartApp+firefox",
      "gui-guest dom0 admin.vm.Create.AppVM+fedora-43-xfce",
      "gui-guest @dispvm:default-dvm qubes.StartApp+firefox",
    ],
  ],
  [
    "the kiosk: its list",
    ["gui-lobby lobby qubes.StartApp+xterm", "gui-lobby @dispvm:lobby-dvm qubes.StartApp+firefox"],
    [
      "gui-lobby lobby qubes.StartApp+firefox",
      "gui-lobby lobby admin.vm.Shutdown",
      "lobby bobs qubes.Filecopy",
    ],
  ],
  [
    "the sound",
    ["sys-audio bobs admin.vm.property.Get+xid", "sys-audio dom0 admin.Events"],
    [
      "sys-audio bobs qubes.VMShell",
      "sys-audio bobs admin.vm.Start",
      "sys-audio vault admin.vm.property.Get+xid",
    ],
  ],
];
async function rights(): Promise<void> {
  for (const [who, allowed, denied] of RIGHTS) {
    for (const question of allowed) assert.is(await may(question), true, `${who}: denied: ${question}`);
    for (const question of denied) assert.is(await may(question), false, `${who}: allowed: ${question}`);
  }
}
test("each may what the level says, and no more, as the host's own policy answers", rights);

test("no change, and nothing written", async () => {
  const before = await twin.dump();
  const preview = await stack.preview();
  assert.equal(preview.changes, SAME, preview.output);
  assert.equal(twin.compare(before, await twin.dump()), []);
});

const file = (name: string) => `/etc/qubes/policy.d/${name}.policy`;
const DRIFT: Record<string, [command: string, path: string][]> = {
  "sys-gui": [
    ["qubes-prefs default_guivm dom0", "settings.globals.default_guivm"],
    ["qvm-prefs sys-gui maxmem 3000", "settings.properties.maxmem"],
  ],
  "sys-audio": [
    ["qvm-prefs bobs audiovm dom0", "settings.audioClients.bobs"],
    [`rm ${file("40-audio-sys-audio")}`, `settings.files["${file("40-audio-sys-audio")}"]`],
  ],
  "gui-bob": [
    [`rm ${file("46-level-gui-bob")}`, `settings.files["${file("46-level-gui-bob")}"]`],
    ["qvm-prefs bobs guivm sys-gui", "settings.clients.bobs"],
  ],
  "gui-guest": [
    ["qvm-features --unset gui-guest set-created-guivm", "settings.features.set-created-guivm"],
    ["qvm-prefs gui-guest autostart False", "settings.properties.autostart"],
  ],
  "gui-lobby": [
    [
      `sed -i '1i qubes.StartApp * gui-lobby lobby allow' ${file("46-level-gui-lobby")}`,
      `settings.files["${file("46-level-gui-lobby")}"]`,
    ],
  ],
};
for (const [name, parts] of Object.entries(DRIFT))
  test(`drift of ${name} shows as exactly that, and is repaired`, async () => {
    const good = await twin.dump();
    await must(...parts.map(([command]) => command));
    const preview = await stack.preview();
    assert.equal(preview.diffs[name], parts.map(([, path]) => path).sort(), preview.output);
    const up = await stack.up();
    assert.ok(up.ok, up.output);
    // Whoever came first did not know all the others yet, whose files said it; a file that is written anew says it as well.
    const levels = Object.keys(DRIFT).flatMap((each) => [
      `files.${file(`46-level-${each}`)}`,
      `files./srv/user_salt/guidomain/${each}/files`,
    ]);
    const ignore = [...LEDGER.ignore, ...levels];
    assert.equal(twin.compare(good, await twin.dump(), { ignore }), []);
    await rights();
    const again = await stack.preview();
    assert.equal(again.changes, SAME, again.output);
  });

test("destroy: back to the start", async () => {
  const destroy = await stack.destroy();
  assert.ok(destroy.ok, destroy.output);
  assert.equal(twin.compare(pristine, await twin.dump()), []);
});

test.run();
