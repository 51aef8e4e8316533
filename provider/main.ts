import { guidomain } from "../src/provider/package.ts";
import { runProvider } from "../src/provider/process.ts";

await runProvider(guidomain());
