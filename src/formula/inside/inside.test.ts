import { spawnSync } from "node:child_process";
import { test } from "uvu";
import * as assert from "uvu/assert";
import YAML from "yaml";
import { parseGuiDomain } from "../../model/guiDomain.ts";
import { DISTRIBUTIONS, parseTemplate, TEMPLATE_MODES, type Template } from "../../model/template.ts";
import { digestOf, file, qubeTogether, together } from "./inside.ts";
import { qubeInside } from "./qube.ts";
import { generationOf, templateFormula } from "./render.ts";
import { templateInside } from "./template.ts";

const templateOf = (args: object): Template => {
  const parsed = parseTemplate("fedora-43-xfce", { host: "h", ...args });
  if ("faults" in parsed) throw new Error(JSON.stringify(parsed.faults));
  return parsed.template;
};

const guiOf = (args: object = {}) => {
  const parsed = parseGuiDomain("sys-gui", { host: "h", ...args });
  if ("faults" in parsed) throw new Error(JSON.stringify(parsed.faults));
  return parsed.gui;
};

const states = (text = ""): Record<string, object> => YAML.parse(text);

test("each mode's parts render on each distribution, as YAML that Salt takes without Jinja", () => {
  for (const distribution of DISTRIBUTIONS)
    for (const mode of TEMPLATE_MODES) {
      const inside = templateInside(templateOf({ modes: [mode], audio: true }), distribution);
      const { files, sls } = templateFormula("fedora-43-xfce", inside);
      const [[path, text] = []] = Object.entries(files);
      assert.is(path, "guidomain/fedora-43-xfce/inside/init.sls");
      assert.is(sls, "guidomain.fedora-43-xfce.inside");
      assert.ok(text?.startsWith("#!yaml\n"));
      const parsed = states(text);
      assert.equal(Object.keys(parsed), [
        "fedora-43-xfce packages",
        ...Object.keys(inside.files),
        ...Object.keys(inside.units).map((unit) => `fedora-43-xfce unit ${unit}`),
      ]);
      assert.ok(inside.packages.includes("qubes-vm-guivm"));
      assert.is(inside.packages.includes("lightdm"), mode !== "xephyr");
    }
});

test("what is not wanted any more goes, before what comes", () => {
  const inside = together({ packages: ["b", "a", "b"] });
  const gone = { packages: ["old"], files: ["/etc/old"], units: ["old.service"] };
  const [text] = Object.values(templateFormula("t", inside, gone).files);
  assert.equal(states(text), {
    "t unit old.service": { "service.disabled": [{ name: "old.service" }] },
    "/etc/old": { "file.absent": [] },
    "t packages that go": { "pkg.removed": [{ pkgs: ["old"] }] },
    "t packages": { "pkg.installed": [{ failhard: true }, { pkgs: ["a", "b"] }] },
  });
});

test("a file's text arrives as it is, whatever stands in it", () => {
  const text = "{{ pillar }} %s \"'\n\n\ttab: - #\n";
  const [rendered] = Object.values(templateFormula("t", together({ files: { "/etc/x": file(text) } })).files);
  const state = states(rendered)["/etc/x"] as { "file.managed": Record<string, string>[] };
  assert.is(Object.assign({}, ...state["file.managed"]).contents, text);
});

test("two parts that disagree about a file are found out", () => {
  assert.throws(
    () => together({ files: { "/etc/x": file("a") } }, { files: { "/etc/x": file("b") } }),
    /disagree about \/etc\/x/,
  );
  assert.equal(together({ files: { "/a": file("a") } }, { files: { "/a": file("a") } }).files, {
    "/a": file("a"),
  });
  assert.equal(qubeTogether({ start: ["b", "a"] }, { start: ["a"] }).start, ["b", "a"]);
});

test("the digest follows what is inside, not the order in which it was said", () => {
  const one = qubeTogether({ files: { "/a": file("a"), "/b": file("b") } });
  const other = qubeTogether({ files: { "/b": file("b"), "/a": file("a") } });
  assert.is(digestOf(one), digestOf(other));
  assert.is.not(
    digestOf(one),
    digestOf(qubeTogether({ files: { "/a": file("a", "0755"), "/b": file("b") } })),
  );
  assert.is.not(digestOf("a", "b"), digestOf("ab"));
});

test("a generation keeps itself and the one in force, and is whole last of all", () => {
  const inside = qubeInside(guiOf({ login: { password: "x" } }), "xephyr");
  assert.ok(inside);
  const { digest, formula, activate } = generationOf("sys-gui", inside, "0123456789abcdef");
  const parsed = states(Object.values(formula.files)[0]);
  const folder = parsed["/rw/config/guidomain"] as { "file.directory": Record<string, string>[] };
  assert.is(
    Object.assign({}, ...folder["file.directory"]).exclude_pat,
    `E@^(${digest}|0123456789abcdef)(/|$)`,
  );
  assert.is(activate, `/rw/config/guidomain/${digest}/activate`);
  assert.is(Object.keys(parsed).at(-1), `/rw/config/guidomain/${digest}/complete`);
  for (const path of Object.keys(parsed))
    assert.ok(
      path.startsWith("/rw/config/guidomain") || path === "/rw/config/rc.local.d/50-guidomain.rc",
      path,
    );
});

test("nothing is done inside a GUI domain where nothing needs it", () => {
  assert.is(qubeInside(guiOf(), "xephyr"), null);
  assert.is(qubeInside(guiOf({ login: { password: "x" } }), "dom0"), null);
  const login = { follow: "dom0", user: "alice" };
  assert.match(qubeInside(guiOf({ login }), "xephyr")?.secrets["login"] ?? "", /printf %s: user /);
});

test("scripts of a generation are scripts that a shell takes", () => {
  for (const mode of ["gpu", "xephyr", "vnc", "rdp"] as const) {
    const gui = guiOf({ display: [mode], login: { password: "x" } });
    const inside = qubeInside(gui, mode);
    assert.ok(inside);
    const { formula } = generationOf("sys-gui", { ...inside, commands: [...inside.commands, "true"] }, null);
    const scripts = Object.values(states(Object.values(formula.files)[0])).flatMap((state) => {
      const { contents = "" } = Object.assign({}, ...(Object.values(state)[0] as object[]));
      return contents.startsWith("#!/bin/sh") ? [contents as string] : [];
    });
    assert.ok(scripts.length >= 3);
    for (const script of scripts) {
      const read = spawnSync("sh", ["-n"], { input: script, encoding: "utf8" });
      assert.is(read.stderr + read.status, "0", script);
    }
  }
});

test("what runs while the qube starts waits for no unit: the greeter waits for it, and the screens for the greeter", () => {
  const asks = [
    { display: ["vnc"], remote: { password: "geheim12" }, viewers: [], power: ["reboot"] },
    { display: ["vnc"], login: { password: "x" }, power: [] },
    { display: ["rdp"], login: { password: "x" }, power: ["shutdown"] },
    { display: ["gpu"], login: { follow: "dom0", user: "alice" }, power: ["shutdown"] },
    { display: ["xephyr"], login: { password: "x" }, power: ["shutdown"] },
  ];
  let units = 0;
  for (const args of asks) {
    const gui = guiOf(args);
    const [mode = "xephyr"] = gui.display;
    const inside = qubeInside(gui, mode);
    assert.ok(inside);
    const { formula } = generationOf("sys-gui", inside, null);
    const scripts = Object.values(states(Object.values(formula.files)[0])).flatMap((state) => {
      const { contents = "" } = Object.assign({}, ...(Object.values(state)[0] as object[]));
      return contents.includes("Puts generation") || contents.includes("Fetches a secret")
        ? [contents as string]
        : [];
    });
    assert.is(scripts.length, Object.keys(inside.secrets).length ? 2 : 1);
    for (const script of scripts)
      for (const [call] of script.matchAll(/systemctl (?!daemon-reload)[^;&}\n]*/g)) {
        assert.match(call, /^systemctl --no-block (re)?start /, call);
        units += 1;
      }
    // What lets people in does not start where a password did not come.
    for (const unit of inside.start)
      assert.ok(
        scripts[0]?.includes(`[ -n "$failed" ] || try systemctl --no-block restart '${unit}'`) ||
          scripts[0]?.includes(`[ -n "$failed" ] || try systemctl --no-block restart ${unit}`),
        unit,
      );
  }
  assert.ok(units > 6, `${units}`);
});

test("a template's arguments: defaults, and what is refused", () => {
  assert.equal(templateOf({}), {
    host: "h",
    qube: "fedora-43-xfce",
    modes: ["xephyr"],
    audio: false,
    packages: [],
    timeout: 3600,
    onDelete: "restore",
    unreachable: "fail",
  });
  const reason = (args: object) => {
    const parsed = parseTemplate("fedora-43-xfce", { host: "h", ...args });
    return "faults" in parsed
      ? parsed.faults.map(({ property, reason }) => `${property}: ${reason}`).join()
      : "";
  };
  assert.match(reason({ modes: ["hdmi"] }), /modes\[0\]: "hdmi" is not allowed; allowed are "gpu"/);
  assert.match(reason({ modes: [] }), /asks for nothing/);
  assert.match(reason({ packages: ["a b"] }), /packages\[0\]: "a b" is not the name of a package/);
  assert.match(reason({ timeout: 1 }), /timeout: 1 is not allowed; give a whole number of seconds from 60/);
  assert.match(reason({ package: [] }), /package: not a property of a template/);
});

test.run();
