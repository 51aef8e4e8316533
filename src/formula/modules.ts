/** Our Salt modules as they are shipped with an apply: path below the agent's Salt folder → text. */
import { readdir, readFile } from "node:fs/promises";

const FOLDER = new URL("../../salt/", import.meta.url);

export async function saltModules(): Promise<Record<string, string>> {
  const modules: Record<string, string> = {};
  for (const folder of ["_states", "_utils"])
    for (const file of (await readdir(new URL(`${folder}/`, FOLDER))).sort())
      if (file.endsWith(".py"))
        modules[`${folder}/${file}`] = await readFile(new URL(`${folder}/${file}`, FOLDER), "utf8");
  return modules;
}
