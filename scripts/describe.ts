/** What a stack's program describes. No host is touched: the program runs against mocks, so what only a host can tell (Host's facts) is unknown to it. */
import { readFile } from "node:fs/promises";
import path from "node:path";
import { runtime } from "@pulumi/pulumi";
import { parse } from "yaml";
import { parseAccess } from "../src/model/access.ts";
import { parseAudioDomain } from "../src/model/audioDomain.ts";
import { parseGuiDomain } from "../src/model/guiDomain.ts";
import { parsePciAttachment } from "../src/model/pciAttachment.ts";
import { plainOf } from "../src/provider/values.ts";
import type { Described } from "../src/report/described.ts";

export const ROOT = path.resolve(import.meta.dirname, "..");
const PROJECT = "gui-domains";

/** The stack's configuration as the engine would hand it to the program: texts, structured values as JSON. */
async function configuration(stack: string, folder: string): Promise<Record<string, string>> {
  const file = path.join(folder, `Pulumi.${stack}.yaml`);
  const text = await readFile(file, "utf8").catch(() => "");
  const config = ((parse(text) as { config?: Record<string, unknown> } | null)?.config ?? {}) as Record<
    string,
    unknown
  >;
  const hidden = JSON.parse(JSON.stringify(config), (_, value) => (isEncrypted(value) ? STAND_IN : value));
  return Object.fromEntries(
    Object.entries(hidden as Record<string, unknown>).map(([key, value]) => [
      key,
      typeof value === "string" ? value : JSON.stringify(value),
    ]),
  );
}

/** In place of an encrypted value, which nobody here can read; no password is part of what is described. */
const STAND_IN = "stand-in";
const isMap = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);
const isEncrypted = (value: unknown) => isMap(value) && typeof value["secure"] === "string";

const PARSERS = {
  GuiDomain: (name: string, given: unknown) => parseGuiDomain(name, given),
  AudioDomain: (name: string, given: unknown) => parseAudioDomain(name, given),
  PciAttachment: (_: string, given: unknown) => parsePciAttachment(given),
  Access: (name: string, given: unknown) => parseAccess(name, given),
};
type Kind = keyof typeof PARSERS;
const WORDS: Record<Kind, string> = {
  GuiDomain: "GUI domain",
  AudioDomain: "audio domain",
  PciAttachment: "PCI attachment",
  Access: "access",
};
const isKind = (kind: string): kind is Kind => kind in PARSERS;

/**
 * What a stack's program registers, and what is wrong with what cannot be. Once a process: the SDK keeps what it was told. `folder`: where the
 * stacks' configuration lies.
 */
export async function describe(
  stack: string,
  folder = path.join(ROOT, "stacks"),
): Promise<Described & { faults: string[] }> {
  const found: { kind: Kind; name: string; inputs: Record<string, unknown> }[] = [];
  const described: Described & { faults: string[] } = {
    hosts: [],
    domains: [],
    audios: [],
    attachments: [],
    accesses: [],
    faults: [],
  };
  await runtime.setMocks(
    {
      newResource({ type, name, inputs: sent }) {
        // The SDK's mocks hand a secret over as the engine gets it.
        const inputs: Record<string, unknown> = plainOf(sent);
        const kind = type.replace("guidomain:index:", "");
        if (kind === "Host") described.hosts.push(String(inputs["name"] ?? name));
        if (isKind(kind)) found.push({ kind, name, inputs });
        return {
          id: name,
          state: { ...inputs, name: inputs["name"] ?? name, ...(KNOWN[kind]?.(name, inputs) ?? {}) },
        };
      },
      call: ({ inputs }) => inputs,
    },
    PROJECT,
    stack,
  );
  runtime.setAllConfig(await configuration(stack, folder));
  await import("../stacks/index.ts");
  // Registrations settle asynchronously after the program's last line.
  await runtime.disconnect();

  for (const { kind, name, inputs } of found) {
    const given = Object.fromEntries(Object.entries(inputs).filter(([, value]) => value !== undefined));
    const parsed = PARSERS[kind](name, given);
    if ("faults" in parsed)
      described.faults.push(
        ...parsed.faults.map(({ property, reason }) => `${WORDS[kind]} ${name}: ${property}: ${reason}`),
      );
    else if ("gui" in parsed) described.domains.push(parsed.gui);
    else if ("audio" in parsed) described.audios.push(parsed.audio);
    else if ("attachment" in parsed) described.attachments.push(parsed.attachment);
    else described.accesses.push(parsed.access);
  }
  const all = [...described.domains, ...described.audios, ...described.attachments, ...described.accesses];
  described.hosts = [...new Set([...described.hosts, ...all.map(({ host }) => host)])].sort();
  return described;
}

/** Outputs that do not need a host: whoever is given them in the program would be unknown otherwise. */
const KNOWN: Partial<
  Record<string, (name: string, inputs: Record<string, unknown>) => Record<string, unknown>>
> = {
  GuiDomain: (name, { qube }) => ({ qube: qube ?? name }),
  AudioDomain: (name, { qube }) => ({ qube: qube ?? name, sound: qube ?? name }),
};
