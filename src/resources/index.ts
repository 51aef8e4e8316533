export * from "./guiDomain.ts";
export * from "./host.ts";
