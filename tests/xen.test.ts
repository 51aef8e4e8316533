/**
 * Plain Xen on real parts: engine, plugin, OpenSSH, agent and guard, Salt, and the twin as a Debian dom0. The same is shown on a real Xen by
 * tests/xenLadder, xenFallback and xenTrial (`npm run test:xen`). Issue 7.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { AudioDomain, GuiDomain, type GuiDomainArgs, Host, PciAttachment } from "guidomain";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { startTwin } from "../lab/twin/twin.ts";
import { KERNEL } from "../lab/xen/guest.ts";
import { DEVICES } from "../lab/xen/qemu.ts";
import { hostOf, mustIn, type Outcome, scratch, testStack } from "./harness.ts";
import { attemptsOf, rungs, GUEST as UNPACKED_GUEST } from "./xenLab.ts";

const folder = scratch("plain-xen");
const twin = await startTwin({ dir: `${folder}/twin`, platform: "xen" });
const must = mustIn(twin);
const pristine = await twin.dump();
/** GRUB itself leaves the empty word of an entry that it has booted once; X and systemd keep what is of this boot in /run. */
const BOOTED = { ignore: ["files./boot/grub/grubenv", "files./run/X", "files./run/systemd/transient"] };
const GUEST = { ...UNPACKED_GUEST, kernel: KERNEL, reports: ["pci", "screen"] as ("pci" | "screen")[] };
const GPU = { display: ["gpu", "xephyr"] as ("gpu" | "xephyr")[], gpu: { address: DEVICES.secondCard } };

let gui: Partial<GuiDomainArgs> | null = null;
let sound = false;
let usb = false;
const stack = await testStack("plain-xen", folder, { lab: hostOf(twin) }, async () => {
  const host = new Host("lab");
  const made = gui && new GuiDomain("sys-gui", { host, domain: GUEST, memory: 192, ...gui });
  const audio =
    sound &&
    new AudioDomain("sys-audio", { host, domain: GUEST, memory: 128, devices: { address: DEVICES.audio } });
  if (usb && made)
    new PciAttachment("usb", { host, qube: made.qube, device: { address: DEVICES.secondUsb } });
  return {
    platform: host.platform,
    release: host.release,
    modes: host.modes,
    ...(made && { mode: made.mode, state: made.state, attempts: made.attempts, endpoint: made.endpoint }),
    ...(audio && { sound: audio.sound, soundState: audio.state }),
  };
});

async function up(more: Partial<GuiDomainArgs> | null): Promise<Outcome> {
  gui = more;
  const done = await stack.up();
  assert.ok(done.ok, done.output);
  return done;
}
async function settled() {
  const preview = await stack.preview();
  assert.ok(preview.ok, preview.output);
  assert.equal(Object.keys(preview.changes), ["same"], preview.output);
}
const modeOf = ({ outputs }: Outcome) => [outputs["mode"], outputs["state"]];

test("the facts of the host; a preview leaves nothing there", async () => {
  gui = { ...GPU, reboot: "allowed" };
  const preview = await stack.preview();
  assert.ok(preview.ok, preview.output);
  assert.equal(twin.compare(pristine, await twin.dump()), []);
  const { outputs } = await up(null);
  assert.equal([outputs["platform"], outputs["release"]], ["xen", "Debian GNU/Linux 12 (bookworm)"]);
  const modes = outputs["modes"] as Record<string, { verdict: string }>;
  assert.equal([modes["xephyr"]?.verdict, modes["vnc"]?.verdict, modes["rdp"]?.verdict], ["go", "go", "no"]);
});

test("xephyr: dom0's session shows the framebuffer of the domain", async () => {
  const done = await up({ display: ["xephyr"], session: "autologin", sessionUser: "user" });
  assert.equal(modeOf(done), ["xephyr", "ready"]);
  await settled();
  await must("systemctl restart lightdm");
  for (let i = 0; i < 240 && !(await twin.screen()).shows?.endsWith("framebuffer of sys-gui"); i++)
    await sleep(250);
  assert.is((await twin.screen()).shows, "Xephyr with the framebuffer of sys-gui");
  await stack.refresh();
  assert.is((await stack.resource("sys-gui")).outputs["state"], "inUse");
});

test("what was changed by hand shows and is put right; nothing else of the file is touched", async () => {
  await must("printf '# mine\\non_crash = \"preserve\"\\n' >> /etc/xen/sys-gui.cfg");
  await must("sed -i 's/^memory = .*/memory = 256/' /etc/xen/sys-gui.cfg");
  const drift = await stack.preview();
  assert.equal(drift.diffs["sys-gui"], ["settings.properties.memory"], drift.output);
  await up(gui);
  const { stdout } = await twin.exec("cat /etc/xen/sys-gui.cfg");
  assert.match(stdout, /^# mine\non_crash = "preserve"$/m);
  await settled();
});

test("somebody's session is not ended for a change of its framebuffer; without one the domain starts anew", async () => {
  const xephyr = { display: ["xephyr" as const], session: "autologin" as const, sessionUser: "user" };
  gui = { ...xephyr, domain: { ...GUEST, display: 6 } };
  const refused = await stack.up();
  assert.not.ok(refused.ok);
  assert.match(refused.output, /somebody is in its session.*Nothing is ever stopped for you/s);
  await must("systemctl stop lightdm");
  assert.equal(modeOf(await up(gui)), ["xephyr", "ready"]);
  const done = await up({ display: ["vnc"] });
  assert.equal(modeOf(done), ["vnc", "ready"]);
  assert.equal((done.outputs["endpoint"] as { port: number }).port, 5905);
  await settled();
  await must("systemctl start lightdm");
});

test("sound and a USB controller are given up by dom0 at once, and come back", async () => {
  sound = true;
  usb = true;
  const { outputs } = await up(gui);
  assert.equal([outputs["sound"], outputs["soundState"]], ["sys-audio", "ready"]);
  await settled();
  const driver = async (sbdf: string) =>
    (await twin.exec(`basename $(readlink /sys/bus/pci/devices/${sbdf}/driver)`)).stdout.trim();
  assert.equal([await driver(DEVICES.audio), await driver(DEVICES.secondUsb)], ["pciback", "pciback"]);
  sound = false;
  usb = false;
  await up(gui);
  assert.equal([await driver(DEVICES.audio), await driver(DEVICES.secondUsb)], ["snd_hda_intel", "xhci_hcd"]);
  await settled();
});

test("gpu: the card in a boot of its own, confirmed, and up again after each boot", async () => {
  const done = await up({ ...GPU, reboot: "allowed" });
  assert.equal(modeOf(done), ["gpu", "ready"], JSON.stringify(attemptsOf(done.outputs)));
  assert.equal(rungs(done.outputs), ["gpu ok", "xephyr skipped"]);
  await settled();
  await twin.reboot();
  const shown = async () => (await twin.screen()).displays?.[DEVICES.secondCard]?.domain;
  for (let i = 0; i < 240 && (await shown()) !== "sys-gui"; i++) await sleep(500);
  assert.is(await shown(), "sys-gui");
  await settled();
});

test("destroy: dom0 has its screen, and nothing of ours is left", async () => {
  const gone = await stack.destroy();
  assert.ok(gone.ok, gone.output);
  assert.equal(twin.compare(pristine, await twin.dump(), BOOTED), []);
  assert.is((await twin.screen()).usable, true);
  assert.is((await twin.exec("systemctl is-active guidomain-watchdog")).code, 3);
});

test("xl refuses the card in its trial: its own words are the reason, and the compromise comes up", async () => {
  await twin.world({ faults: { refuseAssign: true } });
  const done = await up({ ...GPU, reboot: "allowed" });
  assert.equal(modeOf(done), ["xephyr", "ready"]);
  assert.equal(rungs(done.outputs), ["gpu failed", "xephyr ok"]);
  assert.match(attemptsOf(done.outputs)[0]?.reason ?? "", /xc_assign_device failed/);
  assert.is((await twin.screen()).usable, true);
  await settled();
});

test("a domain that was there is adopted, and every byte of its configuration comes back", async () => {
  const gone = await stack.destroy();
  assert.ok(gone.ok, gone.output);
  await twin.world({ faults: { refuseAssign: false } });
  const own = `# mine\nname = 'own' # by hand\ntype = "pv"\nkernel = "${GUEST.kernel}"\nramdisk = "${GUEST.ramdisk}"\nmemory = 100\ndisk = [ ]\n`;
  await must(`cat > /etc/xen/own.cfg <<'END'\n${own}END`);
  const before = await twin.dump();
  const { outputs } = await up({
    qube: "own",
    display: ["vnc"],
    domain: { type: "pv", reports: ["screen"] },
  });
  assert.equal([outputs["mode"], outputs["state"]], ["vnc", "ready"]);
  assert.is((await stack.resource("sys-gui")).outputs["origin"], "adopted");
  await settled();
  // It runs by now, and was there before guidomain: it is not stopped for a change of its mode.
  gui = { qube: "own", display: ["xephyr"], domain: { type: "pv", reports: ["screen"], display: 6 } };
  const refused = await stack.up();
  assert.match(refused.output, /was there before guidomain.*Shut it down \(xl shutdown own\)/s);
  await must("xl destroy own");
  const back = await stack.destroy();
  assert.ok(back.ok, back.output);
  assert.equal(twin.compare(before, await twin.dump(), BOOTED), []);
  await must("rm /etc/xen/own.cfg");
});

test("what has no meaning on plain Xen is refused before anything is touched", async () => {
  const before = await twin.dump();
  gui = { clients: "default", level: "user" };
  const refused = await stack.preview();
  assert.not.ok(refused.ok);
  assert.match(refused.output, /clients.*no meaning on plain Xen.*shows itself alone/s);
  assert.match(refused.output, /level.*no qrexec policy/s);
  assert.equal(twin.compare(before, await twin.dump()), []);
});

test.run();
