/** The checks that a mode must pass on plain Xen before it counts, all made from dom0. Pure. Issue 7; docs/xen.md. */
import { sessionFile } from "../../formula/xen/settings.ts";
import type { Snapshot, Verification } from "../../host/protocol.ts";
import type { GuiDomain } from "../../model/guiDomain.ts";
import type { Rung } from "../../model/modes.ts";
import { vncPort, type XenDomain } from "../../model/xenDomain.ts";
import { isDisplay, pciTree } from "../../pci/tree.ts";

interface Described {
  qube: string;
  /** Seconds. */
  limits: { start: number; checks: number };
}

/** `sbdfs`: addresses of what mode "gpu" gives away, in this boot. */
export function xenVerifications(
  gui: GuiDomain,
  domain: XenDomain,
  rung: Rung,
  snapshot: Snapshot,
  sbdfs: readonly string[],
): Verification[] {
  if (rung === "dom0") return [];
  const start = startCheck(gui, "GUI domain starts");
  if (rung === "gpu")
    return [start, ...withDomain(gui, sbdfs), ...xenScreenChecks(gui, domain, snapshot, sbdfs)];
  return [
    start,
    host(
      gui,
      "its framebuffer is shown on dom0's loopback, and nowhere else",
      framebuffer(vncPort(domain), gui.limits.checks),
    ),
    ...(rung === "xephyr"
      ? [
          host(gui, "its session is there for dom0's greeter", [
            "grep",
            "-q",
            "^Exec=",
            sessionFile(gui.qube),
          ]),
          host(gui, "dom0 has what the session runs", [
            "sh",
            "-c",
            "command -v Xephyr && command -v xauth && { command -v xtightvncviewer || command -v xtigervncviewer || command -v vncviewer; }",
          ]),
        ]
      : []),
    ...(domain.reports ? [reported(gui, "it draws on its screen", "screen", ["on"])] : []),
  ];
}

export const startCheck = ({ qube, limits }: Described, id: string): Verification => ({
  kind: "start",
  id,
  qube,
  timeout: limits.start,
});

/** Of each address: xl counts it among the domain's. */
export const withDomain = (domain: Described, sbdfs: readonly string[]): Verification[] =>
  sbdfs.map((sbdf) =>
    host(domain, `${sbdf} is with the domain`, ["sh", "-c", `xl pci-list ${domain.qube} | grep -F ${sbdf}`]),
  );

/**
 * What shows that its kernel has the devices. Each boot asks these again, so they name nothing that may be called otherwise in the next
 * one. Of an HVM dom0 sees nothing but what the domain itself reports.
 */
export function xenScreenChecks(
  gui: GuiDomain,
  domain: XenDomain,
  snapshot: Snapshot,
  sbdfs: readonly string[] = displaysIn(gui, snapshot),
): Verification[] {
  return [
    ...deviceChecks(gui, domain, snapshot, sbdfs),
    ...(domain.reports ? [reported(gui, "it draws on its screen", "screen", ["on"])] : []),
  ];
}

export function deviceChecks(
  of: Described,
  { type, reports }: Pick<XenDomain, "type" | "reports">,
  snapshot: Snapshot,
  sbdfs: readonly string[],
): Verification[] {
  const tree = pciTree(snapshot.facts.pci);
  const ids = sbdfs.flatMap((sbdf) => {
    const fn = tree.bySbdf.get(sbdf);
    return fn ? [`${fn.vendor}:${fn.device}`] : [];
  });
  return [
    ...(type === "hvm" ? [] : [host(of, "its kernel has taken the devices over", connected(of))]),
    ...(reports ? [reported(of, `its kernel sees ${ids.join(", ")}`, "pci", ids)] : []),
  ];
}

/** Displays that are given to it. */
const displaysIn = ({ qube }: GuiDomain, { qubes, facts }: Snapshot): string[] => {
  const tree = pciTree(facts.pci);
  return (qubes[qube]?.pci ?? []).flatMap(({ port }) => {
    const fn = tree.byPort.get(port);
    return fn && isDisplay(fn) ? [fn.sbdf] : [];
  });
};

/**
 * Of a PV guest the front end in its kernel connects once it has all of its functions: state 4, XenbusStateConnected (xenbus.h; pciback and
 * pcifront of Linux).
 */
const connected = ({ qube, limits }: Described): string[] =>
  until(
    limits.checks,
    `xenstore-read /local/domain/0/backend/pci/$(xl domid ${qube})/0/state 2>/dev/null | grep -qx 4`,
    'echo "the front end of its kernel has not connected"',
  );

/** What the domain has written into its own folder of xenstore since it started: words that must be there. */
const reported = (of: Described, id: string, name: string, words: readonly string[]): Verification => {
  const read = `xenstore-read /local/domain/$(xl domid ${of.qube})/data/guidomain/${name} 2>/dev/null`;
  return host(
    of,
    id,
    until(
      of.limits.checks,
      words.map((word) => `${read} | grep -qwF -- ${word}`).join(" && "),
      `echo "it reports $(${read} || echo nothing)"`,
    ),
  );
};

/** Passes once `test` does; after ten seconds less than `seconds` it says `why` and fails. */
const until = (seconds: number, test: string, why: string): string[] => [
  "sh",
  "-c",
  `end=$(($(date +%s) + ${Math.max(1, seconds - 10)})); until ${test}; do [ "$(date +%s)" -lt "$end" ] || { ${why}; exit 1; }; sleep 1; done`,
];

/** An RFB server that greets (RFB 3.8 §7.1.1), on 127.0.0.1 and on no other address. */
const framebuffer = (port: number, seconds: number): string[] => [
  "python3",
  "-I",
  "-c",
  `
import socket, subprocess, sys, time
port, end = ${port}, time.monotonic() + ${Math.max(1, seconds - 10)}
while True:
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as line:
            line.settimeout(5)
            said = line.recv(12)
        if said.startswith(b"RFB "):
            break
        why = "what listens on port %d is no VNC server: it says %r" % (port, said)
    except OSError as error:
        why = "nothing answers on port %d of dom0's loopback: %s" % (port, error)
    if time.monotonic() > end:
        sys.exit(why)
    time.sleep(1)
open_to = [
    words[3]
    for words in map(str.split, subprocess.run(["ss", "-Hltn"], stdout=subprocess.PIPE, text=True, timeout=30).stdout.splitlines())
    if words[3].rsplit(":", 1)[1] == str(port) and not words[3].startswith(("127.", "[::1]"))
]
if open_to:
    sys.exit("it listens on %s, which a network could reach" % ", ".join(open_to))
print(said.decode("latin-1").strip(), "on 127.0.0.1 port", port)
`,
];

const host = ({ limits }: Described, id: string, argv: string[]): Verification => ({
  kind: "host",
  id,
  argv,
  timeout: limits.checks,
});
