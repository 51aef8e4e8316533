/** What a stack's program describes. No host is touched: the program runs against mocks, so what only a host can tell (Host's facts) is unknown to it. */
import { readFile } from "node:fs/promises";
import path from "node:path";
import { runtime } from "@pulumi/pulumi";
import { parse } from "yaml";
import { type GuiDomain, parseGuiDomain } from "../src/model/guiDomain.ts";

export const ROOT = path.resolve(import.meta.dirname, "..");
const PROJECT = "gui-domains";

/** The stack's configuration as the engine would hand it to the program: texts, structured values as JSON. */
async function configuration(stack: string): Promise<Record<string, string>> {
  const file = path.join(ROOT, "stacks", `Pulumi.${stack}.yaml`);
  const text = await readFile(file, "utf8").catch(() => "");
  const config = ((parse(text) as { config?: Record<string, unknown> } | null)?.config ?? {}) as Record<
    string,
    unknown
  >;
  return Object.fromEntries(
    Object.entries(config).map(([key, value]) => [
      key,
      typeof value === "string" ? value : JSON.stringify(value),
    ]),
  );
}

/** The GUI domains that a stack's program registers, and what is wrong with those that cannot be. Once a process: the SDK keeps what it was told. */
export async function describe(stack: string): Promise<{ domains: GuiDomain[]; faults: string[] }> {
  const found: { name: string; inputs: Record<string, unknown> }[] = [];
  await runtime.setMocks(
    {
      newResource({ type, name, inputs }) {
        if (type === "guidomain:index:GuiDomain") found.push({ name, inputs });
        return { id: name, state: { ...inputs, name: inputs["name"] ?? name } };
      },
      call: ({ inputs }) => inputs,
    },
    PROJECT,
    stack,
  );
  runtime.setAllConfig(await configuration(stack));
  await import("../stacks/index.ts");
  // Registrations settle asynchronously after the program's last line.
  await runtime.disconnect();

  const domains: GuiDomain[] = [];
  const faults: string[] = [];
  for (const { name, inputs } of found) {
    const given = Object.fromEntries(Object.entries(inputs).filter(([, value]) => value !== undefined));
    const parsed = parseGuiDomain(name, given);
    if ("gui" in parsed) domains.push(parsed.gui);
    else
      faults.push(
        ...parsed.faults.map(({ property, reason }) => `GUI domain ${name}: ${property}: ${reason}`),
      );
  }
  return { domains, faults };
}
