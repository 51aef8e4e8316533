/** The package guidomain: from type token to handler. */
import { readFileSync } from "node:fs";
import { guiDomainHandler } from "./guiDomain.ts";
import type { ProviderPackage } from "./handler.ts";
import { hostHandler } from "./host.ts";
import { configFaults, Hosts } from "./hosts.ts";
import { schemaOf } from "./schema.ts";

const { version } = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as { version: string };
const hosts = new Hosts();

export const guidomain = (): ProviderPackage => ({
  name: "guidomain",
  version,
  schema: schemaOf(version),
  handlers: {
    "guidomain:index:Host": hostHandler(hosts),
    "guidomain:index:GuiDomain": guiDomainHandler(hosts),
  },
  checkConfig: configFaults,
  configure: (args) => hosts.configure(args),
  scrub: (text) => hosts.scrubber.scrub(text),
  close: () => hosts.close(),
});
