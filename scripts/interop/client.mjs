// HBONE from Node's http2 (nghttp2 + OpenSSL): CONNECT with a client certificate.
// Usage: node client.mjs ADDRESS AUTHORITY CERT_PREFIX ROOT TEXT; prints JSON.
import http2 from 'node:http2';
import fs from 'node:fs';

const [address, authority, prefix, root, text] = process.argv.slice(2);
const session = http2.connect(`https://${address}:15008`, {
  ca: fs.readFileSync(root), cert: fs.readFileSync(`${prefix}.pem`),
  key: fs.readFileSync(`${prefix}-key.pem`), ALPNProtocols: ['h2'],
  checkServerIdentity: () => undefined, minVersion: 'TLSv1.3',
});
const finish = (result) => { console.log(JSON.stringify(result)); process.exit(0); };
setTimeout(() => finish({ error: 'timeout' }), 8000);
session.on('error', (e) => finish({ error: String(e) }));
const stream = session.request({ ':method': 'CONNECT', ':authority': authority });
let status = 0, body = '';
stream.on('response', (h) => { status = h[':status']; });
stream.on('data', (d) => { body += d; });
stream.on('error', (e) => finish({ status, error: String(e) }));
stream.on('end', () => finish({ status, body, cipher: session.socket.getCipher().name }));
stream.end(text);
