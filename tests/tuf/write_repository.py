#!/usr/bin/env python3
"""Writes a repository with the reference implementation of The Update Framework.

    write_repository.py DIR

DIR gets `metadata/` and `targets/`: consistent snapshots, a root that was rotated from 1 of 2 keys to others, thresholds,
a delegation two deep, SHA-512 beside SHA-256, names and fields that need quoting. DIR/older is the same repository one
step earlier, for what must not be taken back.
"""

import pathlib
import shutil
import sys
from datetime import datetime, timedelta, timezone
from hashlib import sha256

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole, Delegations, Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

EXPIRES = datetime.now(timezone.utc).replace(microsecond=0) + timedelta(days=300)
KEYS = {name: CryptoSigner.generate_ed25519() for name in ("r1", "r2", "r3", "t", "s", "ts", "d1", "d2", "deep")}
FILES = {"top.txt": b"top", "dir/one file.bin": b"delegated" * 9000, "dir/deep/\u00e4.cfg": b"deep"}


def write(path, signed, *names):
    metadata = Metadata(signed)
    for name in names:
        metadata.sign(KEYS[name], append=True)
    data = metadata.to_bytes(JSONSerializer(compact=False))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return data


def meta(version, data):
    return MetaFile(version, len(data), {"sha256": sha256(data).hexdigest()})


def add_target(out, role, name, algorithms):
    target = TargetFile.from_data(name, FILES[name], algorithms)
    role.targets[name] = target
    folder, _, last = name.rpartition("/")
    # A client may ask under any of the hashes.
    for algorithm in algorithms:
        path = out / "targets" / folder / f"{target.hashes[algorithm]}.{last}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(FILES[name])


def main(out):
    out = pathlib.Path(out)
    metadata = out / "metadata"
    root = Root(expires=EXPIRES, consistent_snapshot=True)
    root.unrecognized_fields = {"x-note": "line\nbreak \u00e4 \"q\" \\ \x01"}
    for name in ("r1", "r2"):
        root.add_key(KEYS[name].public_key, "root")
    for role, name in (("targets", "t"), ("snapshot", "s"), ("timestamp", "ts")):
        root.add_key(KEYS[name].public_key, role)
    write(metadata / "1.root.json", root, "r1")
    root.version, root.roles["root"].threshold = 2, 2
    root.revoke_key(KEYS["r1"].public_key.keyid, "root")
    root.add_key(KEYS["r3"].public_key, "root")
    write(metadata / "2.root.json", root, "r1", "r2", "r3")

    deep = Targets(version=1, expires=EXPIRES)
    add_target(out, deep, "dir/deep/\u00e4.cfg", ["sha512", "sha256"])
    deep_data = write(metadata / "1.deep role.json", deep, "deep")
    below = Targets(version=4, expires=EXPIRES)
    add_target(out, below, "dir/one file.bin", ["sha256", "sha512"])
    below.delegations = Delegations({}, {"deep role": DelegatedRole("deep role", [], 1, True, ["dir/deep/*"])})
    below.add_key(KEYS["deep"].public_key, "deep role")
    below_data = write(metadata / "4.below.json", below, "d1", "d2")
    top = Targets(version=3, expires=EXPIRES)
    add_target(out, top, "top.txt", ["sha256"])
    top.targets["top.txt"].unrecognized_fields = {"custom": {"n": -7, "big": 2**64 - 1, "z": None, "a": [True]}}
    patterns = ["dir/*", "dir/deep/*"]
    top.delegations = Delegations({}, {"below": DelegatedRole("below", [], 2, False, patterns)})
    for name in ("d1", "d2"):
        top.add_key(KEYS[name].public_key, "below")
    top_data = write(metadata / "3.targets.json", top, "t")

    for version in (5, 6):
        if version == 6:
            shutil.copytree(metadata, out / "older" / "metadata")
            shutil.copytree(out / "targets", out / "older" / "targets")
        files = {
            "targets.json": meta(3, top_data),
            "below.json": meta(4, below_data),
            "deep role.json": meta(1, deep_data),
        }
        snapshot = write(metadata / f"{version}.snapshot.json", Snapshot(version=version, expires=EXPIRES, meta=files), "s")
        timestamp = Timestamp(version=version, expires=EXPIRES, snapshot_meta=meta(version, snapshot))
        write(metadata / "timestamp.json", timestamp, "ts")


if __name__ == "__main__":
    main(sys.argv[1])
