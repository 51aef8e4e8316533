/** The process that the engine starts: says its port, serves, and ends when the engine does. */

import type { Properties, ProviderPackage } from "./handler.ts";
import type { ServeOptions } from "./server.ts";
import { serve } from "./server.ts";

/** Milliseconds for closing connections; the engine waits 5 s after SIGINT, and each command would wait with it. */
const CLOSE_LIMIT = 1000;
const ORPHAN_CHECK = 1000;

export async function runProvider(pkg: ProviderPackage): Promise<void> {
  const parent = process.ppid;
  const options: ServeOptions = {};
  const engineAddress = process.argv.slice(2).find((argument) => !argument.startsWith("-"));
  if (engineAddress) options.engineAddress = engineAddress;
  const configuration = takeConfiguration(process.env);
  if (configuration) options.configuration = configuration;
  const { port, scrub, stop } = await serve(pkg, options);

  let ending = false;
  function end(status: number, why: string): void {
    if (ending) return;
    ending = true;
    setTimeout(() => process.exit(status), CLOSE_LIMIT);
    stop(new Error(why)).finally(() => process.exit(status));
  }

  // The engine runs its plugins in process groups of their own: Ctrl-C reaches us as Cancel, SIGINT only at the end.
  process.on("SIGINT", () => end(0, "the engine has ended"));
  process.on("SIGTERM", () => end(0, "terminated"));
  process.on("uncaughtException", (error) => {
    process.stderr.write(`${scrub(error.stack ?? String(error))}\n`);
    end(1, "the provider failed");
  });
  // When the engine is killed nobody tells us, and an orphan would hold its host's lock.
  setInterval(() => {
    if (process.ppid !== parent) end(0, "the engine was killed");
  }, ORPHAN_CHECK).unref();

  // The engine reads the port from the first line; console.log would colour it where FORCE_COLOR is set.
  process.stdout.write(`${port}\n`);
}

/**
 * The stack's present configuration of this package, which the engine puts into the environment as JSON, names without
 * the namespace and secrets in clear (sdk/go/common/resource/plugin/provider_plugin.go). It is taken out there, and the
 * state's passphrase with it: the processes that we start have no business with either.
 */
function takeConfiguration(environment: NodeJS.ProcessEnv): Properties | undefined {
  const text = environment.PULUMI_CONFIG;
  for (const name of ["PULUMI_CONFIG", "PULUMI_CONFIG_PASSPHRASE"]) delete environment[name];
  if (text === undefined) return undefined;
  try {
    return JSON.parse(text) as Properties;
  } catch {
    return undefined; // set by something else: what Configure brings will do
  }
}
