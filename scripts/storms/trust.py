"""Keys, certificates, tokens and bundles for the storms, with openssl alone."""
import base64, http.server, json, os, ssl, subprocess, tempfile, threading, time, urllib.request


def openssl(*arguments, given=None):
    done = subprocess.run(["openssl", *map(str, arguments)], input=given, capture_output=True)
    if done.returncode:
        raise OSError(f"openssl {arguments[0]}: {done.stderr.decode()[:300]}")
    return done.stdout


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def tokens(folder):
    """Service-account tokens of two node proxies, the keys that prove them, and the cluster's pods."""
    key = folder / "token-key.pem"
    openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", key)
    modulus = openssl("rsa", "-in", key, "-noout", "-modulus").decode().strip().split("=")[1]
    jwk = {"kty": "RSA", "kid": "k", "alg": "RS256", "use": "sig", "n": b64(bytes.fromhex(modulus)), "e": "AQAB"}
    (folder / "jwks").write_text(json.dumps({"keys": [jwk]}))
    now = int(time.time())
    for n in (1, 2):
        claims = {
            "iss": "https://kubernetes.test", "aud": ["istio-ca"], "iat": now - 7200, "nbf": now - 7200, "exp": now + 86400,
            "sub": "system:serviceaccount:sys:adit",
            "kubernetes.io": {"namespace": "sys", "serviceaccount": {"name": "adit"},
                              "pod": {"name": f"adit-{n}", "uid": f"u{n}"}, "node": {"name": f"n{n}"}},
        }
        text = ".".join(b64(json.dumps(part).encode()) for part in ({"alg": "RS256", "kid": "k", "typ": "JWT"}, claims))
        signature = openssl("dgst", "-sha256", "-sign", key, given=text.encode())
        (folder / f"token{n}").write_text(f"{text}.{b64(signature)}")
    pods = "".join(f"- {{ namespace: storm, serviceAccount: {name}, node: {node}, name: {name}, uid: {name} }}\n"
                   for name, node in (("web", "n1"), ("db", "n2"), ("own", "n2")))
    (folder / "pods").write_text("pods:\n" + pods)


def server_certificate(folder):
    """For https on localhost, signed by itself."""
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", 1, "-subj", "/CN=localhost",
            "-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE",
            "-keyout", folder / "https-key.pem", "-out", folder / "https.pem")
    os.chmod(folder / "https-key.pem", 0o600)


class Teller:
    """A bundle endpoint (https_web) that says what it is told; at first what the true one says."""

    def __init__(self, folder, truth):
        self.folder, self.truth, self.document, self.asked = folder, truth, None, 0
        teller = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                body = json.dumps(teller.document or teller.ask()).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                teller.asked += 1

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 8499), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "https.pem", folder / "https-key.pem")
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def ask(self):
        context = ssl.create_default_context(cafile=self.folder / "https.pem")
        with urllib.request.urlopen(self.truth, timeout=5, context=context) as answer:
            return json.load(answer)

    def tell(self, document, sequence):
        self.document = {**document, "spiffe_sequence": sequence}

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class Pki:
    """Two authorities; the nodes trust the first."""

    def __init__(self, folder):
        folder.mkdir()
        self.folder, self.count = folder, 0
        self.root, self.other = folder / "root.pem", folder / "other.pem"
        for path in (self.root, self.other):
            openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", 2, "-subj", "/O=storm",
                    "-addext", "keyUsage=critical,keyCertSign", "-keyout", path.with_suffix(".key"), "-out", path)

    def issue(self, spiffe_id, by=None):
        """Certificate and key, PEM."""
        self.count += 1
        by, at = by or self.root, self.folder / str(self.count)
        key = openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
        at.with_suffix(".key").write_bytes(key)
        openssl("req", "-new", "-key", at.with_suffix(".key"), "-subj", "/O=storm", "-out", at.with_suffix(".csr"))
        at.with_suffix(".ext").write_text(
            "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n"
            f"extendedKeyUsage=serverAuth,clientAuth\nsubjectAltName=URI:{spiffe_id}\n")
        openssl("x509", "-req", "-in", at.with_suffix(".csr"), "-CA", by, "-CAkey", by.with_suffix(".key"), "-days", 1,
                "-set_serial", f"0x11{os.urandom(14).hex()}", "-out", at.with_suffix(".crt"), "-extfile", at.with_suffix(".ext"))
        return at.with_suffix(".crt").read_text(), key.decode()


def serial(certificate):
    """As adit shows it."""
    return openssl("x509", "-noout", "-serial", given=certificate.encode()).decode().strip().split("=")[1].lower()


def put(folder, contents):
    """By rename, each file at once."""
    for name, text in contents.items():
        with tempfile.NamedTemporaryFile("w", dir=folder, delete=False) as new:
            new.write(text)
        os.rename(new.name, folder / name)


KINDS = ("good", "half", "swapped", "cut", "mismatch", "good in place", "cut key", "other root", "no bundle", "bundle of two", "empty", "gone", "text")


def rewrite(folder, kind, fresh, older, stranger, bundle, pki):
    """One rewrite; most kinds leave something that must not be used."""
    certificate, key = fresh
    if kind == "good":
        put(folder, {"tls.crt": certificate, "tls.key": key, "ca.crt": bundle})
    elif kind == "good in place":
        for name, text in (("tls.key", key), ("tls.crt", certificate), ("ca.crt", bundle)):
            (folder / name).write_text(text)
    elif kind == "bundle of two":
        put(folder, {"ca.crt": pki.other.read_text() + bundle, "tls.key": key, "tls.crt": certificate})
    elif kind == "half":
        put(folder, {"tls.crt": certificate})
    elif kind == "mismatch":
        put(folder, {"tls.crt": certificate, "tls.key": older[1], "ca.crt": bundle})
    elif kind == "swapped":
        put(folder, {"tls.crt": key, "tls.key": certificate})
    elif kind == "cut":
        (folder / "tls.crt").write_text(certificate[:len(certificate) // 2])
    elif kind == "cut key":
        (folder / "tls.key").write_text(key[:len(key) // 2])
    elif kind == "other root":
        put(folder, {"tls.crt": stranger[0], "tls.key": stranger[1]})
    elif kind == "no bundle":
        put(folder, {"ca.crt": "", "tls.crt": certificate, "tls.key": key})
    elif kind == "empty":
        (folder / "tls.crt").write_text("")
    elif kind == "gone":
        (folder / "tls.key").unlink(missing_ok=True)
    else:
        put(folder, {"tls.crt": "no certificate\n", "ca.crt": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"})
