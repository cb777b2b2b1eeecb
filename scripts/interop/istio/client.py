"""client.py loop HOST PORT: a new connection every 50 ms until SIGTERM.
client.py hold HOST PORT: one connection that asks every 100 ms, until it ends or SIGTERM comes.
Each failure is a line; the last line is `ASKED FAILED`."""

import signal, socket, sys, time

mode, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
asked = failed = 0
over = False


def stop(*_):
    global over
    over = True


def ask(conn):
    conn.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    answer = b""
    while b" saw " not in answer or not answer.endswith(b"\n"):
        if not (more := conn.recv(4096)):
            raise OSError("end of file")
        answer += more


def failure(why):
    global failed
    failed += 1
    print(time.strftime("%H:%M:%S"), why, flush=True)


signal.signal(signal.SIGTERM, stop)
conn = None
while not over and not (mode == "hold" and failed):
    asked += 1
    try:
        if conn is None:
            conn = socket.create_connection((host, port), timeout=5)
        ask(conn)
    except OSError as why:
        failure(why)
    if mode == "loop" and conn:
        conn.close()
        conn = None
    time.sleep(0.05 if mode == "loop" else 0.1)
print(asked, failed, flush=True)
