import { homedir } from "node:os";
import { join } from "node:path";

/** A path with a leading `~/` put below the home folder of whoever runs this. */
export function expandHome(path: string): string {
  return path.startsWith("~/") ? join(homedir(), path.slice(2)) : path;
}
