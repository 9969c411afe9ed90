"""litgpt's model, loss and step, as its `pretrain` does them on one device. Run by `worker.Worker`."""

import time
from importlib.metadata import version
from typing import Any

import lightning  # ty: ignore[import-not-found]
import torch
from litgpt.config import Config  # ty: ignore[import-not-found]
from litgpt.model import GPT  # ty: ignore[import-not-found]
from litgpt.utils import chunked_cross_entropy  # ty: ignore[import-not-found]

from side_by_side.worker import Answer, serve
from training.task import batches, task_of


def load(settings: dict[str, Any]) -> tuple[dict[str, Any], Answer]:
    task = task_of(settings)
    torch.set_num_threads(settings["threads"])
    fabric = lightning.Fabric(accelerator="cpu", devices=1, precision="32-true")
    fabric.seed_everything(0)
    config = Config(
        block_size=task.seq,
        vocab_size=task.vocab_size,
        padded_vocab_size=task.vocab_size,
        n_layer=task.num_layers,
        n_head=task.num_heads,
        n_embd=task.hidden_size,
        intermediate_size=task.intermediate_size,
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
        norm_eps=1e-5,
    )
    model = GPT(config)
    if task.compile:
        model = torch.compile(model)
    model = fabric.setup(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=task.lr, betas=(0.9, 0.95), weight_decay=0.1)
    optimizer = fabric.setup_optimizers(optimizer)
    following = batches(task)

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        loss = torch.zeros(())
        started = time.perf_counter()
        for _ in range(question["steps"]):
            ids = torch.from_numpy(following())
            loss = chunked_cross_entropy(model(ids[:, :-1].contiguous()), ids[:, 1:].contiguous())
            fabric.backward(loss)
            fabric.clip_gradients(model, optimizer, max_norm=1.0)
            optimizer.step()
            optimizer.zero_grad()
        return {"seconds": time.perf_counter() - started, "loss": loss.item()}

    facts = {"version": f"litgpt {version('litgpt')}", "parameters": sum(p.numel() for p in model.parameters())}
    return facts, answer


if __name__ == "__main__":
    serve(load)
