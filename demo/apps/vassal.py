"""The vassals' application: shows its identity, or fetches the page in its query through the tunnel."""

import json
import os
import socket
import urllib.error
import urllib.request


def application(environ, start_response):
    if environ["PATH_INFO"] == "/fetch":
        try:
            with urllib.request.urlopen(environ["QUERY_STRING"], timeout=5) as page:
                status, answer = "200 OK", {"fetched": page.read().decode()}
        except (urllib.error.URLError, OSError) as error:
            status, answer = "502 Bad Gateway", {"error": str(error)}
    else:
        status, answer = "200 OK", {
            "name": socket.gethostname(),
            "uid": os.getuid(),
            "client": environ["REMOTE_ADDR"],
        }
    start_response(status, [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]
