"""What a forked rank would otherwise do again each time: imports, the first products, a collection of all of it."""

import gc

import ruamel.yaml  # noqa: F401
import torch

import aquila.train.start  # noqa: F401

torch.set_num_threads(1)
weight = torch.ones(320, 16, requires_grad=True)
(torch.ones(32, 16, requires_grad=True) @ weight.T).sum().backward()  # loads the kernels of the BLAS
gc.collect()
gc.freeze()
