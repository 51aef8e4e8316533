/** Faults of a Xen host by name, for `npm run lab:xen -- fault` and for tests. A host without IOMMU is a machine of its own: `--no-iommu`. */

import { INITRD } from "./guest.ts";
import type { XenHost } from "./host.ts";

interface Fault {
  what: string;
  set: (host: XenHost) => Promise<unknown>;
  /** None: power-cycle ends it. */
  clear?: (host: XenHost) => Promise<unknown>;
}

const FULL = "/lab-fills-the-disk";
const guestIs = (image: string) => (host: XenHost) => host.must(`ln -sfn ${image} ${INITRD}`);

export const FAULTS: Record<string, Fault> = {
  "power-cut": { what: "the power is gone, until power-cycle", set: (host) => host.powerOff() },
  reset: { what: "the machine restarts without a word", set: (host) => host.powerCycle() },
  hang: {
    what: "the processors stand still, Xen's watchdog with them; power-cycle ends it too",
    set: (host) => host.command("stop"),
    clear: (host) => host.command("cont"),
  },
  "cut-line": {
    what: "no packet gets in or out",
    set: (host) => host.command("set_link", { name: "way-in", up: false }),
    clear: (host) => host.command("set_link", { name: "way-in", up: true }),
  },
  "disk-full": {
    what: "no free block on dom0's disk",
    // The first fails for the last blocks, which the second takes.
    set: (host) =>
      host.must(
        `fallocate -l $(($(stat -f -c %f / ) * $(stat -f -c %S /) * 98 / 100)) ${FULL}; cat /dev/zero >> ${FULL} 2> /dev/null; sync; ! echo x > ${FULL}.probe && rm -f ${FULL}.probe`,
        { timeout: 600_000 },
      ),
    clear: (host) => host.must(`rm -f ${FULL} ${FULL}.probe`),
  },
  "guest-hangs": {
    what: "guests that start from now on stop before they look at their devices",
    set: guestIs("guest-hangs.img"),
    clear: guestIs("guest.img"),
  },
};

export async function setFault(host: XenHost, name: string): Promise<void> {
  const fault = FAULTS[name];
  if (!fault) throw new Error(`There is no fault ${name}; npm run lab:xen -- fault list names all.`);
  await fault.set(host);
}

/** Ends every fault that ends without a power cycle; first those that keep dom0 from answering. */
export async function clearFaults(host: XenHost): Promise<void> {
  for (const name of ["hang", "cut-line", "disk-full", "guest-hangs"]) await FAULTS[name]?.clear?.(host);
}
