/** For tests: random descriptions and random hosts for them (fast-check). */
import fc from "fast-check";
import { settingsOf } from "../../formula/settings.ts";
import type { QubeSnapshot, Snapshot } from "../../host/protocol.ts";
import { type GuiDomain, parseGuiDomain } from "../../model/guiDomain.ts";
import type { PropertyValue } from "../../model/keys.ts";
import { isRemote, type Mode } from "../../model/modes.ts";
import { FILE_MODE, modeOf, type Settings } from "../../model/settings.ts";
import { GLOBAL_RWX, LOCAL_RWX, withLines } from "../../policy/levels.ts";
import { partsOf } from "../values.ts";
import { byDefault, explicit, install, qube } from "./hostModel.ts";

const CLIENTS = ["work", "vault", "sys-net", "personal"];
const QUBES = ["sys-gui", "sys-gui-vnc", "My_gui-1", "g--x"];

const maybe = <T>(value: fc.Arbitrary<T>) => fc.option(value, { nil: undefined });

/** A program's arguments that keep every rule, with the qube left out. */
export const description: fc.Arbitrary<Record<string, unknown>> = fc
  .record({
    mode: fc.constantFrom<Mode>("xephyr", "xephyr", "vnc", "rdp"),
    password: maybe(fc.constant("geheim12")),
    clients: fc.oneof(
      { weight: 1, arbitrary: fc.constant("default") },
      { weight: 1, arbitrary: fc.subarray(CLIENTS) },
    ),
    session: fc.constantFrom(undefined, "choose", "preselect", "autologin"),
    template: maybe(fc.constantFrom("fedora-43-xfce", "debian-13-xfce")),
    label: maybe(fc.constantFrom("red", "black", "blue")),
    memory: maybe(fc.integer({ min: 64, max: 2000 })),
    maxmem: maybe(fc.constantFrom(0, 2000, 4000, 8000)),
    vcpus: maybe(fc.integer({ min: 1, max: 8 })),
    autostart: maybe(fc.boolean()),
    audiovm: maybe(fc.constantFrom("", "dom0", "sys-audio")),
    hostPackages: maybe(fc.subarray(["dummy-psu-sender", "dummy-backlight-dom0", "extra-tool"])),
    viewers: maybe(fc.subarray(["work", "personal"])),
    level: maybe(fc.constantFrom("admin", "operator", "user", "guest")),
    restartClients: fc.constantFrom(undefined, "never", "allowed"),
    onDelete: fc.constantFrom("restore", "restore", "restore", "keep"),
  })
  .map(({ mode, password, session, viewers, ...rest }) => ({
    ...rest,
    host: "lab",
    display: [mode],
    session: mode === "xephyr" ? session : undefined,
    sessionUser: mode === "xephyr" && session === "autologin" ? "user" : undefined,
    viewers: isRemote(mode) ? viewers : undefined,
    login: mode === "rdp" ? { password: "geheim-lang-34" } : undefined,
    remote: mode === "vnc" && password ? { password } : undefined,
  }))
  .map((args) => Object.fromEntries(Object.entries(args).filter(([, value]) => value !== undefined)));

/** As fc.assert, with a message that can be read: the seed, and what was wrong, without the whole host. */
export function holds<T>(property: fc.IProperty<T>, numRuns: number): void {
  const { failed, seed, counterexamplePath, errorInstance } = fc.check(property, { numRuns });
  if (!failed) return;
  const why =
    errorInstance instanceof Error ? (errorInstance.stack ?? errorInstance.message) : String(errorInstance);
  throw new Error(`{ seed: ${seed}, path: "${counterexamplePath}" }: ${why}`);
}

export const qubeName = fc.constantFrom(...QUBES);

export function guiOf(qubeIs: string, args: Record<string, unknown>): GuiDomain {
  const parsed = parseGuiDomain(qubeIs, args);
  if ("faults" in parsed) throw new Error(parsed.faults.map((f) => `${f.property}: ${f.reason}`).join("; "));
  return parsed.gui;
}

const property = (...values: string[]): fc.Arbitrary<PropertyValue> =>
  fc.oneof(
    fc.constant(byDefault),
    fc.constantFrom(...values).map((value) => explicit(value)),
  );

const features = fc.dictionary(
  fc.constantFrom(
    "foreign",
    "os-version",
    "gui-allow-fullscreen",
    "service.guivm",
    "service.cups",
    "internal",
  ),
  fc.constantFrom("", "1", "none", 'anything else: "\\\u2028😀'),
);
const tags = fc.subarray(["owner-alice", "foreign", "created-by-dom0"]);
const pci: fc.Arbitrary<QubeSnapshot["pci"]> = fc.subarray([
  { port: "00_14.0", device: "*", mode: "required", options: {} as Record<string, string> },
  {
    port: "00_1f.3",
    device: "0x8086:0xa7a0::p040300",
    mode: "auto-attach",
    options: { "no-strict-reset": "True" },
  },
  { port: "*", device: "0x8086:0x15be::p020000", mode: "required", options: {} },
]);

const foreignQube = fc
  .record({
    properties: fc.record({
      guivm: property("dom0", "other-gui", ""),
      audiovm: property("dom0", "sys-audio"),
      memory: property("500", "4000"),
      netvm: property("", "sys-net"),
    }),
    features,
    tags,
    pci,
    state: fc.constantFrom("Halted", "Running", "Paused"),
  })
  .map(qube);

/** How a thing that the description asks for stands on the host beforehand. */
type Standing = "missing" | "same" | "other";
const standing = fc.constantFrom<Standing>("missing", "same", "other");
const file = fc.constantFrom("missing", "missing", "same", "comments", "mode", "edited");

const include = (lines: string[]) =>
  fc
    .record({
      head: fc.constantFrom("## Entries go below\n", "", "\n\n"),
      lines: fc.array(fc.constantFrom("mgmt @adminvm allow target=dom0", "", "# x", ...lines), {
        maxLength: 4,
      }),
      end: fc.constantFrom("", "\n"),
    })
    .map(({ head, lines, end }) => `${head}${lines.join("\n")}${end}`);

/** A host before our time, for the description `gui`. Its qube is there half of the time, in every state of disorder. */
export function hostFor(gui: GuiDomain): fc.Arbitrary<Snapshot> {
  const wanted = settingsOf(gui, gui.display[0] ?? "xephyr");
  const existing = fc
    .record({
      properties: fc.record(
        Object.fromEntries(
          Object.entries(wanted.properties).map(([name, value]) => [
            name,
            standing.chain((how) => {
              if (how === "missing") return fc.constant(byDefault);
              if (how === "same") return fc.constant(explicit(value));
              return property(...(OTHER[name] ?? ["1000"]));
            }),
          ]),
        ),
      ),
      services: fc.subarray(Object.keys(wanted.services)),
      features,
      tags,
      // Devices make a GUI domain of these modes impossible; it is refused.
      pci: fc.oneof(
        { weight: 9, arbitrary: fc.constant<QubeSnapshot["pci"]>([]) },
        { weight: 1, arbitrary: pci },
      ),
      label: fc.constantFrom("red", gui.label),
      template: fc.constantFrom("fedora-43-xfce", gui.template),
      class: fc.oneof(
        { weight: 9, arbitrary: fc.constant("AppVM") },
        { weight: 1, arbitrary: fc.constant("StandaloneVM") },
      ),
      state: fc.constantFrom("Halted", "Halted", "Running"),
    })
    .map(({ services, ...made }) =>
      qube({
        ...made,
        features: { ...made.features, ...Object.fromEntries(services.map((s) => [`service.${s}`, "1"])) },
      }),
    );
  const files = fc.record(
    Object.fromEntries(
      Object.entries(wanted.files).map(([path, content]) => [
        path,
        file.map((how) => {
          if (how === "missing") return undefined;
          if (how === "comments" && !path.endsWith(".conf"))
            return { content: `# mine\n\n${content.replaceAll("  ", "\t")}`, mode: modeOf(path) };
          if (how === "mode") return { content, mode: "0600" };
          return {
            content: how === "edited" ? `${content}# x\nfoo.Bar * ${gui.qube} @anyvm deny\n` : content,
            mode: modeOf(path),
          };
        }),
      ]),
    ),
  );
  const lines = Object.keys(wanted.policyLines).map((line) => partsOf(`line:${line}`).name);
  return fc
    .record({
      gui: fc.option(existing, { nil: undefined, freq: 2 }),
      personal: fc.option(foreignQube, { nil: undefined, freq: 12 }),
      work: foreignQube,
      vault: foreignQube,
      files,
      /** Of Qubes' own include files, some with lines that we may want too, some whose last line has no end. */
      included: fc.tuple(include(lines), include(lines)),
      default_guivm: fc.constantFrom("dom0", "dom0", "other-gui", gui.qube),
      default_audiovm: property("dom0", "sys-audio"),
      packages: fc.record({
        "dummy-psu-sender": fc.constantFrom(null, "4.2.0"),
        "dummy-backlight-dom0": fc.constantFrom(null, "4.2.0"),
        "extra-tool": fc.constantFrom(null, "1"),
      }),
      windows: fc.constantFrom(true, false, false, false),
      /** Set up by hand exactly as described. */
      exact: fc.constantFrom(true, false, false, false),
      /** What another program has: things we never ask for, a package we may share, a client we may both want. */
      others: fc.subarray([
        "file:/etc/qubes/policy.d/30-other.policy",
        "property:vault:memory",
        "package:dummy-psu-sender",
      ]),
      rival: fc.oneof(
        { weight: 5, arbitrary: fc.constant(undefined) },
        { weight: 1, arbitrary: fc.constant("property:work:guivm") },
      ),
    })
    .map((found) => {
      const work =
        found.windows && gui.clients === "default"
          ? { ...found.work, features: { os: "Windows" } }
          : found.work;
      const packages = { ...found.packages };
      if (found.others.includes("package:dummy-psu-sender")) packages["dummy-psu-sender"] ??= "4.2.0";
      const snapshot = install({
        qubes: {
          "sys-audio": qube({ properties: { guivm: explicit("dom0") } }),
          "other-gui": qube({
            properties: { guivm: explicit("dom0") },
            features: { "service.guivm": "1" },
            pci: [{ port: "00_02.0", device: "*", mode: "required", options: { permissive: "True" } }],
          }),
          work,
          vault: found.vault,
          ...(found.personal && { personal: found.personal }),
          ...(found.gui && { [gui.qube]: found.gui }),
        },
        packages,
        files: {
          "/etc/qubes/policy.d/30-other.policy": { content: "foo.Bar * a b allow\n", mode: FILE_MODE },
          [GLOBAL_RWX]: { content: found.included[0], mode: "0664" },
          [LOCAL_RWX]: { content: found.included[1], mode: "0664" },
          ...Object.fromEntries(
            Object.entries(found.files).flatMap(([path, is]) => (is ? [[path, is]] : [])),
          ),
        },
      });
      snapshot.globals["default_guivm"] = explicit(
        found.default_guivm === gui.qube && !found.gui ? "dom0" : found.default_guivm,
      );
      snapshot.globals["default_audiovm"] = found.default_audiovm.default
        ? explicit("dom0")
        : found.default_audiovm;
      for (const key of [...found.others, ...(found.rival ? [found.rival] : [])])
        snapshot.ledger[key] = { owner: OTHER_OWNER, first: null, ours: packages["dummy-psu-sender"], at: 1 };
      if (found.exact) setUp(snapshot, gui.qube, wanted);
      return snapshot;
    });
}

/** A person does by hand what the settings say, and nothing else to the qube. */
export function setUp(snapshot: Snapshot, name: string, wanted: Settings): void {
  const all = (map: Record<string, string>) =>
    Object.fromEntries(Object.entries(map).map(([p, value]) => [p, explicit(value)]));
  const services = Object.keys(wanted.services).map((service) => [`service.${service}`, "1"]);
  snapshot.qubes[name] = qube({
    ...wanted,
    properties: all(wanted.properties),
    features: { ...wanted.features, ...Object.fromEntries(services) },
  });
  Object.assign(snapshot.globals, all(wanted.globals));
  for (const [client, guivm] of Object.entries(wanted.clients))
    Object.assign(snapshot.qubes[client]?.properties ?? {}, { guivm: explicit(guivm) });
  for (const [path, content] of Object.entries(wanted.files))
    snapshot.files[path] = { content, mode: modeOf(path) };
  for (const key of Object.keys(wanted.policyLines)) {
    const { of, name } = partsOf(`line:${key}`);
    const file = snapshot.files[of];
    if (file) file.content = withLines(file.content, [name]);
  }
  for (const name of Object.keys(wanted.packages)) snapshot.packages[name] ??= "4.2.0";
}

export const OTHER_OWNER = "urn:pulumi:other::site::guidomain:index:GuiDomain::theirs";

const OTHER: Record<string, string[]> = {
  netvm: ["sys-net"],
  guivm: ["", "other-gui"],
  audiovm: ["", "dom0", "sys-audio"],
  virt_mode: ["hvm"],
  autostart: ["True", "False"],
  maxmem: ["1000", "0"],
  memory: ["300"],
  vcpus: ["1"],
};
