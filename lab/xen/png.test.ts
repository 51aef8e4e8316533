/** Screenshots: PNG with every filter, and the token read from pixels alone. */
import { deflateSync } from "node:zlib";
import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { type Picture, readPng, readToken, showsDesktop } from "./png.ts";

const BLACK = [0, 0, 0];
const WHITE = [170, 170, 170];
const DIGITS = [
  [170, 0, 0],
  [0, 170, 0],
  [0, 0, 170],
  [0, 170, 170],
];

function blank(width: number, height: number): Picture {
  return { width, height, pixels: new Uint8Array(width * height * 3) };
}

function fill(picture: Picture, x: number, y: number, width: number, height: number, colour: number[]): void {
  for (let row = y; row < y + height; row++)
    for (let column = x; column < x + width; column++)
      picture.pixels.set(colour, (row * picture.width + column) * 3);
}

/** As image/guest/init draws it on a console whose characters are `unit` wide. */
function withToken(token: string, { unit = 8, height = 48, x = 16, y = 32 } = {}): Picture {
  const cells = [WHITE];
  for (const digit of token) {
    const value = Number.parseInt(digit, 16);
    cells.push(DIGITS[value >> 2] as number[], DIGITS[value & 3] as number[]);
  }
  cells.push(WHITE);
  const picture = blank(x + cells.length * 4 * unit + 10, y + height + 5);
  cells.forEach((colour, at) => {
    fill(picture, x + at * 4 * unit, y, 3 * unit, height, colour);
    fill(picture, x + (at * 4 + 3) * unit, y, unit, height, BLACK);
  });
  return picture;
}

/** Rows with filter types of PNG, by the definition of each: what is stored is the difference to a guess. */
function png({ width, height, pixels }: Picture, filters: number[]): Buffer {
  const stride = width * 3;
  const rows: Buffer[] = [];
  const at = (row: number, i: number) => (row < 0 || i < 0 ? 0 : (pixels[row * stride + i] as number));
  for (let row = 0; row < height; row++) {
    const filter = filters[row % filters.length] as number;
    const line = Buffer.alloc(stride + 1);
    line[0] = filter;
    for (let i = 0; i < stride; i++) {
      const [a, b, c] = [at(row, i - 3), at(row - 1, i), at(row - 1, i - 3)];
      const near = [a, b, c].reduce((best, value) =>
        Math.abs(a + b - c - value) < Math.abs(a + b - c - best) ? value : best,
      );
      line[i + 1] = at(row, i) - ([0, a, b, Math.floor((a + b) / 2), near][filter] as number);
    }
    rows.push(line);
  }
  const chunk = (type: string, data: Buffer) => {
    const head = Buffer.alloc(8);
    head.writeUInt32BE(data.length);
    head.write(type, 4, "latin1");
    return Buffer.concat([head, data, Buffer.alloc(4)]);
  };
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width);
  header.writeUInt32BE(height, 4);
  header.set([8, 2, 0, 0, 0], 8);
  return Buffer.concat([
    Buffer.from("89504e470d0a1a0a", "hex"),
    chunk("IHDR", header),
    chunk("IDAT", deflateSync(Buffer.concat(rows))),
    chunk("IEND", Buffer.alloc(0)),
  ]);
}

test("every picture is read as it was, whatever the filters", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 12 }),
      fc.integer({ min: 1, max: 8 }),
      fc.infiniteStream(fc.integer({ min: 0, max: 255 })),
      fc.array(fc.integer({ min: 0, max: 4 }), { minLength: 1, maxLength: 5 }),
      (width, height, values, filters) => {
        const pixels = Uint8Array.from({ length: width * height * 3 }, () => values.next().value as number);
        assert.equal(readPng(png({ width, height, pixels }, filters)), { width, height, pixels });
      },
    ),
  );
});

test("dom0's own session is its colour on more than four fifths of the screen", () => {
  const picture = blank(10, 10);
  assert.not.ok(showsDesktop(picture));
  for (let i = 0; i < 80; i++) picture.pixels.set([0x22, 0x48, 0x87], i * 3);
  assert.not.ok(showsDesktop(picture));
  picture.pixels.set([0x20, 0x4a, 0x87], 80 * 3);
  assert.ok(showsDesktop(picture));
});

test("what is no PNG of that kind is refused", () => {
  assert.throws(() => readPng(Buffer.from("P6 1 1 255 abc")), /no PNG/);
  const grey = png(blank(1, 1), [0]);
  grey[25] = 0;
  assert.throws(() => readPng(grey), /colour type 0/);
});

test("every token is read from where it stands", () => {
  const token = fc.array(fc.constantFrom(..."0123456789abcdef"), { minLength: 1, maxLength: 12 });
  fc.assert(
    fc.property(token, fc.integer({ min: 2, max: 12 }), fc.nat(40), (digits, unit, x) => {
      assert.is(readToken(withToken(digits.join(""), { unit, x })), digits.join(""));
    }),
  );
});

test("no token is read where none stands, or where it is not whole", () => {
  assert.is(readToken(blank(100, 100)), null);
  assert.is(readToken(withToken("")), null);
  assert.is(readToken(withToken("ab", { height: 7 })), null);
  const cut = withToken("0123");
  fill(cut, 16 + 4 * 32, 0, 32, cut.height, BLACK);
  assert.is(readToken(cut), null);
});

test.run();
