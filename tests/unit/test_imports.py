"""What loads what. The import contract is blind behind its exceptions; a fresh process is not."""

import pkgutil
import subprocess
import sys

import aquila

TEXT_PACKAGES = (
    "tokenizer",
    "data",
    "launch",
    "sandbox",
    "zoo",
    "config",
    "files",
    "log",
    "machine",
    "checkpoint",
    "evaluate",
    "generate",
    "kernels",
    "chat",
    "cli",
)
MAY_LOAD_TORCH = {
    "aquila.generate.torch_runner",
    "aquila.generate.layer_stream",
    "aquila.checkpoint.torch_model",
    "aquila.checkpoint.quantised_base",
    "aquila.evaluate.lm_eval_adapter",  # needs an extra, which loads what it likes
}
HEAVY = {"torch", "numpy", "tokenizers", "transformers", "httpx", "pydantic"}


def modules_loaded_by(code: str) -> set[str]:
    """Top-level modules that are loaded after `code` ran in a fresh interpreter."""
    script = f"{code}\nimport sys\nprint('LOADED', *{{name.partition('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.rpartition("LOADED")[2].split())


def torch_free_modules() -> list[str]:
    names = [module.name for module in pkgutil.walk_packages(aquila.__path__, "aquila.")]
    return [name for name in names if name.split(".")[1] in TEXT_PACKAGES and name not in MAY_LOAD_TORCH]


def test_text_code_loads_no_torch() -> None:
    """Importing torch costs over a second and 200 MB; tokenising, pulling and scheduling need none of it."""
    modules = torch_free_modules()
    assert len(modules) > 20
    loaded = modules_loaded_by("\n".join(f"import {name}" for name in modules))
    if "torch" in loaded:
        guilty = [name for name in modules if "torch" in modules_loaded_by(f"import {name}")]
        raise AssertionError(f"these load torch: {guilty}")


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['aquila', '--help']\n"
        "from aquila.cli.main import run\n"
        "try:\n    run()\nexcept SystemExit as done:\n    assert not done.code, done.code\n"
    )
    assert not modules_loaded_by(code) & HEAVY


def test_the_package_itself_loads_nothing_heavy() -> None:
    assert not modules_loaded_by("import aquila") & HEAVY
