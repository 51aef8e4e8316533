/** Rendered formulas: their structure, read back as YAML; and that no value can break out of its place. */
import { spawnSync } from "node:child_process";
import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { parse } from "yaml";
import { parseAudioDomain } from "../model/audioDomain.ts";
import { NOT_THIS_BOOT } from "../model/gpu.ts";
import type { Restore } from "../plan/changes.ts";
import { inTwoParts } from "../plan/rungs.ts";
import { guiOf } from "../plan/testing/cases.ts";
import { Evaluator } from "../policy/evaluate.ts";
import { loadPolicy } from "../policy/load.ts";
import { rulesOf } from "../policy/rules.ts";
import { audioSettingsOf } from "./audioSettings.ts";
import { afterFormulaOf, devicesFormulaOf, formulaOf, keepFormulaOf } from "./formula.ts";
import { slsName } from "./names.ts";
import { settingsOf } from "./settings.ts";
import { render, Unquotable, yaml } from "./templates.ts";

/** Everything that YAML, Jinja, a policy or a shell could take for something else. */
const hostile = fc.oneof(
  fc.string({ unit: "binary" }),
  fc.string({
    unit: fc.constantFrom(
      ..."\"'\\\n\r\t\0\u0085\u2028\u2029\ufeff\ufffe\uffff{}%#:-?&*!|>@` ",
      "😀",
      "{{",
      "}}",
      "{%",
      "- ",
      ": ",
      " #",
    ),
  }),
  fc.constantFrom(
    "",
    "~",
    "null",
    "true",
    "yes",
    "on",
    "0o17",
    "1e3",
    "4000",
    "=",
    "<<",
    "---",
    "...",
    "!!python/object",
    "2001-01-01",
    "1:30",
  ),
);

const described = (args: object = {}) => guiOf("sys-gui", { host: "lab", clients: ["work"], ...args });

function states(text: string): Record<string, Record<string, unknown>> {
  assert.ok(text.startsWith("#!yaml\n"), "no Jinja");
  return parse(text) as Record<string, Record<string, unknown>>;
}

test("a Xephyr GUI domain: the states in their order", () => {
  const { sls, files } = formulaOf({
    qube: "sys-gui",
    mode: "xephyr",
    settings: settingsOf(described(), "xephyr"),
    restores: [],
  });
  assert.is(sls, "guidomain.sys-gui");
  assert.equal(Object.keys(files).sort(), [
    "guidomain/sys-gui/files/50-gui-sys-gui.policy",
    "guidomain/sys-gui/files/51-gui-sys-gui.policy",
    "guidomain/sys-gui/files/sys-gui.desktop",
    "guidomain/sys-gui/init.sls",
  ]);
  const parsed = states(files["guidomain/sys-gui/init.sls"] ?? "");
  const policy = "/etc/qubes/policy.d/50-gui-sys-gui.policy";
  assert.equal(Object.keys(parsed), [
    "sys-gui packages dummy-backlight-dom0,dummy-psu-sender",
    "sys-gui qube",
    "sys-gui properties",
    "sys-gui features",
    "sys-gui services",
    policy,
    policy.replace("50-", "51-"),
    "/usr/share/xsessions/sys-gui.desktop",
    "sys-gui client work",
  ]);
  assert.equal(parsed["sys-gui packages dummy-backlight-dom0,dummy-psu-sender"], {
    "pkg.installed": [{ pkgs: ["dummy-backlight-dom0", "dummy-psu-sender"] }, { failhard: true }],
  });
  assert.equal(parsed["sys-gui qube"], {
    "qube.present": [
      { name: "sys-gui" },
      { class: "AppVM" },
      { template: "fedora-43-xfce" },
      { label: "black" },
    ],
  });
  const set = {
    netvm: "",
    guivm: "dom0",
    audiovm: "dom0",
    virt_mode: "pvh",
    autostart: "True",
    maxmem: "4000",
  };
  assert.equal(parsed["sys-gui properties"], {
    "qube.properties": [{ name: "sys-gui" }, { set }, { require: [{ qube: "sys-gui qube" }] }],
  });
  assert.equal(parsed["sys-gui services"], {
    "qube.services": [
      { name: "sys-gui" },
      { on: ["guivm", "guivm-gui-agent"] },
      { require: [{ qube: "sys-gui qube" }] },
    ],
  });
  assert.equal(parsed[policy], {
    "file.managed": [
      { source: "salt://guidomain/sys-gui/files/50-gui-sys-gui.policy?saltenv=user" },
      { mode: "0644" },
      { makedirs: true },
      { check_cmd: "qubes-policy-lint" },
      { require: [{ qube: "sys-gui properties" }] },
    ],
  });
  assert.equal(parsed["sys-gui client work"], {
    "qube.properties": [
      { name: "work" },
      { set: { guivm: "sys-gui" } },
      { require: [{ qube: "sys-gui services" }] },
    ],
  });
});

test("VNC by default: no session file, the default GUI domain last", () => {
  const gui = described({ display: ["vnc"], clients: "default", hostPackages: [] });
  const { files } = formulaOf({
    qube: "sys-gui",
    mode: "vnc",
    settings: settingsOf(gui, "vnc"),
    restores: [],
  });
  const parsed = states(files["guidomain/sys-gui/init.sls"] ?? "");
  assert.equal(Object.keys(parsed), [
    "sys-gui qube",
    "sys-gui properties",
    "sys-gui features",
    "sys-gui services",
    "/etc/qubes/policy.d/50-gui-sys-gui.policy",
    "/etc/qubes/policy.d/51-gui-sys-gui.policy",
    "sys-gui defaults",
  ]);
  assert.equal(parsed["sys-gui defaults"], {
    "qube.global_properties": [
      { name: "defaults" },
      { set: { default_guivm: "sys-gui" } },
      { require: [{ qube: "sys-gui services" }] },
    ],
  });
});

const DEVICE = "0x8086:0x9a49::p030000";
const GRANT = {
  devices: { [DEVICE]: { port: "00_02.0", options: { permissive: "True" } } },
  inputs: [{ qube: "sys-usb", service: "qubes.InputMouse", argument: "*", answer: "allow" as const }],
  kernelOptions: null,
};
const gpu = () => settingsOf(described({ display: ["gpu"] }), "gpu", GRANT);

test("a GPU domain: hvm before its devices, and nothing starts it before the guard lets it", () => {
  const { files } = formulaOf({ qube: "sys-gui", mode: "gpu", settings: gpu(), restores: [] });
  const parsed = states(files["guidomain/sys-gui/init.sls"] ?? "");
  assert.equal(Object.keys(parsed), [
    "sys-gui packages dummy-psu-sender,qubes-input-proxy-sender",
    "sys-gui qube",
    "sys-gui properties",
    "sys-gui devices",
    "sys-gui features",
    "sys-gui services",
    "/etc/qubes/policy.d/50-gui-sys-gui.policy",
    "/etc/qubes/policy.d/51-gui-sys-gui.policy",
    "/etc/qubes/input-proxy-target",
    "/etc/systemd/system/qubes-vm@sys-gui.service.d/50-guidomain.conf",
    "/etc/qubes/policy.d/45-gui-sys-gui.policy",
    "sys-gui client work",
    "sys-gui boot",
  ]);
  assert.equal(parsed["sys-gui devices"], {
    "qube.devices": [
      { name: "sys-gui" },
      { assign: { [`00_02.0:${DEVICE}`]: { permissive: "True" } } },
      { unassign: ["00_02.0:*"] },
      { require: [{ qube: "sys-gui properties" }] },
    ],
  });
  assert.equal(parsed["sys-gui features"]?.["qube.features"], [
    { name: "sys-gui" },
    { set: { "video-model": "none", "input-dom0-proxy": "true", "prohibit-start": NOT_THIS_BOOT } },
    { require: [{ qube: "sys-gui qube" }] },
  ]);
  assert.equal(parsed["sys-gui boot"]?.["boot.args"], [
    { name: "sys-gui" },
    { add: ["rd.qubes.hide_pci=00_02.0", "systemd.mask=lightdm.service", "guidomain.gpu=sys-gui"] },
  ]);
  assert.equal(rulesOf(files["guidomain/sys-gui/files/45-gui-sys-gui.policy"] ?? ""), [
    "qubes.InputMouse * sys-usb dom0 allow user=root target=sys-gui",
    "qubes.InputMouse * sys-usb sys-gui allow user=root",
  ]);
});

test("what a confirmed boot adds is a formula of its own", () => {
  const { kept, staged } = inTwoParts(gpu());
  assert.equal([staged.properties["autostart"], staged.bootArguments], ["False", {}]);
  const later: Restore[] = [{ key: "bootarg:rd.qubes.hide_pci=00_03.0", to: null }];
  const { sls, files } = keepFormulaOf({ qube: "sys-gui", settings: kept, restores: later });
  assert.is(sls, "guidomain.sys-gui.keep");
  assert.equal(Object.keys(files), ["guidomain/sys-gui/keep/init.sls"]);
  const parsed = states(Object.values(files)[0] ?? "");
  assert.equal(Object.keys(parsed), ["sys-gui boot", "sys-gui start", "sys-gui back boot"]);
  assert.equal(parsed["sys-gui start"]?.["qube.properties"], [
    { name: "sys-gui" },
    { set: { autostart: "True" } },
  ]);
  assert.equal(parsed["sys-gui back boot"]?.["boot.args"], [
    { name: "sys-gui" },
    { add: [] },
    { remove: ["rd.qubes.hide_pci=00_03.0"] },
  ]);
});

test("what goes for good is a formula of its own: a qube before the packages that serve it", () => {
  const { sls, files } = afterFormulaOf("qubes", "sys-gui", "gui", [
    { key: "package:dummy-psu-sender", to: null },
    { key: "qube:sys-gui", to: null },
  ]);
  assert.is(sls, "guidomain.sys-gui.after");
  assert.equal(Object.keys(files), ["guidomain/sys-gui/after/init.sls"]);
  assert.equal(states(Object.values(files)[0] ?? ""), {
    "sys-gui back qube sys-gui": { "qube.absent": [{ name: "sys-gui" }] },
    "sys-gui back packages": { "pkg.removed": [{ pkgs: ["dummy-psu-sender"] }] },
  });
});

test("a display goes back before its qube can be pvh again; what others had assigned comes back last", () => {
  const restores: Restore[] = [
    { key: `device:sys-gui:00_02.0:${DEVICE}`, to: null },
    { key: "device:sys-gui:00_02.0:*", to: { mode: "required", options: { permissive: "True" } } },
  ];
  const settings = settingsOf(described(), "xephyr");
  const { files } = formulaOf({ qube: "sys-gui", mode: "xephyr", settings, restores });
  const ids = Object.keys(states(files["guidomain/sys-gui/init.sls"] ?? ""));
  const at = (id: string) => ids.indexOf(`sys-gui ${id}`);
  assert.ok(at("qube") < at("back devices sys-gui"));
  assert.ok(at("back devices sys-gui") < at("properties"));
  assert.is(at("back device sys-gui 00_02.0:*"), ids.length - 1);
});

test("a qube that is to go waits quietly for the boot without it", () => {
  const { files } = formulaOf({
    qube: "sys-gui",
    mode: "gpu",
    settings: null,
    restores: [{ key: "file:/etc/qubes/input-proxy-target", to: null }],
    quiet: [`00_02.0:${DEVICE}`],
  });
  const parsed = states(files["guidomain/sys-gui/init.sls"] ?? "");
  assert.equal(Object.keys(parsed), [
    "sys-gui quiet",
    "sys-gui quiet start",
    "sys-gui quiet devices",
    "/etc/qubes/input-proxy-target",
  ]);
  assert.equal(parsed["sys-gui quiet devices"]?.["qube.devices"], [
    { name: "sys-gui" },
    { unassign: [`00_02.0:${DEVICE}`] },
  ]);
});

test("devices of a qube, apart from any GUI domain", () => {
  const { sls, files } = devicesFormulaOf({
    qube: "sys_usb",
    name: "ab12",
    assign: { "00_14.0:0x8086:0xa0ed::p0c0330": {} },
    unassign: ["00_14.0:*"],
  });
  assert.equal(
    [sls, Object.keys(files)],
    ["guidomain.sys__usb.pci-ab12", ["guidomain/sys__usb/pci-ab12/init.sls"]],
  );
  assert.equal(states(Object.values(files)[0] ?? "")["sys_usb devices"]?.["qube.devices"], [
    { name: "sys_usb" },
    { assign: { "00_14.0:0x8086:0xa0ed::p0c0330": {} } },
    { unassign: ["00_14.0:*"] },
  ]);
});

const audioDomain = (args: object) => {
  const parsed = parseAudioDomain("sys-audio", { host: "lab", ...args });
  if ("faults" in parsed) throw new Error(JSON.stringify(parsed.faults));
  return parsed.audio;
};
const CARD = { "0x8086:0x02c8::p040300": { port: "00_1f.3", options: { "no-strict-reset": "True" } } };

test("an audio domain: its files lie apart from those of a GUI domain; devices before clients", () => {
  const audio = audioDomain({ clients: ["work"], microphone: "allowed" });
  const settings = audioSettingsOf(audio, CARD);
  const { sls, files } = formulaOf({
    qube: "sys-audio",
    part: "audio",
    mode: "audio",
    settings,
    restores: [],
  });
  assert.is(sls, "guidomain.sys-audio.audio");
  assert.equal(Object.keys(files).sort(), [
    "guidomain/sys-audio/audio/files/40-audio-sys-audio.policy",
    "guidomain/sys-audio/audio/init.sls",
  ]);
  const parsed = states(files["guidomain/sys-audio/audio/init.sls"] ?? "");
  assert.equal(Object.keys(parsed), [
    "sys-audio qube",
    "sys-audio properties",
    "sys-audio devices",
    "sys-audio features",
    "sys-audio services",
    "/etc/qubes/policy.d/40-audio-sys-audio.policy",
    "sys-audio client work",
  ]);
  assert.equal(parsed["sys-audio client work"]?.["qube.properties"], [
    { name: "work" },
    { set: { audiovm: "sys-audio" } },
    { require: [{ qube: "sys-audio services" }] },
  ]);
});

test("what an audio domain may ask, as allowed and denied pairs", () => {
  const is = (...tags: string[]) => ({
    class: "AppVM",
    tags,
    template_for_dispvms: false,
    default_dispvm: null,
    running: true,
  });
  const facts = {
    dom0: { ...is(), class: "AdminVM" },
    "sys-audio": is(),
    work: is("audiovm-sys-audio"),
    vault: is("audiovm-dom0"),
  };
  const asks = (microphone: string, target: string, call: string) => {
    const { files } = audioSettingsOf(audioDomain({ clients: ["work"], microphone }), {});
    const { rules, faults } = loadPolicy(files);
    assert.equal(faults, []);
    const [service = "", ...argument] = call.split("+");
    const asked = { service, argument: `+${argument.join("+")}`, source: "sys-audio", target };
    return new Evaluator(rules, facts).evaluate(asked).decision === "allow";
  };
  const mic = "admin.vm.device.mic.Attach+dom0+mic";
  for (const [target, call] of [
    ["dom0", "admin.Events+"],
    ["work", "admin.vm.CurrentState+"],
    ["work", "admin.vm.property.Get+xid"],
    ["work", "admin.vm.feature.CheckWithTemplate+audio-model"],
  ] as const)
    assert.is(asks("denied", target, call), true, `${target} ${call}`);
  for (const [target, call] of [
    ["vault", "admin.vm.property.Get+xid"],
    ["work", "admin.vm.property.Get+guivm"],
    ["work", "admin.vm.property.Set+audiovm"],
    ["dom0", "admin.vm.property.Get+xid"],
    ["work", mic],
    ["work", "qubes.StartApp+firefox"],
  ] as const)
    assert.is(asks("denied", target, call), false, `${target} ${call}`);
  assert.equal(
    [
      asks("allowed", "work", mic),
      asks("allowed", "vault", mic),
      asks("allowed", "work", "admin.vm.device.pci.Attach+x"),
    ],
    [true, false, false],
  );
});

test("a shared audio domain is nothing but service, devices, policy and clients", () => {
  const audio = audioDomain({ qube: "sys-usb", shared: true, clients: "default", emulated: ["win"] });
  const settings = audioSettingsOf(audio, {});
  const { files } = formulaOf({ qube: "sys-usb", part: "audio", mode: "audio", settings, restores: [] });
  const parsed = states(files["guidomain/sys-usb/audio/init.sls"] ?? "");
  assert.equal(Object.keys(parsed), [
    "sys-usb services",
    "/etc/qubes/policy.d/40-audio-sys-usb.policy",
    "sys-usb sound card win",
    "sys-usb defaults",
  ]);
  assert.equal(parsed["sys-usb services"]?.["qube.services"], [{ name: "sys-usb" }, { on: ["audiovm"] }]);
});

test("what goes back: clients and defaults first, the qube after them, packages last", () => {
  const { files } = formulaOf({
    qube: "sys-gui",
    mode: "xephyr",
    settings: null,
    restores: [
      { key: "package:dummy-psu-sender", to: null },
      { key: "qube:sys-gui", to: null },
      {
        key: "file:/etc/qubes/policy.d/50-gui-sys-gui.policy",
        to: { content: "a * b c allow\n", mode: "0640" },
      },
      { key: "file:/usr/share/xsessions/sys-gui.desktop", to: null },
      { key: "property:work:guivm", to: { default: true, value: "dom0" } },
      { key: "property:vault:guivm", to: { default: false, value: "" } },
      { key: "feature:vault:guivm", to: "" },
      { key: "feature:vault:x", to: null },
      { key: "global:default_guivm", to: { default: false, value: "dom0" } },
    ],
  });
  const parsed = states(files["guidomain/sys-gui/init.sls"] ?? "");
  const before = (one: string, other: string) => {
    const ids = Object.keys(parsed);
    assert.ok(ids.includes(one) && ids.includes(other), ids.join(", "));
    assert.ok(ids.indexOf(one) < ids.indexOf(other), `${one} before ${other}`);
  };
  before("sys-gui back global default_guivm", "sys-gui back qube sys-gui");
  before("sys-gui back property work guivm", "sys-gui back qube sys-gui");
  before("sys-gui back qube sys-gui", "sys-gui back packages");
  assert.equal(parsed["sys-gui back property work guivm"], {
    "qube.properties": [{ name: "work" }, { reset: ["guivm"] }],
  });
  assert.equal(parsed["sys-gui back property vault guivm"], {
    "qube.properties": [{ name: "vault" }, { set: { guivm: "" } }],
  });
  assert.equal(parsed["sys-gui back feature vault guivm"], {
    "qube.features": [{ name: "vault" }, { set: { guivm: "" } }],
  });
  assert.equal(parsed["sys-gui back feature vault x"], {
    "qube.features": [{ name: "vault" }, { unset: ["x"] }],
  });
  assert.equal(parsed["/usr/share/xsessions/sys-gui.desktop"], { "file.absent": [] });
  assert.equal(parsed["sys-gui back packages"], { "pkg.removed": [{ pkgs: ["dummy-psu-sender"] }] });
  assert.is(files["guidomain/sys-gui/before/50-gui-sys-gui.policy"], "a * b c allow\n");
});

test("any text survives YAML, as our parser reads it", () => {
  fc.assert(
    fc.property(hostile, (text) => assert.is(parse(`- ${yaml(text)}`)[0], text)),
    { numRuns: 2000 },
  );
  fc.assert(
    fc.property(hostile, hostile, (key, value) =>
      assert.equal(parse(`${yaml(key)}: ${yaml(value)}`), { [key]: value }),
    ),
  );
  assert.is(yaml(true), "true");
  const half = fc.tuple(hostile, fc.constantFrom("\ud800", "\udfff")).map((parts) => parts.join(""));
  fc.assert(
    fc.property(half, (text) =>
      assert.throws(
        () => yaml(text),
        (e: unknown) => e instanceof Unquotable && /half of a surrogate pair/.test(e.message),
      ),
    ),
  );
});

test("any text survives YAML, as Salt's parser reads it", () => {
  const texts = [...fc.sample(hostile, 2000), "😀", "\u0085\u2028\u2029\ufeff"];
  const program =
    "import json, sys, yaml; print(json.dumps(yaml.load(sys.stdin.buffer, yaml.CSafeLoader if hasattr(yaml, 'CSafeLoader') else yaml.SafeLoader)))";
  const python = [".venv/bin/python3", "python3"].map((command) =>
    spawnSync(command, ["-c", program], {
      input: texts.map((text) => `- ${yaml(text)}\n`).join(""),
      encoding: "utf8",
      maxBuffer: 1 << 26,
    }),
  );
  const ran = python.find((p) => p.status === 0);
  if (!ran && python.every((p) => p.error || /No module named '?yaml/.test(p.stderr))) {
    console.log("  no PyYAML here: not compared");
    return;
  }
  assert.ok(ran, python.map((p) => p.stderr).join("\n"));
  assert.equal(JSON.parse(ran.stdout), texts);
});

test("hostile values in a formula stay values", () => {
  fc.assert(
    fc.property(hostile, hostile, (value, feature) => {
      const settings = { ...settingsOf(described(), "xephyr"), label: value, features: { [feature]: value } };
      const { files } = formulaOf({
        qube: "sys-gui",
        mode: "xephyr",
        settings,
        restores: [{ key: `feature:work:${feature}`, to: value }],
      });
      const parsed = states(files["guidomain/sys-gui/init.sls"] ?? "");
      assert.equal((parsed["sys-gui features"]?.["qube.features"] as unknown[])[1], {
        set: { [feature]: value },
      });
      assert.equal((parsed["sys-gui qube"]?.["qube.present"] as unknown[])[3], { label: value });
      assert.equal((parsed[`sys-gui back feature work ${feature}`]?.["qube.features"] as unknown[])[1], {
        set: { [feature]: value },
      });
      assert.is(Object.keys(parsed).length, 10);
    }),
  );
});

test("a policy, an INI file and a comment refuse what they cannot hold", () => {
  const refuses = (name: string, data: object, place: RegExp) => {
    try {
      render(name, data);
    } catch (error) {
      assert.instance(error, Unquotable);
      assert.match((error as Error).message, place);
      return true;
    }
    return false;
  };
  const good = /^[A-Za-z0-9_.-]+$/;
  fc.assert(
    fc.property(hostile, (text) => {
      const policy = { qube: text, battery: false, brightness: false, viewers: [] };
      assert.is(
        refuses("qubes/gui.policy", policy, /cannot be written in a policy, where a name ends at a blank/),
        !good.test(text),
      );
      assert.is(
        refuses("qubes/gui.policy", { ...policy, qube: "x", viewers: [text] }, /in a policy/),
        !good.test(text),
      );
      assert.is(
        refuses("qubes/xsession.desktop", { qube: text }, /cannot be written in an INI file/),
        !good.test(text),
      );
      const session = { session: "x", user: text };
      assert.is(
        refuses("dom0/lightdm-session.conf", session, /in an INI file/),
        text !== "" && !good.test(text),
      );
      const formula = () =>
        formulaOf({ qube: "sys-gui", mode: text, settings: settingsOf(described(), "xephyr"), restores: [] });
      if (/^[ -~]*$/.test(text)) formula();
      else assert.throws(formula, /cannot be written in a comment/);
    }),
  );
});

test("the session files", () => {
  const { files } = settingsOf(described({ session: "autologin", sessionUser: "alice" }), "xephyr");
  const keys = (text = "") => rulesOf(text);
  assert.equal(keys(files["/usr/share/xsessions/sys-gui.desktop"]), [
    "[Desktop Entry]",
    "Name=GUI Domain (sys-gui)",
    "Exec=qubes-guivm-session sys-gui",
    "Type=Application",
  ]);
  assert.equal(keys(files["/etc/lightdm/lightdm.conf.d/50-guidomain-session.conf"]), [
    "[Seat:*]",
    "user-session=sys-gui",
    "autologin-user=alice",
    "autologin-session=sys-gui",
  ]);
});

test("the names of no two qubes meet in one SLS, and no path of a formula looks like a way up", () => {
  const name = fc.string({ unit: fc.constantFrom("a", "d", "_", ".", "-", "D"), minLength: 1, maxLength: 6 });
  fc.assert(
    fc.property(name, name, (a, b) => {
      assert.is(slsName(a) === slsName(b), a === b);
      assert.match(slsName(a), /^[A-Za-z0-9_-]+$/);
      const qube = `x${a}`;
      const { files } = formulaOf({
        qube,
        mode: "xephyr",
        // A GUI domain takes no name with a dot; a qube that is given a device does.
        settings: settingsOf({ ...guiOf("x", { host: "lab" }), qube }, "xephyr"),
        restores: [],
      });
      for (const file of Object.keys(files))
        assert.ok(/^guidomain\/[A-Za-z0-9_./-]+$/.test(file) && !file.includes(".."), file);
    }),
    { numRuns: 2000 },
  );
});

test.run();
