import pytest

from lit_vlm.data.chat_data_module import ChatDataModule
from lit_vlm.data.learned_turns import mark_turns
from lit_vlm.data.transformed_samples import PreparedSamples
from lit_vlm.interfaces.critiques import Critique
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import IGNORED_LABEL, Message, Sample, TextPart, assistant_message, user_message

TURNS = (
    user_message("which digits are these?"),
    assistant_message("i see 7 and 8."),
    user_message("judge this: i see 7 and 9."),
    Message("assistant", (TextPart("wrong"),)),
)


def marks(learn, critique=None):
    sample = mark_turns(Sample("s", TURNS, critique=critique), learn)
    return [message.train for message in sample.messages]


@pytest.mark.parametrize(
    ("learn", "solved", "judged"),
    [
        (None, [False, True, False, False], [False, True, False, False]),
        ("all_turns", [False, True, False, True], [False, True, False, True]),
        ("last_turn", [False, False, False, True], [False, False, False, True]),
        ("critique", [False, True, False, True], [False, False, False, True]),
    ],
)
def test_the_assistants_turns_are_marked(learn, solved, judged):
    assert marks(learn) == solved
    assert marks(learn, Critique("q", "r")) == judged


def test_a_question_alone_stays_as_it_is():
    question = Sample("s", TURNS[:1])
    assert mark_turns(question, "last_turn") == question


def test_what_is_marked_is_what_is_learnt(random_tiny_encoder):
    learnt = {}
    for learn in ("all_turns", "critique"):
        (sample,) = [PreparedSamples([Sample("s", TURNS, critique=Critique("q", "r"))], None, learn)[0]]
        labels = random_tiny_encoder.encode([sample]).labels
        learnt[learn] = random_tiny_encoder.tokenizer.decode(labels[labels != IGNORED_LABEL])
    assert learnt == {"all_turns": "i see 7 and 8.<|im_end|>wrong<|im_end|>", "critique": "wrong<|im_end|>"}


def test_another_word_is_refused():
    with pytest.raises(UserError, match=r"data\.learn is 'first'; give one of all_turns, last_turn, critique"):
        ChatDataModule("data.jsonl", learn="first")
