/**
 * Keys: one name for each thing on a host that guidomain may change. The host's ledger (who owns what), the
 * journal (what it was before) and the registry of claims all speak in keys. Design §4 "Who owns what".
 *
 *     qube:sys-gui                       the qube itself           value: QubeValue | null (absent)
 *     property:sys-gui:maxmem            a property                value: PropertyValue
 *     feature:sys-gui:service.guivm      a feature or service      value: string | null (not set)
 *     tag:sys-gui:owner-alice            a tag                     value: true | null
 *     global:default_guivm               a global property         value: PropertyValue
 *     file:/etc/qubes/policy.d/x.policy  a file of dom0            value: FileValue | null
 *     package:dummy-psu-sender           a package of dom0         value: version | null (not installed)
 *     device:sys-gui:*:0x8086:0x9b41::p030000   a PCI assignment: qube, port or "*", identity or "*"   value: DeviceValue | null
 *     usb:sys-audio:sys-usb:*:0d8c:0014::u010100   a USB assignment: qube, USB qube, port or "*", identity   value: DeviceValue | null
 *     secret:sys-gui:login               what dom0 keeps for a qube       value: its mark, which says what it is and not how it is | null
 *     volume:fedora-43-xfce:root         a volume of a qube, of which the journal alone speaks: true while it is as it was
 *     line:/etc/qubes/policy.d/include/x:a b allow   a line of a file that others write to as well   value: true | null
 *     bootarg:guidomain.gpu=sys-gui      a word of GRUB_CMDLINE_LINUX (one part of the list rd.qubes.hide_pci, of xen-pciback.hide)   value: true | null
 *     assignable:0000_00_07.0            a function that dom0 has given up to pciback, on plain Xen   value: true | null
 *
 * On plain Xen a qube is a domain of xl: /etc/xen/NAME.cfg, whose keys are its properties and whose list "pci" is its assignments.
 */
export type Key =
  | `qube:${string}`
  | `property:${string}:${string}`
  | `feature:${string}:${string}`
  | `tag:${string}:${string}`
  | `global:${string}`
  | `file:${string}`
  | `package:${string}`
  | `device:${string}:${string}:${string}`
  | `usb:${string}:${string}:${string}:${string}`
  | `line:${string}:${string}`
  | `secret:${string}:${string}`
  | `volume:${string}:${string}`
  | `bootarg:${string}`
  | `assignable:${string}`;

/** A property as the Admin API gives it; `default: true` means it follows the default and `value` is what that is now. */
export interface PropertyValue {
  default: boolean;
  /** Text as in the API: "True", "4000", "dom0"; "" for none. */
  value: string;
}

export interface QubeValue {
  class: string;
  template: string | null;
  label: string;
}

export interface FileValue {
  content: string;
  /** Octal, such as "0644". */
  mode: string;
}

/** A PCI or USB assignment; options that are off are left out, the others are "True". */
export interface DeviceValue {
  mode: string;
  options: Record<string, string>;
}

export type KeyValue = PropertyValue | QubeValue | FileValue | DeviceValue | string | true | null;
