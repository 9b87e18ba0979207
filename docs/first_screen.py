"""The wide picture at the head of the README: the book beside a page of `minibert explain`.

    sphinx-build -W -n -b html docs build
    minibert explain "[MASK] but marta said that the plot was dull ." -o page.html
    python docs/first_screen.py build page.html         writes docs/pictures/first-screen.png

Both parts are screenshots of what these commands made: one function of the book, and the same step
of one head with the sum of a number open, placed where the book's page is blank. It needs
`pip install 'minibert[docs,browser]'` and a Chromium, whose path `MINIBERT_CHROMIUM` may name.
"""

import base64
import io
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

OUT = Path(__file__).parent / "pictures" / "first-screen.png"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
WIDE = {"device_scale_factor": 1.5, "color_scheme": "light"}
# The function alone, as wide as the picture.
ALONE = """
#softmax { width: 1100px; grid-template-columns: 20rem 1fr !important; border: 0 !important }
.back-to-top { display: none }
"""
FRAME = """<!doctype html><meta charset="utf-8"><style>
body { margin: 0; padding: 14px 20px 18px; position: relative; width: 1100px; background: #fff; }
img { display: block; }
#book { width: 1100px; }
#page { position: absolute; left: 384px; bottom: 18px; width: 736px; border: 1px solid #aab2bd;
        border-radius: 8px; box-shadow: 0 3px 14px #0004; overflow: hidden; background: #fff; }
#page p { margin: 0; padding: 5px 12px; font: 12px sans-serif; color: #57606a; background: #eef1f4;
          border-bottom: 1px solid #d0d7de; }
#page img { width: 100%; }
</style>"""


def book(browser: Browser, folder: Path) -> bytes:
    """The function softmax: words, formula and shapes beside the code."""
    page = browser.new_page(viewport={"width": 1400, "height": 1000}, **WIDE)
    page.goto((folder / "book" / "functional.html").resolve().as_uri())
    page.add_style_tag(content=ALONE)
    return page.locator("#softmax").screenshot()


def explorer(browser: Browser, path: Path) -> bytes:
    """The softmax step of a head: the share that [MASK] gives the word after it, and its sum."""
    page = browser.new_page(viewport={"width": 880, "height": 632}, **WIDE)
    page.goto(path.resolve().as_uri())
    page.click("#stage-5")
    page.focus("#m-weight")
    for key in ("ArrowRight", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    page.evaluate("scrollTo(0, document.querySelector('#steps').offsetTop - 4)")
    return page.screenshot()


def main(folder: Path, path: Path) -> None:
    found = [os.environ.get("MINIBERT_CHROMIUM"), *map(shutil.which, CHROMIUM)]
    program = next(filter(None, found), None)  # None is playwright's own, if there is one
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program)
        below, above = (
            f"data:image/png;base64,{base64.b64encode(picture).decode()}"
            for picture in (book(browser, folder), explorer(browser, path))
        )
        options: dict[str, Any] = {**WIDE, "viewport": {"width": 1140, "height": 300}}
        page = browser.new_page(**options)
        words = "minibert explain: any number, down to its sum and to the line of the book"
        page.set_content(
            f'{FRAME}<img id="book" src="{below}"><div id="page"><p>{words}</p>'
            f'<img src="{above}"></div>'
        )
        picture = page.screenshot(full_page=True)
        browser.close()
    # A table of 256 colours is enough, and makes the file a third as large.
    whole = Image.open(io.BytesIO(picture)).convert("RGB")
    whole.quantize(256, kmeans=1).save(OUT, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
