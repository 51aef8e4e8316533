import { test } from "uvu";
import * as assert from "uvu/assert";
import { HostError } from "../host/errors.ts";
import { HostModel, install, laptop } from "../plan/testing/hostModel.ts";
import type { Properties } from "./handler.ts";
import { hostHandler } from "./host.ts";
import { TestHosts } from "./testHosts.ts";

function made(more = {}) {
  const model = new HostModel(install(more));
  const hosts = new TestHosts({ lab: model });
  return { model, hosts, handler: hostHandler(hosts), context: hosts.context("lab") };
}

test("check: the name is the resource's unless given; what is wrong is named", async () => {
  const { handler, context } = made();
  const check = async (news: Parameters<typeof handler.check>[0]) => handler.check(news, {}, context);
  assert.equal(await check({}), { inputs: { name: "lab", unreachable: "fail" }, failures: [] });
  const wrong = async (news: Parameters<typeof handler.check>[0]) =>
    (await check(news)).failures.map((f) => `${f.property}: ${f.reason}`).join("\n");
  assert.is(await wrong({ name: "other" }), 'name: there is no host "other"');
  assert.match(await wrong({ name: "a b" }), /^name: "a b" is not a host's name/);
  assert.match(await wrong({ name: 3 }), /^name: /);
  assert.match(
    await wrong({ unreachable: "no" }),
    /^unreachable: .*"no" is not allowed; allowed are "fail", "skip"/,
  );
  assert.match(
    await wrong({ address: "x" }),
    /^address: not a property of a host; allowed are name, unreachable.*guidomain:hosts/,
  );
});

test("facts: those that stay, not those that differ at each look", async () => {
  const { handler, context, model } = made();
  const inputs = { name: "lab", unreachable: "fail" };
  const { id, outputs } = await handler.create(inputs, context);
  assert.equal(
    [id, outputs["release"], outputs["platform"], outputs["xen"]],
    ["lab", "R4.3", "qubes", "4.19.3"],
  );
  assert.equal(outputs["templates"], ["fedora-43-xfce", "debian-13-xfce"]);
  assert.equal(outputs["modes"], {
    gpu: { verdict: "no", reasons: ["which display a person looks at is not known; select one"] },
    xephyr: { verdict: "go", reasons: [] },
    vnc: { verdict: "go", reasons: [] },
    rdp: { verdict: "go", reasons: [] },
  });
  model.byHand((now) => {
    now.facts.xen.freeMemory = 1;
  });
  assert.equal(await handler.read({ id, inputs, outputs }, context), { id, inputs, outputs });
  const imported = await handler.read({ id, inputs: {}, outputs: {} }, context);
  assert.equal(imported, { id, inputs, outputs });
  const { changes } = await handler.diff(
    { id, oldInputs: inputs, oldOutputs: outputs, news: { ...inputs, name: "other" } },
    context,
  );
  assert.equal(changes, { name: "update-replace" });
});

test("inventory, verdicts, boot facts, fingerprint, and what the guard did", async () => {
  const { handler, context, model } = made(laptop());
  const { outputs } = await handler.create({ name: "lab" }, context);
  const [fn] = outputs["pci"] as Properties[];
  assert.equal(
    [fn?.["sbdf"], fn?.["port"], fn?.["path"], fn?.["reset"], fn?.["outputs"]],
    [
      "0000:00:02.0",
      "00_02.0",
      "00_02.0",
      ["flr"],
      [{ name: "card0-eDP-1", connected: true, enabled: true }],
    ],
  );
  const verdicts = (o: Properties) =>
    Object.entries(o["modes"] as Properties).map(([mode, is]) => `${mode} ${(is as Properties)["verdict"]}`);
  assert.equal(verdicts(outputs), ["gpu go", "xephyr go", "vnc go", "rdp go"]);
  assert.equal(
    [outputs["oneShotBoot"], outputs["oneShotBootWhy"], outputs["unattendedBoot"]],
    [true, "/boot is ext4 on a partition", true],
  );
  assert.equal(outputs["fingerprint"], {
    gpu: ["8086:9a49 17aa:22d5"],
    firmware: "LENOVO 20N2 1.80",
    xen: "4.19.3",
    kernel: "6.12.59-1.qubes.fc41.x86_64",
  });
  assert.equal(outputs["guard"], { watches: null, outcome: null });
  model.byHand((now) => {
    now.facts.xen.iommu = false;
    now.watch = { qube: "sys-gui", owner: "urn", tokens: [], ports: [] };
    const outcome = { id: "t", owner: "urn", phase: "watch", at: 1, bootId: "b", left: {} };
    now.outcome = { ...outcome, what: "rescued", why: "black screen" };
  });
  const later = await handler.read({ id: "lab", inputs: { name: "lab" }, outputs }, context);
  const now = later?.outputs ?? {};
  assert.equal(verdicts(now), ["gpu no", "xephyr go", "vnc go", "rdp go"]);
  assert.match(JSON.stringify(now["modes"]), /no IOMMU in use/);
  assert.equal(now["guard"], {
    watches: "sys-gui",
    outcome: { what: "rescued", why: "black screen", left: [] },
  });
});

test("not a Qubes host is an error; one that does not answer keeps its state where that is asked for", async () => {
  const none = made({ facts: { ...install().facts, qubesRelease: null } });
  const failed = await none.handler.create({ name: "lab" }, none.context).catch((e: Error) => e.message);
  assert.match(String(failed), /^Host lab on host lab: this is not a Qubes host/);
  const { handler, hosts, context } = made();
  hosts.unreachable = true;
  const state = { id: "lab", inputs: { name: "lab", unreachable: "fail" }, outputs: { kernel: "6" } };
  assert.instance(await handler.read(state, context).catch((e: unknown) => e), HostError);
  const skipping = { ...state, inputs: { name: "lab", unreachable: "skip" } };
  assert.equal(await handler.read(skipping, context), {
    ...skipping,
    outputs: { kernel: "6", looked: false },
  });
  assert.is(hosts.log.at(-1)?.options?.severity, "error");
});

test.run();
