/** A device that is given for good: by what it is, once, back as it was. */
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
import { hasUnknown, type Properties, type ReadResult } from "./handler.ts";
import { pciAttachmentHandler } from "./pciAttachment.ts";
import { failing, Program } from "./testProgram.ts";

const ID = "0x8086:0x15ec::p0c0330";
const usb = (more: Partial<PciFunction> = {}): PciFunction =>
  display({
    sbdf: "0000:3a:00.0",
    port: "00_1d.0-00_00.0",
    class: "0c0330",
    device: "15ec",
    subsystem: null,
    driver: "xhci_hcd",
    name: "Thunderbolt USB",
    bootVga: null,
    rom: false,
    module: "xhci_pci",
    outputs: [],
    parent: "0000:00:1d.0",
    ...more,
  });
const bridge = display({
  sbdf: "0000:00:1d.0",
  port: "00_1d.0",
  class: "060400",
  device: "a0b3",
  outputs: [],
  bridge: { secondary: "3a", subordinate: "3a" },
});
const sata = display({
  sbdf: "0000:00:17.0",
  port: "00_17.0",
  class: "010601",
  device: "a353",
  outputs: [],
  disks: ["sda"],
});
const nic = display({
  sbdf: "0000:00:1f.6",
  port: "00_1f.6",
  class: "020000",
  device: "15be",
  outputs: [],
  driver: "pciback",
});

function machine(pci: PciFunction[] = [bridge, usb(), sata, nic], more: Partial<Snapshot> = {}): HostModel {
  const snapshot = install({
    ...more,
    qubes: { "sys-usb": qube({ properties: { virt_mode: byDefault } }), ...more.qubes },
  });
  return new HostModel({ ...snapshot, facts: { ...snapshot.facts, pci, ...more.facts } });
}
const program = (host = machine()) => new Program(host, "dock-usb", pciAttachmentHandler);
const ARGS = { qube: "sys-usb", device: { vendor: "8086", device: "15ec" } };
const assigned = (host: HostModel) => host.snapshot().qubes["sys-usb"]?.pci;

test("attach, nothing to do, drift, repair, options, delete", async () => {
  const made = program();
  const { host } = made;
  const before = everything(host.snapshot());
  await made.up(ARGS);
  assert.is(made.state?.id, "lab/sys-usb/00_1d.0-00_00.0:8086:15ec:0c0330");
  const one = { port: "*", device: ID, mode: "required", options: {} };
  assert.equal(assigned(host), [one]);
  const [attached] = made.outputs["attached"] as Properties[];
  assert.equal(
    [attached?.["sbdf"], attached?.["port"], attached?.["options"]],
    ["0000:3a:00.0", "00_1d.0-00_00.0", []],
  );
  assert.equal(attached?.["siblings"], []);
  assert.is(made.outputs["state"], "ready");
  assert.equal(await made.preview(ARGS), {});

  host.byHand((now) => {
    Object.assign(now.qubes["sys-usb"] ?? {}, { pci: [{ ...one, options: { permissive: "True" } }] });
  });
  assert.equal(await made.preview(ARGS), { [`settings.devices["${ID}"].options.permissive`]: "delete" });
  assert.is(made.outputs["state"], "drifted");
  await made.up(ARGS);
  assert.equal(assigned(host), [one]);

  await made.up({ ...ARGS, options: { noStrictReset: true } });
  assert.equal(assigned(host), [{ ...one, options: { "no-strict-reset": "True" } }]);
  await made.destroy();
  assert.equal([differing(before, everything(host.snapshot())), host.snapshot().ledger], [[], {}]);
});

test("an entry for any device in that place is replaced by one for the device, and comes back on delete", async () => {
  const any = { port: "00_1d.0-00_00.0", device: "*", mode: "required", options: {} };
  const host = machine(undefined, { qubes: { "sys-usb": qube({ pci: [any] }) } });
  const made = program(host);
  await made.up(ARGS);
  assert.equal(
    assigned(host)?.map((d) => [d.port, d.device]),
    [["*", ID]],
  );
  await made.destroy();
  assert.equal(assigned(host), [any]);
});

test("a device that moved shows its old and its new place, and is followed", async () => {
  const made = program();
  const { host } = made;
  await made.up(ARGS);
  host.byHand((now) => {
    const moved = { ...bridge, sbdf: "0000:00:1c.0", port: "00_1c.0" };
    now.facts.pci = [moved, usb({ port: "00_1c.0-00_00.0", parent: "0000:00:1c.0" }), sata];
  });
  assert.equal(await made.preview(ARGS), { [`settings.devices["${ID}"].port`]: "update" });
  await made.up(ARGS);
  assert.ok(
    made.hosts.log.some((l) =>
      /the device moved: .*00_1d\.0-00_00\.0.* → .*00_1c\.0-00_00\.0/.test(l.message),
    ),
  );
  assert.equal(
    assigned(host)?.map((d) => d.port),
    ["*"],
  );
  assert.equal(await made.preview(ARGS), {});
  assert.is(made.outputs["state"], "ready");
});

test("assigned in its place already: as good, until it moves", async () => {
  const one = { port: "00_1d.0-00_00.0", device: ID, mode: "required", options: {} };
  const host = machine(undefined, { qubes: { "sys-usb": qube({ pci: [one] }) } });
  const made = program(host);
  await made.up(ARGS);
  assert.equal(assigned(host), [one]);
  assert.equal(await made.preview(ARGS), {});
  host.byHand((now) => {
    const moved = { ...bridge, sbdf: "0000:00:1c.0", port: "00_1c.0" };
    const other = { ...nic, sbdf: "0000:3b:00.0", port: one.port };
    now.facts.pci = [moved, usb({ port: "00_1c.0-00_00.0", parent: "0000:00:1c.0" }), sata, other];
  });
  const where = `settings.devices["${ID}"]`;
  assert.equal(await made.preview(ARGS), { [`${where}.port`]: "update", [`${where}.anyPlace`]: "add" });
  await made.up(ARGS);
  assert.equal(assigned(host), [{ ...one, port: "*" }]);
  await made.destroy();
  assert.equal(assigned(host), []);
});

test("one of two that are alike is assigned in its place, and a second one that comes changes that", async () => {
  const like = usb({ sbdf: "0000:3b:00.0", port: "00_1c.0-00_00.0", parent: "0000:00:1c.0" });
  const { hosts, host } = program();
  const dock = (name: string, qube: string, address: string) => {
    const made = new Program(host, name, pciAttachmentHandler);
    return { made, args: { qube, device: { address } } };
  };
  const one = dock("one", "sys-usb", "00_1d.0-00_00.0");
  await one.made.up(one.args);
  assert.equal(
    assigned(host)?.map((d) => d.port),
    ["*"],
  );
  host.byHand((now) => {
    now.facts.pci = [...now.facts.pci, like];
  });
  assert.equal(await one.made.preview(one.args), { [`settings.devices["${ID}"].anyPlace`]: "delete" });
  await one.made.up(one.args);
  const two = dock("two", "sys-usb", "00_1c.0-00_00.0");
  await two.made.up(two.args);
  assert.equal(
    assigned(host)?.map((d) => d.port),
    ["00_1d.0-00_00.0", "00_1c.0-00_00.0"],
  );
  for (const { made, args } of [one, two]) assert.equal(await made.preview(args), {});
  assert.equal(hosts.applied, []);
});

test("a disk controller is assigned in its place: a second one of that kind may be dom0's", async () => {
  const made = program(machine([bridge, usb(), { ...sata, disks: [] }]));
  await made.up({ qube: "sys-usb", device: { class: "0106" } });
  assert.equal(
    assigned(made.host)?.map((d) => d.port),
    ["00_17.0"],
  );
});

test("what others assign beside it is drift, and is taken away", async () => {
  const made = program();
  const { host } = made;
  await made.up(ARGS);
  const [one] = assigned(host) ?? [];
  const twice = { port: "00_1d.0-00_00.0", device: ID, mode: "required", options: {} };
  for (const [beside, shown] of [
    [twice, "twice"],
    [{ ...twice, device: "*" }, "anyDevice"],
  ] as const) {
    host.byHand((now) => {
      now.qubes["sys-usb"]?.pci.push(beside);
    });
    assert.equal(await made.preview(ARGS), { [`settings.devices["${ID}"].${shown}`]: "delete" });
    await made.up(ARGS);
    assert.equal(assigned(host), [one]);
  }
});

test("what was chosen by its address is still itself when another device has that address", async () => {
  const made = program();
  const { host } = made;
  const byAddress = { qube: "sys-usb", device: { address: "00_1d.0-00_00.0" } };
  await made.up(byAddress);
  host.byHand((now) => {
    const other = usb({ class: "010802", device: "f1a8", name: "SSD" });
    const moved = {
      ...bridge,
      sbdf: "0000:00:1c.0",
      port: "00_1c.0",
      bridge: { secondary: "3b", subordinate: "3b" },
    };
    now.facts.pci = [
      bridge,
      other,
      moved,
      usb({ sbdf: "0000:3b:00.0", port: "00_1c.0-00_00.0", parent: "0000:00:1c.0" }),
    ];
  });
  await made.up(byAddress);
  assert.equal(
    assigned(host)?.map((d) => [d.port, d.device]),
    [["*", ID]],
  );
});

test("an assignment that reaches nothing any more is taken away with it, and does not come back", async () => {
  const dead = { port: "*", device: "0x8086:0x15ed::p0c0330", mode: "required", options: {} };
  const host = machine(undefined, { qubes: { "sys-usb": qube({ pci: [dead] }) } });
  const made = program(host);
  await made.up(ARGS);
  assert.equal(
    assigned(host)?.map((d) => d.device),
    [ID],
  );
  assert.equal(await made.preview(ARGS), {});
  await made.destroy();
  assert.equal(assigned(host), []);
});

test("a device that is gone: said, kept, and refused until it is back or described anew", async () => {
  const made = program();
  await made.up(ARGS);
  made.host.byHand((now) => {
    now.facts.pci = [bridge, sata];
  });
  await made.refresh();
  assert.is(made.outputs["state"], "missing");
  // A refresh asks for the difference too, and does not fail by it.
  const { id, inputs, outputs } = made.state as ReadResult;
  const asked = { id, oldInputs: inputs, oldOutputs: outputs, news: inputs };
  const { changes } = await made.handler.diff(asked, made.hosts.context("dock-usb"));
  assert.equal(changes, { "settings.devices": "update" });
  assert.match((await failing(Refusal, made.preview(ARGS))).message, /no device of this machine is/);
  assert.match((await failing(Refusal, made.up(ARGS))).message, /no device of this machine is/);
  await made.destroy();
  assert.equal(assigned(made.host), []);
});

test("another device is named that is not there: refused, and not taken for the one before", async () => {
  const made = program();
  await made.up(ARGS);
  const other = { ...ARGS, device: { vendor: "10de" } };
  for (const run of [made.preview(other), made.up(other)])
    assert.match((await failing(Refusal, run)).message, /no device of this machine is \{ vendor: "10de" \}/);
});

test("a running qube gets it when it restarts", async () => {
  const host = machine(undefined, { qubes: { "sys-usb": qube({ state: "Running" }) } });
  const made = program(host);
  await made.up(ARGS);
  assert.equal(made.outputs["pending"], [
    { kind: "restart", qubes: ["sys-usb"], why: "it gets the device when it restarts" },
  ]);
  host.byHand((now) => {
    const start_time = { default: true, value: String(now.facts.now + 1) };
    Object.assign(now.qubes["sys-usb"]?.properties ?? {}, { start_time });
  });
  await made.refresh();
  assert.equal(made.outputs["pending"], []);
});

test("import by its id, then no change; what is not assigned is not found", async () => {
  for (const port of ["00_1d.0-00_00.0", "*"]) await imported(port);
});

async function imported(port: string) {
  const any = { port, device: ID, mode: "required", options: { permissive: "True" } };
  const made = program(machine(undefined, { qubes: { "sys-usb": qube({ pci: [any] }) } }));
  const read = (id: string) =>
    made.handler.read({ id, inputs: {}, outputs: {} }, made.hosts.context("dock-usb"));
  made.state = (await read("lab/sys-usb/00_1d.0-00_00.0:8086:15ec:0c0330")) as ReadResult;
  assert.is(made.outputs["state"], "unverified");
  const { device, options } = made.state.inputs;
  assert.equal(device, { vendor: "8086", device: "15ec", address: "00_1d.0-00_00.0" });
  assert.equal(await made.preview({ qube: "sys-usb", device: device ?? null, options: options ?? null }), {});
  assert.is(await read("lab/work/00_1d.0-00_00.0:8086:15ec:0c0330"), null);
  assert.match(
    (await failing(Refusal, read("lab/sys-usb/nonsense"))).message,
    /does not say what device it is.*Give host\/qube/,
  );
}

test("two that want one device differ before anything is touched", async () => {
  const made = program();
  await made.handler.create(await made.check(ARGS), made.hosts.context("dock-usb", { preview: true }));
  const other = await made.check({ ...ARGS, qube: "work" });
  const error = await failing(
    Refusal,
    made.handler.create(other, made.hosts.context("other", { preview: true })),
  );
  assert.match(
    error.message,
    /the PCI device at 00_1d\.0-00_00\.0 is claimed by .*"dock-usb".*Give it to one qube only/,
  );
});

const BAD: [string, object, Partial<Snapshot>, RegExp][] = [
  ["unknown device", { device: { vendor: "10de" } }, {}, /no device of this machine is \{ vendor: "10de" \}/],
  ["two matches", { device: { vendor: "8086" } }, {}, /names \d devices where one is meant/],
  ["a bridge", { device: { address: "00_1d.0" } }, {}, /is part of the machine itself/],
  ["the disk controller", { device: { address: "00_17.0" } }, {}, /dom0's disks hang on .*sda/],
  ["no such qube", { qube: "nosuch" }, {}, /qube "nosuch" does not exist there/],
  ["a template", { qube: "fedora-43-xfce" }, {}, /"fedora-43-xfce" is a template, which gets no devices/],
  [
    "pvh with PCI",
    {},
    { qubes: { "sys-usb": qube({ properties: { virt_mode: explicit("pvh") } }) } },
    /qube "sys-usb" is set to virt_mode pvh, with which it does not start.*qvm-prefs sys-usb virt_mode hvm/,
  ],
  [
    "a device used by a running qube",
    {},
    {
      qubes: {
        other: qube({
          state: "Running",
          pci: [{ port: "00_1d.0-00_00.0", device: ID, mode: "required", options: {} }],
        }),
      },
    },
    /belongs to qube "other", which is running/,
  ],
  [
    "the network card of the way in",
    { device: { address: "00_1f.6" } },
    {
      qubes: {
        "sys-net": qube({
          state: "Running",
          properties: { provides_network: explicit("True"), virt_mode: explicit("hvm") },
          pci: [{ port: "00_1f.6", device: "*", mode: "required", options: {} }],
        }),
      },
    },
    /belongs to qube "sys-net", which is running and gives other qubes their network, perhaps the way to this host/,
  ],
  [
    "the only keyboard",
    {},
    { facts: { ...install().facts, keyboards: ["usb:0000:3a:00.0"] } },
    /the only keyboard hangs on Thunderbolt USB/,
  ],
  [
    "no IOMMU",
    {},
    { facts: { ...install().facts, xen: { ...install().facts.xen, iommu: false } } },
    /no IOMMU in use/,
  ],
];
for (const [name, args, host, message] of BAD)
  test(`refused: ${name}`, async () => {
    const facts = { ...(host.facts ?? install().facts), pci: [bridge, usb(), sata, nic] };
    const made = program(machine(facts.pci, { ...host, facts }));
    const before = made.host.snapshot();
    const asked = { ...ARGS, ...args } as Properties;
    assert.not(hasUnknown(await made.check(asked)), "outside a preview the engine takes no unknown");
    const error = await failing(Refusal, made.up(asked));
    assert.match(error.message, message);
    assert.match(error.message, /^PCI attachment of .* on host lab: .*Nothing was changed on the host\./);
    assert.equal([made.host.snapshot(), made.hosts.applied], [before, []]);
  });

const MALFORMED: [object, ...string[]][] = [
  [{ device: undefined }, "device: missing", 'vendor: "8086"'],
  [{ devices: [{ class: "usb" }] }, "devices: device and devices are both given"],
  [{ device: { class: "toaster" } }, 'device.class: "toaster" is not allowed', '"usb"'],
  [{ qube: "a b" }, 'qube: "a b" is not a qube\'s name'],
  [{ options: { permissive: 1 } }, "options.permissive: 1 is not allowed", "true or false"],
  [{ options: { strict: true } }, "options.strict: there is no such part"],
  [{ colour: "red" }, "colour: not a property of a PCI attachment", "allowed are device, devices"],
];
for (const [args, ...texts] of MALFORMED)
  test(`malformed: ${JSON.stringify(args)}`, async () => {
    const made = program();
    const { device: _, ...rest } = { ...ARGS, ...args } as Properties;
    const news = { host: "lab", ...rest, ...(_ !== undefined && { device: _ }) };
    const { failures } = await made.handler.check(news, {}, made.hosts.context("dock-usb"));
    assert.is(failures.length, 1, JSON.stringify(failures));
    for (const text of texts)
      assert.ok(`${failures[0]?.property}: ${failures[0]?.reason}`.includes(text), JSON.stringify(failures));
  });

test.run();
