/** An audio domain through its whole life on a host in memory: own, shared, staged, where it cannot be, and back as it was. */
import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { PciFunction, Snapshot } from "../host/protocol.ts";
import { Refusal } from "../model/failure.ts";
import {
  byDefault,
  differing,
  display,
  everything,
  explicit,
  HostModel,
  install,
  qube,
} from "../plan/testing/hostModel.ts";
import { audioDomainHandler } from "./audioDomain.ts";
import { guiDomainHandler } from "./guiDomain.ts";
import { PartialFailure, type Properties, type ReadResult } from "./handler.ts";
import { urnOf } from "./testHosts.ts";
import { failing, Program } from "./testProgram.ts";

const POLICY = "/etc/qubes/policy.d/40-audio-sys-audio.policy";
const SOUND = "0x8086:0x02c8::p040300";

const fn = (more: Partial<PciFunction>): PciFunction =>
  display({ subsystem: null, bootVga: null, rom: false, outputs: [], ...more });
/** Sound beside the LPC bridge, as in most laptops: no reset of its own, and a slot of the machine's own parts. */
const lpc = fn({
  sbdf: "0000:00:1f.0",
  port: "00_1f.0",
  class: "060100",
  device: "0284",
  driver: null,
  module: null,
});
const smbus = fn({
  sbdf: "0000:00:1f.4",
  port: "00_1f.4",
  class: "0c0500",
  device: "02a3",
  driver: null,
  module: null,
});
const sound = (more: Partial<PciFunction> = {}) =>
  fn({
    sbdf: "0000:00:1f.3",
    port: "00_1f.3",
    class: "040300",
    device: "02c8",
    driver: "snd_hda_intel",
    module: "snd_hda_intel",
    reset: [],
    name: "cAVS",
    ...more,
  });
const bridge = fn({
  sbdf: "0000:00:1c.0",
  port: "00_1c.0",
  class: "060400",
  device: "a33c",
  bridge: { secondary: "05", subordinate: "05" },
});
/** A card of its own behind a bridge, Intel's DSP class. */
const card = sound({
  sbdf: "0000:05:00.0",
  port: "00_1c.0-00_00.0",
  class: "040100",
  device: "1234",
  reset: ["flr"],
  parent: "0000:00:1c.0",
  name: "Sound card",
});

function machine(
  pci: PciFunction[] = [display(), lpc, sound(), smbus],
  more: Partial<Snapshot> = {},
): HostModel {
  const snapshot = install(more);
  return new HostModel({ ...snapshot, facts: { ...snapshot.facts, pci, ...more.facts } });
}
const program = (host = machine()) => {
  const made = new Program(host, "sys-audio", audioDomainHandler);
  made.hosts.type = "AudioDomain";
  return made;
};
const ARGS = { clients: ["work"] };
const of = (host: HostModel, name: string) => host.snapshot().qubes[name];
const values = (host: HostModel, name: string, ...properties: string[]) =>
  properties.map((p) => of(host, name)?.properties[p]?.value);
const start = (host: HostModel, name: string, at = 0) =>
  host.byHand((now) => {
    const live = now.qubes[name];
    if (!live) return;
    live.state = "Running";
    live.properties["start_time"] = { default: true, value: String(now.facts.now + 1 + at) };
    live.properties["xid"] = explicit("17");
  });

test("up, nothing to do, drift of each part, repair, destroy", async () => {
  const made = program();
  const { host } = made;
  const before = everything(host.snapshot());
  await made.up(ARGS);
  assert.equal(
    [made.state?.id, made.outputs["sound"], made.outputs["state"]],
    ["lab/sys-audio", "sys-audio", "ready"],
  );
  assert.equal(values(host, "sys-audio", "netvm", "virt_mode", "maxmem", "memory", "autostart", "label"), [
    "",
    "hvm",
    "0",
    "400",
    "True",
    "black",
  ]);
  assert.equal(of(host, "sys-audio")?.features, { servicevm: "1", "service.audiovm": "1" });
  // The sound alone, not its slot.
  assert.equal(
    of(host, "sys-audio")?.pci.map(({ options }) => options),
    [{ "no-strict-reset": "True" }],
  );
  assert.equal(values(host, "work", "audiovm"), ["sys-audio"]);
  assert.equal(values(host, "vault", "audiovm"), ["dom0"]);
  assert.equal(await made.preview(ARGS), {});

  const drifts: [string, (now: Snapshot) => void, string][] = [
    [
      "a property",
      (now) => Object.assign(now.qubes["sys-audio"]?.properties ?? {}, { maxmem: explicit("4000") }),
      "settings.properties.maxmem",
    ],
    [
      "the service",
      (now) => delete now.qubes["sys-audio"]?.features["service.audiovm"],
      "settings.services.audiovm",
    ],
    [
      "a client",
      (now) => Object.assign(now.qubes["work"]?.properties ?? {}, { audiovm: byDefault }),
      "settings.audioClients.work",
    ],
    ["the policy", (now) => delete now.files[POLICY], `settings.files["${POLICY}"]`],
    [
      "the device",
      (now) => Object.assign(now.qubes["sys-audio"] ?? {}, { pci: [] }),
      `settings.devices["${SOUND}"]`,
    ],
  ];
  const good = everything(host.snapshot());
  for (const [what, change, path] of drifts) {
    host.byHand(change);
    assert.equal(Object.keys(await made.preview(ARGS)), [path], what);
    assert.is(made.outputs["state"], "drifted", what);
    await made.up(ARGS);
    assert.equal(differing(good, everything(host.snapshot())), [], what);
    assert.equal(await made.preview(ARGS), {}, what);
  }
  host.byHand((now) => Object.assign(now.qubes["sys-audio"] ?? {}, { state: "Halted" }));
  await made.destroy();
  assert.equal([differing(before, everything(host.snapshot())), host.snapshot().ledger], [[], {}]);
});

test("by default: the host's default audio domain, and sound behind a bridge too", async () => {
  const made = program(machine([display(), lpc, sound(), bridge, card]));
  await made.up({ clients: "default" });
  assert.is(made.host.snapshot().globals["default_audiovm"]?.value, "sys-audio");
  assert.equal(values(made.host, "work", "audiovm"), ["sys-audio"]);
  assert.equal(
    (made.outputs["attached"] as Properties[]).map((d) => [d["port"], d["options"]]),
    [
      ["00_1f.3", ["no-strict-reset"]],
      ["00_1c.0-00_00.0", []],
    ],
  );
  // From all to one: the others get theirs back.
  await made.up(ARGS);
  assert.is(made.host.snapshot().globals["default_audiovm"]?.value, "dom0");
  assert.equal(await made.preview(ARGS), {});
});

test("a stream that a check has seen is in use until one of the two qubes has started anew", async () => {
  const made = program();
  const { host } = made;
  start(host, "work");
  host.seen.set("sound of work", '\tmedia.name = "work"');
  await made.up(ARGS);
  assert.is(made.outputs["state"], "inUse");
  assert.equal((made.outputs["streams"] as Properties[])[0]?.["client"], "work");
  assert.equal(made.outputs["pending"], []);
  assert.equal(await made.preview(ARGS), {});
  start(host, "work", 100);
  await made.refresh();
  assert.equal([made.outputs["state"], made.outputs["streams"]], ["ready", []]);
});

test("a running client without a stream is pending until it has started anew; without a desktop it is said", async () => {
  const made = program();
  start(made.host, "work");
  await made.up(ARGS);
  const pending = () => (made.outputs["pending"] as Properties[]).map(({ kind, qubes }) => [kind, qubes]);
  assert.equal(pending(), [["restart", ["work"]]]);
  start(made.host, "work", 100);
  await made.refresh();
  assert.equal(pending(), []);

  const silent = program();
  silent.host.seen.set("its sound daemon runs", "no desktop yet");
  await silent.up(ARGS);
  assert.equal(
    [silent.outputs["state"], (silent.outputs["pending"] as Properties[])[0]?.["kind"]],
    ["ready", "session"],
  );
});

test("an emulated card: only an HVM has one; where its stubdomain cannot be told, it is restarted if that is allowed", async () => {
  const host = machine(undefined, {
    qubes: { win: qube({ properties: { virt_mode: explicit("hvm") }, template: "" }) },
  });
  const made = program(host);
  assert.match(
    (await failing(Refusal, made.up({ clients: ["work"], emulated: ["work"] }))).message,
    /client "work" is of virt_mode pvh: only an HVM has a stubdomain/,
  );
  const args = { clients: ["win"], emulated: ["win"], restartClients: "allowed" };
  await made.up(args);
  assert.equal(of(host, "win")?.features, { "audio-model": "ich6" });
  start(host, "win");
  host.byHand((now) => Object.assign(now.qubes["win"]?.properties ?? {}, { audiovm: explicit("dom0") }));
  await made.up(args);
  assert.equal(made.hosts.applied.at(-1)?.restart, ["win"]);
  await made.destroy().catch(() => {});
});

// ------------------------------------------------------------------------------------------- staying where it was

const NO_IOMMU = { ...install().facts, xen: { ...install().facts.xen, iommu: false } };

test("no device can be given away there: the sound stays, the reason is kept, and it is no error", async () => {
  const made = program(machine(undefined, { facts: { ...NO_IOMMU, pci: [sound()] } }));
  const before = made.host.snapshot();
  await made.up(ARGS);
  assert.equal([made.outputs["sound"], made.outputs["state"]], ["dom0", "fallback"]);
  const [first, then] = made.outputs["attempts"] as Properties[];
  assert.equal([first?.["mode"], first?.["verdict"], then?.["mode"]], ["audio", "refused", "before"]);
  assert.match(String(first?.["reason"]), /no IOMMU in use/);
  assert.match(made.warnings.join("\n"), /the sound stays with "dom0": this machine has no IOMMU/);
  assert.equal(made.host.snapshot(), before);
  assert.equal(await made.preview(ARGS), {});
  // Mended: it is tried.
  made.host.byHand((now) => {
    now.facts.xen.iommu = true;
  });
  assert.ok(Object.keys(await made.preview(ARGS)).length > 0);
  await made.up(ARGS);
  assert.is(made.outputs["state"], "ready");
});

test('onFallback: "accept" keeps quiet, "fail" fails with that in place', async () => {
  const none = { facts: { ...NO_IOMMU, pci: [sound()] } };
  const quiet = program(machine(undefined, none));
  await quiet.up({ ...ARGS, onFallback: "accept" });
  assert.equal([quiet.warnings, quiet.outputs["state"]], [[], "fallback"]);
  const strict = program(machine(undefined, none));
  const error = await failing(PartialFailure, strict.up({ ...ARGS, onFallback: "fail" }));
  assert.match(
    error.message,
    /^Audio domain sys-audio on host lab: its sound stays with "dom0", and onFallback is "fail"/,
  );
  assert.is(strict.outputs["state"], "fallback");
});

for (const [id, output] of [
  ["audio domain starts", "Unable to reset PCI device 0000:00:1f.3: no FLR, PM reset or bus reset available"],
  ["a sound card is in the qube", "no end within 30 s"],
])
  test(`it does not come up (${id}): put back, remembered, tried again when retry changes`, async () => {
    const made = program();
    const { host } = made;
    const before = everything(host.snapshot());
    host.failing.set(String(id), String(output));
    await made.up(ARGS);
    assert.equal([made.outputs["sound"], made.outputs["state"]], ["dom0", "fallback"]);
    const [first] = made.outputs["attempts"] as Properties[];
    assert.equal([first?.["verdict"], (first?.["evidence"] as unknown[]).length > 0], ["failed", true]);
    assert.match(String(first?.["reason"]), /cAVS/);
    assert.equal(differing(before, everything(host.snapshot())), []);
    // Not again, though it would work by now: nothing that it rests on has changed.
    const { applies } = host;
    assert.equal(await made.preview(ARGS), {});
    await made.up(ARGS);
    assert.is(host.applies, applies);
    assert.ok(made.outputs["remembered"]);
    await made.up({ ...ARGS, retry: 1 });
    assert.equal([made.outputs["state"], made.outputs["remembered"]], ["ready", undefined]);
  });

test("what says nothing about the hardware is an error, and is tried in the next run", async () => {
  const made = program();
  made.host.failing.set("packages of template fedora-43-xfce", "package qubes-audio-daemon is not installed");
  const error = await failing(PartialFailure, made.up(ARGS));
  assert.match(error.message, /qubes-audio-daemon is not installed/);
  assert.equal([made.outputs["state"], made.outputs["remembered"]], ["failed", undefined]);
  await made.up(ARGS);
  assert.is(made.outputs["state"], "ready");
});

test("nothing inside can be asked: no word about the hardware", async () => {
  const made = program();
  for (const id of ["it knows that it is an audio domain", "a sound card is in the qube"])
    made.host.failing.set(id, "qrexec: no answer");
  await failing(PartialFailure, made.up(ARGS));
  assert.equal([made.outputs["state"], made.outputs["remembered"]], ["failed", undefined]);
});

test("one that is in force stays so when a change of it does not work, and when its device is gone", async () => {
  const made = program();
  await made.up(ARGS);
  made.host.failing.set("audio domain starts", "no memory");
  await failing(PartialFailure, made.up({ clients: ["vault", "work"] }));
  assert.equal(values(made.host, "work", "audiovm"), ["sys-audio"]);
  await made.up(ARGS);
  made.host.byHand((now) => {
    now.facts.pci = [display(), lpc];
  });
  await made.refresh();
  assert.match(
    (await failing(Refusal, made.up(ARGS))).message,
    /no device of this machine is \{ class: "audio" \}/,
  );
  assert.equal(values(made.host, "work", "audiovm"), ["sys-audio"]);
});

// ------------------------------------------------------------------------------------------- shared qubes

const USB = fn({ sbdf: "0000:00:14.0", port: "00_14.0", class: "0c0330", device: "02ed", driver: "pciback" });
const usbQube = (state: string) =>
  machine([display(), lpc, sound(), USB], {
    qubes: {
      "sys-usb": qube({
        state,
        properties: { virt_mode: explicit("hvm"), netvm: explicit("") },
        pci: [{ port: "00_14.0", device: "0x8086:0x02ed::p0c0330", mode: "required", options: {} }],
      }),
    },
  });
/** A headset that is plugged into a USB qube which runs. */
const HEADSET = "0d8c:0014::u010100u030000";
function withHeadset(more: Partial<Snapshot> = {}): HostModel {
  return machine([display()], {
    qubes: { ...install().qubes, "sys-usb": qube({ state: "Running" }), ...more.qubes },
    usb: { "sys-usb": [{ port: "1-2", device: HEADSET, name: "Headset", attachment: null }] },
  });
}
const WITH_HEADSET = { devices: [], usb: { vendor: "0d8c", device: "0014" }, clients: ["work"] };

test("a headset of a USB qube: up, nothing to do, drift, not plugged in, destroy", async () => {
  const made = program(withHeadset());
  const { host } = made;
  const before = everything(host.snapshot());
  await made.up(WITH_HEADSET);
  const assigned = () => of(host, "sys-audio")?.usb;
  const given = [{ backend: "sys-usb", port: "*", device: HEADSET, mode: "auto-attach" }];
  assert.equal([made.outputs["state"], assigned()], ["ready", given]);
  assert.equal(values(host, "sys-audio", "virt_mode"), ["pvh"]);
  const [request] = made.hosts.applied;
  const guest = request?.verify.flatMap((v) => (v.kind === "guest" ? [v.command] : [])) ?? [];
  assert.ok(guest.some((command) => command.includes("grep -qsx 0d8c:0014 /proc/asound/card*/usbid")));
  assert.ok(guest.some((command) => /rpm -q .*qubes-usb-proxy/.test(command)));
  assert.equal(await made.preview(WITH_HEADSET), {});
  for (const [change, kind] of [
    [[], "add"],
    [[{ ...given[0], mode: "ask-to-attach" }], "update"],
  ] as const) {
    host.byHand((now) => Object.assign(now.qubes["sys-audio"] ?? {}, { usb: structuredClone(change) }));
    assert.equal(await made.preview(WITH_HEADSET), { [`settings.usb["sys-usb:*:${HEADSET}"]`]: kind });
    await made.up(WITH_HEADSET);
    assert.equal(assigned(), given);
  }
  host.byHand((now) => Object.assign(now, { usb: { "sys-usb": [] } }));
  assert.equal(await made.preview(WITH_HEADSET), {});
  assert.match(JSON.stringify(made.outputs["pending"]), /"usb".*is not plugged in there/);
  await made.destroy();
  assert.equal([differing(before, everything(host.snapshot())), host.snapshot().ledger], [[], {}]);
});

test("a shared qube that had it another way has it so again", async () => {
  const usb = [{ backend: "sys-usb", port: "*", device: HEADSET, mode: "ask-to-attach" }];
  const host = withHeadset({ qubes: { media: { ...qube(), usb } } });
  const before = everything(host.snapshot());
  const made = program(host);
  await made.up({ ...WITH_HEADSET, qube: "media", shared: true });
  assert.is(of(host, "media")?.usb?.[0]?.mode, "auto-attach");
  // No longer asked for: back, while the rest stays.
  await made.up({ qube: "media", shared: true, clients: ["work"] });
  assert.equal(of(host, "media")?.usb, usb);
  await made.up({ ...WITH_HEADSET, qube: "media", shared: true });
  await made.destroy();
  assert.equal(differing(before, everything(host.snapshot())), []);
});

test("not plugged in: the sound stays where it was; one that has it already is not given up for that", async () => {
  const host = withHeadset();
  host.byHand((now) => Object.assign(now, { usb: { "sys-usb": [] } }));
  const made = program(host);
  await made.up(WITH_HEADSET);
  assert.equal([made.outputs["state"], made.outputs["sound"]], ["fallback", "dom0"]);
  assert.match(JSON.stringify(made.outputs["attempts"]), /is not plugged in there/);
  assert.is(of(host, "sys-audio"), undefined);
  const other = program(withHeadset());
  await other.up(WITH_HEADSET);
  const two = { ...WITH_HEADSET, usb: [WITH_HEADSET.usb, { vendor: "1234", device: "5678" }] };
  await other.refresh();
  const error = await failing(Refusal, other.up(two));
  assert.match(error.message, /1234:5678 .* is not plugged in there/);
});

test("a device that two want is refused before anything is touched", async () => {
  const host = withHeadset();
  const one = program(host);
  const two = new Program(host, "media", audioDomainHandler);
  two.hosts.claims = one.hosts.claims;
  const preview = async (made: Program) =>
    made.handler.create(
      await made.check({ ...WITH_HEADSET, clients: made === one ? ["work"] : ["vault"] }),
      made.hosts.context(made.name, { preview: true, urn: urnOf(made.name, "AudioDomain") }),
    );
  await preview(one);
  const error = await failing(Refusal, preview(two));
  assert.match(error.message, /the USB device at sys-usb:1-2 is claimed by .*Give it to one qube only/);
});

const SHARED = { qube: "sys-usb", shared: true, clients: "default" };

test("sys-usb as audio domain: service and policy, nothing else of it", async () => {
  const made = program(usbQube("Halted"));
  const before = everything(made.host.snapshot());
  await made.up(SHARED);
  assert.is(made.outputs["state"], "ready");
  assert.equal(
    differing(before, everything(made.host.snapshot())).filter((key) => !/:start_time$/.test(key)),
    [
      "feature:sys-usb:service.audiovm",
      "file:/etc/qubes/policy.d/40-audio-sys-usb.policy",
      "global:default_audiovm",
      ...["fedora-43-xfce", "debian-13-xfce", "sys-net", "sys-usb", "vault", "work"].map(
        (q) => `property:${q}:audiovm`,
      ),
    ]
      .filter((key) => !key.startsWith("property:"))
      .sort(),
  );
  assert.equal(await made.preview(SHARED), {});
  await made.destroy();
  assert.equal(differing(before, everything(made.host.snapshot())), []);
});

test("a shared qube that runs: everything waits for its start but its clients, which come with the next run", async () => {
  const made = program(usbQube("Running"));
  await made.up(SHARED);
  assert.equal([made.outputs["state"], made.outputs["sound"]], ["staged", "dom0"]);
  assert.equal((made.outputs["pending"] as Properties[])[0], {
    kind: "restart",
    qubes: ["sys-usb"],
    why: "it is an audio domain from its next start on",
  });
  assert.equal(await made.preview(SHARED), {});
  start(made.host, "sys-usb", 100);
  assert.equal(Object.keys(await made.preview(SHARED)), ["settings.globals.default_audiovm"]);
  await made.up(SHARED);
  assert.equal([made.outputs["state"], made.outputs["sound"]], ["ready", "sys-usb"]);
});

test("the GUI domain itself, in mode gpu: its next boot makes it one, and both resources have nothing to do", async () => {
  const host = machine();
  const gui = new Program(host, "sys-gui");
  const guiArgs = { display: ["gpu"], reboot: "allowed", clients: ["work"] };
  await gui.up(guiArgs);
  assert.is(gui.outputs["mode"], "gpu");
  const made = program(host);
  const args = { qube: "sys-gui", shared: true, devices: { class: "audio" }, clients: ["work"] };
  await made.up(args);
  assert.equal([made.outputs["state"], made.outputs["sound"]], ["staged", "dom0"]);
  assert.equal(
    (made.outputs["attached"] as Properties[]).map((d) => d["port"]),
    ["00_1f.3"],
  );
  assert.equal(await gui.preview(guiArgs), {});
  host.reboot();
  await made.up(args);
  assert.equal(
    [made.outputs["state"], values(host, "work", "guivm", "audiovm")],
    ["ready", ["sys-gui", "sys-gui"]],
  );
  assert.equal([await made.preview(args), await gui.preview(guiArgs)], [{}, {}]);
  await made.destroy();
  assert.equal(values(host, "work", "guivm", "audiovm"), ["sys-gui", "dom0"]);
  assert.equal(await gui.preview(guiArgs), {});
});

const REFUSED: [string, object, Partial<Snapshot["qubes"]>, RegExp][] = [
  [
    "no such template",
    { template: "nosuch" },
    {},
    /template "nosuch" is not installed.*qvm-template install nosuch/,
  ],
  ["no such client", { clients: ["nosuch"] }, {}, /client "nosuch" does not exist there/],
  ["dom0 as client", { clients: ["dom0"] }, {}, /reserved by Qubes|dom0 itself/],
  [
    "shared and not there",
    { qube: "nosuch", shared: true },
    {},
    /qube "nosuch" does not exist there, and "shared" asks/,
  ],
  [
    "a GUI domain, not said to be shared",
    {},
    { "sys-audio": qube({ features: { "service.guivm": "1" } }) },
    /has another purpose: it is a GUI domain\. .*Set "shared" to true/,
  ],
  [
    "a qube with a USB controller",
    {},
    { "sys-audio": qube({ pci: [{ port: "00_14.0", device: "*", mode: "required", options: {} }] }) },
    /has another purpose: it has a USB controller/,
  ],
  [
    "devices for a pvh",
    { qube: "sys-gui", shared: true, devices: { class: "audio" } },
    { "sys-gui": qube({ properties: { virt_mode: explicit("pvh") }, features: { "service.guivm": "1" } }) },
    /is of virt_mode pvh, which cannot have PCI devices; a GUI domain is only in mode "gpu" of another/,
  ],
  ["several where one is meant", { devices: { class: "display" } }, {}, /which is not sound/],
  ["the LPC bridge", { devices: { address: "00_1f.0" } }, {}, /which is not sound/],
];
for (const [name, args, qubes, message] of REFUSED)
  test(`refused before anything is touched: ${name}`, async () => {
    const made = program(machine([display(), lpc, sound(), USB], { qubes: qubes as Snapshot["qubes"] }));
    const before = made.host.snapshot();
    const inputs = { host: "lab", ...ARGS, ...args } as Properties;
    const { failures, inputs: news } = await made.handler.check(inputs, {}, made.hosts.context("sys-audio"));
    const preview = made.hosts.context("sys-audio", { preview: true });
    const said = failures.length
      ? JSON.stringify(failures)
      : (await failing(Refusal, made.handler.create(news, preview))).message;
    assert.match(said, message);
    assert.equal([made.host.snapshot(), made.hosts.applied], [before, []]);
  });

test("a device that a running qube has: the sound stays where it was, with that reason", async () => {
  const pci = [{ port: "00_1f.3", device: SOUND, mode: "required", options: {} }];
  const made = program(machine(undefined, { qubes: { other: qube({ state: "Running", pci }) } }));
  await made.up(ARGS);
  assert.is(made.outputs["state"], "fallback");
  assert.match(JSON.stringify(made.outputs["attempts"]), /belongs to qube \\"other\\", which is running/);
});

// ------------------------------------------------------------------------------------------- whose is what

test("two audio domains that want one client or one device differ in the preview; of two that want the default one waits", async () => {
  const made = program();
  const preview = (name: string) => made.hosts.context(name, { preview: true });
  const other = async (args: object) => {
    const { inputs } = await made.handler.check(
      { host: "lab", ...args } as Properties,
      {},
      made.hosts.context("two"),
    );
    return failing(Refusal, made.handler.create(inputs, preview("two")));
  };
  await made.handler.create(await made.check(ARGS), preview("sys-audio"));
  assert.match(
    (await other({ ...ARGS, devices: [] })).message,
    /the audio domain of "work" is claimed by .*"sys-audio".*a qube has exactly one audio domain/,
  );
  assert.match((await other({ clients: [] })).message, /the PCI device|PCI device/);
  const all = program();
  await all.handler.create(
    await all.check({ clients: "default" }),
    all.hosts.context("sys-audio", { preview: true }),
  );
  const { inputs } = await all.handler.check(
    { host: "lab", clients: "default", devices: [] },
    {},
    all.hosts.context("two"),
  );
  await all.handler.create(inputs, all.hosts.context("two", { preview: true }));
  assert.match(
    all.warnings.join("\n"),
    /the host's default_audiovm is with AudioDomain "sys-audio" .*who comes first/,
  );
});

test("a GUI domain's audiovm and an audio domain's client contradict in the preview", async () => {
  const made = program(machine(undefined, { qubes: { "sys-gui": qube() } }));
  const gui = guiDomainHandler(made.hosts);
  const context = made.hosts.context("sys-gui", { preview: true });
  const { inputs } = await gui.check({ host: "lab", clients: [] }, {}, context);
  await gui.create(inputs, context);
  const error = await failing(
    Refusal,
    made.handler.create(
      await made.check({ clients: ["sys-gui"] }),
      made.hosts.context("sys-audio", { preview: true }),
    ),
  );
  assert.match(
    error.message,
    /the audio domain of "sys-gui" is claimed by .*"sys-gui".*stands in its "audiovm"/,
  );
});

test("a GUI domain may name an audio domain that the same program makes", async () => {
  const made = program();
  const gui = guiDomainHandler(made.hosts);
  const context = made.hosts.context("sys-gui", { preview: true });
  const args = { host: "lab", audiovm: "sys-audio" };
  const { inputs } = await gui.check(args, {}, context);
  assert.match(
    (await failing(Refusal, gui.create(inputs, context))).message,
    /audio domain "sys-audio" does not exist/,
  );
  await made.handler.create(await made.check(ARGS), made.hosts.context("sys-audio", { preview: true }));
  await gui.create(inputs, context);
});

test("it is not removed while running qubes play through it; onDelete keep leaves all", async () => {
  const made = program();
  await made.up(ARGS);
  start(made.host, "work", 100);
  const before = everything(made.host.snapshot());
  const error = await failing(Refusal, made.destroy());
  assert.match(
    error.message,
    /it cannot be removed while it is the audio domain of running qubes: work\. Nothing was changed/,
  );
  assert.equal(everything(made.host.snapshot()), before);
  await made.up({ ...ARGS, onDelete: "keep" });
  await made.destroy();
  assert.equal(values(made.host, "work", "audiovm"), ["sys-audio"]);
  assert.equal(made.host.snapshot().ledger, {});
});

test("made by hand: imported without a change, and left as it was", async () => {
  const pci = [{ port: "00_1f.3", device: SOUND, mode: "required", options: { "no-strict-reset": "True" } }];
  const first = program();
  await first.up(ARGS);
  const policy = first.host.snapshot().files[POLICY];
  const host = machine(undefined, {
    files: policy ? { [POLICY]: policy } : {},
    qubes: {
      work: qube({ properties: { audiovm: explicit("sys-audio") } }),
      "sys-audio": qube({
        label: "black",
        properties: {
          netvm: explicit(""),
          virt_mode: explicit("hvm"),
          autostart: explicit("True"),
          maxmem: explicit("0"),
        },
        features: { servicevm: "1", "service.audiovm": "1" },
        pci,
      }),
    },
  });
  const made = program(host);
  const context = made.hosts.context("sys-audio");
  made.state = (await made.handler.read(
    { id: "lab/sys-audio", inputs: {}, outputs: {} },
    context,
  )) as ReadResult;
  assert.equal([made.outputs["state"], made.outputs["origin"]], ["unverified", "adopted"]);
  const before = everything(host.snapshot());
  assert.equal(await made.preview({ ...ARGS, devices: made.state.inputs["devices"] ?? null }), {});
  await made.destroy();
  assert.equal(everything(host.snapshot()), before);
  assert.is(await made.handler.read({ id: "lab/nosuch", inputs: {}, outputs: {} }, context), null);
});

test('a host that does not answer: an error, or with "skip" the state of the last time', async () => {
  const made = program();
  await made.up({ ...ARGS, unreachable: "skip" });
  const { settings } = made.outputs;
  made.hosts.unreachable = true;
  await made.refresh();
  assert.equal([made.outputs["looked"], made.outputs["settings"]], [false, settings]);
});

const audiovm = fc.constantFrom(byDefault, explicit("dom0"), explicit(""), explicit("vault"));
const life = fc.record({
  clients: fc.constantFrom<"default" | string[]>("default", [], ["work"], ["work", "vault"]),
  later: fc.constantFrom<"default" | string[]>("default", [], ["vault"]),
  devices: fc.constantFrom<object[]>([], [{ class: "audio" }], [{ address: "00_1c.0-00_00.0" }]),
  microphone: fc.constantFrom("denied", "allowed"),
  vcpus: fc.option(fc.constantFrom(1, 2), { nil: undefined }),
  found: fc.record({
    work: audiovm,
    vault: fc.constantFrom(byDefault, explicit("dom0"), explicit("")),
    default_audiovm: fc.constantFrom("dom0", "", "vault"),
    /** The qube is there already, as somebody has made it. */
    made: fc.option(
      fc.record({
        label: fc.constantFrom("red", "black"),
        maxmem: fc.constantFrom("0", "4000"),
        on: fc.boolean(),
      }),
      { nil: undefined },
    ),
  }),
});

test("whatever there was and is asked for: it converges, changes converge, and destroy gives back what there was", async () => {
  await fc.assert(
    fc.asyncProperty(life, async ({ clients, later, found, vcpus, ...asked }) => {
      const { work, vault, default_audiovm, made: there } = found;
      const host = machine([display(), lpc, sound(), bridge, card], {
        globals: { ...install().globals, default_audiovm: explicit(default_audiovm) },
        qubes: {
          work: qube({ properties: { audiovm: work } }),
          vault: qube({ properties: { audiovm: vault } }),
          ...(there && {
            "sys-audio": qube({
              label: there.label,
              properties: { maxmem: explicit(there.maxmem) },
              features: there.on ? { "service.audiovm": "1" } : {},
            }),
          }),
        },
      });
      const before = everything(host.snapshot());
      const made = program(host);
      for (const each of [clients, later, clients]) {
        const args = {
          ...asked,
          clients: each,
          ...(vcpus !== undefined && { vcpus }),
        } as unknown as Properties;
        await made.up(args);
        assert.is(made.outputs["state"], "ready", JSON.stringify(made.outputs["attempts"]));
        assert.equal(await made.preview(args), {});
      }
      await made.destroy();
      // One that was there before keeps running; nothing else of it is kept.
      const after = everything(host.snapshot());
      assert.equal([differing(before, after), host.snapshot().ledger], [[], {}]);
    }),
    { numRuns: 150 },
  );
});

test.run();
