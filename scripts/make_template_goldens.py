#!/usr/bin/env python3
"""Writes tests/goldens/templates/cases.json: what transformers renders for each template and conversation there.

Run: python scripts/make_template_goldens.py      (needs transformers and jinja2; made with transformers 5.23.0)
The templates themselves are data: see tests/goldens/templates/README.md for where they come from.
"""
import datetime
import json
import pathlib

import jinja2
import transformers
import transformers.utils.chat_template_utils as chat_template_utils

FOLDER = pathlib.Path(__file__).parent.parent / "tests/goldens/templates"

SPECIAL_TOKENS = {
    "llama2": ("<s>", "</s>"),
    "mistral": ("<s>", "</s>"),
    "zephyr": ("<s>", "</s>"),
    "llama3": ("<|begin_of_text|>", "<|eot_id|>"),
    "llama3_1": ("<|begin_of_text|>", "<|eot_id|>"),
    "llama3_2": ("<|begin_of_text|>", "<|eot_id|>"),
    "gemma": ("<bos>", "<eos>"),
    "gemma3": ("<bos>", "<eos>"),
    "phi3": ("<s>", "<|endoftext|>"),
    "phi3_5": ("<s>", "<|endoftext|>"),
    "smollm2": ("<|im_start|>", "<|im_end|>"),
    "deepseekv3": ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
    "cohere": ("<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>"),
}

# What ends an assistant's turn, by each model's card; the test checks that it is learned.
END_OF_TURN = {
    "gemma": "<end_of_turn>",
    "gemma3": "<end_of_turn>",
    "phi3": "<|end|>",
    "phi3_5": "<|end|>",
}


def messages(*turns):
    return [{"role": role, "content": content} for role, content in turns]


TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get <b>weather</b> & 'more' – ünï",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TOOL_CALL = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Zürich", "n": 2, "b": True}}}

CONVERSATIONS = {
    "single": {"messages": messages(("user", 'Hi <there> & "you" {{x}}'), ("assistant", "Hello!"))},
    "multi": {
        "messages": messages(("user", "1+1?"), ("assistant", "2"), ("user", "  and\n 2+2? \n"), ("assistant", "It is é4")),
    },
    "system": {"messages": messages(("system", "Be terse."), ("user", "1+1?"), ("assistant", "2"))},
    "system_multi": {
        "messages": messages(
            ("system", "Be terse."), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d e"), ("user", "f"), ("assistant", "g")
        ),
    },
    "generation": {"messages": messages(("user", "1+1?")), "add_generation_prompt": True},
    "generation_multi": {
        "messages": messages(("system", "Be terse."), ("user", "1+1?"), ("assistant", "2"), ("user", "2+2?")),
        "add_generation_prompt": True,
    },
    "thoughts": {
        "messages": messages(
            ("user", "a"), ("assistant", "<think>\nfirst\n</think>\n\nb"), ("user", "c"), ("assistant", "<think>\nlast\n</think>\n\nd")
        ),
    },
    "tools": {
        "messages": [
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": "", "tool_calls": [TOOL_CALL]},
            {"role": "tool", "content": '{"t": 3}'},
            {"role": "assistant", "content": "3 °C"},
        ],
        "tools": [TOOL],
    },
    "two_users": {"messages": messages(("user", "a"), ("user", "b"))},
}


class FixedDate(datetime.datetime):
    """Templates that write today's date write this one."""

    @classmethod
    def now(cls, tz=None):
        return cls(2026, 1, 2, 3, 4, 5)


def render(template, bos, eos, conversation):
    try:
        rendered, _ = chat_template_utils.render_jinja_template(
            conversations=[conversation["messages"]],
            tools=conversation.get("tools"),
            chat_template=template,
            add_generation_prompt=conversation.get("add_generation_prompt", False),
            bos_token=bos,
            eos_token=eos,
        )
        return {"text": rendered[0]}
    except (jinja2.exceptions.TemplateError, TypeError) as error:
        return {"raises": str(error)}


def main():
    chat_template_utils.datetime = FixedDate
    templates = {}
    for path in sorted(FOLDER.glob("*.jinja")):
        bos, eos = SPECIAL_TOKENS.get(path.stem, ("<|endoftext|>", "<|im_end|>"))
        source = path.read_bytes().decode()
        expected = {name: render(source, bos, eos, c) for name, c in CONVERSATIONS.items()}
        end = END_OF_TURN.get(path.stem, eos)
        templates[path.stem] = {"bos_token": bos, "eos_token": eos, "end_of_turn": end, "expected": expected}
    cases = {"transformers": transformers.__version__, "conversations": CONVERSATIONS, "templates": templates}
    text = json.dumps(cases, ensure_ascii=False, indent=1)
    (FOLDER / "cases.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
