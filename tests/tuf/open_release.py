#!/usr/bin/env python3
"""Opens a published release by src/bundle/FORMAT.md alone, with a site's key.

    open_release.py PUBLIC SITE FLEET KEY_FILE OUT

PUBLIC is the published tree. Every file that phones can ask for is written into OUT under the SHA-256 of its name; the
list of them is printed as JSON. Exits 1 if anything does not open or is not what its reference says.
"""

import hashlib
import importlib.util
import json
import pathlib
import sys

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

READER = pathlib.Path(__file__).parent.parent / "vectors" / "bundle" / "open.py"
spec = importlib.util.spec_from_file_location("reader", READER)
reader = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reader)


def signed(path):
    return json.loads(path.read_text())["signed"]


def main(public, site, fleet, key_file, out):
    public, out = pathlib.Path(public), pathlib.Path(out)
    line = next(line for line in pathlib.Path(key_file).read_text().splitlines() if line.startswith("lineside-x25519 "))
    private = X25519PrivateKey.from_private_bytes(bytes.fromhex(line.split()[1]))

    metadata = public / "sites" / site / "metadata"
    version = signed(metadata / "timestamp.json")["meta"]["snapshot.json"]["version"]
    generation = signed(metadata / f"{version}.snapshot.json")["meta"]["targets.json"]["version"]
    target = signed(metadata / f"{generation}.targets.json")["targets"]["manifest"]
    digest = target["hashes"]["sha256"]
    sealed = (public / "sites" / site / "targets" / f"{digest}.manifest").read_bytes()
    assert hashlib.sha256(sealed).hexdigest() == digest and len(sealed) == target["length"]

    _, packed = reader.open_manifest(sealed, private, fleet, site, generation)
    manifest = json.loads(reader.unzstd(packed))
    assert (manifest["format"], manifest["fleet"], manifest["site"]) == (1, fleet, site)
    assert manifest["generation"] == generation

    def fetch(reference):
        name = reference["digest"]
        return reader.open_object(reference, (public / "objects" / name[:2] / name).read_bytes())

    phones = json.loads(fetch(manifest["inventory"]))["phones"]
    files = [entry for shard in manifest["shards"] for entry in json.loads(fetch(shard))["files"]]
    count = len(manifest["shards"])
    for shard_index, shard in enumerate(manifest["shards"]):
        for entry in json.loads(fetch(shard))["files"]:
            folded = entry["name"].lower().encode()
            assert int.from_bytes(hashlib.sha256(folded).digest()[:4], "big") % count == shard_index
    assert manifest["totals"]["files"] == len(files)
    listing = {}
    for entry in files:
        clear = fetch(entry["blob"])
        assert hashlib.sha256(clear).hexdigest() == entry["sha256"]
        (out / hashlib.sha256(entry["name"].encode()).hexdigest()).write_bytes(clear)
        listing[entry["name"]] = entry["scope"]
    print(json.dumps({"generation": generation, "phones": [phone["mac"] for phone in phones], "files": listing}))


if __name__ == "__main__":
    main(*sys.argv[1:])
