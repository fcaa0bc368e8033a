"""Servers that accept everything: python -m benchmarks.sinks NAME prints an address.

http: takes what all backends send that speak HTTP.
kafka: the broker that librdkafka has for its own tests.
"""

import gzip
import json
import re
import socketserver
import sys
import time


class Handler(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True

    def handle(self):
        while True:
            head = b"".join(iter(self.rfile.readline, b"\r\n"))
            if not head:
                return
            length = re.search(rb"(?i)^content-length: *(\d+)", head, re.MULTILINE)
            body = self.rfile.read(int(length.group(1))) if length else b""
            self.wfile.write(respond(head, body))


def respond(head, body):
    """Return the response to a request."""
    method, path, _ = head.split(b" ", 2)
    if b"/_bulk" in path:
        if body.startswith(b"\x1f\x8b"):
            body = gzip.decompress(body)
        items = [{"create": {"status": 201}}] * (body.count(b"\n") // 2)
        return _response("200 OK", "application/json", json.dumps({"items": items}).encode())
    if path == b"/v1/metrics":
        return _response("200 OK", "application/x-protobuf")
    if method == b"HEAD":  # does the index exist?
        return _response("200 OK", "application/json")
    return b"HTTP/1.1 204 No Content\r\n\r\n"


def _response(status, kind, body=b""):
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def serve_http():
    socketserver.ThreadingTCPServer.daemon_threads = True
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        print("127.0.0.1:%d" % server.server_address[1], flush=True)
        server.serve_forever()


def serve_kafka():
    from confluent_kafka import Producer

    producer = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    (broker,) = producer.list_topics(timeout=10).brokers.values()
    print(f"{broker.host}:{broker.port}", flush=True)
    while True:
        time.sleep(60)


if __name__ == "__main__":
    {"http": serve_http, "kafka": serve_kafka}[sys.argv[1]]()
