"""Makes the one file of JavaScript that the page loads.

    python docs/page.py           makes it; so does `make page`
    python docs/page.py --check   exits with 1 if it is out of date

The page is written as modules, in `src/ragsocket/web`; a browser gets them as one minified file,
`page.min.js`, which is kept beside them, with the JavaScript client as it is now. So nobody who
runs the server needs Node, and the page is as small as a test demands.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
WEB = ROOT / "src" / "ragsocket" / "web"
BUNDLE = WEB / "page.min.js"
CLIENT = ROOT / "clients" / "js"
ESBUILD = CLIENT / "node_modules" / ".bin" / "esbuild"

HEAD = (
    "/* Made by `make page` of the modules beside it, with marked (vendor/marked.LICENSE) and "
    "DOMPurify (vendor/purify.LICENSE). */"
)


def bundled() -> bytes:
    """Return the file as it follows from the modules now."""
    made = subprocess.run(
        [
            ESBUILD,
            WEB / "app.js",
            "--bundle",
            "--minify",
            "--format=esm",
            "--target=es2022",
            "--charset=utf8",
            "--legal-comments=none",
            f"--banner:js={HEAD}",
        ],
        capture_output=True,
        check=True,
    )
    return made.stdout


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(BUNDLE.read_bytes() != bundled())
    for name in ("answer.js", "ragsocket.js"):
        shutil.copy(CLIENT / name, WEB / "vendor" / name)
    BUNDLE.write_bytes(bundled())
