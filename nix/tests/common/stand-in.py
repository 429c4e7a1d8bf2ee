"""Stands in for `opencode serve`: answers the supervisor, and runs commands as the agent's tools do.

The endpoint of the shell has the form of opencode 1.18, so that a test can be pointed at the real one.
"""

import base64
import http.server
import json
import os
import subprocess
import sys

PORT = int(sys.argv[sys.argv.index("--port") + 1])
PASSWORD = os.environ.get("OPENCODE_SERVER_PASSWORD")


class Handler(http.server.BaseHTTPRequestHandler):
    def admitted(self):
        if PASSWORD is None:
            return True
        word, _, given = self.headers.get("Authorization", "").partition(" ")
        expected = base64.b64encode(f"opencode:{PASSWORD}".encode()).decode()
        return word == "Basic" and given == expected

    def answer(self, status, document):
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if not self.admitted():
            self.answer(401, {})
        elif self.path == "/config":
            self.answer(200, {})
        elif self.path == "/global/health":
            self.answer(200, {"healthy": True, "version": "0.0.0"})
        else:
            self.answer(404, {})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self.admitted():
            self.answer(401, {})
        elif self.path == "/session":
            self.answer(200, {"id": "only"})
        elif self.path == "/session/only/shell":
            command = json.loads(body)["command"]
            ended = subprocess.run(
                [os.environ["SHELL"], "-c", command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            self.answer(200, {"parts": [{"state": {"output": ended.stdout}}]})
        else:
            self.answer(404, {})


server = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler)
print(f"stand-in listening on http://127.0.0.1:{PORT}", flush=True)
server.serve_forever()
