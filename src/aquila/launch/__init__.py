"""One run on many machines: who they are, whether they are ready, torchrun on each, their output on one screen. No
torch."""
