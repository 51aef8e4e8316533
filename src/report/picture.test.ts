/** The drawing: whatever the texts are, they stay in their boxes, and the file stays XML. */
import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { pictureOf, wrap } from "./picture.ts";
import { type Box, type HostScene, sceneOf } from "./scene.ts";
import { OFFICE, OFFICE_STATE } from "./testing.ts";

test("wrapped lines hold all letters in order, and none could take the next word's first letter", () => {
  fc.assert(
    fc.property(
      fc.string({ unit: fc.constantFrom(..."abcWMw .é漢-") }),
      fc.integer({ min: 1, max: 30 }),
      (text, ems) => {
        const lines = wrap(text, ems);
        const kept = (all: string) => all.replaceAll(" ", "");
        assert.is(kept(lines.join("")), kept(text));
        assert.ok(lines.every((line) => line !== "" && line === line.trim()));
        // A letter takes 0.65 to 1 em.
        assert.ok(lines.every((line) => [...line].length * 0.65 <= ems || [...line].length === 1));
      },
    ),
  );
});

const COLUMN = fc.constantFrom("devices", "host", "domains", "clients");
const BOX = fc.record({
  id: fc.string({ maxLength: 12 }),
  kind: fc.constantFrom("device", "dom0", "gui", "audio", "qube", "clients"),
  column: COLUMN,
  title: fc.string({ unit: "binary", maxLength: 60 }),
  mood: fc.constantFrom("plain", "good", "waits", "bad"),
  lines: fc.array(fc.string({ unit: "binary", maxLength: 90 }), { maxLength: 4 }),
  calls: fc.array(fc.record({ text: fc.string({ maxLength: 90 }), to: fc.string({ maxLength: 12 }) }), {
    maxLength: 3,
  }),
}) as fc.Arbitrary<Box>;

/** x, y, width, height of each box's frame. */
const frames = (svg: string) =>
  [
    ...svg.matchAll(
      /<g class="box[^>]*>\n<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"/g,
    ),
  ].map((m) => m.slice(1).map(Number)) as [number, number, number, number][];

test("whatever a host says: no box over another, no markup but ours, no letter that XML does not take", () => {
  fc.assert(
    fc.property(
      fc.uniqueArray(BOX, { selector: ({ id }) => id, maxLength: 12 }),
      fc.string({ unit: "binary" }),
      (boxes, name) => {
        const host: HostScene = {
          name,
          facts: name,
          boxes,
          links: boxes
            .slice(1)
            .map(({ id }, i) => ({ from: boxes[i]?.id ?? "", to: id, kind: "given", loose: false })),
        };
        const svg = pictureOf({ stack: name, hosts: [host] });
        const all = frames(svg);
        assert.is(all.length, boxes.length);
        all.forEach(([x, y, w, h], i) => {
          for (const [x2, y2, w2, h2] of all.slice(i + 1))
            assert.ok(x + w <= x2 || x2 + w2 <= x || y + h <= y2 || y2 + h2 <= y, "two boxes overlap");
        });
        const tags = new Set([...svg.matchAll(/<\/?([^\s/>?]*)/g)].map(([, tag]) => tag));
        for (const tag of tags)
          assert.ok(
            "svg title desc style defs marker path text tspan g rect circle ".split(" ").includes(tag ?? ""),
            `<${tag}`,
          );
        assert.not.match(svg, /&(?!#\d+;)/);
        assert.not.match(svg, /[\u0000-\u0008\u000b-\u001f\ufffe\uffff]|\p{Surrogate}/u);
      },
    ),
    { numRuns: 60 },
  );
});

test("the same scene is the same picture", () => {
  const draw = () => pictureOf(sceneOf("office", OFFICE, OFFICE_STATE));
  assert.is(draw(), draw());
});

test.run();
