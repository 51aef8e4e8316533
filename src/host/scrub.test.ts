import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { clean } from "./errors.ts";
import { mapTexts, Scrubber } from "./scrub.ts";

const scrubber = (...secrets: string[]) => {
  const made = new Scrubber();
  for (const secret of secrets) made.add(secret);
  return made;
};

test("every spelling of a secret", () => {
  const secret = `pa"ss/wo rd's$^`;
  const { scrub } = { scrub: (text: string) => scrubber(secret).scrub(text) };
  for (const text of [
    secret,
    JSON.stringify({ secret }),
    encodeURIComponent(secret),
    Buffer.from(secret).toString("base64"),
    secret.replaceAll("'", "'\\''"),
  ])
    assert.match(scrub(`before ${text} after`), /^before .*\[secret\].* after$/);
});

test("a secret inside another one, several lines, nothing", () => {
  assert.is(scrubber("horse", "correct horse").scrub("correct horse, horse"), "[secret], [secret]");
  assert.is(scrubber("line one\nline two").scrub("it says line two."), "it says [secret].");
  assert.is(scrubber("").scrub("as it was"), "as it was");
});

test("a short secret does not eat words", () => {
  assert.is(scrubber("ab").scrub("a cable: ab, 'ab'"), "a cable: [secret], '[secret]'");
});

test("property: no secret of four characters or more is left", () => {
  fc.assert(
    fc.property(
      fc.array(fc.string({ minLength: 4 }), { minLength: 1, maxLength: 4 }),
      fc.string(),
      (secrets, text) => {
        fc.pre(secrets.every((secret) => !"[secret]".includes(secret)));
        const said = scrubber(...secrets).scrub(secrets.join(text) + text);
        for (const secret of secrets) assert.not(said.replaceAll("[secret]", "\u0000").includes(secret));
      },
    ),
  );
});

test("texts inside data", () => {
  assert.equal(
    mapTexts({ a: ["x", 1, null, { b: "x" }], x: true }, (text) => `${text}!`),
    { a: ["x!", 1, null, { b: "x!" }], x: true },
  );
});

test("a host's text: no control characters, its end when it is long", () => {
  assert.is(clean("\u001b[31mred\u001b[0m \u001b]0;title\u0007x\u0000\r\ny\tz\u202e"), "red x\ny\tz");
  assert.is(clean("abcdef", 3), "…def");
});

test.run();
