/** What a program may say about a PCI device that is given to a qube for good, outside any ladder. Pure. Design §2, §6. */
import * as v from "valibot";
import { Selector } from "../pci/selector.ts";
import { listOf, named, oneOf, only, wrong } from "./fields.ts";
import { type Fault, faultsOf } from "./guiDomain.ts";
import { hostNameFault, qubeNameFault } from "./names.ts";

const flag = v.boolean(wrong("true or false"));

const fields = {
  host: named(hostNameFault),
  qube: named(qubeNameFault),
  device: v.optional(Selector),
  devices: v.optional(listOf(Selector)),
  options: v.optional(
    only(
      { permissive: v.optional(flag), noStrictReset: v.optional(flag) },
      wrong("options: permissive, noStrictReset"),
      "there is no such part",
    ),
  ),
  onDelete: v.optional(oneOf("restore", "keep")),
  unreachable: v.optional(oneOf("fail", "skip")),
};

/** What a program may give. */
export const ARGUMENTS = Object.keys(fields).sort();

const PciAttachmentArgs = only(
  fields,
  wrong("the properties of a PCI attachment"),
  `not a property of a PCI attachment; allowed are ${ARGUMENTS.join(", ")}`,
);

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

/** What is wrong with single arguments. */
export const attachmentFaults = (value: unknown): Fault[] => {
  return faultsOf(v.safeParse(PciAttachmentArgs, value).issues);
};

export function parsePciAttachment(value: unknown): { attachment: PciAttachment } | { faults: Fault[] } {
  const parsed = v.safeParse(PciAttachmentArgs, value);
  if (!parsed.success) return { faults: faultsOf(parsed.issues) };
  const { host, qube, device, devices = [], options = {}, onDelete, unreachable } = parsed.output;
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
