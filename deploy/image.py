#!/usr/bin/env python3
"""The image without Docker: an OCI layout of an index with one image for each root folder that deploy/rootfs made.

    deploy/image.py LAYOUT ROOT...      REVISION and SOURCE_DATE_EPOCH in the environment, as deploy/Dockerfile has them

The user, the entrypoint and the labels are read out of the last stage of deploy/Dockerfile: they stand there and nowhere else. The same
folders and the same environment make the same bytes.
"""

import gzip
import hashlib
import io
import json
import os
import re
import shlex
import string
import sys
import tarfile
from datetime import datetime, timezone
from pathlib import Path

DOCKERFILE = Path(__file__).resolve().with_name("Dockerfile")
# The number that an ELF file has for the machine.
ARCHITECTURES = {62: "amd64", 183: "arm64"}
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def architecture(program):
    """What a program runs on, or None."""
    with open(program, "rb") as file:
        head = file.read(20)
    return ARCHITECTURES.get(int.from_bytes(head[18:], "little")) if head[:4] == b"\x7fELF" else None


def last_stage(revision):
    """What the last stage of the Dockerfile says of the image. Whatever this can't read it refuses, so that nothing is left out."""
    text = re.sub(r"\\\n\s*", " ", DOCKERFILE.read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    start = max(n for n, line in enumerate(lines) if line.startswith("FROM "))
    if lines[start] != "FROM scratch":
        sys.exit(f"image: {DOCKERFILE} ends on {lines[start]}, and an image is only made from scratch here")
    arguments, said, copied = {}, {"labels": {}}, []
    for line in lines[start + 1 :]:
        word, rest = line.split(None, 1)
        if word == "ARG":
            name, default = rest.split("=", 1)
            arguments[name] = {"REVISION": revision}.get(name, default)
        elif word == "LABEL":
            for pair in shlex.split(rest):
                name, value = pair.split("=", 1)
                said["labels"][name] = string.Template(value).substitute(arguments)
        elif word == "USER":
            said["user"] = rest
        elif word == "ENTRYPOINT":
            said["entrypoint"] = json.loads(rest)
        elif word == "COPY":
            copied.append(rest)
        else:
            sys.exit(f"image: {DOCKERFILE} has {word} in its last stage: teach deploy/image.py what that means")
    if copied != ["--from=build /rootfs /"] or not said.keys() >= {"user", "entrypoint"}:
        sys.exit(f"image: the last stage of {DOCKERFILE} is not what deploy/image.py knows: {copied}, {said}")
    return said


def packed(files, seconds):
    """A tar of (name, path) that depends on nothing but names, contents, and who may run what: not on an umask, an owner or a clock."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, path in sorted(files):
            entry = tarfile.TarInfo(name)
            entry.mtime = seconds
            if path.is_symlink():
                entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, os.readlink(path), 0o777
                tar.addfile(entry)
            elif path.is_dir():
                # Everybody may write into /tmp.
                entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if path.stat().st_mode & 0o1000 else 0o755
                tar.addfile(entry)
            else:
                entry.size, entry.mode = path.stat().st_size, 0o755 if path.stat().st_mode & 0o100 else 0o644
                with open(path, "rb") as file:
                    tar.addfile(entry, file)
    return made.getvalue()


def digest(data):
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def layout(place, roots, revision, seconds):
    """Writes the layout; the digest of the index, and those of the images by their architecture."""
    said = last_stage(revision)
    when = datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    blobs = place / "blobs/sha256"
    blobs.mkdir(parents=True)

    def blob(kind, data):
        data = data if isinstance(data, bytes) else json.dumps(data, indent=1).encode()
        (blobs / digest(data).removeprefix("sha256:")).write_bytes(data)
        return {"mediaType": kind, "digest": digest(data), "size": len(data)}

    images = {}
    for root in roots:
        arch = architecture(root / said["entrypoint"][0].lstrip("/"))
        if not arch or arch in images:
            sys.exit(f"image: the program in {root} is for {arch or 'neither amd64 nor arm64'}, one for each of them is wanted")
        tar = packed([(p.relative_to(root).as_posix(), p) for p in root.rglob("*")], seconds)
        config = {
            "created": when,
            "architecture": arch,
            "os": "linux",
            "config": {
                "User": said["user"],
                # As the builder of Docker has it, so that `kubectl exec … -- rekey` finds the program.
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "Entrypoint": said["entrypoint"],
                "WorkingDir": "/",
                "Labels": said["labels"],
            },
            "rootfs": {"type": "layers", "diff_ids": [digest(tar)]},
            "history": [{"created": when, "created_by": "deploy/image.py"}],
        }
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": blob(CONFIG, config)}
        manifest["layers"] = [blob(LAYER, gzip.compress(tar, 6, mtime=0))]
        images[arch] = blob(MANIFEST, manifest) | {"platform": {"architecture": arch, "os": "linux"}}
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [images[arch] for arch in sorted(images)]}
    index["annotations"] = said["labels"]
    top = blob(INDEX, index)
    (place / "index.json").write_text(json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [top]}))
    (place / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return top["digest"], {arch: image["digest"] for arch, image in images.items()}


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    environment = os.environ.get("REVISION", "unknown"), int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    print(layout(Path(sys.argv[1]), [Path(root) for root in sys.argv[2:]], *environment)[0])
