/** The cases that the twin and real Xen share, on the twin; agreement.xen.test.ts runs the same ones on real Xen. */
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "uvu";
import { withIommu, withoutIommu } from "./agreement/cases.ts";
import { twinHost } from "./agreement/host.ts";

const folder = mkdtempSync(join(tmpdir(), "agreement-"));
for (const [iommu, cases] of [
  [true, withIommu],
  [false, withoutIommu],
] as const) {
  const host = await twinHost(join(folder, iommu ? "host" : "bare"), iommu);
  for (const { title, run } of cases) test(title, () => run(host));
  test.after(() => host.stop());
}

test.run();
