/** What is inside a template: brought once, left alone as long as it is as wanted, taken away again. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { QubeSnapshot, Snapshot } from "../host/protocol.ts";
import { Refusal } from "../model/failure.ts";
import { differing, everything, explicit, HostModel, install, qube } from "../plan/testing/hostModel.ts";
import { PartialFailure } from "./handler.ts";
import { templateHandler } from "./template.ts";
import { failing, Program } from "./testProgram.ts";

const NAME = "fedora-43-xfce";

const templateQube = (
  more: Partial<QubeSnapshot> = {},
  features: Record<string, string> = {},
): QubeSnapshot => ({
  ...qube({ class: "TemplateVM" }),
  features: {
    "os-distribution": "fedora",
    "os-version": "43",
    "template-installtime": "2026-01-01 10:00:00",
    ...features,
  },
  noRevert: null,
  ...more,
});

function hostWith(template = templateQube(), more: Partial<Snapshot> = {}): HostModel {
  const host = new HostModel(install({ ...more, qubes: { [NAME]: template, ...more.qubes } }));
  host.insides = { [NAME]: { packages: ["lightdm", "own"], files: { "/etc/own": "x" }, units: {} } };
  return host;
}
const program = (host = hostWith()) => new Program(host, NAME, templateHandler);
const insideOf = (host: HostModel) => host.insides[NAME];
const DROP_IN = "/etc/systemd/system/lightdm.service.d/50-guidomain.conf";

test("applied once, nothing to do the second time, and everything as before after delete", async () => {
  const made = program();
  const { host } = made;
  const before = everything(host.snapshot());
  const inside = structuredClone(insideOf(host));
  await made.up({ modes: ["vnc"] });
  assert.ok(insideOf(host)?.packages.includes("x11vnc"));
  assert.is(insideOf(host)?.units["lightdm.service"], "enabled");
  assert.ok(insideOf(host)?.files[DROP_IN]);
  const brought = made.outputs["brought"] as string[];
  assert.ok(brought.includes("x11vnc") && !brought.includes("lightdm") && !brought.includes("own"));
  assert.is(made.outputs["state"], "ready");

  assert.equal(await made.preview({ modes: ["vnc"] }), {});
  assert.equal(await made.up({ modes: ["vnc"] }), {});
  assert.equal([host.written, host.applies], [[NAME], 1]);

  await made.destroy();
  assert.equal({ ...insideOf(host), units: {} }, inside);
  assert.is(insideOf(host)?.units["lightdm.service"], "disabled");
  assert.equal([differing(before, everything(host.snapshot())), host.snapshot().ledger], [[], {}]);
});

test("a preview of it starts nothing and says what will be done", async () => {
  const { host, hosts, handler } = program();
  const before = everything(host.snapshot());
  const context = hosts.context(NAME, { preview: true });
  const { inputs } = await handler.check({ host: "lab", modes: ["gpu"] }, {}, context);
  const { outputs } = await handler.create(inputs, context);
  assert.equal((outputs["settings"] as { distribution: string }).distribution, "fedora");
  assert.equal([host.written, differing(before, everything(host.snapshot()))], [[], []]);
  assert.match(hosts.log.at(-1)?.message ?? "", /is started for it and shut down again: \d+ packages/);
});

test("another mode: what is no longer wanted goes, of packages those that we brought", async () => {
  const made = program();
  const { host } = made;
  await made.up({ modes: ["vnc"], packages: ["own", "more"] });
  const changes = await made.up({ modes: ["xephyr"] });
  const paths = Object.keys(changes ?? {});
  assert.ok(paths.includes("settings.packages.more"), paths.join());
  assert.ok(paths.includes("settings.digest"));
  const { packages = [], files = {} } = insideOf(host) ?? {};
  assert.ok(!packages.includes("more") && !packages.includes("x11vnc"));
  assert.ok(packages.includes("lightdm") && packages.includes("own"), "they were there before");
  assert.equal(Object.keys(files), ["/etc/own"]);
  await made.destroy();
  assert.equal(insideOf(host)?.packages, ["lightdm", "own"]);
});

test("a package that cannot be had: it is named, and everything stays as it was", async () => {
  const made = program();
  const { host } = made;
  const before = everything(host.snapshot());
  const inside = structuredClone(host.insides);
  host.lacking.add("nosuch");
  const error = await failing(PartialFailure, made.up({ packages: ["nosuch"] }));
  assert.match(error.reasons.join(), /package nosuch: No match for argument/);
  assert.equal(host.insides, inside);
  assert.equal([differing(before, everything(host.snapshot())), host.snapshot().ledger], [[], {}]);
  assert.is(made.outputs["state"], "failed");
  // The next run tries again, and it works.
  host.lacking.clear();
  await made.up({ packages: ["nosuch"] });
  assert.is(made.outputs["state"], "ready");
  assert.ok(insideOf(host)?.packages.includes("nosuch"));
});

test("a template that was installed anew is done again", async () => {
  const made = program();
  const { host } = made;
  await made.up();
  host.byHand((now) => {
    Object.assign(now.qubes[NAME]?.features ?? {}, { "template-installtime": "2026-11-30 10:00:00" });
  });
  host.insides = { [NAME]: { packages: [], files: {}, units: {} } };
  assert.equal(await made.preview(), { "settings.digest": "update" });
  assert.is(made.outputs["state"], "drifted");
  await made.up();
  assert.ok(insideOf(host)?.packages.includes("qubes-vm-guivm"));
  assert.equal(host.written, [NAME, NAME]);
});

test("what would fail, or could not be taken back, is refused before anything is started", async () => {
  const cases: [Partial<QubeSnapshot> | null, RegExp][] = [
    [{ state: "Running" }, /is running.*Shut it down \(qvm-shutdown --wait fedora-43-xfce\)/],
    [{ noRevert: "its pool main (driver file) takes no volume back" }, /could not be undone: its pool main/],
    [{ class: "AppVM" }, /is not a template but of class AppVM; templates are "debian-13-xfce"/],
    [
      { properties: { ...templateQube().properties, management_dispvm: explicit("") } },
      /no disposable to manage/,
    ],
    [{ features: {} }, /does not say of what distribution/],
    [
      { features: { "os-distribution": "arch" } },
      /is of distribution arch; packages are known of fedora and debian/,
    ],
  ];
  for (const [more, reason] of cases) {
    const made = program(hostWith(templateQube(more ?? {})));
    const error = await failing(Refusal, made.up());
    assert.match(error.message, reason);
    assert.equal([made.host.applies, made.host.written], [0, []]);
  }
  const missing = new Program(hostWith(), "nosuch", templateHandler);
  assert.match((await failing(Refusal, missing.up())).message, /"nosuch" is not installed; templates are/);
});

test("nothing is taken from under a GUI or audio domain that stays, of whomever it is", async () => {
  for (const service of ["service.guivm", "service.audiovm"]) {
    const made = program();
    await made.up();
    const written = made.host.written.length;
    made.host.byHand((now) => {
      now.qubes["theirs"] = qube({ properties: { template: explicit(NAME) }, features: { [service]: "1" } });
    });
    const error = await failing(Refusal, made.destroy());
    assert.match(
      error.message,
      /"theirs" is made from it and needs what would be taken away.*onDelete to "keep"/,
    );
    assert.is(made.host.written.length, written);
    // One that is off, or made from another template, is no matter.
    made.host.byHand((now) => {
      now.qubes["theirs"] = qube({ properties: { template: explicit(NAME) }, features: { [service]: "" } });
      now.qubes["other"] = qube({
        properties: { template: explicit("debian-13-xfce") },
        features: { [service]: "1" },
      });
    });
    await made.destroy();
    assert.is(made.host.written.length, written + 1);
  }
});

test("one that runs is no matter where there is nothing to do", async () => {
  const made = program();
  await made.up();
  made.host.byHand((now) => {
    Object.assign(now.qubes[NAME] ?? {}, { state: "Running" });
  });
  assert.equal(await made.up(), {});
  await failing(Refusal, made.destroy());
});

test("qubes that run on it since before are told", async () => {
  const made = program(
    hostWith(templateQube(), {
      qubes: { work: qube({ state: "Running", properties: { start_time: explicit("10") } }) },
    }),
  );
  await made.up();
  assert.equal((made.outputs["pending"] as { qubes: string[] }[])[0]?.qubes, ["work"]);
});

test("imported: what was noted says what it was made for", async () => {
  const made = program();
  await made.up({ modes: ["gpu", "vnc"], audio: true });
  const read = await made.handler.read(
    { id: `lab/${NAME}`, inputs: {}, outputs: {} },
    made.hosts.context(NAME),
  );
  assert.equal(read?.inputs["modes"], ["gpu", "vnc"]);
  assert.is(read?.inputs["audio"], true);
  assert.is(read?.outputs["state"], "unverified");
  const none = await made.handler.read(
    { id: "lab/work", inputs: {}, outputs: {} },
    made.hosts.context("work"),
  );
  assert.is(none, null);
});

test("two resources for one template differ before it is touched", async () => {
  const made = program();
  const other = templateHandler(made.hosts);
  const { inputs } = await other.check(
    { host: "lab", qube: NAME, modes: ["gpu"] },
    {},
    made.hosts.context("other"),
  );
  await made.up();
  const error = await failing(Refusal, other.create(inputs, made.hosts.context("other")));
  assert.match(error.message, /fedora-43-xfce/);
});

test("Debian's packages are Debian's", async () => {
  const host = hostWith(templateQube({}, { "os-distribution": "debian" }));
  const made = program(host);
  await made.up({ modes: ["gpu", "vnc"] });
  const packages = insideOf(host)?.packages ?? [];
  assert.ok(packages.includes("lightdm-gtk-greeter") && packages.includes("qubes-input-proxy-receiver"));
  assert.ok(!packages.some((name) => name.startsWith("dummy-")));
});

test.run();
