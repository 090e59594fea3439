"""A page that says which user runs it, on which host name, and who asks."""

import os
import socket


def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"uid {os.getuid()} on {socket.gethostname()} for {environ['REMOTE_ADDR']}\n".encode()]
