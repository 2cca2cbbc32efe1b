#!/usr/bin/env python3
"""Opens the vectors by src/bundle/FORMAT.md alone: a second reader, so that the description is known to suffice.

Needs the package `cryptography` and the program `zstd`. Prints one line for each vector; exits 1 at the first that fails.
"""

import hashlib
import hmac
import json
import pathlib
import subprocess
import sys

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

HERE = pathlib.Path(__file__).parent
CHUNK, TAG = 64 * 1024, 16


def extract(salt, ikm):
    return hmac.digest(salt or bytes(32), ikm, "sha256")


def expand(prk, info, length):
    out, block, count = b"", b"", 1
    while len(out) < length:
        block = hmac.digest(prk, block + info + bytes([count]), "sha256")
        out, count = out + block, count + 1
    return out[:length]


def stream_open(key, aad, sealed):
    cipher, clear, position = ChaCha20Poly1305(key), b"", 0
    while True:
        chunk, sealed = sealed[: CHUNK + TAG], sealed[CHUNK + TAG :]
        assert position == 0 or len(chunk) > TAG
        nonce = bytes(7) + position.to_bytes(4, "big") + bytes([not sealed])
        clear += cipher.decrypt(nonce, chunk, aad)
        position += 1
        if not sealed:
            return clear


def unzstd(packed):
    return subprocess.run(["zstd", "-dc"], input=packed, stdout=subprocess.PIPE, check=True).stdout


KEM = b"KEM" + bytes.fromhex("0020")


def labeled_extract(suite, salt, label, ikm):
    return extract(salt, b"HPKE-v1" + suite + label + ikm)


def labeled_expand(suite, prk, label, info, length):
    return expand(prk, length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info, length)


def derive_key_pair(ikm):
    """RFC 9180 section 7.1.3, for X25519."""
    prk = labeled_extract(KEM, b"", b"dkp_prk", ikm)
    return X25519PrivateKey.from_private_bytes(labeled_expand(KEM, prk, b"sk", b"", 32))


def hpke_open(private, enc, info, aad, sealed):
    """RFC 9180, base mode, KEM 0x0020, KDF 0x0001, AEAD 0x0003, one message."""
    dh = private.exchange(X25519PublicKey.from_public_bytes(enc))
    context = enc + private.public_key().public_bytes_raw()
    shared = labeled_expand(KEM, labeled_extract(KEM, b"", b"eae_prk", dh), b"shared_secret", context, 32)
    suite = b"HPKE" + bytes.fromhex("002000010003")
    psk_id_hash = labeled_extract(suite, b"", b"psk_id_hash", b"")
    info_hash = labeled_extract(suite, b"", b"info_hash", info)
    schedule = b"\x00" + psk_id_hash + info_hash
    secret = labeled_extract(suite, shared, b"secret", b"")
    key = labeled_expand(suite, secret, b"key", schedule, 32)
    nonce = labeled_expand(suite, secret, b"base_nonce", schedule, 12)
    return ChaCha20Poly1305(key).decrypt(nonce, sealed, aad)


def open_manifest(sealed, private, fleet, site, generation):
    assert sealed[:4] == b"LSM1" and sealed[4] == 1
    header, count = sealed[:6], sealed[5]
    head, body = sealed[: 6 + 88 * count], sealed[6 + 88 * count :]
    name = hashlib.sha256(private.public_key().public_bytes_raw()).digest()[:8]
    info = f"lineside manifest 1\n{fleet}\n{site}\n{generation}".encode()
    for at in range(6, len(head), 88):
        line = head[at : at + 88]
        if line[:8] == name:
            file_key = hpke_open(private, line[8:40], info, header, line[40:])
            return file_key, stream_open(file_key, head, body)
    raise ValueError("not for this key")


def check_manifest_keys(vectors, sealed, file_key, packed):
    """What only a publisher needs: where the file key and the ephemeral keys come from."""
    private = [X25519PrivateKey.from_private_bytes(bytes.fromhex(key)) for key in vectors["recipient-secrets"]]
    public = sorted(key.public_key().public_bytes_raw() for key in private)
    salt = hashlib.sha256(sealed[:6] + b"".join(public) + packed).digest()
    prk = extract(salt, bytes.fromhex(vectors["publisher-secret"]))
    assert expand(prk, b"lineside manifest key", 32) == file_key
    for index, key in enumerate(public):
        seed = expand(prk, b"lineside manifest recipient " + key, 32)
        ikm = Cipher(ChaCha20(seed, bytes(16)), mode=None).encryptor().update(bytes(32))
        enc = derive_key_pair(ikm).public_key().public_bytes_raw()
        line = sealed[6 + 88 * index :][:88]
        assert line[:8] == hashlib.sha256(key).digest()[:8] and line[8:40] == enc


def open_object(reference, sealed):
    assert hashlib.sha256(sealed).hexdigest() == reference["digest"] and len(sealed) == reference["bytes"]
    clear = stream_open(bytes.fromhex(reference["key"]), b"", sealed)
    if reference["packing"] == "zstd":
        clear = unzstd(clear)
    assert len(clear) == reference["clear-bytes"]
    return clear


def main():
    vectors = json.loads((HERE / "vectors.json").read_text())
    for secret in vectors["recipient-secrets"]:
        private = X25519PrivateKey.from_private_bytes(bytes.fromhex(secret))
        sealed = (HERE / "manifest.sealed").read_bytes()
        binding = vectors["fleet"], vectors["site"], vectors["generation"]
        file_key, packed = open_manifest(sealed, private, *binding)
        assert unzstd(packed) == (HERE / "manifest.json").read_bytes()
        print("manifest opens with", secret[:8])
    check_manifest_keys(vectors, sealed, file_key, packed)
    print("manifest's keys are those that the format says")
    for name, (scope, reference) in vectors["objects"].items():
        sealed = (HERE / f"{name}.sealed").read_bytes()
        assert open_object(reference, sealed) == (HERE / f"{name}.clear").read_bytes()
        packed = stream_open(bytes.fromhex(reference["key"]), b"", sealed)
        prk = extract(hashlib.sha256(packed).digest(), bytes.fromhex(vectors["publisher-secret"]))
        assert expand(prk, b"lineside object " + scope.encode(), 32).hex() == reference["key"]
        print(name, "opens, and its key is the one that the format says")


if __name__ == "__main__":
    sys.exit(main())
