"""What published chat templates do beyond writing turns one after another, each reduced to its trait."""

import shutil

import pytest
from tokenizers import Tokenizer, processors

from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import IGNORED_LABEL, Message, Sample, TextPart, assistant_message, user_message
from lit_vlm.models.backbone import Backbone

TEXT_OF = """\
{%- macro text_of(message) -%}
{%- for part in message.content -%}{{- part.text | trim -}}{%- endfor -%}
{%- endmacro -%}
"""
# Gemma 3: the system prompt goes into the first user turn, and roles must alternate.
FOLDING = """\
{{- bos_token -}}
{%- set turns = messages[1:] if messages[0].role == 'system' else messages -%}
{%- for message in turns -%}
{%- if (message.role == 'user') != (loop.index0 % 2 == 0) -%}
{{- raise_exception('roles must alternate') -}}
{%- endif -%}
{{- '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\\n' -}}
{%- if loop.first and messages[0].role == 'system' -%}{{- messages[0].content[0].text + '\\n\\n' -}}{%- endif -%}
{{- text_of(message) + '<end_of_turn>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<start_of_turn>model\\n' -}}{%- endif -%}
"""
# Qwen2-VL and Qwen2.5-VL: a system prompt of the template's own where the conversation has none.
DEFAULT_SYSTEM = """\
{%- for message in messages -%}
{%- if loop.first and message.role != 'system' -%}{{- '<|im_start|>system\\nbe good<|im_end|>\\n' -}}{%- endif -%}
{{- '<|im_start|>' + message.role + '\\n' + text_of(message) + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
# Qwen3: reasoning stays after the last question only, where there is always a place for it.
REASONING = """\
{%- set last = namespace(question=0) -%}
{%- for message in messages -%}
{%- if message.role == 'user' -%}{%- set last.question = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- set text = text_of(message) -%}
{%- if message.role == 'assistant' -%}
{%- set thought = text.split('</think>')[0].split('<think>')[-1] | trim if '</think>' in text else '' -%}
{%- if loop.index0 > last.question -%}{{- '<think>\\n' + thought + '\\n</think>\\n\\n' -}}{%- endif -%}
{%- set text = text.split('</think>')[-1] | trim -%}
{%- endif -%}
{{- text + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
# Qwen3-VL Thinking: generation begins within the reasoning.
OPENED_REASONING = REASONING.replace("'<|im_start|>assistant\\n' -", "'<|im_start|>assistant\\n<think>\\n' -")
# DeepSeek-R1 and its kin: no turn keeps its reasoning.
NO_REASONING = REASONING.replace("loop.index0 > last.question", "false")
# LLaVA: marks what is generated.
MARKED = """\
{%- for message in messages -%}
{{- message.role.upper() + ': ' -}}
{%- if message.role == 'assistant' -%}{%- generation -%}{{- text_of(message) + ' ' -}}{%- endgeneration -%}
{%- else -%}{{- text_of(message) + ' ' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'ASSISTANT:' -}}{%- endif -%}
"""
STRINGS_ONLY = "{%- for message in messages -%}{{- '<|im_start|>' + message.content + '<|im_end|>' -}}{%- endfor -%}"

SYSTEM = Message("system", (TextPart("say yes"),))
THOUGHT = "<think>it glows</think>i see 7."


@pytest.fixture
def encoder_of(family_folder, tmp_path):
    """Returns the encoder of a family's checkpoint with another template, and a tokenizer that begins texts."""

    def load(family, template, begin=None):
        folder = tmp_path / family
        shutil.copytree(family_folder(family), folder)
        (folder / "chat_template.jinja").write_text(TEXT_OF + template, encoding="utf-8")
        if begin is not None:
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            special = [(begin, tokenizer.token_to_id(begin))]
            tokenizer.post_processor = processors.TemplateProcessing(single=f"{begin} $A", special_tokens=special)
            tokenizer.save(str(folder / "tokenizer.json"))
        return Backbone(str(folder)).load_encoder()

    return load


def conversation(*texts, begin=()):
    turns = [(user_message, assistant_message)[index % 2](text) for index, text in enumerate(texts)]
    return Sample("s", (*begin, *turns))


def shown(encoder, sample):
    """What is read and what is learnt, in turn, with all tokens."""
    batch = encoder.encode([sample])
    ids, labels = batch.input_ids[0].tolist(), batch.labels[0].tolist()
    pieces: list[tuple[bool, list[int]]] = []
    for token, label in zip(ids, labels, strict=True):
        learnt = label != IGNORED_LABEL
        if not pieces or pieces[-1][0] != learnt:
            pieces.append((learnt, []))
        pieces[-1][1].append(token)
    return [(encoder.tokenizer.decode(tokens), learnt) for learnt, tokens in pieces]


def test_a_system_prompt_may_be_written_into_the_first_question(encoder_of):
    encoder = encoder_of("gemma3", FOLDING)
    assert shown(encoder, conversation("which?", " yes", "why?", "no", begin=(SYSTEM,))) == [
        ("<bos><start_of_turn>user\nsay yes\n\nwhich?<end_of_turn>\n<start_of_turn>model\n", False),
        ("yes<end_of_turn>", True),
        ("\n<start_of_turn>user\nwhy?<end_of_turn>\n<start_of_turn>model\n", False),
        ("no<end_of_turn>", True),
    ]


def test_roles_that_a_template_does_not_take_are_refused_by_sample(encoder_of):
    encoder = encoder_of("gemma3", FOLDING)
    twice = Sample("s", (user_message("a"), user_message("b"), assistant_message("c")))
    with pytest.raises(BadSampleError, match="s: the chat template refuses the conversation: roles must alternate"):
        encoder.encode([twice])


def test_a_templates_own_system_prompt_is_read_and_not_learnt(encoder_of):
    encoder = encoder_of("qwen2_5_vl", DEFAULT_SYSTEM)
    own, given = (shown(encoder, conversation("a", "b", begin=begin)) for begin in ((), (SYSTEM,)))
    assert own[0] == (
        "<|im_start|>system\nbe good<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n",
        False,
    )
    assert given[0][0].startswith("<|im_start|>system\nsay yes<|im_end|>\n<|im_start|>user")
    assert own[1:] == given[1:] == [("b<|im_end|>", True)]


def test_reasoning_is_learnt_as_the_template_writes_it(encoder_of):
    encoder = encoder_of("qwen3_vl", REASONING)
    learnt = [text for text, trained in shown(encoder, conversation("a", THOUGHT)) if trained]
    assert learnt == ["<think>\nit glows\n</think>\n\ni see 7.<|im_end|>"]
    learnt = [text for text, trained in shown(encoder, conversation("a", "yes")) if trained]
    assert learnt == ["<think>\n\n</think>\n\nyes<|im_end|>"]


def test_earlier_reasoning_that_a_template_drops_is_an_error_unless_it_is_only_read(encoder_of):
    encoder = encoder_of("qwen3_vl", REASONING)
    turns = conversation("a", THOUGHT, "b", "<think>why</think>no")
    with pytest.raises(BadSampleError, match="s: the chat template changes earlier turns .*data.train_on last"):
        encoder.encode([turns])
    first, second, third, last = turns.messages
    read_first = Sample("s", (first, Message("assistant", second.content, train=False), third, last))
    read, learnt = shown(encoder, read_first)
    assert read[0].endswith("assistant\ni see 7.<|im_end|>\n<|im_start|>user\nb<|im_end|>\n<|im_start|>assistant\n")
    assert learnt == ("<think>\nwhy\n</think>\n\nno<|im_end|>", True)


def test_reasoning_that_is_begun_for_the_model_is_read(encoder_of):
    encoder = encoder_of("qwen3_vl", OPENED_REASONING)
    read, learnt = shown(encoder, conversation("a", THOUGHT))
    assert read[0].endswith("<|im_start|>assistant\n<think>\n")
    assert learnt == ("it glows\n</think>\n\ni see 7.<|im_end|>", True)


@pytest.mark.parametrize("question", ["a", THOUGHT])
@pytest.mark.parametrize("thought", [THOUGHT, THOUGHT.replace("glows", "glows " * 50)])
def test_reasoning_that_a_template_drops_is_never_lost_silently(thought, question, encoder_of):
    encoder = encoder_of("qwen3_vl", NO_REASONING)
    assert shown(encoder, conversation(question, "yes"))[1] == ("yes<|im_end|>", True)
    with pytest.raises(BadSampleError, match="s: the chat template leaves out a part of an assistant's turn"):
        encoder.encode([conversation(question, thought)])


def test_a_turn_that_is_written_otherwise_than_it_is_prompted_for_is_refused(encoder_of):
    encoder = encoder_of(
        "qwen2_vl", NO_REASONING.replace("'<|im_start|>assistant\\n' -", "'<|im_start|>assistant\\n<think>\\n' -")
    )
    with pytest.raises(BadSampleError, match="s: the chat template prompts for .*<think>.*without it"):
        encoder.encode([conversation("a", "yes")])


def test_marks_of_what_is_generated_do_no_harm_and_the_end_is_learnt(encoder_of):
    encoder = encoder_of("llava", MARKED)
    assert shown(encoder, conversation("which?", "yes", "why?", "no")) == [
        ("USER: which? ASSISTANT:", False),
        (" yes</s>", True),
        ("USER: why? ASSISTANT:", False),
        (" no</s>", True),
    ]


@pytest.mark.parametrize(("family", "template", "begin"), [("llava", MARKED, "<s>"), ("gemma3", FOLDING, "<bos>")])
def test_a_text_begins_once_whether_tokenizer_or_template_begins_it(family, template, begin, encoder_of):
    encoder = encoder_of(family, template, begin)
    assert encoder.tokenizer("a")["input_ids"][0] == encoder.tokenizer.bos_token_id
    sample = conversation("which?", "yes", "why?", "no")
    for batch in (encoder.encode([sample]), encoder.encode_prompts([sample])):
        ids = batch.input_ids[0].tolist()
        assert ids[0] == encoder.tokenizer.bos_token_id
        assert ids.count(ids[0]) == 1


def test_a_template_that_takes_strings_only_is_named_before_training(encoder_of):
    with pytest.raises(UserError, match="the chat template of this checkpoint cannot render"):
        encoder_of("qwen2_vl", STRINGS_ONLY)


@pytest.mark.parametrize("family", ["qwen2", "llama", "qwen2_vl", "smolvlm", "gemma3"])
def test_a_conversation_that_begins_with_the_assistant_is_refused_by_sample(family, family_folder):
    encoder = Backbone(str(family_folder(family))).load_encoder()
    begun = Sample("s", (assistant_message("yes"), user_message("a"), assistant_message("no")))
    with pytest.raises(BadSampleError, match="s: the conversation begins with an assistant's turn"):
        encoder.encode([begun])
