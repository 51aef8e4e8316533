// runner: xen
/**
 * The compromise on real Xen: a host without IOMMU goes to dom0's Xephyr, whose screen shows what the GUI domain draws; nobody else's screen is
 * open to a network. Issue 7 "Must show" (b), the first half.
 */
import { randomBytes } from "node:crypto";
import { mkdirSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { readToken } from "../lab/xen/png.ts";
import { on, say } from "../lab/xen/testing.ts";
import { DEVICES } from "../lab/xen/xenHost.ts";
import { ROOT } from "./harness.ts";
import { attemptsOf, differences, GUEST, rungs, XenLab } from "./xenLab.ts";

/** What the machine's screen showed is kept, for whoever wants to look. */
const EVIDENCE = `${ROOT}/.lab/evidence`;
let lab: XenLab;
let before: Record<string, string>;

on("without IOMMU: refused in xl's words, and the compromise is brought up and checked", async () => {
  lab = await XenLab.start("fallback", { iommu: false }, say);
  before = await lab.dump();
  const { outputs, output } = await lab.up({
    gui: {
      display: ["gpu", "xephyr"],
      gpu: { address: DEVICES.secondCard },
      domain: { ...GUEST, reports: ["pci", "screen"] },
      session: "autologin",
      sessionUser: "user",
    },
  });
  assert.equal([outputs["mode"], outputs["state"]], ["xephyr", "ready"]);
  assert.equal(rungs(outputs), ["gpu refused", "xephyr ok"]);
  assert.match(attemptsOf(outputs)[0]?.reason ?? "", /passthrough not supported on this platform/);
  assert.match(output, /is in mode "xephyr", not "gpu"/);
  await lab.isSettled();
});

on("the machine's screen shows what the GUI domain draws now", async () => {
  const token = randomBytes(4).toString("hex");
  assert.is.not(readToken(await lab.host.screenshot()), token);
  // A person comes to the greeter anew; what is preselected there logs in.
  await lab.host.must("systemctl restart --no-block lightdm");
  await lab.host.must(`xenstore-write /local/domain/$(xl domid sys-gui)/data/lab/draw ${token}`);
  assert.is(await lab.host.untilToken(token, 300_000), token);
  mkdirSync(EVIDENCE, { recursive: true });
  assert.is(readToken(await lab.host.screenshot(`${EVIDENCE}/xephyr-${token}.png`)), token);
  await lab.stack.refresh();
  const { outputs } = await lab.stack.resource("sys-gui");
  assert.is(outputs["state"], "inUse");
});

on(
  "negative control: without the session the token is nowhere, though the domain still draws it",
  async () => {
    const token = randomBytes(4).toString("hex");
    await lab.host.must("systemctl stop lightdm", { timeout: 300_000 });
    await lab.host.must(`xenstore-write /local/domain/$(xl domid sys-gui)/data/lab/draw ${token}`);
    await sleep(15_000);
    assert.match(await lab.consoleOf("sys-gui"), new RegExp(`guest drew ${token}`));
    assert.is.not(readToken(await lab.host.screenshot()), token);
    await lab.host.must("systemctl start --no-block lightdm");
  },
);

on("vnc: the framebuffer on dom0's loopback, and nowhere else; then all the way back", async () => {
  const { outputs } = await lab.up({ gui: { display: ["vnc"] } });
  assert.equal([outputs["mode"], outputs["state"]], ["vnc", "ready"]);
  assert.match(await lab.host.must("ss -Hltn"), /127\.0\.0\.1:5905/);
  const gone = await lab.stack.destroy();
  assert.ok(gone.ok, gone.output);
  await lab.host.must("systemctl restart --no-block lightdm");
  await lab.host.untilDesktop();
  assert.equal(differences(before, await lab.dump()), []);
  await lab.host.stop();
});

test.run();
