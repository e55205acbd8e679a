"""Fetches pip's wheel for a Python that has neither pip nor ensurepip (Debian's minimal one)."""

import hashlib
import os
import re
import urllib.parse
import urllib.request
from pathlib import Path

from mpips.errors import MissingInputError

INDEX = "https://pypi.org/simple"
SECONDS = 30.0
LINK = re.compile(r'href="([^"]*/)?(pip-(\d+)\.(\d+)(?:\.(\d+))?-py3-none-any\.whl)'
                  r'(?:#sha256=([0-9a-f]{64}))?"')


def fetch_pip(folder: Path) -> Path:
    """Fetch the newest release of pip from the package index and return the wheel's path.

    The index is `$PIP_INDEX_URL`, a simple repository (PEP 503). A wheel without a checksum, or
    with a wrong one, is refused.

    Raises:
        MissingInputError: the index holds no wheel with a checksum that holds.
        OSError: there is no network.
    """
    index = os.environ.get("PIP_INDEX_URL", INDEX).rstrip("/") + "/pip/"
    request = urllib.request.Request(index, headers={"Accept": "text/html"})
    with urllib.request.urlopen(request, timeout=SECONDS) as page:
        found = [link for link in LINK.finditer(page.read().decode("utf-8")) if link[6]]
    if not found:
        raise MissingInputError("the package index has no wheel of pip with a checksum", index)
    newest = max(found, key=lambda link: tuple(int(link[n] or 0) for n in (3, 4, 5)))

    # Check before anything of it is run.
    address = urllib.parse.urljoin(index, (newest[1] or "") + newest[2])
    with urllib.request.urlopen(address, timeout=SECONDS) as wheel:
        content = wheel.read()
    if hashlib.sha256(content).hexdigest() != newest[6]:
        raise MissingInputError("pip's wheel does not have the checksum of the index", address)
    path = folder / newest[2]
    path.write_bytes(content)
    return path
