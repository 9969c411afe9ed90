"""transformers' Trainer with its own LlamaForCausalLM. Run by `worker.Worker`.

A turn is one `Trainer.train()`. Its set-up is not counted: the clock runs from the beginning of its second step.
"""

import tempfile
import time
from typing import Any

import torch
import transformers
from torch.utils.data import IterableDataset

from side_by_side.worker import Answer, serve
from training.task import batches, task_of


class Rows(IterableDataset):
    def __init__(self, following: Any) -> None:
        self.following = following

    def __iter__(self) -> Any:
        while True:
            for row in self.following():
                ids = torch.from_numpy(row[:-1])
                yield {"input_ids": ids, "labels": ids}  # it shifts by itself


class Clock(transformers.TrainerCallback):
    def on_step_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        if state.global_step == 1:
            self.started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self.stopped = time.perf_counter()


def load(settings: dict[str, Any]) -> tuple[dict[str, Any], Answer]:
    task = task_of(settings)
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=task.vocab_size,
        hidden_size=task.hidden_size,
        intermediate_size=task.intermediate_size,
        num_hidden_layers=task.num_layers,
        num_attention_heads=task.num_heads,
        max_position_embeddings=task.seq,
        attn_implementation="sdpa",  # ty: ignore[unknown-argument]
        use_cache=False,
    )
    model = transformers.LlamaForCausalLM(config)
    rows = Rows(batches(task))
    folder = tempfile.mkdtemp()

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        arguments = transformers.TrainingArguments(
            output_dir=folder,
            max_steps=question["steps"] + 1,
            per_device_train_batch_size=task.batch,
            learning_rate=task.lr,
            adam_beta2=0.95,
            weight_decay=0.1,
            max_grad_norm=1.0,
            logging_steps=question["steps"] + 1,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            torch_compile=task.compile,
            dataloader_num_workers=0,
            dataloader_pin_memory=False,
        )
        clock = Clock()
        trainer = transformers.Trainer(model=model, args=arguments, train_dataset=rows, callbacks=[clock])
        outcome = trainer.train()
        return {"seconds": clock.stopped - clock.started, "loss": outcome.training_loss}

    return {"version": f"transformers {transformers.__version__}", "parameters": model.num_parameters()}, answer


if __name__ == "__main__":
    serve(load)
