/** Shutting the machine down, restarting and suspending it from a GUI domain: who may, and where it is not done. Pure. */
import type { Level } from "../policy/principal.ts";
import type { Rung } from "./modes.ts";

/** What dom0's service can be asked for, as its argument. */
export const POWER = ["shutdown", "reboot", "suspend"] as const;
export type PowerAction = (typeof POWER)[number];

export const POWER_SERVICE = "guidomain.Power";
export const POWER_FILE = `/etc/qubes-rpc/${POWER_SERVICE}`;

/** dom0 does not sleep, whoever asks. */
export const NO_SLEEP_FILE = "/etc/systemd/sleep.conf.d/50-guidomain.conf";

/** What a level brings unless `power` says otherwise. */
export const POWER_OF: Record<Level, readonly PowerAction[]> = {
  admin: POWER,
  operator: POWER,
  user: [],
  guest: [],
  kiosk: [],
};

/** Levels whose person has no say over the machine, whatever a program says. */
export const POWERLESS: readonly Level[] = ["guest", "kiosk"];

export interface Powered {
  level: Level | null;
  power: PowerAction[] | null;
  suspend: "allowed" | "blocked";
  /** false: this machine is known not to wake (WAKELESS). Found out on the way. */
  wakes?: boolean;
}

/**
 * What it may do to the machine in that rung. In mode "xephyr" a host that slept shows nothing but a pointer
 * (https://github.com/QubesOS/qubes-issues/issues/9384).
 */
export function powerIn({ level, power, suspend, wakes }: Powered, rung: Rung): PowerAction[] {
  const wanted = power ?? (level === null ? [] : POWER_OF[level]);
  const sleeps = rung !== "xephyr" && suspend === "allowed" && (power !== null || wakes !== false);
  return rung === "dom0" ? [] : POWER.filter((one) => wanted.includes(one) && (one !== "suspend" || sleeps));
}

/** What of the machine its desktop shows and sets through Qubes' own services, and dom0's package that answers these. */
export const PARTS = { battery: "dummy-psu-sender", backlight: "dummy-backlight-dom0" } as const;
export type PowerPart = keyof typeof PARTS;

/**
 * Which of them this machine does not have; nothing where it is not known. qubes.SetBrightness takes the one backlight that there is
 * (qubes-dummy-backlight, dom0/qubes.SetBrightness).
 */
export function lacking(facts: {
  batteries?: string[] | null | undefined;
  backlights?: string[] | null | undefined;
}): PowerPart[] {
  const { batteries = null, backlights = null } = facts;
  return [
    ...(batteries?.length === 0 ? (["battery"] as const) : []),
    ...(backlights !== null && backlights.length !== 1 ? (["backlight"] as const) : []),
  ];
}

/** A model whose owners report that it does not wake under Qubes: DMI's vendor and product name, and the report of Qubes' hardware list. */
interface Wakeless {
  vendor: RegExp;
  product: RegExp;
  source: string;
}

const HCL = "https://github.com/QubesOS/qubes-hcl/blob/master";
const row = (vendor: RegExp, product: RegExp, report: string): Wakeless => ({
  vendor,
  product,
  source: `${HCL}/${report}.yml`,
});

/** Reports from release 4.1 on that say so without a remedy, and none that says otherwise. */
export const WAKELESS: readonly Wakeless[] = [
  row(/^acer$/i, /^aspire av15-51/i, "Acer-Aspire_AV15-51-Mighty_Ginger"),
  row(/^asus/i, /X513EAN/, "Asus-VivoBook_X513EAN-20220625-165805"),
  row(/^asus/i, /FA617NS/, "Asus-TUF_GAMING_A16-20230819-tegas"),
  row(/^asus/i, /FA506QE|TUF506QE/, "Asus-TUF_GAMING_A15-20220826-perc10"),
  row(/^dell/i, /^latitude 3520$/i, "Dell-Latitude_3520-20231125-ledspera"),
  row(/^dell/i, /^latitude 5420$/i, "Dell-Latitude_5420-20221100-anon"),
  row(/^dell/i, /^latitude 5480$/i, "Dell-Latitude_5480-20220513-mol"),
  row(/^dell/i, /^precision 5470$/i, "Dell-Precision_14_5470-20221010-makuoly"),
  row(/^intel/i, /^NUC13ANHi5$/, "Intel-NUC13ANHi5-20230728"),
  row(/^lg/i, /^17Z90P/, "LG-Gram_17-17Z90P-K_AAB8U1"),
  row(/^lenovo/i, /^21EB/, "Lenovo-ThinkPad_E14_Gen4-21EBCTO1WW-20220722-200409"),
  row(/^lenovo/i, /^21DC/, "Lenovo-ThinkPad_P1_G5-20220907-tegas"),
  row(/^lenovo/i, /^20UES3Q301$/, "Lenovo-ThinkPad_T14_G1-20221201-korhojoa"),
  row(/^lenovo/i, /^21BS/, "Lenovo-ThinkPad_T14s_Gen3-21BSS1KA00-20221002-202125"),
  row(/^lenovo/i, /^21CB/, "Lenovo-ThinkPad_X1_Carbon_10-21CB00B9GE-20231002-163736"),
  row(/^lenovo/i, /^21HM/, "Lenovo-ThinkPad_X1_Carbon_G11-21HMCTO1WW-20230917"),
  row(/^lenovo/i, /^82LM/, "Lenovo-IdeaPad_5-82LM-20230214-171813"),
  row(/^lenovo/i, /^82L5/, "Lenovo-IdeaPad_5_Pro-TTEMSK"),
  row(/micro-star/i, /^MS-7E12$/, "MSI-MS_7E12-20240818-144634"),
  row(/^(nitrokey|notebook)$/i, /^NV4XMB|^NitroPad NV41/i, "Nitrokey-NitroPad_NV41-20230618-121849"),
];

/** The report that says it does not wake, or null. */
export const wakelessOf = (firmware: { vendor: string | null; product: string | null }): string | null =>
  WAKELESS.find((one) => one.vendor.test(firmware.vendor ?? "") && one.product.test(firmware.product ?? ""))
    ?.source ?? null;

type Firmware = Parameters<typeof wakelessOf>[0];

/** A description with what its machine is known for. */
export function onMachine<T extends object>(
  gui: T,
  facts: Parameters<typeof lacking>[0] & { firmware: Firmware },
): T & { wakes?: boolean; lacks?: PowerPart[] } {
  const lacks = lacking(facts);
  return {
    ...gui,
    ...(wakelessOf(facts.firmware) !== null && { wakes: false }),
    ...(lacks.length > 0 && { lacks }),
  };
}
