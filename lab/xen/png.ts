/** Reading of screenshots: PNG as QEMU writes it, and the token that the lab's guest draws (image/guest/init). */
import { inflateSync } from "node:zlib";

export interface Picture {
  width: number;
  height: number;
  /** Red, green, blue, row by row. */
  pixels: Uint8Array;
}

const SIGNATURE = "89504e470d0a1a0a";

/** A PNG of 8-bit RGB or RGBA, not interlaced (PNG specification, third edition, §5, §9). Throws on any other. */
export function readPng(file: Buffer): Picture {
  if (file.subarray(0, 8).toString("hex") !== SIGNATURE) throw new Error("This is no PNG.");
  let [width, height, channels] = [0, 0, 0];
  const packed: Buffer[] = [];
  for (let at = 8; at + 8 <= file.length; ) {
    const length = file.readUInt32BE(at);
    const type = file.toString("latin1", at + 4, at + 8);
    const data = file.subarray(at + 8, at + 8 + length);
    if (type === "IHDR") {
      [width, height] = [data.readUInt32BE(0), data.readUInt32BE(4)];
      const [depth, colour, , , interlace] = data.subarray(8);
      channels = colour === 2 ? 3 : colour === 6 ? 4 : 0;
      if (depth !== 8 || channels === 0 || interlace !== 0)
        throw new Error(`This PNG has depth ${depth}, colour type ${colour}, interlacing ${interlace}.`);
    } else if (type === "IDAT") packed.push(data);
    at += 12 + length;
  }
  const rows = unfilter(inflateSync(Buffer.concat(packed)), width * channels, height, channels);
  if (channels === 3) return { width, height, pixels: rows };
  const pixels = new Uint8Array(width * height * 3);
  for (let i = 0; i < width * height; i++) pixels.set(rows.subarray(i * 4, i * 4 + 3), i * 3);
  return { width, height, pixels };
}

function unfilter(data: Buffer, stride: number, height: number, channels: number): Uint8Array {
  const out = new Uint8Array(stride * height);
  for (let row = 0; row < height; row++) {
    const filter = data[row * (stride + 1)];
    for (let i = 0; i < stride; i++) {
      const left = i >= channels ? (out[row * stride + i - channels] as number) : 0;
      const up = row > 0 ? (out[(row - 1) * stride + i] as number) : 0;
      const corner = i >= channels && row > 0 ? (out[(row - 1) * stride + i - channels] as number) : 0;
      const guess = [0, left, up, (left + up) >> 1, paeth(left, up, corner)][filter ?? 0] ?? 0;
      out[row * stride + i] = (data[row * (stride + 1) + 1 + i] as number) + guess;
    }
  }
  return out;
}

function paeth(left: number, up: number, corner: number): number {
  const [a, b, c] = [left, up, corner].map((value) => Math.abs(left + up - corner - value)) as [
    number,
    number,
    number,
  ];
  if (a <= b && a <= c) return left;
  return b <= c ? up : corner;
}

/** Colours of the console by their red, green and blue being there: "k" black, "w" white, and the four digits. */
const LETTERS: Record<string, string> = {
  "000": "k",
  "111": "w",
  "100": "0",
  "010": "1",
  "001": "2",
  "011": "3",
};

const DESKTOP = [0x20, 0x4a, 0x87];

/** What a row shows as runs of one colour: ["w", 24], ["k", 8], … Other colours are "?". */
function runs({ width, pixels }: Picture, row: number): [string, number][] {
  const found: [string, number][] = [];
  for (let x = 0; x < width; x++) {
    const at = (row * width + x) * 3;
    const key = [0, 1, 2].map((part) => ((pixels[at + part] as number) > 85 ? "1" : "0")).join("");
    const letter = LETTERS[key] ?? "?";
    const last = found.at(-1);
    if (last?.[0] === letter) last[1]++;
    else found.push([letter, 1]);
  }
  return found;
}

/**
 * The token that stands on the screen as coloured cells, null when there is none. Read from the picture alone: cells of one width between
 * black ones of a third of it, white at both ends, two cells a hexadecimal digit, the same in at least eight rows one below the other.
 */
export function readToken(picture: Picture): string | null {
  let [last, count]: [string | null, number] = [null, 0];
  for (let row = 0; row < picture.height; row++) {
    const token = tokenIn(runs(picture, row));
    count = token !== null && token === last ? count + 1 : 1;
    last = token;
    if (token !== null && count >= 8) return token;
  }
  return null;
}

/** Whether it is dom0's own session that the screen shows (image/root/opt/lab/desktop): its colour on more than four fifths. */
export function showsDesktop({ width, height, pixels }: Picture): boolean {
  let count = 0;
  for (let at = 0; at < pixels.length; at += 3)
    if (DESKTOP.every((value, part) => Math.abs((pixels[at + part] as number) - value) <= 8)) count++;
  return count > width * height * 0.8;
}

function tokenIn(row: [string, number][]): string | null {
  for (let first = 0; first < row.length; first++) {
    const [letter, width] = row[first] as [string, number];
    if (letter !== "w" || width < 6) continue;
    let digits = "";
    for (let at = first + 1; at + 1 < row.length; at += 2) {
      const [gap, gapWidth] = row[at] as [string, number];
      const [cell, cellWidth] = row[at + 1] as [string, number];
      if (gap !== "k" || Math.abs(gapWidth * 3 - width) > 3 || Math.abs(cellWidth - width) > 1) break;
      if (cell === "w") {
        if (digits.length === 0 || digits.length % 2) break;
        return digits.replace(/../g, (pair) => Number.parseInt(pair, 4).toString(16));
      }
      if (!/[0-3]/.test(cell)) break;
      digits += cell;
    }
  }
  return null;
}
