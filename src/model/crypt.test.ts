import { spawnSync } from "node:child_process";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { saltOf, sha512crypt } from "./crypt.ts";

test("the vectors of its specification, as glibc has them", () => {
  const vectors: [string, string, number, string][] = [
    [
      "Hello world!",
      "saltstring",
      5000,
      "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1",
    ],
    [
      "Hello world!",
      "saltstringsaltst",
      10_000,
      "$6$rounds=10000$saltstringsaltst$OW1/O6BYHV6BcXZu8QVeXbDWra3Oeqh0sbHbbMCVNSnCM/UrjmM0Dp8vOuZeHBy/YTBmSK6H9qs/y3RnOaw5v.",
    ],
    [
      "we have a short salt string but not a short password",
      "short",
      77_777,
      "$6$rounds=77777$short$WuQyW2YR.hBNpjjRhpYD/ifIw05xdfeEyQoMxIXbkvr0gge1a1x3yRULJ5CCaUeOxFmtlcGZelFl5CxtgfiAc0",
    ],
  ];
  for (const [password, salt, rounds, hash] of vectors) assert.is(sha512crypt(password, salt, rounds), hash);
});

test("the same as OpenSSL, whatever the length", () => {
  for (const length of [1, 2, 15, 16, 63, 64, 65, 100]) {
    const password = "pä$'\"x".repeat(40).slice(0, length);
    const openssl = spawnSync("openssl", ["passwd", "-6", "-salt", "Salt./09azAZ", "-stdin"], {
      input: `${password}\n`,
      encoding: "utf8",
    });
    assert.is(openssl.status, 0, openssl.stderr);
    assert.is(sha512crypt(password, "Salt./09azAZ", 5000), openssl.stdout.trim());
  }
});

test("a salt of names stays the same, and each name has its own", () => {
  assert.is(saltOf("lab", "sys-gui", "login"), saltOf("lab", "sys-gui", "login"));
  assert.is.not(saltOf("lab", "sys-gui", "login"), saltOf("lab", "sys-guil", "ogin"));
  assert.match(saltOf("x"), /^[./0-9A-Za-z]{16}$/);
});

test.run();
