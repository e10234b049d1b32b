"""The pages computed from files: what is there is shown, what is missing is said, what is broken is named."""

import json

import pytest
from edgeinfer.figures.model_cards import card, parameters, table
from edgeinfer.figures.results import benchmark_comparison, benchmark_sections
from edgeinfer.measure import Comparison

CONFIG = {
    "num_hidden_layers": 2,
    "hidden_size": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 16,
}


def write_model(folder, shapes):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    entries = {n: {"dtype": "BF16", "shape": s, "data_offsets": [0, 0]} for n, s in shapes.items()}
    header = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)


def test_a_model_is_described_from_its_files_and_missing_ones_are_named(tmp_path):
    write_model(tmp_path / "target", {"a": [1000, 500], "b": [250_000]})
    shown = table(tmp_path, ("target", "draft"))
    assert "| `target` | 0.75 |" in shown and "| 4 / 2 |" in shown
    assert "Not part of this copy" in shown and "`draft`" in shown


def test_a_file_that_is_no_checkpoint_is_named(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"version https://")
    with pytest.raises(ValueError, match=r"model\.safetensors is no safetensors file"):
        parameters(tmp_path / "model.safetensors")


def test_a_card_loses_its_headings_and_its_front_matter(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "README.md").write_text("---\nlicense: x\n---\n# Target\n\n## Data\nText.\n")
    assert card("target", tmp_path) == "**Data**\nText."
    assert "not part of this copy" in card("draft", tmp_path)


def test_comparisons_are_found_wherever_a_file_holds_them(tmp_path):
    comparison = Comparison("peer", {"peer": (2.0, 2.0, 2.0), "ours": (1.0, 1.0, 1.0)}, {"peer": 1, "ours": 1})
    machine = {"format": "edgeinfer.machine/1", "processor": "A <processor>", "cores_usable": 2}
    content = {"title": "Kernels", "machine": machine, "comparisons": {"int4": json.loads(comparison.to_json())}}
    (tmp_path / "kernels.json").write_text(json.dumps(content))
    (section,) = benchmark_sections(tmp_path)
    assert "<h2>Kernels</h2>" in section.html and "<h3>int4</h3>" in section.html and "2.00" in section.html
    assert "A &lt;processor&gt;, 2 usable cores" in section.html
    quoted = benchmark_comparison("kernels", "int4", tmp_path)
    assert quoted.times == comparison.times
    with pytest.raises(KeyError, match="kernels has no table 'int3'; it has int4"):
        benchmark_comparison("kernels", "int3", tmp_path)


def test_no_results_and_broken_results_are_said(tmp_path):
    assert "No benchmark has been run" in repr(benchmark_sections(tmp_path)[0])
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match=r"a\.json is no JSON file .*; run make bench again"):
        benchmark_sections(tmp_path)
