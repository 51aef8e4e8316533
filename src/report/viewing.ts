/** What a person is told who looks at a remote screen. Pure. */
import type { RemoteMode } from "../model/modes.ts";

/** What speaks first: x11vnc says which RFB it knows; an RDP server answers a request for a connection with TLS (MS-RDPBCGR 2.2.1.1). */
export const HELLO: Record<RemoteMode, Buffer> = {
  vnc: Buffer.alloc(0),
  rdp: Buffer.from("030000130ee000000000000100080001000000", "hex"),
};

/** Whether those bytes are a server of that kind: RFC 6143 §7.1.1; a TPKT with a confirmation (MS-RDPBCGR 2.2.1.2). */
export const GREETS: Record<RemoteMode, (bytes: Buffer) => boolean> = {
  vnc: (bytes) => /^RFB \d{3}\.\d{3}\n/.test(bytes.toString("latin1")),
  rdp: (bytes) => bytes[0] === 3 && bytes[5] === 0xd0,
};

/** `here`: the port on this machine. */
export function viewingText(
  { host, qube, protocol }: { host: string; qube: string; protocol: RemoteMode },
  here: number,
): string {
  const viewers: Record<RemoteMode, string[]> = {
    vnc: [
      `vncviewer 127.0.0.1::${here}          TigerVNC, TightVNC`,
      `remmina -c vnc://127.0.0.1:${here}`,
      `open vnc://127.0.0.1:${here}          macOS`,
      "It asks for the password that the program gives as remote.password, where it gives one; then the greeter asks who you are.",
    ],
    rdp: [
      `xfreerdp /v:127.0.0.1:${here} /u:user /sec:tls`,
      `remmina -c rdp://user@127.0.0.1:${here}`,
      `mstsc /v:127.0.0.1:${here}            Windows, which takes no port 3389 of its own: --port 13389`,
      "It asks for a user of the qube and the password that the program gives as login; then the greeter asks once more.",
    ],
  };
  return [
    `The screen of ${qube} on host ${host}, by ${protocol.toUpperCase()}: 127.0.0.1:${here}, from this machine alone.`,
    ...viewers[protocol].map((line) => `  ${line}`),
    "Ctrl-C ends it.",
  ].join("\n");
}
