#!/usr/bin/env python3
"""Follows a published site's metadata with the reference client of The Update Framework, from a pinned root.

    verify.py PINNED_ROOT SITE_DIR [FIRMWARE_TARGET...]

SITE_DIR is `sites/<id>` of a published tree. Prints the versions that are trusted then and fetches the manifest; each
firmware target must be found by the delegation.
"""

import pathlib
import sys
import tempfile
from urllib.parse import unquote

from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface, Updater


class Tree(FetcherInterface):
    """Reads the tree as a web server would serve it."""

    def __init__(self, root):
        self.root = pathlib.Path(root)

    def _fetch(self, url):
        path = self.root / unquote(url.removeprefix("tree://"))
        if not path.is_file():
            raise DownloadHTTPError(f"{path} is not there", 404)
        yield path.read_bytes()


def main(root, site, *firmware):
    with tempfile.TemporaryDirectory() as trusted, tempfile.TemporaryDirectory() as targets:
        updater = Updater(
            metadata_dir=trusted,
            metadata_base_url="tree://metadata/",
            target_dir=targets,
            target_base_url="tree://targets/",
            fetcher=Tree(site),
            bootstrap=pathlib.Path(root).read_bytes(),
        )
        updater.refresh()
        manifest = updater.get_targetinfo("manifest")
        path = updater.download_target(manifest)
        assert pathlib.Path(path).read_bytes()[:4] == b"LSM1"
        for name in firmware:
            assert updater.get_targetinfo(name) is not None, f"{name} is not found"
        assert updater.get_targetinfo("firmware/" + "0" * 64) is None
        held = updater._trusted_set
        print(f"root {held.root.version} targets {held.targets.version} manifest {manifest.length} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
