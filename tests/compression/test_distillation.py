"""Teachers and the pairs that they write."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from szilard.compression.llmlingua2.distillation import (
    INSTRUCTION,
    EngineTeacher,
    chunks,
    distill,
    plain_texts,
    read_pairs,
)
from szilard.compression.llmlingua2.rule_teacher import RuleTeacher, sentences

TEXTS = [
    "Well, it was a day like any other. The code of Berta is not 4817.",
    "It was a day like any other, and so it goes. Nobody was in Lisbon.",
    "A day went by. It was like any other. In 1998 there were 12 zebras near Berta's house.",
]


class Counting:
    """A teacher that keeps every other word, and how often it was asked."""

    name = "every other word"

    def __init__(self, most: int = 10**9) -> None:
        self.asked, self.most = 0, most

    def compress(self, texts):
        if self.asked == self.most:
            raise KeyboardInterrupt
        self.asked += 1
        return [" ".join(text.split()[::2]) for text in texts]


def test_the_rules_keep_facts_and_drop_talk():
    teacher = RuleTeacher(TEXTS * 20, rare=0.4)
    first, second, third = teacher.compress(TEXTS)
    assert first == "code of Berta not 4817."
    assert second == "Nobody in Lisbon."
    assert third == "In 1998 12 zebras near Berta's house."


def test_the_rules_only_drop():
    for text, left in zip(TEXTS, RuleTeacher(TEXTS).compress(TEXTS), strict=True):
        rest = iter(text.replace(".", " .").replace(",", " ,").split())
        assert all(word in rest for word in left.replace(".", " .").split())


def test_sentences_lose_nothing():
    text = 'Dr. H. Smith said "no!" Then he left.\nA new line? Yes'
    assert "".join(sentences(text)) == text
    assert [one.strip() for one in sentences(text)][-3:] == ["Then he left.", "A new line?", "Yes"]


def test_chunks_end_with_sentences_and_are_short_enough():
    text = "One two three. Four five. Six seven eight nine ten eleven. Twelve."
    found = chunks(text, lambda part: len(part.split()), 5)
    assert found == ["One two three. Four five.", "Six seven eight", "nine ten eleven. Twelve."]
    assert " ".join(found) == text


def test_a_stopped_run_goes_on_and_asks_for_nothing_twice(tmp_path):
    file, texts = tmp_path / "pairs.jsonl", [f"number {index} is here" for index in range(10)]
    with pytest.raises(KeyboardInterrupt):
        distill(Counting(most=2), texts, file, batch_size=3)
    with file.open("a") as torn:
        torn.write('{"index": 6, "origi')
    teacher = Counting()
    assert distill(teacher, texts, file, batch_size=3) == 4 and teacher.asked == 2
    assert read_pairs(file) == [(text, " ".join(text.split()[::2])) for text in texts]
    assert distill(teacher, texts, file, batch_size=3) == 0 and teacher.asked == 2


def test_pairs_survive_a_kill(tmp_path):
    file = tmp_path / "pairs.jsonl"
    program = (
        "import sys, time, pathlib\n"
        "from szilard.compression.llmlingua2.distillation import distill\n"
        "class Slow:\n    name = 'every other word'\n"
        "    def compress(self, texts):\n        time.sleep(0.1)\n"
        "        return [' '.join(text.split()[::2]) for text in texts]\n"
        "distill(Slow(), [f'number {i} is here' for i in range(90)], pathlib.Path(sys.argv[1]), batch_size=3)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(file)], env={**os.environ})
    for _ in range(600):
        if file.exists() and file.read_bytes().count(b"\n") >= 6:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = file.read_bytes().count(b"\n")
    texts = [f"number {index} is here" for index in range(90)]
    assert 6 <= before < 90 and distill(Counting(), texts, file, batch_size=3) == 90 - before
    assert [json.loads(line)["index"] for line in file.read_text().splitlines()] == list(range(90))


def test_pairs_of_another_teacher_are_not_mixed_in(tmp_path):
    file = tmp_path / "pairs.jsonl"
    distill(Counting(), TEXTS, file)
    with pytest.raises(ValueError, match="another teacher"):
        distill(RuleTeacher(TEXTS), TEXTS, file)
    (tmp_path / "other.jsonl").write_text("notes\nmore\n")
    with pytest.raises(ValueError, match="no pairs"):
        distill(Counting(), TEXTS, tmp_path / "other.jsonl")


def test_a_chat_model_gets_the_conditions_and_room_for_the_text():
    asked = {}

    def generate(prompts, **options):
        asked.update(options, prompts=prompts)
        return [SimpleNamespace(text=f" {prompt.rsplit(':', 1)[1].strip()[:4]} ") for prompt in prompts]

    engine = SimpleNamespace(
        name="chat",
        fingerprint="1",
        has_chat_template=True,
        generate=generate,
        tokenizer=SimpleNamespace(encode=lambda text, add_special_tokens: text.split()),
    )
    assert EngineTeacher(engine).compress(["Berta has it", "no"]) == ["Bert", "no"]
    assert asked["prompts"][0] == INSTRUCTION + "Berta has it" and asked["max_new_tokens"] == 3 + 16
    assert asked["do_sample"] and asked["temperature"] == 0.3
    engine.has_chat_template = False
    with pytest.raises(ValueError, match="chat template"):
        EngineTeacher(engine)


def test_texts_of_all_forms_are_read(tmp_path):
    file = tmp_path / "texts.jsonl"
    records = [{"text": "one"}, {"messages": [{"role": "user", "content": "two"}]}, {"prompt": "p", "answer": "a"}]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert plain_texts(file) == ["one", "two", "p\na"]
    with pytest.raises(ValueError, match="record 1"):
        read_pairs(file)
