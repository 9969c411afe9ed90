"""`text2image` and `InstructFace`, through real pipelines with tiny random weights."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from aquila.chat.instructions import parse
from aquila.chat.tool_images import ImageStore
from aquila.chat.tool_result import ToolResult
from aquila.chat.tool_runner import ToolRunner
from aquila.chat.tools.image_tools import image_tool
from aquila.chat.toolspec import ToolTable

pytest.importorskip("diffusers", reason="pictures need diffusers")
pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own advice about their future


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    from diffusion_parts import alt_diffusion_folder, instruct_pix2pix_folder, stable_diffusion_folder

    root = tmp_path_factory.mktemp("diffusion")
    makers = {
        "alt": alt_diffusion_folder,
        "stable": stable_diffusion_folder,
        "pix2pix": instruct_pix2pix_folder,
    }
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = makers[name](root / name)
        return made[name]

    return folder


def size_of(data: bytes) -> tuple[int, int]:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        return image.size


@pytest.mark.parametrize("layout", ["alt", "stable"])
def test_a_model_draws_what_is_asked_for_and_a_seed_repeats_it(folders: Callable, layout: str) -> None:
    runner = ToolRunner([image_tool("text2image", image_model=folders(layout))])
    small = {"prompt": "一座红色的桥", "steps": 2, "width": 32, "height": 16, "seed": 7}
    first, again = runner.run("text2image", small), runner.run("text2image", small)
    other = runner.run("text2image", {**small, "seed": 8})
    assert first.text == "1 picture, seed 7"
    assert size_of(first.images[0].data) == (32, 16)
    assert first.images[0].data == again.images[0].data != other.images[0].data
    assert first.for_model() == f"1 picture, seed 7\n[{first.images[0].id}: 一座红色的桥]"


def test_diffusers_alone_does_not_load_the_published_layout(folders: Callable) -> None:
    """Why the parts are put together by hand; when this fails, that code can go."""
    from diffusers.pipelines.deprecated.alt_diffusion.pipeline_alt_diffusion import AltDiffusionPipeline

    with pytest.raises(ValueError, match="alt_diffusion"):
        AltDiffusionPipeline.from_pretrained(str(folders("alt")), local_files_only=True)


def test_every_line_of_an_edit_is_applied_to_the_one_before_and_kept(folders: Callable) -> None:
    counter = iter(range(100))
    images = ImageStore(new_id=lambda: f"image-{next(counter)}")
    tools = [
        image_tool("text2image", image_model=folders("alt")),
        image_tool("InstructFace", edit_model=folders("pix2pix")),
    ]
    runner = ToolRunner(tools, images=images, fill_image=True)
    runner.run("text2image", {"prompt": "a girl", "steps": 1, "width": 32, "height": 32, "seed": 1})
    (call,) = parse("#InstructFace#\nMake her eyes brown.\nMake her smile.", ToolTable(tools)).calls
    result = runner.run(call.name, {**call.arguments, "steps": 2, "seed": 3})
    assert [image.caption for image in result.images] == ["1: Make her eyes brown.", "2: Make her smile."]
    assert [image.id for image in result.images] == ["image-1", "image-2"]
    step_by_step = {"instructions": ["Make her smile."], "steps": 2, "seed": 3, "image": "image-1"}
    second = runner.run("InstructFace", step_by_step)
    assert second.images[0].data == result.images[1].data


@pytest.mark.parametrize(("name", "option"), [("text2image", "--image-model"), ("InstructFace", "--edit-model")])
def test_without_a_model_there_is_advice_and_no_picture(name: str, option: str) -> None:
    arguments = {"prompt": "x"} if name == "text2image" else {"instructions": ["x"]}
    result = ToolRunner([image_tool(name)]).run(name, arguments)
    assert result.error
    assert result.images == ()
    assert "pip install 'aquila-lm[image]'" in result.text
    assert "hf download" in result.text
    assert option in result.text


def test_wrong_folders_and_arguments_are_named(folders: Callable, tmp_path: Path) -> None:
    def draw(folder: Path, **arguments: object) -> ToolResult:
        runner = ToolRunner([image_tool("text2image", image_model=folder)])
        return runner.run("text2image", {"prompt": "x", "steps": 1, "width": 16, "height": 16, **arguments})

    assert "has no model_index.json" in draw(tmp_path).text
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "model_index.json").write_text(json.dumps({"_class_name": "AltDiffusionPipeline"}), encoding="utf-8")
    assert f"{broken / 'tokenizer'}: cannot be loaded" in draw(broken).text
    assert draw(folders("alt"), width=17).text.startswith("width: ")
    assert draw(folders("alt"), prompt="  ").text == "prompt: is empty; say what the picture shows"
    editor = ToolRunner([image_tool("InstructFace", edit_model=folders("pix2pix"))])
    assert "no picture to edit yet" in editor.run("InstructFace", {"instructions": ["x"]}).text
    assert "give 1 to 16, not 0" in editor.run("InstructFace", {"instructions": [" "]}).text
    swapped = ToolRunner([image_tool("InstructFace", edit_model=folders("stable"))])
    assert "not an InstructPix2Pix model" in swapped.run("InstructFace", {"instructions": ["x"]}).text
