/** The agent's source as it travels: one JSON object {module: source}, named by its sha256. */
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { basename } from "node:path";

export interface Bundle {
  /** Source of the loader, for `python3 -IS -c`. */
  loader: string;
  /** One line of JSON. */
  text: string;
  /** sha256 of `text`, hexadecimal. */
  digest: string;
}

const SALT = new URL("../../salt/", import.meta.url);

/** What the agent shares with our Salt states. */
const SHARED = ["grub", "policy_lines", "qubes_admin", "xen_domains", "xen_host", "xl_config"].map(
  (name) => `_utils/${name}.py`,
);

/** Reads the agent from `salt/`: every module of `agent/` (but the loader) and `guard/`, and what it shares with the states. */
export function readBundle(salt: URL = SALT): Bundle {
  const inside = (folder: string) =>
    readdirSync(new URL(folder, salt))
      .filter((name) => name.endsWith(".py") && name !== "loader.py")
      .map((name) => folder + name);
  const files = [...inside("agent/"), ...inside("guard/"), ...SHARED].sort();
  const source = (file: string) => readFileSync(new URL(file, salt), "utf8");
  const modules = Object.fromEntries(files.map((file) => [basename(file, ".py"), source(file)]));
  return bundleOf(source("agent/loader.py"), modules);
}

export function bundleOf(loader: string, modules: Record<string, string>): Bundle {
  const text = JSON.stringify(modules);
  return { loader, text, digest: createHash("sha256").update(text).digest("hex") };
}
