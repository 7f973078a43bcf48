"""Files of a project of the Open Science Framework, found by name."""

from __future__ import annotations

from hashlib import sha256

import pytest
import requests

from scgraphvci.datasets._osf import Source, find_file


def test_found_in_a_folder_on_a_later_page(host):
    host.put_osf("abcde", {"one.h5ad": b"1", "two.h5ad": b"22", "three.h5ad": b"333"})
    digest = sha256(b"333").hexdigest()
    assert find_file("abcde", "three.h5ad") == Source(f"{host.url}/download/abcde2/", digest)
    assert len(host.asked) == 4  # the top, and one page per file of the folder


def test_without_published_sha256(host):
    host.put_osf("abcde", {"one.h5ad": b"1"}, hashes=False)
    assert find_file("abcde", "one.h5ad").sha256 is None


def test_missing_file_names_what_is_there(host):
    host.put_osf("abcde", {"one.h5ad": b"1", "two.h5ad": b"2"})
    with pytest.raises(FileNotFoundError, match=r"no file 'three.h5ad' among \['one.h5ad', 'two.h5ad'\]"):
        find_file("abcde", "three.h5ad")


def test_unknown_project(host):
    with pytest.raises(requests.HTTPError, match="404"):
        find_file("zzzzz", "one.h5ad")
