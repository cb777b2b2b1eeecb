"""The Workload API as seen by PyPI `spiffe` and by grpcio. Usage: workload_api.py
bundle PEM | wire | reconnect PID TIMES | sources ADIT CA_DIR MESH_FILE"""
import base64, json, os, subprocess, sys, threading, time

import grpc
from spiffe import JwtBundle, JwtSource, JwtSvid, SpiffeId, TrustDomain, WorkloadApiClient, X509Source
from spiffe._proto import workload_pb2 as pb
from spiffe.errors import PySpiffeError

SOCKET = os.environ.get("SPIFFE_ENDPOINT_SOCKET", "")
OURS, OTHERS = TrustDomain("example.org"), TrustDomain("example-federated.org")
RIGHT = (("workload.spiffe.io", "true"),)
Code = grpc.StatusCode
X509, X509_BUNDLES = ("FetchX509SVID", pb.X509SVIDResponse), ("FetchX509Bundles", pb.X509BundlesResponse)
JWT_BUNDLES = ("FetchJWTBundles", pb.JWTBundlesResponse)


def check(name, work):
    try:
        said = work()
        print(f"ok {name}" + (f" ({said})" if said else ""), flush=True)
    except Exception as error:
        print(f"FAIL {name}: {type(error).__name__} {error}".replace("\n", " "), flush=True)


def expect(found, wanted):
    if found != wanted:
        raise AssertionError(f"expected {wanted}, got {found}")


def until(what, holds, seconds=30):
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.05)


def channel():
    return grpc.insecure_channel(SOCKET, options=[("grpc.use_local_subchannel_pool", 1)])


def stream(ch, method, answer, metadata=RIGHT, timeout=10):
    path = f"/SpiffeWorkloadAPI/{method}"
    return ch.unary_stream(path, response_deserializer=answer.FromString)(b"", metadata=metadata, timeout=timeout)


def code(work):
    try:
        work()
        return Code.OK
    except grpc.RpcError as error:
        return error.code()


def bundle(pem):
    """The SPIFFE bundle document of a root."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding
    cert = x509.load_pem_x509_certificate(open(pem, "rb").read())
    point = cert.public_key().public_numbers()
    coordinate = lambda n: base64.urlsafe_b64encode(n.to_bytes(32, "big")).rstrip(b"=").decode()
    x5c = [base64.b64encode(cert.public_bytes(Encoding.DER)).decode()]
    key = dict(kty="EC", crv="P-256", use="x509-svid", x=coordinate(point.x), y=coordinate(point.y), x5c=x5c)
    print(json.dumps(dict(keys=[key], spiffe_sequence=1)))


def wire():
    ch = channel()

    def header():
        for values in [(), ("True",), ("1",), ("true", "true"), ("true", "false"), ("",)]:
            metadata = [("workload.spiffe.io", v) for v in values]
            for method in [X509, X509_BUNDLES, JWT_BUNDLES, ("FetchWITSVID", pb.X509SVIDResponse), ("None", pb.X509SVIDResponse)]:
                expect((values, method[0], code(lambda: next(stream(ch, *method, metadata)))), (values, method[0], Code.INVALID_ARGUMENT))

    def absent():
        for path in ["SpiffeWorkloadAPI/FetchWITSVID", "SpiffeWorkloadAPI/FetchWITBundles", "SpiffeWorkloadAPI/None",
                     "spiffe.broker.API/SubscribeToX509SVID", "grpc.health.v1.Health/Check", "Other/Method"]:
            expect((path, code(lambda: ch.unary_unary("/" + path)(b"", metadata=RIGHT, timeout=5))), (path, Code.UNIMPLEMENTED))

    def reflection(metadata):
        from google.protobuf.descriptor_pool import DescriptorPool
        from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
        known = ProtoReflectionDescriptorDatabase(ch)
        if "SpiffeWorkloadAPI" not in known.get_services():
            raise AssertionError(known.get_services())
        service = DescriptorPool(known).FindServiceByName("SpiffeWorkloadAPI")
        expect(sorted(m.name for m in service.methods),
               ["FetchJWTBundles", "FetchJWTSVID", "FetchX509Bundles", "FetchX509SVID", "ValidateJWTSVID"])

    def at_once():
        next(stream(ch, *X509))
        start = time.monotonic()
        for method in [X509, X509_BUNDLES, JWT_BUNDLES]:
            next(stream(ch, *method))
        took = (time.monotonic() - start) / 3
        if took > 1:
            raise AssertionError(f"{took} s")
        return f"{took * 1000:.1f} ms"

    def nothing_new():
        told = stream(ch, *X509, timeout=3)
        next(told)
        expect(code(lambda: next(told)), Code.DEADLINE_EXCEEDED)

    def stranger():
        child = os.fork()
        if child == 0:
            os.execv(sys.executable, [sys.executable, __file__, "stranger"])
        expect(os.waitpid(child, 0)[1], 0)

    def garbage():
        for body in [b"\xff", b"\x0a\xff\xff\xff\xff\x0f", b"\0" * 1000]:
            found = code(lambda: ch.unary_unary("/SpiffeWorkloadAPI/FetchJWTSVID")(body, metadata=RIGHT, timeout=5))
            if found in (Code.OK, Code.DEADLINE_EXCEEDED, Code.UNKNOWN):
                raise AssertionError(f"{body[:5]}: {found}")
        large = code(lambda: ch.unary_unary("/SpiffeWorkloadAPI/FetchJWTSVID")(b"\x0a" + b"a" * 1_000_000, metadata=RIGHT, timeout=5))
        if large not in (Code.OUT_OF_RANGE, Code.RESOURCE_EXHAUSTED):
            raise AssertionError(f"a request of 1 MB: {large}")

    check("grpcio: a wrong header is refused before anything else", header)
    check("grpcio: what is not served is Unimplemented", absent)
    check("grpcio: reflection without the header", lambda: reflection(()))
    check("grpcio: the first message at once", at_once)
    check("grpcio: nothing is told twice", nothing_new)
    check("grpcio: a user without an entry gets PermissionDenied, for each call", stranger)
    check("grpcio: requests that are none", garbage)
    ch.close()


def stranger():
    """Somebody for whom nothing is registered."""
    os.setgid(65534)
    os.setuid(65534)
    ch = channel()
    for method in [X509, X509_BUNDLES, JWT_BUNDLES]:
        expect((method[0], code(lambda: next(stream(ch, *method)))), (method[0], Code.PERMISSION_DENIED))
    request = pb.JWTSVIDRequest(audience=["db"]).SerializeToString()
    expect(code(lambda: ch.unary_unary("/SpiffeWorkloadAPI/FetchJWTSVID")(request, metadata=RIGHT)), Code.PERMISSION_DENIED)


def reconnect(pid, times):
    """Connections that fetch once, by four processes at a time."""
    def state():
        status = open(f"/proc/{pid}/status").read()
        return int(status.split("VmRSS:")[1].split()[0]), len(os.listdir(f"/proc/{pid}/fd"))

    def churn(count):
        each = [subprocess.Popen([sys.executable, __file__, "churn", str(count // 4)]) for _ in range(4)]
        expect([one.wait() for one in each], [0] * 4)
        time.sleep(1)

    def flat():
        churn(times // 5)
        (memory, files), start = state(), time.monotonic()
        churn(times)
        later, files_later = state()
        said = f"{time.monotonic() - start:.0f} s, memory {memory} -> {later} kB, descriptors {files} -> {files_later}"
        if files_later > files or later > memory + 1024:
            raise AssertionError(said)
        return said

    check(f"grpcio: {times} reconnects leave nothing behind", flat)


def churn(times):
    # Over 200 calls a second of one process adit would shed them.
    for n in range(times):
        start = time.monotonic()
        ch = channel()
        told = stream(ch, *X509)
        expect(len(next(told).svids), 2)
        if n % 2:
            told.cancel()
        ch.close()
        time.sleep(max(0, 0.006 - (time.monotonic() - start)))


def sources(adit, ca_dir, mesh_file):
    x509, jwt = X509Source(socket_path=SOCKET, timeout_in_seconds=10), JwtSource(socket_path=SOCKET, timeout_in_seconds=10)
    client = WorkloadApiClient(SOCKET)
    told, keys_told = threading.Semaphore(0), threading.Semaphore(0)
    x509.subscribe_for_updates(told.release)
    jwt.subscribe_for_updates(keys_told.release)
    svid = lambda: x509.get_x509_context().default_svid
    trusted = lambda: {b.trust_domain for b in x509.get_x509_context().x509_bundle_set.bundles}
    myservice = SpiffeId("spiffe://example.org/myservice")

    def x509_source():
        expect(svid().spiffe_id, myservice)
        expect(len(svid().cert_chain), 1)
        svid().leaf.verify_directly_issued_by(next(iter(x509.get_bundle_for_trust_domain(OURS).x509_authorities)))
        expect(trusted(), {OURS, OTHERS})
        expect([str(s.spiffe_id) for s in client.fetch_x509_svids()], [f"spiffe://example.org/myservice{n}" for n in ("", "2")])
        expect({b.trust_domain for b in client.fetch_x509_bundles().bundles}, {OURS, OTHERS})

    def second():
        picked = X509Source(socket_path=SOCKET, timeout_in_seconds=10, svid_picker=lambda all: all[1])
        expect(str(picked.get_x509_context().default_svid.spiffe_id), "spiffe://example.org/myservice2")
        picked.close()

    def jwt_source():
        token = jwt.fetch_svid({"db", "web"}, subject=myservice)
        expect((token.spiffe_id, token.audience), (myservice, {"db", "web"}))
        expect(len(jwt.fetch_svids({"db"})), 2)
        bundle = jwt.get_bundle_for_trust_domain(OURS)
        expect(JwtSvid.parse_and_validate(token.token, bundle, {"db"}).spiffe_id, myservice)
        expect(client.validate_jwt_svid(token.token, "db").spiffe_id, myservice)
        for wrong in [lambda: client.validate_jwt_svid(token.token, "other"),
                      lambda: client.validate_jwt_svid(token.token[:-8] + "AAAAAAAA", "db"),
                      lambda: jwt.fetch_svid({"db"}, subject=SpiffeId("spiffe://example.org/nobody"))]:
            try:
                wrong()
            except PySpiffeError:
                pass
            else:
                raise AssertionError("not refused")

    def bundles():
        keys = client.fetch_jwt_bundles().get_bundle_for_trust_domain(OURS).jwt_authorities
        expect(set(keys), set(jwt.get_bundle_for_trust_domain(OURS).jwt_authorities))

    def rotation():
        seen = [svid()]
        for _ in range(2):
            if not told.acquire(timeout=30):
                raise AssertionError("no update in 30 s")
            until("another SVID", lambda: svid().leaf.serial_number != seen[-1].leaf.serial_number)
            seen.append(svid())
        if not len({s.private_key.private_numbers().private_value for s in seen}) == 3:
            raise AssertionError("a key was used twice")

    def authority():
        for kind in [], ["--jwt"]:
            subprocess.run([adit, "ca", "prepare", "--dir", ca_dir, *kind], check=True, stdout=subprocess.DEVNULL)
        until("two roots", lambda: len(x509.get_bundle_for_trust_domain(OURS).x509_authorities) == 2)
        until("two keys", lambda: len(jwt.get_bundle_for_trust_domain(OURS).jwt_authorities) == 2)
        if not keys_told.acquire(timeout=1):
            raise AssertionError("the subscriber was not told")

    def gone():
        text = open(mesh_file).read()
        with open(mesh_file + ".new", "w") as new:
            new.write(text[: text.index("federation:")])
        os.rename(mesh_file + ".new", mesh_file)
        until("one bundle", lambda: trusted() == {OURS})

    check("spiffe (PyPI): X509Source and bundles", x509_source)
    check("spiffe (PyPI): the second identity by a picker", second)
    check("spiffe (PyPI): JwtSource, validated here and there", jwt_source)
    check("spiffe (PyPI): JWT bundles", bundles)
    check("spiffe (PyPI): X509Source sees two rotations, each with a key of its own", rotation)
    check("spiffe (PyPI): both sources see the next authority", authority)
    check("spiffe (PyPI): a trust domain that is taken out is gone", gone)
    check("spiffe (PyPI): the sources close", lambda: (x509.close(), jwt.close(), client.close()) and None)


command, *words = sys.argv[1:]
{"bundle": bundle, "wire": wire, "stranger": stranger, "reconnect": lambda pid, n: reconnect(pid, int(n)),
 "churn": lambda n: churn(int(n)), "sources": sources}[command](*words)
