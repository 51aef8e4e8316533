/** `npm run render -- STACK [--out FOLDER]`: writes the Salt formulas of a stack for a person to read, without touching a host. */
import { mkdir, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { parseArgs } from "node:util";
import { formulaOf } from "../src/formula/formula.ts";
import { slsName } from "../src/formula/names.ts";
import { settingsOf } from "../src/formula/settings.ts";
import { describe, ROOT } from "./describe.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { out: { type: "string", default: path.join(ROOT, "rendered") } },
});
const [stack, ...rest] = positionals;
if (!stack || rest.length || !/^[\w.-]+$/.test(stack)) {
  process.stderr.write("Usage: npm run render -- STACK [--out FOLDER]\n");
  process.exit(2);
}

const { domains, faults } = await describe(stack);
for (const fault of faults) process.stderr.write(`${fault}\n`);
for (const gui of domains) {
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
if (domains.length + faults.length === 0) process.stderr.write(`Stack ${stack} describes no GUI domain.\n`);
process.exitCode = faults.length ? 1 : 0;
