"""Presets are data; their counts are those published."""

import pytest
import torch

from aquila.errors import ConfigError
from aquila.model.count import count_parameters
from aquila.model.presets import preset, preset_names
from aquila.model.transformer import Transformer

SEVEN = 7_295_537_152
PUBLISHED = {
    "aquila-7b": SEVEN,
    "aquilachat-7b": SEVEN,
    "aquilacode-multi": SEVEN,
    "aquilacode-py": SEVEN,
    "aquilacode-7b-nv": SEVEN,
    "aquilacode-7b-ts": SEVEN,
    "aquilasql-7b": SEVEN,
    "aquila2-7b": SEVEN,
    "aquilachat2-7b": SEVEN,
    "aquilachat2-7b-16k": SEVEN,
    "aquila-33b": 33_693_554_688,
    "aquilachat-33b": 33_693_554_688,
    "aquila2-34b": 33_693_554_688,
    "aquilachat2-34b": 33_693_554_688,
    "aquilachat2-34b-16k": 33_693_554_688,
    "aquila2-70b-expr": 70_090_891_264,
    "aquilachat2-70b-expr": 70_090_891_264,
    "aquila-135m": 134_515_008,
    "aquila-135m-instruct": 134_515_008,
    "smollm2-135m": 134_515_008,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_equal_the_published_count(name):
    """The real module, built on the meta device, and the formula that needs no torch."""
    config = preset(name)
    with torch.device("meta"):
        model = Transformer(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == PUBLISHED[name]
    assert count_parameters(config) == PUBLISHED[name]


def test_every_preset_is_listed_here():
    assert set(preset_names()) == {*PUBLISHED, "tiny"}


def test_unknown_preset_suggests_the_nearest():
    with pytest.raises(ConfigError, match=r"no preset is called 'aquila7b'; did you mean 'aquila2?-7b'\?"):
        preset("aquila7b")
