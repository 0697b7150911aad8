"""Names and folders of the checkpoints."""

from __future__ import annotations

import pytest

import szilard_zoo


def test_every_name_has_a_folder_with_config_weights_and_card() -> None:
    assert "tiny-vlm" in szilard_zoo.names()
    for name in szilard_zoo.names():
        files = {file.name for file in szilard_zoo.path(name).iterdir()}
        assert {"config.json", "model.safetensors", "README.md"} <= files


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'gpt-9'.*tiny-vlm"):
        szilard_zoo.path("gpt-9")
