/** What each fact does to a verdict, one changed at a time on a machine that can. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { Facts, PciFunction } from "../host/protocol.ts";
import { QUIRKS } from "./quirks.ts";
import { profileFacts } from "./testing/profile.ts";
import { type Reason, type Verdict, verdictAudio, verdictDevice, verdictGpu } from "./verdict.ts";

const good = profileFacts("dell-xps-13-9310");

function at(facts: Facts, sbdf: string): PciFunction {
  const fn = facts.pci.find((each) => each.sbdf === `0000:${sbdf}`);
  if (!fn) throw new Error(sbdf);
  return fn;
}
const judge = (facts: Facts, sbdf = "00:02.0") => verdictGpu(facts, at(facts, sbdf));
const withXen = (xen: Partial<Facts["xen"]>): Facts => ({ ...good, xen: { ...good.xen, ...xen } });
const withBoot = (boot: Partial<Facts["boot"]>): Facts => ({ ...good, boot: { ...good.boot, ...boot } });
const withFunction = (facts: Facts, sbdf: string, patch: Partial<PciFunction>): Facts => ({
  ...facts,
  pci: facts.pci.map((fn) => (fn.sbdf === `0000:${sbdf}` ? { ...fn, ...patch } : fn)),
});
const against = ({ reasons }: Verdict) =>
  reasons.filter(({ effect }) => !["go", "note"].includes(effect)).map(({ rule }) => rule);
const reasonOf = ({ reasons }: Verdict, rule: string): Reason => {
  const reason = reasons.find((each) => each.rule === rule);
  if (!reason) throw new Error(`no reason by rule ${rule}`);
  return reason;
};
const screen = (connected: boolean) => [{ name: "card0-eDP-1", connected, enabled: connected }];

test("a machine that can: go, with what gpu mode always needs", () => {
  const verdict = judge(good);
  assert.is(verdict.verdict, "go");
  assert.equal(verdict.options, {
    permissive: true,
    noStrictReset: false,
    kernelOptions: [],
    memory: 2000,
    oneStart: false,
  });
  assert.equal(
    verdict.devices.map(({ sbdf, port, role, options }) => ({ sbdf, port, role, options })),
    [{ sbdf: "0000:00:02.0", port: "00_02.0", role: "display", options: { permissive: "True" } }],
  );
});

test("one fact changed: verdict and rule", () => {
  const noMethod = withFunction(good, "00:02.0", { reset: [] });
  for (const [facts, verdict, ...rules] of [
    [withXen({ iommu: false }), "no", "iommu"],
    [withXen({ virtCaps: ["pv", "hvm"] }), "no", "iommu"],
    [withXen({ virtCaps: ["pv", "hvm"], iommu: null }), "no", "iommu"],
    [withXen({ iommu: null }), "go"], // the log has rolled over; hvm_directio says it
    [withXen({ virtCaps: [], iommu: true }), "unknown", "iommu"],
    [withXen({ interruptRemapping: null }), "unknown", "remapping"],
    [withXen({ interruptRemapping: false }), "options", "remapping"],
    [withXen({ totalMemory: 1900 }), "no", "memory"],
    [withBoot({ oneShot: false, oneShotWhy: "/boot lies on LVM" }), "no", "one-shot"],
    [withBoot({ oneShot: null, oneShotWhy: "grub.cfg could not be read" }), "unknown", "one-shot"],
    [withBoot({ hidePaths: false }), "no", "hide-path"],
    [withBoot({ hidePaths: null }), "unknown", "hide-path"],
    [withBoot({ unattended: false, unattendedWhy: "a passphrase is asked for" }), "go"],
    [noMethod, "no", "reset"],
    [withFunction(good, "00:02.0", { reset: ["device_specific", "acpi"] }), "no", "reset"],
    [withFunction(good, "00:02.0", { reset: null }), "unknown", "reset"],
    [withFunction(good, "00:02.0", { reset: ["af_flr"] }), "go"],
    [withFunction(good, "00:02.0", { reset: ["pm"] }), "go"],
    [withFunction(good, "00:02.0", { port: null }), "no", "port"],
    [withFunction(good, "00:02.0", { port: "00_03.0" }), "no", "hide-path"],
    [{ ...good, pci: good.pci.map((fn) => ({ ...fn, port: null })) }, "unknown", "port"],
    [withFunction(good, "00:02.0", { outputs: screen(true) }), "go"],
    [withFunction(good, "00:02.0", { outputs: screen(false) }), "no", "outputs"],
    [withFunction(good, "00:02.0", { device: "a7a0" }), "options", "quirk:intel-raptor-lake"],
  ] as const) {
    const is = judge(facts);
    assert.is(is.verdict, verdict, against(is).join());
    assert.equal(against(is), rules);
  }
});

test("reasons say where each was read, in a person's words", () => {
  const lvm = reasonOf(judge(withBoot({ oneShot: false, oneShotWhy: "/boot lies on LVM" })), "one-shot");
  assert.equal([lvm.fact, lvm.effect], ["boot.oneShot", "no"]);
  assert.match(lvm.text, "/boot lies on LVM");
  const none = reasonOf(judge(withFunction(good, "00:02.0", { reset: [] })), "reset");
  assert.is(none.fact, "pci[0000:00:02.0].reset");
  assert.match(none.text, /no reset method of its own, and sits on a root bus/);
  const passphrase = judge(withBoot({ unattended: false, unattendedWhy: "a passphrase is asked for" }));
  assert.is(reasonOf(passphrase, "unattended").effect, "note");
  for (const { text, fact, rule } of judge(good).reasons) {
    assert.ok(text.length > 10 && !text.endsWith("."), text);
    assert.ok(fact && rule);
  }
});

test("a display without a reset is given only where the user accepts that", () => {
  const facts = withFunction(good, "00:02.0", { reset: [] });
  const display = at(facts, "00:02.0");
  assert.is(verdictGpu(facts, display).verdict, "no");
  const accepted = verdictGpu(facts, display, { noStrictReset: true });
  assert.is(accepted.verdict, "options");
  assert.ok(accepted.options.noStrictReset);
  assert.equal(accepted.devices[0]?.options, { "no-strict-reset": "True", permissive: "True" });
});

test("memory below what gpu mode needs", () => {
  const verdict = verdictGpu(good, at(good, "00:02.0"), { memory: 1000 });
  assert.is(verdict.verdict, "no");
  assert.match(reasonOf(verdict, "memory").text, "1000 MiB is too little");
  assert.is(verdictGpu(good, at(good, "00:02.0"), { memory: 2000 }).verdict, "go");
});

test("kernel options carry the device's id", () => {
  const { options } = judge(withFunction(good, "00:02.0", { device: "a7a0" }));
  assert.equal(options.kernelOptions, ["i915.force_probe=!a7a0", "xe.force_probe=a7a0"]);
});

test("what stays in the slot takes the bus reset away, and is named", () => {
  const h81 = profileFacts("asus-h81-gt1030");
  assert.equal(against(judge(h81, "01:00.0")), ["outputs", "quirk:nvidia"]);
  const card = at(h81, "01:00.1");
  const guest = {
    ...card,
    sbdf: "0000:01:00.2",
    port: "00_01.0-00_00.2",
    vendor: "1b21",
    class: "0c0330",
    name: "Some USB",
  };
  const shared = judge({ ...h81, pci: [...h81.pci, guest] }, "01:00.0");
  assert.is(shared.verdict, "no");
  assert.match(reasonOf(shared, "reset").text, "Some USB");
  // The card's own USB goes along, unless a keyboard hangs on it.
  const own = { ...guest, vendor: "10de" };
  assert.equal(
    judge({ ...h81, pci: [...h81.pci, own] }, "01:00.0").devices.map(({ role }) => role),
    ["display", "audio", "usb"],
  );
  const typed = judge({ ...h81, pci: [...h81.pci, { ...own, inputs: ["keyboard"] }] }, "01:00.0");
  assert.equal([typed.verdict, typed.devices.length], ["no", 2]);
});

test("an AMD family that a bus reset does not bring back: unknown, and once a boot where it has nothing else", () => {
  const x570 = profileFacts("asrock-x570-phantom-gaming-4-navi10");
  assert.is(judge(x570, "0a:00.0").verdict, "unknown");
  const known = withFunction(x570, "0a:00.0", { reset: ["pm", "bus"] });
  const once = judge(known, "0a:00.0");
  assert.equal([once.verdict, once.options.oneStart], ["options", true]);
  assert.equal(against(once), ["reset"]);
  const flr = judge(withFunction(x570, "0a:00.0", { reset: ["flr"] }), "0a:00.0");
  assert.equal([flr.verdict, flr.options.oneStart], ["go", false]);
  // Of another family the power management reset is void too, and the bus reset is not.
  const other = withFunction(x570, "0a:00.0", { reset: ["pm"], device: "aaaa" });
  assert.is(judge(other, "0a:00.0").verdict, "go");
});

test("AMD's void power management reset counts on a root bus, where there is no better one", () => {
  const amd = (pci: PciFunction[], sbdf: string) => {
    const facts = { ...good, pci };
    return reasonOf(judge(facts, sbdf), "reset").effect;
  };
  const radeon = { ...at(good, "00:02.0"), vendor: "1002", device: "9802", reset: ["pm"] };
  assert.is(amd([radeon], "00:02.0"), "go");
  const bridge = { ...at(good, "00:1d.0"), bridge: { secondary: "01", subordinate: "01" } };
  const behind = { ...radeon, sbdf: "0000:01:00.0", port: "00_1d.0-00_00.0", parent: bridge.sbdf };
  const usb = { ...behind, sbdf: "0000:01:00.3", port: "00_1d.0-00_00.3", vendor: "1022", class: "0c0330" };
  assert.is(amd([bridge, behind, usb], "01:00.0"), "no");
});

test("two displays: the one that has the screen, and what dom0 keeps", () => {
  const oryx = profileFacts("system76-oryx-pro-rtx2060");
  const lit = withFunction(oryx, "00:02.0", { outputs: screen(true), bootVga: true });
  const igpu = judge(lit);
  assert.is(igpu.verdict, "go");
  assert.match(
    igpu.reasons.map(({ text }) => text).join("\n"),
    "GeForce RTX 2060 Mobile] (display 10de:1f11 at 00_01.0-00_00.0) stays with dom0",
  );
  // Muxless: the discrete one has a driver and no screen.
  const muxless = judge(lit, "01:00.0");
  assert.is(muxless.verdict, "no");
  assert.match(reasonOf(muxless, "outputs").text, "UHD Graphics 630");
  assert.is(judge(withFunction(lit, "01:00.0", { driver: "pciback" }), "01:00.0").verdict, "unknown");
  const without = judge(withFunction(lit, "01:00.0", { class: "030200", driver: null }), "01:00.0");
  assert.equal(against(without), ["outputs", "quirk:nvidia"]);
  assert.is(without.verdict, "no");
  const blind = withFunction(withFunction(oryx, "01:00.0", { bootVga: true, rom: false }), "00:02.0", {
    bootVga: false,
  });
  assert.equal(against(judge(blind, "01:00.0")), ["rom", "quirk:nvidia"]);
  assert.equal(against(judge(blind)), ["outputs"]);
});

test("sound: with its own reset as it is, without one loosely, unknown stays unknown but would start", () => {
  const sound = (facts: Facts, sbdf: string) => verdictAudio(facts, [at(facts, sbdf)]);
  const dell = sound(good, "00:1f.3");
  assert.equal([dell.verdict, dell.devices.length, dell.options.noStrictReset], ["options", 1, true]);
  assert.is(dell.options.memory, null);
  const t440s = profileFacts("lenovo-thinkpad-t440s");
  assert.equal(sound(t440s, "00:1b.0").devices[0]?.options, {});
  const denied = sound(profileFacts("lenovo-thinkpad-x230"), "00:1b.0");
  assert.equal([denied.verdict, denied.devices[0]?.options], ["unknown", { "no-strict-reset": "True" }]);
  assert.is(sound(withXen({ iommu: false }), "00:1f.3").verdict, "no");
});

test("a sound function whose only reset is known to hang is given loosely", () => {
  const x570 = withFunction(profileFacts("asrock-x570-phantom-gaming-4-navi10"), "0c:00.4", {
    reset: ["flr"],
  });
  const verdict = verdictAudio(x570, [at(x570, "0c:00.4")]);
  assert.equal([verdict.verdict, verdict.options.noStrictReset], ["options", true]);
  // The same by its other name, on a network card of Intel's.
  const x230 = withFunction(profileFacts("lenovo-thinkpad-x230"), "00:19.0", { reset: ["af_flr"] });
  assert.is(verdictDevice(x230, [at(x230, "00:19.0")]).verdict, "options");
});

test("any other device, and one that Qubes does not list", () => {
  const wifi = verdictDevice(good, [at(good, "00:14.3")]);
  assert.equal([wifi.verdict, wifi.devices[0]?.role], ["go", "other"]);
  const nvme = good.pci.find(({ sbdf }) => sbdf === "10000:e1:00.0");
  if (!nvme) throw new Error("the disk behind VMD");
  assert.equal(against(verdictDevice(good, [nvme])), ["port"]);
});

test("a function of an earlier look at the host is judged by the facts of this one", () => {
  const old = { ...at(good, "00:02.0"), reset: [] };
  assert.is(verdictGpu(good, old).verdict, "go");
});

test("every quirk has its source, its own name, and something to say", () => {
  assert.is(new Set(QUIRKS.map(({ id }) => id)).size, QUIRKS.length);
  for (const { source, text, vendor, ignore, doubtful, kernelOptions } of QUIRKS) {
    assert.match(source, /^https:\/\//);
    assert.ok(text.length > 20);
    assert.match(vendor, /^[0-9a-f]{4}$/);
    assert.ok(ignore ?? doubtful ?? kernelOptions);
  }
});

test.run();
