/** The agent's source as it travels: one JSON object {module: source}, named by its sha256. */
import { createHash } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { basename } from "node:path";

export interface Bundle {
  /** Source of the loader, for `python3 -I -c`. */
  loader: string;
  /** One line of JSON. */
  text: string;
  /** sha256 of `text`, hexadecimal. */
  digest: string;
}

const SALT = new URL("../../salt/", import.meta.url);

/** What the agent shares with our Salt states. */
const SHARED = ["_utils/qubes_admin.py", "_utils/grub.py"];

/** Reads the agent from `salt/`: every module of `agent/` (but the loader) and `guard/`, and what it shares with the states. */
export async function readBundle(salt: URL = SALT): Promise<Bundle> {
  const inside = async (folder: string) =>
    (await readdir(new URL(folder, salt)))
      .filter((name) => name.endsWith(".py") && name !== "loader.py")
      .map((name) => folder + name);
  const files = [...(await inside("agent/")), ...(await inside("guard/")), ...SHARED].sort();
  const source = (file: string) => readFile(new URL(file, salt), "utf8");
  const entries = await Promise.all(
    files.map(async (file) => [basename(file, ".py"), await source(file)] as const),
  );
  return bundleOf(await source("agent/loader.py"), Object.fromEntries(entries));
}

export function bundleOf(loader: string, modules: Record<string, string>): Bundle {
  const text = JSON.stringify(modules);
  return { loader, text, digest: createHash("sha256").update(text).digest("hex") };
}
