"""Stands in for the Kubernetes API: knows some pods, takes events and evictions, and prints each request as a line of JSON."""

import http.server
import json
import ssl
import sys

CERTIFICATE, TOKEN, PODS = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
PODS = {pod["metadata"]["name"]: pod for pod in PODS}
EVENTS = set()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body):
        body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def take(self):
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "null")
        print(json.dumps({"method": self.command, "path": self.path, "body": body}))
        if self.headers.get("Authorization") != "Bearer " + TOKEN:
            return self.answer(401, {"message": "Unauthorized"})
        path = self.path.split("/")
        if path[-1] == "events":
            name = body["metadata"]["name"]
            status = 409 if name in EVENTS else 201
            EVENTS.add(name)
            return self.answer(status, {"message": f'events "{name}"'})
        if path[-1] == "eviction":
            return self.answer(201, {})
        pod = PODS.get(path[-1])
        return self.answer(200, pod) if pod else self.answer(404, {"message": "not found"})

    do_GET = do_POST = take

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_):
        """Who hangs up is no news."""


server = Server(("127.0.0.1", 6443), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(CERTIFICATE)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
