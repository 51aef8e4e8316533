/** A change of policy judged before it is written. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import { differenceText } from "./explain.ts";
import { grantOf, levelFile, withGrant, withoutGrant } from "./levels.ts";
import { type Files, POLICY } from "./load.ts";
import { type Level, parsePrincipal } from "./principal.ts";
import { review } from "./review.ts";
import { ASKS, SAMPLE, SOMEBODY_ELSE, samplePrincipal } from "./sample.ts";
import { STOCK } from "./services.ts";

const put = (level: Level, host: Files = STOCK) => {
  const principal = samplePrincipal(level);
  return review(host, withGrant(host, grantOf(principal)), SAMPLE, [principal]);
};
const file = (name: string, text: string): Files => ({ [`${POLICY}/${name}`]: text });

test("each level can be put on a host as Qubes installs it, and taken off", () => {
  for (const level of ["admin", "operator", "user", "guest", "kiosk"] as const) {
    const { refusals, warnings, differences } = put(level);
    assert.equal([...refusals, ...warnings], []);
    assert.ok(differences.some(({ source }) => source === ASKS));
    const grant = grantOf(samplePrincipal(level));
    assert.equal(
      review(withGrant(STOCK, grant), withoutGrant(withGrant(STOCK, grant), grant), SAMPLE, [], [ASKS])
        .refusals,
      [],
    );
  }
});

test("nobody else loses anything by one's level, but the prompts for one's qubes", () => {
  for (const { source, gains, changes, loses } of put("user").differences) {
    if ([ASKS, "work", "mail", "web-dvm"].includes(source)) continue;
    assert.equal(gains, []);
    for (const { said } of [...changes, ...loses].flat())
      for (const { services, mark } of said)
        assert.ok(
          /^(ask|allow) /.test(mark) && services.every((each) => /^qubes\./.test(each)),
          `${source} ${services} ${mark}`,
        );
  }
});

test("from one level to a lower one is told in both directions", () => {
  const host = withGrant(STOCK, grantOf(samplePrincipal("user")));
  const guest = samplePrincipal("guest");
  const { refusals, differences } = review(host, withGrant(host, grantOf(guest)), SAMPLE, [guest]);
  assert.equal(refusals, []);
  assert.is(
    differenceText(differences),
    `sys-gui may no longer:
  start applications
    qubes.StartApp: its qubes [allow → deny]
  start and stop qubes
    admin.vm.Start: its qubes [allow → deny]
  carry text and files between qubes
    qubes.Filecopy: its qubes [ask → deny]
`,
  );
});

test("refused: a line that would stop every call, ours or one that we make count", () => {
  const principal = samplePrincipal("user");
  const after = { ...withGrant(STOCK, grantOf(principal)), ...file("47-x.policy", "nonsense\n") };
  const { refusals } = review(STOCK, after, SAMPLE, [principal]);
  assert.is(refusals.length, 1);
  assert.match(refusals[0] ?? "", /47-x\.policy:1: line: 1 fields are too few/);
  // where it was there before, it is not ours to refuse, but told
  const broken = { ...STOCK, ...file("47-x.policy", "nonsense\n") };
  const told = review(broken, withGrant(broken, grantOf(principal)), SAMPLE, [principal]);
  assert.equal(told.refusals, []);
  assert.match(told.warnings.join("\n"), /47-x\.policy:1/);
});

test("refused: a qube that is not there", () => {
  const principal = { ...samplePrincipal("kiosk"), apps: [{ app: "firefox", qube: "gone" }] };
  const { refusals } = review(STOCK, withGrant(STOCK, grantOf(principal)), SAMPLE, [principal]);
  assert.match(refusals.join("\n"), /target: there is no qube gone/);
});

test("warned: an earlier file of somebody else gives what the level denies", () => {
  const host = { ...STOCK, ...file("30-user.policy", "qubes.VMShell * sys-gui work allow\n") };
  const { refusals, warnings } = put("user", host);
  assert.equal(refusals, []);
  assert.match(warnings.join("\n"), /sys-gui may ask work for qubes\.VMShell.* by .*30-user\.policy:1/);
});

test("refused: a rule of one's own that leads to somebody else's qube by another name", () => {
  const parsed = parsePrincipal({
    qube: ASKS,
    level: "user",
    apart: [SOMEBODY_ELSE],
    rules: ["qubes.Filecopy * @tag:guivm-sys-gui @default allow target=bob-work"],
  });
  assert.ok("principal" in parsed);
  const after = withGrant(STOCK, grantOf(parsed.principal));
  const { refusals } = review(STOCK, after, SAMPLE, [parsed.principal]);
  assert.match(
    refusals.join("\n"),
    /^work may reach bob-work, which is not its own, for qubes\.Filecopy, by .*46-level/m,
  );
});

test("refused: the way in of a management qube that the kiosk shows; not where its rule comes earlier, nor at a level that leaves it", () => {
  const ssh = "qubes.ConnectTCP +22 work @default allow target=dom0\n";
  const cut = put("kiosk", { ...STOCK, ...file("50-ssh.policy", ssh) }).refusals;
  assert.is(cut.length, 1);
  assert.match(
    cut[0] ?? "",
    /^work could no longer ask for qubes\.ConnectTCP \(allowed by .*50-ssh\.policy:1\), by .*46-level-sys-gui\.policy:\d+: qubes\.ConnectTCP \* @tag:guivm-sys-gui @anyvm deny; if this host is reached through it, that cuts the way in\./,
  );
  assert.equal(put("kiosk", { ...STOCK, ...file("30-ssh.policy", ssh) }).refusals, []);
  assert.equal(put("user", { ...STOCK, ...file("50-ssh.policy", ssh) }).refusals, []);
});

test("a prompt of one's qubes does not offer the other's disposable that is their default", () => {
  const facts = { ...SAMPLE, mail: { ...SAMPLE["mail"], default_dispvm: "bob-dvm" } } as typeof SAMPLE;
  const [open, barred] = [samplePrincipal("user"), { ...samplePrincipal("user"), barred: [ASKS] }];
  const refusals = (principal: typeof open) =>
    review(STOCK, withGrant(STOCK, grantOf(principal)), facts, [principal]).refusals;
  assert.match(
    refusals(open).join("\n"),
    /^mail may be offered @dispvm:bob-dvm, not its own, for qubes\.OpenURL/m,
  );
  assert.equal(refusals(barred), []);
});

test("an audio domain that one person's GUI domain shows learns of all whose sound it plays, and no more", () => {
  const facts = {
    ...SAMPLE,
    "sys-audio": { ...SAMPLE["work"], tags: ["guivm-sys-gui"] },
    "bob-work": { ...SAMPLE["bob-work"], tags: ["guivm-sys-gui-bob", "audiovm-sys-audio"] },
  } as typeof SAMPLE;
  const principal = samplePrincipal("user");
  const with_ = (name: string, rule: string) => {
    const host = { ...STOCK, ...file(name, `${rule}\n`) };
    return review(host, withGrant(host, grantOf(principal)), facts, [principal]);
  };
  const listens = "admin.vm.property.Get +xid sys-audio @tag:audiovm-sys-audio allow target=dom0";
  const { refusals, warnings } = with_("40-audio-sys-audio.policy", listens);
  assert.equal([...refusals, ...warnings], []);
  const [late = ""] = with_("50-sys-audio.policy", listens).refusals;
  assert.match(
    late,
    /^sys-audio could no longer ask for admin\.vm\.property\.Get .*into a file that comes earlier$/,
  );
  // by somebody else's file, or about a qube whose sound it does not play
  for (const [name, rule] of [
    ["30-user.policy", listens],
    ["40-audio-sys-audio.policy", "admin.vm.property.Get +xid sys-audio bob-dvm allow target=dom0"],
    ["40-audio-sys-audio.policy", "qubes.VMShell * sys-audio bob-work allow"],
  ] as const)
    assert.match(with_(name, rule).warnings.join("\n"), /sys-audio may ask bob-/, `${name}: ${rule}`);
});

test("refused: input devices that would be lost", () => {
  const mine = {
    ...SAMPLE,
    "sys-usb": { ...SAMPLE["dom0"], class: "AppVM", tags: ["guivm-sys-gui"] },
  } as typeof SAMPLE;
  const input = "qubes.InputKeyboard * sys-usb sys-gui-bob allow user=root\n";
  const principal = samplePrincipal("user");
  const of = (name: string) => {
    const host = { ...STOCK, ...file(name, input) };
    return review(host, withGrant(host, grantOf(principal)), mine, [principal]).refusals;
  };
  assert.match(
    of("50-config-input.policy").join("\n"),
    /^sys-usb could no longer ask for qubes\.InputKeyboard .* its keyboard or mouse would be lost/,
  );
  assert.equal(levelFile(ASKS) > `${POLICY}/45-gui-sys-gui-bob.policy`, true);
});

test.run();
