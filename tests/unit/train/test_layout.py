"""How many devices do what, and what is said when it does not work out."""

import pytest

from aquila.errors import ConfigError
from aquila.model.presets import preset, preset_names
from aquila.train.layout import Layout, fits_tensor_parallel, plan_layout
from aquila.train.recipe import LoraConfig, ParallelConfig
from parts import tiny_config


def test_shards_take_the_devices_that_are_left():
    config = ParallelConfig(dp_replicate=2, cp=2, tp=4)
    assert plan_layout(config, 64) == Layout(dp_replicate=2, dp_shard=4, cp=2, tp=4)
    assert plan_layout(ParallelConfig(), 1) == Layout()


def test_neighbouring_ranks_are_one_tensor_parallel_group():
    layout = Layout(dp_replicate=2, dp_shard=2, cp=2, tp=2)
    places = [(layout.data_rank(rank), layout.cp_rank(rank), layout.tp_rank(rank)) for rank in range(layout.world)]
    assert places[:5] == [(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1), (1, 0, 0)]
    assert len(set(places)) == 16
    assert {data for data, _, _ in places} == set(range(layout.data_world))


@pytest.mark.parametrize(
    ("sizes", "world", "message"),
    [
        (
            {"tp": 4},
            6,
            "parallel: tp 4 does not divide 6 processes; start 4 or 8, "
            "or choose sizes whose product divides 6: 1, 2, 3 or 6",
        ),
        ({"tp": 2, "cp": 2}, 1, "parallel: cp 2 x tp 2 = 4 does not divide 1 process; start 4"),
        (
            {"dp_shard": 8, "tp": 2},
            8,
            "parallel: tp 2 x dp_shard 8 asks for 16 devices, but the run has 8 processes; "
            "start 16, or leave dp_shard out (it then takes the devices that are left)",
        ),
    ],
)
def test_a_number_of_processes_that_does_not_fit(sizes, world, message):
    with pytest.raises(ConfigError) as error:
        plan_layout(ParallelConfig(**sizes), world)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("layout", "length", "message"),
    [
        (Layout(tp=3), 32, "parallel.tp: 3 does not divide num_attention_heads 4; set it to 1 or 2"),
        (Layout(tp=4), 32, "parallel.tp: 4 does not divide num_key_value_heads 2; set it to 1 or 2"),
        (
            Layout(tp=2, cp=4),
            32,
            "parallel.cp: 4 does not divide the 2 attention heads of a device (num_attention_heads 4 / tp 2); "
            "set it to 1 or 2",
        ),
        (
            Layout(tp=2, cp=2),
            30,
            "data.sequence_length: 30 cannot be cut in cp 2 x tp 2 = 4 pieces; set it to 28 or 32",
        ),
        (Layout(cp=4), 3, "data.sequence_length: 3 cannot be cut in cp 4 x tp 1 = 4 pieces; set it to 4"),
    ],
)
def test_a_model_that_cannot_be_cut(layout, length, message):
    with pytest.raises(ConfigError) as error:
        layout.check(tiny_config(), length)
    assert str(error.value) == message


def test_tensor_parallel_blocks_are_not_compiled() -> None:
    with pytest.raises(ConfigError, match=r"^parallel.compile: tensor parallel blocks \(tp 2\) are not compiled"):
        plan_layout(ParallelConfig(tp=2, compile=True), 2)


@pytest.mark.parametrize(("setting", "shown"), [({"dropout": 0.1}, "dropout 0.1"), ({"quantize": "w4"}, "quantize w4")])
def test_adapters_that_need_whole_matrices(setting, shown):
    lora = LoraConfig(**setting)
    Layout(dp_shard=2).check(tiny_config(), 32, lora)
    with pytest.raises(ConfigError) as error:
        Layout(tp=2).check(tiny_config(), 32, lora)
    assert str(error.value) == (
        f"lora.{shown} needs whole matrices, and parallel.tp 2 cuts them; leave one of the two out"
    )


def test_what_is_advised_fits():
    model = preset("aquila-7b")
    fitting = [size for size in range(1, 65) if fits_tensor_parallel(model, size)]
    assert fitting == [1, 2, 4, 8]
    for size in fitting:
        Layout(tp=size).check(model, 2048)


def test_every_preset_trains_on_eight_devices_of_a_node():
    for name in preset_names():
        Layout(dp_shard=8).check(preset(name), 2048)
