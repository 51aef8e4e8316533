/** What is refused before anything is touched, each with a test that reads the message; and who waits for a restart. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import { settingsOf } from "../formula/settings.ts";
import type { Snapshot } from "../host/protocol.ts";
import { Refusal } from "../model/failure.ts";
import type { Plan } from "./changes.ts";
import { planApply } from "./changes.ts";
import {
  modeFault,
  preflight,
  preflightDelete,
  preflightRemoval,
  preflightRestore,
  startsAnew,
  waitingForRestart,
} from "./preflight.ts";
import { guiOf } from "./testing/cases.ts";
import { byDefault, explicit, HostModel, install, qube } from "./testing/hostModel.ts";

function refusal(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    if (error instanceof Refusal) return error.message;
    throw error;
  }
  return "nothing was refused";
}

/** A host as it settles by itself: defaults have their values. */
const settled = (more: Partial<Snapshot>) => new HostModel(install(more)).snapshot();
const running = { state: "Running" };
const device = { port: "00_02.0", device: "*", mode: "required", options: {} };
const hvm = { properties: { virt_mode: explicit("hvm") } };

const NO_MANAGEMENT = { globals: { management_dispvm: explicit("") } };

const REFUSED: [string, object, Partial<Snapshot>, RegExp][] = [
  [
    "a password inside it, and nothing to manage it from",
    { login: { password: "geheimes Wort" } },
    NO_MANAGEMENT,
    /no disposable to manage "sys-gui" from \(property management_dispvm\).*qvm\.default-mgmt-dvm/s,
  ],
  [
    "a password inside a qube that runs nothing of its own at its start",
    { login: { password: "geheimes Wort" } },
    { qubes: { "sys-gui": qube({ features: { "service.custom-persist": "1" } }) } },
    /qube "sys-gui" has the service custom-persist.*qvm-service --unset sys-gui custom-persist/s,
  ],
  [
    "the same of a qube that has its own setting",
    { login: { password: "geheimes Wort" } },
    { qubes: { "sys-gui": qube({ properties: { management_dispvm: explicit("") } }) } },
    /no disposable to manage "sys-gui" from/,
  ],
  [
    "not Qubes",
    {},
    { facts: { ...install().facts, qubesRelease: null } },
    /this is not a Qubes host: it has no \/etc\/qubes-release.*leads to dom0 itself/,
  ],
  [
    "release",
    {},
    { facts: { ...install().facts, qubesRelease: "Qubes release 4.2.4 (R4.2)" } },
    /its release R4\.2 is not supported; supported is R4\.3\./,
  ],
  [
    "no release",
    {},
    { facts: { ...install().facts, qubesRelease: "Fedora" } },
    /its release "Fedora" is not supported/,
  ],
  [
    "template missing",
    { template: "debian-12" },
    {},
    /template "debian-12" is not installed; installed are "fedora-43-xfce", "debian-13-xfce"\..*qvm-template install debian-12/,
  ],
  [
    "not a template",
    { template: "work" },
    {},
    /template "work" is not a template but of class AppVM; installed are/,
  ],
  ["label", { label: "pink" }, {}, /label "pink" does not exist there; labels are "red", "black", "blue"/],
  [
    "class",
    {},
    { qubes: { "sys-gui": qube({ class: "StandaloneVM" }) } },
    /qube "sys-gui" is there already, of class StandaloneVM; a GUI domain is an AppVM\..*"qube"/,
  ],
  [
    "template of a running qube",
    { template: "debian-13-xfce" },
    { qubes: { "sys-gui": qube(running) } },
    /its template cannot be changed from "fedora-43-xfce" to "debian-13-xfce" while the qube is running/,
  ],
  ["audio domain", { audiovm: "sys-audio" }, {}, /audio domain "sys-audio" does not exist there\./],
  ["viewer", { display: ["vnc"], viewers: ["nosuch"] }, {}, /viewer "nosuch" does not exist there\./],
  ["client missing", { clients: ["nosuch"] }, {}, /client "nosuch" does not exist there\..*"clients"/],
  [
    "client dom0",
    { clients: ["work"] },
    { qubes: { work: qube({ class: "AdminVM" }) } },
    /client "work" is dom0 itself, which has no GUI domain/,
  ],
  [
    "Windows client",
    { clients: ["work"] },
    { qubes: { work: qube({ features: { os: "Windows" } }) } },
    /client "work" runs Windows.*Supported are Linux qubes with the Qubes GUI agent; Windows only with dom0 as GUI domain\..*Take it out of "clients"/,
  ],
  [
    "Windows by its template",
    { clients: ["work"] },
    {
      qubes: {
        win: qube({ class: "TemplateVM", features: { os: "Windows" } }),
        work: qube({ template: "win" }),
      },
    },
    /client "work" runs Windows/,
  ],
  [
    "Windows by default",
    { clients: "default" },
    { qubes: { work: qube({ features: { os: "Windows" } }) } },
    /client "work" runs Windows.*qvm-prefs work guivm dom0/,
  ],
  [
    "HVM without agent",
    { clients: ["work"] },
    { qubes: { work: qube({ class: "StandaloneVM", template: "", ...hvm }) } },
    /client "work" is an HVM without a GUI agent \(feature "gui" is not set\).*Supported are qubes with the Qubes GUI agent/,
  ],
  [
    "HVM that says it has none",
    { clients: ["work"] },
    { qubes: { work: qube({ features: { gui: "" }, ...hvm }) } },
    /client "work" is an HVM without a GUI agent/,
  ],
];

for (const [name, args, host, message] of REFUSED)
  test(`refused: ${name}`, () => {
    const text = refusal(() => preflight(guiOf("sys-gui", { host: "lab", ...args }), settled(host)));
    assert.match(text, message);
    assert.match(text, /^GUI domain sys-gui on host lab: /);
    assert.match(text, /Nothing was changed on the host\./);
  });

const ALLOWED: [string, object, Partial<Snapshot>][] = [
  ["a fresh install", {}, {}],
  ["everything by default", { clients: "default" }, {}],
  ["HVM with the agent in its template", { clients: ["sys-net"] }, {}],
  [
    "HVM with the agent in the template of its template",
    { clients: ["sys-usb"] },
    {
      qubes: { "default-dvm": qube(), "sys-usb": qube({ class: "DispVM", template: "default-dvm", ...hvm }) },
    },
  ],
  [
    "a Windows qube that is nobody's client",
    { clients: ["vault"] },
    { qubes: { work: qube({ features: { os: "Windows" } }) } },
  ],
  [
    "a Windows qube with a GUI domain of its own",
    { clients: "default" },
    { qubes: { work: qube({ features: { os: "Windows" }, properties: { guivm: explicit("dom0") } }) } },
  ],
  ["an existing AppVM", {}, { qubes: { "sys-gui": qube(running) } }],
  ["nothing inside it, and nothing to manage it from", {}, NO_MANAGEMENT],
  [
    "custom-persist, and nothing inside it",
    {},
    { qubes: { "sys-gui": qube({ features: { "service.custom-persist": "1" } }) } },
  ],
  [
    "custom-persist that is off",
    { login: { password: "geheimes Wort" } },
    { qubes: { "sys-gui": qube({ features: { "service.custom-persist": "" } }) } },
  ],
];

for (const [name, args, host] of ALLOWED)
  test(`allowed: ${name}`, () => {
    assert.is(
      refusal(() => preflight(guiOf("sys-gui", { host: "lab", ...args }), settled(host))),
      "nothing was refused",
    );
  });

test("a qube with devices that somebody gave it cannot be of virt_mode pvh; our own go first", () => {
  const gui = guiOf("sys-gui", { host: "lab", display: ["gpu", "xephyr"] });
  const host = settled({ qubes: { "sys-gui": qube({ pci: [device] }) } });
  assert.match(
    modeFault(gui, "xephyr", host, "us")?.what ?? "",
    /qube "sys-gui" has PCI devices assigned \(00_02\.0\), so it cannot be of virt_mode pvh as mode "xephyr" needs/,
  );
  assert.match(modeFault(gui, "vnc", host, "us")?.next ?? "", /qvm-pci unassign sys-gui/);
  assert.is(modeFault(gui, "gpu", host, "us"), null);
  const entry = { owner: "us", first: null, ours: { mode: "required", options: {} }, at: 1 };
  assert.is(modeFault(gui, "xephyr", { ...host, ledger: { "device:sys-gui:00_02.0:*": entry } }, "us"), null);
});

test("packages of a halted template are unknown, those of a running one are not", () => {
  const gui = guiOf("sys-gui", { host: "lab" });
  assert.match(
    preflight(gui, settled({}))[0]?.text ?? "",
    /packages in template fedora-43-xfce are unknown until it is applied: the template is halted/,
  );
  assert.equal(
    preflight(gui, settled({ qubes: { "fedora-43-xfce": qube({ class: "TemplateVM", ...running }) } })),
    [],
  );
});

/** `sys-gui` runs; `work` has it by name, `vault` by default; the ledger says when we did that, and what was before. */
function shown(started: Record<string, string | undefined>, first = "dom0", state = "Running"): Snapshot {
  const time = (name: string) =>
    started[name] === undefined ? {} : { start_time: { default: true, value: started[name] ?? "" } };
  const entry = { owner: "urn", first: explicit(first), ours: explicit("sys-gui"), at: 100 };
  const snapshot = settled({
    qubes: {
      "sys-gui": qube({ ...running, properties: { guivm: explicit("dom0") } }),
      work: qube({ state, properties: { guivm: explicit("sys-gui"), ...time("work") } }),
      vault: qube({ state, properties: { guivm: byDefault, ...time("vault") } }),
      "sys-net": qube({ ...running, properties: { guivm: explicit("dom0") } }),
    },
    ledger: { "property:work:guivm": entry, "global:default_guivm": entry },
  });
  snapshot.globals["default_guivm"] = explicit("sys-gui");
  return new HostModel(snapshot).snapshot();
}

test("who waits for a restart", () => {
  const waiting = (...args: Parameters<typeof shown>) => waitingForRestart("sys-gui", shown(...args));
  assert.equal(waiting({ work: "99.5", vault: "100.5" }), ["work"], "started before the change");
  assert.equal(waiting({ work: "100", vault: "99" }), ["vault"]);
  assert.equal(waiting({}), ["vault", "work"], "no time says nothing, and is not taken for good");
  assert.equal(waiting({ work: "", vault: "x" }), ["vault", "work"]);
  assert.equal(waiting({ work: "1", vault: "1" }, "dom0", "Halted"), [], "halted ones start with it");
  assert.equal(waiting({ work: "1", vault: "1" }, "sys-gui"), [], "they had it before us");
  const foreign = shown({ work: "1", vault: "1" });
  foreign.ledger = {};
  assert.equal(waitingForRestart("sys-gui", foreign), [], "what we did not change is in force");
});

test("a GUI domain does not go while it shows windows", () => {
  const text = (snapshot: Snapshot) =>
    refusal(() => preflightDelete("GUI domain sys-gui", "lab", "sys-gui", snapshot));
  assert.match(
    text(shown({ work: "101", vault: "101" })),
    /cannot be removed while it shows the windows of running qubes: "vault", "work"\..*Shut them down.*Nothing is ever stopped for you/,
  );
  assert.match(text(shown({ work: "99", vault: "101" })), /running qubes: "vault"\./);
  assert.is(text(shown({ work: "99", vault: "99" })), "nothing was refused");
  assert.is(text(shown({}, "dom0", "Halted")), "nothing was refused");
  assert.is(text(settled({})), "nothing was refused");
});

test("a qube that something else names does not go, and who that is is told; what goes back is no obstacle", () => {
  const text = (change: (snapshot: Snapshot) => void, ...back: string[]) => {
    const snapshot = settled({});
    change(snapshot);
    const restores = back.map((key) => ({ key, to: null })) as Plan["restores"];
    return refusal(() => preflightRemoval("GUI domain sys-gui", "lab", "sys-gui", { restores }, snapshot));
  };
  const name =
    (qube: string, property: string, isDefault = false) =>
    (snapshot: Snapshot) => {
      const properties = snapshot.qubes[qube]?.properties ?? {};
      properties[property] = { default: isDefault, value: "sys-gui" };
    };
  assert.is(
    text(name("vault", "default_dispvm")),
    'GUI domain sys-gui on host lab: qube "sys-gui" cannot be removed while something else names it: default_dispvm of vault. ' +
      "Nothing was changed on the host. Set these to something else (qvm-prefs, qubes-prefs), then run again.",
  );
  assert.match(
    text(({ globals }) => {
      globals["clockvm"] = { default: false, value: "sys-gui" };
    }),
    /: the host's clockvm\./,
  );
  assert.is(text(name("vault", "guivm"), "property:vault:guivm"), "nothing was refused");
  assert.is(
    text(name("vault", "guivm", true)),
    "nothing was refused",
    "it follows a default, which goes back",
  );
  assert.is(text(name("sys-gui", "guivm")), "nothing was refused", "its own");
  assert.is(text(name("vault", "default_user")), "nothing was refused", "no qube");
});

test("a running qube does not get its former template back", () => {
  const text = (state: string, template: string | null) => {
    const snapshot = shown({});
    Object.assign(snapshot.qubes["sys-gui"] ?? {}, { state });
    const to = template === null ? null : { class: "AppVM", template, label: "black" };
    const restores = [{ key: "qube:sys-gui", to }];
    return refusal(() => preflightRestore("GUI domain sys-gui", "lab", "sys-gui", { restores }, snapshot));
  };
  const now = shown({}).qubes["sys-gui"]?.properties["template"]?.value ?? "";
  assert.match(
    text("Running", "debian-13-xfce"),
    /its template cannot go back from ".*" to "debian-13-xfce" while the qube is running\..*Shut "sys-gui" down/,
  );
  assert.is(text("Halted", "debian-13-xfce"), "nothing was refused");
  assert.is(text("Running", now), "nothing was refused");
  assert.is(text("Running", null), "nothing was refused", "it is removed");
});

test("services take effect at a new start, which takes nobody's windows away", () => {
  const gui = guiOf("sys-gui", { host: "lab", display: ["vnc"] });
  const live = (times: Record<string, string>, state?: string) => {
    const snapshot = shown(times, "dom0", state);
    const services = { "service.guivm": "1", "service.guivm-gui-agent": "1" };
    Object.assign(snapshot.qubes["sys-gui"]?.features ?? {}, services);
    return snapshot;
  };
  const anew = (snapshot: Snapshot, described = gui) =>
    startsAnew(
      described,
      planApply("sys-gui", settingsOf(described, described.display[0] ?? "vnc"), snapshot, "us"),
      snapshot,
    );
  assert.is(anew(live({ work: "99", vault: "99" })), true);
  assert.match(
    refusal(() => anew(live({ work: "101", vault: "99" }))),
    /its mode cannot change from "xephyr" to "vnc" while it shows the windows of running qubes: "work"\. Nothing was changed.*Shut them down/,
  );
  const used = live({ work: "99", vault: "99" });
  Object.assign(used.qubes["sys-gui"] ?? {}, { session: true });
  assert.match(
    refusal(() => anew(used)),
    /from "xephyr" to "vnc" while somebody is in its session\..*Log out of it/,
  );
  const off = live({});
  Object.assign(off.qubes["sys-gui"] ?? {}, { state: "Halted" });
  assert.is(anew(off), false, "it is off");
  assert.is(anew(settled({})), false, "it is not there");
  const xephyr = guiOf("sys-gui", { host: "lab" });
  assert.is(anew(live({ work: "99", vault: "99" }), xephyr), false, "its services are as wanted");
  const busy = live({ work: "101", vault: "99" });
  delete busy.qubes["sys-gui"]?.features["service.guivm-gui-agent"];
  assert.is(anew(busy, xephyr), false, "the same mode waits for its user to start it");
});

test.run();
