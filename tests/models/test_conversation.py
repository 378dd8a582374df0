import pytest
from transformers.utils.chat_template_utils import jinja2

from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import (
    Message,
    Sample,
    SampleMeta,
    TextPart,
    VideoPart,
    assistant_message,
    user_message,
)
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


def respaced(turns, open_turn):
    text = "".join(f"[{role}] {content}</s>" for role, content in turns)
    return text + ("[assistant]\n" if open_turn else "")


def refusing(turns, open_turn):
    if any(role == "system" for role, _ in turns):
        raise jinja2.exceptions.TemplateError("system turns are not supported")
    return appending(turns, open_turn)


def renderer(form, **options):
    template = Template(form)
    return ConversationRenderer(template, template, [], **options)


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
    with pytest.raises(BadSampleError, match="s: the chat template changes earlier turns"):
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


def test_what_is_learnt_follows_the_header_of_generation():
    segments = renderer(respaced).segments(sample("one", "assistant", "two", " second "))
    assert [(segment.text, segment.trained) for segment in segments] == [
        ("[user] one</s>[assistant]\n", False),
        ("assistant</s>", True),
        ("[user] two</s>[assistant]\n", False),
        ("second </s>", True),
    ]


def test_a_conversation_that_the_template_refuses_names_the_sample():
    system = Message("system", (TextPart("be brief"),))
    refused = Sample("s", (system, *sample("one", "first").messages), meta=SampleMeta(origin="data.jsonl, line 3"))
    with pytest.raises(BadSampleError, match="data.jsonl, line 3: .* system turns are not supported"):
        renderer(refusing).segments(refused)


def test_the_first_token_is_added_where_the_template_leaves_it_out():
    assert renderer(without_end, begin="<s>").prompt_segments(sample("one"))[0].text.startswith("<s> user: one")
    assert renderer(appending, begin="<s>").prompt_segments(sample("one"))[0].text.startswith("<s>[user]one")


def test_a_model_that_reads_text_only_is_given_strings_and_no_media():
    class Strings(Template):
        def apply_chat_template(self, conversation, tokenize, add_generation_prompt):
            return self.form([(turn["role"], turn["content"]) for turn in conversation], add_generation_prompt)

    template = Strings(appending)
    plain = ConversationRenderer(template, template, [], text_only=True)
    assert plain.prompt_segments(sample("a</s>b"))[0].text == "<s>[user]a< /s>b</s>\n[assistant]"
    with pytest.raises(BadSampleError, match="s: this model reads text only"):
        plain.segments(Sample("s", (user_message("a", images=1), assistant_message("b"))))


def test_one_template_renders_all_turns_of_a_conversation_with_a_video():
    class Chosen(Template):
        def apply_chat_template(self, conversation, tokenize, add_generation_prompt, chat_template):
            turns = [
                (turn["role"], "".join(part.get("text", "V") for part in turn["content"])) for turn in conversation
            ]
            return f"<{chat_template}>" + self.form(turns, add_generation_prompt)

    template = Chosen(without_end)
    chosen = ConversationRenderer(template, template, [], choose_template=lambda video: "video" if video else "plain")
    messages = (*sample("one", "first").messages, Message("user", (VideoPart(0),)), assistant_message("second"))
    read, learnt, *_ = chosen.segments(Sample("s", messages))
    assert (read.text, learnt.text) == ("<video> user: one assistant: ", "first</s>")
    assert chosen.prompt_segments(sample("one"))[0].text == "<plain> user: one assistant: "


def test_the_templates_own_end_of_turn_is_learnt_rather_than_the_end_of_text():
    class Gemma(Template):
        all_special_tokens = ("<s>", "</s>", "<turn>")

    template = Gemma(
        lambda turns, open_turn: "".join(f"{role}:{text}<turn>\n" for role, text in turns) + "assistant:" * open_turn
    )
    segments = ConversationRenderer(template, template, []).segments(sample("one", "first", "two", "second"))
    assert [segment.text for segment in segments if segment.trained] == ["first<turn>", "second<turn>"]
