"""The Atlas shows every system, works without a script and asks nothing of another server."""

import re
from html.parser import HTMLParser

import pytest
from edgeinfer.evidence import Claim, Evidence, Result
from edgeinfer.evidence.atlas import SCRIPT, build_atlas, citation_text, machines
from edgeinfer.evidence.catalogue import load_bibliography, load_catalogue

FOUND = {
    "t-mac": Evidence(Claim("Time is linear in bits"), [Result("bytes", 2.0, "x", "measured")], True),
    "lut-gemm": Evidence(Claim("No <multiplications>"), [Result("adds", 8, "1", "modelled")], False, "A & B are small"),
    "tellme": Evidence(Claim("Runs on an FPGA"), [], None, "No FPGA here"),
}


class Balanced(HTMLParser):
    """Fails on a tag that closes what is not open; collects ids and everything that would be loaded."""

    VOID = ("input", "br", "meta", "link", "img")

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.loads = [], [], []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.ids += [values["id"]] if "id" in values else []
        self.loads += [values[name] for name in ("src", "srcset", "data") if name in values]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, tag


@pytest.fixture(scope="module")
def atlas():
    return build_atlas(FOUND)


def test_page_is_well_formed_and_holds_every_system_once(atlas):
    parser = Balanced()
    parser.feed(atlas._repr_html_())
    assert parser.open == []
    rows = [i for i in parser.ids if i.startswith("atlas-")]
    assert sorted(rows) == sorted(f"atlas-{entry['id']}" for entry in load_catalogue())


def test_page_is_light_and_loads_nothing(atlas):
    html = atlas._repr_html_()
    parser = Balanced()
    parser.feed(html)
    assert len(html.encode()) < 400_000
    assert parser.loads == [] and "@import" not in html and "url(" not in html
    assert "fetch(" not in SCRIPT and "import(" not in SCRIPT


def test_without_a_script_every_row_shows_and_no_dead_control_does(atlas):
    html = atlas._repr_html_()
    assert re.search(r'<form class="at-filters" hidden', html)
    assert not re.search(r"<tr[^>]* hidden", html)


def test_filters_offer_only_values_that_rows_carry_and_rows_only_what_filters_offer(atlas):
    html = atlas._repr_html_()
    for name in ("section", "kind", "status", "bottleneck", "machine", "verdict", "year"):
        select = re.search(rf'<select name="{name}">(.*?)</select>', html, re.DOTALL).group(1)
        offered = set(re.findall(r'value="([^"]+)"', select))
        carried = {word for value in re.findall(rf'data-{name}="([^"]+)"', html) for word in value.split()}
        assert carried == offered, name


def test_badges_tell_how_a_finding_was_made_and_whether_it_holds(atlas):
    html = atlas._repr_html_()
    row = {
        i: re.search(rf'id="atlas-{i}".*?</tr>', html, re.DOTALL).group(0)
        for i in ("t-mac", "lut-gemm", "tellme", "netgpt")
    }
    assert ">holds<" in row["t-mac"] and ">measured<" in row["t-mac"]
    assert ">not at this scale<" in row["lut-gemm"] and ">modelled<" in row["lut-gemm"]
    assert "A &amp; B are small" in row["lut-gemm"]
    assert ">not tested here<" in row["tellme"] and ">planned<" in row["netgpt"]


def test_what_did_not_reproduce_is_listed_with_its_reason(atlas):
    text, html = atlas.not_reproduced().markdown(), atlas.not_reproduced()._repr_html_()
    assert "LUT-GEMM" in text and "A & B are small" in text and "No FPGA here" in text and "T-MAC" not in text
    assert "No &lt;multiplications&gt;" in html
    assert "held in its shape" in build_atlas({}).not_reproduced().markdown()


def test_summary_counts_systems_claims_authors_and_findings(atlas):
    count = atlas.summary()
    assert count["systems"] == 103 and count["evidence"] == 3
    assert (count["hold"], count["fail"], count["untested"]) == (1, 1, 1)
    assert count["claims_verified"] == sum(entry["claim"]["verified"] for entry in load_catalogue())
    assert count["measured"] == 1 and count["modelled"] == 1 and count["simulated"] == 0


def test_citations_read_as_names_not_as_markup():
    texts = [citation_text(fields) for fields in load_bibliography().values()]
    assert not [text for text in texts if re.search(r"[{}\\]", text)]
    assert citation_text({"author": "{Intel Corporation}", "year": "2023"}) == "Intel Corporation 2023"
    assert citation_text({"author": "Das Sharma, Debendra", "year": "2023"}) == "Das Sharma 2023"
    assert citation_text({"author": "Zhang, Biao and Sennrich, Rico", "year": "2019"}) == "Zhang and Sennrich 2019"


def test_every_system_of_the_catalogue_can_be_found_by_its_hardware():
    assert [entry["hardware"] for entry in load_catalogue() if not machines(entry["hardware"])] == []
    assert machines("consumer GPU with near-data DIMMs") == ["gpu", "pim"]
