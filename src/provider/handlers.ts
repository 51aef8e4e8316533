/** The handlers by resource; see package.ts for why this is a module of its own. */
import { guiDomainHandler } from "./guiDomain.ts";
import { hostHandler } from "./host.ts";
import type { Hosts } from "./hosts.ts";
import { pciAttachmentHandler } from "./pciAttachment.ts";

export const handlersOf = (hosts: Hosts) => ({
  host: hostHandler(hosts),
  guiDomain: guiDomainHandler(hosts),
  pciAttachment: pciAttachmentHandler(hosts),
});
