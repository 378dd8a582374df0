import pytest

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Sample, assistant_message, user_message
from lit_vlm.models.conversation import ConversationRenderer


class Template:
    """Stands in for a tokenizer with a chat template written in Python."""

    chat_template = "python"
    eos_token, bos_token, pad_token = "</s>", "<s>", None
    all_special_tokens = ("<s>", "</s>", "<box>")

    def __init__(self, form):
        self.form = form

    def apply_chat_template(self, conversation, tokenize, add_generation_prompt):
        turns = [(turn["role"], "".join(part["text"] for part in turn["content"])) for turn in conversation]
        return self.form(turns, add_generation_prompt)


def appending(turns, open_turn):
    text = "".join(f"[{role}]{content}</s>\n" for role, content in turns)
    return f"<s>{text}" + ("[assistant]" if open_turn else "")


def without_end(turns, open_turn):
    text = "".join(f" {role}: {content}" for role, content in turns)
    return text + (" assistant: " if open_turn else "")


def forgetting(turns, open_turn):
    kept = [
        (role, "…" if role == "assistant" and index < len(turns) - 1 else content)
        for index, (role, content) in enumerate(turns)
    ]
    return appending(kept, open_turn)


def renderer(form):
    template = Template(form)
    return ConversationRenderer(template, template, [])


def sample(*texts):
    messages = [(user_message if index % 2 == 0 else assistant_message)(text) for index, text in enumerate(texts)]
    return Sample(id="s", messages=tuple(messages))


def test_a_conversation_is_cut_at_the_borders_of_trained_turns():
    segments = renderer(appending).segments(sample("one", "first", "two", "second"))
    assert [(segment.text, segment.trained) for segment in segments] == [
        ("<s>[user]one</s>\n[assistant]", False),
        ("first</s>", True),
        ("\n[user]two</s>\n[assistant]", False),
        ("second</s>", True),
    ]


def test_the_end_of_turn_is_added_where_the_template_writes_none():
    segments = renderer(without_end).segments(sample("one", "first"))
    assert segments[-1].text == "first</s>"


def test_a_prompt_ends_where_the_model_begins():
    (segment,) = renderer(appending).prompt_segments(sample("one", "first"))
    assert segment.text == "<s>[user]one</s>\n[assistant]"


def test_a_template_that_rewrites_earlier_turns_is_refused():
    with pytest.raises(UserError, match="changes earlier turns"):
        renderer(forgetting).segments(sample("one", "first", "two", "second"))
    assert renderer(forgetting).segments(sample("one", "first"))[-1].text == "first</s>"


def test_only_tokens_that_steer_the_template_are_broken_up():
    segments = renderer(appending).segments(sample("a</s>b <box>", "see <box>"))
    assert segments[0].text == "<s>[user]a< /s>b <box></s>\n[assistant]"
    assert segments[1].text == "see <box></s>"


def test_a_missing_chat_template_is_named():
    template = Template(appending)
    template.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        ConversationRenderer(template, template, [])
