/** A stack with passwords in its configuration, which nobody here can decrypt, is described all the same. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { describe } from "./describe.ts";

const folder = mkdtempSync(path.join(os.tmpdir(), "guidomain-describe-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));

test("passwords as secret configuration", async () => {
  const hidden = "v1:o2mMtRFMXKPYdXmU:1rmrUbiNxQVbSoMPYn5";
  writeFileSync(
    path.join(folder, "Pulumi.secrets.yaml"),
    `config:
  gui-domains:program: workstation
  gui-domains:host: t14
  gui-domains:settings:
    display: [vnc]
    clients: [work]
    remote:
      password:
        secure: ${hidden}
    login:
      user: alice
      password:
        secure: ${hidden}
`,
  );
  const { domains, faults, hosts } = await describe("secrets", folder);
  assert.equal(faults, []);
  assert.equal(hosts, ["t14"]);
  const [gui] = domains;
  assert.equal(
    [gui?.qube, gui?.clients, gui?.login && "user" in gui.login && gui.login.user],
    ["sys-gui", ["work"], "alice"],
  );
  assert.not.match(JSON.stringify(domains), /v1:|secure/);
});

test.run();
