/** Types of setup.mjs, which is plain JavaScript because it runs before there is anything else. */

export type Part = "node" | "pulumi" | "lab" | "extras" | "xen";

export declare const root: string;
export declare const pulumiRoot: string;
export declare const pulumiVersion: string;
export declare const nodeVersion: string;
export declare class SetupError extends Error {}

export declare function isAtLeast(version: string, minimum: string, options?: { anyMajor?: boolean }): boolean;

interface LockedPackage {
  version?: string;
  integrity?: string;
  optional?: boolean;
  devOptional?: boolean;
  peer?: boolean;
}
interface Lock {
  packages?: Record<string, LockedPackage>;
}
export declare function isInstalled(lock: Lock | null, installed: Lock | null): boolean;

export declare function packageInstall(
  packages: { debian: string[]; fedora: string[] },
  machine: { uid: number; has: (program: string) => boolean },
): string[] | null;

export declare function partsFor(need: string, args: readonly string[]): Part[];
export declare function duration(milliseconds: number): string;
export declare function findNode(): string | undefined;
export declare function isReady(parts: readonly Part[]): boolean;
export declare function setUp(parts: readonly Part[]): Promise<void>;
export declare function setUpOrExit(parts: readonly Part[]): Promise<void>;
export declare function sentence(error: unknown): string;
