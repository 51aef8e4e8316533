/**
 * An owner's report as in Qubes' hardware compatibility list (QubesOS/qubes-hcl), from its parsed YAML. Pure.
 * People wrote them, so nothing in one is relied on: what has not the expected form is unknown.
 */
import { QUIRKS } from "./quirks.ts";
import type { Verdict } from "./verdict.ts";

export type Answer = "yes" | "no" | "unknown";

export interface HclReport {
  readonly brand: string;
  readonly model: string;
  readonly type: string;
  readonly iommu: Answer;
  /** Interrupt remapping. */
  readonly remap: Answer;
  readonly hvm: Answer;
  readonly slat: Answer;
  /** As in the facts: "GenuineIntel", "AuthenticAMD". */
  readonly cpu: string | null;
  /** vendor:device of each display that the report names by its ids. */
  readonly gpus: readonly string[];
  readonly versions: readonly { readonly qubes: string; readonly works: Answer }[];
}

const record = (value: unknown) =>
  (typeof value === "object" && value !== null && !Array.isArray(value) ? value : {}) as Record<
    string,
    unknown
  >;

const text = (value: unknown) =>
  typeof value === "string" || typeof value === "number" ? String(value).trim() : "";

/** "partial", an empty field and whatever else is unknown; some reports have {status, message}. */
function answer(value: unknown): Answer {
  const said = (text(value) || text(record(value)["status"])).toLowerCase();
  return said === "yes" || said === "no" ? said : "unknown";
}

/** `value` is the first document of the file; the others are empty. */
export function readReport(value: unknown): HclReport {
  const report = record(value);
  const cpu = text(report["cpu"]);
  const versions = Array.isArray(report["versions"]) ? report["versions"].map(record) : [];
  return {
    brand: text(report["brand"]),
    model: text(report["model"]),
    type: text(report["type"]),
    iommu: answer(report["iommu"]),
    remap: answer(report["remap"]),
    hvm: answer(report["hvm"]),
    slat: answer(report["slat"]),
    cpu: /intel/i.test(cpu) ? "GenuineIntel" : /\bamd\b/i.test(cpu) ? "AuthenticAMD" : null,
    gpus: [...text(report["gpu"]).matchAll(/\[([0-9a-f]{4}:[0-9a-f]{4})\]/gi)].map(([, id = ""]) =>
      id.toLowerCase(),
    ),
    versions: versions.map((version) => ({ qubes: text(version["qubes"]), works: answer(version["works"]) })),
  };
}

/**
 * What a report alone says of giving a display or a device to a qube: never "go", since it knows neither the tree nor a
 * reset; "no" where its owner found no IOMMU, or no HVM, which a qube with a device is.
 */
export function reportVerdict(report: HclReport): Pick<Verdict, "reasons"> & { verdict: "no" | "unknown" } {
  const notes = report.gpus.flatMap((id) => {
    const [vendor, device = ""] = id.split(":");
    return QUIRKS.filter(
      (row) =>
        row.vendor === vendor && (row.class ?? "03").startsWith("03") && (row.device?.test(device) ?? true),
    ).map(({ id: quirk, text: says }) => ({
      rule: `quirk:${quirk}`,
      fact: "report.gpu",
      effect: "note" as const,
      text: `display ${id}: ${says}`,
    }));
  });
  const asked = (["iommu", "hvm", "remap"] as const).map((name) => ({
    rule: name === "remap" ? "remapping" : name,
    fact: `report.${name}`,
    effect:
      report[name] === "yes"
        ? ("go" as const)
        : report[name] === "no" && name !== "remap"
          ? ("no" as const)
          : ("unknown" as const),
    text: `its owner says of ${QUESTIONS[name]}: ${report[name]}`,
  }));
  return {
    verdict: asked.some(({ effect }) => effect === "no") ? "no" : "unknown",
    reasons: [...asked, ...notes],
  };
}

const QUESTIONS = { iommu: "an IOMMU", hvm: "HVM", remap: "interrupt remapping" };
