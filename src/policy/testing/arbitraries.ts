/** Random policies, qubes and calls over few names, so that rules and calls meet. */
import fc from "fast-check";
import type { Call, Facts, Qube } from "../evaluate.ts";
import type { Line, Options, Rule } from "../parse.ts";

const NAMES = ["work", "web", "dvm", "sys-gui", "dom0", "gone"];
const from = <T>(...values: T[]) => fc.constantFrom(...values);

const source = from(...NAMES, "@anyvm", "*", "@adminvm", "@tag:t", "@type:AppVM", "@dispvm:dvm");
const target = from(
  ...NAMES,
  "@anyvm",
  "*",
  "@adminvm",
  "@default",
  "@dispvm",
  "@dispvm:dvm",
  "@dispvm:@tag:t",
  "@tag:t",
  "@type:AppVM",
);
const redirect = from(...NAMES, "@adminvm", "@dispvm", "@dispvm:dvm");
const yesNo = from<"yes" | "no">("yes", "no");

/** A record whose keys may each be missing. */
const some = <T extends object>(model: { [K in keyof T]: fc.Arbitrary<T[K]> }) =>
  fc.record(model, { requiredKeys: [] }).map((value) => ({ ...value }) as Partial<T>);
const options = {
  allow: some<Options>({ target: redirect, user: from("root", "user"), notify: yesNo, autostart: yesNo }),
  ask: some<Options>({
    target: redirect,
    default_target: redirect,
    user: from("root"),
    notify: yesNo,
    autostart: yesNo,
  }),
  deny: some<Options>({ notify: yesNo }),
} as Record<Rule["action"], fc.Arbitrary<Options>>;

export const rule: fc.Arbitrary<Rule> = from<Rule["action"]>("allow", "ask", "deny").chain((action) =>
  fc
    .record({
      service: from<string | null>("a.A", "b.B", null),
      argument: from<string | null>(null, "+", "+x"),
      source,
      target,
      options: options[action],
    })
    .map((given) => ({
      ...given,
      action,
      argument: given.service === null ? null : given.argument,
      options:
        action === "allow" && given.target === "@default"
          ? { target: "work", ...given.options }
          : given.options,
    })),
);

const word = fc.stringMatching(/^[a-z0-9/_.-]{1,8}$/);
export const line: fc.Arbitrary<Line> = fc.oneof(
  { weight: 6, arbitrary: rule.map((each): Line => ({ kind: "rule", rule: each })) },
  fc.constant<Line>({ kind: "blank" }),
  fc.stringMatching(/^#[ -~]{0,20}$/).map((text): Line => ({ kind: "comment", text: text.trimEnd() })),
  word.map((path): Line => ({ kind: "include", path })),
  word.map((path): Line => ({ kind: "include-dir", path })),
  fc
    .record({ service: from("a.A", null), path: word })
    .map(
      (each): Line => ({ kind: "include-service", argument: each.service === null ? null : "+x", ...each }),
    ),
  fc.constant<Line>({ kind: "compat-4.0" }),
);

const qube: fc.Arbitrary<Qube> = fc.record({
  class: from("AppVM", "TemplateVM", "DispVM"),
  tags: fc.subarray(["t", "u"]),
  template_for_dispvms: fc.boolean(),
  default_dispvm: from(null, "dvm"),
  running: fc.boolean(),
  internal: fc.boolean(),
});
export const facts: fc.Arbitrary<Facts> = fc
  .record({ work: qube, web: qube, dvm: qube, "sys-gui": qube })
  .map((qubes) => ({
    dom0: { class: "AdminVM", tags: [], template_for_dispvms: false, default_dispvm: null, running: true },
    ...qubes,
  }));

export const call: fc.Arbitrary<Call> = fc.record({
  service: from("a.A", "b.B", "c.C"),
  argument: from("+", "+x", "+y"),
  source: from("work", "web", "dvm", "sys-gui"),
  target: from(...NAMES, "", "@default", "@dispvm", "@dispvm:dvm", "@adminvm", "@anyvm"),
});
