// The program of every stack: which one runs is the stack's configuration, `gui-domains:program`.
import { Config, getStack } from "@pulumi/pulumi";

const program = new Config().get("program") ?? getStack();
const programs: Record<string, () => Promise<Record<string, unknown>>> = {
  lab: () => import("./lab.ts"),
  workstation: () => import("./workstation.ts"),
  xen: () => import("./xen.ts"),
};
const chosen = programs[program];
if (!chosen)
  throw new Error(
    `gui-domains:program is "${program}"; allowed are ${Object.keys(programs).join(", ")}. Set it: pulumi config set program workstation`,
  );

/** The chosen program's exports are the stack's outputs. */
export default { ...(await chosen()) };
