/** What a machine is, as far as it decides whether a display mode works: a failed one is tried again when this changes. Design §5. */
import type { Snapshot } from "../host/protocol.ts";
import { isDisplay } from "../pci/tree.ts";

export interface Fingerprint {
  /** "8086:9a49 17aa:22d5", each display, by its address. */
  gpu: string[];
  firmware: string;
  xen: string;
  kernel: string;
}

export function fingerprintOf({ facts }: Pick<Snapshot, "facts">): Fingerprint {
  const { vendor, product, bios } = facts.firmware;
  return {
    gpu: facts.pci
      .filter(isDisplay)
      .map((fn) => [`${fn.vendor}:${fn.device}`, fn.subsystem].filter(Boolean).join(" "))
      .sort(),
    firmware: [vendor, product, bios].map((part) => part ?? "unknown").join(" "),
    xen: facts.xen.version,
    kernel: facts.kernel,
  };
}

/** Features by which a template says which version of it is installed, and when it was updated last. */
const TEMPLATE_FEATURES = [
  "template-version",
  "template-release",
  "template-buildtime",
  "template-installtime",
  "last-update",
  // What guidomain has put into it, see template.ts.
  "guidomain-inside",
];

/** As text, with the template and the kernel that a qube of it would run; equal texts mean that nothing of it has changed. */
export function hardwareKey(template: string, snapshot: Snapshot): string {
  const features = snapshot.qubes[template]?.features ?? {};
  const versions = TEMPLATE_FEATURES.flatMap((name) => (features[name] ? [`${name}=${features[name]}`] : []));
  return JSON.stringify([
    fingerprintOf(snapshot),
    template,
    versions,
    snapshot.globals["default_kernel"]?.value ?? "",
  ]);
}
