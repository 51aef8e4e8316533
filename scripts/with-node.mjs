/**
 * `node scripts/with-node.mjs --need=PARTS SCRIPT [ARGUMENTS…]`: sets up what the script needs, then runs it by Node ≥ 22.18.
 *
 * PARTS: `node`, `pulumi`, `lab`, `extras`, `xen` (see setup.mjs), comma-separated, or `stack`: what the stack named by `--stack` needs.
 * The script sees our Pulumi CLI and node_modules/.bin first on PATH. Its exit status is ours.
 */

import { spawn } from "node:child_process";
import { constants } from "node:os";
import * as path from "node:path";
import { findNode, partsFor, pulumiRoot, root, setUpOrExit } from "./setup.mjs";

const [need, script, ...args] = process.argv.slice(2);
if (!need?.startsWith("--need=") || !script) {
  process.stderr.write(
    "usage: node scripts/with-node.mjs --need=node|pulumi|lab|extras|xen|stack SCRIPT [ARGUMENTS…]\n",
  );
  process.exit(2);
}
await setUpOrExit(partsFor(need.slice("--need=".length), args));

const node = findNode();
const file = path.resolve(root, script);
const first = [path.join(pulumiRoot, "bin"), path.join(root, "node_modules", ".bin")];
const rest = (process.env.PATH ?? "").split(path.delimiter).filter((dir) => !first.includes(dir));
// Pulumi's look for a newer version would reach out to the network at every command.
const env = {
  PULUMI_SKIP_UPDATE_CHECK: "true",
  ...process.env,
  PATH: [...first, ...rest].join(path.delimiter),
};

if (process.execve) {
  // Becoming the script leaves no process in between: signals, terminal and status are its own.
  process.execve(node, [node, file, ...args], env);
} else {
  const child = spawn(node, [file, ...args], { stdio: "inherit", env });
  // The terminal sends Ctrl-C to the script as well; sent twice it would mean "at once".
  process.on("SIGINT", () => process.stdin.isTTY || child.kill("SIGINT"));
  process.on("SIGTERM", () => child.kill("SIGTERM"));
  process.on("SIGHUP", () => child.kill("SIGHUP"));
  child.on("error", (error) => {
    process.stderr.write(`${node} cannot be started: ${error.message}\n`);
    process.exit(1);
  });
  child.on("exit", (code, signal) => process.exit(code ?? 128 + (constants.signals[signal] ?? 0)));
}
