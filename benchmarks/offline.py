"""Make the pages that `asv publish` wrote work without internet, with axes that can be read.

    asv publish && python -m benchmarks.offline && asv preview

asv's page loads jQuery, Flot, Bootstrap and others from public hosts.  This puts copies of them
from the npm registry, with their licences, beside the page, and makes it load those.  Packages are
kept under .asv/npm, so that only the first run needs the registry.

As asv draws them, plots open with commits that nothing names, and ratios on a scale that begins at
the least of them, where noise looks like a change.  Here they open with dates, and from 0; the
page's buttons change that.
"""

import argparse
import base64
import hashlib
import io
import re
import tarfile
import urllib.request
from pathlib import Path, PurePosixPath
from typing import NamedTuple

REGISTRY = "https://registry.npmjs.org"


class Package(NamedTuple):
    """An npm package: its tarball's SHA-512, as the registry gives it, and the files wanted."""

    name: str
    version: str
    sha512: str
    scripts: dict[str, str]  # last part of the address that asv's page loads: file in here
    others: tuple[str, ...]  # licence, and files that those refer to


PACKAGES = (
    Package(
        "jquery",
        "3.3.1",
        "Ubldcmxp5np52/ENotGxlLe6aGMvmF4R8S6tZjsP6Knsaxd/xp3Zrh50cG93lR6nPXyUFwzN3ZSOQI0wRJNdGg==",
        {"jquery-3.3.1.min.js": "dist/jquery.min.js"},
        ("LICENSE.txt",),
    ),
    Package(
        "flot",
        "0.8.3",
        "xg2otcTJDvS+ERK+my4wxG/ASq90QURXtoM4LhacCq0jQW2jbyjdttbRNqU2cPykrpMvJ6b2uSp6SAgYAzj9tQ==",
        {
            "jquery.flot.min.js": "jquery.flot.js",
            "jquery.flot.time.min.js": "jquery.flot.time.js",
            "jquery.flot.selection.min.js": "jquery.flot.selection.js",
            "jquery.flot.categories.min.js": "jquery.flot.categories.js",
        },
        ("LICENSE.txt",),
    ),
    Package(
        "flot-orderbars",
        "1.0.0",
        "Jv51fvzevUjNXEeozpwEKfPjhiZhfiJddv0WHjduUTCmSF+7T5K7C9c9Y1wIVmUhDBv5fLMjgbwKecT0GIKPZA==",
        {"jquery.flot.orderBars.js": "js/jquery.flot.orderBars.js"},
        ("package.json",),  # its MIT notice is at the top of the script
    ),
    Package(
        "stupid-table-plugin",
        "1.1.3",
        "2Vk7XouQPxUQPRe9w0Fu7ZZ8kHLK7rDoLMsCgtKxRNJ7f4dSOGvW9CkHsq5wD6QsaEnWoyLBYH3xOEsrK3yWBg==",
        {"stupidtable.min.js": "stupidtable.min.js"},
        ("LICENSE",),
    ),
    Package(
        "blueimp-md5",
        "2.19.0",
        "DRQrD6gJyy8FbiE4s+bDoXS9hiW3Vbx5uCdwvcCf3zLHL+Iv7LtGHLpr+GZV8rHG8tK766FGYBwRbu8pELTt+w==",
        {"md5.min.js": "js/md5.min.js"},
        ("LICENSE.txt",),
    ),
    Package(
        "bootstrap",
        "3.1.1",
        "TAzqS8E/ISpVHP29gYhy+1NSV+FJwApDVQhDfgLYsIuUDJiqJzH2DfORN5tiu+Ie2iBLrzEG34t4Rf465cigqg==",
        {
            "bootstrap.min.js": "dist/js/bootstrap.min.js",
            "bootstrap.min.css": "dist/css/bootstrap.min.css",
        },
        (
            "LICENSE",
            "dist/fonts/glyphicons-halflings-regular.eot",
            "dist/fonts/glyphicons-halflings-regular.svg",
            "dist/fonts/glyphicons-halflings-regular.ttf",
            "dist/fonts/glyphicons-halflings-regular.woff",
        ),
    ),
)

# What a browser fetches to show a page: scripts, styles, images; not links to click.
FETCHED = re.compile(r'<(?:script|link|img)\b[^>]*?\b(?:src|href)="((?:https?:)?//[^"]*)"[^>]*>')


# What plots open with: the script's own lines, and what they become.
AXES = (
    ("    var date_scale = false;\n", "    var date_scale = true;\n"),
    (
        """                if (unit && unit != "unit") {
                    unit_name = unit;
""",
        """                if (!zoom_y_axis) {
                    options.yaxis.min = 0.0;
                    options.yaxis.max = max * 1.3;
                }
                if (unit && unit != "unit") {
                    unit_name = unit;
""",
    ),
)
BUTTON = '<a id="date-scale" class="btn'


def with_axes(script):
    """The script that draws the plots, with dates from left to right and numbers from 0.

    Raises
    ------
    ValueError
        If it does not have the lines to change, as that of another asv may not.
    """
    for line, other in AXES:
        script = _exchanged(script, line, other)
    return script


def _exchanged(text, part, other):
    if text.count(part) != 1:
        raise ValueError(f"asv's page has {part.strip()!r} {text.count(part)} times, expected once")
    return text.replace(part, other)


def localise(page):
    """The page with local addresses in place of those that FETCHED finds.

    Raises
    ------
    ValueError
        If the page loads anything else from elsewhere, as that of another asv may.
    """
    places = {
        loaded: f"npm/{package.name}/{file}"
        for package in PACKAGES
        for loaded, file in package.scripts.items()
    }

    def local(match):
        address = match[1]
        loaded = PurePosixPath(address).name
        if loaded not in places:
            raise ValueError(f"the page loads {address}, expected one of {', '.join(places)}")
        # A digest is of one form of the file (minified or not); those from npm are checked here.
        tag = re.sub(r'\s(?:integrity|crossorigin|referrerpolicy)="[^"]*"', "", match[0])
        return tag.replace(address, places[loaded])

    return FETCHED.sub(local, page)


def fetch(package, registry, kept):
    """A package's tarball, from the directory where packages are kept or from the registry."""
    path = kept / f"{package.name}-{package.version}.tgz"
    if path.exists():
        tarball = path.read_bytes()
    else:
        address = f"{registry.rstrip('/')}/{package.name}/-/{path.name}"
        with urllib.request.urlopen(address, timeout=60) as response:
            tarball = response.read()
    found = base64.b64encode(hashlib.sha512(tarball).digest()).decode()
    if found != package.sha512:
        raise ValueError(f"{path.name} has SHA-512 {found}, expected {package.sha512}")
    kept.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tarball)
    return tarball


def unpack(package, tarball, directory):
    """Write the files that are wanted into directory/name."""
    with tarfile.open(fileobj=io.BytesIO(tarball)) as tar:
        for file in (*package.scripts.values(), *package.others):
            path = directory / package.name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            member = tar.extractfile(f"package/{file}")
            assert member is not None, f"{file} is no regular file of {package.name}"
            path.write_bytes(member.read())


def main():
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cli.add_argument("html", nargs="?", type=Path, default=Path(".asv/html"))
    cli.add_argument("--registry", default=REGISTRY, help="default: %(default)s")
    args = cli.parse_args()
    index = args.html / "index.html"
    page = localise(index.read_text("utf-8"))
    for package in PACKAGES:
        unpack(package, fetch(package, args.registry, args.html.parent / "npm"), args.html / "npm")
    script = args.html / "graphdisplay.js"
    script.write_text(with_axes(script.read_text("utf-8")), "utf-8")
    index.write_text(_exchanged(page, BUTTON, f"{BUTTON} active"), "utf-8")
    print(f"{index}: {len(PACKAGES)} packages under {args.html / 'npm'}, nothing loaded elsewhere")


if __name__ == "__main__":
    main()
