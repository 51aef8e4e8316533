/** What a program may say about a template whose inside it wants as GUI domains need it, and the rules it must keep. Pure. */
import * as v from "valibot";
import { integer, listOf, named, oneOf, only, shown, wrong } from "./fields.ts";
import { type Fault, faultsOf } from "./guiDomain.ts";
import { hostNameFault, qubeNameFault } from "./names.ts";

/** Display modes whose parts a template can be given. */
export const TEMPLATE_MODES = ["gpu", "xephyr", "vnc", "rdp"] as const;
export type TemplateMode = (typeof TEMPLATE_MODES)[number];

/** Distributions whose packages are known, as the feature os-distribution of a template names them. */
export const DISTRIBUTIONS = ["fedora", "debian"] as const;
export type Distribution = (typeof DISTRIBUTIONS)[number];

/** Seconds that all of it may take; packages come through the update proxy, over whatever network there is. */
export const TEMPLATE_TIMEOUT = 3600;

const flag = v.boolean(({ input }) => `${shown(input)} is not allowed; give true or false`);

const packageName = named((name) =>
  /^[A-Za-z0-9][A-Za-z0-9+._-]{0,99}$/.test(name) ? null : `${shown(name)} is not the name of a package`,
);

const fields = {
  host: named(hostNameFault),
  /** The template; the resource's own name unless given. */
  qube: v.optional(named(qubeNameFault)),
  modes: v.optional(listOf(oneOf(...TEMPLATE_MODES))),
  audio: v.optional(flag),
  packages: v.optional(listOf(packageName)),
  timeout: v.optional(integer(60, 36_000, "a whole number of seconds")),
  onDelete: v.optional(oneOf("restore", "keep")),
  unreachable: v.optional(oneOf("fail", "skip")),
};

/** What a program may give; every argument but `host` may be left out. */
export const ARGUMENTS = Object.keys(fields).sort();

const TemplateArgs = only(
  fields,
  wrong("the properties of a template"),
  `not a property of a template; allowed are ${ARGUMENTS.join(", ")}`,
);

/** A template as described: every default filled in, lists in one order. */
export interface Template {
  host: string;
  qube: string;
  /** Modes of the GUI domains that are made from it. */
  modes: TemplateMode[];
  /** Audio domains are made from it too. */
  audio: boolean;
  /** Packages beside those. */
  packages: string[];
  /** Seconds. */
  timeout: number;
  onDelete: "restore" | "keep";
  unreachable: "fail" | "skip";
}

/** What is wrong with single arguments. */
export const templateFaults = (value: unknown): Fault[] => faultsOf(v.safeParse(TemplateArgs, value).issues);

/** The description with its defaults, or what is wrong with it, by property path. */
export function parseTemplate(name: string, value: unknown): { template: Template } | { faults: Fault[] } {
  const parsed = v.safeParse(TemplateArgs, value);
  if (!parsed.success) return { faults: faultsOf(parsed.issues) };
  const { host, qube = name, modes = ["xephyr"], audio = false, packages = [], ...rest } = parsed.output;
  const bad = parsed.output.qube === undefined ? qubeNameFault(name) : null;
  if (bad)
    return {
      faults: [
        {
          property: "qube",
          reason: `${bad}. The template is the resource's name unless "qube" says otherwise`,
        },
      ],
    };
  if (modes.length === 0 && !audio && packages.length === 0)
    return { faults: [{ property: "modes", reason: "[] asks for nothing; name a mode, audio or packages" }] };
  return {
    template: {
      host,
      qube,
      modes: TEMPLATE_MODES.filter((mode) => modes.includes(mode)),
      audio,
      packages: [...new Set(packages)].sort(),
      timeout: rest.timeout ?? TEMPLATE_TIMEOUT,
      onDelete: rest.onDelete ?? "restore",
      unreachable: rest.unreachable ?? "fail",
    },
  };
}
