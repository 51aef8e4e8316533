/** A GUI domain of plain Xen as a plan: its values, its formulas, its verdict, its checks, and what is refused. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import { parse } from "yaml";
import { audioSettingsOf } from "../../formula/audioSettings.ts";
import { devicesFormulaOf, formulaOf } from "../../formula/formula.ts";
import { settingsOf } from "../../formula/settings.ts";
import type { Facts, QubeSnapshot, Snapshot } from "../../host/protocol.ts";
import { parseAudioDomain } from "../../model/audioDomain.ts";
import { factsWith, snapshotWith } from "../../pci/testing/profile.ts";
import { verdictGpu } from "../../pci/verdict.ts";
import { planApply } from "../changes.ts";
import { judgeGpu } from "../gpu.ts";
import { inForce, preflight, startsAnew } from "../preflight.ts";
import { decide } from "../rungs.ts";
import { guiOf } from "../testing/cases.ts";
import { display } from "../testing/hostModel.ts";
import { screenChecks, verificationsOf } from "../verify.ts";

const PV = { type: "pv", kernel: "/boot/guest", ramdisk: "/boot/guest.img", reports: ["pci", "screen"] };
const CARD = "0000:02:00.0";
const card = display({
  sbdf: CARD,
  port: "0000_02_00.0",
  vendor: "1234",
  device: "1111",
  bootVga: false,
  reset: ["flr"],
  outputs: [{ name: "card1-Virtual-1", connected: true, enabled: true }],
});
const xen = (more: Partial<Facts> = {}): Facts =>
  factsWith([display({ port: "0000_00_02.0", driver: "bochs-drm" }), card], {
    platform: "xen",
    qubesRelease: null,
    release: "Debian GNU/Linux 12 (bookworm)",
    ...more,
  });
const domain = (more: Partial<QubeSnapshot> = {}): QubeSnapshot => ({
  class: "Domain",
  state: "Halted",
  properties: { type: { default: false, value: "pv" } },
  features: {},
  tags: [],
  pci: [],
  guidRunning: false,
  session: false,
  ...more,
});
const host = (qubes: Record<string, QubeSnapshot> = {}, facts: Partial<Facts> = {}): Snapshot =>
  snapshotWith(xen(facts), qubes);
const gui = (args: Record<string, unknown> = {}) =>
  guiOf("sys-gui", {
    host: "lab",
    display: ["gpu", "xephyr"],
    gpu: { address: CARD },
    domain: PV,
    memory: 192,
    ...args,
  });
const grant = judgeGpu(gui(), host(), false).grant;
const states = (text: string) => {
  assert.ok(text.startsWith("#!yaml\n"));
  return parse(text) as Record<string, Record<string, unknown>>;
};
const refusal = (work: () => unknown): string => {
  try {
    work();
  } catch (error) {
    return (error as Error).message;
  }
  return "nothing was refused";
};

test("mode gpu: the card by its place, the boot's words, and a greeter that stays away in that boot alone", () => {
  const settings = settingsOf(gui(), "gpu", grant);
  assert.equal(settings.devices, {
    "0x1234:0x1111::p030000": { port: "0000_02_00.0", options: { permissive: "True" } },
  });
  assert.equal(Object.keys(settings.bootArguments), [
    "xen-pciback.hide=(0000:02:00.0)",
    "guidomain.gpu=sys-gui",
  ]);
  const [[path, text] = []] = Object.entries(settings.files);
  assert.is(path, "/etc/systemd/system/lightdm.service.d/50-guidomain-sys-gui.conf");
  assert.match(text ?? "", /^ConditionKernelCommandLine=\|!guidomain\.gpu=sys-gui$/m);
  assert.match(text ?? "", /^ConditionPathExists=\|!\/sys\/hypervisor\/type$/m);
  assert.is(settings.properties["vfb"], undefined);
});

test("mode xephyr: dom0's session shows the framebuffer on dom0's loopback, and nowhere else", () => {
  const settings = settingsOf(gui({ session: "autologin", sessionUser: "user" }), "xephyr");
  assert.is(settings.properties["vfb"], '["type=vnc,vnclisten=127.0.0.1,vncdisplay=5,vncunused=0"]');
  const { files } = settings;
  assert.match(
    files["/usr/share/xsessions/guidomain-sys-gui.desktop"] ?? "",
    /^Exec=\/usr\/local\/libexec\/guidomain-screen sys-gui 5$/m,
  );
  assert.match(
    files["/etc/lightdm/lightdm.conf.d/50-guidomain-session.conf"] ?? "",
    /^autologin-session=guidomain-sys-gui$/m,
  );
  assert.match(files["/usr/local/libexec/guidomain-screen"] ?? "", /^#!\/bin\/sh\n/);
  const hvm = settingsOf(gui({ domain: { type: "hvm", disks: ["x"] } }), "vnc").properties;
  assert.equal(
    [hvm["vnc"], hvm["vnclisten"], hvm["vncdisplay"], hvm["vfb"]],
    ["1", "127.0.0.1", "5", undefined],
  );
});

test("the formula: states of ours for domains, devices that dom0 gives up, and the way back", () => {
  const { files, sls } = formulaOf({
    platform: "xen",
    qube: "sys-gui",
    mode: "gpu",
    settings: settingsOf(gui(), "gpu", grant),
    restores: [
      { key: "property:sys-gui:vfb", to: { default: true, value: "" } },
      { key: "device:sys-gui:0000_00_07.0:0x8086:0x293e::p040300", to: null },
      { key: "assignable:0000_00_07.0", to: null },
      { key: "file:/usr/share/xsessions/guidomain-sys-gui.desktop", to: null },
      { key: "qube:sys-audio", to: null },
    ],
  });
  assert.is(sls, "guidomain.sys-gui");
  const parsed = states(files["guidomain/sys-gui/init.sls"] ?? "");
  assert.equal(parsed["sys-gui domain"], { "domain.present": [{ name: "sys-gui" }] });
  assert.equal(parsed["sys-gui devices"]?.["domain.devices"], [
    { name: "sys-gui" },
    { assign: { "0000_02_00.0:0x1234:0x1111::p030000": { permissive: "True" } } },
    { require: [{ domain: "sys-gui properties" }] },
  ]);
  assert.equal(parsed["sys-gui boot"]?.["boot.args"], [
    { name: "sys-gui" },
    { add: ["xen-pciback.hide=(0000:02:00.0)", "guidomain.gpu=sys-gui"] },
  ]);
  assert.equal(parsed["sys-gui back property sys-gui vfb"]?.["domain.properties"], [
    { name: "sys-gui" },
    { reset: ["vfb"] },
  ]);
  assert.equal(parsed["sys-gui back devices sys-gui"]?.["domain.devices"], [
    { name: "sys-gui" },
    { unassign: ["0000_00_07.0:0x8086:0x293e::p040300"] },
  ]);
  assert.equal(parsed["sys-gui back assignable"]?.["pciback.assignable"], [
    { name: "sys-gui" },
    { add: [] },
    { remove: ["0000_00_07.0"] },
  ]);
  const order = Object.keys(parsed);
  assert.ok(
    order.indexOf("sys-gui back domain sys-audio") < order.indexOf("sys-gui back assignable"),
    "what a domain of ours has is free once it is gone, however it came to run",
  );
  assert.not.ok(JSON.stringify(parsed).includes("qube."), "no state of Qubes");
});

test("an audio domain's devices are given up now, and taken by xl itself at each start", () => {
  const parsed = parseAudioDomain("sys-audio", { host: "lab", domain: PV });
  if ("faults" in parsed) throw new Error(JSON.stringify(parsed.faults));
  const settings = audioSettingsOf(parsed.audio, {
    "0x8086:0x293e::p040300": { port: "0000_00_07.0", options: {} },
  });
  assert.equal(settings.devices["0x8086:0x293e::p040300"]?.options, { seize: "True" });
  assert.equal(settings.assignable, { "0000_00_07.0": "pciback" });
  assert.equal(settings.files, {});
  const plan = planApply("sys-audio", settings, host(), "urn");
  assert.ok(plan.touch.includes("assignable:0000_00_07.0"));
  const text = devicesFormulaOf({
    platform: "xen",
    qube: "net",
    name: "x",
    assign: {},
    unassign: ["0000_00_09.0:*"],
    assignable: { add: [], remove: ["0000_00_09.0"] },
  }).files["guidomain/net/pci-x/init.sls"];
  assert.equal(states(text ?? "")["net assignable"]?.["pciback.assignable"], [
    { name: "net" },
    { add: [] },
    { remove: ["0000_00_09.0"] },
    { require: [{ domain: "net devices" }] },
  ]);
});

test("the verdict: an IOMMU for that kind of domain, in xl's words where there is none; no reset is no obstacle", () => {
  const verdict = (facts: Partial<Facts>, isPv = true) => {
    const { verdict: is, reasons } = verdictGpu(xen(facts), card, { isPv });
    return [
      is,
      reasons
        .filter((r) => r.effect === "no")
        .map((r) => r.text)
        .join(),
    ] as const;
  };
  assert.is(verdict({})[0], "go");
  const without = { xen: { ...xen().xen, virtCaps: ["pv", "hvm", "shadow"] } };
  assert.match(verdict(without)[1], /virt_caps pv hvm shadow.*passthrough not supported on this platform/);
  const hvmOnly = { xen: { ...xen().xen, virtCaps: ["pv", "hvm", "hvm_directio"] } };
  assert.is(verdict(hvmOnly, true)[0], "no");
  assert.is(verdict(hvmOnly, false)[0], "go");
  assert.is(verdict({ pci: [{ ...card, reset: [] }] })[0], "options");
  assert.is(verdict({ boot: { ...xen().boot, hidePaths: null } })[0], "unknown");
  const late = { boot: { ...xen().boot, hidePaths: false, hideWhy: "virtio_gpu is loaded before it" } };
  assert.match(verdict(late)[1], /before its driver does: virtio_gpu is loaded before it/);
  assert.is(verdict({ boot: { ...xen().boot, oneShot: false } })[0], "no");
});

test("the ladder on a host without IOMMU goes to xephyr, on one that can to a boot of its own", () => {
  const can = decide(gui({ reboot: "allowed" }), host(), "urn", []);
  assert.equal([can.target, can.needsBoot], ["gpu", true]);
  const cannot = decide(gui(), host({}, { xen: { ...xen().xen, virtCaps: ["pv", "hvm"] } }), "urn", []);
  assert.equal(
    [cannot.target, cannot.needsBoot, cannot.ladder.attempts[0]?.verdict],
    ["xephyr", false, "refused"],
  );
});

test("the checks ask xl, xenstore and dom0's loopback; of each boot nothing that may be renamed", () => {
  const checks = verificationsOf(gui(), "gpu", host(), [], { sbdfs: [CARD] });
  assert.equal(
    checks.map(({ id }) => id),
    [
      "GUI domain starts",
      `${CARD} is with the domain`,
      "its kernel has taken the devices over",
      "its kernel sees 1234:1111",
      "it draws on its screen",
    ],
  );
  const again = screenChecks(gui(), host(), { sbdfs: [CARD] });
  assert.not.ok(JSON.stringify(again).includes(CARD));
  assert.ok(JSON.stringify(again).includes("1234:1111"));
  const hvm = verificationsOf(gui({ domain: { type: "hvm", disks: ["x"] } }), "gpu", host(), [], {
    sbdfs: [CARD],
  });
  assert.equal(
    hvm.map(({ id }) => id),
    ["GUI domain starts", `${CARD} is with the domain`],
  );
});

test("refused before anything is touched", () => {
  const asked = (args: Record<string, unknown>, snapshot: Snapshot) =>
    refusal(() => preflight(gui(args), snapshot));
  assert.is(asked({}, host()), "nothing was refused");
  assert.match(
    asked({ domain: { type: "pv" } }, host()),
    /"sys-gui" is not there.*does not say what it is to boot/s,
  );
  assert.match(asked({ domain: { type: "hvm" } }, host()), /does not say what it is to boot/);
  assert.match(
    asked({}, host({ "sys-gui": domain({ properties: {}, state: "Running" }) })),
    /runs there without a configuration in \/etc\/xen/,
  );
  assert.match(
    asked({ domain: { ...PV, type: "hvm" } }, host({ "sys-gui": domain({ state: "Running" }) })),
    /its type cannot be changed from "pv" to "hvm" while the domain is running/,
  );
  const vfb = { vfb: { default: false, value: '["type=vnc,vncdisplay=5"]' } };
  assert.match(
    asked({}, host({ other: domain({ properties: vfb }) })),
    /VNC display 5 of dom0 is that of domain "other"/,
  );
  const qubes = snapshotWith(factsWith([card]));
  assert.match(asked({}, qubes), /this is a Qubes host, and "domain" is for plain Xen/);
  assert.match(
    refusal(() => preflight(guiOf("sys-gui", { host: "lab" }), host())),
    /this is plain Xen, where domains are not qubes.*domain: \{ type: "pv" \}/s,
  );
});

test("what is in force, and whom a change of mode stops", () => {
  const ours = { owner: "urn", first: null, ours: null, at: 0 };
  const running = domain({ state: "Running", properties: { vfb: { default: false, value: "[]" } } });
  assert.is(inForce("sys-gui", host({ "sys-gui": running })), "dom0", "any other domain has a framebuffer");
  const made = { ...host({ "sys-gui": running }), ledger: { "qube:sys-gui": ours } };
  assert.is(inForce("sys-gui", made), "vnc");

  const anew = (snapshot: Snapshot) => {
    const described = gui({ display: ["vnc"], gpu: undefined });
    const plan = planApply("sys-gui", settingsOf(described, "vnc"), snapshot, "urn");
    return startsAnew(described, plan, snapshot, "vnc");
  };
  assert.is(anew(made), true, "ours, and nobody in its session");
  assert.match(
    refusal(() => anew(host({ "sys-gui": running }))),
    /was there before guidomain.*Nothing is ever stopped/s,
  );
  const session = { ...made, qubes: { "sys-gui": { ...running, session: true } } };
  assert.match(
    refusal(() => anew(session)),
    /somebody is in its session/,
  );
});

test.run();
