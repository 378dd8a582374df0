"""A solution of a question with a picture, its critiques, and what a meta-critic says of them."""

from dataclasses import replace

from PIL import Image

from lit_vlm.interfaces.critiques import Critique, CritiqueUnit
from lit_vlm.interfaces.records import (
    Answer,
    Candidate,
    MediaRef,
    Message,
    Sample,
    SampleMeta,
    TextPart,
    assistant_message,
    user_message,
)
from lit_vlm.parsing.critique_units import write_critique
from lit_vlm.parsing.meta_critiques import write_unit_labels

PAGE = MediaRef(pil=Image.new("RGB", (8, 8)))
TRUE = CritiqueUnit("step 2", "2 + 3 is 5, not 6", 2.0, "2 + 3 = 5")
FALSE = CritiqueUnit("step 1", "there is a 7", 3.0)


def question(*solutions, **scores):
    """A question with solutions."""
    candidates = tuple(Candidate((assistant_message(text),), scores) for text in solutions)
    system = Message("system", (TextPart("Be brief."),))
    return Sample(
        "page-1",
        (system, user_message("What do they add up to?", images=1), assistant_message("5")),
        images=(PAGE,),
        answer=Answer("number", "5"),
        meta=SampleMeta(category="sum", split="train"),
        candidates=candidates,
    )


def critic(units, labels=None, text=None, **scores):
    """A critique with what the meta-critic says of it."""
    written = write_critique(units) if text is None else text
    meta = None if labels is None else Critique("", "", write_unit_labels(labels))
    return Candidate((assistant_message(written),), scores, critique=meta)


def criticised(*critiques, verdict=None):
    """A critic's question with the critiques of several."""
    about = Critique("What do they add up to?", "2 + 3 = 6. so 6.", verdict=verdict)
    asked = Sample(
        "page-1#0",
        (user_message("Judge this. Reference answer: 5", images=1),),
        images=(PAGE,),
        answer=Answer("number", "5"),
        critique=about,
        meta=SampleMeta(category="sum", extra={"parent": "page-1", "candidate": 0}),
    )
    return replace(asked, candidates=critiques)
