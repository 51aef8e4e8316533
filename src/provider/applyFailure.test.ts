/** Each way in which an apply fails, as the user reads it: what, where, what was changed, what to do next. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import { AgentFailure, HostError } from "../host/errors.ts";
import type { AgentErrorBody } from "../host/protocol.ts";
import { applyFailure } from "./applyFailure.ts";

const said = (body: AgentErrorBody) =>
  applyFailure(new AgentFailure("lab", body), "GUI domain sys-gui", "lab");

/** Code → what the user is told to do. */
const NEXT: Record<string, RegExp> = {
  "not-qubes": /leads to dom0 itself/,
  "unsupported-user": /as root/,
  "lock-held": /Wait until that run has ended/,
  conflict: /out of one of the two programs/,
  "disk-full": /Make room in dom0/,
  "salt-missing": /qubes-dom0-update qubes-mgmt-salt-dom0/,
  "salt-compile": /npm run render/,
  "salt-failed": /Mend what the message names/,
  "verify-failed": /packages belong in the template, where a resource "Template" brings them/,
  "shutdown-refused": /Nothing is ever killed for you/,
  unfinished: /Put that right by hand, .* or remove .*journal\.json/,
  cancelled: /"pulumi up" again to go on/,
  "admin-api": /Mend that/,
  "bad-request": /fault of guidomain\. Please report it/,
  internal: /fault of guidomain\. Please report it/,
  "from a newer agent": /Mend that/,
};

for (const [code, next] of Object.entries(NEXT))
  test(`code ${code}`, () => {
    const text = said({ code, message: "it went wrong" });
    assert.ok(
      text.startsWith(
        code === "internal"
          ? "GUI domain sys-gui on host lab: it went wrong. Whether anything was changed is not known. "
          : "GUI domain sys-gui on host lab: it went wrong. Nothing was changed on the host. ",
      ),
      text,
    );
    assert.match(text, next);
  });

const state = {
  id: "sys-gui properties",
  function: "qube.properties",
  result: false,
  comment: "maxmem: Failed to parse\n",
  changes: {},
};

test("Salt fails in one state: which property, what was put back", () => {
  const text = said({
    code: "salt-failed",
    message: "Salt failed",
    failed: [state],
    changed: ["qube:sys-gui", "property:work:guivm"],
    undone: ["qube:sys-gui", "property:work:guivm"],
    left: {},
  });
  assert.match(text, /Salt failed: sys-gui properties \(qube\.properties\): maxmem: Failed to parse\. /);
  assert.match(text, /Changed and put back: qube "sys-gui", the GUI domain of "work"\. /);
  const once = said({
    code: "salt-failed",
    message: `Salt failed: ${state.id} (${state.function}): maxmem: Failed to parse`,
    failed: [state],
  });
  assert.is(once.split("Failed to parse").length, 2, "nothing is said twice");
});

test("a check fails: what it saw", () => {
  const evidence = [
    { id: "GUI domain starts", ok: true, seconds: 1, output: "runs" },
    { id: "session service exists", ok: false, seconds: 1, output: "" },
  ];
  assert.match(
    said({ code: "verify-failed", message: "a check failed", evidence }),
    /a check failed: session service exists: no output\. /,
  );
  const black = { id: "X shows a picture", ok: false, seconds: 1, output: "Can't open display :0\nexit 1" };
  const named = "the result does not work: X shows a picture: exit 1";
  assert.match(
    said({ code: "verify-failed", message: named, evidence: [black] }),
    /lab: the result does not work: X shows a picture: Can't open display :0, exit 1\. /,
    "once, in one line",
  );
});

test("what could not be put back is named with its reason, and what stays changed is not called put back", () => {
  const text = said({
    code: "cancelled",
    message: "stopped",
    changed: ["package:p", "qube:sys-gui", "file:/a"],
    undone: ["qube:sys-gui"],
    left: { "package:p": "dnf: locked" },
  });
  assert.match(
    text,
    /Changed and put back: qube "sys-gui"; could not be put back: dom0 package p \(dnf: locked\); changed, and stays so: file \/a\. /,
  );
  const counts = said({
    code: "internal",
    message: "the change was made",
    changed: ["file:/a"],
    undone: [],
    left: {},
  });
  assert.match(counts, /Changed, and stays so: file \/a\./);
  assert.not.match(counts, /put back/);
  const left = { "qube:sys-gui": "did not shut down" }; // it was only started, so no key differs
  assert.match(
    said({ code: "cancelled", message: "stopped", changed: [], undone: [], left }),
    /Could not be put back: qube "sys-gui" \(did not shut down\)\. /,
  );
});

test("a lost line, a host that is not reached, and what nobody foresaw", () => {
  const host = (at: string, changed?: string) =>
    applyFailure(
      new HostError("lost", at, `${at}: the line is gone`, "Run it again.", changed),
      "GUI domain g",
      "lab",
    );
  assert.is(
    host("lab", "The host puts it back"),
    "GUI domain g on host lab: the line is gone. The host puts it back. Run it again.",
  );
  assert.is(
    host("gate"),
    "GUI domain g on host lab: gate: the line is gone. Nothing was changed on the host. Run it again.",
  );
  const other = applyFailure(new TypeError("x is not a function"), "GUI domain g", "lab");
  assert.match(
    other,
    /^GUI domain g on host lab: x is not a function\. Whether anything was changed is not known\. Run "pulumi preview"/,
  );
});

test.run();
