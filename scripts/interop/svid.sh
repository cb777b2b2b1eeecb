#!/usr/bin/env bash
# Issues an X.509-SVID with openssl alone, signed by the root in a CA folder of adit.
# Usage: svid.sh CA_DIR SPIFFE_ID OUT_PREFIX   (writes OUT_PREFIX.pem and OUT_PREFIX-key.pem)
set -euo pipefail
ca=$1 id=$2 out=$3
openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out "$out-key.pem"
openssl req -new -key "$out-key.pem" -subj /O=interop -out "$out.csr"
openssl x509 -req -in "$out.csr" -CA "$ca/root.pem" -CAkey "$ca/root-key.pem" -days 1 \
  -set_serial "0x$(openssl rand -hex 15)" -out "$out.pem" 2>/dev/null -extfile <(
    printf 'basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n'
    printf 'extendedKeyUsage=serverAuth,clientAuth\nsubjectAltName=URI:%s\n' "$id"
  )
