/** The checks of each mode: what they rest on, in what order, and that the watch of later boots names nothing that may move. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import { guiOf } from "./testing/cases.ts";
import { laptop, qube } from "./testing/hostModel.ts";
import { hostScreenChecks, screenChecks, verificationsOf } from "./verify.ts";

const gui = (args: object = {}) => guiOf("sys-gui", { host: "lab", clients: ["work"], ...args });
const GIVEN = { sbdfs: ["0000:00:02.0", "0000:00:1f.3"], lit: ["DP-1", "eDP-1"] };
const ids = (checks: { id: string }[]) => checks.map((check) => check.id);

test("mode gpu: the display is kept from dom0 before it is given away, and all that was lit is lit", () => {
  const checks = verificationsOf(gui({ display: ["gpu"] }), "gpu", laptop(), [], GIVEN);
  assert.equal(ids(checks), [
    "policies lint",
    "policy: sys-gui may ask dom0 for policy.EvalGUI+qubes.ClipboardPaste",
    "policy: sys-gui may ask sys-gui for admin.vm.feature.CheckWithTemplate+gui",
    "policy: sys-gui may ask work for admin.vm.property.Get+xid",
    "0000:00:02.0 is kept from dom0",
    "0000:00:1f.3 is kept from dom0",
    "GUI domain starts",
    "packages of template fedora-43-xfce",
    "0000:00:02.0 is with the qube",
    "0000:00:1f.3 is with the qube",
    "display has a driver in the qube",
    "a screen is connected in the qube",
    "screen DP-1 is lit as before",
    "screen eDP-1 is lit as before",
    "greeter runs",
    "X shows a picture",
    "dom0's input devices are passed on",
    "input devices reach the qube",
  ]);
  assert.is(new Set(ids(checks)).size, checks.length, "each by its own name");
});

test("the watch of later boots names no address: buses are renumbered", () => {
  const watch = screenChecks(gui({ display: ["gpu"] }), laptop(), { lit: GIVEN.lit });
  assert.ok(watch.length > 5);
  assert.not.match(JSON.stringify(watch), /0000:00/);
  assert.ok(
    watch.every((check) => check.kind !== "start"),
    "systemd starts it, not the watch",
  );
});

test("dom0 passes on what it has: without a keyboard or mouse of its own nothing is asked for", () => {
  const none = laptop({ keyboards: [] });
  assert.not.match(JSON.stringify(screenChecks(gui({ display: ["gpu"] }), none)), /qubes-input-sender/);
});

test("time limits are the description's", () => {
  const limits = { start: 300, checks: 60 };
  const checks = verificationsOf(gui({ display: ["gpu"], limits }), "gpu", laptop(), [], GIVEN);
  for (const check of checks) assert.is(check.timeout, check.kind === "start" ? 300 : 60, check.id);
});

test("a Debian template brings the receiver of input devices by its own name", () => {
  const debian = laptop(
    {},
    {
      qubes: { "debian-13-xfce": qube({ class: "TemplateVM", features: { "os-distribution": "debian" } }) },
    },
  );
  const asked = (mode: "gpu" | "vnc") =>
    JSON.stringify(verificationsOf(gui({ display: [mode], template: "debian-13-xfce" }), mode, debian, []));
  assert.match(asked("gpu"), /dpkg-query -W qubes-vm-guivm lightdm qubes-input-proxy-receiver/);
  assert.not.match(asked("vnc"), /receiver/);
});

test("dom0 has its screen back", () => {
  assert.equal(hostScreenChecks(gui(), ["eDP-1"]), [
    {
      kind: "host",
      id: "dom0's greeter runs",
      argv: ["systemctl", "is-active", "lightdm"],
      timeout: 30,
      until: true,
    },
    {
      kind: "host",
      id: "dom0 shows a picture on eDP-1",
      argv: ["sh", "-c", "grep -qx connected /sys/class/drm/card*-eDP-1/status"],
      timeout: 30,
    },
  ]);
  assert.equal(verificationsOf(gui(), "dom0", laptop(), []), []);
});

test.run();
