// runner: xenlab
/** The cases that the twin and real Xen share, on real Xen; agreement.test.ts runs the same ones on the twin. */
import { join } from "node:path";
import { test } from "uvu";
import { folder, on, say } from "../lab/xen/testing.ts";
import { withIommu, withoutIommu } from "./agreement/cases.ts";
import type { SharedHost } from "./agreement/host.ts";
import { realHost } from "./agreement/real.ts";

for (const [iommu, cases] of [
  [true, withIommu],
  [false, withoutIommu],
] as const) {
  let host: SharedHost | undefined;
  cases.forEach(({ title, run }, at) => {
    on(title, async () => {
      host ??= await realHost(join(folder, iommu ? "agreed" : "agreed-bare"), iommu, say);
      await run(host);
      if (at === cases.length - 1) await host.stop();
    });
  });
}

test.run();
