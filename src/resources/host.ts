import * as pulumi from "@pulumi/pulumi";
import { failAtTheEnd } from "./unreached.ts";

export interface HostArgs {
  /** The host's name in the configuration. Default: the resource's name. */
  name?: pulumi.Input<string>;
  /** "fail" (default), or "skip": a host that does not answer keeps its old state, is reported, and the run ends non-zero. */
  unreachable?: pulumi.Input<"fail" | "skip">;
}

/** The facts of one machine. How it is reached stands in the configuration: `guidomain:hosts` or `guidomain:inventory`. */
export class Host extends pulumi.CustomResource {
  declare readonly name: pulumi.Output<string>;
  declare readonly unreachable: pulumi.Output<"fail" | "skip">;
  /** "qubes", or "xen": plain Xen with xl. */
  declare readonly platform: pulumi.Output<string>;
  /** Qubes' release, "R4.3"; on plain Xen what the installation calls itself. */
  declare readonly release: pulumi.Output<string>;
  declare readonly kernel: pulumi.Output<string>;
  declare readonly xen: pulumi.Output<string>;
  declare readonly virtCaps: pulumi.Output<string[]>;
  /** MiB. */
  declare readonly totalMemory: pulumi.Output<number>;
  /** null: unknown. */
  declare readonly iommu: pulumi.Output<boolean | null>;
  declare readonly interruptRemapping: pulumi.Output<boolean | null>;
  declare readonly templates: pulumi.Output<string[]>;
  /** Plain Xen: domains that run or have a configuration. */
  declare readonly domains: pulumi.Output<string[]>;
  declare readonly pci: pulumi.Output<PciFunction[]>;
  /** Verdict and reasons by display mode; of "gpu" for the display that a person looks at. */
  declare readonly modes: pulumi.Output<Record<string, ModeVerdict>>;
  /** Whether it can boot an entry once and come back by itself, without which mode "gpu" is refused. null: unknown. */
  declare readonly oneShotBoot: pulumi.Output<boolean | null>;
  declare readonly oneShotBootWhy: pulumi.Output<string>;
  /** Whether it boots without anybody typing a passphrase. null: unknown. */
  declare readonly unattendedBoot: pulumi.Output<boolean | null>;
  declare readonly unattendedBootWhy: pulumi.Output<string>;
  /** A display mode that failed is tried again when this changes. */
  declare readonly fingerprint: pulumi.Output<{
    gpu: string[];
    firmware: string;
    xen: string;
    kernel: string;
  }>;
  /** The qube that each boot must bring up, and what the host did last without anybody asking. */
  declare readonly guard: pulumi.Output<{
    watches: string | null;
    outcome: { what: "undone" | "rescued" | "left"; why: string; left: string[] } | null;
  }>;
  /** How the host was reached, without secrets. */
  declare readonly connection: pulumi.Output<Record<string, unknown>>;

  /** false: the host did not answer, this is what the last look saw. */
  declare readonly looked: pulumi.Output<boolean>;

  constructor(name: string, args: HostArgs = {}, options?: pulumi.CustomResourceOptions) {
    super("guidomain:index:Host", name, { ...HOST_OUTPUTS, ...args }, options);
    failAtTheEnd(`Host ${name}`, this.looked);
  }
}

export interface ModeVerdict {
  verdict: "go" | "options" | "no" | "unknown";
  reasons: string[];
}

export interface PciFunction {
  /** "0000:00:02.0". */
  sbdf: string;
  /** As Qubes names it, "00_02.0". */
  port: string | null;
  /** Six hex digits, "030000". */
  class: string;
  vendor: string;
  device: string;
  subsystem: string | null;
  name: string | null;
  /** Its bridges and itself, without bus numbers: the same after a renumbering. */
  path: string;
  parent: string | null;
  /** What it is bound to now; "pciback": kept from dom0. */
  driver: string | null;
  /** What its modalias would load. */
  module: string | null;
  /** Reset methods as sysfs has them; null: unknown. */
  reset: string[] | null;
  bootVga: boolean | null;
  rom: boolean | null;
  outputs: { name: string; connected: boolean; enabled: boolean }[];
  inputs: string[];
  disks: string[];
  nets: string[];
}

/** Every output has to be named, or it is not there. */
const HOST_OUTPUTS = {
  name: undefined,
  unreachable: undefined,
  platform: undefined,
  release: undefined,
  kernel: undefined,
  xen: undefined,
  virtCaps: undefined,
  totalMemory: undefined,
  iommu: undefined,
  interruptRemapping: undefined,
  templates: undefined,
  domains: undefined,
  pci: undefined,
  modes: undefined,
  oneShotBoot: undefined,
  oneShotBootWhy: undefined,
  unattendedBoot: undefined,
  unattendedBootWhy: undefined,
  fingerprint: undefined,
  guard: undefined,
  looked: undefined,
  connection: undefined,
};
