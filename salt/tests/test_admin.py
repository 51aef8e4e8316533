"""Admin API client: framing, errors, parsing. Lines as in qubes-cli-formats.md §7 and the
recordings."""

import socket
import threading

from fake import HostCase

import qubes_admin as admin


class Admin(HostCase):
    def served(self, reply):
        """One call against a server that gives these bytes; the request as it came."""
        path = self.root + "/run/one.sock"
        server = socket.socket(socket.AF_UNIX)
        server.bind(path)
        server.listen(1)
        self.addCleanup(server.close)
        seen = []

        def serve():
            peer = server.accept()[0]
            data = b""
            while True:
                chunk = peer.recv(1000)
                if not chunk:
                    break
                data += chunk
            seen.append(data)
            for index in range(0, len(reply), 3):
                peer.sendall(reply[index : index + 3])
            peer.close()

        thread = threading.Thread(target=serve)
        thread.start()
        admin.SOCKET = path
        try:
            return admin.call("admin.vm.property.Set", "vault", "maxmem", "4000"), seen
        finally:
            thread.join()

    def test_framing(self):
        data, seen = self.served(b"0\0some\0data")
        self.assertEqual(data, "some\0data")
        self.assertEqual(seen, [b"admin.vm.property.Set+maxmem dom0 name vault\x004000"])

    def test_error_reply(self):
        with self.assertRaises(admin.AdminError) as caught:
            self.served(b"2\0QubesVMNotFoundError\0\0No such domain: '%s'\0vault\0")
        error = caught.exception
        self.assertEqual(
            (error.type, error.message), ("QubesVMNotFoundError", "No such domain: 'vault'")
        )
        self.assertEqual(
            (error.method, error.arg, error.dest), ("admin.vm.property.Set", "maxmem", "vault")
        )
        self.assertEqual(
            str(error), "No such domain: 'vault' (admin.vm.property.Set+maxmem on vault)"
        )

    def test_error_with_percent_and_no_arguments(self):
        with self.assertRaises(admin.AdminError) as caught:
            self.served(b"2\0QubesValueError\0\0all 7% wrong\0")
        self.assertEqual(caught.exception.message, "all 7% wrong")

    def test_empty_reply(self):
        with self.assertRaises(admin.EmptyReply) as caught:
            self.served(b"")
        self.assertIn("empty response from qubesd", str(caught.exception))

    def test_no_reply_at_all(self):
        with self.assertRaises(admin.AdminError) as caught:
            self.served(b"ssh: hello")
        self.assertEqual(caught.exception.type, "ProtocolError")

    def test_unreachable(self):
        admin.SOCKET = self.root + "/nowhere"
        with self.assertRaises(admin.QubesdUnreachable) as caught:
            admin.qubes()
        self.assertIn("No such file", str(caught.exception))

    def test_no_injection(self):
        for dest, arg in (("a b", ""), ("a", "x dom0 name b\0"), ("a\n", "")):
            with self.assertRaises(admin.AdminError):
                admin.call("admin.vm.Start", dest, arg)
        self.assertEqual(self.qubes.calls, [])

    def test_properties(self):
        text = (
            "backup_timestamp default=True type=int \nnetvm default=False type=vm \n"
            "label default=False type=label red\n"
            "kernelopts default=False type=str a\\nb\\\\n c\\\\\\n\n"
        )
        self.assertEqual(
            admin.parse_properties(text),
            {
                "backup_timestamp": {"default": True, "value": ""},
                "netvm": {"default": False, "value": ""},
                "label": {"default": False, "value": "red"},
                "kernelopts": {"default": False, "value": "a\nb\\n c\\\n"},
            },
        )

    def test_a_property_that_qubesd_cannot_compute_does_not_hide_the_others(self):
        wanted = admin.properties("work")
        self.qubes.qubes["work"]["own"]["guivm"] = "work"
        with self.assertRaises(admin.EmptyReply):
            admin.call("admin.vm.property.GetAll", "work")
        del wanted["keyboard_layout"]
        wanted["guivm"] = {"default": False, "value": "work"}
        self.assertEqual(admin.properties("work"), wanted)

    def test_multi_line_value_of_one_property(self):
        self.assertEqual(
            admin.parse_property("default=False type=str a\nb"), {"default": False, "value": "a\nb"}
        )

    def test_devices(self):
        text = (
            "dom0+00_14.3:0x8086:0x02f0::p028000 device_id='0x8086:0x02f0::p028000' "
            "port_id='00_14.3' devclass='pci' backend_domain='dom0' "
            "mode='required' frontend_domain='sys-net' _no-strict-reset='true'\n"
            "dom0+00_02.0:* device_id='*' port_id='00_02.0' "
            "devclass='pci' backend_domain='dom0' mode='required' frontend_domain='sys-net'\n"
        )
        first, second = admin.parse_devices(text)
        self.assertEqual(
            (first["port"], first["mode"], first["options"]),
            ("00_14.3", "required", {"no-strict-reset": "true"}),
        )
        self.assertEqual((second["device"], second["options"]), ("*", {}))
        available = admin.pci_available()[0]
        self.assertEqual((available["sbdf"], available["name"]), ("0000:00:02.0", "Int'el GPU"))

    def test_missing_things_are_none(self):
        self.assertIsNone(admin.get_property("nosuch", "memory"))
        self.assertIsNone(admin.get_property("work", "nosuch"))
        self.assertIsNone(admin.get_feature("work", "nosuch"))
        self.assertIsNone(admin.get_qube("nosuch"))
        self.assertFalse(admin.has_tag("nosuch", "x"))
        admin.remove_feature("work", "nosuch")
        self.assertEqual(
            admin.get_qube("work"), {"class": "AppVM", "template": "fedora", "label": "red"}
        )
