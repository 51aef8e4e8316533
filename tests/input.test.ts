// Input devices of a USB qube on real parts: engine, plugin, OpenSSH, agent, Salt. What reaches the screen the twin computes from its own
// evaluation of dom0's policy. Issue 5, point 3.

import { GuiDomain, type GuiDomainArgs, Host } from "guidomain";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { startTwin } from "../lab/twin/twin.ts";
import { fixture, type Machine } from "../lab/twin/world.ts";
import { hostOf, scratch, testStack } from "./harness.ts";

const folder = scratch("input");
const USB = "0000:00:14.0";
/** Its only keyboard and its mouse hang on the controller of sys-usb. */
const machine: Machine = {
  ...fixture<Machine>("machines", "laptop"),
  inputs: [
    { name: "USB Keyboard", kind: "keyboard", at: USB },
    { name: "USB Mouse", kind: "mouse", at: USB },
  ],
};
const twin = await startTwin({ dir: `${folder}/twin`, machine });
const POLICY = "/etc/qubes/policy.d";
const byHand = async (command: string) => {
  const { code, stderr } = await twin.exec(command);
  assert.is(code, 0, stderr);
};
await byHand(
  `qubes-dom0-update -y qubes-input-proxy > /dev/null 2>&1
   printf 'qubes.InputMouse * sys-usb dom0 ask default_target=dom0\\nqubes.InputKeyboard * sys-usb dom0 allow\\n' > ${POLICY}/50-config-input.policy
   qvm-create --label red --prop virt_mode=hvm --prop autostart=True sys-usb
   qvm-pci assign --required -o no-strict-reset=true sys-usb dom0:00_14.0 && qvm-start sys-usb`,
);
const pristine = await twin.dump();
const BOOTED = {
  ignore: [
    "files./boot/grub2/grubenv",
    ...["sys-net", "sys-firewall", "sys-usb"].map((name) => `qubes.qubes.${name}`),
  ],
};

let args: Partial<GuiDomainArgs> = {};
const stack = await testStack("input", folder, { lab: hostOf(twin) }, async () => {
  const gui = new GuiDomain("sys-gui", { host: new Host("lab"), ...args });
  return { mode: gui.mode, state: gui.state };
});
async function up(more: Partial<GuiDomainArgs>) {
  args = more;
  const done = await stack.up();
  assert.ok(done.ok, done.output);
  const preview = await stack.preview();
  assert.equal(preview.changes, { same: 3 }, preview.output);
  return done.outputs;
}
async function refused(more: Partial<GuiDomainArgs>, word: RegExp) {
  args = more;
  const before = await twin.dump();
  for (const run of [stack.preview, stack.up]) {
    const { ok, errors, output } = await run();
    assert.not(ok, output);
    assert.match(errors.join("\n"), word);
    assert.match(errors.join("\n"), /Nothing was changed on the host/);
  }
  assert.equal(twin.compare(before, await twin.dump()), []);
}
const reaches = async () => {
  const { drivenBy, keyboards, usable, why } = await twin.screen();
  return { drivenBy, keyboards, usable, why };
};
const IN_DOM0 = {
  drivenBy: "dom0 (lightdm)",
  keyboards: [`usb:${USB}`],
  usable: true,
  why: "dom0's greeter or desktop is on it",
};

test("refused, nothing touched: the only keyboard shut out, or asked for with nobody who could answer", async () => {
  assert.equal(await reaches(), IN_DOM0);
  for (const keyboard of ["ask", "deny"] as const)
    await refused(
      { input: { usb: [{ keyboard }] } },
      new RegExp(
        `GUI domain sys-gui on host lab: no keyboard would reach dom0's greeter: dom0 has none, and input\\.usb\\[0\\]\\.keyboard: "${keyboard}" .*allowed here is "allow"`,
      ),
    );
  await refused(
    { input: { usb: [{ qube: "usb", keyboard: "ask" }] } },
    /input\.usb\[0\]\.qube: qube "usb" does not exist there; those with USB controllers are: "sys-usb"/,
  );
});

test("one keyboard by what it is and no other; drift is shown and repaired; destroy gives back", async () => {
  const device = "usb-0000_00_14.0-1+3-1-1-ab41";
  await up({
    input: { usb: [{ keyboard: "deny", mouse: "allow", devices: [{ device, keyboard: "allow" }] }] },
  });
  assert.equal(await reaches(), IN_DOM0);
  const asks = async (call: string) =>
    (await twin.exec(`qrexec-policy-exec --just-evaluate sys-usb dom0 ${call}`)).code;
  assert.equal(
    [await asks(`qubes.InputKeyboard+${device}`), await asks("qubes.InputKeyboard+3-1-2-3")],
    [0, 1],
  );
  assert.is(await asks("qubes.InputMouse+3-1-2-3"), 0);
  // By hand the line of that keyboard goes, and with it the keyboard: what the twin sees follows from the policy.
  await byHand(`sed -i /${device}/d ${POLICY}/45-gui-sys-gui.policy`);
  assert.is((await reaches()).usable, false);
  const drift = await stack.preview();
  assert.equal(drift.diffs["sys-gui"], [`settings.files["${POLICY}/45-gui-sys-gui.policy"]`], drift.output);
  const again = await stack.up();
  assert.ok(again.ok, again.output);
  assert.equal(await reaches(), IN_DOM0);
  const destroy = await stack.destroy();
  assert.ok(destroy.ok, destroy.output);
  assert.equal(twin.compare(pristine, await twin.dump(), BOOTED), []);
});

test("mode gpu: the keyboard of the USB qube goes to the GUI domain; without it the mode is refused", async () => {
  const gpu: Partial<GuiDomainArgs> = { display: ["gpu"], reboot: "allowed", clients: "default" };
  await refused(
    { ...gpu, input: { usb: [{ keyboard: "ask" }] } },
    /mode "gpu": no keyboard would reach it: dom0 has none, and input\.usb\[0\]\.keyboard: "ask" is a question that nobody can answer/,
  );
  const outputs = await up({ ...gpu, input: { usb: [{ keyboard: "allow", mouse: "allow" }] } });
  assert.equal([outputs["mode"], outputs["state"]], ["gpu", "ready"]);
  const { why, ...seen } = await reaches();
  assert.equal(seen, { drivenBy: "sys-gui", keyboards: [`usb:${USB}`], usable: true }, why);
  await byHand(`sed -i /InputKeyboard/d ${POLICY}/45-gui-sys-gui.policy`);
  assert.is((await reaches()).why, "no keyboard reaches sys-gui");
  await up({ ...gpu, input: { usb: [{ keyboard: "allow", mouse: "allow" }] } });
  assert.is((await reaches()).usable, true);
  const destroy = await stack.destroy();
  assert.ok(destroy.ok, destroy.output);
  assert.equal(await reaches(), IN_DOM0);
  assert.equal(twin.compare(pristine, await twin.dump(), BOOTED), []);
});

test.run();
