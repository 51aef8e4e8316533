/**
 * What this folder reads of a host's facts and snapshot. The agent's protocol (src/host/protocol.ts) has the same forms
 * and says what each means; they stand here again because nothing pure looks up to `host`. A test keeps both alike.
 */
export interface PciFunction {
  sbdf: string;
  port: string | null;
  class: string;
  vendor: string;
  device: string;
  subsystem: string | null;
  driver: string | null;
  reset: string[] | null;
  name: string | null;
  bridge: { secondary: string; subordinate: string } | null;
  parent: string | null;
  bootVga: boolean | null;
  rom: boolean | null;
  module: string | null;
  outputs: { name: string; connected: boolean; enabled: boolean }[];
  inputs: string[];
  disks: string[];
  nets: string[];
}

export interface Facts {
  platform?: "qubes" | "xen" | "none" | undefined;
  xen: {
    virtCaps: string[];
    totalMemory: number;
    iommu: boolean | null;
    interruptRemapping: boolean | null;
  };
  pci: PciFunction[];
  boot: {
    oneShot: boolean | null;
    oneShotWhy: string;
    unattended: boolean | null;
    unattendedWhy: string;
    hidePaths: boolean | null;
    hideWhy?: string | undefined;
  };
  keyboards: string[] | null;
}

export interface Snapshot {
  facts: Facts;
  qubes: Record<
    string,
    {
      state: string;
      properties: Record<string, { value: string }>;
      pci: { port: string; device: string }[];
    }
  >;
}
