import json
from dataclasses import replace

import pytest

from lit_vlm.callbacks.prediction_writer import PredictionWriter, json_line, merge_in_turn
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Answer


@pytest.fixture
def predict(answers, make_loader, make_trainer):
    def run(writer, module=None):
        make_trainer(writer).predict(module or answers, make_loader(5), return_predictions=False)

    return run


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_each_completion_is_one_line_in_order(predict, tmp_path, capsys):
    predict(PredictionWriter())
    path = tmp_path / "predictions.jsonl"
    records = read(path)
    assert [record["sample_id"] for record in records] == [f"sample-{index}" for index in range(5)]
    assert records[0]["completion"] == "<think>i see 3</think><answer>3</answer>"
    assert records[0]["correct"] is False
    assert f"wrote 5 predictions to {path}, exact match 0.0 % (0 of 5)" in capsys.readouterr().out


def test_lines_are_on_disk_after_each_batch_and_stay_after_a_failure(predict, answers, tmp_path, monkeypatch):
    path = tmp_path / "new" / "out.jsonl"
    sizes = []
    step = answers.predict_step

    def failing_step(batch, batch_idx):
        sizes.append(len(read(path)))
        if batch_idx == 2:
            raise RuntimeError("out of memory")
        return step(batch, batch_idx)

    monkeypatch.setattr(answers, "predict_step", failing_step)
    with pytest.raises(RuntimeError, match="out of memory"):
        predict(PredictionWriter(str(path)))
    assert sizes == [0, 2, 4]
    assert len(read(path)) == 4


def test_an_existing_file_is_not_touched(predict, tmp_path):
    path = tmp_path / "out.jsonl"
    path.write_text("precious")
    with pytest.raises(UserError, match=r"would overwrite .*out\.jsonl'; give another PredictionWriter\.path"):
        predict(PredictionWriter(str(path)))
    assert path.read_text() == "precious"


def test_nothing_is_written_while_fitting(fit, tmp_path):
    fit(PredictionWriter())
    assert not list(tmp_path.rglob("*.jsonl"))


def test_the_answer_is_written_without_its_images(make_completion):
    completion = make_completion(0, text="sieben: sieben ✓ 七")
    line = json_line(completion)
    assert "sieben ✓ 七" in line
    assert "\n" not in line
    assert "PIL" not in line
    assert "images" not in line


def test_numbers_that_json_lacks_are_written_as_null(make_completion):
    completion = replace(make_completion(0), log_prob_sum=float("-inf"))
    assert json.loads(json_line(completion))["log_prob_sum"] is None


def test_a_ground_truth_of_any_type_is_written(make_completion):
    completion = make_completion(0)
    boxes = Answer("boxes", [(1, 2, 3, 4)])
    odd = Answer("open", {7})
    for answer, value in ((boxes, [[1, 2, 3, 4]]), (odd, "{7}")):
        line = json_line(replace(completion, sample=replace(completion.sample, answer=answer)))
        assert json.loads(line)["answer"] == value


def test_files_of_ranks_are_dealt_into_one_in_the_order_of_the_samples(tmp_path):
    parts = [tmp_path / f"rank{rank}" for rank in range(3)]
    # Rank r of 3 has samples r, r + 3, ...; of 7 samples the first rank has one more.
    for rank, part in enumerate(parts):
        part.write_text("".join(f"{index}\n" for index in range(rank, 7, 3)), encoding="utf-8")
    merge_in_turn(parts, tmp_path / "all")
    assert (tmp_path / "all").read_text() == "".join(f"{index}\n" for index in range(7))
    assert [path.name for path in tmp_path.iterdir()] == ["all"]


def test_a_rank_whose_file_cannot_be_seen_is_named(tmp_path):
    (tmp_path / "rank0").write_text("0\n")
    with pytest.raises(UserError, match=r"cannot see the predictions .*rank1.* share"):
        merge_in_turn([tmp_path / "rank0", tmp_path / "rank1"], tmp_path / "all")
    assert (tmp_path / "rank0").exists()
