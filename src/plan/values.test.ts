/** When the host has what is asked for, in other words. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import { settingsOf } from "../formula/settings.ts";
import { parseGuiDomain } from "../model/guiDomain.ts";
import { wishes } from "../model/settings.ts";
import { appliedSettings, liveSettings } from "./live.ts";
import { install } from "./testing/hostModel.ts";
import { satisfied } from "./values.ts";

const INCLUDE = "/etc/qubes/policy.d/include/admin-local-rwx";
const TOOLS = "/etc/qubes/policy.d/51-gui-sys-gui.policy";

const parsed = parseGuiDomain("sys-gui", { host: "lab" });
if ("faults" in parsed) throw new Error("the description is good");
const settings = settingsOf(parsed.gui, "xephyr");
const [wish] = wishes("sys-gui", settings).filter(({ key }) => key === `file:${TOOLS}`);
if (!wish) throw new Error("the tools' policy is part of the settings");

const included = (...lines: string[]) => ({
  ...install(),
  files: { [INCLUDE]: { content: `## stock\n${lines.join("\n")}\n`, mode: "0664" } },
});

test("the two lines of Qubes' own formula allow all that the tools' policy would, so it is not written", () => {
  const host = included(
    "sys-gui @tag:guivm-sys-gui allow target=dom0",
    "sys-gui  sys-gui  allow target=dom0",
  );
  assert.ok(satisfied(wish, host));
  assert.is(liveSettings("sys-gui", settings, host).files[TOOLS], settings.files[TOOLS]);
  assert.not.ok(TOOLS in appliedSettings("sys-gui", settings, host).files);
});

test("nothing rests on lines that are an admin's of ours: they go with the level", () => {
  const lines = ["sys-gui @tag:guivm-sys-gui allow target=dom0", "sys-gui sys-gui allow target=dom0"];
  const host = included(...lines);
  for (const [first, expected] of [
    [true, true],
    [null, false],
  ] as const) {
    const ledger = Object.fromEntries(
      lines.map((line) => [
        `line:${INCLUDE}:${line}`,
        { owner: "urn:gui", first, ours: true as const, at: 1 },
      ]),
    );
    assert.is(satisfied(wish, { ...host, ledger }), expected);
  }
});

test("one of them is not enough, nor another qube's", () => {
  for (const lines of [
    [],
    ["sys-gui @tag:guivm-sys-gui allow target=dom0"],
    ["sys-gui sys-gui allow target=dom0"],
    ["sys-gui2 @tag:guivm-sys-gui2 allow target=dom0", "sys-gui2 sys-gui2 allow target=dom0"],
    ["# sys-gui @tag:guivm-sys-gui allow target=dom0", "# sys-gui sys-gui allow target=dom0"],
  ]) {
    const host = included(...lines);
    assert.not.ok(satisfied(wish, host), lines.join());
    assert.not.ok(TOOLS in liveSettings("sys-gui", settings, host).files);
  }
});

test.run();
