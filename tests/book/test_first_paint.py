"""Painted early and still afterwards: scripts wait, colours and the menu's place are known, pictures have sizes."""

import importlib.util
import struct

import pytest

from .site_tools import ROOT

spec = importlib.util.spec_from_file_location("first_paint", ROOT / "book" / "_ext" / "first_paint.py")
first_paint = importlib.util.module_from_spec(spec)
spec.loader.exec_module(first_paint)

HEAD = """<head><script data-cfasync="false">
    document.documentElement.dataset.mode = localStorage.getItem("mode") || "auto";
    document.documentElement.dataset.theme = localStorage.getItem("theme") || "auto";
  </script>
<link rel="preload" as="script" href="../_static/scripts/bootstrap.js" />
<script src="../_static/documentation_options.js?v=1"></script>
<script src="../_static/doctools.js?v=1"></script>
<script data-prefix="x" src="../_static/tabs.js"></script><script defer src="../_static/late.js"></script>
<script>let settings = 1;</script></head>
"""
BODY = """<body><div class="bd-sidebar"><nav class="bd-docs-nav"><a class="active">here</a></nav></div>
      <main id="main-content"></main></body>"""


@pytest.fixture
def improved(tmp_path):
    return first_paint.improve(HEAD + BODY, tmp_path, "const DOCUMENTATION_OPTIONS = {};")


def test_every_loaded_script_waits_and_keeps_its_order(improved):
    loaded = [line.split("src=")[1].split(">")[0] for line in improved.split("<script")[1:] if "src=" in line]
    assert [name.split("/")[-1].strip('"') for name in loaded] == ["doctools.js?v=1", "tabs.js", "late.js"]
    assert improved.count("<script defer") == 3 and "preload" not in improved


def test_settings_that_scripts_share_stand_in_the_page_before_them(improved):
    assert improved.index("const DOCUMENTATION_OPTIONS") < improved.index("doctools.js")
    assert "<script>let settings = 1;</script>" in improved


def test_colours_are_chosen_before_the_first_paint(improved):
    assert "prefers-color-scheme: dark" in improved and '|| "auto";\n    document' not in improved


def test_the_menu_is_scrolled_before_the_text_is_painted(improved):
    assert improved.index("scrollTop") < improved.index("<main")


def test_nothing_is_done_twice(improved, tmp_path):
    assert first_paint.improve(improved, tmp_path, "const DOCUMENTATION_OPTIONS = {};") == improved


def test_code_that_a_page_repeats_is_kept_once_and_called_again():
    code = "/* draws */" + "x();" * 200
    page = f"<style>a{{}}</style><script>{code}</script><p>1</p><style>a{{}}</style><script>{code}</script><p>2</p>"
    once = first_paint.keep_repeated_code_once(page)
    assert once.count("/* draws */") == 1 and once.count("<style>") == 1
    name = once.split("function ")[1].split("(")[0]
    assert once.endswith(f"<p>1</p><script>{name}()</script><p>2</p>")
    assert first_paint.keep_repeated_code_once(once) == once


def test_pictures_get_the_size_that_their_files_say(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 640, 480))
    (tmp_path / "b.svg").write_text('<?xml version="1.0"?><!-- b --><svg viewBox="0 0 320 96.4"></svg>')
    (tmp_path / "c.svg").write_text("<svg></svg>")
    page = '<img src="a.png" alt="a"/><img alt="b" src="b.svg?v=1"><img src="c.svg"><img src="none.png">'
    page += '<img src="a.png" style="width: 50%"><img src="data:image/png;base64,AAAA"><img width="1" src="a.png">'
    sized = first_paint.give_pictures_their_size(page, tmp_path)
    assert sized.startswith('<img width="640" height="480" style="height: auto" src="a.png" alt="a"/><img width="320"')
    assert (
        sized.count("width=") == 3
        and sized.count("height: auto") == 2
        and sized.endswith(page[page.index('<img src="c.svg">') :])
    )
