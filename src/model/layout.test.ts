/** How screens lie: what a program may say, and what X is told. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import { qubeInside } from "../formula/inside/qube.ts";
import { parseGuiDomain } from "./guiDomain.ts";

const parse = (args: object) => parseGuiDomain("sys-gui", { host: "lab", display: ["gpu"], ...args });
const faultsOf = (args: object) => {
  const parsed = parse(args);
  return "faults" in parsed ? parsed.faults.map(({ property, reason }) => `${property}: ${reason}`) : [];
};
const eDP = { output: "eDP-1" };
for (const [what, args, words] of [
  [
    "another mode",
    { display: ["xephyr"], layout: [eDP] },
    /^layout: only mode "gpu" has screens of its own: in mode "xephyr" the picture is one window of dom0/,
  ],
  [
    "a remote screen",
    { display: ["vnc"], layout: [eDP] },
    /^layout: .*in mode "vnc" there is one screen, in memory/,
  ],
  ["no connector", { layout: [{ output: "eDP-1; reboot" }] }, /^layout\[0\]\.output: .* is not a connector/],
  ["an option", { layout: [{ output: "--off" }] }, /^layout\[0\]\.output: .* is not a connector/],
  ["a screen twice", { layout: [eDP, eDP] }, /^layout\[1\]\.output: "eDP-1" is there twice/],
  [
    "two primaries",
    {
      layout: [
        { ...eDP, primary: true },
        { output: "DP-1", primary: true },
      ],
    },
    /^layout\[1\]\.primary: layout\[0\] is the primary/,
  ],
  ["no mode", { layout: [{ ...eDP, mode: "big" }] }, /^layout\[0\]\.mode: "big" is not a mode/],
  [
    "no position",
    { layout: [{ ...eDP, position: "-10x0" }] },
    /^layout\[0\]\.position: "-10x0" is not a position/,
  ],
  ["another turn", { layout: [{ ...eDP, rotate: "up" }] }, /^layout\[0\]\.rotate: "up" is not allowed/],
  ["something else", { layout: [{ ...eDP, scale: 2 }] }, /^layout\[0\]\.scale: not a part of a screen/],
] as const)
  test(`refused: ${what}`, () => {
    const faults = faultsOf(args);
    assert.is(faults.length, 1, faults.join("\n"));
    assert.match(faults[0] ?? "", words);
  });

test("what xrandr is told, for the greeter and the session", () => {
  const parsed = parse({
    display: ["gpu", "xephyr"],
    layout: [{ output: "DP-1", mode: "2560x1440@75", position: "0x0", rotate: "left", primary: true }, eDP],
  });
  assert.ok("gui" in parsed);
  const inside = qubeInside(parsed.gui, "gpu");
  const script = inside?.files["/usr/lib/guidomain/layout"];
  assert.is(script?.mode, "0755");
  assert.match(
    script?.text ?? "",
    /^there 'DP-1' && set -- "\$@" '--output' 'DP-1' '--mode' '2560x1440' '--rate' '75' '--pos' '0x0' '--rotate' 'left' '--primary'$/m,
  );
  assert.match(
    script?.text ?? "",
    /^there 'eDP-1' && set -- "\$@" '--output' 'eDP-1' '--auto' '--rotate' 'normal'$/m,
  );
  assert.match(script?.text ?? "", /\nexit 0\n$/);
  assert.match(
    inside?.files["/etc/lightdm/lightdm.conf.d/50-guidomain-layout.conf"]?.text ?? "",
    /^\[Seat:\*\]\ndisplay-setup-script=\/usr\/lib\/guidomain\/layout$/m,
  );
  assert.is(qubeInside(parsed.gui, "xephyr"), null, "the other mode has none of it");
});

test.run();
