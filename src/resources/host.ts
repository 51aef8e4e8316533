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
  /** "qubes". */
  declare readonly platform: pulumi.Output<string>;
  /** Qubes' release, "R4.3". */
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
  declare readonly pci: pulumi.Output<PciFunction[]>;
  /** Verdict and reasons by display mode. */
  declare readonly modes: pulumi.Output<Record<string, { verdict: "go" | "no"; reasons: string[] }>>;
  /** How the host was reached, without secrets. */
  declare readonly connection: pulumi.Output<Record<string, unknown>>;

  /** false: the host did not answer, this is what the last look saw. */
  declare readonly looked: pulumi.Output<boolean>;

  constructor(name: string, args: HostArgs = {}, options?: pulumi.CustomResourceOptions) {
    super("guidomain:index:Host", name, { ...HOST_OUTPUTS, ...args }, options);
    failAtTheEnd(`Host ${name}`, this.looked);
  }
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
  pci: undefined,
  modes: undefined,
  looked: undefined,
  connection: undefined,
};
