"""dns.py ADDRESS: a name server that knows outside.test; every other name does not exist."""

import socket, struct, sys

ANSWERS = {(b"\x07outside\x04test\x00", 1): socket.inet_aton("172.31.77.50")}
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((sys.argv[1], 53))
while True:
    query, who = server.recvfrom(4096)
    if len(query) < 17 or (end := query.find(b"\0", 12) + 1) == 0 or len(query) < end + 4:
        continue
    name, kind = query[12:end].lower(), struct.unpack(">H", query[end : end + 2])[0]
    found = ANSWERS.get((name, kind))
    known = any(name == n for n, _ in ANSWERS)
    flags = 0x8180 if known else 0x8183
    answer = query[:2] + struct.pack(">HHHHH", flags, 1, 1 if found else 0, 0, 0) + query[12 : end + 4]
    if found:
        answer += b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 30, len(found)) + found
    server.sendto(answer, who)
