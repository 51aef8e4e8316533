import { test } from "uvu";
import * as assert from "uvu/assert";
import { install } from "../plan/testing/hostModel.ts";
import { Claims, ownerName, wordsFor } from "./claims.ts";
import { urnOf } from "./testHosts.ts";

const HOST = install();
const [A, B] = [urnOf("alice"), urnOf("bob")];

function refused(claims: Claims, host: string, urn: string, keys: string[], snapshot = HOST): string {
  try {
    claims.claim(host, urn, `GUI domain ${urn.split("::").at(-1)}`, keys, snapshot);
    return "nothing";
  } catch (error) {
    return (error as Error).message;
  }
}

test("two resources that want one client are both named; again, and elsewhere, is fine", () => {
  const claims = new Claims();
  assert.is(refused(claims, "lab", A, ["property:work:guivm", "global:default_guivm"]), "nothing");
  assert.is(refused(claims, "lab", A, ["property:work:guivm"]), "nothing");
  assert.is(refused(claims, "other", B, ["property:work:guivm"]), "nothing");
  assert.is(
    refused(claims, "lab", B, ["property:vault:guivm", "property:work:guivm"]),
    'GUI domain bob on host lab: the GUI domain of "work" is claimed by GuiDomain "alice" (stack lab, project site) as well. ' +
      "Nothing was changed on the host. One of the two must let go of it; a qube has exactly one GUI domain.",
  );
  assert.is(
    refused(claims, "lab", A, ["property:vault:guivm"]),
    "nothing",
    "who was refused has claimed nothing",
  );
});

test("what the ledger gives to another stack is refused with its name; a package is for all", () => {
  const theirs = "urn:pulumi:prod::fleet::guidomain:index:GuiDomain::boss";
  const entry = { owner: theirs, first: null, ours: null, at: 1 };
  const snapshot = install({ ledger: { "qube:sys-gui": entry, "package:dummy-psu-sender": entry } });
  assert.match(
    refused(new Claims(), "lab", A, ["qube:sys-gui"], snapshot),
    /qube "sys-gui" belongs to GuiDomain "boss" \(stack prod, project fleet\), as the host's ledger says\. Nothing was changed.*"pulumi destroy" of that stack/,
  );
  assert.is(refused(new Claims(), "lab", theirs, ["qube:sys-gui"], snapshot), "nothing");
  const claims = new Claims();
  for (const urn of [A, B])
    assert.is(refused(claims, "lab", urn, ["package:dummy-psu-sender"], snapshot), "nothing");
});

test("names of owners and of things", () => {
  assert.is(
    ownerName("urn:pulumi:s::p::site:index:Workstation$guidomain:index:GuiDomain::g"),
    'GuiDomain "g" (stack s, project p)',
  );
  assert.is(ownerName("somebody"), "somebody");
  const words: [string, string][] = [
    ["qube:a", 'qube "a"'],
    ["property:a:guivm", 'the GUI domain of "a"'],
    ["property:a:maxmem", 'property maxmem of "a"'],
    ["feature:a:service.guivm", 'service guivm of "a"'],
    ["feature:a:x:y", 'feature x:y of "a"'],
    ["tag:a:t", 'tag t of "a"'],
    ["global:default_guivm", "the host's default_guivm"],
    ["file:/a/b", "file /a/b"],
    ["package:p", "dom0 package p"],
  ];
  for (const [key, text] of words) assert.is(wordsFor(key), text);
});

test.run();
