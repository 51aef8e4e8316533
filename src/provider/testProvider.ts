/** For tests: the demo package as a provider process of its own. */

import { runProvider } from "./process.ts";
import { demoPackage } from "./testPackage.ts";

await runProvider(demoPackage());
