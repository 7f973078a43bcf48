"""Find a file in a project of the Open Science Framework."""

from __future__ import annotations

from typing import Any, NamedTuple

import requests

OSF_API = "https://api.osf.io/v2"
TIMEOUT = 30  # seconds


class Source(NamedTuple):
    """An address, and the SHA-256 of the file there if its host publishes it."""

    url: str
    sha256: str | None = None


def find_file(node: str, name: str) -> Source:
    """Find a file by name in any folder of a project's storage.

    Folders are looked through from the top, as the authors have moved files between them. A listing is JSON as
    https://developer.osf.io describes it: `data` holds entries with ``attributes.kind``, ``attributes.name`` and
    ``attributes.extra.hashes.sha256``, the address in ``links.download``, the content of a folder in
    ``relationships.files.links.related.href``; ``links.next`` is the next page.

    Parameters
    ----------
    node
        Id of the project, the last part of ``https://osf.io/<id>``.
    name
        Name of the file.

    Raises
    ------
    OSError
        If the service cannot be reached, or the project has no such file.
    KeyError
        If the listing has another layout.
    """
    pages, others = [f"{OSF_API}/nodes/{node}/files/osfstorage/"], []
    while pages:
        listing = _read_json(pages.pop(0))
        for entry in listing["data"]:
            attributes = entry["attributes"]
            if attributes["kind"] == "folder":
                pages.append(entry["relationships"]["files"]["links"]["related"]["href"])
            elif attributes["name"] == name:
                return Source(entry["links"]["download"], _sha256(attributes))
            else:
                others.append(attributes["name"])
        if listing["links"].get("next"):
            pages.insert(0, listing["links"]["next"])
    msg = f"no file {name!r} among {sorted(others)[:20]}"
    raise FileNotFoundError(msg)


def _read_json(url: str) -> dict[str, Any]:
    response = requests.get(url, timeout=TIMEOUT)
    response.raise_for_status()
    return response.json()


def _sha256(attributes: dict[str, Any]) -> str | None:
    return attributes.get("extra", {}).get("hashes", {}).get("sha256")
