import * as pulumi from "@pulumi/pulumi";
import type { Evidence, Pending } from "./guiDomain.ts";
import { Host } from "./host.ts";
import type { Selector } from "./selector.ts";
import { failAtTheEnd } from "./unreached.ts";

export interface PciAttachmentArgs {
  /** The machine, or its name in the configuration. */
  host: Host | pulumi.Input<string>;
  /** The qube that gets the device, each time it starts. */
  qube: pulumi.Input<string>;
  /** The device by what it is; or `devices`. Class "usb" or "audio" may name several. */
  device?: pulumi.Input<Selector>;
  devices?: pulumi.Input<pulumi.Input<Selector>[]>;
  /** Default: what the device needs there (no-strict-reset where it has no reset of its own). */
  options?: pulumi.Input<{ permissive?: pulumi.Input<boolean>; noStrictReset?: pulumi.Input<boolean> }>;
  /** "restore" (default): the assignment goes, what was there before comes back. "keep": all stays. */
  onDelete?: pulumi.Input<"restore" | "keep">;
  unreachable?: pulumi.Input<"fail" | "skip">;
}

export interface AttachedDevice {
  name: string;
  sbdf: string;
  /** As Qubes names its place. */
  port: string;
  identity: { path: string; vendor: string; device: string; class: string };
  /** Options of the assignment that are on. */
  options: string[];
  /** What shares its reset and stays where it is. */
  siblings: string[];
}

/** A PCI device given to a qube for good, outside any ladder. Its import id is `host/qube/PORT:VENDOR:DEVICE:CLASS`. */
export class PciAttachment extends pulumi.CustomResource {
  declare readonly host: pulumi.Output<string>;
  declare readonly qube: pulumi.Output<string>;
  declare readonly device: pulumi.Output<Selector | undefined>;
  declare readonly devices: pulumi.Output<Selector[] | undefined>;
  declare readonly options: pulumi.Output<{ permissive?: boolean; noStrictReset?: boolean } | undefined>;
  declare readonly onDelete: pulumi.Output<"restore" | "keep">;
  declare readonly unreachable: pulumi.Output<"fail" | "skip">;
  /** Place and options by identity; a preview is a diff of these. */
  declare readonly settings: pulumi.Output<Record<string, unknown>>;
  /** What each device was when it was attached; it is followed when it moves. */
  declare readonly identities: pulumi.Output<Record<string, unknown>[]>;
  declare readonly attached: pulumi.Output<AttachedDevice[]>;
  /** "ready", "drifted", "missing" (not in the machine any more), "unverified" (imported) or "failed". */
  declare readonly state: pulumi.Output<string>;
  declare readonly pending: pulumi.Output<Pending[]>;
  declare readonly evidence: pulumi.Output<Evidence[]>;
  /** false: the host did not answer, this is the state of the last time. */
  declare readonly looked: pulumi.Output<boolean>;
  /** How the host was reached, without secrets. */
  declare readonly connection: pulumi.Output<Record<string, unknown>>;

  constructor(name: string, args: PciAttachmentArgs, options?: pulumi.CustomResourceOptions) {
    const { host, ...rest } = args;
    const inputs = { ...ATTACHMENT_OUTPUTS, ...rest, host: host instanceof Host ? host.name : host };
    super("guidomain:index:PciAttachment", name, inputs, options);
    failAtTheEnd(`PCI attachment ${name}`, this.looked);
  }
}

/** Every output has to be named, or it is not there. */
const ATTACHMENT_OUTPUTS = {
  device: undefined,
  devices: undefined,
  options: undefined,
  onDelete: undefined,
  unreachable: undefined,
  settings: undefined,
  identities: undefined,
  attached: undefined,
  state: undefined,
  pending: undefined,
  evidence: undefined,
  looked: undefined,
  connection: undefined,
};
