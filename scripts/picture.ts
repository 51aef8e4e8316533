/**
 * `npm run picture -- STACK [--out FILE]`: an SVG of a stack's hosts, domains and devices, and of what may ask what. From the program, and
 * from the state of the last run where there is one; no host is touched.
 */
import { mkdir, writeFile } from "node:fs/promises";
import path from "node:path";
import { parseArgs } from "node:util";
import { pictureOf } from "../src/report/picture.ts";
import { type StateResource, sceneOf } from "../src/report/scene.ts";
import { describe, ROOT } from "./describe.ts";
import { selectStack } from "./stack.ts";

const USAGE = "Usage: npm run picture -- STACK [--out FILE]\n";

function parse() {
  try {
    const { values, positionals } = parseArgs({
      allowPositionals: true,
      options: { out: { type: "string" } },
    });
    const [stack, ...rest] = positionals;
    if (stack && rest.length === 0 && /^[\w.-]+$/.test(stack)) return { stack, out: values.out };
  } catch {
    // An option that there is not.
  }
  process.stderr.write(USAGE);
  process.exit(2);
}

const { stack, out = path.join(ROOT, "rendered", `${stack}.svg`) } = parse();
const { faults, ...described } = await describe(stack);
for (const fault of faults) process.stderr.write(`${fault}\n`);
const exported = (await (await selectStack(stack))?.exportStack())?.deployment as
  | { resources?: StateResource[] }
  | undefined;
const scene = sceneOf(stack, described, exported?.resources ?? []);
await mkdir(path.dirname(out), { recursive: true });
await writeFile(out, pictureOf(scene));
process.stdout.write(`${path.relative(process.cwd(), out)}\n`);
if (described.hosts.length === 0) process.stderr.write(`Stack ${stack} describes no host.\n`);
process.exitCode = faults.length ? 1 : 0;
