"""Invented preference records in the layouts in which such data are published; the last of each list is broken."""


def turn(role, content):
    return {"role": role, "content": content}


def said(role, value):
    return {"from": role, "value": value}


def rating(number):
    return {"Rating": number, "Rationale": "so"}


PROMPTS = [
    {"id": "p1", "prompt": "<image>What is it?", "chosen": "A cup.", "rejected": "Two cups.", "image": "a.png"},
    {"prompt": [turn("user", [{"type": "image", "text": None}, {"type": "text", "text": "Colour?"}])],
     "chosen": [turn("assistant", [{"type": "text", "text": "Red."}])], "rejected": turn("assistant", "Blue."),
     "image": ["b.png"]},
    {"prompt": [turn("system", "Be brief."), turn("user", "Hi."), turn("assistant", "Yes?"), turn("user", "Who?")],
     "chosen": "Me.", "rejected": "You.", "weight": 0.25},
    # The halves repeat the prompt, as UltraFeedback has them.
    {"prompt": "Hi", "chosen": [turn("user", "Hi"), turn("assistant", "Hello!")],
     "rejected": [turn("user", "Hi"), turn("assistant", "Go.")], "score_chosen": 8.0, "score_rejected": 3.0,
     "messages": [turn("user", "Hi"), turn("assistant", "Hello!")]},
    {"prompt": "Hi", "chosen": [turn("user", "Bye"), turn("assistant", "Bye!")],
     "rejected": [turn("user", "Bye"), turn("assistant", "Go.")]},
]  # fmt: skip
IMPLICIT = [
    {"chosen": [turn("user", "<image>What?"), turn("assistant", "A cup.")],
     "rejected": [turn("user", "<image>What?"), turn("assistant", "A hat.")], "images": ["a.png"]},
    {"chosen": [turn("system", "Be kind."), turn("user", "Hi."), turn("assistant", "Hello.")],
     "rejected": [turn("system", "Be kind."), turn("user", "Hi."), turn("assistant", "Go.")]},
    {"chosen": [turn("user", "One?"), turn("assistant", "1"), turn("user", "Two?"), turn("assistant", "2")],
     "rejected": [turn("user", "One?"), turn("assistant", "1"), turn("user", "Two?"), turn("assistant", "3")]},
    # One half goes on where the other ends.
    {"chosen": [turn("user", "Why?"), turn("assistant", "So."), turn("assistant", "And so.")],
     "rejected": [turn("user", "Why?"), turn("assistant", "So.")]},
    {"chosen": [turn("user", "One?"), turn("assistant", "1")],
     "rejected": [turn("user", "Two?"), turn("assistant", "2")]},
]  # fmt: skip
RLAIF_V = [
    {"ds_name": "RLAIF-V", "image": {"bytes": None, "path": "a.png"}, "question": "What is the man doing?",
     "chosen": "He rides a horse.", "rejected": "He rides a bike.", "origin_dataset": "VQAv2",
     "origin_split": '{"model": "m", "type": "question_answering"}', "idx": 0, "image_path": "p/1.jpg"},
    {"ds_name": "RLAIF-V", "image": {"bytes": None, "path": "b.png"}, "question": "Where?", "chosen": "At sea.",
     "rejected": "At sea, at night.", "origin_dataset": "VQAv2", "origin_split": "", "idx": 1, "image_path": "p/2.jpg"},
    {"question": "Name a prime.", "chosen": 7, "rejected": 8},
    # RLHF-V with its text split into columns.
    {"ds_name": "RLHF-V", "image": {"bytes": None, "path": "a.png"}, "question": "Describe.", "chosen": "A cup.",
     "rejected": "Two cups.", "origin_dataset": "LLaVA", "idx": 2},
    {"question": "What?", "chosen": "A cup.", "rejected": " ", "image": {"bytes": None, "path": "a.png"}},
]  # fmt: skip
RLHF_V = [
    {"ds_name": "RLHF-V", "image": {"bytes": None, "path": "a.png"}, "origin_dataset": "LLaVA", "idx": 3,
     "text": '{"question": "Describe.", "chosen": "A cup.\\nRed.", "rejected": "Two  cups.\\nRed."}'},
    {"ds_name": "RLHF-V", "image": {"bytes": None, "path": "b.png"}, "origin_dataset": "LLaVA", "idx": 4,
     "text": '{"question": "<image>Which?", "chosen": "[1, 2]", "rejected": "[1, 3]"}'},
    {"text": {"question": "Hi.", "chosen": "Hello.", "rejected": "Go."}},
    {"text": '{"question": "Hi.", "chosen": "Hello.", "rejected": "No.", "more": 1}'},
    {"text": '{"question": "Hi."', "image": {"bytes": None, "path": "a.png"}},
]  # fmt: skip
SHAREGPT = [
    {"conversations": [said("human", "<image>Describe.")], "chosen": said("gpt", "A bus."),
     "rejected": said("gpt", "A cat."), "images": ["a.png"]},
    {"conversations": [said("human", "<image><image>Same?")], "chosen": said("gpt", "No."),
     "rejected": said("gpt", "Yes."), "images": ["a.png", "b.png"]},
    {"conversations": [said("human", "Hi.")], "chosen": said("gpt", "Hello."), "rejected": said("gpt", "Go."),
     "system": "Be kind."},
    {"conversations": [said("human", "<image>One?"), said("gpt", "1"), said("human", "Two?")],
     "chosen": said("gpt", "2"), "rejected": said("gpt", "3"), "images": ["a.png"]},
    {"conversations": [said("human", "Hi."), said("gpt", "Yes?")], "chosen": said("gpt", "A"),
     "rejected": said("gpt", "B")},
]  # fmt: skip
SWIFT = [
    {"messages": [turn("user", "<image>What?"), turn("assistant", "A cup.")], "rejected_response": "A hat.",
     "images": ["a.png"]},
    {"messages": [turn("user", "<image><image>Same?"), turn("assistant", "No.")],
     "rejected_response": [turn("assistant", "Yes.")], "images": ["a.png", "b.png"]},
    {"messages": [turn("system", "Be kind."), turn("user", "Hi."), turn("assistant", "Hello.")],
     "rejected_response": "Go."},
    {"messages": [turn("user", "One?"), turn("assistant", "1"), turn("user", "Two?"), turn("assistant", "2")],
     "rejected_response": "3"},
    {"messages": [turn("user", "<image>What?"), turn("assistant", "A cup.")], "rejected_response": "A cup.",
     "images": ["a.png"], "rejected_images": ["b.png"]},
]  # fmt: skip
INSTRUCTIONS = [
    {"instruction": "<image>Describe.", "input": "", "chosen": "A bus.", "rejected": "A cat.", "image": "a.png"},
    {"instruction": "Compare <image> and <image>.", "input": "Briefly.", "chosen": "Alike.", "rejected": "No.",
     "image": ["a.png", "b.png"]},
    {"instruction": "Translate.", "input": "chat", "chosen": "cat", "rejected": "dog", "system": "You know French."},
    {"instruction": "And two?", "chosen": "deux", "rejected": "trois", "history": [["One?", "un"]]},
    {"instruction": "", "chosen": "deux", "rejected": "trois"},
]  # fmt: skip
PAIRS = {
    "prompt_pairs": PROMPTS,
    "implicit_pairs": IMPLICIT,
    "question_pairs": RLAIF_V,
    "rlhf_v": RLHF_V,
    "conversation_pairs": SHAREGPT,
    "swift_pairs": SWIFT,
    "instruction_pairs": INSTRUCTIONS,
}

VLFEEDBACK = [
    {"id": "v1", "prompt": "What is it?", "img_path": "a.png", "models": ["m1", "m2"], "completions": {
        "model": ["m1", "m2"], "response": ["A cat.", "A dog."],
        "annotations": [
            {"Helpfulness": rating("5"), "Visual Faithfulness": rating("5"), "Ethical Considerations": rating("N/A")},
            {"Helpfulness": rating("2"), "Visual Faithfulness": rating("1"), "Ethical Considerations": rating("5")},
        ]}},
    # The same, as a list of objects, and with all lists turned inside out.
    {"id": "v2", "prompt": "What is it?", "img_path": "b.png", "completions": [
        {"model": "m1", "response": "A cat.", "annotations": {"Helpfulness": rating("5")}},
        {"model": "m2", "response": "A dog.", "annotations": {"Helpfulness": rating("2")}},
    ]},
    {"id": "v3", "prompt": "Hi.", "completions": {
        "model": ["m1", "m2"], "response": ["Hello.", "Go."],
        "annotations": {"Helpfulness": {"Rating": ["4", "1"], "Rationale": ["a", "b"]}}}},
    {"id": "v4", "prompt": "Hi.", "completions": {"model": ["m1"], "response": ["A", "B"]}},
]  # fmt: skip
ULTRAFEEDBACK = [
    {"instruction": "Name a prime.", "models": ["m1", "m2"], "completions": [
        {"model": "m1", "response": "7", "annotations": {
            "helpfulness": rating("4"), "honesty": rating("5"), "instruction_following": rating("5"),
            "truthfulness": rating("N/A")}},
        {"model": "m2", "response": "8", "annotations": {
            "helpfulness": rating("1"), "honesty": rating("3"), "instruction_following": rating("2"),
            "truthfulness": rating("1")}},
    ]},
    {"instruction": "Say hi.", "completions": [
        {"model": "m1", "response": "Hi.", "annotations": {"helpfulness": rating("4")}},
        {"model": "m2", "response": "", "annotations": {"helpfulness": rating("1")}},
    ]},
    {"instruction": "Say hi.", "completions": [{"model": "m1", "response": ""}]},
]  # fmt: skip
GRADED = [
    {"id": "g1", "image": "a.png", "question": "Why is it funny?", "completions": [
        {"text": "Because ...", "scores": {"helpfulness": 4, "correctness": 3, "verbosity": 2}},
        {"text": "It is.", "scores": {"helpfulness": 1, "correctness": 1, "verbosity": 0}},
    ]},
    {"id": "g2", "question": "1 + 1?", "completions": [
        {"text": "2", "correct": True}, {"text": "3", "correct": False}, {"text": "4", "correct": False},
    ]},
    {"id": "g3", "question": "1 + 1?", "completions": [{"text": "2", "scores": {"helpfulness": "good"}}]},
]  # fmt: skip
CANDIDATES = {"vlfeedback": VLFEEDBACK, "ultrafeedback": ULTRAFEEDBACK, "graded": GRADED}

DESCRIPTIONS = {
    "2345": {"chosen": ["A dog lies on a rug.", "A rug bears a dog."], "rejected": ["Two dogs lie on a rug."]},
    "77": {"chosen": "A cup.", "rejected": "Two cups."},
}
QUESTIONS = [
    {"image_id": 2345, "question": "Is there a dog?", "chosen": "Yes.", "rejected": "No."},
    {"image": "77.jpg", "question": "Is there a hat?", "chosen": "No.", "rejected": "Yes."},
]
