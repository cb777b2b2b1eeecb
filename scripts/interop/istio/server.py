"""server.py NAME: HTTP on [::]:8080, both families; says its name and whom it saw; /big is 20 MB."""

import hashlib, http.server, socket, socketserver, sys

BIG = hashlib.shake_256(b"big").digest(20_000_000)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        seen = self.client_address[0].removeprefix("::ffff:")
        body = BIG if self.path == "/big" else f"{sys.argv[1]} saw {seen}\n".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


class Server(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6
    allow_reuse_address = daemon_threads = True
    request_queue_size = 256


Server(("::", 8080), Handler).serve_forever()
