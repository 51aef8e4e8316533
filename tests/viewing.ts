/** `npm run view` as a person runs it on a test's stack. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import path from "node:path";
import { ROOT } from "./harness.ts";

export interface View {
  /** Where it listens; 0: it ended before. */
  port: number;
  /** Standard output and error so far. */
  said(): string;
  /** Ctrl-C; its exit status. */
  interrupt(): Promise<number | null>;
  /** Its exit status, when it has ended. */
  ended: Promise<number | null>;
}

/** Starts it and waits until it says where it listens, or has ended. `stack`: as testStack made it, in `folder`. */
export async function view(folder: string, stack: string, ...args: string[]): Promise<View> {
  const child = spawn(
    process.execPath,
    [path.join(ROOT, "scripts/view.ts"), "--cwd", folder, "--stack", stack, ...args],
    {
      env: {
        ...process.env,
        PULUMI_CONFIG_PASSPHRASE: "test",
        PULUMI_BACKEND_URL: `file://${folder}`,
        PULUMI_SKIP_UPDATE_CHECK: "true",
      },
      stdio: ["ignore", "pipe", "pipe"],
    },
  );
  process.once("exit", () => child.kill("SIGKILL"));
  let said = "";
  const ended = once(child, "close").then(([code]) => code as number | null);
  const ready = new Promise<void>((resolve) => {
    for (const stream of [child.stdout, child.stderr])
      stream.setEncoding("utf8").on("data", (text: string) => {
        said += text;
        if (said.includes("Ctrl-C ends it.")) resolve();
      });
  });
  await Promise.race([ready, ended]);
  return {
    port: Number(/127\.0\.0\.1:(\d+), from this machine alone/.exec(said)?.[1] ?? 0),
    said: () => said,
    ended,
    interrupt() {
      child.kill("SIGINT");
      return ended;
    },
  };
}
