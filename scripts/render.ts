/**
 * `npm run render -- STACK [--out FOLDER]`: writes the Salt formulas of a stack for a person to read. No host is touched: the program runs
 * against mocks, so what only a host can tell (Host's facts) is unknown to it.
 */
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { parseArgs } from "node:util";
import { runtime } from "@pulumi/pulumi";
import { parse } from "yaml";
import { formulaOf } from "../src/formula/formula.ts";
import { slsName } from "../src/formula/names.ts";
import { settingsOf } from "../src/formula/settings.ts";
import { parseGuiDomain } from "../src/model/guiDomain.ts";

const ROOT = path.resolve(import.meta.dirname, "..");
const PROJECT = "gui-domains";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { out: { type: "string", default: path.join(ROOT, "rendered") } },
});
const [stack, ...rest] = positionals;
if (!stack || rest.length || !/^[\w.-]+$/.test(stack)) {
  process.stderr.write("Usage: npm run render -- STACK [--out FOLDER]\n");
  process.exit(2);
}

/** The stack's configuration as the engine would hand it to the program: texts, structured values as JSON. */
async function configuration(): Promise<Record<string, string>> {
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
runtime.setAllConfig(await configuration());
await import("../stacks/index.ts");
// Registrations settle asynchronously after the program's last line.
await runtime.disconnect();

let faults = 0;
for (const { name, inputs } of found) {
  const given = Object.fromEntries(Object.entries(inputs).filter(([, value]) => value !== undefined));
  const parsed = parseGuiDomain(name, given);
  if ("faults" in parsed) {
    faults += parsed.faults.length;
    for (const { property, reason } of parsed.faults)
      process.stderr.write(`GUI domain ${name}: ${property}: ${reason}\n`);
    continue;
  }
  const { gui } = parsed;
  const [mode = "xephyr"] = gui.display;
  const formula = formulaOf({ qube: gui.qube, mode, settings: settingsOf(gui, mode), restores: [] });
  const folder = path.join(values.out, stack, gui.host);
  await rm(path.join(folder, "guidomain", slsName(gui.qube)), { recursive: true, force: true });
  for (const [file, text] of Object.entries(formula.files)) {
    const at = path.join(folder, file);
    await mkdir(path.dirname(at), { recursive: true });
    await writeFile(at, text);
    process.stdout.write(`${path.relative(process.cwd(), at)}\n`);
  }
}
if (found.length === 0) process.stderr.write(`Stack ${stack} describes no GUI domain.\n`);
process.exitCode = faults ? 1 : 0;
