/** The stacks of this project, as the Automation API opens them. */
import { mkdir } from "node:fs/promises";
import path from "node:path";
import automation, { type Stack } from "@pulumi/pulumi/automation/index.js";
import { pulumiRoot } from "./pulumi.ts";

export const ROOT = path.resolve(import.meta.dirname, "..");

async function opening() {
  await mkdir(path.join(ROOT, ".state"), { recursive: true }); // the file backend wants its folder
  const passphrase =
    process.env["PULUMI_CONFIG_PASSPHRASE"] ??
    (process.env["PULUMI_CONFIG_PASSPHRASE_FILE"] ? undefined : "");
  return {
    pulumiCommand: await automation.PulumiCommand.get({ root: pulumiRoot() }),
    envVars: passphrase === undefined ? {} : { PULUMI_CONFIG_PASSPHRASE: passphrase },
  };
}

/** Made where there is none of that name. */
export const openStack = async (stackName: string): Promise<Stack> =>
  automation.LocalWorkspace.createOrSelectStack({ stackName, workDir: ROOT }, await opening());

/** null: there is none of that name. `workDir`: the folder of another project. */
export async function selectStack(stackName: string, workDir = ROOT): Promise<Stack | null> {
  try {
    return await automation.LocalWorkspace.selectStack({ stackName, workDir }, await opening());
  } catch (error) {
    if (error instanceof automation.StackNotFoundError) return null;
    throw error;
  }
}
