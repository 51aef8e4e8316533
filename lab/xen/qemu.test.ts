// runner: xen
/** The machine below a Xen host, with an empty disk: its switch, its screen, and that it does not outlive who started it. Seconds. */
import { spawn, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { alive, identify, type ProcessId } from "../twin/process.ts";
import { attachXenHost, startMachine } from "./host.ts";
import { machineArguments } from "./qemu.ts";

const folder = mkdtempSync(join(tmpdir(), "guidomain-qemu-"));
const missing = ["qemu-system-x86_64", "qemu-img", "setpriv"].filter(
  (name) => spawnSync(name, ["--version"]).error,
);
if (missing.length > 0) console.log(`skipped: this machine has no ${missing.join(", ")}`);
const on = missing.length > 0 ? test.skip : test;

const machine = { iommu: true };
const image = { digest: "", disk: "", identityFile: "/dev/null", hostKey: "" };

/** A folder with an empty disk, its path longer than a socket's may be. */
function emptyHost(name: string): string {
  const dir = join(folder, "x".repeat(120), name);
  mkdirSync(dir, { recursive: true });
  spawnSync("qemu-img", ["create", "-q", "-f", "qcow2", join(dir, "disk.qcow2"), "16M"]);
  return dir;
}

test("a machine without IOMMU is the same machine otherwise", () => {
  const [plain, full] = [false, true].map((iommu) => machineArguments({ iommu }, { disk: "d", port: 1 }));
  const more = full?.filter((word) => !plain?.includes(word));
  assert.equal(more, ["intel-iommu,intremap=on,caching-mode=on"]);
});

on("it is switched off and on, hangs and goes on, and shows its screen", async () => {
  const host = await startMachine(emptyHost("switch"), image, machine, { detached: false });
  assert.is(await host.power(), "running");
  const { width, height, pixels } = await host.screenshot();
  assert.is(pixels.length, width * height * 3);
  await host.command("stop");
  assert.is(await host.power(), "paused");
  await host.powerCycle();
  assert.is(await host.power(), "running");
  await host.powerOff();
  assert.is(await host.power(), "off");
  await host.powerCycle();
  assert.is(await host.power(), "running");
  await host.untilConsole(/^/, { timeout: 1000 });
  let refusal = "";
  await host.command("no-such-command").catch((error: Error) => {
    refusal = error.message;
  });
  assert.match(refusal, /QEMU refused no-such-command: The command no-such-command has not been found/);
  assert.is(attachXenHost(host.dir)?.port, host.port);
  await host.stop();
  assert.is(attachXenHost(host.dir), null);
});

/** Starts a machine in a process of its own, kills that, and resolves with the machine's process. */
async function orphan(name: string, detached: boolean): Promise<ProcessId> {
  const given = JSON.stringify([emptyHost(name), image, machine, { detached }]);
  const program = `
    const { startMachine } = await import(${JSON.stringify(join(import.meta.dirname, "host.ts"))});
    const host = await startMachine(...${given});
    console.log(JSON.stringify(JSON.parse((await import("node:fs")).readFileSync(host.dir + "/host.json", "utf8")).qemu.pid));
    setInterval(() => {}, 1000);`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", program], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const pid = await new Promise<number>((done, fail) => {
    child.stdout.on("data", (text: Buffer) => done(Number(text)));
    child.on("exit", () => fail(new Error("it ended by itself")));
  });
  const qemu = identify(pid);
  child.kill("SIGKILL");
  for (let patience = 50; patience > 0 && alive(qemu); patience--) await sleep(100);
  return qemu;
}

on("it ends with the process that started it, even one that is killed", async () => {
  assert.not.ok(alive(await orphan("ends", false)));
});

on("detached, it stays until it is stopped, by its id", async () => {
  const qemu = await orphan("stays", true);
  assert.ok(alive(qemu));
  await attachXenHost(join(folder, "x".repeat(120), "stays"))?.stop();
  assert.not.ok(alive(qemu));
});

test.after(() => rmSync(folder, { recursive: true, force: true }));
test.run();
