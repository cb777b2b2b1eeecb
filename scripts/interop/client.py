"""HBONE from Python's h2 and ssl: CONNECT, the payload in 1-byte DATA frames, padded.

Usage: client.py ADDRESS AUTHORITY CERT_PREFIX ROOT TEXT; prints JSON.
"""
import json, socket, ssl, sys
import h2.config, h2.connection, h2.events

address, authority, prefix, root, text = sys.argv[1:6]
context = ssl.create_default_context(cafile=root)
context.check_hostname = False
context.load_cert_chain(f"{prefix}.pem", f"{prefix}-key.pem")
context.set_alpn_protocols(["h2"])
raw = socket.create_connection((address, 15008), timeout=5)
tls = context.wrap_socket(raw)
conn = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
conn.initiate_connection()
stream = conn.get_next_available_stream_id()
conn.send_headers(stream, [(":method", "CONNECT"), (":authority", authority)])
for byte in text.encode():
    conn.send_data(stream, bytes([byte]), pad_length=7)
conn.end_stream(stream)
tls.sendall(conn.data_to_send())
status, body, ended = 0, b"", False
while not ended:
    data = tls.recv(65536)
    if not data:
        break
    for event in conn.receive_data(data):
        if isinstance(event, h2.events.ResponseReceived):
            status = int(dict(event.headers)[":status"])
        elif isinstance(event, h2.events.DataReceived):
            body += event.data
            conn.acknowledge_received_data(event.flow_controlled_length, stream)
        elif isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset)):
            ended = True
    tls.sendall(conn.data_to_send())
print(json.dumps({"status": status, "body": body.decode()}))
