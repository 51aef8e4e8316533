import * as pulumi from "@pulumi/pulumi";
import { type Evidence, GuiDomain } from "./guiDomain.ts";
import { Host } from "./host.ts";
import { failAtTheEnd } from "./unreached.ts";

export interface AccessArgs {
  /** The machine, or its name in the configuration. */
  host: Host | pulumi.Input<string>;
  /** The GUI domain, or its qube; it has a `level`. */
  guiDomain: GuiDomain | pulumi.Input<string>;
  /** Lines of qrexec policy about what it and its qubes may ask, before those of the level: "qubes.Filecopy * work vault ask". */
  rules: pulumi.Input<pulumi.Input<string>[]>;
  /** "restore" (default): the rules go, what was there before comes back. "keep": all stays. */
  onDelete?: pulumi.Input<"restore" | "keep">;
  unreachable?: pulumi.Input<"fail" | "skip">;
}

/** Rules of one's own on top of a GUI domain's level. Its import id is `host/guiDomain/NAME`. */
export class Access extends pulumi.CustomResource {
  declare readonly host: pulumi.Output<string>;
  declare readonly guiDomain: pulumi.Output<string>;
  declare readonly rules: pulumi.Output<string[]>;
  declare readonly onDelete: pulumi.Output<"restore" | "keep">;
  declare readonly unreachable: pulumi.Output<"fail" | "skip">;
  /** The file; a preview is a diff of it. */
  declare readonly settings: pulumi.Output<Record<string, unknown>>;
  /** The policy as it stands on the host. */
  declare readonly policy: pulumi.Output<string>;
  /** Of the questions that the rules speak of, those that the host's whole policy allows, and those that it denies. */
  declare readonly allowed: pulumi.Output<string[]>;
  declare readonly denied: pulumi.Output<string[]>;
  /** "ready", "drifted", "unverified" (imported) or "failed". */
  declare readonly state: pulumi.Output<string>;
  declare readonly evidence: pulumi.Output<Evidence[]>;
  /** false: the host did not answer, this is the state of the last time. */
  declare readonly looked: pulumi.Output<boolean>;
  /** How the host was reached, without secrets. */
  declare readonly connection: pulumi.Output<Record<string, unknown>>;

  constructor(name: string, args: AccessArgs, options?: pulumi.CustomResourceOptions) {
    const { host, guiDomain, ...rest } = args;
    const inputs = {
      ...ACCESS_OUTPUTS,
      ...rest,
      host: host instanceof Host ? host.name : host,
      guiDomain: guiDomain instanceof GuiDomain ? guiDomain.qube : guiDomain,
    };
    super("guidomain:index:Access", name, inputs, options);
    failAtTheEnd(`Access ${name}`, this.looked);
  }
}

/** Every output has to be named, or it is not there. */
const ACCESS_OUTPUTS = {
  onDelete: undefined,
  unreachable: undefined,
  settings: undefined,
  policy: undefined,
  allowed: undefined,
  denied: undefined,
  state: undefined,
  evidence: undefined,
  looked: undefined,
  connection: undefined,
};
