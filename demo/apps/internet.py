"""A web server, on some ports of one address: its page tells visitors the address that they come from."""

import http.server
import socket
import sys
import threading


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"the internet sees you as {self.client_address[0]}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET


for port in sys.argv[2:]:
    server = Server((sys.argv[1], int(port)), Page)
    threading.Thread(target=server.serve_forever).start()
