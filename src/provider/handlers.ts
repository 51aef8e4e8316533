/** The handlers by resource; see package.ts for why this is a module of its own. */
import { prepareFiles } from "../formula/settings.ts";
import { accessHandler } from "./access.ts";
import { audioDomainHandler } from "./audioDomain.ts";
import { guiDomainHandler } from "./guiDomain.ts";
import { hostHandler } from "./host.ts";
import type { Hosts } from "./hosts.ts";
import { pciAttachmentHandler } from "./pciAttachment.ts";
import { templateHandler } from "./template.ts";

export function handlersOf(hosts: Hosts) {
  prepareFiles(); // while a host looks at itself
  return {
    host: hostHandler(hosts),
    guiDomain: guiDomainHandler(hosts),
    audioDomain: audioDomainHandler(hosts),
    pciAttachment: pciAttachmentHandler(hosts),
    access: accessHandler(hosts),
    template: templateHandler(hosts),
  };
}
