/** The handlers over one set of hosts; see package.ts for why this is a module of its own. */
import type { Scrubber } from "../host/scrub.ts";
import { guiDomainHandler } from "./guiDomain.ts";
import { hostHandler } from "./host.ts";
import { configFaults, Hosts } from "./hosts.ts";

export function handlersOf(scrubber: Scrubber) {
  const hosts = new Hosts(scrubber);
  return { hosts, host: hostHandler(hosts), guiDomain: guiDomainHandler(hosts), checkConfig: configFaults };
}
