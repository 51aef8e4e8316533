/** What a workstation registers, without an engine: passwords that are not known yet reach its GUI domains as they are. */
import * as pulumi from "@pulumi/pulumi";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { Workstation } from "./workstation.ts";

const found = new Map<string, Record<string, unknown>>();
await pulumi.runtime.setMocks(
  {
    newResource({ type, name, inputs }) {
      if (type === "guidomain:index:GuiDomain") found.set(name, inputs);
      return { id: name, state: inputs };
    },
    call: ({ inputs }) => inputs,
  },
  "p",
  "s",
);
const SECRET = "4dabf18193072939515e22adb298388d";
const later = (text: string) => pulumi.secret(Promise.resolve(text));

test("secret outputs as passwords, of the machine and of single people", async () => {
  new Workstation("office", {
    host: "t14",
    audio: false,
    display: ["vnc"],
    users: [
      {
        name: "ann",
        clients: ["work"],
        login: { password: later("the usual one") },
        viewers: ["sys-vpn"],
        remote: { password: later("geheim12") },
      },
      {
        name: "bob",
        clients: ["play"],
        remote: pulumi.secret({ password: "geheim34" }),
        login: { user: "bob", password: later("his own") },
      },
    ],
  });
  await pulumi.runtime.disconnect();
  const of = (name: string, part: "login" | "remote") => found.get(`office-sys-gui-${name}`)?.[part];
  const hidden = (value: unknown) => ({ [SECRET]: "1b47061264138c4ac30d75fd1eb44270", value });
  assert.equal(of("ann", "remote"), hidden({ password: "geheim12" }));
  assert.equal(of("ann", "login"), hidden({ password: "the usual one" }));
  assert.equal(of("bob", "remote"), hidden({ password: "geheim34" }));
  assert.equal(of("bob", "login"), hidden({ user: "bob", password: "his own" }));
});

test("a password in the wrong place is told without it", () => {
  const password = "in clear text";
  const users = [{ name: "ann", clients: ["work"] }];
  for (const wrong of [{ users, login: { password } }, { users: { ann: { login: { password } } } }])
    assert.throws(
      () => new Workstation("x", { host: "t14", ...wrong } as never),
      (error: Error) =>
        /workstation x: (login|users): /.test(error.message) && !error.message.includes(password),
    );
});

test("what is known and wrong is still refused at once", () => {
  assert.throws(
    () => new Workstation("x", { host: "t14", display: ["vnc"], remote: { password: "short" } }),
    (error: Error) =>
      /workstation x: remote\.password: /.test(error.message) && !error.message.includes("short"),
  );
});

test.run();
