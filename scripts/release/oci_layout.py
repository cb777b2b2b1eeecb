"""Packs a root folder as an image in the OCI layout, a tar that podman, skopeo and containerd load.

Usage: oci_layout.py ROOT OUT.tar VERSION CONTAINERFILE

ENV, WORKDIR, ENTRYPOINT and LABEL are those of the Containerfile's last stage. All times are
SOURCE_DATE_EPOCH, all files root's, so that the same files give the same bytes.
"""

import datetime
import gzip
import hashlib
import io
import json
import os
import platform
import re
import shlex
import sys
import tarfile

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def add(tar, name, data, when):
    member = tarfile.TarInfo(name)
    member.size, member.mtime = len(data), when
    tar.addfile(member, io.BytesIO(data))


def layer_of(root, when):
    """The folder as a tar: sorted, owned by root."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        paths = [os.path.join(at, name) for at, dirs, files in os.walk(root) for name in dirs + files]
        for path in sorted(paths):
            member = tar.gettarinfo(path, os.path.relpath(path, root))
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mtime = when
            if member.islnk():
                sys.exit(f"{path}: a hard link")
            if member.isreg():
                with open(path, "rb") as file:
                    tar.addfile(member, file)
            else:
                tar.addfile(member)
    return packed.getvalue()


def settings(containerfile):
    """What the last stage says of the process, with ARGs' own values."""
    with open(containerfile, encoding="utf-8") as file:
        lines = re.sub(r"\\\n\s*", " ", file.read()).splitlines()
    last = max(at for at, line in enumerate(lines) if line.startswith("FROM "))
    given, config = {}, {"Env": [], "Labels": {}}
    for line in lines[last + 1:]:
        word, _, rest = line.partition(" ")
        rest = re.sub(r"\$\{(\w+)\}", lambda found: given[found[1]], rest)
        pairs = [piece.split("=", 1) for piece in shlex.split(rest)] if word in ("ARG", "ENV", "LABEL") else []
        if word == "ARG":
            given.update(pairs)
        elif word == "ENV":
            config["Env"] += ["=".join(pair) for pair in pairs]
        elif word == "LABEL":
            config["Labels"].update(pairs)
        elif word == "WORKDIR":
            config["WorkingDir"] = rest
        elif word == "ENTRYPOINT":
            config["Entrypoint"] = json.loads(rest)
    return config


def main(root, out, version, containerfile):
    when = int(os.environ["SOURCE_DATE_EPOCH"])
    created = datetime.datetime.fromtimestamp(when, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    layer = layer_of(root, when)
    blobs = {}

    def blob(kind, data):
        digest = hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    packed = blob("layer.v1.tar+gzip", gzip.compress(layer, 9, mtime=0))
    config = settings(containerfile)
    config["Labels"] |= {"org.opencontainers.image.version": version, "org.opencontainers.image.created": created}
    described = blob("config.v1+json", json.dumps({
        "created": created, "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()), "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        "history": [{"created": created, "created_by": "deploy/image-root.sh"}],
    }, sort_keys=True).encode())
    manifest = blob("manifest.v1+json", json.dumps({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described, "layers": [packed],
    }, sort_keys=True).encode())
    manifest["annotations"] = {"org.opencontainers.image.ref.name": version}
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [manifest]}
    with tarfile.open(out, "w", format=tarfile.USTAR_FORMAT) as tar:
        add(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}', when)
        add(tar, "index.json", json.dumps(index, sort_keys=True).encode(), when)
        for digest, data in sorted(blobs.items()):
            add(tar, f"blobs/sha256/{digest}", data, when)


main(*sys.argv[1:])
