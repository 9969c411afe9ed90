"""A plain loop in the manner of nanoGPT: a hand-written Llama, full logits, AdamW, clipping. Run by `worker.Worker`."""

import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from side_by_side.worker import Answer, serve
from training.task import Task, batches, task_of


class Norm(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight


class Layer(nn.Module):
    def __init__(self, task: Task) -> None:
        super().__init__()
        size, wide = task.hidden_size, task.intermediate_size
        self.heads = task.num_heads
        self.norm1, self.norm2 = Norm(size), Norm(size)
        self.qkv, self.out = nn.Linear(size, 3 * size, bias=False), nn.Linear(size, size, bias=False)
        self.gate, self.up = nn.Linear(size, wide, bias=False), nn.Linear(size, wide, bias=False)
        self.down = nn.Linear(wide, size, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, seq, size = x.shape
        q, k, v = self.qkv(self.norm1(x)).split(size, dim=-1)
        q, k, v = (each.view(batch, seq, self.heads, -1).transpose(1, 2) for each in (q, k, v))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, seq, size))
        normed = self.norm2(x)
        return x + self.down(F.silu(self.gate(normed)) * self.up(normed))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class Llama(nn.Module):
    def __init__(self, task: Task) -> None:
        super().__init__()
        self.embed = nn.Embedding(task.vocab_size, task.hidden_size)
        self.layers = nn.ModuleList(Layer(task) for _ in range(task.num_layers))
        self.norm = Norm(task.hidden_size)
        self.head = nn.Linear(task.hidden_size, task.vocab_size, bias=False)
        half = task.hidden_size // task.num_heads // 2
        angle = torch.arange(task.seq)[:, None] / 10000 ** (torch.arange(half) / half)
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))


def load(settings: dict[str, Any]) -> tuple[dict[str, Any], Answer]:
    task = task_of(settings)
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(0)
    model = Llama(task)
    optimizer = torch.optim.AdamW(model.parameters(), lr=task.lr, betas=(0.9, 0.95), weight_decay=0.1)
    following = batches(task)
    step_of = torch.compile(model) if task.compile else model

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        loss = torch.zeros(())
        started = time.perf_counter()
        for _ in range(question["steps"]):
            ids = torch.from_numpy(following())
            loss = step_of(ids[:, :-1], ids[:, 1:])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return {"seconds": time.perf_counter() - started, "loss": loss.item()}

    return {"version": f"torch {torch.__version__}", "parameters": count(model)}, answer


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


if __name__ == "__main__":
    serve(load)
