/**
 * A plain Xen host as the shared cases see it: the twin (lab/twin, platform xen) and real Xen in QEMU (lab/xen) behind the same few methods.
 * Both have the devices of lab/xen/qemu.ts, the lab's guest in /opt/lab, and Debian's GRUB with Xen as its default entry.
 */
import { setTimeout as sleep } from "node:timers/promises";
import * as assert from "uvu/assert";
import type { Result } from "../../lab/twin/sandbox.ts";
import { startTwin } from "../../lab/twin/twin.ts";

export interface SharedHost {
  kind: "twin" | "real";
  /** Runs a command line in dom0 as root. */
  exec(command: string): Promise<Result>;
  /** `systemctl reboot`; resolves when dom0 is up in another boot. */
  reboot(): Promise<void>;
  /** The same where the next boot does not get as far as dom0: resolves with what its console says, when nobody gets in. */
  rebootInVain(): Promise<string>;
  /** The power goes without a word, and comes again; resolves when dom0 is up. */
  cutPower(): Promise<void>;
  stop(): Promise<void>;
  /** Milliseconds between two looks at what takes its time, and how long it may take. */
  poll: number;
  patience: number;
}

export async function twinHost(dir: string, iommu: boolean): Promise<SharedHost> {
  const twin = await startTwin({ dir, platform: "xen", world: { iommu } });
  const up = async () => {
    await twin.powerCycle();
    assert.is(twin.machine().state, "running", twin.machine().why);
  };
  return {
    kind: "twin",
    exec: (command) => twin.exec(command),
    async reboot() {
      const { state, why } = await twin.reboot();
      assert.is(state, "running", why);
    },
    async rebootInVain() {
      const { state, why } = await twin.reboot();
      assert.is(state, "stopped");
      assert.is((await twin.exec("true")).code, 255);
      return why;
    },
    async cutPower() {
      await twin.strike("power");
      await twin.until("off");
      await up();
    },
    stop: () => twin.remove(),
    poll: 20,
    patience: 20_000,
  };
}

/** Runs it and gives what it printed; fails with all that it said where its status is not `code`. */
export async function must(host: SharedHost, command: string, code = 0): Promise<string> {
  const result = await host.exec(command);
  assert.is(result.code, code, `${command}\nended with ${result.code}:\n${result.stdout}${result.stderr}`);
  return result.stdout;
}

/** What a command that is refused says on stderr. */
export async function refused(host: SharedHost, command: string, code: number): Promise<string> {
  const result = await host.exec(command);
  assert.is(result.code, code, `${command}\nended with ${result.code}:\n${result.stdout}${result.stderr}`);
  return result.stderr;
}

/** Resolves with what the command prints once that matches. */
export async function until(host: SharedHost, command: string, pattern: RegExp): Promise<string> {
  let last = "";
  for (const limit = Date.now() + host.patience; Date.now() < limit; await sleep(host.poll)) {
    last = (await host.exec(command)).stdout;
    if (pattern.test(last)) return last;
  }
  throw new Error(
    `${command} did not come to ${pattern} within ${host.patience / 1000} s: ${last.slice(-400)}`,
  );
}

export const put = (host: SharedHost, path: string, text: string) =>
  must(host, `mkdir -p $(dirname ${path}) && cat > ${path} <<'END-OF-FILE'\n${text}END-OF-FILE`);

/** "0000:00:06.0" → its driver, "none" without one. */
export const driver = async (host: SharedHost, address: string) =>
  (await must(host, `basename $(readlink /sys/bus/pci/devices/${address}/driver || echo none)`)).trim();
