// What is measured: one host, one GUI domain.
import { GuiDomain, Host } from "guidomain";

const host = new Host("lab");
new GuiDomain("sys-gui", { host, clients: "default" });
