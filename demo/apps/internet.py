"""The web server on the internet: its page tells visitors the address that they come from."""

import http.server
import sys


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"the internet sees you as {self.client_address[0]}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


http.server.ThreadingHTTPServer((sys.argv[1], 80), Page).serve_forever()
