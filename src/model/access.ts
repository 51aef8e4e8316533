/** What a program may say about rules of one's own on top of a GUI domain's level. Pure. Design §2, §7. */
import * as v from "valibot";
import { POLICY } from "../policy/load.ts";
import { RULES } from "../policy/principal.ts";
import { named, oneOf, only, wrong } from "./fields.ts";
import { type Fault, faultsOf } from "./guiDomain.ts";
import { guiDomainNameFault, hostNameFault } from "./names.ts";

const fields = {
  host: named(hostNameFault),
  guiDomain: named(guiDomainNameFault),
  rules: RULES,
  onDelete: v.optional(oneOf("restore", "keep")),
  unreachable: v.optional(oneOf("fail", "skip")),
};

/** What a program may give. */
export const ARGUMENTS = Object.keys(fields).sort();

const AccessArgs = only(
  fields,
  wrong("the properties of an access"),
  `not a property of an access; allowed are ${ARGUMENTS.join(", ")}`,
);

export interface Access {
  /** The resource's name, which is part of its file's. */
  name: string;
  host: string;
  /** The qube whose level it stands on. */
  guiDomain: string;
  /** Lines of policy, at least one. */
  rules: string[];
  onDelete: "restore" | "keep";
  unreachable: "fail" | "skip";
}

/** What is wrong with single arguments. */
export const accessFaults = (value: unknown): Fault[] => faultsOf(v.safeParse(AccessArgs, value).issues);

export function parseAccess(name: string, value: unknown): { access: Access } | { faults: Fault[] } {
  const parsed = v.safeParse(AccessArgs, value);
  if (!parsed.success) return { faults: faultsOf(parsed.issues) };
  const { host, guiDomain, rules, onDelete = "restore", unreachable = "fail" } = parsed.output;
  if (rules.length === 0)
    return {
      faults: [{ property: "rules", reason: "it is empty; give at least one rule, or leave the access out" }],
    };
  if (!/^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$/.test(name))
    return {
      faults: [
        {
          property: "",
          reason: `the resource's name is part of a policy file's name, which takes letters, digits, "_" and "-", at most 63; give it another name`,
        },
      ],
    };
  return { access: { name, host, guiDomain, rules, onDelete, unreachable } };
}

/**
 * After the redirection of sound (40), before that of input and the levels (46): the first rule that fits counts. Another letter than these
 * stops every qrexec call (qubes-host.md (f)).
 */
export const accessFile = ({ guiDomain, name }: Pick<Access, "guiDomain" | "name">) =>
  `${POLICY}/44-access-${guiDomain}-${name}.policy`.toLowerCase();
