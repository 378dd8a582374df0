import json

import pytest

from lit_vlm.merging.merge_report import LINES, FigureLog, write_report
from lit_vlm.merging.model_card import MergeSource
from lit_vlm.merging.weight_figures import WeightFigures

MERGED = WeightFigures("a", True, "", (0, 2), (0.5, 1.0), 0.25, (0.125, None), (None,))
KEPT = WeightFigures("b", False, "coefficient 0")


def test_the_report_has_every_weight_with_what_became_of_it(tmp_path):
    sources = [MergeSource("target", "x", {"model.safetensors": "0" * 64})]
    write_report(tmp_path, "TIES()", ["donor 1 (y)"], sources, [MERGED, KEPT], ["careful"], {"seconds": 1.5})
    report = json.loads((tmp_path / "merge_report.json").read_text())
    assert report["merged"] == report["kept"] == 1
    assert report["seconds"] == 1.5
    assert report["warnings"] == ["careful"]
    assert report["sources"][0]["digests"] == {"model.safetensors": "0" * 64}
    first, second = report["weights"]
    assert second == {"name": "b", "merged": False, "reason": "coefficient 0"}
    assert first["donors"] == [0, 2]
    assert first["deltas"] == [0.125, None]
    assert "reason" not in first


def test_a_figure_that_is_no_number_is_a_fault(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_report(tmp_path, "", [], [], [], [], {"seconds": float("nan")})


def test_figures_are_there_when_a_merge_goes_on(tmp_path):
    log = FigureLog(tmp_path, ["a", "b"])
    log.add(MERGED)
    log.add(KEPT)
    assert log.known == [MERGED, KEPT]
    assert FigureLog(tmp_path, []).known == [MERGED, KEPT]


def test_weights_that_are_computed_again_are_forgotten(tmp_path):
    FigureLog(tmp_path, ["a", "b"]).add(MERGED)
    again = FigureLog(tmp_path, ["a"])
    assert again.known == []
    again.add(MERGED)
    assert FigureLog(tmp_path, []).known == [MERGED]


def test_a_line_that_was_cut_off_spoils_nothing(tmp_path):
    FigureLog(tmp_path, ["a"]).add(MERGED)
    with (tmp_path / LINES).open("a") as file:
        file.write('{"name": "b", "mer')
    log = FigureLog(tmp_path, ["b"])
    assert log.known == [MERGED]
    log.add(KEPT)
    assert FigureLog(tmp_path, []).known == [MERGED, KEPT]


def test_nothing_is_left_after_the_end(tmp_path):
    log = FigureLog(tmp_path, ["a"])
    log.add(MERGED)
    log.remove()
    assert list(tmp_path.iterdir()) == []
