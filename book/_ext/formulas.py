"""Sets every formula while the book is built: pages carry finished drawings, load no MathJax and wait for none.

MathJax (book/_ext/mathjax, unchanged files of its version 3.2.2) runs in QuickJS, a small JavaScript engine. Each
formula becomes an SVG drawing with MathML beside it for screen readers. It knows TeX and Sphinx, not this book.
"""

import html
import json
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

log = logging.getLogger(__name__)
HERE = Path(__file__).parent / "mathjax"
# In the order in which they need each other; a "-" in a file's name is a "/" in the component's.
COMPONENTS = (
    "startup",
    "core",
    "adaptors-liteDOM",
    "input-tex",
    "output-svg",
    "output-svg-fonts-tex",
    "a11y-assistive-mml",
)
# What cannot be set must be seen by the author: an unknown command is an error, not red text, and nothing is fetched.
SETTINGS: dict[str, Any] = {
    "startup": {"typeset": False},
    "loader": {"load": []},
    "svg": {"fontCache": "local"},
    "tex": {"packages": {"[-]": ["noundefined", "autoload", "require"]}},
}
# The engine joins strings lazily, and the bridge to Python takes only finished ones: join() makes one.
SET = """function set(tex, display) {
  return [MathJax.startup.adaptor.outerHTML(MathJax.tex2svg(tex, {display: display}))].join("");
}"""
STYLE = """\
mjx-container { position: relative; direction: ltr; }
mjx-container > svg { overflow: visible; min-height: 1px; min-width: 1px; }
mjx-container[display="true"] { display: block; text-align: center; margin: 1em 0; }
mjx-container[display="true"][width="full"] { display: flex; }
mjx-container use { stroke-width: 3; }
mjx-container [data-mml-node="mtable"] > :is(line[data-line], rect[data-frame]) { stroke-width: 70px; fill: none; }
mjx-container [data-mml-node="mtable"] > g > svg { overflow: visible; }
mjx-assistive-mml { position: absolute !important; top: 0; left: 0; clip: rect(1px, 1px, 1px, 1px);
  padding: 1px 0 0 0 !important; border: 0 !important; display: block !important; width: auto !important;
  overflow: hidden !important; user-select: none; }
mjx-assistive-mml[display="block"] { width: 100% !important; }
"""
GLYPH = re.compile(r'<path id="(MJX-[^"]+)" d="([^"]*)"></path>')


class Setter:
    """MathJax in an engine of its own, started when the first formula is new."""

    def __init__(self) -> None:
        self.engine: Any = None
        self.failure: type[Exception] = Exception

    def start(self) -> None:
        import quickjs

        self.engine, self.failure = quickjs.Context(), quickjs.JSException
        self.engine.set_max_stack_size(8 << 20)
        settings = json.dumps(SETTINGS)
        self.engine.eval(f"globalThis.global = globalThis; globalThis.MathJax = {settings};")
        self.engine.eval("MathJax.startup.ready = function () {};")  # not before all components are there
        for name in COMPONENTS:
            self.engine.eval((HERE / f"{name}.js").read_text(encoding="utf-8") + ";0")
        names = ", ".join(
            json.dumps(name.replace("-", "/", 1 if name.startswith("a11y") else -1)) for name in COMPONENTS
        )
        self.engine.eval(f"MathJax.loader.preLoad({names}); delete MathJax.config.startup.ready; 0")
        self.engine.eval(f"MathJax.startup.defaultReady(); {SET}")

    def set(self, tex: str, display: bool) -> str:
        """Return the drawing of a formula as HTML.

        Args:
            tex: the formula without dollar signs.
            display: whether it stands on a line of its own.

        Raises:
            ValueError: what MathJax says of a formula that it cannot set.
        """
        if self.engine is None:
            self.start()
        try:
            drawn = self.engine.eval(f"set({json.dumps(tex)}, {json.dumps(display)})")
        except self.failure as error:
            raise ValueError(str(error).splitlines()[0]) from None
        wrong = re.search(r'data-mjx-error="([^"]*)"', drawn)
        if wrong:
            raise ValueError(html.unescape(wrong.group(1)))
        return lighter(drawn)


def lighter(drawn: str) -> str:
    """Leave out what only MathJax's own script reads, and name a glyph by its character alone, not by its formula."""
    drawn = re.sub(r' (?:xmlns(?::xlink)?|data-c|focusable|jax|unselectable|class)="[^"]*"', "", drawn)
    drawn = re.sub(r' data-mml-node="(?!mtable")[^"]*"', "", drawn)
    drawn = drawn.replace(' style="position: relative;"', "").replace("xlink:href", "href")
    return re.sub(r'((?:id="|href="#)MJX-)\d+-TEX-', r"\1", drawn)


def share_glyphs(page: str) -> str:
    """Keep each glyph once in a page, at its end, whatever the number of formulas that show it."""
    glyphs = dict(GLYPH.findall(page))
    if not glyphs:
        return page
    page = re.sub(
        r"<svg style=\"display: none\" aria-hidden=\"true\"><defs>(?:<path id=\"MJX-[^>]*></path>)*</defs></svg>\n?",
        "",
        page,
    )
    page = re.sub(r"<defs>(?:<path id=\"MJX-[^>]*></path>)*</defs>", "", page)
    shapes = "".join(f'<path id="{name}" d="{shape}"></path>' for name, shape in sorted(glyphs.items()))
    place = page.rfind("</body>")
    return page[:place] + f'<svg style="display: none" aria-hidden="true"><defs>{shapes}</defs></svg>\n' + page[place:]


def drawing(translator: Any, node: nodes.Element, tex: str, display: bool) -> str:
    """Return a formula from the build's memory, or set it; a formula that cannot be set is a warning of its line."""
    app = translator.builder.app
    memory, key = app.formula_memory, f"{int(display)}{tex}"
    if key not in memory:
        try:
            memory[key] = app.formula_setter.set(tex, display)
        except ValueError as error:
            log.warning("this formula cannot be set: %s (%s)", error, " ".join(tex.split())[:60], location=node)
            return html.escape(tex)
    return str(memory[key])


def visit_inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(translator.starttag(node, "span", "", CLASS="math notranslate nohighlight"))
    translator.body.append(drawing(translator, node, node.astext(), False) + "</span>")
    raise nodes.SkipNode


def visit_block(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(translator.starttag(node, "div", CLASS="math notranslate nohighlight"))
    if node["number"]:
        translator.body.append(f'<span class="eqno">({get_node_equation_number(translator, node)})')
        translator.add_permalink_ref(node, "Link to this equation")
        translator.body.append("</span>")
    tex = node.astext()
    if not node["nowrap"]:
        # As Sphinx does for MathJax in the browser: an empty line, or \\, begins a line of the formula.
        parts = [part for part in tex.split("\n\n") if part.strip()]
        parts = [rf"\begin{{split}}{part}\end{{split}}" if r"\\" in part else part for part in parts]
        lines = r"\\".join(parts)
        tex = lines if len(parts) == 1 else rf"\begin{{align}}\begin{{aligned}}{lines}\end{{aligned}}\end{{align}}"
    translator.body.append(drawing(translator, node, tex, True) + "</div>\n")
    raise nodes.SkipNode


def open_memory(app: Any) -> None:
    app.formula_setter, file = Setter(), Path(app.doctreedir) / "formulas.json"
    app.formula_memory = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    static = Path(app.outdir) / "_static"
    static.mkdir(parents=True, exist_ok=True)
    app.add_css_file("formulas.css")


def finish(app: Any, error: Exception | None) -> None:
    """After the build: remember the formulas, write the style sheet, let every page share its glyphs."""
    if app.builder.format != "html" or error is not None:
        return
    memory = Path(app.doctreedir) / "formulas.json"
    memory.write_text(json.dumps(app.formula_memory), encoding="utf-8")
    (Path(app.outdir) / "_static" / "formulas.css").write_text(STYLE, encoding="utf-8")
    for path in Path(app.outdir).rglob("*.html"):
        old = path.read_text(encoding="utf-8")
        new = share_glyphs(old)
        if new != old:
            path.write_text(new, encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    app.add_html_math_renderer("formulas", (visit_inline, None), (visit_block, None))
    app.connect("builder-inited", open_memory)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": False}
