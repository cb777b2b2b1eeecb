"""The load of scripts/identity_storms.sh. As a program it is one end of it:

load.py serve ADDRESS PORT          echoes, and says the SHA-256 of streams
load.py call ADDRESS PORT LOOPS BURST STREAM_RATE OUT
    LOOPS loops of new connections; BURST more at once every 1.6 s, for which tunnels must be
    dialled; one connection that is held; one stream of STREAM_RATE bytes per second. Until SIGTERM.
    OUT gets a line for each: monotonic time, kind, ok or why not.
"""
import asyncio, hashlib, os, random, signal, sys, time

PATIENCE = 15
BLOCK = 1 << 16


async def serve(address, port):
    async def one(reader, writer):
        try:
            kind = await reader.readexactly(1)
            digest, count = hashlib.sha256(), 0
            while data := await reader.read(BLOCK):
                if kind == b"S":
                    digest.update(data)
                    count += len(data)
                else:
                    writer.write(data)
                    await writer.drain()
            if kind == b"S":
                writer.write(f"{count} {digest.hexdigest()}".encode())
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(one, address, port, backlog=1024)
    await server.serve_forever()


class Caller:
    def __init__(self, address, port, out):
        self.to, self.out, self.over = (address, port), open(out, "w", buffering=1), asyncio.Event()

    def say(self, kind, error=None):
        why = "ok" if error is None else f"{type(error).__name__} {error}".replace("\n", " ")
        self.out.write(f"{time.monotonic():.3f} {kind} {why}\n")

    async def echo(self, reader, writer):
        message = os.urandom(64)
        writer.write(message)
        if await reader.readexactly(64) != message:
            raise ValueError("wrong bytes")

    async def once(self, kind):
        writer = None
        try:
            async with asyncio.timeout(PATIENCE) if hasattr(asyncio, "timeout") else Patience():
                reader, writer = await asyncio.open_connection(*self.to)
                writer.write(b"E")
                await self.echo(reader, writer)
                writer.write_eof()
                if await reader.read():
                    raise ValueError("more bytes than were sent")
            self.say(kind)
            return True
        except Exception as error:  # each is counted
            self.say(kind, error)
            return False
        finally:
            if writer:
                writer.close()

    async def pause(self, seconds):
        try:
            await asyncio.wait_for(self.over.wait(), seconds)
        except asyncio.TimeoutError:
            pass

    async def loop(self):
        while not self.over.is_set():
            await self.pause(0.005 if await self.once("new") else 0.05)

    async def bursts(self, size):
        while not self.over.is_set():
            await asyncio.gather(*(self.once("new") for _ in range(size)))
            await self.pause(1.6)

    async def held(self):
        try:
            reader, writer = await asyncio.open_connection(*self.to)
            writer.write(b"E")
            while not self.over.is_set():
                await asyncio.wait_for(self.echo(reader, writer), PATIENCE)
                await self.pause(0.1)
            self.say("held")
            writer.close()
        except Exception as error:
            self.say("held", error)

    async def stream(self, rate):
        digest, sent, began = hashlib.sha256(), 0, time.monotonic()
        block = random.Random(7).randbytes(BLOCK * 16)
        try:
            reader, writer = await asyncio.open_connection(*self.to)
            writer.write(b"S")
            while not self.over.is_set():
                at = sent % (BLOCK * 15)
                part = block[at:at + BLOCK]
                writer.write(part)
                await asyncio.wait_for(writer.drain(), PATIENCE)
                digest.update(part)
                sent += len(part)
                await self.pause(max(0.001, began + sent / rate - time.monotonic()))
            writer.write_eof()
            said = (await asyncio.wait_for(reader.read(), PATIENCE)).decode()
            if said != f"{sent} {digest.hexdigest()}":
                raise ValueError(f"sent {sent} {digest.hexdigest()[:8]}, the other end has {said[:30]!r}")
            self.say(f"stream:{sent}")
            writer.close()
        except Exception as error:
            self.say(f"stream:{sent}", error)


class Patience:  # asyncio.timeout is of Python 3.11
    async def __aenter__(self):
        task = asyncio.current_task()
        self.timer = asyncio.get_running_loop().call_later(PATIENCE, task.cancel)

    async def __aexit__(self, kind, error, trace):
        self.timer.cancel()
        if kind is asyncio.CancelledError:
            raise TimeoutError(f"nothing in {PATIENCE} s")


async def call(address, port, loops, burst, rate, out):
    caller = Caller(address, port, out)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, caller.over.set)
    work = [caller.loop() for _ in range(loops)] + [caller.held()]
    work += [caller.bursts(burst)] if burst else []
    work += [caller.stream(rate)] if rate else []
    await asyncio.gather(*work)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(serve(sys.argv[2], int(sys.argv[3])))
    else:
        asyncio.run(call(sys.argv[2], *map(int, sys.argv[3:7]), sys.argv[7]))
