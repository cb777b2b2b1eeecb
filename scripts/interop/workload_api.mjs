// The Workload API as seen by @grpc/grpc-js. Usage: workload_api.mjs MODULES PROTO SOCKET
import { X509Certificate, createPrivateKey } from "node:crypto";
import { createRequire } from "node:module";

const [modules, proto, socket] = process.argv.slice(2);
const require = createRequire(modules + "/");
const grpc = require("@grpc/grpc-js");
const loaded = require("@grpc/proto-loader").loadSync(proto, { keepCase: true });
const Api = grpc.loadPackageDefinition(loaded).SpiffeWorkloadAPI;
const { credentials, status, Metadata } = grpc;
const client = new Api(socket, credentials.createInsecure(), {
  "grpc.keepalive_time_ms": 1000,
  "grpc.keepalive_timeout_ms": 1000,
  "grpc.keepalive_permit_without_calls": 1,
});

const header = (...values) => {
  const metadata = new Metadata();
  values.forEach((value) => metadata.add("workload.spiffe.io", value));
  return metadata;
};
const within = () => ({ deadline: Date.now() + 5000 });
const call = (method, message, metadata = header("true")) =>
  new Promise((resolve, reject) =>
    client[method](message, metadata, within(), (error, answer) => (error ? reject(error) : resolve(answer))));
const first = (method, metadata = header("true")) =>
  new Promise((resolve, reject) => {
    const stream = client[method]({}, metadata);
    stream.on("error", reject);
    stream.once("data", (message) => (stream.cancel(), resolve(message)));
  });
const code = (work) => work.then(() => status.OK, (error) => error.code);
const expect = (found, wanted) => {
  if (found !== wanted) throw new Error(`expected ${wanted}, got ${found}`);
};
const check = async (name, work) => {
  try {
    await work();
    console.log(`ok grpc-js: ${name}`);
  } catch (error) {
    console.log(`FAIL grpc-js: ${name}: ${error.message}`);
  }
};

await check("X.509-SVIDs with key, hint and root", async () => {
  const { svids, federated_bundles } = await first("FetchX509SVID");
  expect(svids.map((svid) => svid.hint).join(), "myservice,myservice2");
  for (const svid of svids) {
    const leaf = new X509Certificate(svid.x509_svid);
    expect(leaf.subjectAltName, `URI:${svid.spiffe_id}`);
    expect(leaf.verify(new X509Certificate(svid.bundle).publicKey), true);
    expect(leaf.checkPrivateKey(createPrivateKey({ key: svid.x509_svid_key, format: "der", type: "pkcs8" })), true);
  }
  expect(Object.keys(federated_bundles).join(), "spiffe://example-federated.org");
});
await check("X.509 bundles", async () => {
  const { bundles } = await first("FetchX509Bundles");
  expect(Object.keys(bundles).sort().join(), "spiffe://example-federated.org,spiffe://example.org");
});
let token;
await check("JWT-SVIDs and the key that signed them", async () => {
  const { svids } = await call("FetchJWTSVID", { audience: ["db"] });
  expect(svids.length, 2);
  token = svids[0].svid;
  const { kid } = JSON.parse(Buffer.from(token.split(".")[0], "base64url"));
  const { bundles } = await first("FetchJWTBundles");
  const { keys } = JSON.parse(bundles["spiffe://example.org"]);
  expect(keys.some((key) => key.kid === kid), true);
});
await check("a JWT-SVID is validated, for its audience only", async () => {
  const valid = await call("ValidateJWTSVID", { audience: "db", svid: token });
  expect(valid.spiffe_id, "spiffe://example.org/myservice");
  expect(valid.claims.fields.aud.listValue.values[0].stringValue, "db");
  expect(await code(call("ValidateJWTSVID", { audience: "web", svid: token })), status.INVALID_ARGUMENT);
});
await check("without the header, or with another, InvalidArgument", async () => {
  for (const wrong of [header(), header("True"), header("1"), header("true", "true")]) {
    expect(await code(call("FetchJWTSVID", { audience: ["db"] }, wrong)), status.INVALID_ARGUMENT);
    expect(await code(first("FetchX509SVID", wrong)), status.INVALID_ARGUMENT);
  }
});
await check("a cancelled stream ends, the connection goes on", async () => {
  for (let n = 0; n < 100; n++) {
    const stream = client.FetchX509SVID({}, header("true"));
    const ended = new Promise((resolve) => stream.on("error", (error) => resolve(error.code)));
    if (n % 2) await new Promise((resolve) => stream.once("data", resolve));
    stream.cancel();
    expect(await ended, status.CANCELLED);
  }
  expect((await call("FetchJWTSVID", { audience: ["db"] })).svids.length, 2);
});
await check("a stream lives under a ping a second, and tells nothing new", async () => {
  const stream = client.FetchX509SVID({}, header("true"));
  let told = 0;
  const ended = new Promise((_, reject) => stream.on("error", reject));
  stream.on("data", () => told++);
  await Promise.race([new Promise((resolve) => setTimeout(resolve, 3000)), ended]);
  ended.catch(() => {});
  stream.cancel();
  expect(told, 1);
});
client.close();
