import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from bench_scenes import item

from traceworld.errors import ConfigError
from traceworld.tracespatial.bench_prompts import bench_prompt, family_of


@pytest.mark.parametrize("task", ["2D", "3D"])
def test_every_prompt_names_its_own_object(task):
    for number in (3, 98):
        question = item(number, barrier=False).question
        json_words = bench_prompt(question, task, "json")
        assert json_words.count(f"the mug number {number}") == 3
        assert question.destination in json_words
        assert "toothpaste" not in json_words
        assert "between 0 and 1000" in json_words
        assert ("metres" in json_words) == (task == "3D")
        text_words = bench_prompt(question, task, "text")
        assert f'"{question.prompt}"' in text_words
        assert ("d1" in text_words) == ("d1" in json_words) == (task == "3D")


def test_families():
    assert family_of("RoboTracer_Intrinsics_Depth") == "text"
    assert family_of("Gemini3Pro") == family_of("openai:qwen3-vl@http://x") == "json"
    assert family_of("mu0-nano") == "text"
    with pytest.raises(ConfigError):
        bench_prompt(item().question, "4D", "text")
    with pytest.raises(ConfigError):
        bench_prompt(item().question, "3D", "xml")
