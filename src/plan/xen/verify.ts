/** The checks that a mode must pass on plain Xen before it counts, all made from dom0. Pure. Issue 7; docs/xen.md. */
import { sessionFile } from "../../formula/xen/settings.ts";
import type { Snapshot, Verification } from "../../host/protocol.ts";
import type { GuiDomain } from "../../model/guiDomain.ts";
import type { Rung } from "../../model/modes.ts";
import { vncPort, type XenDomain } from "../../model/xenDomain.ts";
import { pciTree } from "../../pci/tree.ts";

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
      framebuffer(vncPort(domain)),
      true,
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
    ...drawing(gui, domain),
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
  sbdfs: readonly string[],
): Verification[] {
  return [...deviceChecks(gui, domain, snapshot, sbdfs), ...drawing(gui, domain)];
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
    ...(type === "hvm" ? [] : [host(of, "its kernel has taken the devices over", connected(of), true)]),
    ...(reports.includes("pci") && ids.length
      ? [reported(of, `its kernel sees ${ids.join(", ")}`, "pci", ids)]
      : []),
  ];
}

/**
 * Of a PV guest the front end in its kernel connects once it has all of its functions: state 4, XenbusStateConnected (xenbus.h; pciback and
 * pcifront of Linux).
 */
const connected = ({ qube }: Described): string[] => [
  "sh",
  "-c",
  `state=$(xenstore-read /local/domain/0/backend/pci/$(xl domid ${qube})/0/state); echo "the back end is in state $state"; test "$state" = 4`,
];

const drawing = (of: Described, { reports }: Pick<XenDomain, "reports">): Verification[] =>
  reports.includes("screen") ? [reported(of, "it draws on its screen", "screen", ["on"])] : [];

/** What the domain has written into its own folder of xenstore since it started: words that must be there. */
const reported = (of: Described, id: string, name: string, words: readonly string[]): Verification =>
  host(
    of,
    id,
    [
      "sh",
      "-c",
      [
        `said=$(xenstore-read /local/domain/$(xl domid ${of.qube})/data/guidomain/${name} 2> /dev/null)`,
        'echo "it reports: $said"',
        words.map((word) => `echo "$said" | grep -qwF -- ${word}`).join(" && "),
      ].join("; "),
    ],
    true,
  );

/** An RFB server that greets (RFB 3.8 §7.1.1), on 127.0.0.1 and on no other address. */
const framebuffer = (port: number): string[] => [
  "python3",
  "-I",
  "-c",
  `
import socket, subprocess, sys
port = ${port}
try:
    with socket.create_connection(("127.0.0.1", port), 5) as line:
        line.settimeout(5)
        said = line.recv(12)
except OSError as error:
    sys.exit("nothing answers on port %d of dom0's loopback: %s" % (port, error))
if not said.startswith(b"RFB "):
    sys.exit("what listens on port %d is no VNC server: it says %r" % (port, said))
listening = subprocess.run(["ss", "-Hltn"], stdout=subprocess.PIPE, timeout=30).stdout.decode()
for _, _, _, at, *_ in map(str.split, listening.splitlines()):
    if at.rsplit(":", 1)[1] == str(port) and not at.startswith(("127.", "[::1]")):
        sys.exit("it listens on %s, which a network could reach" % at)
print(said.decode("latin-1").strip(), "on 127.0.0.1 port", port)
`,
];

const host = ({ limits }: Described, id: string, argv: string[], until = false): Verification => ({
  kind: "host",
  id,
  argv,
  timeout: limits.checks,
  ...(until && { until }),
});
