"""How the list of works is written: titles as their authors write them, and each address once.

The plain style of pybtex makes every title lower case ("english", "The llama 3 herd") and prints a work's page on arXiv
twice, as an address and as a number. It knows nothing of this book's works.
"""

from typing import Any

from pybtex.plugin import register_plugin
from pybtex.style.formatting.plain import Style
from pybtex.style.template import field, optional, sentence


class WorksStyle(Style):
    """The plain style, with titles left alone and the address only of works that have no number."""

    def format_title(self, e: Any, which_field: str, as_sentence: bool = True) -> Any:
        title = field(which_field)
        return sentence[title] if as_sentence else title

    def format_web_refs(self, e: Any) -> Any:
        numbered = e.fields.get("eprint") or e.fields.get("doi")
        address = [] if numbered else [optional[self.format_url(e)]]
        return sentence[(*address, optional[self.format_eprint(e)], optional[self.format_doi(e)])]


def setup(app: Any) -> dict[str, bool]:
    register_plugin("pybtex.style.formatting", "works", WorksStyle)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
