import * as pulumi from "@pulumi/pulumi";
import type { Evidence, Pending } from "./guiDomain.ts";
import { Host } from "./host.ts";
import { failAtTheEnd } from "./unreached.ts";

export interface TemplateArgs {
  /** The machine, or its name in the configuration. */
  host: Host | pulumi.Input<string>;
  /** The template. Default: the resource's name. */
  qube?: pulumi.Input<string>;
  /** Display modes of the GUI domains that are made from it. Default: ["xephyr"]. */
  modes?: pulumi.Input<pulumi.Input<"gpu" | "xephyr" | "vnc" | "rdp">[]>;
  /** Whether audio domains are made from it too. Default: false. */
  audio?: pulumi.Input<boolean>;
  /** More packages, as its own package manager names them. */
  packages?: pulumi.Input<pulumi.Input<string>[]>;
  /** Seconds that Salt may take in it. Default: 3600. */
  timeout?: pulumi.Input<number>;
  /** "restore" (default): the packages that were not there before go again, and so do our files. "keep": all stays. */
  onDelete?: pulumi.Input<"restore" | "keep">;
  unreachable?: pulumi.Input<"fail" | "skip">;
}

/**
 * The inside of a template, as GUI domains made from it need it: packages, the greeter, what serves remote screens and power. It is started
 * only where something has changed. Its import id is `host/template`.
 */
export class Template extends pulumi.CustomResource {
  declare readonly host: pulumi.Output<string>;
  /** A GUI domain's `template`, so that it waits for this. */
  declare readonly qube: pulumi.Output<string>;
  declare readonly modes: pulumi.Output<("gpu" | "xephyr" | "vnc" | "rdp")[]>;
  declare readonly audio: pulumi.Output<boolean>;
  declare readonly packages: pulumi.Output<string[]>;
  declare readonly timeout: pulumi.Output<number>;
  declare readonly onDelete: pulumi.Output<"restore" | "keep">;
  declare readonly unreachable: pulumi.Output<"fail" | "skip">;
  /** distribution, packages, files, units and their digest; a preview is a diff of these. */
  declare readonly settings: pulumi.Output<Record<string, unknown>>;
  /** Packages that were not there before. */
  declare readonly brought: pulumi.Output<string[]>;
  /** "ready", "drifted", "unverified" (imported) or "failed". */
  declare readonly state: pulumi.Output<string>;
  /** Qubes made from it that run since before it was changed. */
  declare readonly pending: pulumi.Output<Pending[]>;
  declare readonly evidence: pulumi.Output<Evidence[]>;
  /** false: the host did not answer, this is the state of the last time. */
  declare readonly looked: pulumi.Output<boolean>;
  /** How the host was reached, without secrets. */
  declare readonly connection: pulumi.Output<Record<string, unknown>>;

  constructor(name: string, args: TemplateArgs, options?: pulumi.CustomResourceOptions) {
    const { host, ...rest } = args;
    const inputs = { ...TEMPLATE_OUTPUTS, ...rest, host: host instanceof Host ? host.name : host };
    super("guidomain:index:Template", name, inputs, options);
    failAtTheEnd(`Template ${name}`, this.looked);
    const qube = args.qube ?? name;
    if (host instanceof Host && typeof qube === "string")
      ofHosts.set(host, { ...ofHosts.get(host), [qube]: this });
  }
}

/** The templates of a program by their hosts. */
const ofHosts = new WeakMap<Host, Record<string, Template>>();

/**
 * What is made from a template waits for it, however the program names it: else the engine works on both at once, and what comes first finds a
 * template without what it needs. The template then also goes last. It has to be made before, on the same `Host`.
 */
export function afterItsTemplate(
  host: Host | pulumi.Input<string>,
  template: pulumi.Input<string> | undefined,
  options: pulumi.CustomResourceOptions = {},
): pulumi.CustomResourceOptions {
  const made =
    host instanceof Host && typeof template === "string" ? ofHosts.get(host)?.[template] : undefined;
  if (!made) return options;
  const others = options.dependsOn === undefined ? [] : [options.dependsOn].flat();
  return { ...options, dependsOn: [...(others as pulumi.Input<pulumi.Resource>[]), made] };
}

/** Every output has to be named, or it is not there. */
const TEMPLATE_OUTPUTS = {
  qube: undefined,
  modes: undefined,
  audio: undefined,
  packages: undefined,
  timeout: undefined,
  onDelete: undefined,
  unreachable: undefined,
  settings: undefined,
  brought: undefined,
  state: undefined,
  pending: undefined,
  evidence: undefined,
  looked: undefined,
  connection: undefined,
};
