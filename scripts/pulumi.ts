/** Where the set-up (scripts/setup.mjs) puts, or links, the Pulumi CLI. */
import path from "node:path";

/** The folder whose `bin/` holds the CLI and its language host, for `PulumiCommand.get({ root })`. */
export function pulumiRoot(): string {
  return path.resolve(import.meta.dirname, "../.setup/pulumi");
}
