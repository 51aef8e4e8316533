/** How the screens of a GUI domain lie, as a program says it. Pure. */
import * as v from "valibot";
import { listOf, named, oneOf, only, shown, wrong } from "./fields.ts";
import type { Rung } from "./modes.ts";

export interface Screen {
  /** Connector: "eDP-1". */
  output: string;
  /** Width, height and perhaps frames a second: "2560x1440", "1920x1080@60"; null: the screen's own choice. */
  mode: string | null;
  /** Of its left upper corner, pixels: "1920x0"; null: where X puts it. */
  position: string | null;
  primary: boolean;
  rotate: "normal" | "left" | "right" | "inverted";
}

const output = named(
  (name) =>
    /^[A-Za-z][A-Za-z0-9-]{0,31}$/.test(name)
      ? null
      : `${shown(name)} is not a connector; give its name as in "screens", such as "eDP-1"`,
  "a connector",
);
const mode = named(
  (text) =>
    /^[1-9]\d{2,4}x[1-9]\d{2,4}(@[1-9]\d{0,2}(\.\d{1,3})?)?$/.test(text)
      ? null
      : `${shown(text)} is not a mode; give WIDTHxHEIGHT or WIDTHxHEIGHT@HZ, such as "1920x1080@60"`,
  "a mode",
);
const position = named(
  (text) =>
    /^\d{1,5}x\d{1,5}$/.test(text) ? null : `${shown(text)} is not a position; give pixels, such as "1920x0"`,
  "a position",
);
const screen = only(
  {
    output,
    mode: v.optional(mode),
    position: v.optional(position),
    primary: v.optional(v.boolean(({ input }) => `${shown(input)} is not allowed; give true or false`)),
    rotate: v.optional(oneOf("normal", "left", "right", "inverted")),
  },
  wrong("a screen: output, and what of it: mode, position, primary, rotate"),
  "not a part of a screen; allowed are output, mode, position, primary, rotate",
);
export const LAYOUT = listOf(screen);

export const layoutOf = (given: v.InferOutput<typeof LAYOUT>): Screen[] =>
  given.map(({ output, mode = null, position = null, primary = false, rotate = "normal" }) => ({
    output,
    mode,
    position,
    primary,
    rotate,
  }));

/** Why a mode has no layout of its own. */
const WHOSE: Partial<Record<Rung, string>> = {
  xephyr: "the picture is one window of dom0, whose own screens dom0 lays out",
  vnc: "there is one screen, in memory",
  rdp: "there is one screen, in memory",
};

export function layoutFaults(
  layout: readonly Screen[],
  display: readonly Rung[],
  add: (property: string, reason: string) => void,
): void {
  if (!display.includes("gpu")) {
    const [first] = display;
    add(
      "layout",
      `only mode "gpu" has screens of its own: in mode "${first}" ${WHOSE[first ?? "xephyr"] ?? "there are none"}; leave it out`,
    );
    return;
  }
  layout.forEach(({ output }, i) => {
    if (layout.findIndex((one) => one.output === output) < i)
      add(`layout[${i}].output`, `"${output}" is there twice; a screen is said once`);
  });
  const primaries = layout.flatMap(({ primary }, i) => (primary ? [i] : []));
  if (primaries.length > 1)
    add(
      `layout[${primaries[1]}].primary`,
      `layout[${primaries[0]}] is the primary screen already; there is one`,
    );
}
