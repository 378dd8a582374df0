"""The chain of predict runs that MultiCritique's data come from, with teachers behind a real server."""

import json
import re

import pytest
from lightning import Trainer

from lit_vlm.callbacks.completion_ledger import CompletionLedger
from lit_vlm.data.ledger_data_module import LedgerDataModule
from lit_vlm.interfaces.critiques import CritiqueUnit
from lit_vlm.models.vision_language_model import GenerationSettings
from lit_vlm.paradigms.endpoint import EndpointModule
from lit_vlm.paradigms.endpoint_client import Endpoint
from lit_vlm.parsing.critique_units import read_units, write_critique
from lit_vlm.parsing.critique_verdict import read_verdict
from lit_vlm.parsing.meta_critiques import write_unit_labels
from lit_vlm.synthesis.aggregate_critiques import AggregateCritiques
from lit_vlm.synthesis.critique_unit_prompts import CritiqueUnitPrompts
from lit_vlm.synthesis.meta_critique_prompts import MetaCritiquePrompts
from lit_vlm.synthesis.revision_prompts import RevisionPrompts
from lit_vlm.synthesis.revision_validated_pairs import RevisionValidatedPairs
from tests.paradigms.endpoint_server import said, serving
from tests.paradigms.test_endpoint import Questions, asked

TRUE = CritiqueUnit("step 1", "the sum is one too large", 2.0, "subtract one")
FALSE = CritiqueUnit("step 1", "the question was misread", 3.0, "start again")


def teacher(request):
    """Solves wrongly, criticises by the name it is asked under, labels and revises by what it reads."""
    text, name = request.question, request.body["model"]
    if "Remark 1:" in text:
        remarks = re.findall(r"Remark [0-9]+: (.*)", text)
        return said(write_unit_labels(["correct" if TRUE.description in remark else "wrong" for remark in remarks]))
    if "Critique: " in text:
        number = int(re.search(r"What is ([0-9]+)", text).group(1))
        return said(f"<answer>{number + (TRUE.description not in text)}</answer>")
    if "Solution: " in text:
        return said(write_critique([TRUE] if name == "good" else [FALSE]))
    return said(f"<answer>{int(re.search('[0-9]+', text).group()) + 1}</answer>")


@pytest.fixture
def predict(tmp_path):
    """Lets a teacher write a ledger, and returns its folder."""

    def run(url, data_of, name, model="teacher", completions=1):
        generation = GenerationSettings(temperature=1.0, completions=completions)
        module = EndpointModule(Endpoint(url, model), generation=generation, cache=None)
        folder = tmp_path / name
        trainer = Trainer(
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            default_root_dir=tmp_path / "run",
            callbacks=[CompletionLedger(str(folder))],
            use_distributed_sampler=False,
        )
        trainer.predict(module, data_of(module.encoder))
        return str(folder)

    return run


def made_by(ledgers, transform, **options):
    return lambda encoder: LedgerDataModule(
        ledgers, encoder, transform=transform, predict_split="train", num_workers=0, any_split=True, **options
    )


def test_two_critics_become_critiques_to_imitate_and_pairs_to_prefer(predict):
    with serving(teacher) as server:
        solved = predict(server.url, lambda encoder: Questions([asked(3), asked(8)], encoder), "solved")
        critics = [
            predict(server.url, made_by(solved, CritiqueUnitPrompts(with_reference=True)), name, model=name)
            for name in ("good", "bad")
        ]
        meta = predict(server.url, made_by(critics, MetaCritiquePrompts()), "meta")
        revised = predict(server.url, made_by(critics, RevisionPrompts()), "revised", completions=3)
    assert "Reference answer: 3" in json.dumps([request.body for request in server.asked])
    imitated = made_by(critics, AggregateCritiques(agree=True), attach={"critiques": meta})(None).prepared("train")
    assert len(imitated) == 2
    for sample in imitated:
        text = sample.messages[-1].text
        assert read_units(text) == (TRUE,)
        assert read_verdict(text) == sample.critique.verdict == "wrong"
        assert "Reference" not in sample.question
        assert len(sample.images) == 1
    paired = made_by(critics, RevisionValidatedPairs(), attach={"revisions": revised})(None).prepared("train")
    assert len(paired) == 2
    for sample in paired:
        ((chosen,), (rejected,)) = sample.preferences[0].chosen, sample.preferences[0].rejected
        assert (read_units(chosen.text), read_units(rejected.text)) == ((TRUE,), (FALSE,))
