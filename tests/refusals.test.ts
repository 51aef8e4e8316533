// Bad input of issues 4 and 5, each read as the person reads it, in the preview and in a run without one, on the real engine; and dom0 after
// it, byte for byte as it was. Those of a device outside any ladder are in attachment.test.ts, a machine without an IOMMU in ladder.test.ts.

import { AudioDomain, GuiDomain, type GuiDomainArgs, Host, PciAttachment } from "guidomain";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { startTwin, type Twin } from "../lab/twin/twin.ts";
import { fixture, type Machine } from "../lab/twin/world.ts";
import { hostOf, scratch, testStack } from "./harness.ts";

const folder = scratch("refusals");
const twin = await startTwin({ dir: `${folder}/twin` });
const laptop = fixture<Machine>("machines", "laptop");

let program = (_host: Host): unknown => undefined;
let runs = ["preview", "up"] as ("preview" | "up")[];
const stack = await testStack("refusals", folder, { lab: hostOf(twin) }, async () => {
  program(new Host("lab"));
  return {};
});

async function refused(on: Twin, ...words: RegExp[]): Promise<void> {
  const before = await on.dump();
  for (const run of runs) {
    const { ok, errors, output } = await stack[run]();
    assert.not(ok, output);
    for (const word of words) assert.match(errors.join("\n"), word);
  }
  assert.equal(on.compare(before, await on.dump()), []);
}
const gui = (args: Omit<GuiDomainArgs, "host">) => (host: Host) =>
  new GuiDomain("sys-gui", { host, ...args });
const gpu = (args: Omit<GuiDomainArgs, "host"> = {}) => gui({ display: ["gpu"], reboot: "allowed", ...args });

const MODE = /GUI domain sys-gui on host lab: mode "gpu": .*Nothing was changed on the host\./;
const CASES: [string, (host: Host) => unknown, RegExp[], string?][] = [
  [
    "unknown device",
    gpu({ gpu: { vendor: "1234" } }),
    [MODE, /no device of this machine is \{ vendor: "1234" \}/],
  ],
  [
    "two matches",
    gpu({ gpu: { class: "display" } }),
    [MODE, /names 2 devices where one is meant: .*00_02\.0.*00_01\.0-00_00\.0/],
  ],
  [
    "a bridge",
    gpu({ gpu: { address: "00_01.0" } }),
    [MODE, /\(bridge 8086:1901 at 00_01\.0\).* not a display/],
  ],
  [
    "a network card",
    gpu({ gpu: { address: "00_1f.6" } }),
    [MODE, /\(network card 8086:0d4f at 00_1f\.6\).* not a display/],
  ],
  [
    "memory below what the mode needs",
    gpu({ memory: 1000 }),
    [/memory/, /1000 MiB is below what mode "gpu" needs/, /2000 MiB/],
  ],
  [
    "a ladder without a rung",
    gui({ display: [] }),
    [/display/, /\[\] is not allowed/, /"gpu", "xephyr", "vnc"/],
  ],
  ["a ladder of nothing but dom0", gui({ display: ["dom0"] }), [/\["dom0"\] asks for no GUI domain at all/]],
  [
    "pvh with PCI",
    gui({ display: ["xephyr"] }),
    [
      /GUI domain sys-gui on host lab: qube "sys-gui" has PCI devices assigned .*cannot be of virt_mode pvh as mode "xephyr" needs/,
      /Nothing was changed on the host\. .*qvm-pci unassign sys-gui/,
    ],
    "qvm-create --label black sys-gui && qvm-pci assign -r sys-gui dom0:00_1f.3",
  ],
];
CASES.push(
  [
    "a guest with an admin's rule on top",
    gui({
      clients: ["personal"],
      level: "guest",
      rules: [
        "qubes.Filecopy * sys-gui personal ask",
        "admin.vm.property.Set +kernel sys-gui @tag:guivm-sys-gui allow target=dom0",
      ],
    }),
    [
      /rules\[1\]/,
      /admin\.vm\.property\.Set\+kernel is for admins \(.*\), and sys-gui is at level guest; take the rule out/,
    ],
  ],
  [
    "a guest with a rule that makes qubes",
    gui({ level: "guest", rules: ["admin.vm.Create.AppVM * sys-gui dom0 allow"] }),
    [/rules\[0\]/, /admin\.vm\.Create\.AppVM is an admin right, and sys-gui is at level guest/],
  ],
);
for (const [name, asked, words, byHand = "true"] of CASES)
  test(`refused, nothing touched: ${name}`, async () => {
    const { code, stderr } = await twin.exec(byHand);
    assert.is(code, 0, stderr);
    program = asked;
    await refused(twin, ...words);
  });

/** Two of one kind that want the same; which of them comes first is the engine's business. */
const two = (make: (name: string, host: Host) => unknown) => (host: Host) =>
  ["gui-alice", "gui-bob"].map((name) => make(name, host));
const EITHER = "(gui-alice|gui-bob)";
const PAIRS: [string, (host: Host) => unknown, RegExp][] = [
  [
    "two GUI domains for one qube",
    two((name, host) => new GuiDomain(name, { host, clients: ["personal"] })),
    new RegExp(
      `GUI domain ${EITHER} on host lab: the GUI domain of "personal" is claimed by GuiDomain "${EITHER}" .* as well\\. ` +
        "Nothing was changed on the host\\. One of the two must let go of it; a qube has exactly one GUI domain",
    ),
  ],
  [
    "two audio domains for one qube",
    two((name, host) => new AudioDomain(name, { host, devices: [], clients: ["personal"] })),
    new RegExp(
      `Audio domain ${EITHER} on host lab: the audio domain of "personal" is claimed by AudioDomain "${EITHER}" .* as well\\. ` +
        "Nothing was changed on the host\\. .*a qube has exactly one audio domain",
    ),
  ],
];
for (const [name, asked, words] of PAIRS)
  test(`refused in the preview, nothing touched: ${name}`, async () => {
    program = asked;
    runs = ["preview"]; // which is where a person reads it; a run without one would make the first of the two
    await refused(twin, words);
    runs = ["preview", "up"];
  });

test("refused, nothing touched: no keyboard would reach the GUI domain, or the only one would leave dom0", async () => {
  await twin.reset({ machine: { ...laptop, inputs: [] } });
  program = gpu();
  await refused(twin, MODE, /no keyboard would reach it: dom0 has none/);
  const keyboard = { name: "USB Keyboard", kind: "keyboard" as const, at: "0000:00:14.0" };
  await twin.reset({ machine: { ...laptop, inputs: [keyboard] } });
  program = (host) => new PciAttachment("usb", { host, qube: "personal", device: { address: "00_14.0" } });
  await refused(
    twin,
    /PCI attachment .* on host lab: the only keyboard hangs on .*00_14\.0.*Nothing was changed/,
  );
});

test("refused, nothing touched: a host that cannot boot an entry once", async () => {
  const other = await startTwin({
    dir: `${folder}/lvm`,
    world: { bootDisk: { fs: "ext4", on: "lvm" } },
  });
  await stack.hosts({ lab: hostOf(other) });
  program = gpu();
  await refused(
    other,
    MODE,
    /the host cannot boot an entry once and come back by itself: .* made by lvm, where GRUB cannot clear/,
  );
});

test.run();
