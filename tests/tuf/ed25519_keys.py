"""A pytest plugin for the public TUF conformance suite: repositories are signed with Ed25519 unless a test asks for another type.

The suite signs with ECDSA where a test does not care; Lineside trusts Ed25519 alone. Nothing else of the suite changes.
"""

from tuf_conformance._internal.repository_simulator import RepositorySimulator

assert RepositorySimulator.new_signer.__defaults__ == ("ecdsa", "ecdsa-sha2-nistp256"), "the suite has changed"
RepositorySimulator.new_signer.__defaults__ = ("ed25519", "ed25519")
