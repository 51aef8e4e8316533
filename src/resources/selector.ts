/** A device by what it is. Every part that is given must hold. */
export interface Selector {
  /** "display", "audio", "usb", "network", or 2, 4 or 6 hex digits of a class code. */
  class?: string;
  /** 4 hex digits. */
  vendor?: string;
  /** 4 hex digits. */
  device?: string;
  /** "17aa:21fa". */
  subsystem?: string;
  /** The display that the firmware lit. */
  position?: "boot display";
  /** The host's own name of the place ("00_02.0"), or an address ("0000:00:02.0"). */
  address?: string;
  /** The kernel module that it would load, whatever is bound now. */
  driver?: string;
}
