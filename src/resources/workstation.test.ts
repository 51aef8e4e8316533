/** What a workstation registers, without an engine: passwords that are not known yet reach its GUI domains as they are. */

import { setTimeout } from "node:timers/promises";
import * as pulumi from "@pulumi/pulumi";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { AudioDomain } from "./audioDomain.ts";
import { GuiDomain } from "./guiDomain.ts";
import { Host } from "./host.ts";
import { Template } from "./template.ts";
import { Workstation } from "./workstation.ts";

const found = new Map<string, Record<string, unknown>>();
/** In which order the engine is asked, and answers. */
const asked: string[] = [];
await pulumi.runtime.setMocks(
  {
    async newResource({ type, name, inputs }) {
      asked.push(name);
      if (type === "guidomain:index:Template") await setTimeout(100);
      asked.push(`${name} done`);
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

test("what is made from a template of the same program waits for it, by its plain name too", async () => {
  asked.length = 0;
  const host = new Host("t14");
  new Template("fedora-43-xfce", { host, modes: ["xephyr"] });
  new Template("own", { host, qube: "debian-13-xfce", modes: ["vnc"], audio: true });
  new GuiDomain("by-default", { host });
  new GuiDomain("other", { host, template: "debian-13-xfce" });
  new AudioDomain("sound", { host, template: "debian-13-xfce" });
  new Workstation("all", { host, audio: false });
  new GuiDomain("unmanaged", { host, template: "fedora-42-xfce" });
  new GuiDomain("elsewhere", { host: new Host("x230") });
  await pulumi.runtime.disconnect();
  const at = (name: string) => {
    assert.ok(asked.includes(name), name);
    return asked.indexOf(name);
  };
  for (const [template, ...made] of [
    ["fedora-43-xfce", "by-default", "all-sys-gui"],
    ["own", "other", "sound"],
  ])
    for (const name of made)
      assert.ok(at(`${template} done`) < at(name), `${name} does not wait for ${template}`);
  for (const name of ["unmanaged", "elsewhere"])
    assert.ok(at(name) < at("own done"), `${name} waits for nothing`);
});

test("what is known and wrong is still refused at once", () => {
  assert.throws(
    () => new Workstation("x", { host: "t14", display: ["vnc"], remote: { password: "short" } }),
    (error: Error) =>
      /workstation x: remote\.password: /.test(error.message) && !error.message.includes("short"),
  );
});

test.run();
