/** For tests of remote screens: a token that is drawn on an X server, and what clients see of it. */
import { createCipheriv, randomBytes } from "node:crypto";
import { closeSync, openSync, readSync } from "node:fs";
import { createConnection } from "node:net";

/** A picture: 24 bits a pixel, red first. */
export interface Picture {
  width: number;
  height: number;
  /** Row by row, 0xRRGGBB. */
  pixels: Uint32Array;
}

/** A tile of random black and white pixels, which fills a screen. */
export class Token {
  static readonly SIZE = 64;
  readonly #bits = randomBytes((Token.SIZE * Token.SIZE) / 8);

  isBlack(x: number, y: number): boolean {
    const at = (y % Token.SIZE) * Token.SIZE + (x % Token.SIZE);
    return ((this.#bits[at >> 3] ?? 0) & (1 << (at & 7))) !== 0;
  }

  /** As `xsetroot -bitmap` takes it: bits of a row from the left, the lowest first. */
  xbm(): string {
    const bytes = [...this.#bits].map((byte) => `0x${byte.toString(16).padStart(2, "0")}`);
    const lines = bytes.map((byte, i) => (i % 12 ? byte : `\n${byte}`)).join(","); // no line longer than 255
    return `#define token_width ${Token.SIZE}\n#define token_height ${Token.SIZE}\nstatic unsigned char token_bits[] = {${lines}};\n`;
  }

  /** How many of 1000 pixels of that part of a picture are those of the token. */
  likeness({ width, pixels }: Picture, part: { width: number; height: number }): number {
    let same = 0;
    for (let y = 0; y < part.height; y++)
      for (let x = 0; x < part.width; x++)
        if (pixels[y * width + x] === (this.isBlack(x, y) ? 0 : 0xffffff)) same++;
    return Math.floor((1000 * same) / (part.width * part.height));
  }
}

/** The server said no, in its own words. */
export class Refused extends Error {}

/**
 * A VNC client that looks once: RFB 3.8 (RFC 6143) with no password or with VNC's own, in raw encoding. Throws Refused where the
 * server does not let it in, Error where the line ends.
 */
export async function lookByVnc(
  { host = "127.0.0.1", port, password }: { host?: string; port: number; password?: string },
  milliseconds = 20_000,
): Promise<Picture> {
  const socket = createConnection({ host, port });
  const late = setTimeout(() => socket.destroy(new Error("the VNC server takes too long")), milliseconds);
  let have = Buffer.alloc(0);
  const chunks = socket[Symbol.asyncIterator]() as AsyncIterator<Buffer>;
  const take = async (count: number): Promise<Buffer> => {
    while (have.length < count) {
      const { value, done } = await chunks.next();
      if (done) throw new Error(`the VNC server ended the line after ${have.length} of ${count} bytes`);
      have = Buffer.concat([have, value]);
    }
    const taken = have.subarray(0, count);
    have = have.subarray(count);
    return taken;
  };
  const said = async () => String(await take((await take(4)).readUInt32BE()));
  try {
    const version = String(await take(12));
    if (!version.startsWith("RFB 003.")) throw new Error(`no VNC server: ${version}`);
    socket.write("RFB 003.008\n");
    const kinds = await take((await take(1))[0] ?? 0);
    if (kinds.length === 0) throw new Refused(await said());
    const kind = password !== undefined && kinds.includes(2) ? 2 : kinds.includes(1) ? 1 : 0;
    if (!kind) throw new Refused(`it asks for security ${[...kinds]}`);
    socket.write(Buffer.of(kind));
    if (kind === 2) socket.write(answer(await take(16), password ?? ""));
    if ((await take(4)).readUInt32BE() !== 0) throw new Refused(await said());
    socket.write(Buffer.of(1)); // shared
    const init = await take(24);
    const [width, height] = [init.readUInt16BE(0), init.readUInt16BE(2)];
    await take(init.readUInt32BE(20));
    // 32 bits, little-endian, true colour, blue lowest; then raw encoding; then the whole screen.
    socket.write(Buffer.from([0, 0, 0, 0, 32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0]));
    socket.write(Buffer.from([2, 0, 0, 1, 0, 0, 0, 0]));
    const ask = Buffer.alloc(10);
    ask[0] = 3;
    ask.writeUInt16BE(width, 6);
    ask.writeUInt16BE(height, 8);
    socket.write(ask);
    const pixels = new Uint32Array(width * height);
    for (let left = width * height; left > 0; ) {
      const [message] = await take(1);
      if (message === 3) {
        await take(3);
        await said(); // the clipboard
        continue;
      }
      if (message === 2) continue; // a bell
      if (message !== 0) throw new Error(`the VNC server says ${message}`);
      const rectangles = (await take(3)).readUInt16BE(1);
      for (let i = 0; i < rectangles; i++) {
        const head = await take(12);
        const [x, y, w, h] = [0, 2, 4, 6].map((at) => head.readUInt16BE(at)) as [
          number,
          number,
          number,
          number,
        ];
        if (head.readInt32BE(8) !== 0) throw new Error(`encoding ${head.readInt32BE(8)} was not asked for`);
        const data = await take(w * h * 4);
        for (let row = 0; row < h; row++)
          for (let column = 0; column < w; column++)
            pixels[(y + row) * width + x + column] = data.readUInt32LE((row * w + column) * 4) & 0xffffff;
        left -= w * h;
      }
    }
    return { width, height, pixels };
  } finally {
    clearTimeout(late);
    socket.on("error", () => {}).destroy();
  }
}

/** RFC 6143 §7.2.2: DES with the password as its key, each byte's bits in reverse. Triple DES with one key thrice is DES. */
function answer(challenge: Buffer, password: string): Buffer {
  const key = Buffer.alloc(8);
  key.write(password, "latin1");
  for (const [i, byte] of key.entries())
    key[i] = Number.parseInt(byte.toString(2).padStart(8, "0").split("").reverse().join(""), 2);
  const des = createCipheriv("des-ede3-ecb", Buffer.concat([key, key, key]), null).setAutoPadding(false);
  return Buffer.concat([des.update(challenge), des.final()]);
}

/** What is on the screen of an Xvfb with `-fbdir`: the file `Xvfb_screen0` there, an XWD of 32 bits a pixel. */
export function lookAtXvfb(file: string): Picture {
  const descriptor = openSync(file, "r");
  try {
    const read = (at: number, length: number) => {
      const bytes = Buffer.alloc(length);
      readSync(descriptor, bytes, 0, length, at);
      return bytes;
    };
    const field = (i: number) => read(i * 4, 4).readUInt32BE();
    const [width, height, lineLength] = [field(4), field(5), field(12)];
    const start = field(0) + field(19) * 12;
    const pixels = new Uint32Array(width * height);
    const data = read(start, lineLength * height);
    for (let y = 0; y < height; y++)
      for (let x = 0; x < width; x++)
        pixels[y * width + x] = data.readUInt32LE(y * lineLength + x * 4) & 0xffffff;
    return { width, height, pixels };
  } finally {
    closeSync(descriptor);
  }
}
