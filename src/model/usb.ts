/** One USB device of a USB qube, named by what it is. Pure. Source: qubes-app-linux-usb-proxy 4.3.6 (qubesusbproxy/core3ext.py). */
import * as v from "valibot";
import { named, only, wrong } from "./fields.ts";
import { USB_QUBE } from "./input.ts";
import { qubeNameFault } from "./names.ts";

/** Every part that is given must hold. */
export interface UsbSelector {
  /** The qube that has the controller. */
  qube: string;
  vendor: string;
  device: string;
  /** Only there, "1-2"; else wherever it is plugged in. */
  port?: string | undefined;
}

const matching = (form: RegExp, expected: string) =>
  v.pipe(
    v.string(wrong(expected)),
    v.toLowerCase(),
    v.regex(form, ({ input }) => `"${input}" is not allowed; give ${expected}`),
  );
const HEX4 = /^[0-9a-f]{4}$/;
const PARTS = "qube, vendor, device, port";

export const UsbSelector = v.pipe(
  only(
    {
      qube: v.optional(
        named((name) =>
          name === "dom0"
            ? '"dom0" gives its own USB devices to nobody; give the controller instead, in "devices"'
            : qubeNameFault(name),
        ),
      ),
      vendor: matching(HEX4, '4 hex digits such as "0d8c"'),
      device: matching(HEX4, '4 hex digits such as "0014"'),
      port: v.optional(matching(/^[0-9]+-[0-9]+(\.[0-9]+)*$/, 'a port as qvm-usb lists it, such as "1-2"')),
    },
    wrong(`a USB device by what it is: ${PARTS}`),
    `not a part of a USB device; allowed are ${PARTS}`,
  ),
  v.transform(
    ({ qube, port, ...ids }): UsbSelector => ({ qube: qube ?? USB_QUBE, ...ids, ...(port && { port }) }),
  ),
);

export const usbWords = ({ qube, vendor, device, port }: UsbSelector): string =>
  `USB device ${vendor}:${device} of "${qube}"${port ? ` at ${port}` : ""}`;
