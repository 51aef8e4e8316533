/** What a program may say about a PCI device that is given to a qube for good, outside any ladder. Pure. Design §2, §6. */
import { z } from "zod";
import { Selector } from "../pci/selector.ts";
import { listOf, named, oneOf, wrong } from "./fields.ts";
import { type Fault, faultOf } from "./guiDomain.ts";
import { hostNameFault, qubeNameFault } from "./names.ts";

const flag = z.boolean({ error: wrong("true or false") });

export const PciAttachmentArgs = z.strictObject(
  {
    host: named(hostNameFault),
    qube: named(qubeNameFault),
    device: Selector.optional(),
    devices: listOf(Selector).optional(),
    options: z
      .strictObject(
        { permissive: flag.optional(), noStrictReset: flag.optional() },
        { error: wrong("options: permissive, noStrictReset") },
      )
      .optional(),
    onDelete: oneOf("restore", "keep").optional(),
    unreachable: oneOf("fail", "skip").optional(),
  },
  { error: wrong("the properties of a PCI attachment") },
);
export type PciAttachmentArgs = z.infer<typeof PciAttachmentArgs>;

export interface PciAttachment {
  host: string;
  qube: string;
  /** One or several, each by what it is. */
  devices: Selector[];
  /** null: as the device needs it. */
  options: { permissive: boolean | null; noStrictReset: boolean | null };
  onDelete: "restore" | "keep";
  unreachable: "fail" | "skip";
}

const ALLOWED = Object.keys(PciAttachmentArgs.shape).sort().join(", ");
const faults = (error: z.ZodError) =>
  error.issues.flatMap((issue) => faultOf(issue, `a PCI attachment; allowed are ${ALLOWED}`));

/** What is wrong with single arguments. */
export const attachmentFaults = (value: unknown): Fault[] => {
  const { error } = PciAttachmentArgs.safeParse(value);
  return error ? faults(error) : [];
};

export function parsePciAttachment(value: unknown): { attachment: PciAttachment } | { faults: Fault[] } {
  const parsed = PciAttachmentArgs.safeParse(value);
  if (!parsed.success) return { faults: faults(parsed.error) };
  const { host, qube, device, devices = [], options = {}, onDelete, unreachable } = parsed.data;
  const all = [...(device ? [device] : []), ...devices];
  if (device && devices.length)
    return {
      faults: [{ property: "devices", reason: `device and devices are both given; put all into "devices"` }],
    };
  if (all.length === 0)
    return {
      faults: [
        {
          property: "device",
          reason: `missing; give a device by what it is, such as { vendor: "8086", device: "15ec" }`,
        },
      ],
    };
  return {
    attachment: {
      host,
      qube,
      devices: all,
      options: { permissive: options.permissive ?? null, noStrictReset: options.noStrictReset ?? null },
      onDelete: onDelete ?? "restore",
      unreachable: unreachable ?? "fail",
    },
  };
}
