/** Where the set-up puts the Pulumi CLI; scripts/setup.mjs does the putting. */
import os from "node:os";
import path from "node:path";
import pulumiPackage from "pulumi/package.json" with { type: "json" };

/** The folder whose `bin/` holds the CLI (docs: `PulumiCommand.get({ root })`). */
export function pulumiRoot(): string {
  const home = process.env["PULUMI_HOME"] ?? path.join(os.homedir(), ".pulumi");
  return path.join(home, "versions", pulumiPackage.version);
}
