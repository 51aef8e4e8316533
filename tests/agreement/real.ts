/** Real Xen in QEMU as a host of the shared cases. */
import * as assert from "uvu/assert";
import { startXenHost } from "../../lab/xen/xenHost.ts";
import type { SharedHost } from "./host.ts";

const LONG = 1_200_000;

export async function realHost(
  dir: string,
  iommu: boolean,
  say: (line: string) => void,
): Promise<SharedHost> {
  const host = await startXenHost({ dir, machine: { iommu }, say });
  return {
    kind: "real",
    exec: (command) => host.exec(command, { timeout: 600_000 }),
    async reboot() {
      const before = (await host.bootId()) ?? "";
      await host.exec("systemctl reboot").catch(() => {}); // it may be ended by what it asks for
      await host.until("up", { after: before, timeout: LONG });
    },
    async rebootInVain() {
      const from = host.console().length;
      await host.exec("systemctl reboot").catch(() => {});
      const said = await host.untilConsole(/ALERT! +\S+ does not exist.*/, { from, timeout: LONG });
      assert.is(await host.bootId(10_000), null);
      return said;
    },
    async cutPower() {
      await host.powerOff();
      assert.is(await host.power(), "off");
      await host.powerOn();
      await host.until("up", { timeout: LONG });
    },
    stop: () => host.stop(),
    poll: 2000,
    patience: 600_000,
  };
}
