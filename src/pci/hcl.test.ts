/** Owners' reports: none makes the reader fail, and "no" where there is no IOMMU. The real ones lie beside the project. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { parseAllDocuments } from "yaml";
import { readReport, reportVerdict } from "./hcl.ts";

const read = (text: string) => readReport(parseAllDocuments(text)[0]?.toJS());

const report = (iommu: string, more = "") => `---
layout:
  'hcl'
type:
  'laptop'
hvm:
  'yes'
iommu:
  ${iommu}
brand: |
  Example
model: |
  One
cpu: |
  AMD Ryzen 7 Example
gpu: |
  Advanced Micro Devices, Inc. [AMD/ATI] Renoir [1002:1636] (rev c1) (prog-if 00 [VGA controller])
  NVIDIA Corporation TU117M [10DE:1F99] (rev a1)
${more}versions:
  - works:
      'yes'
    qubes: |
      R4.2
---
`;

test("a report in full", () => {
  assert.equal(read(report("'yes'", "slat:\n  'no'\nremap:\n  'partial'\n")), {
    brand: "Example",
    model: "One",
    type: "laptop",
    iommu: "yes",
    remap: "unknown",
    hvm: "yes",
    slat: "no",
    cpu: "AuthenticAMD",
    gpus: ["1002:1636", "10de:1f99"],
    versions: [{ qubes: "R4.2", works: "yes" }],
  });
});

test("its verdict: no without an IOMMU, else unknown, since a report knows no reset", () => {
  const yes = reportVerdict(read(report("'yes'")));
  assert.is(yes.verdict, "unknown");
  assert.ok(yes.reasons.some(({ rule }) => rule === "quirk:nvidia"));
  assert.ok(yes.reasons.some(({ rule }) => rule === "quirk:amd-reset-family"));
  const no = reportVerdict(read(report("'no'")));
  assert.is(no.verdict, "no");
  assert.equal(
    no.reasons.filter(({ effect }) => effect === "no").map(({ rule }) => rule),
    ["iommu"],
  );
});

test("an answer with words around it, and none at all", () => {
  assert.is(read(report("status: 'yes'\n  message: 'works'")).iommu, "yes");
  assert.is(read(report("''")).iommu, "unknown");
  assert.is(reportVerdict(read(report("''"))).verdict, "unknown");
});

test("nothing makes it fail, whatever is in the file", () => {
  for (const text of [
    "",
    "- a\n- b\n",
    "iommu: [no]\ngpu: 3\nversions: {}\n",
    "versions:\n  - null\n  - works: [1]\n",
  ])
    assert.is(reportVerdict(read(text)).verdict, "unknown");
  fc.assert(fc.property(fc.anything(), (value) => reportVerdict(readReport(value)).reasons.length >= 3));
});

const REPORTS = new URL("../../../shared/hcl/", import.meta.url);

test("every report of the hardware compatibility list", () => {
  if (!existsSync(REPORTS))
    return void console.log("\nhcl: the list is not beside the project, 0 reports read");
  const files = readdirSync(REPORTS).filter((name) => name.endsWith(".yml"));
  const tally = { reports: 0, no: 0, unknown: 0, noIommu: 0, noGpuId: 0 };
  for (const name of files) {
    const text = readFileSync(new URL(encodeURIComponent(name), REPORTS), "utf8");
    const found = read(text);
    const { verdict } = reportVerdict(found);
    // By the text alone, not by the reader that is tested.
    const saysNo = /^iommu:\s*\n\s+'no'/m.test(text) || /^iommu:\s*'no'/m.test(text);
    if (saysNo) assert.equal([found.iommu, verdict], ["no", "no"], name);
    if (/^iommu:\s*\n\s+'yes'/m.test(text)) assert.is(found.iommu, "yes", name);
    assert.ok(found.brand !== "" && found.versions.length > 0, name);
    tally.reports++;
    tally[verdict]++;
    if (saysNo) tally.noIommu++;
    if (!found.gpus.length) tally.noGpuId++;
  }
  console.log(`\nhcl: ${JSON.stringify(tally)}`);
  assert.ok(tally.reports >= 830 && tally.noIommu >= 90);
});

test.run();
