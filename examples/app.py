"""A page that says which user runs it, and on which host name."""

import os
import socket


def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"uid {os.getuid()} on {socket.gethostname()}\n".encode()]
