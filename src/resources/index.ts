export * from "./access.ts";
export * from "./audioDomain.ts";
export * from "./guiDomain.ts";
export * from "./host.ts";
export * from "./pciAttachment.ts";
export * from "./selector.ts";
export * from "./template.ts";
export * from "./workstation.ts";
